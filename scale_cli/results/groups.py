"""Which measurements are read together, and which side of the trade-off they measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["stability", "plasticity"]
ROLES: tuple[Role, ...] = ("stability", "plasticity")


@dataclass(frozen=True)
class ColumnSpec:
    """A column that is asked for: the metric of a task and its heading.

    filter, num_fewshot: None for any. aggregation: how a group of tasks is averaged ("micro", "macro"), None for a
        single task.
    """

    task: str
    metric: str
    label: str
    filter: str | None = None
    num_fewshot: int | None = None
    aggregation: str | None = None


@dataclass(frozen=True)
class GroupSpec:
    """Columns that belong together.

    role: which side of the trade-off they measure, None for neither.
    average: the average of the columns' values (of a single column, itself) stands for all of them.
    """

    name: str
    title: str
    role: Role | None
    columns: tuple[ColumnSpec, ...]
    average: bool = True

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> GroupSpec:
        """From a record's `groups`. Raises KeyError or TypeError for an entry that is no group."""
        return cls(**{**entry, "columns": tuple(ColumnSpec(**column) for column in entry["columns"])})


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
"""The columns of `scale bench bios`."""


def text_group(name: str, role: Role) -> GroupSpec:
    """The column of a held-out text, in bits per byte, which compare whatever the tokenizers."""
    column = ColumnSpec(f"perplexity:{name}", "bits_per_byte", "bits/byte")
    return GroupSpec(f"{name}-text", f"{name.title()} text", role, (column,))


def role_of(task: str, metric: str, groups: Iterable[GroupSpec]) -> Role | None:
    """The side that a measurement is on: that of the first group with a column for it."""
    for group in groups:
        if any((column.task, column.metric) == (task, metric) for column in group.columns):
            return group.role
    return None
