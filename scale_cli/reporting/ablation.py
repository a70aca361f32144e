"""Effect of an option of the training on stability and plasticity: the rows of a table by the option's value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from scale_cli.core.errors import RequestError
from scale_cli.reporting.style import Style, style_of
from scale_cli.reporting.table import Table


class Series(NamedTuple):
    """Points of one style.

    reported: the points are a paper's, not measured here. points: (x, value, error), as shown (shares in percent).
    """

    label: str
    style: Style
    reported: bool
    points: tuple[tuple[float, float, float], ...]


class AblationPanel(NamedTuple):
    """One measured quantity against the option. base: the base's value as shown, None without a base."""

    label: str
    series: tuple[Series, ...]
    base: float | None


@dataclass(frozen=True)
class Ablation:
    """An option of the training, and one panel per role.

    ticks: labels by x coordinate; empty if the option's values are numbers, which are then the coordinates.
    """

    option: str
    ticks: Mapping[int, str]
    panels: tuple[AblationPanel, ...]

    @property
    def texts(self) -> list[str]:
        """The texts of the figure, for its choice of fonts."""
        return [self.option, *self.ticks.values(), *(panel.label for panel in self.panels)]


def ablation(table: Table, option: str) -> Ablation:
    """The rows of a table whose recipe has an option, by its value, in one panel per role that has a summary.

    Raises RequestError if the option has fewer than two values, or if no column measures a role.
    """
    recipes = {row.label: table.results[row.results[0]].checkpoint.recipe or {} for row in table.rows}
    values = {label: recipe[option] for label, recipe in recipes.items() if recipe.get(option) is not None}
    different = list(dict.fromkeys(map(_shown, values.values())))
    if len(different) < 2:
        options: dict[str, set[str]] = {}
        for name, value in (entry for recipe in recipes.values() for entry in recipe.items()):
            if value is not None:
                options.setdefault(name, set()).add(_shown(value))
        varied = [name for name, shown in options.items() if len(shown) > 1]
        choose = f"choose from {', '.join(varied)}" if varied else "no option differs between these results"
        raise RequestError(f"--ablation {option}: results with at least two values of it are needed; {choose}")
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    coordinates = {label: float(v) if numeric else float(different.index(_shown(v))) for label, v in values.items()}
    panels = []
    for group in table.summarised.values():
        column = group.summary
        assert column is not None
        series: dict[tuple[str, Style, bool], list[tuple[float, float, float]]] = {}
        for row in table.rows:
            cell = table.cell(row, column)
            if row.label in coordinates and cell is not None:
                name = f"{row.method or 'untrained'}{', reported' if row.reported else ''}"
                points = series.setdefault((name, style_of(row.method, row.section), row.reported), [])
                points.append((coordinates[row.label], column.factor * cell.value, column.factor * (cell.error or 0.0)))
        base = None if table.base is None else table.cell(table.base, column)
        drawn = tuple(Series(*key, tuple(sorted(points))) for key, points in series.items())
        value = None if base is None else column.factor * base.value
        panels += [AblationPanel(group.axis_label, drawn, value)] if drawn else []
    if not panels:
        raise RequestError(f"--ablation {option}: no column measures stability or plasticity; give --suite")
    return Ablation(option, {} if numeric else dict(enumerate(different)), tuple(panels))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
