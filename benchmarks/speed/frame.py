"""The frame of the speed measurements: their options, clocks, interleaved repetitions, tables and targets.

Imports no torch, and pandas only when needed: both would count in the peak memory of the processes that are measured.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from scale_cli.core.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

Count = Annotated[int, typer.Option(min=1)]
Repetitions = Annotated[int, typer.Option(min=1, help="Repetitions that are measured.")]
Warmup = Annotated[int, typer.Option(min=0, help="Repetitions before the measured ones.")]
Threads = Annotated[int, typer.Option(min=1)]
HEADINGS = {
    "kind": "model",
    "wall_seconds": "wall s",
    "cpu_seconds": "CPU s",
    "tokens_per_second": "tokens/s",
    "people_per_second": "people/s",
}
"""Headings of columns that are not called by their name."""
FORMATS = {"utilisation": ".1%"} | dict.fromkeys(
    ("tokens_per_second", "people_per_second", "peak_mb", "weights", "estimated", "measured", "from", "to"), ",.0f"
)
"""Formats of columns that are not text, whole numbers, or numbers with three decimals."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Target:
    """A measured number that should be at most `limit`. what: its description."""

    what: str
    value: float
    limit: float

    @property
    def record(self) -> dict[str, Any]:
        return vars(self) | {"reached": bool(self.value <= self.limit)}


def device() -> str:
    """The device that is measured: "cuda" if there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen(option: str, text: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """The names in a list such as "a,b". Raises RequestError for a name outside `allowed`. option: the list's flag."""
    names, allowed = tuple(text.split(",")), list(allowed)
    if unknown := [name for name in names if name not in allowed]:
        raise RequestError(f"{option} {text}: {unknown[0]!r} is not one of {', '.join(allowed)}")
    return names


def clocked(work: Callable[[], T], *, device: str = "cpu", children: bool = False) -> tuple[T, float, float]:
    """The result of `work`, its CPU seconds (user and system, all threads) and its wall seconds.

    device: on "cuda", wall seconds are the device's, between two events in its empty queue.
    children: count the CPU seconds of finished child processes instead of this process's own.
    """
    if device == "cuda":
        return _clocked_on_cuda(work)
    process = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    before, start = resource.getrusage(process), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - start, resource.getrusage(process)
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _clocked_on_cuda(work: Callable[[], T]) -> tuple[T, float, float]:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before = time.process_time()
    start.record()
    result = work()
    end.record()
    end.synchronize()
    return result, time.process_time() - before, start.elapsed_time(end) / 1e3


def medians(runs: Sequence[tuple[float, float]], *, by_wall: bool = False) -> dict[str, float]:
    """The medians of runs, each a pair of CPU and wall seconds: cpu_seconds, wall_seconds, compared_seconds, spread.

    compared_seconds: the wall seconds if `by_wall`, as on a GPU, for which the CPU only queues work; else the CPU's.
    spread: half the interquartile range of the compared seconds, over their median.
    """
    compared = [wall if by_wall else cpu for cpu, wall in runs]
    median = statistics.median(compared)
    quartiles = statistics.quantiles(compared, n=4) if len(compared) > 1 else [median] * 3
    return {
        "cpu_seconds": statistics.median(cpu for cpu, _ in runs),
        "wall_seconds": statistics.median(wall for _, wall in runs),
        "compared_seconds": median,
        "spread": (quartiles[2] - quartiles[0]) / 2 / median,
    }


def interleave(
    works: Mapping[Any, Callable[[], Any]],
    *names: str,
    repetitions: int,
    warmup: int,
    device: str = "cpu",
    children: bool = False,
) -> pd.DataFrame:
    """Run every work once per repetition, in turn, so that other load on the machine slows all of them alike.

    works: by key, a tuple if there are several names. warmup: repetitions before the measured ones.
    children: each work starts a process, whose seconds are measured; wall seconds are compared.
    Returns one row per work: its key in the columns `names`, and the columns of `medians`.
    """
    import pandas as pd

    seconds: dict[Any, list[tuple[float, float]]] = {key: [] for key in works}
    for repetition in range(-warmup, repetitions):
        for key, work in works.items():
            _, cpu, wall = clocked(work, device=device, children=children)
            if repetition >= 0:
                seconds[key].append((cpu, wall))
    by_wall = children or device == "cuda"
    rows = {key: medians(runs, by_wall=by_wall) for key, runs in seconds.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(list(names)).reset_index()


def over_first(values: pd.Series[Any], groups: pd.Series[Any] | None = None) -> pd.Series[Any]:
    """Every value over the first value, or over the first value of its group."""
    return values / (values.iloc[0] if groups is None else values.groupby(groups).transform("first"))


def rows(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as a record holds them. compared_seconds is left out: it is one of the other columns."""
    return lines.drop(columns="compared_seconds", errors="ignore").to_dict("records")  # type: ignore[return-value]


def table(
    lines: pd.DataFrame | Sequence[Mapping[str, Any]], columns: str, *, title: str, headings: Mapping[str, str] = {}
) -> Table:
    """Rows for a terminal. A missing number is "-". A value of the first column is not repeated in the next rows.

    columns: names in `lines`, separated by blanks. headings: instead of `HEADINGS` and the name.
    """
    printed, names = Table(title=title, title_justify="left"), columns.split()
    records = lines if isinstance(lines, Sequence) else lines.to_dict("records")
    for number, name in enumerate(names):
        is_text = all(isinstance(line[name], str) for line in records)
        heading = (HEADINGS | dict(headings)).get(name, name)
        printed.add_column(heading, justify="left" if is_text else "right", no_wrap=not (is_text and number))
    previous = None
    for line in records:
        first, *cells = (_cell(name, line[name]) for name in names)
        printed.add_row("" if first == previous else first, *cells)
        previous = first
    return printed


def _cell(name: str, value: Any) -> str:
    if value is None or value != value:
        return "-"
    default = {str: "", int: ","}.get(type(value), ".3f")
    return format(value, FORMATS.get(name, default))


def in_own_process(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """The result of a function in a new process. Call it from a small one: peak memory starts at the parent's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **keywords).result()
