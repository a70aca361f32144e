"""Standard errors, tests and Pareto fronts against examples worked by hand and against scipy."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scale_cli.reporting.statistics import (
    difference,
    difference_error,
    mean_and_deviation,
    mean_error,
    paired_difference,
    paired_error,
    pareto,
)


def test_one_item_has_no_error() -> None:
    assert paired_error([1.0], [0.0]) is None
    assert mean_and_deviation([2.0]) == (2.0, None)


def test_errors_of_means_and_differences() -> None:
    assert mean_error([0.03, 0.04]) == pytest.approx(0.025)
    assert mean_error([0.03, None]) is None
    assert mean_error([]) is None
    assert difference_error(0.03, 0.04) == pytest.approx(0.05)
    assert difference_error(0.03, None) is None
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_pairing_takes_out_what_both_have_in_common() -> None:
    first, second = [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0]
    assert paired_error(first, second) == pytest.approx(0.25)  # differences 0 0 0 1: deviation 0.5, over the root of 4
    assert paired_error(first, first) == 0.0


def test_mcnemar_by_hand() -> None:
    """The second wins nine of the ten items on which the two differ: p = 2 (1 + 10) / 2^10."""
    first = [1.0] * 50 + [0.0] * 9 + [1.0] + [0.0] * 40
    second = [1.0] * 50 + [1.0] * 9 + [0.0] + [0.0] * 40
    measured = paired_difference(first, second)
    assert (measured.test, measured.items) == ("McNemar", 100)
    assert measured.value == pytest.approx(0.08)
    assert measured.p_value == pytest.approx(22 / 1024)
    assert measured.error == pytest.approx(stats.sem([b - a for a, b in zip(first, second, strict=True)]))
    back = paired_difference(second, first)
    assert (back.value, back.error, back.p_value) == (-measured.value, measured.error, measured.p_value)


def test_the_paired_t_test_is_scipy_s() -> None:
    generator = random.Random(0)
    first = [generator.random() for _ in range(40)]
    second = [value + generator.gauss(0.05, 0.2) for value in first]
    measured = paired_difference(first, second)
    assert (measured.test, measured.items) == ("paired t", 40)
    assert measured.p_value == pytest.approx(float(stats.ttest_rel(second, first).pvalue), rel=1e-9)


def test_no_difference_at_all() -> None:
    assert paired_difference([1.0, 0.0], [1.0, 0.0]).p_value == 1.0
    assert paired_difference([0.5, 0.25], [0.5, 0.25]).p_value == 1.0
    assert paired_difference([0.5, 0.25], [0.75, 0.5]).p_value == 0.0
    assert difference(0.0, 0.0).p_value == 1.0
    assert difference(0.1, 0.0).p_value == 0.0


@pytest.mark.parametrize(("first", "second"), [([1.0], [0.0]), ([1.0, 0.0], [1.0]), ([], [])])
def test_what_is_no_pair_is_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="two lists of equal length, at least 2, are needed"):
        paired_difference(first, second)


def test_the_z_test() -> None:
    assert difference(0.0196, 0.01).p_value == pytest.approx(2 * float(stats.norm.sf(1.96)))
    assert difference(0.1, None).p_value is None


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 4), st.integers(0, 4))), max_size=8))
def test_the_front_is_what_none_dominates(points: list[tuple[float, float] | None]) -> None:
    known = [point for point in points if point is not None]
    for point, on_front in zip(points, pareto(points), strict=True):
        beaten = point is None or any(
            a >= point[0] and b >= point[1] and (a > point[0] or b > point[1]) for a, b in known
        )
        assert on_front is not beaten


def test_a_front_by_hand() -> None:
    assert pareto([(3, 1), (2, 2), (1, 1), (1, 3), (2, 2), None]) == [True, True, False, True, True, False]
