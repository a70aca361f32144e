"""How one number grows with another: log-log plots and the exponents behind them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class GrowthSeries:
    """Points (x, y), all above 0, x growing.

    method: whose colour it has, None for none's. level: y where x is 0, which has no place on a logarithm's axis.
    """

    label: str
    method: str | None
    points: tuple[tuple[float, float], ...]
    level: float | None = None

    @property
    def exponent(self) -> float:
        """That of a power law through all points."""
        return power_law(self.points)[0]

    @property
    def last_exponent(self) -> float:
        """That of the last two points, where what does not grow weighs least."""
        return power_law(self.points[-2:])[0]


@dataclass(frozen=True)
class GrowthPanel:
    """Series over the same x. y: the label of its axis."""

    title: str
    x: str
    y: str
    series: tuple[GrowthSeries, ...]


def power_law(points: Points) -> tuple[float, float]:
    """The exponent e and the factor f of y = f x^e, by least squares in the logarithms of at least two points."""
    fitted = statistics.linear_regression(*zip(*((math.log(x), math.log(y)) for x, y in points), strict=True))
    return fitted.slope, math.exp(fitted.intercept)


def growth_figure(panels: Sequence[GrowthPanel], *files: Path) -> None:
    """Log-log plots, two panels a row: points, the power law fitted to them (dashed) with its exponent and that
    of the last two points, and the level where x is 0 (dotted).

    files: each .png or .svg.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    from scale_cli.reporting.drawing import COLUMN, figure, marker
    from scale_cli.reporting.style import style_of

    with figure(files, [], COLUMN, COLUMN.size(len(panels)), panels=len(panels)) as (_, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            axis.set(xscale="log", yscale="log")
            places = [x for series in panel.series for x, _ in series.points]
            decades = max(places) > 100 * min(places)  # numbers between would not fit
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter("{x:g}")
            for line in (axis.xaxis, axis.yaxis):
                line.set_minor_formatter(NullFormatter())
            for series in panel.series:
                style = style_of(series.method)
                exponent, factor = power_law(series.points)
                ends = np.array([series.points[0][0], series.points[-1][0]])
                axis.plot(ends, factor * ends**exponent, color=style.colour, linestyle=(0, (5, 3)), linewidth=0.9)
                if series.level is not None:
                    axis.axhline(series.level, color=style.colour, linestyle=":", linewidth=0.9)
                label = f"{series.label}: {exponent:.2f}, {series.last_exponent:.2f}"
                axis.plot(*zip(*series.points, strict=True), label=label, **marker(style, size=4.5))
            axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            axis.title.set_size(8)
            axis.legend(loc="best", fontsize=6.5, title="exponent, of the last two", title_fontsize=6.5)
