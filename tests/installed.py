"""Every command of an installed `scale`, from a folder outside the checkout: `python -m tests.installed ENVIRONMENT`.

ENVIRONMENT is a virtual environment with the wheel, without extras and without the checkout. The folder holds a package
`benchmarks`, which no command may import. The exit code is 1 if a command fails, or does not refuse a missing extra.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.runs import make_world

NEEDS_AN_EXTRA = ["fetch", "smollm2", "smollm2"]


def commands(base: Path, people: Path) -> list[list[str]]:
    """The arguments of `scale`, in order; later commands use what earlier ones wrote."""
    llama = str(base)
    training = ["--data", "bios", "--people", "0:8", "--objective", "qa", "--steps", "2", "--batch-size", "4"]
    return [
        ["--version"],
        ["doctor"],
        ["eval", "--suite", "english", "--help"],
        ["bench", "ablations", "init", "--dry-run"],
        ["bench", "korean", "--dry-run"],
        ["bench", "bios", "--dry-run"],
        ["sweep", "bios", "--help"],
        ["fetch", "--help"],
        ["push", "--help"],
        ["gen-bios", "bios", "--people", "16", "--bios", "2"],
        ["data", "bios", "--tokenizer", llama, "--tokens", "10000", "--samples", "1"],
        ["plan", llama, "--hidden", "8"],
        ["upscale", llama, "wide", "--by", "width", "--hidden", "8"],
        ["upscale", llama, "deep", "--by", "depth", "--layers", "3"],
        ["train", "wide", "run", "--method", "scale-route", "--preserve-layers", "1", *training],
        ["eval", f"base={llama}", "run=run", "--bios", str(people), "--people", "0:4", "--out", "results"],
        ["generate", llama, "run", "--router", "mixture:1", "--base", llama, "--prompt", "Ann"],
        ["chat", "--help"],
        ["report", "results"],
        ["report", "results", "--format", "html", "--out", "report.html"],
        ["export", "run", "whole"],
        NEEDS_AN_EXTRA,
    ]


def main(environment: str) -> int:
    program = Path(environment).resolve() / "bin" / "scale"
    table = Table("command", "exit code", "last line")
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "elsewhere"
        (folder / "benchmarks").mkdir(parents=True)
        (folder / "benchmarks" / "__init__.py").write_text("raise ImportError('the benchmarks of this folder')\n")
        world = make_world(Path(temporary) / "world")
        for arguments in commands(world.checkpoint("llama"), world.data):
            ended = subprocess.run(
                [program, *arguments],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            lines = (ended.stderr if ended.returncode else ended.stdout or ended.stderr).strip().splitlines()
            last = escape(lines[-1]) if lines else ""
            table.add_row(" ".join(arguments).replace(temporary, "..."), str(ended.returncode), last)
            failed |= ended.returncode != (2 if arguments == NEEDS_AN_EXTRA else 0)
    Console(width=160).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
