"""People per second and memory of generating biographies."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, clocked, in_own_process
from scale_cli.core.records import peak_memory_bytes

PEOPLE = 200_000
"""Size of the first benchmark's data set. The targets are 20 seconds and 1.5 GB on two cores."""


def generate(people: int, workers: int) -> dict[str, Any]:
    """Generate biographies into a temporary folder: people, wall_seconds, cpu_seconds, peak_bytes of this process."""
    import data_gen

    with tempfile.TemporaryDirectory() as folder:
        _, cpu, wall = clocked(lambda: data_gen.generate(Path(folder) / "bios", people=people, workers=workers))
    return {"people": people, "wall_seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak_memory_bytes()}


def main(
    people: frame.Count = PEOPLE, repetitions: frame.Repetitions = 3, threads: frame.Threads = frame.CORES
) -> Result:
    """Time the generation of biographies.

    Every repetition generates the data set of `scale gen-bios` in a new process; imports are not timed. Printed are
    medians, people per second of wall time, and the largest peak memory of the process, imports included.
    """
    runs = [in_own_process(generate, people, threads) for _ in range(repetitions)]
    wall, cpu = (statistics.median(run[name] for run in runs) for name in ("wall_seconds", "cpu_seconds"))
    summary = {
        "people": people,
        "people_per_second": people / wall,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "peak_bytes": max(run["peak_bytes"] for run in runs),
    }
    targets = [
        Target(f"seconds for {people:,} people", wall, 20 * people / PEOPLE).record,
        Target("peak GB", summary["peak_bytes"] / 1e9, 1.5).record,
    ]
    printed = frame.table(
        [summary | {"cpu_ms": 1e3 * cpu / people, "peak_mb": summary["peak_bytes"] / 1e6}],
        "people people_per_second wall_seconds cpu_seconds cpu_ms peak_mb",
        title=f"Generating biographies, {threads} threads",
        headings={"cpu_ms": "CPU ms/person", "peak_mb": "peak MB"},
    )
    return Result(
        [printed],
        {
            "threads": threads,
            "repetitions": repetitions,
            "targets": targets,
            "summary": summary,
            "runs": runs,
        },
    )
