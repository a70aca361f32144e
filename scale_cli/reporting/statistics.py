"""How sure a difference is: standard errors, paired tests on the same items, and Pareto fronts. No model, no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def mean_error(errors: Sequence[float | None]) -> float | None:
    """The standard error of the mean of independent values, sqrt(sum of squares) / k; None where one has none."""
    if not errors or None in errors:
        return None
    return math.hypot(*(error for error in errors if error is not None)) / len(errors)


def difference_error(first: float | None, second: float | None) -> float | None:
    """The standard error of the difference of two independent values; None where one has none."""
    return None if first is None or second is None else math.hypot(first, second)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample's standard deviation (None for a single value)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_error(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The standard error of the mean difference of scores of the same items in the same order; None for one item."""
    _, deviation = mean_and_deviation([b - a for a, b in zip(first, second, strict=True)])
    return None if deviation is None else deviation / math.sqrt(len(first))


@dataclass(frozen=True)
class Difference:
    """The second minus the first.

    error: its standard error. p_value: two-sided, of no difference; None where no error is known.
    test: "McNemar" (exact, both scores of every item are 0 or 1), "paired t", or "z" (two independent values).
    items: that were paired; of "z" None.
    """

    value: float
    error: float | None
    p_value: float | None
    test: str
    items: int | None = None


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two lists of scores of the same items in the same order, and its paired test.

    McNemar's exact test where every score is 0 or 1: of the items on which the two differ, is the share that the second
    wins one half? Else a paired t test. Raises ValueError for lists of other lengths, or without two items.
    """
    from scipy import stats

    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} scores are no pairs of at least two items")
    value = math.fsum(b - a for a, b in zip(first, second, strict=True)) / len(first)
    error = paired_error(first, second)
    if set(first) | set(second) <= {0, 1}:
        won = sum(b > a for a, b in zip(first, second, strict=True))
        lost = sum(b < a for a, b in zip(first, second, strict=True))
        p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
        return Difference(value, error, p_value, "McNemar", len(first))
    return Difference(value, error, t_test(value, error, len(first) - 1), "paired t", len(first))


def difference(value: float, error: float | None) -> Difference:
    """A difference whose standard error is known, with the p value of a z test."""
    return Difference(value, error, None if error is None else z_test(value, error), "z")


def t_test(mean: float, error: float | None, freedom: int) -> float:
    """The two-sided p value of a mean of 0, by Student's t; without spread a mean other than 0 is certain."""
    from scipy import stats

    if not error:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stats.t.sf(abs(mean / error), freedom))


def z_test(mean: float, error: float) -> float:
    """The same by the normal distribution, for an error that is known."""
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return math.erfc(abs(mean / error) / math.sqrt(2))


def pareto(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which points no other one dominates: is at least as good in both values, more being better, and better in one.

    points: None where a value is missing; such a point is not on the front and dominates nothing.
    """
    known = [point for point in points if point is not None]

    def dominated(point: tuple[float, float]) -> bool:
        return any(other[0] >= point[0] and other[1] >= point[1] and other != point for other in known)

    return [point is not None and not dominated(point) for point in points]
