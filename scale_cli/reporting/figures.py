"""Figures by matplotlib for papers, as PNG and SVG: the trade-off, curves of training, ablations, and growth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from scale_cli.reporting.ablation import Ablation
from scale_cli.reporting.colours import STYLES, Style, style_of
from scale_cli.reporting.curves import Panel, biography_panels
from scale_cli.reporting.fonts import drawable, families
from scale_cli.reporting.frontier import Box, Frontier, leader, place_labels
from scale_cli.reporting.growth import GrowthPanel, power_law

Curves = Mapping[str, Mapping[int, Sequence[tuple[int, float, float]]]]
DPI = 200
LOOK: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": "#8b939d",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#d6dae0",
    "grid.linewidth": 0.7,
    "xtick.color": "#8b939d",
    "ytick.color": "#8b939d",
    "xtick.labelcolor": "#586069",
    "ytick.labelcolor": "#586069",
    "legend.frameon": False,
    "svg.hashsalt": "scale",  # the same figure is the same file
}


def frontier_figure(frontier: Frontier, *files: Path) -> None:
    """Stability against plasticity with error bars, the Pareto front (dashed) and the base (dotted), as in Fig. 2 of
    arXiv 2511.03270. Up and right is better.

    files: each .png or .svg.
    """
    with _figure(files, frontier.texts, figsize=(6.8, 4.6)) as (figure, axis):
        for point in frontier.points:
            style = style_of(point.method, point.section)
            axis.errorbar(
                point.x,
                point.y,
                xerr=point.x_error or None,
                yerr=point.y_error or None,
                ecolor=(style.colour, 0.5),
                elinewidth=1.1,
                zorder=3,
                **_marker(style, size=7),
            )
            if point.section == "base":
                for line in (axis.axvline, axis.axhline):
                    line(point.x if line == axis.axvline else point.y, color="#8b939d", linestyle=":", linewidth=1)
        axis.margins(0.09)
        if frontier.reversed_x:
            axis.invert_xaxis()
        if frontier.reversed_y:
            axis.invert_yaxis()
        limits = axis.get_xlim(), axis.get_ylim()
        front = frontier.front
        outline = np.array([(limits[0][0], front[0][1]), *front, (front[-1][0], limits[1][0])])
        axis.plot(*outline.T, color="#8b939d", linestyle=(0, (5, 3)), linewidth=1.2, zorder=2)
        axis.fill(*np.vstack([outline, (limits[0][0], limits[1][0])]).T, color="#8b939d", alpha=0.07, linewidth=0)
        axis.set(xlim=limits[0], ylim=limits[1])
        axis.set_xlabel(drawable(frontier.x_label))
        axis.set_ylabel(drawable(frontier.y_label))
        _label_points(figure, axis, frontier)


def _label_points(figure: Any, axis: Any, frontier: Frontier) -> None:
    """Each point's label beside it, where it covers least."""
    texts = [
        axis.text(
            point.x,
            point.y,
            drawable(point.label),
            color=style_of(point.method, point.section).colour,
            weight="bold",
            size=9,
            in_layout=False,
        )
        for point in frontier.points
    ]
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in texts]
    radius, gap = 5 * DPI / 72, 7 * DPI / 72

    def pixels(x: float, y: float) -> tuple[float, float]:
        """Of a point of the data, y downwards."""
        across, up = axis.transData.transform((x, y))
        return float(across), -float(up)

    centres = [pixels(point.x, point.y) for point in frontier.points]
    obstacles = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in centres for _ in range(2)]
    for point in frontier.points:
        for across, up in ((point.x_error, 0.0), (0.0, point.y_error)):
            ends = pixels(point.x - across, point.y - up), pixels(point.x + across, point.y + up)
            (left, right), (top, bottom) = (sorted(values) for values in zip(*ends, strict=True))
            obstacles.append(Box(left - 1, top - 1, right + 1, bottom + 1))
    inside = axis.get_window_extent()
    bounds = Box(inside.x0, -inside.y1, inside.x1, -inside.y0)
    sizes = [(extent.width, extent.height) for extent in extents]
    boxes = place_labels(centres, sizes, obstacles, bounds, gap=gap)
    to_data = axis.transData.inverted().transform
    for point, text, centre, box in zip(frontier.points, texts, centres, boxes, strict=True):
        text.set_position(to_data((box.left, -box.bottom)))
        text.set_verticalalignment("bottom")
        if (end := leader(centre, box, gap=gap)) is not None:
            colour = style_of(point.method, point.section).colour
            x, y = to_data((end[0], -end[1]))
            axis.plot([point.x, x], [point.y, y], color=colour, linewidth=0.8, alpha=0.6, zorder=2)


def curve_figure(panels: Sequence[Panel], rows: Mapping[str, tuple[str | None, str]], *files: Path) -> None:
    """Curves of training, a panel beside the other, as in Figs. 8 and 9 of arXiv 2511.03270: the mean over seeds, and a
    band of one standard deviation where there are several.

    rows: the method and the section of each label. files: each .png or .svg.
    """
    share_y = all(panel.percent for panel in panels)  # else what moves little would be a flat line
    size = (5.5 * len(panels), 4.2)
    texts = [text for panel in panels for text in panel.texts]
    with _figure(files, texts, figsize=size, ncols=len(panels), sharey=share_y, squeeze=False) as (figure, axes):
        for axis, panel in zip(axes[0], panels, strict=True):
            for label, points in panel.lines.items():
                style = style_of(*rows.get(label, (None, "others")))
                x, mean = (np.array([point[place] for point in points]) for place in (0, 1))
                line = {"color": style.colour, "linewidth": 1.8, "linestyle": "-" if style.filled else "--"}
                axis.plot(x, mean, label=drawable(label), **line, **_marker(style, size=3.5, line=False))
                banded = [point for point in points if point[2] is not None]
                if banded:
                    x, mean, spread = (np.array(values, dtype=float) for values in zip(*banded, strict=True))
                    axis.fill_between(x, mean - spread, mean + spread, color=style.colour, alpha=0.15, linewidth=0)
            axis.set_title(drawable(panel.title), size=10.5)
            axis.set_xlabel(drawable(panel.x))
            if axis is axes[0][0] or not share_y:
                axis.set_ylabel(drawable(panel.unit))
            if panel.percent:
                axis.set_ylim(-3, 103)
        _legend(figure, axes[0], ncols=7)


def accuracy_curves(curves: Curves, *files: Path) -> None:
    """Accuracy against steps of Task 1: Task 0 on the left, Task 1 on the right.

    curves: {method: {seed: [(step, Task 0 accuracy, Task 1 accuracy), ...]}}, accuracies 0 to 1.
    files: each .png or .svg.
    """
    curve_figure(biography_panels(curves), {label: (label, "") for label in curves if label in STYLES}, *files)


def ablation_figure(ablation: Ablation, *files: Path) -> None:
    """Stability and plasticity against an option of the training, the base dotted; what a paper reports stands hollow
    and dashed beside what was measured.

    files: each .png or .svg.
    """
    size = (4.6 * len(ablation.panels), 3.8)
    with _figure(files, ablation.texts, figsize=size, ncols=len(ablation.panels), squeeze=False) as (figure, axes):
        for axis, panel in zip(axes[0], ablation.panels, strict=True):
            if panel.base is not None:
                axis.axhline(panel.base, color="#8b939d", linestyle=":", linewidth=1.2, label="base")
            for series in panel.series:
                style = style_of(series.method, series.section)._replace(filled=not series.reported)
                x, y, errors = (np.array(values) for values in zip(*series.points, strict=True))
                axis.errorbar(
                    x,
                    y,
                    yerr=errors if errors.any() else None,
                    label=drawable(series.label),
                    color=style.colour,
                    linewidth=1.6,
                    linestyle="none" if ablation.ticks else "--" if series.reported else "-",
                    capsize=2.5,
                    **_marker(style, size=6, line=False),
                )
            axis.set_xlabel(ablation.option)
            axis.set_ylabel(drawable(panel.label))
            places = [point[0] for series in panel.series for point in series.points]
            if ablation.ticks:
                axis.set_xticks(list(ablation.ticks), [drawable(tick) for tick in ablation.ticks.values()])
                axis.margins(x=0.15)
            elif min(places) > 0 and max(places) / min(places) >= 20:
                axis.set_xscale("log")
            else:
                axis.locator_params(axis="x", nbins=6)  # numbers with signs and decimals stand apart
        _legend(figure, axes[0], ncols=4)


def growth_figure(panels: Sequence[GrowthPanel], *files: Path) -> None:
    """How numbers grow, log-log, up to three panels a row: points, the power law fitted to them (dashed) with its
    exponent and that of the last two points, and what is left where x is 0 (dotted).

    files: each .png or .svg.
    """
    rows, columns = -(-len(panels) // 3), min(3, len(panels))
    texts = [text for panel in panels for text in panel.texts]
    size = (4.6 * columns, 3.8 * rows)
    with _figure(files, texts, figsize=size, nrows=rows, ncols=columns, squeeze=False) as (figure, axes):
        for axis in axes.flat[len(panels) :]:
            figure.delaxes(axis)
        for axis, panel in zip(axes.flat, panels, strict=False):
            axis.set(xscale="log", yscale="log")
            places = [x for series in panel.series for x, _ in series.points]
            decades = max(places) > 100 * min(places)  # what stands between would not fit
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter("{x:g}")
            for line in (axis.xaxis, axis.yaxis):
                line.set_minor_formatter(NullFormatter())
            for series in panel.series:
                style = style_of(series.method, "")
                exponent, factor = power_law(series.points)
                ends = np.array([series.points[0][0], series.points[-1][0]])
                axis.plot(ends, factor * ends**exponent, color=style.colour, linestyle=(0, (5, 3)), linewidth=1.2)
                if series.level is not None:
                    axis.axhline(series.level, color=style.colour, linestyle=":", linewidth=1.2)
                label = f"{drawable(series.label)}: {exponent:.2f}, {series.last_exponent:.2f}"
                axis.plot(*zip(*series.points, strict=True), label=label, **_marker(style, size=6))
            axis.set_title(drawable(panel.title), size=10.5)
            axis.set_xlabel(drawable(panel.x))
            axis.set_ylabel(drawable(panel.y))
            axis.legend(loc="best", fontsize=8.5, title="exponent, of the last two", title_fontsize=8.5)


def _legend(figure: Any, axes: Sequence[Any], *, ncols: int) -> None:
    """One legend for all axes, below them."""
    found = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes]
    handles = {label: handle for pairs in found for handle, label in pairs}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(ncols, len(handles)))


@contextlib.contextmanager
def _figure(files: Sequence[Path], texts: Sequence[str], **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in our look, with fonts for the texts, written to the files when it is drawn."""
    with matplotlib.rc_context(LOOK | {"font.family": families(texts)}):
        figure, axes = plt.subplots(layout="constrained", dpi=DPI, **options)
        yield figure, axes
        for file in files:
            figure.savefig(file, dpi=DPI, metadata={"Date": None} if file.suffix == ".svg" else None)
        plt.close(figure)


def _marker(style: Style, *, size: float, line: bool = True) -> dict[str, Any]:
    """matplotlib's words for a method's marker. line: also that of what else is drawn."""
    edge = "white" if style.filled else style.colour
    words = {
        "marker": style.marker,
        "markersize": size,
        "markerfacecolor": style.colour if style.filled else "white",
        "markeredgecolor": edge,
        "markeredgewidth": 0.6 if style.filled else 1.4,
    }
    return words | ({"color": style.colour, "linestyle": "none"} if line else {})
