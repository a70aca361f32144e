"""`scale data` prints the statistics of texts, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import World, korean_texts

RunCli = Callable[..., Any]


def test_tables_samples_and_json(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    files = korean_texts(tmp_path)
    words = ["data", files["train"], "--eval-text", f"new={files['korean']}", "--eval-text", f"t={files['train']}"]
    words += ["--tokenizer", world.checkpoint("llama"), "--seq-length", 32, "--batch-size", 2, "--steps", 200]
    ended = run_cli(*words, "--samples", 1)
    printed = json.loads(run_cli(*words, "--json").stdout)
    assert ended.code == 0
    assert printed["run_tokens"] == 12_800
    (part,) = printed["mix"]
    assert part["epochs"] == 400 / part["sequences"]
    assert "Mix of 12,800 training tokens, in sequences of 32\n" in ended.stdout
    assert "train.jsonl, t (held out)" in ended.stdout
    for name in ("train.jsonl", "new (held out)"):
        assert f"\n{name}, document " in ended.stdout
    assert "warning: 36 of 36 documents of t (held out) are also in train.jsonl: " in ended.stderr
    assert f"warning: train.jsonl is read {part['epochs']:.1f} times; " in ended.stderr
    other = run_cli("data", files["english"], files["korean"])
    assert (other.code, other.stderr) == (0, "")
    assert other.stdout.endswith("\nNo document is in two sources.\n")
    assert run_cli("data", world.data, "--people", "0:3", "--json").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.jsonl"], "nothing.jsonl: no such file or folder"),
        (["TEXT:0.5", "TEXT"], "TEXT:0.5,TEXT: give every source a weight or none"),
        (["TEXT", "--steps", "3"], "--steps: sequences and epochs are counted in tokens; add --tokenizer MODEL"),
        (["TEXT", "--tokens", "3"], "--tokens: sequences and epochs are counted in tokens; add --tokenizer MODEL"),
        (["TEXT", "--tokens", "9", "--steps", "3"], "--steps 3 and --tokens 9 each set the amount of training"),
        (["TEXT", "--tokens", "0"], "--tokens 0: write a number above 0"),
        (["TEXT", "--batch-size", "2"], "--batch-size: only --steps needs it; add --steps N, or leave it out"),
        (["TEXT", "--people", "0:3"], "--people 0:3: TEXT is not a gen-bios folder and has no people"),
        (["TEXT", "--eval-text", "TEXT"], "--eval-text 'TEXT': write NAME=SOURCE"),
        (["TEXT", "--tokenizer", "BASE", "--seq-length", "9999"], "--seq-length 9999: BASE takes 2048 tokens at most"),
        (["TEXT", "--revision", "main"], "--revision main: a revision is one of the hub id in --tokenizer"),
        (["TEXT:body"], "TEXT, line 1 has no field `body`; it has text"),
    ],
)
def test_a_mistake_ends_with_one_line(
    run_cli: RunCli, world: World, tmp_path: Path, words: list[str], message: str
) -> None:
    def filled(text: str) -> str:
        return text.replace("TEXT", str(tmp_path / "train.jsonl")).replace("BASE", str(world.checkpoint("llama")))

    korean_texts(tmp_path)
    ended = run_cli("data", *map(filled, words))
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"scale: {filled(message)}")
