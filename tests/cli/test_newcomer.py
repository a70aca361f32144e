"""The mistakes of a newcomer's first hour: each ends in one line that names what was given and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import World

Words = list[object]
RunCli = Callable[..., Any]


def text(folder: Path, *rows: object) -> Path:
    """A file of texts."""
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def short(*words: object, data: Path, steps: int = 1) -> Words:
    """A training of few steps on short sequences."""
    return ["train", *words, "--data", data, "--steps", steps, "--batch-size", 2, "--seq-length", 16]


def without_tokenizer(world: World, folder: Path) -> Path:
    base = folder / "bare"
    shutil.copytree(world.checkpoint("llama"), base)
    for file in base.glob("tokenizer*"):
        file.unlink()
    return base


Mistake = Callable[[World, Path], Words]
ROWS = tuple({"text": f"A text on the law, number {number}, of no great length."} for number in range(40))
PLAIN = "llama"
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "wrong path": (
        lambda w, f: short("no-model", f / "out", "--method", "fft", data=text(f, *ROWS)),
        "no-model: no such folder",
    ),
    "fft of a widened model": (
        lambda w, f: short(w.checkpoint(PLAIN, "width"), f / "out", "--method", "fft", data=text(f, *ROWS)),
        "needs a checkpoint that is not upscaled; methods for this one: scale-preserve, scale-adapt, scale-route",
    ),
    "forgot upscale": (
        lambda w, f: short(w.checkpoint(PLAIN), f / "out", "--method", "scale-route", data=text(f, *ROWS)),
        "a width-upscaled checkpoint; make one with: scale upscale BASE OUT --by width --hidden N",
    ),
    "wrong method": (
        lambda w, f: short(w.checkpoint(PLAIN, "depth"), f / "out", "--method", "lora", data=text(f, *ROWS)),
        "is depth-upscaled; the method needs a checkpoint that is not upscaled",
    ),
    "unknown method": (
        lambda w, f: short(w.checkpoint(PLAIN), f / "out", "--method", "full", data=text(f, *ROWS)),
        "'full' is not one of 'fft', 'lora', ",
    ),
    "rate without a finite loss": (
        lambda w, f: short(
            w.checkpoint(PLAIN), f / "out", "--method", "fft", "--lr", "1e38", data=text(f, *ROWS), steps=3
        ),
        "with a lower --lr (given 1e+38)",
    ),
    "no tokenizer": (
        lambda w, f: short(without_tokenizer(w, f), f / "out", "--method", "fft", data=text(f, *ROWS)),
        "bare has no tokenizer; copy the tokenizer's files of the model that it was made from",
    ),
    "field not named text": (
        lambda w, f: short(w.checkpoint(PLAIN), f / "out", "--method", "fft", data=text(f, {"content": "x"})),
        "line 1 has no field `text`; it has content; name the field in the source, as in SOURCE:content",
    ),
    "chat data": (
        lambda w, f: short(
            w.checkpoint(PLAIN),
            f / "out",
            "--method",
            "fft",
            data=text(f, {"messages": [{"role": "user", "content": "hi"}]}),
        ),
        "`messages` is a list of turns: write each chat as one text, by the tokenizer's chat template",
    ),
    "precision unknown": (
        lambda w, f: short(
            w.checkpoint(PLAIN), f / "out", "--method", "fft", "--precision", "fp16", data=text(f, *ROWS)
        ),
        "'fp16' is not one of 'auto', 'float32', 'bfloat16'",
    ),
    "typo": (
        lambda w, f: short(w.checkpoint(PLAIN), f / "out", "--methd", "fft", data=text(f, *ROWS)),
        "Possible options: --method",
    ),
    "another tool's name": (
        lambda w, f: short(w.checkpoint(PLAIN), f / "out", "--learning-rate", "1", data=text(f, *ROWS)),
        "here it is --lr",
    ),
    "output exists": (
        lambda w, f: short(w.checkpoint(PLAIN), f, "--method", "fft", data=text(f, *ROWS)),
        "already holds files; choose a new or an empty folder, or --resume",
    ),
    "nothing to resume": (
        lambda w, f: short(w.checkpoint(PLAIN), f / "out", "--method", "fft", "--resume", data=text(f, *ROWS)),
        "holds no run that was begun; train without --resume",
    ),
    "sequence too long": (
        lambda w, f: [
            *short(w.checkpoint(PLAIN), f / "out", "--method", "fft", data=text(f, *ROWS)),
            "--seq-length",
            10**6,
        ],
        "takes 2048 tokens at most",
    ),
    "corpus too small": (
        lambda w, f: ["run", w.checkpoint(PLAIN), f / "out", "--new", text(f, ROWS[0])],
        "the texts have 1 new documents, and some new ones must remain to train on; give more texts",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, run_cli: RunCli, world: World, tmp_path: Path) -> None:
    make, line = MISTAKES[name]
    ended = run_cli(*make(world, tmp_path))
    assert ended.code == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("scale: ")
    assert line in last


def test_a_rate_that_is_too_large_is_told(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    """A finite loss ends in a result, which warns."""
    words = short(world.checkpoint(PLAIN), tmp_path / "out", "--method", "fft", data=text(tmp_path, *ROWS), steps=4)
    ended = run_cli(*words, "--lr", "100")
    assert ended.code in (0, 2)
    assert "lower --lr (given 100)" in ended.stderr


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory(
    error: Exception, run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("scale_cli.training.trainer.PartTrainer.training_step", fails)
    ended = run_cli(*short(world.checkpoint(PLAIN), tmp_path / "out", "--method", "fft", data=text(tmp_path, *ROWS)))
    assert ended.code == 2
    assert ended.stderr.splitlines()[-1].startswith("scale: out of memory: ")
    assert "give a smaller --batch-size" in ended.stderr
