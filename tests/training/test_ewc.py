"""EWC: the Fisher information of old text, the anchor that it makes, and runs that keep both when they are resumed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS, Step, ewc
from scale_cli.training.rehearsal import mean_divergence, sampled_texts
from scale_cli.training.train import train
from tests.helpers import probe, randomise, refusal, tiny_base
from tests.runs import World, lines, progress_that, reload, same_tensors

Batch = Mapping[str, Tensor]
SHORT: dict[str, Any] = {"ewc_texts": 3, "ewc_weight": 50.0}


def applied(name: str = "llama-grouped", **changes: Any) -> Any:
    return METHODS["ewc"].apply(tiny_base(name, **changes), METHODS["ewc"].options(), ())


def rows(tokens: Tensor) -> Iterator[Batch]:
    """Batches of one sequence; of the second only the last three tokens are predicted, of the third none."""
    labels = tokens.clone()
    labels[1, :-3] = -100
    labels[2] = -100
    for i in range(len(tokens)):
        yield {"input_ids": tokens[i : i + 1], "labels": labels[i : i + 1]}


@pytest.mark.parametrize("name", ["llama-grouped", "neox"])
def test_the_fisher_information_is_that_of_single_sequences(name: str) -> None:
    """Squared gradients of each sequence's own loss, written out; those of the batch's loss would be others."""
    tokens = probe(4, 9)
    model, base = applied(name).train(), tiny_base(name)
    ewc.begin(model, rows(tokens))
    assert model.training
    squares = {key: torch.zeros_like(p) for key, p in base.named_parameters()}
    summed = {key: torch.zeros_like(p) for key, p in base.named_parameters()}
    predicted = 0
    for batch in rows(tokens):
        logits, labels = base(batch["input_ids"]).logits[0, :-1], batch["labels"][0, 1:]
        predicted += int((labels != -100).sum())
        nats = functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        gradients = torch.autograd.grad(nats, [*base.parameters()])
        for key, grad in zip(squares, gradients, strict=True):
            squares[key] += grad.square()
            summed[key] += grad
    assert predicted == 8 + 3 + 8
    found = ewc.fisher(model)
    assert found.keys() == squares.keys()
    for key, wanted in squares.items():
        torch.testing.assert_close(found[key], wanted / predicted, rtol=1e-3, atol=1e-9)
    assert not any(torch.allclose(found[key], total.square() / predicted) for key, total in summed.items())


def test_it_is_the_curvature_of_the_divergence() -> None:
    """On text of the base's own the anchor with weight 1 is, for small changes, the KL per token.

    Changes of random signs, over which the products of two weights cancel.
    """
    torch.manual_seed(0)
    model, base = applied(), tiny_base("llama-grouped")
    options: dict[str, Any] = {"seed": 0, "device": torch.device("cpu"), "bfloat16": False}
    texts = torch.from_numpy(sampled_texts(base, lead=1, size=(96, 24), sampling=lambda **_: None, **options)).long()
    ewc.begin(model, ({"input_ids": row[None], "labels": row[None]} for row in texts))
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    estimates, divergences = [], []
    with torch.no_grad():
        before = base(texts).logits[:, :-1].flatten(0, 1)
        for _ in range(24):
            for key, p in model.named_parameters():
                p.copy_(start[key] + 2e-3 * p.std() * torch.randn_like(p).sign())
            estimates.append(ewc.penalty(model).item())
            divergences.append(mean_divergence(before, model(texts).logits[:, :-1].flatten(0, 1)).item())
    assert sum(estimates) == pytest.approx(sum(divergences), rel=0.15)
    assert sum(divergences) > 1e-4


def test_the_anchor_and_its_gradient() -> None:
    model = applied(dtype=torch.float64)
    randomise(model, seed=7)
    generator = torch.Generator().manual_seed(1)
    for tensor in ewc.fisher(model).values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
    start = dict(tiny_base("llama-grouped", dtype=torch.float64).named_parameters())
    naive = sum((ewc.fisher(model)[key] * (p - start[key]) ** 2).sum() for key, p in model.named_parameters()) / 2
    assert isinstance(naive, Tensor)
    value = ewc.penalty(model)
    assert value.item() == pytest.approx(naive.item(), rel=1e-12)
    parameters = [*model.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(x, parameters) for x in (3 * value, 3 * naive)), strict=True):
        torch.testing.assert_close(ours, theirs)
    # As a loss: weighed, and by the batch's share of the step.
    options = dataclasses.replace(METHODS["ewc"].options(), ewc_weight=4.0)
    step = Step(model, model, {}, None, options, lambda: (torch.tensor(5.0), SimpleNamespace()), 0.5)
    assert METHODS["ewc"].loss(step).item() == pytest.approx(5 + 4 * 0.5 * value.item(), rel=1e-6)


@pytest.mark.parametrize("old", ["self", "text", "questions"])
def test_predictions_on_old_text_stay(old: str, world: World, text: Path, cache: Path, tmp_path: Path) -> None:
    """Closer to the base's than after full fine-tuning, the more the larger the weight."""
    source = {"self": "self", "text": str(text), "questions": str(world.data)}[old]
    people = {"ewc_people": "8:12"} if old == "questions" else {}
    base = load_model(describe(world.source("ewc")))
    tokens = torch.tensor(world.tokenizer([text.read_text(encoding="utf-8")])["input_ids"])[:, :200]

    def nats(method: str, name: str, **changes: Any) -> float:
        out = tmp_path / name
        train(world.source(method), out, world.recipe(method, steps=8, **changes))
        with torch.no_grad():
            logits = [model(tokens).logits[0] for model in (base, load_model(describe(str(out))))]
            return mean_divergence(*logits).item()

    given = {"ewc_data": source, "ewc_texts": 16} | people
    fft, weak, strong = (
        nats("fft", "fft"),
        nats("ewc", "weak", **given, ewc_weight=1e-4),
        nats("ewc", "strong", **given, ewc_weight=1e4),
    )
    assert weak == pytest.approx(fft, rel=0.1)
    assert strong < 0.7 * fft
    record = read_record(tmp_path / "strong" / "record.json")
    assert record["recipe"]["ewc_weight"] == 1e4
    assert source in record["data"]


def test_interrupted_and_resumed_is_never_interrupted(
    world: World, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Fisher information is read back, bit for bit, and not measured again. It is no part of the result."""
    recipe = world.recipe("ewc", **SHORT, steps=6, save_steps=2, logging_steps=4)
    source = world.source("ewc")
    train(source, tmp_path / "whole", recipe)

    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        train(source, tmp_path / "run", recipe, progress=progress_that(crash, at=5))
    checkpoints = [load_file(tmp_path / "run" / f"checkpoint-{step}" / "trained.safetensors") for step in (2, 4)]
    kept = [{name: t for name, t in each.items() if name.startswith("ewc.")} for each in checkpoints]
    assert same_tensors(*kept)
    assert all(tensor.any() for tensor in kept[0].values())
    unfinished = tmp_path / "run" / "checkpoint-4"
    trained = {name: tensor for name, tensor in checkpoints[1].items() if not name.startswith("ewc.")}
    assert same_tensors(dict(reload(unfinished).named_parameters()), trained)
    export(str(unfinished), tmp_path / "exported")
    assert same_tensors(reload(tmp_path / "exported").state_dict(), reload(unfinished).state_dict())
    method = METHODS["ewc"]
    again = dataclasses.replace(method, begin=lambda model, texts: pytest.fail("measured again"))
    monkeypatch.setitem(METHODS, "ewc", again)
    train(source, tmp_path / "run", recipe, resume=True)
    whole, resumed = tmp_path / "whole", tmp_path / "run"
    assert same_tensors(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))
    assert not any("ewc" in name for name in load_file(whole / "model.safetensors"))
    assert lines(whole) == lines(resumed)


def test_batches_add_up(world: World, cache: Path, tmp_path: Path) -> None:
    """The anchor counts once per step, however the step is divided."""
    losses = []
    for number, changes in enumerate(({}, {"batch_size": 2, "gradient_accumulation_steps": 2})):
        train(world.source("ewc"), tmp_path / str(number), world.recipe("ewc", **SHORT, **changes))
        losses.append([line["loss"] for line in lines(tmp_path / str(number)) if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ewc_weight": 0.0}, "--ewc-weight 0: above 0"),
        ({"ewc_texts": 0}, "--ewc-texts 0: at least 1"),
        ({"ewc_people": "0:2"}, "--ewc-people 0:2: --ewc-data self has no people"),
        ({"from_scratch": True}, "--from-scratch: ewc keeps a base, and there is none; choose fft"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str, world: World) -> None:
    assert re.match(re.escape(message), refusal(world.recipe, "ewc", **options))


def test_old_text_is_checked_before_anything_is_written(world: World, tmp_path: Path) -> None:
    missing = world.recipe("ewc", ewc_data=str(tmp_path / "none.txt"))
    assert "none.txt" in refusal(train, world.source("ewc"), tmp_path / "out", missing)
    people = world.recipe("ewc", ewc_data=str(world.data), ewc_people="20:99")
    assert "people 20:99" in refusal(train, world.source("ewc"), tmp_path / "out", people)
    assert not (tmp_path / "out").exists()
