"""Seconds to start the command line."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from benchmarks.command import Result
from benchmarks.speed import frame

COMMAND = "from scale_cli.cli import main; main({words!r})"
PROGRAMS = {
    "python": "pass",
    "import scale_cli": "import scale_cli",
    "import scale_cli.model": "import scale_cli.model",
    "scale --help": COMMAND.format(words=["--help"]),
    "scale train --help": COMMAND.format(words=["train", "--help"]),
    "scale doctor": COMMAND.format(words=["doctor"]),
}
"""The code of each program that is started."""


def start(code: str, threads: int) -> None:
    """Run Python code in a new process. Raises CalledProcessError if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


def main(repetitions: frame.Repetitions = 5, threads: frame.Threads = frame.CORES) -> Result:
    """Time the start of several programs.

    Every repetition starts each program in a new process, in turn. Printed are medians of wall and CPU seconds. All
    include the start of Python, which the first line gives alone.
    """
    works = {program: functools.partial(start, code, threads) for program, code in PROGRAMS.items()}
    lines = frame.interleave(works, "program", repetitions=repetitions, warmup=1, children=True)
    return Result(
        [frame.table(lines, "program wall_seconds cpu_seconds spread", title="Starting")],
        {"threads": threads, "repetitions": repetitions, "targets": [], "lines": frame.rows(lines)},
    )
