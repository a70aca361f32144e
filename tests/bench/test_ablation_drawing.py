"""The figures of the ablations show our values and the paper's, in texts that do not overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from scale_cli.bench.ablation_drawing import drawing
from scale_cli.bench.ablations import ROWS, load_preset, paper_values
from scale_cli.bench.stages import BenchResult
from scale_cli.core.files import plain
from scale_cli.reporting import figures
from scale_cli.reporting.ablation import Ablation
from scale_cli.reporting.drawing import DPI
from scale_cli.results.groups import text_group
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result
from tests.results.made import measured, result

GAP = 4 * DPI / 72
"""Least distance of neighbouring tick labels, in pixels: four points, wider than a space."""
TEXTS = ("english", "korean")


def texts(english: float, korean: float, **more: Any) -> list[Measurement]:
    """Measurements of both texts. english, korean: perplexities."""
    return [
        measured(f"perplexity:{name}", value, metric=metric, **more)
        for name, perplexity in zip(TEXTS, (english, korean), strict=True)
        for metric, value in (("perplexity", perplexity), ("bits_per_byte", math.log2(perplexity)))
    ]


def drawn(name: str, results: list[Result]) -> Ablation:
    recipe = load_preset(name, "demo")
    groups = (text_group("english", "stability"), text_group("korean", "plasticity"))
    done = BenchResult(Path("out"), recipe, "", tuple(results), groups, (), 1.0)
    return drawing(name, done, recipe.roles, 30, paper_values(name))


def demo(name: str) -> Ablation:
    """The figure of an ablation with the base and three seeds of every row. Values are about those of SmolLM2-135M."""
    recipe = load_preset(name, "demo")
    results = [result("base", None, texts(20.0, 20.0))]
    for seed, (index, label) in itertools.product(range(3), enumerate(recipe.methods)):
        method = recipe.method_of(label)
        options = plain(recipe.train_recipe(label, seed=seed).options)
        options["row"] = label  # rows of "modules" differ only in the learning rate
        numbers = texts(
            *(2 * [20.5 + index + 0.1 * seed]), routed=0.98 - 0.1 * index if method == "scale-route" else None
        )
        numbers += [measured(f"drift:{text}", 1 - 0.01 * index, metric="cosine") for text in TEXTS]
        norms = {"attention": 11.3 + index, "ffn": 14.7 + index}
        numbers += [measured("drift", norm, metric=f"expansion_norm/{module}") for module, norm in norms.items()]
        results.append(result(f"{label} (seed {seed})", method, numbers, seed=seed, options=options))
    return drawn(name, results)


@pytest.fixture
def figure_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`figure_of(ablation)` draws the demo's figure and leaves it open."""

    def draw(name: str) -> Any:
        closed: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", closed.append)
            figures.ablation_figure(demo(name))
        (figure,) = closed
        figure.canvas.draw()
        return figure

    yield draw
    plt.close("all")


@pytest.mark.parametrize("name", ROWS)
def test_labels_of_a_figure_do_not_overlap(name: str, figure_of: Callable[[str], Any]) -> None:
    figure = figure_of(name)
    for axis in filter(lambda axis: axis.axison, figure.axes):
        for label in (axis.xaxis.label, axis.yaxis.label):
            box = label.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, label.get_text()
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, label.get_text()
        low, high = axis.get_xlim()
        ticks = [tick.label1 for tick in axis.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.get_window_extent() for tick in ticks]
        assert len(boxes) > 1
        gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(boxes)]
        assert min(gaps) > GAP, [tick.get_text() for tick in ticks]


def legend(figure: Any) -> Any:
    """The legend, below all panels or in an empty place beside them."""
    return next(filter(None, [*figure.legends, *(axis.get_legend() for axis in figure.axes)]))


def test_figures_show_the_paper_s_values(figure_of: Callable[[str], Any]) -> None:
    """One series per row of the paper. Fig. 5 gives only an order."""
    shown = {
        name: [text.get_text() for text in legend(figure_of(name)).get_texts() if ", paper" in text.get_text()]
        for name in ROWS
    }
    assert shown == {
        "init": [],
        "layers": ["L_fp, paper"],
        "modules": ["W12 in attention, paper", "W12 in ffn, paper"],
        "drift": ["llama-pro, paper", "scale-preserve, paper", "scale-adapt, paper"],
        "threshold": [],
        "where": [],
    }


def test_the_figure_has_our_values_and_the_paper_s() -> None:
    """Means and standard deviations over seeds, in percent of the base, at the positions that the recipes give."""
    rows = [("l_fp-100", "scale-preserve", 30, 0, 21.0)]
    rows += [("l_fp-0", "scale-adapt", 0, seed, 22.0 + 2 * seed) for seed in (0, 1)]
    ablation = drawn(
        "layers",
        [
            result("base", None, texts(20.0, 8.0)),
            *(
                result(f"{label} (seed {seed})", method, texts(value, 4.0), seed=seed, options={"preserve_layers": n})
                for label, method, n, seed, value in rows
            ),
        ],
    )
    english, korean = ablation.panels
    assert (ablation.option, ablation.ticks) == ("layers preserved, %", {})
    ours, paper = english.series
    assert list(map(list, ours.points)) == [pytest.approx([0, 15, 50**0.5]), pytest.approx([100, 5, 0])]
    assert paper.reported
    forgetting = [100 * (perplexity / 10.42 - 1) for perplexity in (12.4, 10.6)]
    assert list(map(list, paper.points)) == [
        pytest.approx([0, forgetting[0], 0]),
        pytest.approx([100, forgetting[1], 0]),
    ]
    assert korean.series[0].points[0][1] == -50.0
    assert (english.base, korean.base) == (0.0, 0.0)
