"""A killed and resumed run equals an uninterrupted one bitwise, in weights and in every line of metrics.jsonl."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import yaml

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import changed
from scale_cli.core.records import read_record
from scale_cli.training import TrainRecipe, trainer
from scale_cli.training.resume import SEAL, damaged_checkpoints, drop_lines_after, last_checkpoint, step_of
from scale_cli.training.train import train
from scale_cli.training.trainer import StopAtStep
from tests.helpers import refusal
from tests.runs import World, lines, progress_that, reload, run, same_tensors, tree

STEPS = 8
WEIGHTS = ("model.safetensors", "trained.safetensors", "trained.json", "metrics.jsonl", "recipe.yaml")


class Crash(Exception):
    """An error that no code of ours catches."""


def crash(*arguments: object) -> None:
    raise Crash


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def recipe_of(world: World, method: str, **changes: Any) -> TrainRecipe:
    """More than one epoch of questions; no log line of the loss coincides with a checkpoint of these tests."""
    options: dict[str, Any] = {"steps": STEPS, "logging_steps": 3, "eval_people": ("a=0:1",), "eval_steps": 2}
    return world.recipe(method, **(options | changes))


def outcome(folder: Path) -> dict[str, Any]:
    """The files that a run must write, interrupted or not."""
    files = {name: content for name, content in tree(folder).items() if name in WEIGHTS}
    assert {"metrics.jsonl", "recipe.yaml"} < files.keys()
    record = read_record(folder / "record.json")
    return files | {name: record[name] for name in ("metrics", "tokens", "steps", "trained_parameters")}


@pytest.fixture(scope="module")
def never_killed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The outcome of a recipe without an interruption."""
    made: dict[TrainRecipe, dict[str, Any]] = {}

    def outcome_of(recipe: TrainRecipe, source: str) -> dict[str, Any]:
        recipe = dataclasses.replace(recipe, save_steps=None)
        if recipe not in made:
            folder = tmp_path_factory.mktemp("never_killed") / "run"
            train(source, folder, recipe)
            made[recipe] = outcome(folder)
        return made[recipe]

    return outcome_of


NeverKilled = Callable[..., dict[str, Any]]
FAMILIES = {"fft": "neox", "lora": "llama", "scale-route": "llama"}


def without(outcome: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in outcome.items() if key != name}


@pytest.mark.parametrize("method", FAMILIES)
def test_ctrl_c_and_resume(method: str, world: World, tmp_path: Path, never_killed: NeverKilled) -> None:
    source, recipe, out = world.source(method, FAMILIES[method]), recipe_of(world, method), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(source, out, recipe, progress=progress_that(ctrl_c, at=4))
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not (out / "record.json").exists()
    with pytest.raises(KeyboardInterrupt):  # and again
        train(source, out, recipe, resume=True, progress=progress_that(ctrl_c, at=5))
    train(source, out, recipe, resume=True)
    assert outcome(out) == never_killed(recipe, source)
    assert [*out.glob("checkpoint-*")] == []


def test_a_crash_and_resume(world: World, tmp_path: Path, never_killed: NeverKilled) -> None:
    source, out = world.source("fft", "neox"), tmp_path / "run"
    recipe = recipe_of(world, "fft", save_steps=2)
    with pytest.raises(Crash):
        train(source, out, recipe, progress=progress_that(crash, at=5))
    assert lines(out)[-1]["step"] == 4
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # a kill may leave an incomplete line
    (out / "checkpoint-6").mkdir()
    (out / "checkpoint-6" / "trained.safetensors").write_bytes(b"half")
    train(source, out, recipe, resume=True)
    assert without(outcome(out), "recipe.yaml") == without(never_killed(recipe, source), "recipe.yaml")


def test_from_scratch_and_packed_texts(world: World, tmp_path: Path, never_killed: NeverKilled) -> None:
    source, out = str(world.checkpoint("neox")), tmp_path / "run"
    recipe = recipe_of(world, "fft", from_scratch=True, objective="lm", seq_length=48, gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(source, out, recipe, progress=progress_that(ctrl_c, at=5))
    train(source, out, recipe, resume=True)
    assert outcome(out) == never_killed(recipe, source)


def test_another_seed_would_be_seen(world: World, never_killed: NeverKilled) -> None:
    source = world.source("scale-route", "llama")
    outcomes = [never_killed(recipe_of(world, "scale-route", seed=seed), source) for seed in (0, 1)]
    for name in ("trained.safetensors", "metrics.jsonl"):
        assert outcomes[0][name] != outcomes[1][name]


def test_a_kill_between_the_last_checkpoint_and_the_record(
    world: World, tmp_path: Path, never_killed: NeverKilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, recipe, out = world.source("lora"), recipe_of(world, "lora", save_steps=2), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("scale_cli.training.train._write_record", lambda *_: crash())
        with pytest.raises(Crash):
            train(source, out, recipe)
    assert step_of(last_checkpoint(out)) == STEPS
    train(source, out, recipe, resume=True)
    assert without(outcome(out), "recipe.yaml") == without(never_killed(recipe, source), "recipe.yaml")


def test_a_run_that_an_older_version_began_is_resumed(world: World, tmp_path: Path, never_killed: NeverKilled) -> None:
    """An old recipe has the options of all methods and null for defaults; an old pointer has no commit."""
    source, out = world.source("scale-adapt"), tmp_path / "run"
    recipe = recipe_of(world, "scale-adapt", lr=None, preserve_layers=None)
    with pytest.raises(KeyboardInterrupt):
        train(source, out, recipe, progress=progress_that(ctrl_c, at=4))
    options = {"preserve_layers": None, "adapt_modules": ["attention"], "threshold": 0.5, "lora_r": 256}
    options |= {"lora_alpha": None, "freeze_layers": 3}
    saved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    saved |= options | {"lr": None, "precision": "auto", "eval_bios": None}
    (out / "recipe.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
    file = out / "checkpoint-4" / "trained.json"
    pointer = json.loads(file.read_text(encoding="utf-8")) | {"options": options}
    del pointer["revision"]
    file.write_text(json.dumps(pointer), encoding="utf-8")
    before = reload(out / "checkpoint-4")
    assert before.config.collaborative == {"layers": [0, 1], "modules": ["attention"]}
    train(source, out, recipe, resume=True)
    assert outcome(out) == never_killed(recipe, source)


def test_ctrl_c_after_the_last_step_comes_when_the_run_is_finished(
    world: World, tmp_path: Path, never_killed: NeverKilled
) -> None:
    source, recipe, out = world.source("lora"), recipe_of(world, "lora"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(source, out, recipe, progress=progress_that(ctrl_c, at=STEPS))
    assert outcome(out) == never_killed(recipe, source)
    with pytest.raises(RequestError, match=r"^--resume: the run in .* is finished; train from it, or choose"):
        train(source, out, recipe, resume=True)


def test_a_run_killed_after_its_record_is_finished(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_killed: NeverKilled
) -> None:
    source, recipe, out = world.source("lora"), recipe_of(world, "lora", save_steps=2), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("scale_cli.training.train._write_card", crash)
        with pytest.raises(Crash):
            train(source, out, recipe)
    result = train(source, out, recipe, resume=True)
    assert without(outcome(out), "recipe.yaml") == without(never_killed(recipe, source), "recipe.yaml")
    assert (result.steps, result.kept_step, result.tokens > 0) == (STEPS, STEPS, True)
    assert (out / "README.md").is_file()
    assert not list(out.glob("checkpoint-*"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("inline_container")])
def test_a_full_disk_while_training(
    error: Exception, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_killed: NeverKilled
) -> None:
    source, recipe, out = world.source("lora"), recipe_of(world, "lora", save_steps=2), tmp_path / "run"

    def full(*arguments: Any) -> NoReturn:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)  # of the optimizer
        message = refusal(train, source, out, recipe)
    assert message == f"{out}: the disk is full; make room, and continue with --resume"
    train(source, out, recipe, resume=True)
    assert without(outcome(out), "recipe.yaml") == without(never_killed(recipe, source), "recipe.yaml")


def test_seconds_are_counted_over_all_parts(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, recipe, out = world.source("fft"), world.recipe("fft", save_steps=2), tmp_path / "run"
    with pytest.raises(Crash):
        train(source, out, recipe, progress=progress_that(crash, at=3))
    file = out / "checkpoint-2" / "carried.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"seconds": ', '"seconds": 100'), encoding="utf-8")
    (out / "checkpoint-2" / SEAL).unlink()
    assert train(source, out, recipe, resume=True).seconds > 1000


def test_resuming_needs_a_checkpoint_and_the_same_recipe(world: World, tmp_path: Path) -> None:
    source, recipe, out = world.source("fft"), world.recipe("fft"), tmp_path / "run"
    with pytest.raises(RequestError, match=r"^--resume: .*run holds no run that was begun; train without"):
        train(source, out, recipe, resume=True)
    assert not out.exists()
    out.mkdir()
    (out / ".lock").touch()  # killed before anything else was written
    with pytest.raises(KeyboardInterrupt):
        train(source, out, recipe, resume=True, progress=progress_that(ctrl_c, at=2))
    before = tree(out)
    for changes, message in (
        ({"lr": 1e-3}, "lr 0.01, not 0.001"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"people": "0:5"}, "people 0:4, not 0:5"),
        ({"method": "lora"}, "method fft, not lora"),
    ):
        with pytest.raises(RequestError, match=f"^--resume: .* was started with {message}; give the same options$"):
            train(source, out, changed(recipe, **changes), resume=True)
    assert tree(out) == before
    (tmp_path / "moved").symlink_to(world.data)
    free = dataclasses.replace(recipe, data=(str(tmp_path / "moved"),), save_steps=3)
    train(source, out, free, resume=True)


@pytest.mark.parametrize("scratch", [False, True])
def test_a_checkpoint_of_an_unfinished_run_is_a_checkpoint(scratch: bool, world: World, tmp_path: Path) -> None:
    """The last good checkpoint can be evaluated and trained."""
    recipe = world.recipe("fft", from_scratch=scratch)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(world.source("fft"), out, recipe, progress=progress_that(ctrl_c, at=2))
    done = run(str(out / "checkpoint-2"), tmp_path / "next", world.recipe("lora", steps=1))
    begun = {name.replace("base_model.model.", ""): tensor for name, tensor in done.untrained.items()}
    for name, tensor in reload(out / "checkpoint-2").state_dict().items():
        wrapped = name.replace(".weight", ".base_layer.weight")
        assert torch.equal(tensor, begun[name] if name in begun else begun[wrapped])
    original = reload(Path(world.source("fft"))).state_dict()
    assert not same_tensors(reload(out / "checkpoint-2").state_dict(), original)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_later_signal_stops_at_once_and_the_handler_is_given_back(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    with StopAtStep() as stop:
        assert signal.getsignal(number) != before
        os.kill(os.getpid(), number)
        assert stop.asked
        os.kill(os.getpid(), number)  # from the terminal and from the launcher: still the first
        monkeypatch.setattr(trainer, "ONE_SIGNAL_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_lines_after_a_step_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    drop_lines_after(file, 3)
    assert not file.exists()
    file.write_text('{"step": 0}\n{"step": 2, "a": 1}\n{"step": 3}\n{"step": 4}\n{"step": 3, "b', encoding="utf-8")
    drop_lines_after(file, 3)
    assert file.read_text(encoding="utf-8") == '{"step": 0}\n{"step": 2, "a": 1}\n{"step": 3}\n'


DAMAGES: dict[str, Callable[[Path], object]] = {
    "trained.safetensors": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"),
    "optimizer.pt": lambda file: file.unlink(),
    "scheduler.pt": lambda file: file.write_bytes(file.read_bytes()[:50]),
    "carried.json": lambda file: file.write_bytes(b""),
    "trained.json": lambda file: file.write_text("{}"),
    "rng_state.pth": lambda file: file.write_bytes(b"no"),
    "files.json": lambda file: file.write_text("{"),
}


@pytest.fixture(scope="module")
def crashed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after its checkpoints at steps 2 and 4; copy it."""
    out = tmp_path_factory.mktemp("crashed") / "run"
    with pytest.raises(Crash):
        train(world.source("lora"), out, recipe_of(world, "lora", save_steps=2), progress=progress_that(crash, at=5))
    return out


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_detected_and_the_one_before_is_taken(name: str, crashed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(crashed, tmp_path / "run")
    assert (last_checkpoint(out), damaged_checkpoints(out)) == (out / "checkpoint-4", {})
    DAMAGES[name](out / "checkpoint-4" / name)
    assert (last_checkpoint(out), damaged_checkpoints(out)) == (out / "checkpoint-2", {out / "checkpoint-4": name})


@pytest.mark.parametrize(
    ("damaged", "begin"), [((4,), "CHECKPOINT-2"), ((4, 2), "the beginning"), ((), "")], ids=["one", "all", "none"]
)
def test_a_run_goes_on_from_the_last_whole_checkpoint_or_begins_anew(
    damaged: tuple[int, ...], begin: str, crashed: Path, world: World, tmp_path: Path, never_killed: NeverKilled
) -> None:
    source, out = world.source("lora"), shutil.copytree(crashed, tmp_path / "run")
    recipe, told = recipe_of(world, "lora", save_steps=2), list[str]()
    for step in damaged:
        (out / f"checkpoint-{step}" / "optimizer.pt").unlink()
    if not damaged:
        for step in (2, 4):
            shutil.rmtree(out / f"checkpoint-{step}")
    train(source, out, recipe, resume=True, say=told.append)
    begin = begin.replace("CHECKPOINT", f"{out}/checkpoint")
    assert told == [f"{out}/checkpoint-{step} is damaged in optimizer.pt; resuming from {begin}" for step in damaged]
    assert without(outcome(out), "recipe.yaml") == without(never_killed(recipe, source), "recipe.yaml")


def test_the_last_whole_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert step_of(None) == 0
    for step, state in ((5, "{}"), (10, None), (9, "{}"), (11, '{"epoch":'), (12, "")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state, encoding="utf-8")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert step_of(last_checkpoint(tmp_path)) == 9
