"""What the measurements share: their options, the clocks, and the record at their end. Imports no torch."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.speed.shapes import SHAPES
from scale_cli.core.records import write_record

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A number that shall be at most `limit`."""

    what: str
    value: float
    limit: float

    @property
    def reached(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Clocked:
    """What one thing took in the repetitions that count: medians.

    spread: half the distance of the quartiles over the median, of the seconds that are compared: those of the CPU (user
    and system), or on a GPU, for which the CPU only queues work, those of the wall's clock.
    """

    cpu_seconds: float
    wall_seconds: float
    spread: float
    compared_seconds: float


def parser(
    name: str, description: str | None, *, repetitions: int | None = None, shape: str | None = None
) -> argparse.ArgumentParser:
    """A parser with the options of a measurement and their defaults; what is None it does not have."""
    made = argparse.ArgumentParser(
        f"python -m benchmarks.speed {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if shape is not None:
        made.add_argument("--shape", choices=list(SHAPES), default=shape)
    if repetitions is not None:
        made.add_argument("--repetitions", type=positive, default=repetitions)
    made.add_argument("--threads", type=positive, default=cores)
    made.add_argument("--out", type=Path, help="write a record here")
    return made


def positive(word: str) -> int:
    """The count that an option was given."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word}: at least 1")
    return number


def clocked(work: Callable[[], T], *, device: str = "cpu") -> tuple[T, float, float]:
    """What `work` gives, its CPU seconds (user and system, all threads) and its wall seconds, on CUDA the device's."""
    if device == "cuda":
        return _clocked_on_cuda(work)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    made = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return made, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _clocked_on_cuda(work: Callable[[], T]) -> tuple[T, float, float]:
    """The same with the seconds between two events in the device's queue, once it is empty again."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before = time.process_time()
    start.record()
    made = work()
    end.record()
    end.synchronize()
    return made, time.process_time() - before, start.elapsed_time(end) / 1e3


def matrix_rate(device: str, *, bfloat16: bool, size: int | None = None) -> float:
    """Operations a second, two a multiply-add, of the best of ten products of large square matrices."""
    import torch

    size = size or (8192 if device == "cuda" else 2048)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / min(clocked(lambda: a @ b, device=device)[2] for _ in range(10))


def interleave(
    works: Mapping[T, Callable[[], Any]], *, repetitions: int, warmup: int, device: str = "cpu"
) -> dict[T, Clocked]:
    """Do every work once in a repetition, in turn, so that a busy machine slows all alike; the medians of each.

    warmup: repetitions before those that count.
    """
    seconds: dict[T, list[tuple[float, float]]] = {key: [] for key in works}
    for repetition in range(-warmup, repetitions):
        for key, work in works.items():
            _, cpu, wall = clocked(work, device=device)
            if repetition >= 0:
                seconds[key].append((cpu, wall))
    return {key: summarised(runs, by_wall=device == "cuda") for key, runs in seconds.items()}


def summarised(runs: Sequence[tuple[float, float]], *, by_wall: bool = False) -> Clocked:
    """The medians of runs, each with its CPU and wall seconds."""
    compared = [wall if by_wall else cpu for cpu, wall in runs]
    median = statistics.median(compared)
    quartiles = statistics.quantiles(compared, n=4) if len(compared) > 1 else [median] * 3
    return Clocked(
        cpu_seconds=statistics.median(cpu for cpu, _ in runs),
        wall_seconds=statistics.median(wall for _, wall in runs),
        spread=(quartiles[2] - quartiles[0]) / 2 / median,
        compared_seconds=median,
    )


def in_own_process(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What `function` returns in a fresh process; this one holds little, as a process's peak begins at its parent's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **keywords).result()


def write_speed_record(
    out: Path | None, name: str, words: list[str], *, targets: Sequence[Target] = (), **fields: Any
) -> None:
    """Write the record of a measurement, if one is wanted."""
    if out:
        judged = [vars(target) | {"reached": target.reached} for target in targets]
        write_record(out, command=" ".join(["python -m benchmarks.speed", name, *words]), targets=judged, **fields)
