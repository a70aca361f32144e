"""Several trainings of a benchmark at once, each in a process of its own on the same machine.

A step of a small model waits for calls rather than for arithmetic, so that two trainings side by side take little
longer than one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from scale_cli.bench.stages import Progress


@dataclass(frozen=True)
class Call:
    """A part of a benchmark that can run in another process.

    run: can be pickled; called with `say` and `progress`, as the benchmarks' `run`. steps: number of training steps.
    """

    run: Callable[..., None]
    steps: int


def run_together(calls: Sequence[Call], jobs: int, *, say: Callable[[str], None], progress: Progress) -> None:
    """Run calls, at most `jobs` at once. They share the processor's threads evenly, and take turns on the GPUs.

    Raises what a call raises, once the running ones have ended. After Ctrl-C or SIGTERM trainings write a checkpoint.
    """
    workers = min(jobs, len(calls))
    if workers < 2:
        for call in calls:
            call.run(say=say, progress=progress)
        return
    import torch

    context = multiprocessing.get_context("spawn")
    messages, numbers = context.SimpleQueue(), context.SimpleQueue()
    for number in range(workers):
        numbers.put(number)
    started = (messages, numbers, max(1, torch.get_num_threads() // workers), torch.cuda.device_count())
    steps = sum(call.steps for call in calls)
    pool = ProcessPoolExecutor(workers, context, _start, started)
    with progress(f"{len(calls)} trainings, {workers} at once", steps, done=0) as advance, _passed_on(signal.SIGTERM):
        done, shown = [0] * len(calls), 0
        futures = {pool.submit(_work, index, call.run): index for index, call in enumerate(calls)}
        try:
            running = set(futures)
            while running:
                ended, running = wait(running, timeout=0.2)
                while not messages.empty():
                    index, message = messages.get()
                    if isinstance(message, str):
                        say(message)
                    else:
                        done[index] = message
                for future in ended:
                    future.result()
                    done[futures[future]] = calls[futures[future]].steps
                if sum(done) != shown:  # a display without a bar prints a line at each call once all steps are done
                    shown = sum(done)
                    advance(done=shown)
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _passed_on(number: signal.Signals) -> Iterator[None]:
    """Inside the block the signal is sent to all workers and raises KeyboardInterrupt here, as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # others cannot handle signals
        yield
        return
    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)


_messages: Any = None
"""In a worker: the queue of its messages, (index of the call, line or number of steps done)."""


def _start(messages: Any, numbers: Any, threads: int, devices: int) -> None:
    """Prepare a worker. numbers: queue with the number of each worker."""
    global _messages
    _messages = messages
    number = numbers.get()
    if devices > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % devices)
    import torch

    from scale_cli.checkpoints.libraries import quiet_libraries

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while it waits for a call
    torch.set_num_threads(threads)
    quiet_libraries()


def _work(index: int, run: Callable[..., None]) -> None:
    """Run a call in a worker."""
    finished = 0  # steps of the stages before the present one

    @contextlib.contextmanager
    def progress(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
        nonlocal finished

        def advance(*, done: int | None = None, **others: Any) -> None:
            if total is not None and done is not None:  # measurements do not know their total beforehand
                _messages.put((index, finished + done))

        yield advance
        finished += total or 0

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(say=lambda line: _messages.put((index, line)), progress=progress)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
