"""`scale upscale` prints a summary of its result, and refuses in one line."""

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scale_cli.cli.upscale  # noqa: F401  (its module is patched)
from scale_cli.model import ScaleForCausalLM
from tests.helpers import base_folder

RunCli = Callable[..., Any]


def test_width(run_cli: RunCli, tmp_path: Path) -> None:
    base, out = base_folder(tmp_path / "base"), tmp_path / "out"
    ended = run_cli("upscale", base, out, "--by", "width", "--hidden", 8, "--ffn", 9, "--seed", 3)
    assert ended.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    table = {row[0]: row[1] for row in rows}
    assert {key: table[key] for key in table if key.startswith("added ")} == {
        "added hidden_size": "8",
        "added num_attention_heads": "2",
        "added num_key_value_heads": "1",
        "added intermediate_size": "9",
        "added parameters": table["added parameters"],
    }
    model = ScaleForCausalLM.from_pretrained(out)
    assert table["base parameters"] == f"{model.base.num_parameters():,}"
    added = sum(parameter.numel() for parameter in model.expansion.parameters())
    assert table["added parameters"] == f"{added:,} ({added / model.base.num_parameters():.1%} of the base)"
    assert table["max |delta logit|"].startswith("0 (tolerance ")
    assert re.fullmatch(r"copy \d+\.\d, svd \d+\.\d, write \d+\.\d, verify \d+\.\d", table["seconds"])
    assert re.fullmatch(r"\d+\.\d\d GB, with the proof \d+\.\d\d GB", table["peak memory"])
    assert json.loads((out / "upscale.json").read_text(encoding="utf-8"))["seed"] == 3


def test_depth_as_json(run_cli: RunCli, tmp_path: Path) -> None:
    base, out = base_folder(tmp_path / "base", "neox"), tmp_path / "out"
    ended = run_cli("upscale", base, out, "--by", "depth", "--layers", 4, "--no-verify", "--json")
    assert ended.code == 0
    result = json.loads(ended.stdout)
    assert result["sizes"] == {"num_hidden_layers": 4}
    assert (result["by"], result["out"], result["max_delta_logit"]) == ("depth", str(out), None)
    text = run_cli("upscale", base, tmp_path / "other", "--by", "depth", "--layers", 4, "--no-verify").stdout
    assert "not proved (--no-verify)" in text
    assert "proof" not in text
    assert re.search(r"│ copy \d+\.\d, write \d+\.\d +│", text)


def test_an_initialisation_that_cannot_learn_gives_a_warning(run_cli: RunCli, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    for init, remarked in (("zero", True), ("zero,zero", True), ("zero,random", False)):
        words = ("--by", "width", "--hidden", 8, "--init", init, "--no-verify")
        ended = run_cli("upscale", base, tmp_path / init, *words)
        assert ended.code == 0
        assert ("no gradient" in ended.stderr) == remarked


def test_a_base_without_a_tokenizer_is_upscaled_with_a_warning(run_cli: RunCli, tmp_path: Path) -> None:
    base, words = base_folder(tmp_path / "base"), ("--by", "depth", "--layers", 4, "--no-verify", "--json")
    ended = run_cli("upscale", base, tmp_path / "with", *words)
    assert (ended.code, "tokenizer" in ended.stderr, json.loads(ended.stdout)["has_tokenizer"]) == (0, False, True)
    (base / "tokenizer.json").unlink()
    ended = run_cli("upscale", base, tmp_path / "out", *words)
    assert (ended.code, json.loads(ended.stdout)["has_tokenizer"]) == (0, False)
    remark = f"{base} has no tokenizer, so {tmp_path}/out has none; add one before use"
    assert remark in ended.stderr.splitlines()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_it_with_one_line_and_nothing_left(
    number: int, code: int, word: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def sending(label: str, total: int | None) -> Iterator[Callable[..., None]]:
        def advance(*, done: int, total: int) -> None:
            os.kill(os.getpid(), number)

        yield advance

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys.modules["scale_cli.cli.upscale"], "progress", sending)
    ended = run_cli("upscale", base_folder(tmp_path / "base"), tmp_path / "new" / "out", "--by", "width", "--hidden", 8)
    assert (ended.code, ended.stdout, ended.stderr) == (code, "", f"scale: {word}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--by", "depth", "--layers", 2),
            "--layers 2: base has 3 layers and block expansion only adds; choose 4 to 6",
        ),
        ((), "no size: give --hidden N, features to add, or --layers N, the total number of layers"),
        (("--hidden", 8, "--layers", 4), "--hidden 8 widens and --layers 4 deepens; give one of them"),
        (("--by", "width", "--hidden", "x"), "Invalid value for '--hidden': Input should be a valid integer"),
    ],
)
def test_a_mistake_ends_with_one_line(run_cli: RunCli, words: tuple[object, ...], message: str, tmp_path: Path) -> None:
    ended = run_cli("upscale", base_folder(tmp_path / "base"), tmp_path / "out", *words)
    assert ended.code == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
