"""Interrupts an upscaling at many different moments.

A forked process runs the command. It sends itself a signal at its n-th access to a file or folder, for every n, or gets
one from this process after some milliseconds. After each the result must be complete or missing.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from scale_cli.cli import main
from tests.helpers import base_folder

WAYS = {"width": ["--by", "width", "--hidden", "8"], "depth": ["--by", "depth", "--layers", "3", "--no-verify"]}
TERMINATED = 143


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder, by path."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def signal_at(step: int, number: int, folder: Path) -> None:
    """Send this process a signal at its access number `step` to `folder`.

    SIGKILL counts only what changes the folder: between two changes, a kill leaves the same files.
    """
    steps = itertools.count()

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        reads = event == "os.listdir" or (event == "open" and arguments[1] == "r")
        there = any(isinstance(word, str) and word.startswith(str(folder)) for word in arguments)
        if there and not (reads and number == signal.SIGKILL) and next(steps) == step:
            os.kill(os.getpid(), number)

    sys.addaudithook(on_event)


def run(words: list[str], out: Path, *, step: int | None, delay: float | None, number: int) -> int:
    """Run the command in a forked process, with a signal at a step or after a delay. Returns its wait status."""
    process = os.fork()
    if process == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        if step is not None:
            signal_at(step, number, out.parent)
        code = 1
        try:
            code = main(words)
        finally:
            os._exit(code)
    if delay is not None:
        time.sleep(delay)
        os.kill(process, number)
    return os.waitpid(process, 0)[1]


def check(folder: Path, base: Path, way: str, number: int) -> collections.Counter[str]:
    """Interrupt at every step and at some times. Returns the counts of complete, missing and abandoned results."""
    out = folder / "work" / "out"
    words = ["upscale", str(base), str(out), *WAYS[way]]
    found: collections.Counter[str] = collections.Counter()
    out.parent.mkdir()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(words) == 0  # here, so that what is loaded on demand is loaded in every fork
    expected = contents(out)
    shutil.rmtree(out)
    gc.freeze()
    start = time.perf_counter()
    assert run(words, out, step=None, delay=None, number=number) == 0
    seconds = time.perf_counter() - start
    assert contents(out) == expected
    assert len(expected) > 5
    shutil.rmtree(out)
    moments: list[dict[str, Any]] = [{"step": None, "delay": seconds * part / 4} for part in range(5)]
    for moment in itertools.chain(moments, ({"step": step, "delay": None} for step in itertools.count())):
        status = run(words, out, number=number, **moment)
        left = sorted(path.name for path in out.parent.iterdir())
        if out.exists():
            assert contents(out) == expected, f"{moment}: a part of the result is there"
            shutil.rmtree(out)
            found["whole"] += 1
        else:
            found["nothing"] += 1
        if number == signal.SIGKILL:
            found["abandoned"] += any(name.endswith(".partial") for name in left)
            assert left in ([], ["out"]) or len(left) == 1, f"{moment}: {left}: what the last one left was not removed"
        else:
            assert left in ([], ["out"]), f"{moment}: {left} is left"
            codes = (0, TERMINATED, -number)  # the last before the command listens
            assert os.waitstatus_to_exitcode(status) in codes, f"{moment}: ended with {status}"
        if moment["step"] is not None and status == 0:  # there was no such step
            break
    assert run(words, out, step=None, delay=None, number=number) == 0
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    shutil.rmtree(out.parent)
    return found


def interrupt(work: Path) -> None:
    """Print the counts of SIGKILL by width and of SIGTERM by depth, as JSON. work: an empty folder."""
    base = base_folder(work / "base", num_hidden_layers=2)
    ways = {"width": signal.SIGKILL, "depth": signal.SIGTERM}
    print(json.dumps({way: check(work, base, way, number) for way, number in ways.items()}))
