"""The learning rate schedule, the logged lines, and the end of a diverging run."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json
from scale_cli.data.examples import PaddedQuestions
from scale_cli.data.packing import Windows
from scale_cli.methods import METHODS
from scale_cli.training.result import Watch, course
from scale_cli.training.resume import last_checkpoint
from scale_cli.training.train import train
from tests.helpers import refusal
from tests.runs import World, lines, progress_that, reload, save

STEPS = 8


def cosine(step: int, *, warmup: int = 0, least: float = 0.0) -> float:
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


def ramp(step: int, *, warmup: int) -> float:
    return step / warmup


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({}, [cosine(step) for step in range(STEPS)]),
        ({"min_lr_rate": 0.1}, [cosine(step, least=0.1) for step in range(STEPS)]),
        ({"schedule": "linear"}, [1 - step / STEPS for step in range(STEPS)]),
        ({"schedule": "constant", "warmup": 0.25}, [0, 1 / 2, *[1.0] * 6]),
        ({"schedule": "linear", "warmup": 4.0}, [0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 4, 1 / 2, 1 / 4]),
        (
            {"warmup": 0.5, "min_lr_rate": 0.2},
            [ramp(step, warmup=4) if step < 4 else cosine(step, warmup=4, least=0.2) for step in range(STEPS)],
        ),
    ],
)
def test_the_learning_rate_of_every_step(
    options: dict[str, Any], rates: list[float], world: World, tmp_path: Path
) -> None:
    """A schedule reaches its final value, cosine's minimum or linear's zero, one step after the last."""
    recipe = world.recipe("freeze", steps=STEPS, lr=2e-3, people="0:1", batch_size=1, **options)
    train(world.source("freeze"), tmp_path / "run", recipe)
    assert [line["learning_rate"] for line in lines(tmp_path / "run")] == pytest.approx([2e-3 * rate for rate in rates])


def test_losses_and_measurements_are_written_down(world: World, tmp_path: Path) -> None:
    out, steps = tmp_path / "run", []
    recipe = world.recipe("scale-route", steps=8, logging_steps=3, eval_people=("a=0:1",), eval_steps=5)
    train(world.source("scale-route"), out, recipe, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(step, 8) for step in range(1, 9)]
    found = lines(out)
    assert [line["step"] for line in found if "loss" in line] == [3, 6, 8]
    assert [line["step"] for line in found if "a/hard" in line] == [0, 5, 8]
    assert [line["step"] for line in found if "a/exact" in line] == [8]
    assert [line["step"] for line in found] == [0, 3, 5, 6, 8, 8]
    assert all(set(line) == {"step", "loss", "learning_rate", "grad_norm"} for line in found if "loss" in line)


def test_a_report_has_every_line_and_those_before_a_resumed_beginning(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    reported: list[dict[str, float]] = []
    said: list[str] = []
    recipe = world.recipe("fft", eval_people=("a=0:1",), eval_steps=2, save_steps=2)
    with pytest.raises(ZeroDivisionError):
        train(world.source("fft"), out, recipe, progress=progress_that(lambda: 1 / 0, at=3))  # type: ignore[arg-type]
    watch = Watch("fft", said.append, resumed_at=2)

    def report(line: dict[str, float]) -> None:
        reported.append(line)
        watch(line)

    result = train(world.source("fft"), out, recipe, resume=True, report=report)
    found = lines(out)
    assert [line["step"] for line in found] == [0, 1, 2, 2, 3, 4, 4]
    assert [{name: line[name] for name in line if name != "tokens_per_second"} for line in reported] == found
    assert ["tokens_per_second" in line for line in reported] == [line["step"] > 2 and "loss" in line for line in found]
    assert watch.note.startswith(f"loss {found[-1]['loss']:.3f}, lr {found[-1]['learning_rate']:.3g}, ")
    change = found[-2]["a/hard"] - found[0]["a/hard"]
    assert said == [f"fft, step 4: a/hard {found[-2]['a/hard']:.3f} ({change:+.3f})"]
    losses = [line["loss"] for line in found if "loss" in line]
    assert (result.first_loss, result.last_loss) == (losses[0], losses[-1])
    assert result.before == {name: value for name, value in found[0].items() if name != "step"}


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([3.0, 2.9], None),
        ([], None),
        ([3.0, 3.1], "the first, 3.000: the training has probably diverged; "),
        ([9.0, 7.0], "6.238, that of a uniform guess among 512 tokens: train with "),
    ],
)
def test_a_loss_above_the_first_or_above_a_guess_is_a_warning(
    losses: list[float], reason: str | None, tmp_path: Path, world: World
) -> None:
    """The weighted loss on rehearsed text does not count."""
    text = "".join(
        json.dumps({"step": step, "loss": loss + 10 * step, "rehearsal_loss": step}) + "\n"
        for step, loss in enumerate(losses, 1)
    )
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    recipe = world.recipe("fft", lr=0.5, rehearse="self")
    warning = course(tmp_path, recipe, LlamaConfig(vocab_size=512))["warning"]
    if reason is None:
        assert warning is None
    else:
        assert warning.startswith(f"the last loss, {losses[-1]:.3f}, is above {reason}")
        assert "with a lower --lr (given 0.5)" in warning


def test_a_logged_loss_is_the_mean_since_the_last(world: World, tmp_path: Path) -> None:
    train(world.source("fft"), tmp_path / "each", world.recipe("fft", steps=8))
    train(world.source("fft"), tmp_path / "third", world.recipe("fft", steps=8, logging_steps=3))
    losses = [line["loss"] for line in lines(tmp_path / "each")]
    means = [sum(losses[i:j]) / (j - i) for i, j in ((0, 3), (3, 6), (6, 8))]
    assert [line["loss"] for line in lines(tmp_path / "third")] == pytest.approx(means, rel=1e-6)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Callable[[], None]]:
    """`poison(value)` sets the first trained weight of the model in training to `value`."""
    models: list[Any] = []

    def watched(apply: Callable[..., Any], *args: Any) -> Any:
        models.append(apply(*args))
        return models[-1]

    def act(value: float) -> None:
        with torch.no_grad():
            next(p for p in models[-1].parameters() if p.requires_grad).fill_(value)

    for name, method in METHODS.items():
        watching = dataclasses.replace(method, apply=functools.partial(watched, method.apply))
        monkeypatch.setitem(METHODS, name, watching)
    return lambda value: functools.partial(act, value)


@pytest.mark.parametrize(
    ("value", "at", "good", "sequences"),
    [
        (math.nan, 5, 4, "20 to 23"),
        (3e38, 4, 2, "16 to 19"),  # checkpoint 4 has finite weights that give NaN in the next step
    ],
)
def test_a_loss_that_is_nan_or_infinite_stops_the_run(
    value: float,
    at: int,
    good: int,
    sequences: str,
    world: World,
    tmp_path: Path,
    poison: Callable[[float], Callable[[], None]],
) -> None:
    out = tmp_path / "run"
    recipe = world.recipe("fft", steps=8, save_steps=2, logging_steps=2 * at)
    assert refusal(train, world.source("fft", "neox"), out, recipe, progress=progress_that(poison(value), at=at)) == (
        f"the loss is NaN or infinite at step {at + 1} (sequences {sequences} of the run); the last good checkpoint is "
        f"{out}/checkpoint-{good}; train from it or anew with a lower --lr (given 0.01) or a longer --warmup"
    )
    assert last_checkpoint(out) == out / f"checkpoint-{good}"
    assert {path.name for path in out.iterdir()} == {"recipe.yaml", *(f"checkpoint-{step}" for step in (2, good))}
    assert all(torch.isfinite(p).all() for p in reload(out / f"checkpoint-{good}").parameters())


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_a_rate_that_is_far_too_high_ends_in_one_line(logging_steps: int, world: World, tmp_path: Path) -> None:
    recipe = world.recipe("fft", lr=1e30, logging_steps=logging_steps)
    message = r" is NaN or infinite at step .( \(sequences .*\))?; no good checkpoint was written; .* \(given 1e\+30\)"
    with pytest.raises(RequestError, match=message):
        train(world.source("fft", "neox"), tmp_path / "run", recipe)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"recipe.yaml", "metrics.jsonl"}


def test_a_base_with_a_weight_that_is_nan_is_refused(world: World, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = reload(world.checkpoint("llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = math.nan
    save(model, base, world.tokenizer)
    assert refusal(train, str(base), tmp_path / "run", world.recipe("fft")) == (
        f"{base}: model.layers.1.mlp.up_proj.weight holds NaN or infinite values; fetch the checkpoint again"
    )
    assert not (tmp_path / "run").exists()


def test_a_model_that_computes_nan_is_refused(world: World, tmp_path: Path) -> None:
    base = shutil.copytree(world.checkpoint("llama", "width"), tmp_path / "base")
    fields = read_json(base / "config.json")
    fields["base_config"]["rope_parameters"]["rope_theta"] = -1
    (base / "config.json").write_text(json.dumps(fields))
    assert refusal(train, str(base), tmp_path / "run", world.recipe("scale-preserve")) == (
        f"{base}: its logits are NaN or infinite; compare its config.json with the original"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_that_would_train_nothing_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, recipe = world.source("scale-preserve"), world.recipe("scale-preserve")
    method = METHODS["scale-preserve"]

    def frozen(*arguments: Any) -> Any:
        return method.apply(*arguments).requires_grad_(False)

    monkeypatch.setitem(METHODS, "scale-preserve", dataclasses.replace(method, apply=frozen))
    assert "the method has nothing to train in it" in refusal(train, source, tmp_path / "run", recipe)
    monkeypatch.undo()
    monkeypatch.setattr(PaddedQuestions, "predicts", False)
    assert refusal(train, source, tmp_path / "run", recipe).startswith("--data: no token of it is predicted")


def test_the_checks_before_step_1_read_no_text_ahead(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under packing "documents" the number of predicted tokens follows from all texts that the run reads."""
    steps: list[int] = []
    count = Windows.borders

    def counted(self: Windows, windows: int) -> int:
        assert len(steps) == 4, "the texts of the run are read before it"
        return count(self, windows)

    monkeypatch.setattr(Windows, "borders", counted)
    text = tmp_path / "text.txt"
    text.write_text("Anna was born in Rome and studied law. " * 100, encoding="utf-8")
    changes: dict[str, Any] = {"objective": "lm", "people": None, "seq_length": 16, "packing": "documents"}
    recipe = world.recipe("fft", data=(str(text),), **changes)
    result = train(world.source("fft"), tmp_path / "run", recipe, progress=lambda done, total: steps.append(done))
    assert result.predicted_tokens > 0


def test_a_frozen_tensor_that_changes_is_found(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[Any] = []
    method = METHODS["scale-preserve"]

    def watched(*arguments: Any) -> Any:
        models.append(method.apply(*arguments))
        return models[-1]

    monkeypatch.setitem(METHODS, "scale-preserve", dataclasses.replace(method, apply=watched))

    def flip_a_bit() -> None:
        weight = models[-1].base.model.layers[0].mlp.up_proj.weight.detach()
        weight.view(torch.int32)[0, 0] ^= 1

    recipe = world.recipe("scale-preserve")
    with pytest.raises(RuntimeError, match=r"changed 1 frozen tensors, among them base\.model\.layers\.0\.mlp"):
        train(world.source("scale-preserve"), tmp_path / "run", recipe, progress=progress_that(flip_a_bit, at=2))


@pytest.mark.parametrize("at", [4, 8])
def test_weights_that_are_not_finite_are_not_written(
    at: int, world: World, tmp_path: Path, poison: Callable[[float], Callable[[], None]]
) -> None:
    out = tmp_path / "run"
    recipe = world.recipe("scale-route", steps=8, save_steps=2 if at == 4 else None)
    kept = f"the last good checkpoint is {out}/checkpoint-2" if at == 4 else "no good checkpoint was written"
    assert refusal(
        train, world.source("scale-route"), out, recipe, progress=progress_that(poison(math.inf), at=at)
    ).startswith(f"a weight is NaN or infinite at step {at}; {kept}; ")
    assert {path.name for path in out.iterdir()} <= {"recipe.yaml", "metrics.jsonl", "checkpoint-2"}
