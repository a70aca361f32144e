"""What an option of the training does to stability and plasticity: the rows of a table by the option's value."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
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


# The ablations of the Korean benchmark

Row = Mapping[str, Any]
Place = tuple[str, float | str, str]
"""Where a row is drawn: its series, its place on the x axis, a number or a tick, and the method in whose colour."""


def draw_rows(name: str, rows: Sequence[Row], reported: Mapping[str, Mapping[str, float]], *files: Path) -> None:
    """The figure of an ablation of `scale_cli.bench.ablations`, with the paper's values beside.

    rows: with the fields of `scale_cli.bench.korean.Row`, the base first. reported: by label and field.
    files: each .png or .svg.
    """
    from scale_cli.reporting.figures import ablation_figure

    ablation_figure(row_ablation(name, rows, reported), *files)


def row_ablation(name: str, rows: Sequence[Row], reported: Mapping[str, Mapping[str, float]]) -> Ablation:
    """What is drawn: the change of both perplexities against the base, in percent, as ours and the paper's differ in
    tokenizer and text, and what the ablation measures beside them; of several seeds mean and standard deviation."""
    base, *others = rows
    option, placed = PLACES[name](others)
    ticks = list(dict.fromkeys(place for _, place, _ in placed.values() if isinstance(place, str)))

    def panel(
        title: str,
        ours: Sequence[float | None],
        paper: Mapping[str, float | None],
        base_value: float | None = None,
    ) -> AblationPanel:
        """ours: of `others`. paper: by label. base_value: where the base is drawn, if it is."""
        series: dict[tuple[str, str, bool], list[tuple[float, float, float]]] = {}
        for label, (of, place, method) in placed.items():
            x = float(ticks.index(place)) if isinstance(place, str) else place
            found = [value for row, value in zip(others, ours, strict=True) if row["label"] == label]
            values = [value for value in found if value is not None]
            if values:
                error = statistics.stdev(values) if len(values) > 1 else 0.0
                series.setdefault((of, method, False), []).append((x, statistics.fmean(values), error))
            if (value := paper.get(label)) is not None:
                series.setdefault((of, method, True), []).append((x, value, 0.0))
        return AblationPanel(
            title,
            tuple(
                Series(f"{of}, paper" if is_paper else of, method, "", is_paper, tuple(sorted(points)))
                for (of, method, is_paper), points in series.items()
            ),
            base_value,
        )

    def of_paper(field: str) -> dict[str, float | None]:
        return {label: reported.get(label, {}).get(field) for label in placed}

    panels = []
    for language in base["perplexity"]:
        field, before = f"perplexity/{language}", base["perplexity"][language]
        before_paper = reported.get("base", {}).get(field)
        panels.append(
            panel(
                f"{language.title()} perplexity, % change",
                [_change(row["perplexity"][language], before) for row in others],
                {label: _change(value, before_paper) for label, value in of_paper(field).items()},
                base_value=0.0,
            )
        )
    if name == "drift":
        cosines = [row["cosine"].get("english") for row in others]
        panels.append(panel("cosine of the last hidden state", cosines, of_paper("drift:english/cosine")))
    if name == "threshold":
        for language in base["routed"]:
            shares = [100 * row["routed"][language] for row in others]
            panels.append(panel(f"{language.title()} tokens routed to preserve, %", shares, {}))
    return Ablation(option, dict(enumerate(ticks)), tuple(panels))


def _change(value: float | None, before: float | None) -> float | None:
    return None if value is None or before is None else 100 * (value / before - 1)


def _by_label(option: str, series: str, method: str) -> Callable[[Sequence[Row]], tuple[str, dict[str, Place]]]:
    return lambda rows: (option, {row["label"]: (series, row["label"], method) for row in rows})


def _by_share(rows: Sequence[Row]) -> tuple[str, dict[str, Place]]:
    shares = {row["label"]: float(row["label"].removeprefix("l_fp-")) for row in rows}
    return "layers preserved, %", {label: ("L_fp", share, "scale-adapt") for label, share in shares.items()}


def _by_norm(rows: Sequence[Row]) -> tuple[str, dict[str, Place]]:
    """By the mean norm of what was added to the maps of the module whose W12 trained; the paper's values, of which the
    norms were not read off, stand at ours."""
    places: dict[str, Place] = {}
    for module, method in (("attention", "scale-adapt"), ("ffn", "scale-route")):
        for label in {row["label"]: None for row in rows if row["label"].startswith(module)}:
            norm = statistics.fmean(row["norms"][module] for row in rows if row["label"] == label)
            places[label] = (f"W12 in {module}", norm, method)
    return "mean norm of our expansion in that module", places


def _by_threshold(rows: Sequence[Row]) -> tuple[str, dict[str, Place]]:
    taus = {row["label"]: float(row["label"].removeprefix("tau ")) for row in rows if row["label"].startswith("tau ")}
    return "threshold tau", {label: ("SCALE-Route", tau, "scale-route") for label, tau in taus.items()}


def _by_method(rows: Sequence[Row]) -> tuple[str, dict[str, Place]]:
    return "method", {row["label"]: (row["label"], row["label"], row["method"]) for row in rows}


PLACES: Mapping[str, Callable[[Sequence[Row]], tuple[str, dict[str, Place]]]] = {
    "init": _by_label("W21, W22", "SCALE-Preserve", "scale-preserve"),
    "layers": _by_share,
    "modules": _by_norm,
    "drift": _by_method,
    "threshold": _by_threshold,
    "where": _by_label("W12 in", "SCALE-Adapt", "scale-adapt"),
}
"""By the ablation's name what its x axis is, and the place of each label."""
