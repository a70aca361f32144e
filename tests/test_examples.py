"""The examples run from nothing, on a smaller world, and print what they promise."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.methods import paper_methods
from tests.runs import ROOT, World, korean_texts

EXAMPLES = ROOT / "examples"
Example = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Example:
    """`run("keep_the_old")` returns what a script prints; options may follow."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    small_world = importlib.import_module("small_world")
    monkeypatch.setattr(small_world, "PEOPLE", 4)
    monkeypatch.setattr(small_world, "STEPS", 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(name: str, *options: object) -> str:
        words = [name, "--steps", "2", "--hidden", "8", "--out", str(tmp_path / "out"), *map(str, options)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def rows(table: str) -> set[str]:
    """The labels of the rows of a table."""
    return {line.split()[0].rstrip("†") for line in table.splitlines() if " ± " in line}


def test_upscale_and_prove(run: Example) -> None:
    base, wide, deep = run("upscale_and_prove").splitlines()
    assert base.startswith("base: ")
    for name, line in (("wide", wide), ("deep", deep)):
        assert line.startswith(f"{name}: ")
        assert "max |delta logit|: 0 on random tokens, 0 on" in line
        assert line.endswith("same greedy text: True")


def test_a_base_of_your_own(run: Example, world: World, tmp_path: Path) -> None:
    texts = korean_texts(tmp_path)
    own = ("--old", texts["english"], "--new", texts["korean"])
    assert run("upscale_and_prove", "--base", world.checkpoint("neox"), *own).count("same greedy text: True") == 2
    with pytest.raises(SystemExit):
        run("upscale_and_prove", "--base", world.checkpoint("neox"))


def test_keep_the_old(run: Example) -> None:
    printed = run("keep_the_old")
    assert rows(printed) == {"before", "new-alone", "mixed", "fft-mixed"}
    assert printed.endswith("every weight of the base is bitwise in the trained model: True\n")


def test_compare_methods(run: Example) -> None:
    assert rows(run("compare_methods")) == {"base", *paper_methods()} - {"freeze"}


def test_the_notebook(run: Example, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells run in order, with fewer steps."""
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "steps=60" in code
    names: dict[str, Any] = {}
    exec(compile(code.replace("steps=60", "steps=2"), "tour.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    assert "max |delta logit|: 0.0" in printed
    assert "stability: Old text" in printed
