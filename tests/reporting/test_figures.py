"""Content of figures and their files; in a page, the texts of figures are escaped."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager, image
from matplotlib.transforms import Bbox

from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json
from scale_cli.methods import METHODS
from scale_cli.reporting import figures, style
from scale_cli.reporting.ablation import ablation
from scale_cli.reporting.captions import frontier_caption
from scale_cli.reporting.curves import Panel, panels_of, styles_of
from scale_cli.reporting.figures import ablation_figure, curve_figure, frontier_figure, pareto_outline, trade_off
from scale_cli.reporting.inline import inline_svg
from scale_cli.reporting.style import BASE, OTHER, STYLES, style_of
from scale_cli.reporting.table import Table, build_table
from scale_cli.results.groups import ColumnSpec, GroupSpec
from tests.helpers import refusal
from tests.results.made import PLASTIC, STABLE, measured, result

RUNS = {
    "fft": {"0": [(0, 1.0), (10, 0.25)], "1": [(0, 0.5), (10, 0.25), (20, 0.1)]},
    "fft@0.1": {"0": [(0, 1.0), (10, 0.75)]},
}
PANEL = Panel("Task 0", "steps", "accuracy, %", True, RUNS)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`drawn(curve_figure, panels, {})` returns matplotlib's figure before it is closed."""

    def draw(function: Callable[..., None], *arguments: Any) -> Any:
        closed: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", closed.append)
            function(*arguments)
        return closed[0]

    yield draw
    plt.close("all")


def luminance(colour: str) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines define it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_method_has_a_colour_and_a_marker_that_can_be_seen() -> None:
    assert STYLES.keys() == METHODS.keys()
    styles = [*STYLES.values(), BASE, OTHER]
    assert len({style.colour for style in styles}) == len({style.dark for style in styles}) == len(styles)
    assert len({(style.marker, style.filled) for style in styles}) == len(styles)
    for entry in styles:
        assert 1.05 / (luminance(entry.colour) + 0.05) >= 3  # on white
        assert (luminance(entry.dark) + 0.05) / (luminance("#14171b") + 0.05) >= 3  # on the page's dark ground
    assert [method for method, entry in STYLES.items() if entry.filled] == [
        m for m in METHODS if m.startswith("scale-")
    ]
    assert style_of("fft", "base") is BASE
    assert style_of("mine", "others") is OTHER


# Curves


def test_png_and_svg(tmp_path: Path) -> None:
    curve_figure([PANEL, PANEL], {"fft": STYLES["fft"]}, tmp_path / "curves.png", tmp_path / "curves.svg")
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[1] == 2010  # two columns of a paper, 17 cm at 300 dots per inch
    assert 780 < pixels.shape[0] < 900
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert STYLES["fft"].colour in svg
    assert plt.get_fignums() == []
    curve_figure([PANEL, PANEL], {"fft": STYLES["fft"]}, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == svg


def test_the_mean_of_seeds_is_drawn_and_their_spread(drawn: Callable[..., Any]) -> None:
    figure = drawn(curve_figure, [PANEL], {})
    (axis,) = figure.axes
    assert [line.get_xydata().tolist() for line in axis.get_lines()] == [
        [[0, 75], [10, 25]],  # at the steps that both have
        [[0, 100], [10, 75]],
    ]
    spread = 100 * np.std([1.0, 0.5], ddof=1)
    bands = [np.ptp(band.get_paths()[0].vertices, axis=0).tolist() for band in axis.collections]
    assert bands == [pytest.approx([10, 75 + spread - 25])]  # of two seeds only
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fft", "fft@0.1"]


def test_a_curve_of_a_parameter_keeps_its_order() -> None:
    points = {"fft": {"mean": [(3.0, 1.0), (1.0, 2.0), (2.0, 0.5)]}}
    for in_order, xs in ((True, [3, 1, 2]), (False, [1, 2, 3])):
        panel = Panel("Average", "kept", "learnt", False, points, in_order=in_order)
        assert panel.lines["fft"].index.to_list() == xs
        assert Panel.read(json.loads(to_json(panel))) == panel


def test_routers_of_one_checkpoint_are_curves(drawn: Callable[..., Any], tmp_path: Path) -> None:
    """In the order of their parameter, from the checkpoint as trained, with one label per checkpoint."""
    scores = {
        None: (0.2, 1.0),
        "mixture:1:0.6": (0.8, 0.7),
        "mixture:1:0.1": (0.3, 0.98),
        "interpolate:0.5": (0.5, 0.9),
        "interpolate:0.9": (0.25, 0.99),
        "mixture:0": (0.9, 0.1),
    }
    results = [result("base", None, [measured("a", 0.95), measured("b", 0.95), measured("k", 0.0)])]
    for router, (kept, learnt) in scores.items():
        made = result("run", "scale-adapt", [measured("a", kept), measured("b", kept), measured("k", learnt)])
        info = replace(made.checkpoint, router=router, label="run" if router is None else f"run, {router}")
        results.append(replace(made, checkpoint=info))
    figure = drawn(frontier_figure, build_table(results, [STABLE, PLASTIC], base="base"), tmp_path / "x.png")
    (axis,) = figure.axes
    curves = {
        line.get_linestyle(): line.get_xydata().tolist() for line in axis.get_lines() if len(line.get_xdata()) > 2
    }
    percent = {router: [100 * value for value in both] for router, both in scores.items()}
    assert curves["-"] == [pytest.approx(percent[router]) for router in (None, "mixture:1:0.1", "mixture:1:0.6")]
    assert curves[":"] == [pytest.approx(percent[router]) for router in (None, "interpolate:0.9", "interpolate:0.5")]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "average of both predictions, by the base's weight",
        "interpolated logits, by the weight",
    ]
    assert {text.get_text() for text in axis.texts} == {"base", "run", "run, mixture:0"}


def test_panels_of_other_units_have_axes_of_their_own(drawn: Callable[..., Any]) -> None:
    panels = [
        Panel("English", "tokens", "perplexity", False, {"fft": {"0": [(0, 10.0), (5, 12.0)]}}),
        Panel("Korean", "tokens", "accuracy, %", True, {"mine": {"0": [(0, 0.1), (5, 0.2)]}}),
    ]
    figure = drawn(curve_figure, panels, {"fft": STYLES["fft"]})
    assert [axis.get_ylabel() for axis in figure.axes] == ["perplexity", "accuracy, %"]
    assert figure.axes[1].get_ylim() == (-3, 103)
    assert figure.axes[0].get_ylim()[0] > 5
    assert [axis.get_lines()[0].get_color() for axis in figure.axes] == [STYLES["fft"].colour, OTHER.colour]


def test_curves_come_with_records_once_in_the_order_of_the_rows() -> None:
    panel = {"title": "English", "x": "tokens", "unit": "perplexity"}
    panel["series"] = {name: {"0": [[0, 10.0], [5, 12.0]]} for name in ("mine", "lora", "routed")}  # type: ignore[assignment]
    results = [
        result(f"{label} (seed 0)", method, [measured("k", 0.5)], curves=[panel])
        for label, method in (("base", None), ("routed", "scale-route"))
    ]
    table = build_table(results, [PLASTIC])
    (read,) = panels_of(results, table)
    assert (read.title, read.percent, list(read.series)) == ("English", False, ["routed", "lora", "mine"])
    assert styles_of(table, [read]) == {"routed": STYLES["scale-route"], "mine": OTHER, "lora": STYLES["lora"]}
    for curves, message in (([{"title": "t"}], r"KeyError\('series'\)"), ([3], "TypeError")):
        with pytest.raises(RequestError, match=f"^None: malformed curves in the record: {message}"):
            panels_of([result("fft", "fft", [], curves=curves)], table)


# The trade-off


def front(metric: str, *rows: tuple[float, float], labels: str = "") -> Table:
    """The trade-off of a base and FFT runs. metric: of the stability column."""
    stable = GroupSpec("en", "English", "stability", (ColumnSpec("a", metric, "A"),))
    names = labels.split(",") if labels else [f"r{index}" for index in range(len(rows))]
    results = [
        result(names[index], "fft" if index else None, [measured("a", x, 0.01, metric), measured("k", y, 0.02)])
        for index, (x, y) in enumerate(rows)
    ]
    return build_table(results, [stable, PLASTIC])


def test_points_are_the_summaries_as_shown() -> None:
    points = trade_off(front("acc", (0.6, 0.1), (0.4, 0.8)))
    assert [(p.label, p.x, p.x_error, p.y, p.y_error, p.row.pareto) for p in points] == [
        ("r0", 60.0, 1.0, 10.0, 2.0, True),
        ("r1", 40.0, 1.0, 80.0, 2.0, True),
    ]
    both = [measured("a", 0.5), measured("b", 0.5), measured("k", 0.5)]
    two = [result("base", None, both), result("fft", "fft", both)]
    assert trade_off(build_table(two, [STABLE])) == []
    assert trade_off(build_table(two[:1], [STABLE, PLASTIC])) == []


def test_the_front_is_a_staircase_from_the_least_stable_point() -> None:
    points = trade_off(front("acc", (0.6, 0.1), (0.4, 0.8), (0.5, 0.5), (0.3, 0.3)))
    assert pareto_outline(points, reverse=False) == [(40, 80), (40, 50), (50, 50), (50, 10), (60, 10)]
    lower = trade_off(front("bits_per_byte", (0.9, 0.1), (1.2, 0.8), (1.0, 0.5), (1.3, 0.7)))
    assert pareto_outline(lower, reverse=True) == [(1.2, 80), (1.2, 50), (1.0, 50), (1.0, 10), (0.9, 10)]


def test_the_trade_off(drawn: Callable[..., Any], tmp_path: Path) -> None:
    table = front("acc", (0.6, 0.1), (0.59, 0.11), (0.58, 0.12), labels="base,fft,far")
    figure = drawn(frontier_figure, table, tmp_path / "f.png")
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("stability: English A, %", "plasticity: Korean K, %")
    assert [text.get_text() for text in axis.texts] == ["base", "fft", "far"]
    bars = [container.lines[2] for container in axis.containers]
    segments = [[np.ptp(bar.get_segments()[0], axis=0).tolist() for bar in pair] for pair in bars]
    assert segments == [[pytest.approx([2.0, 0.0]), pytest.approx([0.0, 4.0])]] * 3
    dashed = next(line for line in axis.get_lines() if len(line.get_xdata()) > 2)
    corners = [pytest.approx(corner) for corner in ([58, 12], [58, 11], [59, 11], [59, 10], [60, 10])]
    assert dashed.get_xydata()[1:-1].tolist() == corners
    low, high = axis.get_xlim()
    assert low < 57 < 61 < high
    assert (tmp_path / "f.png").stat().st_size > 10_000
    low, high = drawn(frontier_figure, front("bits_per_byte", (0.9, 0.1), (1.2, 0.8))).axes[0].get_xlim()
    assert low > high


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 500)), min_size=1, max_size=6))
def test_every_place_of_a_label_is_beside_its_point(points: list[tuple[float, float]]) -> None:
    for x, y in points:
        for box in figures._around(x, y, 60.0, 12.0, 5.0):
            assert not box.contains(x, y)
            assert (box.width, box.height) == pytest.approx((60.0, 12.0))


def test_labels_do_not_cover_each_other(drawn: Callable[..., Any], tmp_path: Path) -> None:
    near = front("acc", (0.6, 0.1), (0.599, 0.1), (0.601, 0.1), labels="a long label,another label,a third one")
    figure = drawn(frontier_figure, near, tmp_path / "f.png")
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(extents, 2))
    assert figures._overlap(Bbox([[0, 0], [10, 10]]), Bbox([[5, 5], [20, 6]])) == 5
    assert figures._overlap(Bbox([[0, 0], [10, 10]]), Bbox([[10, 0], [20, 10]])) == 0


def test_more_than_ten_rows_are_numbered_and_named_in_a_legend(drawn: Callable[..., Any], tmp_path: Path) -> None:
    names = ["base", *(f"fft at rate {number}" for number in range(10))]
    rows = [(0.6 - 0.01 * number, 0.1 + 0.02 * number) for number in range(11)]
    figure = drawn(frontier_figure, front("acc", *rows, labels=",".join(names)), tmp_path / "f.png")
    assert [text.get_text() for text in figure.axes[0].texts] == [str(number) for number in range(1, 12)]
    shown = [text.get_text().split("  ") for text in figure.legends[0].get_texts()]
    assert shown == [[str(number), name] for number, name in enumerate(names, 1)]
    assert figure.get_figwidth() * 2.54 == pytest.approx(8.5, abs=0.02)
    ten = drawn(frontier_figure, front("acc", *rows[:10], labels=",".join(names[:10])), tmp_path / "f.png")
    assert (ten.axes[0].texts[1].get_text(), ten.legends) == ("fft at rate 0", [])


def test_an_axis_is_logarithmic_if_one_value_is_far_from_the_rest(drawn: Callable[..., Any]) -> None:
    near, far = ([(1.0, 0.1), (1.2, 0.3), (1.1, 0.2), (last, 0.4)] for last in (99.0, 200.0))
    scales = [drawn(frontier_figure, front("perplexity", *rows)).axes[0].get_xscale() for rows in (near, far)]
    assert scales == ["linear", "log"]
    caption = frontier_caption(front("perplexity", *far))
    assert "Logarithmic: stability: English A (lower is better)." in caption
    assert "Bars: one standard error over the items or documents." in caption
    losses = {"fft": {"0": [(0, 2.0), (1, 1.5), (2, 1.4)]}, "lora": {"0": [(0, 2.0), (1, 300.0), (2, 1.4)]}}
    assert drawn(curve_figure, [Panel("Loss", "steps", "nats", False, losses)], {}).axes[0].get_yscale() == "log"


# Korean labels


def hangul_font(file: Path) -> Path:
    """A font with every syllable, each a square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for move, point in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 700)), (pen.lineTo, (700, 700)), (pen.lineTo, (700, 0))):
        move(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap(dict.fromkeys(range(0xAC00, 0xD7A4), "square"))
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test Hangul", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)
    return file


KOREAN = "기본,미세조정"


def test_a_font_with_hangul_is_found_by_its_letters_and_used(
    drawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The font is found by its glyphs, not by its name. A missing glyph raises a warning, which fails the test."""
    broken, lying = tmp_path / "Nanum.ttf", tmp_path / "NotoSansCJK.ttf"
    broken.write_text("no font", encoding="utf-8")
    lying.write_bytes(Path(font_manager.findfont("DejaVu Sans")).read_bytes())
    without = [
        entry for entry in font_manager.fontManager.ttflist if entry.name in ("DejaVu Sans", "DejaVu Sans Display")
    ]
    entries = [font_manager.FontEntry(fname=str(file), name=file.stem) for file in (broken, lying)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*without, *entries])
    assert style.korean_font.__wrapped__() is None
    font_manager.fontManager.addfont(hangul_font(tmp_path / "mine.ttf"))
    assert style.korean_font.__wrapped__() == "Test Hangul"
    monkeypatch.setattr(style, "korean_font", style.korean_font.__wrapped__)
    figure = drawn(frontier_figure, front("acc", (0.6, 0.1), (0.4, 0.8), labels=KOREAN), tmp_path / "f.png")
    assert [text.get_text() for text in figure.axes[0].texts] == KOREAN.split(",")
    panel = Panel("한국어", "단계", "정확도", True, {"미세조정": {"0": [(0, 0.1), (5, 0.2)]}})
    figure = drawn(curve_figure, [panel], {}, tmp_path / "c.png", tmp_path / "c.svg")
    assert figure.axes[0].get_title() == "한국어"


def test_without_a_font_korean_is_romanised(
    drawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "korean_font", lambda: None)
    assert style.is_romanised(["A", "한국어"])
    assert not style.is_romanised(["A", "B"])
    assert style.families(["한국어"]) == ["DejaVu Sans"]
    assert style.drawable("KoBEST 부산, busan") == "KoBEST busan, busan"
    figure = drawn(frontier_figure, front("acc", (0.6, 0.1), (0.4, 0.8), labels=KOREAN), tmp_path / "f.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["gibon", "misejojeong"]


def test_without_that_care_a_missing_glyph_ends_the_test(
    drawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "korean_font", lambda: "DejaVu Sans")
    with pytest.raises(UserWarning, match="Glyph"):
        drawn(frontier_figure, front("acc", (0.6, 0.1), (0.4, 0.8), labels=KOREAN), tmp_path / "f.png")


# In a page


HOSTILE = "</svg><script>alert(1)</script>&\"'"


def test_a_figure_in_a_page_is_one_element_whose_texts_are_text() -> None:
    table = front("acc", (0.6, 0.1), (0.4, 0.8), labels=f"base,{HOSTILE}")
    draw = functools.partial(frontier_figure, table, link=lambda row: "#r0")
    svg = inline_svg(draw, name="f", label=HOSTILE)
    root = ElementTree.fromstring(svg)
    assert (root.tag, root.get("class"), root.get("aria-label")) == ("svg", "plot", HOSTILE)
    assert {element.tag for element in root.iter()} <= {
        *("svg", "g", "path", "defs", "use", "a", "text", "tspan", "title", "clipPath", "rect")
    }
    texts = [element.text for element in root.iter("text")]
    assert HOSTILE in texts
    assert f"{HOSTILE}: stability 40 ± 1, plasticity 80 ± 2" in [element.text for element in root.iter("title")]
    assert [element.get("href") for element in root.iter("a")] == ["#r0"] * 4
    names = {element.get("id") for element in root.iter() if element.get("id")}
    assert all(str(name).startswith("f-") for name in names)
    assert {str(element.get("href"))[1:] for element in root.iter("use")} <= names
    assert f"light-dark({STYLES['fft'].colour}, {STYLES['fft'].dark})" in svg
    assert "http" not in svg


def test_a_page_s_reader_has_fonts_for_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "korean_font", lambda: None)
    table = front("acc", (0.6, 0.1), (0.4, 0.8), labels=KOREAN)
    svg = inline_svg(functools.partial(frontier_figure, table), name="f", label="x")
    assert all(f">{label}<" in svg for label in KOREAN.split(","))


# Ablations


def layers_table(option: str = "preserve_layers", values: tuple[Any, ...] = (8, 0, 16)) -> Table:
    """SCALE-Adapt with several values of an option, measured and reported, and a base."""
    numbers = [measured("a", 0.6), measured("b", 0.4), measured("k", 0.1)]
    results = [result("base", None, numbers)]
    for index, value in enumerate(values):
        numbers_of_run = [measured("a", 0.5), measured("b", 0.3 + index / 10), measured("k", 0.7)]
        results.append(result(f"adapt {value}", "scale-adapt", numbers_of_run, options={option: value}))
    paper = [measured("a", 0.2), measured("b", 0.2), measured("k", 0.9, None)]
    results.append(result("paper", "scale-adapt", paper, options={option: values[0]}, reported="a paper"))
    return build_table(results, [STABLE, PLASTIC])


def test_an_ablation_holds_the_rows_by_the_option_s_value() -> None:
    effect = ablation(layers_table(), "preserve_layers")
    assert effect.ticks == {}
    stable, plastic = effect.panels
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
    assert [shown_error for _, _, shown_error in ours.points] == pytest.approx([error] * 3)
    assert plastic.series[1].points == ((8.0, 90.0, 0.0),)


def test_words_are_places_in_their_order() -> None:
    effect = ablation(layers_table("adapt_modules", (["attention"], ["ffn"], ["attention", "ffn"])), "adapt_modules")
    assert effect.ticks == {0: "attention", 1: "ffn", 2: "attention,ffn"}
    assert [point[0] for point in effect.panels[0].series[0].points] == [0, 1, 2]


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
    assert (measured_line.get_linestyle(), reported_line.get_linestyle()) == ("-", "--")
    assert measured_line.get_marker() == reported_line.get_marker() == STYLES["scale-adapt"].marker
    assert reported_line.get_alpha() < measured_line.get_alpha() == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "base",
        "scale-adapt",
        "scale-adapt, reported",
    ]
    assert left.get_xscale() == "linear"
    rates = drawn(ablation_figure, ablation(layers_table("lr", (1e-4, 1e-3, 1e-2)), "lr"))
    assert rates.axes[0].get_xscale() == "log"
    named = drawn(ablation_figure, ablation(layers_table("init", ("svd", "zero", "random")), "init"))
    assert [tick.get_text() for tick in named.axes[0].get_xticklabels()] == ["svd", "zero", "random"]


def test_what_is_no_ablation() -> None:
    assert refusal(ablation, layers_table(), "threshold") == (
        "--ablation threshold: results with at least two values of it are needed; choose from preserve_layers"
    )
    same = build_table([result("x", "fft", [measured("k", 0.5)], options={"lr": 1})], [PLASTIC])
    with pytest.raises(RequestError, match="no option differs between these results"):
        ablation(same, "lr")
    two = [result(str(rate), "fft", [measured("k", 0.5)], options={"lr": rate}) for rate in (1, 2)]
    with pytest.raises(RequestError, match="--ablation lr: no column measures stability or plasticity; give --suite"):
        ablation(build_table(two, []), "lr")
