"""Standard errors, tests of differences and Pareto fronts, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


def mean_error(errors: Sequence[float | None]) -> float | None:
    """The standard error of the mean of k independent values, sqrt(sum of squares) / k; None if any is None."""
    if not errors or None in errors:
        return None
    return math.hypot(*(error for error in errors if error is not None)) / len(errors)


def difference_error(first: float | None, second: float | None) -> float | None:
    """The standard error of the difference of two independent values; None if any is None."""
    return None if first is None or second is None else math.hypot(first, second)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation (denominator n - 1; None for a single value)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def half_width(error: float, runs: int) -> float:
    """Half the width of a value's 95% interval.

    error: the standard error of the value of one run, whose interval is normal; of several runs, the sample standard
        deviation over them, and the interval is Student's t interval of their mean.
    """
    if runs == 1:
        return NormalDist().inv_cdf(0.975) * error
    from scipy import stats

    return float(stats.t.ppf(0.975, runs - 1)) * error / math.sqrt(runs)


def paired_error(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The standard error of the mean difference of paired scores; None for one item.

    Raises ValueError for lists of different lengths.
    """
    _, deviation = mean_and_deviation([b - a for a, b in zip(first, second, strict=True)])
    return None if deviation is None else deviation / math.sqrt(len(first))


@dataclass(frozen=True)
class Difference:
    """A difference, second minus first, and its test.

    value: in the metric's unit. error: its standard error, None if unknown. p_value: two-sided, of no difference; None
        without an error.
    test: "McNemar" (exact; all scores are 0 or 1), "paired t", or "z" (known standard error).
    items: number of paired items, None for "z".
    """

    value: float
    error: float | None
    p_value: float | None
    test: str
    items: int | None = None


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean difference of scores of the same items in the same order, and its paired test.

    If every score is 0 or 1, the test is McNemar's exact test: a binomial test with p = 1/2 of the items that the
    second wins, among those on which the two differ. Otherwise it is a paired t test.
    Raises ValueError for lists of different lengths, or for fewer than two items.
    """
    from scipy import stats

    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} scores; two lists of equal length, at least 2, are needed")
    value = math.fsum(b - a for a, b in zip(first, second, strict=True)) / len(first)
    error = paired_error(first, second)
    if set(first) | set(second) <= {0, 1}:
        won = sum(b > a for a, b in zip(first, second, strict=True))
        lost = sum(b < a for a, b in zip(first, second, strict=True))
        p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
        return Difference(value, error, p_value, "McNemar", len(first))
    return Difference(value, error, t_test(value, error, len(first) - 1), "paired t", len(first))


def difference(value: float, error: float | None) -> Difference:
    """A difference with a standard error, and its z test; without a p value if the error is None."""
    return Difference(value, error, None if error is None else z_test(value, error), "z")


def t_test(mean: float, error: float | None, freedom: int) -> float:
    """The two-sided p value of the hypothesis that a mean is 0, by Student's t.

    freedom: degrees of freedom. An error of 0 or None gives 1.0 for a mean of 0, else 0.0.
    """
    from scipy import stats

    if not error:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stats.t.sf(abs(mean / error), freedom))


def z_test(mean: float, error: float) -> float:
    """The two-sided p value of the hypothesis that a mean is 0, by the normal distribution.

    An error of 0 gives 1.0 for a mean of 0, else 0.0.
    """
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return math.erfc(abs(mean / error) / math.sqrt(2))


def pareto(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Whether each point is on the Pareto front: no other point is at least as high in both values and higher in one.

    points: None for a point without values, which is not on the front and dominates nothing.
    """
    known = [point for point in points if point is not None]

    def dominated(point: tuple[float, float]) -> bool:
        return any(other[0] >= point[0] and other[1] >= point[1] and other != point for other in known)

    return [point is not None and not dominated(point) for point in points]
