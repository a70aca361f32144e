"""The figures are written, and hold what they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import image

from scale_cli.methods import METHODS
from scale_cli.reporting.figures import COLOURS, accuracy_curves

CURVES = {
    "fft": {0: [(0, 1.0, 0.0), (10, 0.25, 0.5)], 1: [(0, 0.5, 0.0), (10, 0.25, 1.0)]},
    "fft@0.1": {0: [(0, 1.0, 0.0), (10, 0.75, 0.25)]},
}


def test_a_colour_for_every_method() -> None:
    assert COLOURS.keys() == METHODS.keys()
    assert len(set(COLOURS.values())) == len(METHODS)


def test_png_and_svg(tmp_path: Path) -> None:
    for name in ("curves.png", "curves.svg"):
        accuracy_curves(CURVES, tmp_path / name)
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[:2] == (672, 1760)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert COLOURS["fft"] in svg
    assert plt.get_fignums() == []


def test_the_mean_of_seeds_is_drawn_and_their_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plt, "close", figures.append)
    accuracy_curves(CURVES, tmp_path / "curves.svg")
    monkeypatch.undo()
    (figure,) = figures
    drawn = [[line.get_xydata().tolist() for line in axis.get_lines()] for axis in figure.axes]
    assert drawn == [
        [[[0, 75], [10, 25]], [[0, 100], [10, 75]]],  # Task 0
        [[[0, 0], [10, 75]], [[0, 0], [10, 25]]],  # Task 1
    ]
    spread = 100 * np.std([1.0, 0.5], ddof=1)
    bands = [
        [np.ptp(band.get_paths()[0].vertices, axis=0).tolist() for band in axis.collections] for axis in figure.axes
    ]
    assert bands == [[pytest.approx([10, 75 + spread - 25])], [pytest.approx([10, 75 + spread])]]  # of two seeds only
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fft", "fft@0.1"]
    plt.close(figure)
