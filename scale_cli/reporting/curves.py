"""What happened while a model was trained: numbers against steps, for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scale_cli.reporting.build import without_seed
from scale_cli.reporting.colours import STYLES
from scale_cli.reporting.statistics import mean_and_deviation
from scale_cli.reporting.table import Row, StabilityPlasticityTable

Runs = Mapping[str, Sequence[tuple[float, float]]]
"""{seed: [(x, value), ...]}"""


@dataclass(frozen=True)
class Panel:
    """One number of every run against the same x.

    title: what it is. unit: its axis's label. percent: the values are shares, shown in percent.
    series: {label: {seed: [(x, value), ...]}}.
    """

    title: str
    x: str
    unit: str
    percent: bool
    series: Mapping[str, Runs]

    @property
    def texts(self) -> list[str]:
        return [self.title, self.x, self.unit, *self.series]

    def in_order(self, labels: Sequence[str]) -> Panel:
        """With its series in the order of these labels, and those that are none of them at the end."""
        known = [label for label in labels if label in self.series]
        return replace(self, series={label: self.series[label] for label in (*known, *self.series)})

    @property
    def lines(self) -> dict[str, list[tuple[float, float, float | None]]]:
        """By label the mean over seeds and their standard deviation (None for one seed): (x, mean, deviation).

        Only the x that every seed has.
        """
        factor = 100.0 if self.percent else 1.0
        lines = {}
        for label, runs in self.series.items():
            values = [dict(run) for run in runs.values()]
            shared = sorted(set.intersection(*(set(run) for run in values))) if values else []
            lines[label] = [(x, *mean_and_deviation([factor * run[x] for run in values])) for x in shared]
        return {label: points for label, points in lines.items() if points}


def biography_panels(curves: Mapping[str, Mapping[Any, Sequence[tuple[float, float, float]]]]) -> list[Panel]:
    """The two panels of the paper's Fig. 8 from {label: {seed: [(step, Task 0, Task 1), ...]}}."""
    titles = ("Task 0, held-out people (stability)", "Task 1 (plasticity)")
    return [
        Panel(
            title=title,
            x="steps of Task 1",
            unit="hard first-token accuracy, %",
            percent=True,
            series={
                label: {str(seed): [(point[0], point[place]) for point in run] for seed, run in runs.items()}
                for label, runs in curves.items()
            },
        )
        for place, title in enumerate(titles, start=1)
    ]


def read_panels(curves: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The panels in a record's `curves`: a list of objects with the fields of `Panel`.

    Raises KeyError, TypeError or ValueError where they are not such.
    """
    return [
        Panel(
            title=str(entry["title"]),
            x=str(entry["x"]),
            unit=str(entry["unit"]),
            percent=bool(entry.get("percent", False)),
            series={
                label: {seed: [(float(x), float(value)) for x, value in run] for seed, run in runs.items()}
                for label, runs in entry["series"].items()
            },
        )
        for entry in curves
    ]


def drawn_rows(table: StabilityPlasticityTable, panels: Sequence[Panel]) -> dict[str, tuple[str | None, str]]:
    """How the labels of curves are drawn: as the table's row of that name, in its order, or as the method of that
    name."""
    named = {label: (row.method, row.section) for row in table.rows for label in _names(table, row)}
    labels = dict.fromkeys(label for panel in panels for label in panel.series)
    drawn = {label: drawn for label, drawn in named.items() if label in labels}
    return drawn | {label: (label if label in STYLES else None, "others") for label in labels if label not in drawn}


def _names(table: StabilityPlasticityTable, row: Row) -> list[str]:
    """What a row may be called where curves name it: with or without the seed that its label says."""
    labels = [row.label, *(table.results[index].checkpoint.label for index in row.results)]
    return [*labels, *map(without_seed, labels)]
