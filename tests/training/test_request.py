"""What a training run is asked for: its place, its base, its texts, the length of its sequences."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from scale_cli.core.errors import RequestError
from scale_cli.core.files import only_writer
from scale_cli.training import TrainRecipe
from scale_cli.training.request import check_request
from scale_cli.training.train import train
from tests.helpers import refusal
from tests.runs import World, progress_that, tree


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("Anna was born in Rome and studied law. " * 100, encoding="utf-8")
    return file


@pytest.mark.parametrize("resume", [False, True])
def test_one_process_writes_a_run(resume: bool, world: World, tmp_path: Path) -> None:
    recipe, out = world.recipe("fft", save_steps=2), tmp_path / "run"
    if resume:
        interrupted(world.source("fft"), out, recipe)
    before = tree(out)
    with only_writer(out), pytest.raises(RequestError, match="is being written by another process"):
        train(world.source("fft"), out, recipe, resume=resume)
    assert tree(out) == before
    train(world.source("fft"), out, recipe, resume=resume)
    assert not (out / ".lock").exists()


def test_a_launch_with_fsdp_is_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    message = refusal(train, world.source("fft"), tmp_path / "run", world.recipe("fft"))
    assert message.startswith("launched with FSDP: launch without it")


def test_what_cannot_be_sharded_is_refused(world: World, tmp_path: Path) -> None:
    message = refusal(train, world.source("ewc"), tmp_path / "run", world.recipe("ewc", shard=True))
    assert message.startswith("--shard: --method ewc needs the whole model in every process; able are fft, lora, ")
    message = refusal(train, world.source("fft"), tmp_path / "run", world.recipe("fft", shard=True))
    assert message == "--shard: there is one process; start several, as in torchrun --nproc_per_node 8"


def test_a_refused_request_leaves_no_folder(world: World, tmp_path: Path) -> None:
    recipe = world.recipe("fft", objective="lm", people=None, seq_length=10**6)
    with pytest.raises(RequestError, match=r"--seq-length 1000000: .* takes 2048 tokens at most"):
        train(world.source("fft"), tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_the_base_and_the_texts_that_it_was_started_with(
    world: World, texts: Path, tmp_path: Path
) -> None:
    base, out = shutil.copytree(world.source("freeze"), tmp_path / "base"), tmp_path / "run"
    options = {"objective": "lm", "people": None, "seq_length": 16, "save_steps": 2}
    recipe = world.recipe("freeze", data=(str(texts),), **options)
    interrupted(str(base), out, recipe)
    other = tmp_path / "other.txt"
    other.write_text(texts.read_text() + "More.", encoding="utf-8")
    with pytest.raises(RequestError, match=r"was started with other texts than --data .*other\.txt holds now"):
        train(str(base), out, world.recipe("freeze", data=(str(other),), **options), resume=True)
    weights = load_file(base / "model.safetensors")
    save_file({n: t + 1 for n, t in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match="was started from another checkpoint"):
        train(str(base), out, recipe, resume=True)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    moved = base.rename(tmp_path / "moved")
    shutil.copyfile(texts, other)
    train(str(moved), out, world.recipe("freeze", data=(str(other),), **options), resume=True)


@pytest.mark.parametrize("objective", ["qa", "lm"])
def test_epochs_are_counted_again_when_a_run_is_resumed(
    objective: str, world: World, texts: Path, tmp_path: Path
) -> None:
    def recipe(epochs: float) -> TrainRecipe:
        options: dict[str, Any] = {"epochs": epochs, "steps": None, "save_steps": 1}
        if objective == "lm":
            options |= {"objective": "lm", "people": None, "data": (f"{texts}:3", f"{world.data}:1"), "seq_length": 32}
        return world.recipe("freeze", **options)

    source, out = world.source("freeze"), tmp_path / "run"
    whole = train(source, tmp_path / "whole", recipe(0.5))
    if objective == "qa":  # 24 questions of 4 people
        assert (whole.steps, *whole.epochs.values()) == (3, 0.5)
    else:
        (first, second), read = [epochs or 0 for epochs in whole.epochs.values()], whole.steps * 4
        assert whole.steps == math.ceil((read * 3 / 4 / first + read / 4 / second) / 2 / 4)
    interrupted(source, out, recipe(0.5))
    assert refusal(train, source, out, recipe(1), resume=True).startswith(f"--resume: {out} was started with steps ")
    assert train(source, out, recipe(0.5), resume=True).steps == whole.steps
    assert tree(out)["recipe.yaml"] == tree(tmp_path / "whole")["recipe.yaml"]


def test_sequences_fit_the_context_of_the_model(world: World, texts: Path, tmp_path: Path) -> None:
    short = shutil.copytree(world.source("fft"), tmp_path / "short")
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 24}
    (short / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def length(**options: int) -> int | None:
        recipe = world.recipe("fft", objective="lm", people=None, data=(str(texts),), **options)
        return check_request(str(short), tmp_path / "run", recipe, resume=False)[1].seq_length

    assert length() == 24
    assert length(seq_length=23) == 23
    for wrong, reason in ((25, "takes 24 tokens at most"), (1, "at least 2")):
        recipe = world.recipe("fft", objective="lm", people=None, data=(str(texts),), seq_length=wrong)
        with pytest.raises(RequestError, match=f"--seq-length {wrong}: .*{reason}"):
            train(str(short), tmp_path / "run", recipe)
    with pytest.raises(RequestError, match=r"--seq-length \d+: .* takes 24 tokens at most"):  # of the longest question
        train(str(short), tmp_path / "run", world.recipe("fft"))


@pytest.mark.parametrize("kind", ["plain", "depth"])
def test_files_beside_trained_weights_are_those_of_the_base(kind: str, world: World, tmp_path: Path) -> None:
    """Training turns the library's cache off in the config, and saving a tokenizer drops its named chat templates."""
    base = shutil.copytree(world.checkpoint("llama", kind), tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}", encoding="utf-8")
    (base / "generation_config.json").write_text('{"temperature": 0.5, "do_sample": true}', encoding="utf-8")
    train(str(base), tmp_path / "run", world.recipe("fft"))
    files, written = tree(base), tree(tmp_path / "run")
    before, after = (json.loads(each["config.json"]) for each in (files, written))
    assert after == before | {"dtype": "float32"}
    beside = [name for name in files if not name.startswith(("README", "config")) and "safetensors" not in name]
    assert {"additional_chat_templates/tools.jinja", "tokenizer.json"} < set(beside)
    assert {name: written.get(name) for name in beside} == {name: files[name] for name in beside}


def interrupted(source: str, out: Path, recipe: object) -> None:
    """Start a run and stop it after its second step."""
    with pytest.raises(KeyboardInterrupt):
        train(source, out, recipe, progress=progress_that(lambda: os.kill(os.getpid(), signal.SIGINT), at=2))  # type: ignore[arg-type]
