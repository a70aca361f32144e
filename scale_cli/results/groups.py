"""Groups of columns, each with its side of the trade-off between stability and plasticity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scale_cli.core.files import parsed
from scale_cli.results.measurement import main_metric

Role = Literal["stability", "plasticity"]
ROLES: tuple[Role, ...] = ("stability", "plasticity")
ROLE_WORDS: Mapping[str, Role] = {"old": "stability", "task0": "stability", "new": "plasticity", "task1": "plasticity"}
"""First words of the names of texts and people that state their role: "old", "old-laws", "task1"."""


@dataclass(frozen=True)
class ColumnSpec:
    """A requested column: a metric of a task, and its heading.

    filter, num_fewshot: as measured, None for any.
    aggregation: average over the subtasks of a task group, "micro" or "macro"; None for a single task.
    """

    __pydantic_config__ = {"extra": "forbid"}

    task: str
    metric: str
    label: str
    filter: str | None = None
    num_fewshot: int | None = None
    aggregation: str | None = None


@dataclass(frozen=True)
class GroupSpec:
    """Columns under one heading.

    role: side of the trade-off that the columns measure, None for neither.
    average: summarise the group by the mean of its columns; a single column is its own summary.
    """

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    title: str
    role: Role | None
    columns: tuple[ColumnSpec, ...]
    average: bool = True

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> GroupSpec:
        """Parse an entry of a record's `groups`. Raises ValueError if it is malformed."""
        return parsed(cls, entry)


BIOGRAPHIES = (
    GroupSpec("bios-task0", "Task 0", "stability", (ColumnSpec("bios:task0", "hard", "accuracy"),)),
    GroupSpec("bios-task1", "Task 1", "plasticity", (ColumnSpec("bios:task1", "hard", "accuracy"),)),
    GroupSpec(
        "bios-exact",
        "whole answers",
        None,
        (ColumnSpec("bios:task0", "exact", "Task 0 exact"), ColumnSpec("bios:task1", "exact", "Task 1 exact")),
        average=False,
    ),
)
"""The groups of `scale bench bios`."""


def text_group(name: str, role: Role) -> GroupSpec:
    """The group of a held-out text: bits per byte, which are comparable between tokenizers."""
    column = ColumnSpec(f"perplexity:{name}", "bits_per_byte", "bits per byte")
    return GroupSpec(f"{name}-text", f"{name.title()} text", role, (column,))


def role_of_name(name: str) -> Role | None:
    """The role that the name of a text or of people states by its first word; None if it states none."""
    return ROLE_WORDS.get(re.split(r"[\W_]", name)[0].lower())


def groups_by_name(measured: Iterable[tuple[str, str]]) -> list[GroupSpec]:
    """The groups of texts and of people whose names state their role; several of one role have an average.

    measured: task and metric of the measurements.
    """
    known: dict[tuple[Role, str], list[str]] = {}
    for task in dict.fromkeys(task for task, metric in measured if metric == main_metric(task)):
        kind, _, name = task.partition(":")
        role = role_of_name(name)
        if role is not None:
            known.setdefault((role, kind), []).append(task)
    groups = []
    for (role, kind), tasks in sorted(known.items(), key=lambda entry: ROLES.index(entry[0][0])):
        names = [task.partition(":")[2] for task in tasks]
        noun, label = {"perplexity": ("text", "bits per byte"), "bios": ("people", "accuracy")}[kind]
        labels = [label] if len(names) == 1 else names
        columns = (ColumnSpec(task, str(main_metric(task)), own) for task, own in zip(tasks, labels, strict=True))
        title = f"{', '.join(names)} {noun}{'s' if len(names) > 1 and noun == 'text' else ''}"
        groups.append(GroupSpec(f"{'-'.join(names)}-{noun}", title[0].upper() + title[1:], role, tuple(columns)))
    return groups


def role_of(task: str, metric: str, groups: Iterable[GroupSpec]) -> Role | None:
    """The role of the first group that has a column for the task and metric; None without one."""
    for group in groups:
        if any((column.task, column.metric) == (task, metric) for column in group.columns):
            return group.role
    return None
