"""Suites: sets of harness tasks with the metric to read, its label, and the suite's role in a table.

    name: english
    language: en                # en, ko or other
    role: stability             # stability or plasticity
    title: English
    num_fewshot: 0              # of every task without its own entry; default: each task's own
    tasks:
      - task: arc_challenge     # a task or a group of the harness
        metric: acc_norm
        label: ARC
      - task: mmlu
        metric: acc
        label: MMLU
        aggregation: micro      # of a group, as the harness computes it: micro over items, macro over subtasks
      - task: gsm8k
        metric: exact_match
        filter: strict-match    # default: the task's first
        num_fewshot: 5
        label: GSM8K
    include_path: tasks         # folder with your own task files, beside this file; default: only the harness's

Imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe

FILE = "suite.yaml"
"""The name of a suite's file in a folder that also holds its data."""


@dataclass(frozen=True)
class SuiteTask:
    """One column of a table: a task or group of the harness, and the metric to read.

    label: its heading. filter: None for the task's first.
    num_fewshot: None for the suite's. aggregation: the harness's mean over a group's subtasks; None for a task.
    """

    task: str
    metric: str
    label: str | None = None
    filter: str | None = None
    num_fewshot: int | None = None
    aggregation: Literal["micro", "macro"] | None = None

    @property
    def heading(self) -> str:
        return self.label or self.task


@dataclass(frozen=True)
class Suite:
    """A set of tasks, checked on construction.

    tasks: the fields of `SuiteTask`, as in the YAML file. average: of the tasks' values, with equal weights.
    """

    name: str
    language: Literal["en", "ko", "other"]
    role: Literal["stability", "plasticity"]
    title: str
    tasks: tuple[Mapping[str, Any], ...]
    num_fewshot: int | None = None
    average: Literal["macro"] = "macro"
    include_path: Path | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RequestError(f"suite {self.name}: it has no tasks")
        names = [entry.task for entry in self.entries]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise RequestError(f"suite {self.name}: the task {repeated[0]} occurs twice")
        shots = [self.num_fewshot, *(entry.num_fewshot for entry in self.entries)]
        if any(number is not None and number < 0 for number in shots):
            raise RequestError(f"suite {self.name}: num_fewshot is at least 0")

    @property
    def entries(self) -> tuple[SuiteTask, ...]:
        """The tasks, each with its number of shots, None for the harness task's own."""
        try:
            entries = [load_recipe(SuiteTask, None, task) for task in self.tasks]
        except RequestError as error:
            raise RequestError(f"suite {self.name}: {error}") from error
        return tuple(
            entry if entry.num_fewshot is not None else dataclasses.replace(entry, num_fewshot=self.num_fewshot)
            for entry in entries
        )


def load_suite(file: Path) -> Suite:
    """The suite in a YAML file, or in a folder's suite.yaml, with an absolute include_path.

    Raises RequestError for a file that is missing or not a suite.
    """
    file = file / FILE if file.is_dir() else file
    suite = load_recipe(Suite, file, {})
    if suite.include_path is None:
        return suite
    folder = (file.parent / suite.include_path).resolve()
    if not folder.is_dir():
        raise RequestError(f"{file}: include_path {suite.include_path}: no such folder beside the file")
    return dataclasses.replace(suite, include_path=folder)


_FOLDER = Path(__file__).parent
_FETCHED = ("english-offline", "korean-offline")
"""Suites that come with their data, by `scale fetch`."""


def names() -> list[str]:
    """The names of the shipped suites."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def find_suite(given: str) -> Suite:
    """The shipped suite of this name, or the suite in this file or folder.

    Raises RequestError if `given` is neither.
    """
    if given in names():
        return load_suite(_FOLDER / f"{given}.yaml")
    if Path(given).exists():
        return load_suite(Path(given))
    if given in _FETCHED:
        raise RequestError(
            f"--suite {given}: it comes with its data; make it with scale fetch {given} OUT, then give --suite OUT"
        )
    near = difflib.get_close_matches(given, names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(names())}, or give a YAML file of your own"
    raise RequestError(f"--suite {given}: neither a shipped suite nor a file; {hint}")
