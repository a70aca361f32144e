"""What an option of the training does to stability and plasticity: the rows of a table by the option's value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scale_cli.errors import RequestError
from scale_cli.reporting.frontier import axis_label
from scale_cli.reporting.table import Role, StabilityPlasticityTable

ROLES: tuple[Role, ...] = ("stability", "plasticity")


@dataclass(frozen=True)
class Series:
    """The points of one method: (place on the x axis, value, error) as shown.

    reported: by a paper, and not measured.
    """

    label: str
    method: str | None
    section: str
    reported: bool
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class AblationPanel:
    """One role's summary against the option. base: the base's value."""

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


def ablation(table: StabilityPlasticityTable, option: str) -> Ablation:
    """The rows whose training had an option, by its value.

    Raises RequestError where fewer than two values of it are there, and where no column measures a role.
    """
    values = _values(table, option)
    different = list(dict.fromkeys(map(_shown, values.values())))
    if len(different) < 2:
        varied = [name for name in _names(table) if len({_shown(one) for one in _values(table, name).values()}) > 1]
        choose = f"choose from {', '.join(varied)}" if varied else "no option differs between these results"
        raise RequestError(f"--ablation {option}: it takes results with at least two values of it; {choose}")
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    places = {place: float(v) if numeric else float(different.index(_shown(v))) for place, v in values.items()}
    panels = tuple(panel for role in ROLES if (panel := _panel(table, role, places)) is not None)
    if not panels:
        raise RequestError(f"--ablation {option}: no column measures stability or plasticity; give --suite")
    return Ablation(option, {} if numeric else dict(enumerate(different)), panels)


def _panel(table: StabilityPlasticityTable, role: Role, places: Mapping[int, float]) -> AblationPanel | None:
    column = table.summary(role)
    if column is None:
        return None
    series: dict[tuple[str | None, str, bool], list[tuple[float, float, float]]] = {}
    for place, x in places.items():
        row = table.rows[place]
        cell = row.cells.get(column.key)
        if cell is not None:
            points = series.setdefault((row.method, row.section, row.reported), [])
            points.append((x, column.factor * cell.value, column.factor * (cell.error or 0.0)))
    if not series:
        return None
    base = None if table.base is None else table.rows[table.base].cells.get(column.key)
    return AblationPanel(
        label=f"{role}: {axis_label(column)}",
        series=tuple(
            Series(
                f"{method or 'untrained'}{', reported' if reported else ''}",
                method,
                section,
                reported,
                tuple(sorted(points)),
            )
            for (method, section, reported), points in series.items()
        ),
        base=None if base is None else column.factor * base.value,
    )


def _options(table: StabilityPlasticityTable, place: int) -> Mapping[str, Any]:
    return table.results[table.rows[place].results[0]].checkpoint.options or {}


def _values(table: StabilityPlasticityTable, option: str) -> dict[int, Any]:
    """An option's value by the place of each row that has one."""
    given = {place: _options(table, place).get(option) for place in range(len(table.rows))}
    return {place: value for place, value in given.items() if value is not None}


def _names(table: StabilityPlasticityTable) -> list[str]:
    return list(dict.fromkeys(name for place in range(len(table.rows)) for name in _options(table, place)))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
