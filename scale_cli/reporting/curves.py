"""Training curves: measurements of each run against steps or tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from scale_cli.core.errors import RequestError
from scale_cli.reporting.style import STYLES, Style, style_of
from scale_cli.reporting.table import Table
from scale_cli.results.result import Result

Runs = Mapping[str, Sequence[tuple[float, float]]]
"""{seed: [(x, value), ...]}"""


@dataclass(frozen=True)
class RouterCurve:
    """The routers of one kind, whose results for one checkpoint are drawn as a curve.

    start: the beginning of their names. title: of the curve. trained_at: the parameter with which the router is the
    checkpoint as trained; None if there is no such value.
    """

    start: str
    title: str
    trained_at: float | None

    def order(self, router: str) -> float:
        """The position on the curve of a router of this kind, or of "none"; from the checkpoint as trained on."""
        if router == "none":
            return 0.0
        parameter = float(router.rpartition(":")[2])
        return parameter if self.trained_at is None else abs(parameter - self.trained_at)


ROUTER_CURVES = (
    RouterCurve("mixture:1:", "average of both predictions, by the base's weight", 0.0),
    RouterCurve("mixture:", "mixture along the text, by its share", None),
    RouterCurve("interpolate:", "interpolated logits, by the weight", 1.0),
    RouterCurve("weights:", "averaged weights, by the trained model's share", 1.0),
)


def router_curve(router: str | None) -> RouterCurve | None:
    """The curve that a router's result belongs to, None for cosine and without a router."""
    return next((curve for curve in ROUTER_CURVES if router is not None and router.startswith(curve.start)), None)


@dataclass(frozen=True)
class Panel:
    """One quantity of every run against x. A record's `curves` are a list of panels.

    title: name of the quantity. x, unit: labels of the axes. percent: values are shares, shown in percent.
    series: {label: {seed: [(x, value), ...]}}, values in the metric's own unit.
    in_order: a line connects the points in their order, not by x, as along the curve of a parameter.
    log_x: the x axis is logarithmic, and linear from 0 to about the first step.
    """

    title: str
    x: str
    unit: str
    percent: bool
    series: Mapping[str, Runs]
    in_order: bool = False
    log_x: bool = False

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Panel:
        """Parse an entry of a record's `curves`. Raises KeyError, TypeError or ValueError if it is malformed."""
        series = {
            label: {seed: [(float(x), float(value)) for x, value in run] for seed, run in runs.items()}
            for label, runs in entry["series"].items()
        }
        title, x, unit = (str(entry[name]) for name in ("title", "x", "unit"))
        percent, in_order, log_x = (bool(entry.get(name, False)) for name in ("percent", "in_order", "log_x"))
        return cls(title, x, unit, percent, series, in_order, log_x)

    @property
    def texts(self) -> list[str]:
        """The texts of the panel, for the figure's choice of fonts."""
        return [self.title, self.x, self.unit, *self.series]

    @property
    def lines(self) -> dict[str, pd.DataFrame]:
        """One frame per label, as shown: `mean` and standard deviation `std` over the seeds, NaN for one seed.

        The index holds the x that every seed has; a label without any is left out.
        """
        frames = {label: pd.DataFrame({s: dict(run) for s, run in runs.items()}) for label, runs in self.series.items()}
        if not self.in_order:
            frames = {label: frame.sort_index() for label, frame in frames.items()}
        shown = {label: frame.dropna() * (100 if self.percent else 1) for label, frame in frames.items()}
        return {label: frame.agg(["mean", "std"], axis=1) for label, frame in shown.items() if len(frame)}


def panels_of(results: Sequence[Result], table: Table) -> list[Panel]:
    """The distinct panels in the records of results, with their series in the order of the table's rows.

    Raises RequestError for a malformed panel.
    """
    entries = {json.dumps(curves, sort_keys=True): r.path for r in results for curves in r.record.get("curves") or ()}
    panels = []
    for entry, path in entries.items():
        try:
            panels.append(Panel.read(json.loads(entry)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"{path}: malformed curves in the record: {error!r}") from error
    order = styles_of(table, panels)
    return [replace(p, series={label: p.series[label] for label in order if label in p.series}) for p in panels]


def styles_of(table: Table, panels: Sequence[Panel]) -> dict[str, Style]:
    """The style of each label of the curves: that of the table's row with the label, else of the method of that name.

    Labels of rows come first, in the order of the table.
    """
    infos = [(row, table.results[index].checkpoint) for row in table.rows for index in row.results]
    known = {n: style_of(row.method, row.section) for row, info in infos for n in (row.label, info.label, info.stem)}
    labels = dict.fromkeys(label for panel in panels for label in panel.series)
    styles = {label: style for label, style in known.items() if label in labels}
    return styles | {label: style_of(label if label in STYLES else None) for label in labels if label not in styles}
