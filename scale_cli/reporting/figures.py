"""Figures by matplotlib: trade-off, training curves, ablations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.transforms import Bbox

from scale_cli.reporting.ablation import Ablation
from scale_cli.reporting.curves import ROUTER_CURVES, Panel, RouterCurve, router_curve
from scale_cli.reporting.drawing import (
    COLUMN,
    DPI,
    QUIET,
    RULE,
    WHITE,
    File,
    Layout,
    figure,
    is_far,
    legend_below,
    legend_of,
    marker,
)
from scale_cli.reporting.inline import tooltip
from scale_cli.reporting.sheet import point_label
from scale_cli.reporting.style import OTHER, Style, drawable, style_of
from scale_cli.reporting.table import Row, Table
from scale_cli.reporting.words import PLUS_MINUS
from scale_cli.results.groups import ROLES

DASHES = dict(zip((curve.start for curve in ROUTER_CURVES), ("-", "--", ":", "-."), strict=True))
"""The line of each curve of routers, by the beginning of their names."""
LABELLED = 10
"""Points of more rows have numbers, with the labels in a legend."""
REPEATED = (":", "-.", (0, (1, 3)), (0, (5, 1)))
"""The lines of further labels with one style."""
PALE = 0.45
"""The opacity of a paper's values."""
MARKERS = 12
"""The largest number of markers on a curve, about."""


class Point(NamedTuple):
    """A row of a table with its two summaries and their errors, as shown (shares in percent); 0.0 if no error."""

    row: Row
    label: str
    x: float
    y: float
    x_error: float
    y_error: float

    @property
    def style(self) -> Style:
        return style_of(self.row.method, self.row.section)


def trade_off(table: Table) -> list[Point]:
    """The rows that have a summary of both roles, x for stability and y for plasticity; empty for fewer than two."""
    points = []
    for row in table.rows:
        cells = [(column, table.cell(row, column)) for role in ROLES if (column := table.summary(role)) is not None]
        values = [column.factor * cell.value for column, cell in cells if cell is not None]
        errors = [column.factor * (cell.error or 0.0) for column, cell in cells if cell is not None]
        if len(values) == 2:
            points.append(Point(row, point_label(table, row), *values, *errors))
    return points if len(points) > 1 else []


def frontier_texts(table: Table) -> list[str]:
    """The texts of a table's trade-off figure: labels of the axes, then labels of the points."""
    return [*(group.axis_label for group in table.summarised.values()), *(point.label for point in trade_off(table))]


def pareto_outline(points: Sequence[Point], *, reverse: bool) -> list[tuple[float, float]]:
    """The corners of the Pareto front, from the least stable point. A point below and left of it, as drawn, is
    dominated by some checkpoint.

    reverse: lower x means more stable.
    """
    best = sorted({(point.x, point.y) for point in points if point.row.pareto}, reverse=reverse)
    corners = best[:1]
    for (x, _), (next_x, next_y) in pairwise(best):
        corners += [(x, next_y), (next_x, next_y)]
    return corners


def frontier_figure(
    table: Table, *files: File, link: Callable[[Row], str] | None = None, layout: Layout = COLUMN
) -> None:
    """Plasticity against stability with error bars, Pareto front (dashed) and base (dotted), as in Fig. 2 of
    arXiv 2511.03270. Up and right is better: the axis is inverted if lower is better.

    table: its `trade_off` is not empty. link: the address linked from a row's point and label in an SVG.
    """
    points, columns = trade_off(table), [column for role in ROLES if (column := table.summary(role)) is not None]
    texts, unit = frontier_texts(table), layout.scale
    curves = router_curves(table, points)
    on_curves = {point.row.label for curve in curves.values() for point in curve if _router(table, point) != "none"}
    with figure(files, texts, layout, layout.single) as (canvas, axes):
        axis = axes[0][0]
        for set_scale, values in ((axis.set_xscale, [p.x for p in points]), (axis.set_yscale, [p.y for p in points])):
            if is_far(values):
                set_scale("log")
        for (curve, _), along in curves.items():
            x, y = [point.x for point in along], [point.y for point in along]
            axis.plot(x, y, color=along[0].style.colour, linestyle=DASHES[curve.start], linewidth=1.3 * unit, zorder=2)
        for point in points:
            bars = axis.errorbar(
                point.x,
                point.y,
                xerr=point.x_error or None,
                yerr=point.y_error or None,
                ecolor=(point.style.colour, 0.5),
                elinewidth=1.1 * unit,
                zorder=3,
                **marker(point.style, size=(3.5 if point.row.label in on_curves else 7) * unit),
            )
            bars.lines[0].set_url(None if link is None else link(point.row))
            numbers = zip(ROLES, (point.x, point.y), (point.x_error, point.y_error), strict=True)
            shown = ", ".join(f"{role} {v:.4g} {PLUS_MINUS} {error:.3g}" for role, v, error in numbers)
            tooltip(bars.lines[0], f"{point.label}: {shown}")
            if point.row.section == "base":
                axis.axvline(point.x, color=RULE, linestyle=":", linewidth=unit)
                axis.axhline(point.y, color=RULE, linestyle=":", linewidth=unit)
        axis.margins(0.09)
        if not columns[0].higher_is_better:
            axis.invert_xaxis()
        if not columns[1].higher_is_better:
            axis.invert_yaxis()
        limits = axis.get_xlim(), axis.get_ylim()
        front = pareto_outline(points, reverse=not columns[0].higher_is_better)
        outline = np.array([(limits[0][0], front[0][1]), *front, (front[-1][0], limits[1][0])])
        axis.plot(*outline.T, color=RULE, linestyle=(0, (5, 3)), linewidth=1.2 * unit, zorder=2)
        axis.fill(*np.vstack([outline, (limits[0][0], limits[1][0])]).T, color=RULE, alpha=0.07, linewidth=0)
        axis.set(xlim=limits[0], ylim=limits[1])
        axis.set_xlabel(layout.wrapped(drawable(texts[0]), layout.single[0] - 0.5))
        axis.set_ylabel(layout.wrapped(drawable(texts[1]), layout.single[1] - 0.6))
        for curve in dict.fromkeys(curve for curve, _ in curves):
            axis.plot([], [], color=QUIET, linestyle=DASHES[curve.start], linewidth=1.3 * unit, label=curve.title)
        if curves:
            axis.legend(fontsize=0.75 * layout.font)
        labelled = [point for point in points if point.row.label not in on_curves]
        names = [drawable(point.label) for point in labelled]
        if len(labelled) > LABELLED:
            names = [str(number) for number, _ in enumerate(labelled, 1)]
            looks = [marker(point.style, size=6 * unit) for point in labelled]
            handles = [
                axis.plot([], [], label=f"{name}  {drawable(point.label)}", **look)[0]
                for name, point, look in zip(names, labelled, looks, strict=True)
            ]
            legend_of(canvas, handles, layout)
        _label_points(canvas, axis, labelled, names, link, layout)


def router_curves(table: Table, points: Sequence[Point]) -> dict[tuple[RouterCurve, Any], list[Point]]:
    """The points of one checkpoint under routers of one kind, along the curve, by kind and checkpoint.

    A curve begins at the checkpoint without a router if the parameter leads there. It has at least three points.
    """
    by_curve: dict[tuple[RouterCurve, Any], list[Point]] = {}
    for point in points:
        if (curve := router_curve(_router(table, point))) is not None:
            by_curve.setdefault((curve, _sources(table, point)), []).append(point)
    for (curve, sources), along in by_curve.items():
        if curve.trained_at is not None:
            along += [p for p in points if _router(table, p) == "none" and _sources(table, p) == sources][:1]
        along.sort(key=lambda point, curve=curve: curve.order(_router(table, point)))  # type: ignore[misc]
    return {key: along for key, along in by_curve.items() if len(along) > 2}


def _router(table: Table, point: Point) -> str:
    """The router of a point's checkpoints, "none" without one."""
    return table.results[point.row.results[0]].checkpoint.router or "none"


def _sources(table: Table, point: Point) -> tuple[str, ...]:
    """The checkpoints of a point, which it has in common with the points of the same ones under other routers."""
    return tuple(sorted(table.results[index].checkpoint.source for index in point.row.results))


def _label_points(
    canvas: Any,
    axis: Any,
    points: Sequence[Point],
    names: Sequence[str],
    link: Callable[[Row], str] | None,
    layout: Layout,
) -> None:
    """Place each point's name where it overlaps least, with a line to the point if it is not next to it."""
    look = {"weight": "bold", "size": 0.9 * layout.font, "in_layout": False, "va": "bottom"}
    texts = [axis.text(p.x, p.y, name, color=p.style.colour, **look) for p, name in zip(points, names, strict=True)]
    canvas.canvas.draw()
    radius, gap = (pixels * layout.scale * DPI / 72 for pixels in (5, 7))
    to_pixels, to_data = axis.transData.transform, axis.transData.inverted().transform
    centres = [to_pixels((point.x, point.y)) for point in points]
    obstacles = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centres] * 2
    for point in points:
        for error in ((point.x_error, 0.0), (0.0, point.y_error)):
            ends = to_pixels([np.subtract((point.x, point.y), error), np.add((point.x, point.y), error)])
            obstacles.append(Bbox.from_extents(*(ends.min(0) - 1), *(ends.max(0) + 1)))
    inside = axis.get_window_extent()
    placed: list[Bbox] = []
    for point, text, (x, y) in zip(points, texts, centres, strict=True):
        extent = text.get_window_extent()

        def cost(box: Bbox) -> float:
            covered = sum(_overlap(box, other) for other in obstacles) + 3 * sum(_overlap(box, o) for o in placed)
            return round(covered + 4 * (box.width * box.height - _overlap(box, inside)), 3)

        box = min(_around(x, y, extent.width, extent.height, gap), key=cost)  # of equals the first, most readable one
        placed.append(box)
        text.set_position(to_data(box.p0))
        text.set_url(None if link is None else link(point.row))
        end = np.clip((x, y), box.p0, box.p1)
        if np.hypot(*(end - (x, y))) > 1.5 * gap:
            line = np.array([(point.x, point.y), to_data(end)])
            axis.plot(*line.T, color=point.style.colour, linewidth=0.8 * layout.scale, alpha=0.6, zorder=2)


def _overlap(first: Bbox, second: Bbox) -> float:
    """The area of the intersection of two rectangles."""
    common = Bbox.intersection(first, second)
    return 0.0 if common is None else float(common.width * common.height)


def _around(x: float, y: float, width: float, height: float, gap: float) -> Iterator[Bbox]:
    """Positions of a label around a point, in pixels, the most readable first."""
    for away in (gap, 2.5 * gap, 4.5 * gap, 7 * gap):
        near = 0.7 * away
        for left, bottom in (
            (x + away, y - height / 2),
            (x - away - width, y - height / 2),
            (x + near, y + near),
            (x - near - width, y + near),
            (x + near, y - near - height),
            (x - near - width, y - near - height),
            (x - width / 2, y + away),
            (x - width / 2, y - away - height),
        ):
            yield Bbox.from_bounds(left, bottom, width, height)


def curve_figure(panels: Sequence[Panel], styles: Mapping[str, Style], *files: File, layout: Layout = COLUMN) -> None:
    """Training curves, as in Figs. 8 and 9 of arXiv 2511.03270: the mean over seeds, with a band of one standard
    deviation for several seeds.

    styles: style per label; others are drawn in the style OTHER. Labels with the style of an earlier one have other
    dashes.
    """
    share_y = all(panel.percent for panel in panels)  # otherwise small changes would look flat
    texts, unit = [text for panel in panels for text in panel.texts], layout.scale
    with figure(files, texts, layout, layout.size(len(panels)), panels=len(panels), sharey=share_y) as (canvas, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            drawn: Counter[Style] = Counter()
            lines = panel.lines
            for label, line in lines.items():
                style = styles.get(label, OTHER)
                dashes = REPEATED[(drawn[style] - 1) % len(REPEATED)] if drawn[style] else "-" if style.filled else "--"
                drawn[style] += 1
                look = {"color": style.colour, "linewidth": 1.8 * unit, "linestyle": dashes}
                look |= marker(style, size=3.5 * unit, line=False)
                every = 1 if panel.in_order else max(1, len(line) // MARKERS)
                (shown,) = axis.plot(line["mean"], label=drawable(label), markevery=every, **look)
                means = line["mean"].to_list()
                tooltip(shown, f"{label}: {means[0]:.4g} to {means[-1]:.4g} {panel.unit}")
                if line["std"].notna().all():
                    edges = (line["mean"] - line["std"], line["mean"] + line["std"])
                    axis.fill_between(line.index, *edges, color=style.colour, alpha=0.15, linewidth=0)
            title = drawable(panel.title[0].upper() + panel.title[1:])
            axis.set_title(layout.wrapped(title, layout.panel[0] - 0.5), size=1.05 * layout.font)
            axis.set_xlabel(layout.wrapped(drawable(panel.x), layout.panel[0] - 0.5))
            if panel.log_x:
                first = min((x for line in lines.values() for x in line.index if x > 0), default=1)
                axis.set_xscale("symlog", linthresh=10 ** math.ceil(math.log10(first)), linscale=0.3)
            if not panel.percent and is_far([value for line in lines.values() for value in line["mean"]]):
                axis.set_yscale("log")
            if not share_y or panel.unit != panels[0].unit or axis in axes[:, 0]:
                axis.set_ylabel(layout.wrapped(drawable(panel.unit), layout.panel[1] - 0.6))
            if panel.percent:
                axis.set_ylim(-3, 103)
        legend_below(canvas, axes, layout)


def ablation_figure(ablation: Ablation, *files: File, layout: Layout = COLUMN) -> None:
    """Measurements against an option of the training, one panel per role. The base is dotted; values of a paper are
    pale and dashed; markers of a second series in one style are half filled.
    """
    panels, unit = ablation.panels, layout.scale
    with figure(files, ablation.texts, layout, layout.size(len(panels)), panels=len(panels)) as (canvas, axes):
        for axis, panel in zip(axes.flat, panels, strict=False):
            if panel.base is not None:
                axis.axhline(panel.base, color=RULE, linestyle=":", linewidth=unit, label="base")
            drawn: Counter[tuple[Style, bool]] = Counter()
            for series in panel.series:
                style = series.style
                look = marker(style, size=6 * unit, line=False) | {"alpha": PALE if series.reported else 1}
                if drawn[style, series.reported]:
                    look |= {"fillstyle": "bottom", "markerfacecoloralt": WHITE, "markeredgecolor": style.colour}
                drawn[style, series.reported] += 1
                x, y, errors = (np.array(values) for values in zip(*series.points, strict=True))
                axis.errorbar(
                    x,
                    y,
                    yerr=errors if errors.any() else None,
                    label=drawable(series.label),
                    color=style.colour,
                    linewidth=1.6 * unit,
                    linestyle="none" if ablation.ticks else "--" if series.reported else "-",
                    capsize=2.5 * unit,
                    **look,
                )
            axis.set_xlabel(layout.wrapped(ablation.option, layout.panel[0] - 0.5))
            axis.set_ylabel(layout.wrapped(drawable(panel.label), layout.panel[1] - 0.6))
            coordinates = [point[0] for series in panel.series for point in series.points]
            if is_far([point[1] for series in panel.series for point in series.points]):
                axis.set_yscale("log")
            if ablation.ticks:
                room = 0.8 * (layout.panel[0] - 0.5) / len(ablation.ticks)
                ticks = [layout.wrapped(drawable(tick), room, least=8) for tick in ablation.ticks.values()]
                axis.set_xticks(list(ablation.ticks), ticks)
                axis.margins(x=0.15)
            elif min(coordinates) > 0 and max(coordinates) / min(coordinates) >= 20:
                axis.set_xscale("log")
            else:
                axis.locator_params(axis="x", nbins=6)  # long numbers would overlap
        legend_below(canvas, axes, layout)
