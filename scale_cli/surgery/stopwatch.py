"""Wall and CPU seconds by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Sums the seconds of each stage: `with clock("svd"): ...` any number of times, then `clock.seconds["svd"]`.

    seconds: wall time. cpu_seconds: user and system time of all threads of this process. The time of a stage inside
    another stage counts only for the inner one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        inner, inner_cpu = sum(self.seconds.values()), sum(self.cpu_seconds.values())
        start, start_cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            for times, now, begin, before in (
                (self.seconds, time.perf_counter(), start, inner),
                (self.cpu_seconds, time.process_time(), start_cpu, inner_cpu),
            ):
                inside = sum(times.values()) - before
                times[stage] = times.get(stage, 0.0) + now - begin - inside
