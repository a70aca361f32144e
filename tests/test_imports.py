"""Imports point one way, and looking at the tool loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scale_cli.cli.app import COMMANDS

ROOT = Path(__file__).parent.parent
OURS = ("scale_cli", "data_gen", "benchmarks")
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


def imported(file: Path) -> Iterator[str]:
    """The full names a module imports, wherever in it."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def wrong_imports(files: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if within(name, forbidden)
    ]


def test_data_gen_imports_nothing_of_ours() -> None:
    assert wrong_imports([*ROOT.glob("data_gen/**/*.py")], ("scale_cli", "benchmarks", "torch")) == []


def test_the_library_does_not_import_what_uses_it() -> None:
    library = [file for file in ROOT.glob("scale_cli/**/*.py") if ROOT / "scale_cli" / "cli" not in file.parents]
    assert len(library) > 3
    assert wrong_imports(library, ("scale_cli.cli", "benchmarks", "data_gen", "typer")) == []


def test_benchmarks_do_not_import_the_command_line() -> None:
    assert wrong_imports([*ROOT.glob("benchmarks/**/*.py")], ("scale_cli.cli", "typer")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import scale_cli.cli",
        "from scale_cli import cli",
        "def f():\n    from scale_cli.cli.app import main",
        "from . import cli",
        "from .cli import app",
    ],
)
def test_a_wrong_import_is_seen(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "scale_cli" / "module.py"
    file.parent.mkdir()
    file.write_text(line)
    assert len(wrong_imports([file], ("scale_cli.cli",))) == 1
    assert wrong_imports([file], ("scale_cli.client", "benchmarks")) == []


def loaded_after(program: str) -> set[str]:
    """The heavy packages that are loaded when a program has run in a fresh interpreter."""
    program += f"\nimport sys\nprint('loaded', *set({HEAVY!r}) & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ended.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("module", ["scale_cli", "scale_cli.core.recipe", "scale_cli.core.records", "scale_cli.cli"])
def test_importing_the_frame_loads_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import {module}") == set()


def test_help_loads_nothing_heavy() -> None:
    helps = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    program = f"from scale_cli.cli import main\nfor words in {helps!r}: assert main(words) == 0"
    assert loaded_after(program) == set()


def test_something_heavy_would_be_seen() -> None:
    assert "pyarrow" in loaded_after("import pyarrow")
