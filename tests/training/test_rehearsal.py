"""Rehearsal: old text beside the training data, with the base's own predictions as the teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe
from scale_cli.core.records import read_record
from scale_cli.data.corpora import read_corpora
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.drift import DriftJob
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.methods import METHODS
from scale_cli.methods.teacher import frozen_copy
from scale_cli.training import TrainRecipe
from scale_cli.training.rehearsal import mean_divergence
from scale_cli.training.train import train
from tests.helpers import probe, refusal
from tests.runs import World, lines, progress_that, reload, same_tensors

SELF_SHORT: dict[str, Any] = {"rehearse": "self", "rehearse_tokens": 512}


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_is_the_base_whatever_is_trained(method: str, world: World) -> None:
    """Also after the trained tensors have changed, without a gradient, and beside the model's own prediction."""
    source = describe(world.source(method))
    recipe = world.recipe(method)
    model = METHODS[method].apply(load_model(source, dtype=torch.float32), recipe.options, source.new_layers).train()
    teacher = METHODS[method].teacher(model, source.new_layers)
    base = AutoModelForCausalLM.from_pretrained(world.checkpoint("llama"), dtype=torch.float32).eval()
    tokens = probe(2, 9)
    with torch.no_grad():
        expected = base(tokens).logits
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    logits, of_base = teacher.both(model, {"input_ids": tokens})
    assert not of_base.requires_grad
    torch.testing.assert_close(of_base, expected, rtol=1e-5, atol=1e-5)
    assert (logits - expected).abs().max() > 0.01
    torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-5, atol=1e-5)
    mean_divergence(of_base.flatten(0, 1), logits.flatten(0, 1)).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert teacher.is_copy == (METHODS[method].teacher is frozen_copy)
    if not teacher.is_copy:
        own = {p.data_ptr() for p in model.parameters()}
        assert all(p.data_ptr() in own for p in teacher.model.parameters())


def test_the_divergence_is_torchs_with_its_gradient() -> None:
    base, logits = torch.randn(1300, 7, dtype=torch.float64), torch.randn(1300, 7, dtype=torch.float64)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    expected = functional.kl_div(theirs.log_softmax(-1), base.softmax(-1), reduction="batchmean")
    actual = mean_divergence(base, ours)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    actual.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["scale-preserve", "scale-route", "lora", "llama-pro", "fft"])
def test_predictions_on_old_text_stay(method: str, world: World, text: Path, cache: Path, tmp_path: Path) -> None:
    def nats_from_base(**changes: Any) -> float:
        out = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        train(world.source(method), out, world.recipe(method, steps=6, **changes))
        (corpus,) = read_corpora([f"old={text}"])
        job = DriftJob([corpus], WindowOptions(16, packing="documents"), base=str(world.checkpoint("llama")))
        (measured,) = evaluate([str(out)], [job])
        return next(m.value for m in measured.measurements if m.task == "drift:old" and m.metric == "kl")

    without = nats_from_base()
    assert nats_from_base(rehearse=f"{text}:0.5", rehearse_weight=30.0) < 0.7 * without
    assert nats_from_base(**SELF_SHORT, rehearse_weight=30.0) < 0.9 * without


def test_what_the_record_holds(world: World, text: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = world.recipe("scale-preserve", rehearse=f"{text}:0.5", eval_people=("a=0:1",))
    train(world.source("scale-preserve"), run, recipe)
    record = read_record(run / "record.json")
    assert record["recipe"]["rehearse_weight"] == 10.0
    assert record["extra_tokens"] == 4 * 2 * 128
    assert str(text) in record["data"]
    logged = [line for line in lines(run) if "loss" in line]
    assert len(logged) == 4
    assert logged[0]["rehearsal_loss"] == pytest.approx(0, abs=1e-6)  # the model begins as its base
    assert logged[-1]["rehearsal_loss"] > 1e-5


def test_questions_are_rehearsed_beside_questions(world: World, cache: Path, tmp_path: Path) -> None:
    """With the cross-entropy their answers are learnt, which nothing else trains."""
    runs = {}
    for name, changes in {
        "without": {},
        "ce": {"rehearse": f"{world.data}:1", "rehearse_people": "8:10", "rehearse_loss": "ce"},
    }.items():
        options = {"steps": 30, "eval_people": ("new=0:2", "old=8:10")}
        recipe = world.recipe("fft", **options, **changes)
        runs[name] = train(world.source("fft"), tmp_path / name, recipe).metrics
    assert runs["ce"]["old/soft"] > 3 * runs["without"]["old/soft"]


@pytest.mark.parametrize("method", ["scale-preserve", "fft"])
def test_interrupted_and_resumed_is_never_interrupted(method: str, world: World, cache: Path, tmp_path: Path) -> None:
    recipe = world.recipe(method, **SELF_SHORT, steps=6, save_steps=2, logging_steps=4)
    train(world.source(method), tmp_path / "whole", recipe)

    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        train(world.source(method), tmp_path / "run", recipe, progress=progress_that(crash, at=3))
    train(world.source(method), tmp_path / "run", recipe, resume=True)
    whole, resumed = tmp_path / "whole", tmp_path / "run"
    assert same_tensors(reload(whole).state_dict(), reload(resumed).state_dict())
    assert lines(whole) == lines(resumed)


def test_batches_add_up(world: World, text: Path, cache: Path, tmp_path: Path) -> None:
    """Two batches of two rows with one rehearsed row each are one batch of four with two, up to rounding."""
    losses = []
    for number, changes in enumerate(({}, {"batch_size": 2, "gradient_accumulation_steps": 2})):
        recipe = world.recipe("scale-adapt", rehearse=f"{text}:0.5", **changes)
        train(world.source("scale-adapt"), tmp_path / str(number), recipe)
        losses.append([line for line in lines(tmp_path / str(number)) if "loss" in line])
    for one, two in zip(*losses, strict=True):
        assert two["rehearsal_loss"] == pytest.approx(one["rehearsal_loss"], rel=1e-3, abs=1e-6)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_the_base_samples_once(world: World, cache: Path, tmp_path: Path) -> None:
    """From its lead token, the requested number of tokens, from its own predictions, kept by base and seed."""
    calls: list[tuple[int, int]] = []

    def sampling(*, done: int, total: int) -> None:
        calls.append((done, total))

    def run(name: str, method: str = "scale-preserve", family: str = "llama", **changes: Any) -> list[Path]:
        calls.clear()
        recipe = world.recipe(method, **SELF_SHORT, steps=1, **changes)
        train(world.source(method, family), tmp_path / name, recipe, sampling=sampling)
        return sorted((cache / "tokens").glob("self-*.npy"))

    (file,) = run("a")
    texts = np.load(file)
    assert texts.shape == (4, 128)
    assert calls == [(512, 512)]
    assert (texts[:, 0] == world.tokenizer.eos_token_id).all()
    assert run("b") == [file]
    assert calls == []
    assert len(run("c", seed=1)) == 2
    assert len(run("d", family="neox")) == 3
    # Its tokens are likelier under the base than random ones.
    base = load_model(describe(str(world.checkpoint("llama"))), dtype=torch.float32)
    tokens = torch.from_numpy(texts).long()
    with torch.no_grad():
        logs = base(tokens).logits[:, :-1].log_softmax(-1)
    nats = -logs.gather(-1, tokens[:, 1:, None]).mean()
    entropy = -(logs.exp() * logs).sum(-1).mean()
    assert nats.item() == pytest.approx(entropy.item(), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rehearse": "self:0"}, "--rehearse self:0: a share of the training sequences, above 0"),
        ({"rehearse_weight": 1.0}, "--rehearse-weight 1.0: there is no old text; add --rehearse self"),
        ({"rehearse": "self", "rehearse_weight": 0.0}, "--rehearse-weight 0.0: above 0"),
        ({"rehearse": "self", "rehearse_people": "0:2"}, "--rehearse-people 0:2: --rehearse self has no people"),
        ({"rehearse_people": "0:2"}, "--rehearse-people 0:2: there is no old text"),
        ({"rehearse": "self", "rehearse_tokens": 0}, "--rehearse-tokens 0: at least 1"),
        ({"rehearse": "self", "from_scratch": True, "method": "fft"}, "--from-scratch has no base to keep"),
        ({"rehearse": "self", "rehearse_loss": "mse"}, "rehearse_loss: 'mse' is not one of kl, ce"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    assert message in refusal(load_recipe, TrainRecipe, None, {"data": ("x",)} | options)


def test_old_text_that_is_not_there_is_refused(
    world: World, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = world.source("scale-preserve")
    with pytest.raises(RequestError, match=r"--rehearse .*nowhere"):
        train(source, tmp_path / "run", world.recipe("scale-preserve", rehearse=str(tmp_path / "nowhere.txt")))
    load: Callable[..., Any] = load_tokenizer_without_ends
    monkeypatch.setattr("scale_cli.training.train.load_tokenizer", load)
    monkeypatch.setattr("scale_cli.data.examples.end_of_text", lambda tokenizer: 0)
    with pytest.raises(RequestError, match="--rehearse self: the checkpoint's tokenizer has neither a begin-of-text"):
        train(source, tmp_path / "run", world.recipe("scale-preserve", **SELF_SHORT))
    assert not (tmp_path / "run").exists()


def load_tokenizer_without_ends(checkpoint: Any) -> Any:
    from scale_cli.checkpoints.load import load_tokenizer

    tokenizer = load_tokenizer(checkpoint)
    tokenizer.eos_token = tokenizer.bos_token = None
    return tokenizer
