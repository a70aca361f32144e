"""Suites: which tasks of the harness are read together, by which metric, and what they stand for in a table.

    name: english
    language: en                # en, ko or other
    role: stability             # what the numbers say: stability or plasticity
    title: English
    num_fewshot: 0              # of every task that does not say otherwise; left out: each task's own
    tasks:
      - task: arc_challenge     # a task or a group of the harness
        metric: acc_norm
        label: ARC
      - task: mmlu
        metric: acc
        label: MMLU
        aggregation: micro      # of a group: as the harness computes it, micro over items or macro over subtasks
      - task: gsm8k
        metric: exact_match
        filter: strict-match    # left out: the task's first
        num_fewshot: 5
        label: GSM8K
    include_path: tasks         # folder with task files of one's own, beside this file; left out: only the harness's

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
"""What a suite is called in a folder that holds its data as well."""


@dataclass(frozen=True)
class SuiteTask:
    """One column: a task or group of the harness, and which of its numbers is read.

    label: its heading. filter: None for the task's first.
    num_fewshot: None for the suite's. aggregation: what the harness does with a group's subtasks; None for a task.
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
    """The tasks that are read together; checked on construction.

    tasks: the fields of `SuiteTask`, as the YAML has them. average: of the tasks' values, each counting the same.
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
        if twice := [name for name in names if names.count(name) > 1]:
            raise RequestError(f"suite {self.name}: the task {twice[0]} stands twice")
        shots = [self.num_fewshot, *(entry.num_fewshot for entry in self.entries)]
        if any(number is not None and number < 0 for number in shots):
            raise RequestError(f"suite {self.name}: num_fewshot is at least 0")

    @property
    def entries(self) -> tuple[SuiteTask, ...]:
        """Its tasks, each with the number of shots that is meant (None: the task's own)."""
        try:
            entries = [load_recipe(SuiteTask, None, task) for task in self.tasks]
        except RequestError as error:
            raise RequestError(f"suite {self.name}: {error}") from error
        return tuple(
            entry if entry.num_fewshot is not None else dataclasses.replace(entry, num_fewshot=self.num_fewshot)
            for entry in entries
        )


def load_suite(file: Path) -> Suite:
    """The suite in a YAML file, or in the suite.yaml of a folder; its include_path becomes a whole path.

    Raises RequestError for a file that is missing or is no suite.
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
    """The shipped suites' names."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def find_suite(word: str) -> Suite:
    """The shipped suite of that name, or the one in a file or folder of the user's own.

    Raises RequestError for a word that is neither.
    """
    if word in names():
        return load_suite(_FOLDER / f"{word}.yaml")
    if Path(word).exists():
        return load_suite(Path(word))
    if word in _FETCHED:
        raise RequestError(
            f"--suite {word}: it comes with its data; make it with scale fetch {word} OUT, give --suite OUT"
        )
    near = difflib.get_close_matches(word, names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(names())}, or give a YAML file of your own"
    raise RequestError(f"--suite {word}: neither a shipped suite nor a file; {hint}")
