"""Exponents of growth, and the figure that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib import image

from benchmarks.speed.power_laws import GrowthPanel, GrowthSeries, growth_figure, power_law
from scale_cli.reporting.style import STYLES


@given(st.floats(-2, 3), st.floats(0.01, 100), st.lists(st.floats(1, 1e6), min_size=2, max_size=6, unique=True))
def test_a_power_law_is_found(exponent: float, factor: float, places: list[float]) -> None:
    assume(max(places) > 1.01 * min(places))
    slope, height = power_law([(x, factor * x**exponent) for x in places])
    assert slope == pytest.approx(exponent, abs=1e-6)
    assert height == pytest.approx(factor, rel=1e-3)


def test_the_exponents_of_a_series() -> None:
    """Steps of 1 and of 2 in the logarithms: the line through all three rises by their mean."""
    series = GrowthSeries("copy", None, ((1, 2), (10, 20), (100, 2000)))
    assert series.exponent == pytest.approx(1.5)
    assert series.last_exponent == pytest.approx(2)


def panel(series: int, *, most: float = 50.0) -> GrowthPanel:
    methods = list(STYLES)
    lines = tuple(
        GrowthSeries(methods[n], methods[n], ((1.0, n + 1.0), (most, (n + 1) * most)), level=0.5 if n else None)
        for n in range(series)
    )
    return GrowthPanel("depth", "layers", "seconds", lines)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """The last figure, as matplotlib has it, before it is closed."""
    kept: list[Any] = []
    monkeypatch.setattr(plt, "close", kept.append)
    yield lambda: kept[-1]
    monkeypatch.undo()
    plt.close("all")


def test_the_figure_holds_points_fits_and_levels(figures: Callable[[], Any]) -> None:
    growth_figure([panel(2), panel(1), panel(1, most=1e4), panel(1)])
    axes = figures().axes
    assert len(axes) == 4
    lines = axes[0].get_lines()
    assert len(lines) == 2 * 2 + 1  # fit and points of each, and the one level
    fit, points = lines[0], lines[1]
    assert [list(line.get_ydata()) for line in (fit, points)] == [pytest.approx([1, 50]), [1, 50]]
    assert points.get_label() == "fft: 1.00, 1.00"
    assert lines[3].get_ydata() == [0.5, 0.5]
    assert all(axis.get_xscale() == axis.get_yscale() == "log" for axis in axes)
    figures().canvas.draw()
    shown = [[label.get_text() for label in axis.get_xticklabels()] for axis in axes]
    assert "20" in shown[0]
    assert "20" not in shown[2]
    assert {"100", "10k"} <= set(shown[2])


def test_a_file_is_written(tmp_path: Path) -> None:
    growth_figure([panel(3)], tmp_path / "growth.png")
    assert image.imread(tmp_path / "growth.png").shape[:2] == (780, 1005)  # a column of a paper at 300 dots per inch
    assert plt.get_fignums() == []
