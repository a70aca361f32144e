"""The figures are written, and hold what they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager, image

from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS
from scale_cli.reporting import fonts
from scale_cli.reporting.ablation import ablation
from scale_cli.reporting.build import build_table
from scale_cli.reporting.colours import BASE, OTHER, STYLES, style_of
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.figures import ablation_figure, accuracy_curves, curve_figure, frontier_figure
from scale_cli.reporting.frontier import Frontier, Point
from scale_cli.reporting.table import StabilityPlasticityTable
from tests.reporting.test_fonts import hangul_font
from tests.results.made import PLASTIC, STABLE, measured, result

CURVES = {
    "fft": {0: [(0, 1.0, 0.0), (10, 0.25, 0.5)], 1: [(0, 0.5, 0.0), (10, 0.25, 1.0)]},
    "fft@0.1": {0: [(0, 1.0, 0.0), (10, 0.75, 0.25)]},
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`drawn(frontier_figure, points)`: the figure as matplotlib has it, before it is closed."""

    def draw(function: Callable[..., None], *arguments: Any) -> Any:
        figures: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", figures.append)
            function(*arguments)
        return figures[0]

    yield draw
    plt.close("all")


def luminance(colour: str) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines define it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_method_has_a_colour_and_a_marker_that_can_be_seen() -> None:
    assert STYLES.keys() == METHODS.keys()
    styles = [*STYLES.values(), BASE, OTHER]
    assert len({style.colour for style in styles}) == len({style.dark for style in styles}) == len(styles)
    assert len({(style.marker, style.filled) for style in styles}) == len(styles)
    for style in styles:
        assert 1.05 / (luminance(style.colour) + 0.05) >= 3  # on white
        assert (luminance(style.dark) + 0.05) / (luminance("#14171b") + 0.05) >= 3  # on the page's dark ground
    assert [method for method, style in STYLES.items() if style.filled] == [
        m for m in METHODS if m.startswith("scale-")
    ]
    assert style_of("fft", "base") is BASE
    assert style_of("mine", "others") is OTHER


def test_png_and_svg(tmp_path: Path) -> None:
    accuracy_curves(CURVES, tmp_path / "curves.png", tmp_path / "curves.svg")
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[:2] == (840, 2200)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert STYLES["fft"].colour in svg
    assert plt.get_fignums() == []
    accuracy_curves(CURVES, tmp_path / "again.png", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == svg


def test_the_mean_of_seeds_is_drawn_and_their_spread(drawn: Callable[..., Any]) -> None:
    figure = drawn(accuracy_curves, CURVES)
    lines = [[line.get_xydata().tolist() for line in axis.get_lines()] for axis in figure.axes]
    assert lines == [
        [[[0, 75], [10, 25]], [[0, 100], [10, 75]]],  # Task 0
        [[[0, 0], [10, 75]], [[0, 0], [10, 25]]],  # Task 1
    ]
    spread = 100 * np.std([1.0, 0.5], ddof=1)
    bands = [
        [np.ptp(band.get_paths()[0].vertices, axis=0).tolist() for band in axis.collections] for axis in figure.axes
    ]
    assert bands == [[pytest.approx([10, 75 + spread - 25])], [pytest.approx([10, 75 + spread])]]  # of two seeds only
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fft", "fft@0.1"]


def test_panels_of_other_units_have_axes_of_their_own(drawn: Callable[..., Any]) -> None:
    panels = [
        Panel("English", "tokens", "perplexity", False, {"fft": {"0": [(0, 10.0), (5, 12.0)]}}),
        Panel("Korean", "tokens", "accuracy, %", True, {"mine": {"0": [(0, 0.1), (5, 0.2)]}}),
    ]
    figure = drawn(curve_figure, panels, {"fft": ("fft", "baselines")})
    assert [axis.get_ylabel() for axis in figure.axes] == ["perplexity", "accuracy, %"]
    assert figure.axes[1].get_ylim() == (-3, 103)
    assert figure.axes[0].get_ylim()[0] > 5
    assert [axis.get_lines()[0].get_color() for axis in figure.axes] == [STYLES["fft"].colour, OTHER.colour]


def points(*labels: str, reverse: bool = False) -> Frontier:
    rows = [
        Point(
            place,
            label,
            "fft" if place else None,
            "baselines" if place else "base",
            60.0 - place,
            10.0 + place,
            1.0,
            2.0,
            True,
        )
        for place, label in enumerate(labels)
    ]
    return Frontier("stability: A, %", "plasticity: K, %", reverse, False, tuple(rows))


def test_the_trade_off(drawn: Callable[..., Any], tmp_path: Path) -> None:
    figure = drawn(frontier_figure, points("base", "fft", "far"), tmp_path / "f.png")
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("stability: A, %", "plasticity: K, %")
    assert [text.get_text() for text in axis.texts] == ["base", "fft", "far"]
    bars = [container.lines[2] for container in axis.containers]
    segments = [[np.ptp(bar.get_segments()[0], axis=0).tolist() for bar in pair] for pair in bars]
    assert segments == [[[2.0, 0.0], [0.0, 4.0]]] * 3
    dashed = next(line for line in axis.get_lines() if len(line.get_xdata()) > 2)
    assert dashed.get_xydata()[1:-1].tolist() == [[58, 12], [58, 11], [59, 11], [59, 10], [60, 10]]
    low, high = axis.get_xlim()
    assert low < 57 < 61 < high
    assert (tmp_path / "f.png").stat().st_size > 10_000
    figure = drawn(frontier_figure, points("base", "fft", reverse=True))
    low, high = figure.axes[0].get_xlim()
    assert low > high


def test_labels_do_not_cover_each_other(drawn: Callable[..., Any], tmp_path: Path) -> None:
    figure = drawn(frontier_figure, points("a long label", "another label", "a third one"), tmp_path / "f.png")
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    for place, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[:place])


def test_korean_labels_with_a_font(drawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glyph that is missing is a warning of matplotlib's, which would end the test."""
    before = list(font_manager.fontManager.ttflist)
    family = fonts.find_korean_font([hangul_font(tmp_path / "hangul.ttf")])
    monkeypatch.setattr(fonts, "korean_font", lambda: family)
    try:
        figure = drawn(frontier_figure, points("기본", "미세조정"), tmp_path / "f.png")
        assert [text.get_text() for text in figure.axes[0].texts] == ["기본", "미세조정"]
        panel = Panel("한국어", "단계", "정확도", True, {"미세조정": {"0": [(0, 0.1), (5, 0.2)]}})
        figure = drawn(curve_figure, [panel], {}, tmp_path / "c.png", tmp_path / "c.svg")
        assert figure.axes[0].get_title() == "한국어"
    finally:
        font_manager.fontManager.ttflist[:] = before


def test_korean_labels_without_a_font(
    drawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "korean_font", lambda: None)
    figure = drawn(frontier_figure, points("기본", "미세조정"), tmp_path / "f.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["gibon", "misejojeong"]


def test_without_that_care_a_missing_glyph_ends_the_test(
    drawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "korean_font", lambda: "DejaVu Sans")
    with pytest.raises(UserWarning, match="Glyph"):
        drawn(frontier_figure, points("기본", "미세조정"), tmp_path / "f.png")


def layers_table(option: str = "preserve_layers", values: tuple[Any, ...] = (8, 0, 16)) -> StabilityPlasticityTable:
    """SCALE-Adapt with several values of an option, measured and reported, and a base."""
    numbers = [measured("a", 0.6), measured("b", 0.4), measured("k", 0.1)]
    results = [result("base", None, numbers)]
    for place, value in enumerate(values):
        found = [measured("a", 0.5), measured("b", 0.3 + place / 10), measured("k", 0.7)]
        results.append(result(f"adapt {value}", "scale-adapt", found, options={option: value}))
    paper = [measured("a", 0.2), measured("b", 0.2), measured("k", 0.9, None)]
    results.append(result("paper", "scale-adapt", paper, options={option: values[0]}, reported="a paper"))
    return build_table(results, [STABLE, PLASTIC])


def test_an_ablation_holds_the_rows_by_the_option_s_value() -> None:
    found = ablation(layers_table(), "preserve_layers")
    assert found.ticks == {}
    stable, plastic = found.panels
    assert (stable.label, stable.base) == ("stability: English average, %", 50.0)
    ours, paper = stable.series
    assert (ours.label, ours.reported, paper.label, paper.reported) == (
        "scale-adapt",
        False,
        "scale-adapt, reported",
        True,
    )
    error = 100 * 0.01 / 2**0.5
    assert [x for x, _, _ in ours.points] == [0, 8, 16]
    assert [y for _, y, _ in ours.points] == pytest.approx([45, 40, 50])
    assert [one for _, _, one in ours.points] == pytest.approx([error] * 3)
    assert plastic.series[1].points == ((8.0, 90.0, 0.0),)


def test_words_are_places_in_their_order() -> None:
    found = ablation(layers_table("adapt_modules", (["attention"], ["ffn"], ["attention", "ffn"])), "adapt_modules")
    assert found.ticks == {0: "attention", 1: "ffn", 2: "attention,ffn"}
    assert [point[0] for point in found.panels[0].series[0].points] == [0, 1, 2]


def test_an_ablation_is_drawn(drawn: Callable[..., Any], tmp_path: Path) -> None:
    figure = drawn(ablation_figure, ablation(layers_table(), "preserve_layers"), tmp_path / "a.png", tmp_path / "a.svg")
    left = figure.axes[0]
    assert (left.get_xlabel(), left.get_ylabel()) == ("preserve_layers", "stability: English average, %")
    measured_line, reported_line = (container.lines[0] for container in left.containers)
    assert measured_line.get_xydata().tolist() == [
        [0, pytest.approx(45)],
        [8, pytest.approx(40)],
        [16, pytest.approx(50)],
    ]
    assert (reported_line.get_linestyle(), reported_line.get_markerfacecolor()) == ("--", "white")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "base",
        "scale-adapt",
        "scale-adapt, reported",
    ]
    assert left.get_xscale() == "linear"
    rates = drawn(ablation_figure, ablation(layers_table("lr", (1e-4, 1e-3, 1e-2)), "lr"))
    assert rates.axes[0].get_xscale() == "log"
    words = drawn(ablation_figure, ablation(layers_table("init", ("svd", "zero", "random")), "init"))
    assert [tick.get_text() for tick in words.axes[0].get_xticklabels()] == ["svd", "zero", "random"]


def test_what_is_no_ablation() -> None:
    with pytest.raises(RequestError) as caught:
        ablation(layers_table(), "threshold")
    assert str(caught.value) == (
        "--ablation threshold: it takes results with at least two values of it; choose from preserve_layers"
    )
    same = build_table([result("x", "fft", [measured("k", 0.5)], options={"lr": 1})], [PLASTIC])
    with pytest.raises(RequestError, match="no option differs between these results"):
        ablation(same, "lr")
    two = [result(str(rate), "fft", [measured("k", 0.5)], options={"lr": rate}) for rate in (1, 2)]
    with pytest.raises(RequestError, match="--ablation lr: no column measures stability or plasticity; give --suite"):
        ablation(build_table(two, []), "lr")
