"""Processes that start at once: they are forked from a server that has imported torch, transformers and this package.

The agent of torchrun is used in `tests.training.test_processes`; elsewhere its environment variables stand for it.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import multiprocessing
import os
import pkgutil
import socket
from collections.abc import Callable, Mapping
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.once import looked_up_once
from tests.runs import ROOT

ON_THE_CPU = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
"""The environment of a process whose libraries are imported from nothing."""
NEEDED = ("tests.runs", "scale_cli.cli.app", "scale_cli.evaluation.harness", "transformers.trainer")
"""The imports of the server."""
STREAMS = ("stdout", "stderr")


@functools.cache
def server() -> Any:
    """The context whose processes are forked from the server, which starts here."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ON_THE_CPU.items():
            patch.setenv(name, value)
        context.set_forkserver_preload([__name__, *NEEDED])
        forkserver.ensure_running()
    return context


@dataclasses.dataclass(frozen=True)
class Forked:
    """A running process, which writes its output into files of a folder."""

    process: BaseProcess
    folder: Path

    def wait(self) -> tuple[int | None, str, str]:
        """At its end, the exit code (-9: killed by SIGKILL) and what is in stdout and stderr."""
        self.process.join()
        printed, messages = ((self.folder / name).read_text(encoding="utf-8") for name in STREAMS)
        return self.process.exitcode, printed, messages


def start(
    function: Callable[..., Any],
    *words: Any,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    patches: Mapping[str, Any] | None = None,
) -> Forked:
    """Call a function of a module in a new process.

    folder: a new one, for the output. variables: added to this process's environment. patches: values by dotted name,
    set first. Everything is pickled.
    """
    folder.mkdir()
    environment = {**os.environ, **ON_THE_CPU, **(variables or {})}
    arguments = (function, words, folder, environment, dict(patches or {}))
    process = server().Process(target=_call, args=arguments)
    process.start()
    return Forked(process, folder)


def _call(
    function: Callable[..., Any], words: tuple[Any, ...], folder: Path, environment: dict[str, str], patches: Any
) -> None:
    for stream, name in enumerate(STREAMS, start=1):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # every training run collects garbage; it need not look at all that was imported
    for name, value in patches.items():
        parent, _, attribute = name.rpartition(".")
        setattr(pkgutil.resolve_name(parent), attribute, value)
    with looked_up_once():
        function(*words)


def scale(*commands: list[str]) -> None:
    """Run `scale` commands; the first that fails ends the process."""
    from scale_cli.cli import main

    for words in commands:
        if code := main(words):
            raise SystemExit(code)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def together(
    count: int, folder: Path, *commands: list[Any], patches: Mapping[str, Any] | None = None, code: int = 0
) -> str:
    """What `scale` commands print in processes that share the work as under torchrun. All must end with `code`."""
    group = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    words = [[str(word) for word in command] for command in commands]
    begun = []
    for rank in range(count):
        numbers = {**group, "RANK": rank, "LOCAL_RANK": rank}
        variables = {name: str(number) for name, number in numbers.items()}
        begun.append(start(scale, *words, folder=folder / f"process-{rank}", variables=variables, patches=patches))
    running = [each.process for each in begun]
    while running:
        connection.wait([process.sentinel for process in running])
        ended = [process for process in running if process.exitcode is not None]
        running = [process for process in running if process not in ended]
        if any(process.exitcode != code for process in ended):
            for process in running:  # they would wait for the one that failed
                process.kill()
    codes, printed, messages = zip(*(each.wait() for each in begun), strict=True)
    assert codes == (code,) * count, messages
    return "".join(printed)
