"""Figures by matplotlib, as PNG or SVG files or inlined in a page: trade-off, training curves, ablations."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import Bbox

from scale_cli.reporting.ablation import Ablation
from scale_cli.reporting.curves import ROUTER_CURVES, Panel, RouterCurve, router_curve
from scale_cli.reporting.sheet import row_label
from scale_cli.reporting.style import BASE, OTHER, STYLES, Style, drawable, families, style_of
from scale_cli.reporting.table import Row, Table
from scale_cli.reporting.words import PLUS_MINUS
from scale_cli.results.groups import ROLES

File = Path | io.StringIO
"""Target of a figure: a .png or .svg file, or a buffer for SVG."""
DPI = 200
DASHES = dict(zip((curve.start for curve in ROUTER_CURVES), ("-", "--", ":", "-."), strict=True))
"""The line of each curve of routers, by the beginning of their names."""
QUIET, RULE, GRID, WHITE = "#586069", "#8b939d", "#d6dae0", "#ffffff"
LOOK: dict[Any, Any] = {
    "font.size": 10,
    "text.color": BASE.colour,
    "axes.labelcolor": BASE.colour,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "legend.frameon": False,
    "svg.hashsalt": "scale",  # equal figures are equal files
}


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
            points.append(Point(row, row_label(table, row), *values, *errors))
    return points if len(points) > 1 else []


def frontier_texts(table: Table) -> list[str]:
    """The texts of a table's trade-off figure: labels of the axes, then labels of the points."""
    labels = [f"{role}: {column.axis_label}" for role in ROLES if (column := table.summary(role)) is not None]
    return [*labels, *(point.label for point in trade_off(table))]


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


def frontier_figure(table: Table, *files: File, link: Callable[[Row], str] | None = None) -> None:
    """Plasticity against stability with error bars, Pareto front (dashed) and base (dotted), as in Fig. 2 of
    arXiv 2511.03270. Up and right is better: the axis is inverted if lower is better.

    table: its `trade_off` is not empty. link: the address linked from a row's point and label in an SVG.
    """
    points, columns = trade_off(table), [column for role in ROLES if (column := table.summary(role)) is not None]
    texts = frontier_texts(table)
    curves = router_curves(table, points)
    on_curves = {point.row.label for curve in curves.values() for point in curve if _router(table, point) != "none"}
    with figure(files, texts, figsize=(6.8, 4.6)) as (canvas, axis):
        for (curve, _), along in curves.items():
            x, y = [point.x for point in along], [point.y for point in along]
            axis.plot(x, y, color=along[0].style.colour, linestyle=DASHES[curve.start], linewidth=1.3, zorder=2)
        for point in points:
            bars = axis.errorbar(
                point.x,
                point.y,
                xerr=point.x_error or None,
                yerr=point.y_error or None,
                ecolor=(point.style.colour, 0.5),
                elinewidth=1.1,
                zorder=3,
                **marker(point.style, size=3.5 if point.row.label in on_curves else 7),
            )
            bars.lines[0].set_url(None if link is None else link(point.row))
            numbers = zip(ROLES, (point.x, point.y), (point.x_error, point.y_error), strict=True)
            shown = ", ".join(f"{role} {v:.4g} {PLUS_MINUS} {error:.3g}" for role, v, error in numbers)
            _title(bars.lines[0], f"{point.label}: {shown}")
            if point.row.section == "base":
                axis.axvline(point.x, color=RULE, linestyle=":", linewidth=1)
                axis.axhline(point.y, color=RULE, linestyle=":", linewidth=1)
        axis.margins(0.09)
        if not columns[0].higher_is_better:
            axis.invert_xaxis()
        if not columns[1].higher_is_better:
            axis.invert_yaxis()
        limits = axis.get_xlim(), axis.get_ylim()
        front = pareto_outline(points, reverse=not columns[0].higher_is_better)
        outline = np.array([(limits[0][0], front[0][1]), *front, (front[-1][0], limits[1][0])])
        axis.plot(*outline.T, color=RULE, linestyle=(0, (5, 3)), linewidth=1.2, zorder=2)
        axis.fill(*np.vstack([outline, (limits[0][0], limits[1][0])]).T, color=RULE, alpha=0.07, linewidth=0)
        axis.set(xlim=limits[0], ylim=limits[1])
        axis.set_xlabel(drawable(texts[0]))
        axis.set_ylabel(drawable(texts[1]))
        for curve in dict.fromkeys(curve for curve, _ in curves):
            axis.plot([], [], color=QUIET, linestyle=DASHES[curve.start], linewidth=1.3, label=curve.title)
        if curves:
            axis.legend(fontsize=7.5)
        _label_points(canvas, axis, [point for point in points if point.row.label not in on_curves], link)


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


def _label_points(canvas: Any, axis: Any, points: Sequence[Point], link: Callable[[Row], str] | None) -> None:
    """Place each point's label where it overlaps least, with a line to the point if it is not next to it."""
    look = {"weight": "bold", "size": 9, "in_layout": False, "va": "bottom"}
    texts = [axis.text(p.x, p.y, drawable(p.label), color=p.style.colour, **look) for p in points]
    canvas.canvas.draw()
    radius, gap = 5 * DPI / 72, 7 * DPI / 72
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
            axis.plot(*line.T, color=point.style.colour, linewidth=0.8, alpha=0.6, zorder=2)


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


def curve_figure(panels: Sequence[Panel], styles: Mapping[str, Style], *files: File) -> None:
    """Training curves, panels side by side, as in Figs. 8 and 9 of arXiv 2511.03270: the mean over seeds, with a band
    of one standard deviation for several seeds.

    styles: style per label; others are drawn in the style OTHER. Labels with the style of an earlier one are dotted.
    """
    share_y = all(panel.percent for panel in panels)  # otherwise small changes would look flat
    size = (5.5 * len(panels), 4.2)
    texts = [text for panel in panels for text in panel.texts]
    with figure(files, texts, figsize=size, ncols=len(panels), sharey=share_y, squeeze=False) as (canvas, axes):
        for axis, panel in zip(axes[0], panels, strict=True):
            drawn: set[Style] = set()
            for label, line in panel.lines.items():
                style = styles.get(label, OTHER)
                dashes = ":" if style in drawn else "-" if style.filled else "--"  # of several rows of one method
                drawn.add(style)
                look = {"color": style.colour, "linewidth": 1.8, "linestyle": dashes}
                look |= marker(style, size=3.5, line=False)
                (shown,) = axis.plot(line["mean"], label=drawable(label), **look)
                means = line["mean"].to_list()
                _title(shown, f"{label}: {means[0]:.4g} to {means[-1]:.4g} {panel.unit}")
                if line["std"].notna().all():
                    edges = (line["mean"] - line["std"], line["mean"] + line["std"])
                    axis.fill_between(line.index, *edges, color=style.colour, alpha=0.15, linewidth=0)
            axis.set_title(drawable(panel.title), size=10.5)
            axis.set_xlabel(drawable(panel.x))
            if panel.log_x:
                axis.set_xscale("symlog", linthresh=1, linscale=0.3)
            if axis is axes[0][0] or not share_y or panel.unit != panels[0].unit:
                axis.set_ylabel(drawable(panel.unit))
            if panel.percent:
                axis.set_ylim(-3, 103)
        legend_below(canvas, axes[0], ncols=7)


def ablation_figure(ablation: Ablation, *files: File) -> None:
    """Measurements against an option of the training, one panel per role. The base is dotted; values of a paper are
    hollow and dashed.
    """
    size = (5.5 * len(ablation.panels), 4.2)
    with figure(files, ablation.texts, figsize=size, ncols=len(ablation.panels), squeeze=False) as (canvas, axes):
        for axis, panel in zip(axes[0], ablation.panels, strict=True):
            if panel.base is not None:
                axis.axhline(panel.base, color=RULE, linestyle=":", linewidth=1, label="base")
            for series in panel.series:
                style = series.style._replace(filled=not series.reported)
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
                    **marker(style, size=6, line=False),
                )
            axis.set_xlabel(ablation.option)
            axis.set_ylabel(drawable(panel.label))
            coordinates = [point[0] for series in panel.series for point in series.points]
            if ablation.ticks:
                axis.set_xticks(list(ablation.ticks), [drawable(tick) for tick in ablation.ticks.values()])
                axis.margins(x=0.15)
            elif min(coordinates) > 0 and max(coordinates) / min(coordinates) >= 20:
                axis.set_xscale("log")
            else:
                axis.locator_params(axis="x", nbins=6)  # long numbers would overlap
        legend_below(canvas, axes[0], ncols=4)


# Parts that figures share


@contextlib.contextmanager
def figure(files: Sequence[File], texts: Sequence[str], **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the common look, with fonts for the texts; written to the files at the end of the block.

    options: arguments of `plt.subplots`.
    """
    with matplotlib.rc_context(LOOK | {"font.family": families(texts)}):
        canvas, axes = plt.subplots(layout="constrained", dpi=DPI, **options)
        yield canvas, axes
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
        "markeredgewidth": 0.6 if style.filled else 1.4,
    }
    return arguments | ({"color": style.colour, "linestyle": "none"} if line else {})


def legend_below(canvas: Any, axes: Sequence[Any], *, ncols: int) -> None:
    """One legend for all axes, below them."""
    entries = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes]
    handles = {label: handle for pairs in entries for handle, label in pairs}
    canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(ncols, len(handles)))


# In a page

DARK = {style.colour: style.dark for style in (*STYLES.values(), BASE, OTHER)} | {
    QUIET: "#a2abb5",
    RULE: "#69727d",
    GRID: "#343b44",
    WHITE: "#14171b",
}
"""For each colour, its counterpart on the page's dark background."""


TITLE = "title:"
"""Prefix of the id of an element that carries its tooltip, until `inline_svg` makes it a `title` element."""


def _title(artist: Any, text: str) -> None:
    """Set the tooltip of a part of a figure, if the figure is for a page."""
    if matplotlib.rcParams["svg.fonttype"] == "none":
        artist.set_gid(f"{TITLE}{text}")


def inline_svg(draw: Callable[[io.StringIO], None], *, name: str, label: str) -> str:
    """A figure as an SVG element of a page, in the page's font, with colours for its light and dark scheme.

    draw: writes the figure into a buffer. name: prefix of the ids in the drawing. label: description for screen
    readers. The figure's texts are escaped.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has the fonts
        draw(buffer)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]  # elements in a page have no namespace
        for child in list(element):
            if child.tag.endswith(("metadata", "style")):
                element.remove(child)
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        part = attributes.pop("id", "")
        element.attrib.clear()
        if part.startswith(TITLE):
            title = ElementTree.Element("title")
            title.text = part.removeprefix(TITLE)
            element.insert(0, title)
        elif part:
            element.set("id", f"{name}-{part}")
        for key, value in attributes.items():
            if key == "href" and element.tag == "use":
                value = f"#{name}-{value[1:]}"
            elif key == "clip-path":
                value = value.replace("url(#", f"url(#{name}-")
            elif key == "style":
                for light, dark in DARK.items():
                    value = value.replace(light, f"light-dark({light}, {dark})")
            element.set(key, value)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"class": "plot", "role": "group", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")
