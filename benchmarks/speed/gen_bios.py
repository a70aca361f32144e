"""Synthetic biographies: `python -m benchmarks.speed gen-bios`.

Every repetition generates so many people, as `scale gen-bios` does, in a process of its own; imports are not counted.
The medians: people a second of the wall's clock, and the most memory that the process held, imports included.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import Target, clocked, in_own_process
from scale_cli.core.records import peak_memory_bytes

PEOPLE = 200_000
"""The data set of the first benchmark, which shall take 20 seconds and 1.5 GB on two cores."""


@dataclass(frozen=True)
class Run:
    """One measurement. peak_bytes: the most memory of the process."""

    people: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int

    @property
    def people_per_second(self) -> float:
        return self.people / self.wall_seconds


def generate(people: int, workers: int) -> Run:
    """Generate people into a temporary folder, in this process."""
    import data_gen

    with tempfile.TemporaryDirectory() as folder:
        _, cpu, wall = clocked(lambda: data_gen.generate(Path(folder) / "bios", people=people, workers=workers))
    return Run(people, wall, cpu, peak_memory_bytes())


def summary(runs: list[Run]) -> Run:
    """The medians, and the most memory of any."""
    return Run(
        people=runs[0].people,
        wall_seconds=statistics.median(run.wall_seconds for run in runs),
        cpu_seconds=statistics.median(run.cpu_seconds for run in runs),
        peak_bytes=max(run.peak_bytes for run in runs),
    )


def speed_table(run: Run, *, title: str) -> Table:
    """The summary for a terminal."""
    table = Table(title=title, title_justify="left")
    for heading in ("people", "people/s", "wall s", "CPU s", "CPU ms/person", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(
        f"{run.people:,}",
        f"{run.people_per_second:,.0f}",
        f"{run.wall_seconds:.1f}",
        f"{run.cpu_seconds:.1f}",
        f"{1e3 * run.cpu_seconds / run.people:.3f}",
        f"{run.peak_bytes / 1e6:,.0f}",
    )
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement."""
    parser = common.parser("gen-bios", __doc__, repetitions=3)
    parser.add_argument("--people", type=common.positive, default=PEOPLE)
    arguments = parser.parse_args(words)
    runs = [in_own_process(generate, arguments.people, arguments.threads) for _ in range(arguments.repetitions)]
    found = summary(runs)
    Console().print(speed_table(found, title=f"Generating biographies, {arguments.threads} threads"))
    share = arguments.people / PEOPLE
    common.write_speed_record(
        arguments.out,
        "gen-bios",
        words,
        targets=[
            Target(f"seconds for {arguments.people:,} people", found.wall_seconds, 20 * share),
            Target("peak GB", found.peak_bytes / 1e9, 1.5),
        ],
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        summary=vars(found) | {"people_per_second": found.people_per_second},
        runs=runs,
    )
