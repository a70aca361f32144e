"""What the measurements share: their options, the clocks, and the record at their end. Imports no torch."""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.speed.shapes import SHAPES
from scale_cli.records import write_record

T = TypeVar("T")


def parser(name: str, description: str | None, *, shape: str, repetitions: int) -> argparse.ArgumentParser:
    """A parser with the options that every measurement has, and their defaults."""
    made = argparse.ArgumentParser(
        f"python -m benchmarks.speed {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    made.add_argument("--shape", choices=list(SHAPES), default=shape)
    made.add_argument("--repetitions", type=_positive, default=repetitions)
    made.add_argument("--threads", type=_positive, default=cores)
    made.add_argument("--out", type=Path, help="write a record here")
    return made


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word}: at least 1")
    return number


def clocked(work: Callable[[], T]) -> tuple[T, float, float]:
    """What `work` gives, its CPU seconds (user and system, all threads) and its wall seconds."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    made = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return made, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def write_speed_record(out: Path | None, name: str, words: list[str], **fields: Any) -> None:
    """Write the record of a measurement, if one is wanted."""
    if out:
        write_record(out, command=" ".join(["python -m benchmarks.speed", name, *words]), **fields)
