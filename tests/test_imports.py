"""Imports of the command line and data files of the wheel. The direction of imports is checked by `make lint`."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scale_cli.cli.app import COMMANDS

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "pyarrow",
    "peft",
    "accelerate",
    "lm_eval",
    "matplotlib",
    "faker",
)


def loaded_after(program: str) -> set[str]:
    """The heavy packages that are loaded when a program has run in a fresh interpreter."""
    program += f"\nimport sys\nprint('loaded', *set({HEAVY!r}) & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ended.stdout.splitlines()[-1].split()[1:])


def test_importing_the_frame_loads_nothing_heavy() -> None:
    assert loaded_after("import scale_cli.core.recipe, scale_cli.core.records, scale_cli.cli") == set()


def test_help_loads_nothing_heavy() -> None:
    helps = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    program = f"from scale_cli.cli import main\nfor words in {helps!r}: assert main(words) == 0"
    assert loaded_after(program) == set()


def test_a_mistake_in_a_training_is_told_before_anything_heavy_is_loaded() -> None:
    words = ["train", "base", "run", "--data", "text.txt", "--method", "fft", "--steps", "0"]
    assert loaded_after(f"from scale_cli.cli import main\nassert main({words!r}) == 2") == set()


def test_something_heavy_would_be_seen() -> None:
    assert "pyarrow" in loaded_after("import pyarrow")


@pytest.mark.parametrize("package", ["scale_cli", "data_gen"])
def test_every_data_file_of_a_package_is_in_the_wheel(package: str) -> None:
    settings, folder = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")), ROOT / package
    found = [set(folder.glob(pattern)) for pattern in settings["tool"]["setuptools"]["package-data"][package]]
    assert all(found)
    files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == set.union(*found)
