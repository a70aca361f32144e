"""Seconds by stage, of the wall's clock and of the processor's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Adds up what each stage takes: `with clock("svd"): ...` as often as wanted, then `clock.seconds["svd"]`.

    seconds: of the wall's clock. cpu_seconds: of the processor, user and system, all threads of this process. A stage
    inside another counts for itself alone.
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
