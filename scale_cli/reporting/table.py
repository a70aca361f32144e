"""The stability-plasticity table: rows and columns of numbers with their errors. What every renderer is given.

It holds values in the metrics' own units; only renderers show percent. `build_table` makes it from results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scale_cli.results.result import Measurement, Result

Role = Literal["stability", "plasticity"]

SECTIONS = ("base", "baselines", "SCALE", "others")


@dataclass(frozen=True)
class Column:
    """A column of numbers that were all measured in the same way.

    key: its name among the columns. label, flat_label: its heading below the group's, and without the group's.
    percent: the values are shares, shown in percent. decimals: to show, after that.
    average: of its group's other columns; then task and metric say so, and what follows is empty.
    samples: items of the values, the most of any row.
    """

    key: str
    label: str
    flat_label: str
    task: str
    metric: str
    filter: str
    higher_is_better: bool
    percent: bool
    decimals: int
    average: bool = False
    task_version: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    seed: int | None = None
    aggregation: str | None = None
    samples: int = 0

    @property
    def factor(self) -> float:
        """What a shown number is a multiple of the value by."""
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True)
class Group:
    """Columns under one heading.

    summary: the key of the column that stands for all of them, the average or the only one; None where there is none.
    """

    name: str
    title: str
    role: Role | None
    columns: tuple[Column, ...]
    summary: str | None

    @property
    def change_heading(self) -> str:
        """What the change of the summary against the base is called."""
        return {"stability": "forgetting", "plasticity": "gain", None: "change"}[self.role]


@dataclass(frozen=True)
class Cell:
    """A number of the table, in its metric's unit.

    error: its standard error; over several seeds the standard deviation.
    change: after minus base; change_error: its standard error, over seeds the standard deviation of the changes.
    paired: the change's error is that of differences on the same items.
    best: of the methods, by more than the standard error of its lead over the next.
    measurements: behind it, by the position of their result in the table; none for an average.
    """

    value: float
    error: float | None
    change: float | None = None
    change_error: float | None = None
    paired: bool = False
    best: bool = False
    measurements: Mapping[int, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A checkpoint, or several that differ in the seed only.

    section: of SECTIONS. results: their positions in the table's list. seeds: of them, where they are known.
    pareto: no other row is at least as good in both roles' summaries and better in one.
    trained, tokens, seconds: trained parameters, tokens and seconds of the training, means over the seeds.
    """

    label: str
    section: str
    method: str | None
    results: tuple[int, ...]
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    reported: bool = False
    pareto: bool = False
    trained: float | None = None
    tokens: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class StabilityPlasticityTable:
    """Rows by section and in the paper's order, columns by group. base: the position of the base's row, None without.

    aggregated: rows may hold several seeds. notes: what a reader has to know besides the legend.
    """

    title: str
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    results: tuple[Result, ...]
    base: int | None
    aggregated: bool = False
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for group in self.groups for column in group.columns)

    def summary(self, role: Role) -> Column | None:
        """The column that stands for a role: of the first group that has the role and a summary."""
        for group in self.groups:
            if group.role == role and group.summary is not None:
                return next(column for column in group.columns if column.key == group.summary)
        return None
