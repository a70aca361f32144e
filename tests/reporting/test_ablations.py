"""The figures of the ablations, as they are read: nothing is cut off, and nothing covers another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.pyplot as plt
import pytest

from scale_cli.bench.ablations import ROWS, load_preset, paper_values
from scale_cli.reporting import figures
from scale_cli.reporting.ablation import row_ablation

GAP = 4 * figures.DPI / 72
"""Between words side by side, pixels: four points, more than a blank has, or they read as one."""


@pytest.fixture
def figure_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """`figure_of(ablation)`: of the demo's rows, three seeds each, with the paper's values, before it is closed."""

    def draw(name: str) -> Any:
        drawn: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", drawn.append)
            figures.ablation_figure(row_ablation(name, rows_of(name), paper_values(name)))
        (figure,) = drawn
        figure.canvas.draw()
        return figure

    yield draw
    plt.close("all")


def rows_of(name: str) -> list[dict[str, Any]]:
    """The base and what every row of an ablation measures, with numbers of the size that SmolLM2-135M has."""
    recipe = load_preset(name, "demo")
    languages = ("english", "korean")
    rows: list[dict[str, Any]] = [
        {"label": "base", "perplexity": dict.fromkeys(languages, 20.0), "routed": dict.fromkeys(languages)}
    ]
    for seed, (place, label) in itertools.product(range(3), enumerate(recipe.methods)):
        method = recipe.method_of(label)
        rows.append(
            {
                "label": label,
                "method": method,
                "perplexity": dict.fromkeys(languages, 20.5 + place + 0.1 * seed),
                "routed": dict.fromkeys(languages, 0.98 - 0.1 * place if method == "scale-route" else None),
                "cosine": dict.fromkeys(languages, 1 - 0.01 * place),
                "norms": {"attention": 11.3 + place, "ffn": 14.7 + place},
            }
        )
    return rows


@pytest.mark.parametrize("name", ROWS)
def test_every_word_of_a_figure_can_be_read(name: str, figure_of: Callable[[str], Any]) -> None:
    figure = figure_of(name)
    for axis in figure.axes:
        for label in (axis.xaxis.label, axis.yaxis.label):
            box = label.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, label.get_text()
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, label.get_text()
        low, high = axis.get_xlim()
        ticks = [tick.label1 for tick in axis.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.get_window_extent() for tick in ticks]
        assert len(boxes) > 1
        apart = [right.x0 - left.x1 for left, right in itertools.pairwise(boxes)]
        assert min(apart) > GAP, [tick.get_text() for tick in ticks]


def test_the_figures_show_the_paper_where_it_says_something(figure_of: Callable[[str], Any]) -> None:
    """One set of values for each of a paper's rows; Fig. 5 was read as an order alone."""
    shown = {
        name: [text.get_text() for text in figure_of(name).legends[0].get_texts() if ", paper" in text.get_text()]
        for name in ROWS
    }
    assert shown == {
        "init": [],
        "layers": ["L_fp, paper"],
        "modules": ["W12 in attention, paper", "W12 in ffn, paper"],
        "drift": ["scale-preserve, paper", "scale-adapt, paper", "llama-pro, paper"],
        "threshold": [],
        "where": [],
    }
