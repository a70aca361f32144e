"""How one number grows with another: the exponents behind log-log plots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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

    @property
    def texts(self) -> list[str]:
        return [self.title, self.x, self.y, *(series.label for series in self.series)]


def power_law(points: Points) -> tuple[float, float]:
    """The exponent e and the factor f of y = f x^e, by least squares in the logarithms of at least two points."""
    fitted = statistics.linear_regression(*zip(*((math.log(x), math.log(y)) for x, y in points), strict=True))
    return fitted.slope, math.exp(fitted.intercept)
