"""Trainings that run at once in processes of their own."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scale_cli.bench import bios
from scale_cli.bench.stages import BenchResult
from scale_cli.bench.together import Call, run_together
from scale_cli.core.errors import RequestError
from tests.runs import bench_file, lines, silent, values


def step_twice(folder: Path, name: str, *, say: Callable[[str], None], progress: Callable[..., Any]) -> None:
    """Two stages of three steps, and a measurement of unknown length. A name of "refused" raises."""
    if name == "refused":
        raise RequestError("refused: no")
    for stage in ("first", "second"):
        with progress(stage, 3, done=0) as advance:
            for step in (1, 2, 3):
                advance(done=step)
    with progress("measured", None, done=0) as advance:
        advance(done=7, total=9)
    say(f"{name} is done")
    (folder / f"{name}-{os.getpid()}").touch()


def test_calls_run_in_other_processes_and_report(tmp_path: Path) -> None:
    shown: list[Any] = []

    @contextlib.contextmanager
    def progress(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
        shown.append((label, total))
        yield lambda *, done: shown.append(done)

    said: list[str] = []
    calls = [Call(functools.partial(step_twice, tmp_path, name), 6) for name in ("a", "b", "c")]
    run_together(calls, 2, say=said.append, progress=progress)
    assert sorted(said) == ["a is done", "b is done", "c is done"]
    assert (shown[0], shown[-1]) == (("3 trainings, 2 at once", 18), 18)
    assert sorted(set(shown[1:])) == shown[1:]
    names, pids = zip(*(path.name.split("-") for path in tmp_path.iterdir()), strict=True)
    assert sorted(names) == ["a", "b", "c"]
    assert str(os.getpid()) not in pids
    refused = [Call(functools.partial(step_twice, tmp_path, name), 6) for name in ("refused", "d")]
    with pytest.raises(RequestError, match=r"^refused: no$"):
        run_together(refused, 2, say=said.append, progress=progress)


def test_two_trainings_at_once_are_those_of_one_after_the_other(bios_run: BenchResult, tmp_path: Path) -> None:
    recipe = bios.load_preset(bench_file(tmp_path), jobs=2)
    result = bios.run(recipe, tmp_path / "out", say=print, progress=silent)
    assert values(result) == values(bios_run)
    for label in recipe.methods:
        run = Path("seed-0") / label
        assert lines(tmp_path / "out" / run) == lines(bios_run.out / run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"jobs": 0}, "--jobs 0: at least 1"), ({"jobs": 2, "gpus": 2}, "--jobs 2: the recipe's gpus 2 share every")],
)
def test_numbers_of_jobs_that_do_not_fit(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        bios.load_preset(bench_file(tmp_path, **changes))
