"""What an option of the training does to stability and plasticity: the rows of a table by the option's value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from scale_cli.core.errors import RequestError
from scale_cli.reporting.style import Style, style_of
from scale_cli.reporting.table import Table
from scale_cli.results.groups import ROLES


class Series(NamedTuple):
    """Points of one colour: (place on the x axis, value, error) as shown. reported: by a paper, and not measured."""

    label: str
    style: Style
    reported: bool
    points: tuple[tuple[float, float, float], ...]


class AblationPanel(NamedTuple):
    """One number against the option. base: the base's value."""

    label: str
    series: tuple[Series, ...]
    base: float | None


@dataclass(frozen=True)
class Ablation:
    """ticks: the option's values by their places on the x axis; empty where they are numbers, which are the places."""

    option: str
    ticks: Mapping[int, str]
    panels: tuple[AblationPanel, ...]

    @property
    def texts(self) -> list[str]:
        return [self.option, *self.ticks.values(), *(panel.label for panel in self.panels)]


def ablation(table: Table, option: str) -> Ablation:
    """The rows whose training had an option, by its value.

    Raises RequestError where fewer than two values of it are there, and where no column measures a role.
    """
    recipes = {row.label: table.results[row.results[0]].checkpoint.recipe or {} for row in table.rows}
    values = {label: recipe[option] for label, recipe in recipes.items() if recipe.get(option) is not None}
    different = list(dict.fromkeys(map(_shown, values.values())))
    if len(different) < 2:
        known = [(n, _shown(v)) for recipe in recipes.values() for n, v in recipe.items() if v is not None]
        varied = [name for name in dict.fromkeys(n for n, _ in known) if len({v for n, v in known if n == name}) > 1]
        choose = f"choose from {', '.join(varied)}" if varied else "no option differs between these results"
        raise RequestError(f"--ablation {option}: it takes results with at least two values of it; {choose}")
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    places = {label: float(v) if numeric else float(different.index(_shown(v))) for label, v in values.items()}
    panels = []
    for role, column in [(role, column) for role in ROLES if (column := table.summary(role)) is not None]:
        series: dict[tuple[str, Style, bool], list[tuple[float, float, float]]] = {}
        for row in table.rows:
            cell = table.cell(row, column)
            if row.label in places and cell is not None:
                name = f"{row.method or 'untrained'}{', reported' if row.reported else ''}"
                points = series.setdefault((name, style_of(row.method, row.section), row.reported), [])
                points.append((places[row.label], column.factor * cell.value, column.factor * (cell.error or 0.0)))
        base = None if table.base is None else table.cell(table.base, column)
        drawn = tuple(Series(*key, tuple(sorted(points))) for key, points in series.items())
        value = None if base is None else column.factor * base.value
        panels += [AblationPanel(f"{role}: {column.axis_label}", drawn, value)] if drawn else []
    if not panels:
        raise RequestError(f"--ablation {option}: no column measures stability or plasticity; give --suite")
    return Ablation(option, {} if numeric else dict(enumerate(different)), tuple(panels))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
