"""The trade-off as points, where labels stand, and the axes of drawings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scale_cli.reporting.build import ColumnSpec, GroupSpec, build_table
from scale_cli.reporting.frontier import Box, Frontier, frontier, leader, place_labels
from scale_cli.reporting.svg import ticks
from tests.results.made import PLASTIC, STABLE, measured, result


def points(metric: str, *rows: tuple[float, float]) -> Frontier:
    """The trade-off of a base and FFT runs. metric: of the stability column."""
    stable = GroupSpec("en", "English", "stability", (ColumnSpec("a", metric, "A"),))
    results = [
        result(f"r{place}", "fft" if place else None, [measured("a", x, 0.01, metric), measured("k", y, None)])
        for place, (x, y) in enumerate(rows)
    ]
    found = frontier(build_table(results, [stable, PLASTIC]))
    assert found is not None
    return found


def test_points_are_the_summaries_as_shown() -> None:
    found = points("acc", (0.6, 0.1), (0.4, 0.8))
    assert (found.x_label, found.y_label) == ("stability: A, %", "plasticity: K, %")
    assert [(p.label, p.x, p.x_error, p.y, p.y_error, p.pareto) for p in found.points] == [
        ("r0", 60.0, 1.0, 10.0, 0.0, True),
        ("r1", 40.0, 1.0, 80.0, 0.0, True),
    ]
    assert (found.reversed_x, found.reversed_y) == (False, False)


def test_the_front_is_a_staircase_from_the_least_stable_point() -> None:
    found = points("acc", (0.6, 0.1), (0.4, 0.8), (0.5, 0.5), (0.3, 0.3))
    assert found.front == [(40.0, 80.0), (40.0, 50.0), (50.0, 50.0), (50.0, 10.0), (60.0, 10.0)]


def test_where_lower_is_better_the_axis_turns() -> None:
    found = points("bits_per_byte", (0.9, 0.1), (1.2, 0.8), (1.0, 0.5), (1.3, 0.7))
    assert found.reversed_x
    assert found.x_label == "stability: A (lower is better)"
    assert found.front == [(1.2, 80.0), (1.2, 50.0), (1.0, 50.0), (1.0, 10.0), (0.9, 10.0)]


def test_no_points_without_both_roles_or_with_one_row() -> None:
    both = [measured("a", 0.5), measured("b", 0.5), measured("k", 0.5)]
    one = build_table([result("base", None, both)], [STABLE, PLASTIC])
    assert frontier(one) is None
    two = [result("base", None, both), result("fft", "fft", both)]
    assert frontier(build_table(two, [STABLE])) is None
    assert frontier(build_table(two, [STABLE, PLASTIC])) is not None


def test_a_label_stands_where_nothing_is() -> None:
    bounds = Box(0, 0, 200, 100)
    (alone,) = place_labels([(50, 50)], [(30, 10)], [], bounds, gap=5)
    assert alone == Box(55, 45, 85, 55)  # to the right, first choice
    (left,) = place_labels([(50, 50)], [(30, 10)], [Box(55, 0, 90, 100)], bounds, gap=5)
    assert left.right <= 45
    (inside,) = place_labels([(195, 50)], [(30, 10)], [], bounds, gap=5)
    assert inside.right <= 200
    first, second = place_labels([(50, 50), (52, 50)], [(30, 10)] * 2, [], bounds, gap=5)
    assert first.overlap(second) == 0


def test_a_label_far_away_has_a_line_to_its_point() -> None:
    assert leader((0, 0), Box(5, -5, 20, 5), gap=5) is None
    assert leader((0, 0), Box(30, -5, 60, 5), gap=5) == (30, 0)
    assert leader((0, 0), Box(-60, 10, -30, 20), gap=5) == (-30, 10)


def test_overlap() -> None:
    box = Box(0, 0, 10, 10)
    assert box.overlap(Box(5, 5, 20, 6)) == 5
    assert box.overlap(Box(10, 0, 20, 10)) == 0
    assert box.area == 100


@pytest.mark.parametrize(
    ("low", "high", "count", "values"),
    [
        (0, 100, 5, [0, 20, 40, 60, 80, 100]),
        (41.5, 48.2, 7, [42, 43, 44, 45, 46, 47, 48]),
        (0.1, 0.35, 5, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]),
        (-3, 3, 3, [-2, 0, 2]),
        (0.25, 4.75, 2, [2, 4]),  # between two multiples of 5
        (11, 19.5, 2, [15]),
    ],
)
def test_ticks(low: float, high: float, count: int, values: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(values)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_a_few_and_inside(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    assert 1 <= len(found) <= count + 1
    assert all(low - 1e-6 * span <= value <= low + span + 1e-6 * span for value in found)
