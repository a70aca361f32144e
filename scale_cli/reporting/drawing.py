"""The parts that figures share: their size, look, axes and legends."""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np

from scale_cli.reporting.style import BASE, Style, families

File = Path | io.StringIO
"""Target of a figure: a .png or .svg file, or a buffer for SVG."""
DPI = 300
CHARACTER = 0.52
"""The mean width of a character, as a share of the font's size."""


class Layout(NamedTuple):
    """The size of a figure, in inches. font: size of text in points, to which lines and markers are in proportion.

    single: width and height of a figure with one panel. panel: those of one of several, `columns` side by side.
    """

    font: float
    single: tuple[float, float]
    panel: tuple[float, float]
    columns: int

    @property
    def scale(self) -> float:
        """The size of lines and markers; 1 for a font of 10 points."""
        return self.font / 10

    def size(self, panels: int) -> tuple[float, float]:
        """The size of a figure with several panels, and its legend."""
        columns = min(panels, self.columns)
        return self.panel[0] * columns, self.panel[1] * -(-panels // columns)

    def wrapped(self, text: str, inches: float, *, least: int = 20) -> str:
        """A label on as many lines as a length needs, if possible divided before a parenthesis.

        least: the number of characters that a line has room for at any length.
        """
        characters = max(least, int(inches * 72 / (CHARACTER * self.font)))
        parts = [text] if len(text) <= characters else text.replace(" (", "\n(").split("\n")
        return "\n".join(textwrap.fill(part, characters) for part in parts)


COLUMN = Layout(7.5, (3.35, 2.9), (3.35, 2.6), 2)
"""A column of a paper, 8.5 cm wide; several panels take both columns."""
PAGE = Layout(10, (6.8, 4.6), (5.5, 4.2), 2)
PHONE = COLUMN._replace(columns=1)
"""Of the HTML page: wide, and on a narrow screen."""
FAR = 100
"""An axis is logarithmic if its largest value is as many times the median."""
QUIET, RULE, GRID, WHITE = "#586069", "#8b939d", "#d6dae0", "#ffffff"
LOOK: dict[Any, Any] = {
    "text.color": BASE.colour,
    "axes.labelcolor": BASE.colour,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "legend.frameon": False,
    "svg.hashsalt": "scale",  # equal figures are equal files
}
SIZES = {"grid.linewidth": 0.7, "axes.linewidth": 0.8, "xtick.major.width": 0.8, "ytick.major.width": 0.8}
"""Widths of lines at a font of 10 points."""


def is_far(values: Sequence[float]) -> bool:
    """Whether one value is FAR times the others, so that they would share one point of a linear axis."""
    return min(values) > 0 and max(values) >= FAR * float(np.median(values))


@contextlib.contextmanager
def figure(
    files: Sequence[File],
    texts: Sequence[str],
    layout: Layout,
    size: tuple[float, float],
    *,
    panels: int = 1,
    **options: Any,
) -> Iterator[tuple[Any, Any]]:
    """A figure and its rows of axes in the common look, with fonts for the texts; written to the files at the end of
    the block.

    size: in inches. panels: the number of axes; those of the last row that are not needed are invisible.
    options: arguments of `plt.subplots`.
    """
    look = {"font.family": families(texts), "font.size": layout.font}
    with matplotlib.rc_context(LOOK | look | {name: layout.scale * size for name, size in SIZES.items()}):
        columns = min(panels, layout.columns)
        rows = -(-panels // columns)
        canvas, axes = plt.subplots(
            rows, columns, layout="constrained", dpi=DPI, figsize=size, squeeze=False, **options
        )
        for axis in axes.flat[panels:]:
            axis.set_axis_off()
        yield canvas, axes
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")  # each drawing would move the axes a little
        for file in files:
            inline = isinstance(file, io.StringIO)
            svg = inline or file.suffix == ".svg"  # type: ignore[union-attr]
            settings = {"format": "svg", "transparent": True} if inline else {}
            canvas.savefig(file, dpi=DPI, metadata={"Date": None} if svg else None, **settings)
        plt.close(canvas)


def marker(style: Style, *, size: float, line: bool = True) -> dict[str, Any]:
    """matplotlib's arguments for a method's marker. line: include a colour, and a line that is not drawn."""
    arguments = {
        "marker": style.marker,
        "markersize": size,
        "markerfacecolor": style.colour if style.filled else WHITE,
        "markeredgecolor": WHITE if style.filled else style.colour,
        "markeredgewidth": (0.09 if style.filled else 0.2) * size,
    }
    return arguments | ({"color": style.colour, "linestyle": "none"} if line else {})


def legend_below(canvas: Any, axes: Any, layout: Layout) -> None:
    """One legend for all axes: in the empty place of the last row if there is one, else below."""
    entries = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes.flat]
    handles = {label: handle for pairs in entries for handle, label in pairs}
    free = [axis for axis in axes.flat if not axis.axison]
    if free:
        free[0].legend(handles.values(), handles.keys(), loc="center")
        return
    legend_of(canvas, list(handles.values()), layout, list(handles))


def legend_of(canvas: Any, handles: Sequence[Any], layout: Layout, labels: Sequence[str] = ()) -> None:
    """A legend below all axes, of as many columns as fit; the figure becomes higher by it. labels: of the handles."""
    labels = labels or [handle.get_label() for handle in handles]
    if not labels:  # a panel without a curve
        return
    size = 0.92 * layout.font
    width = (CHARACTER * max(map(len, labels)) + 4) * size / 72
    columns = max(1, min(len(labels), int(canvas.get_figwidth() / width)))
    canvas.set_figheight(canvas.get_figheight() + 1.6 * size / 72 * -(-len(labels) // columns))
    canvas.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size)
