"""How long the tool takes until it answers: `python -m benchmarks.speed startup`.

Every repetition starts each program in a process of its own, in turn; the medians of seconds by the wall's clock and of
the processor, those of starting Python included, which the first line gives alone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import summarised

COMMAND = "from scale_cli.cli import main; main({words!r})"
PROGRAMS = {
    "python": "pass",
    "import scale_cli": "import scale_cli",
    "import scale_cli.model": "import scale_cli.model",
    "scale --help": COMMAND.format(words=["--help"]),
    "scale train --help": COMMAND.format(words=["train", "--help"]),
    "scale doctor": COMMAND.format(words=["doctor"]),
}
"""What is started, by what it is."""


@dataclass(frozen=True)
class Line:
    """Medians over repetitions. spread: half the distance of the quartiles over the median, of the wall's seconds."""

    program: str
    wall_seconds: float
    cpu_seconds: float
    spread: float


def started(code: str, threads: int) -> tuple[float, float]:
    """CPU and wall seconds of a Python process that runs this code. Raises CalledProcessError where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(*, repetitions: int, warmup: int, threads: int) -> list[Line]:
    """A line for each program."""
    runs: dict[str, list[tuple[float, float]]] = {program: [] for program in PROGRAMS}
    for repetition in range(-warmup, repetitions):
        for program, code in PROGRAMS.items():
            seconds = started(code, threads)
            if repetition >= 0:
                runs[program].append(seconds)
    clocks = {program: summarised(seconds, by_wall=True) for program, seconds in runs.items()}
    return [Line(name, clock.wall_seconds, clock.cpu_seconds, clock.spread) for name, clock in clocks.items()]


def speed_table(lines: list[Line], *, title: str) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    table.add_column("program", no_wrap=True)
    for heading in ("wall s", "CPU s", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(line.program, *(f"{cell:.3f}" for cell in (line.wall_seconds, line.cpu_seconds, line.spread)))
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement."""
    parser = common.parser("startup", __doc__, repetitions=5)
    arguments = parser.parse_args(words)
    lines = measure(repetitions=arguments.repetitions, warmup=1, threads=arguments.threads)
    Console().print(speed_table(lines, title="Starting"))
    common.write_speed_record(
        arguments.out,
        "startup",
        words,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        lines=lines,
    )
