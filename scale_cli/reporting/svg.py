"""Drawings for the HTML page, as SVG text whose colours are the page's own, so that they follow its light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from scale_cli.reporting.colours import Style, style_of
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.frontier import Box, Frontier, Point, leader, place_labels

CHARACTER = 7.7
"""The width of an average character of a label, in pixels."""
LINE = 15.0
RADIUS = 5.5
GAP = RADIUS + 4

Row = tuple[str | None, str]
"""What decides how a row is drawn: its method and its section."""


@dataclass(frozen=True)
class Axis:
    """From values to pixels: low is at `start`, high at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, nearer to each other up an axis than along it, where they stand side by side."""
        apart = 85 if self.end > self.start else 55
        return ticks(min(self.low, self.high), max(self.low, self.high), round(abs(self.end - self.start) / apart))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(1, count)
    power = 10 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (10, 5, 2, 1, 0.5)]
    fitting = [step for step in steps if step >= rough * 0.999]
    for step in steps[len(fitting) - 1 :]:  # the smallest that is wide enough, or a smaller one if it hits nothing
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if first <= last:
            break
    return [round(number * step, 12) for number in range(first, last + 1)]


def frontier_svg(frontier: Frontier, link: Callable[[int], str]) -> str:
    """The trade-off with error bars, the Pareto front, and dotted lines through the base.

    link: what a row's point leads to, from its place in the table.
    """
    width, height = 760.0, 470.0
    area = Box(64, 14, width - 16, height - 50)
    points = frontier.points
    x = _fitting([(p.x, p.x_error) for p in points], area.left, area.right, reverse=frontier.reversed_x)
    y = _fitting([(p.y, p.y_error) for p in points], area.bottom, area.top, reverse=frontier.reversed_y)
    parts = _frame(area, x, y, frontier.x_label, frontier.y_label)
    for point in points:
        if point.section == "base":
            parts.append(_line("guide", [(x(point.x), area.top), (x(point.x), area.bottom)]))
            parts.append(_line("guide", [(area.left, y(point.y)), (area.right, y(point.y))]))
    corners = [(x(a), y(b)) for a, b in frontier.front]
    outline = [(area.left, corners[0][1]), *corners, (corners[-1][0], area.bottom)]
    parts.append(f'<path class="beaten" d="{_path([*outline, (area.left, area.bottom)])}Z"/>')
    parts.append(_line("front", outline))
    bars = [_bars(point, x, y) for point in points]
    for point, boxes in zip(points, bars, strict=True):
        lines = [_line("bar", [(box.left, box.top), (box.right, box.bottom)]) for box in boxes]
        parts.append(f'<g class="{_class((point.method, point.section))}">{"".join(lines)}</g>')
    centres = [(x(point.x), y(point.y)) for point in points]
    markers = [Box(cx - RADIUS, cy - RADIUS, cx + RADIUS, cy + RADIUS) for cx, cy in centres]
    thick = [Box(box.left - 1, box.top - 1, box.right + 1, box.bottom + 1) for boxes in bars for box in boxes]
    sizes = [(CHARACTER * cell_len(point.label), LINE) for point in points]
    labels = place_labels(centres, sizes, [*markers, *markers, *thick], area, gap=GAP)
    for point, centre, box in zip(points, centres, labels, strict=True):
        said = (
            f"{point.label}: {frontier.x_label} {point.x:.2f} \N{PLUS-MINUS SIGN} {point.x_error:.2f}; "
            f"{frontier.y_label} {point.y:.2f} \N{PLUS-MINUS SIGN} {point.y_error:.2f}"
        )
        end = leader(centre, box, gap=GAP)
        lead = "" if end is None else _line("leader", [centre, end])
        parts.append(
            f'<a href="{html.escape(link(point.row))}" class="{_class((point.method, point.section))}">'
            f"<title>{html.escape(said)}</title>{lead}{marker(style_of(point.method, point.section), *centre)}"
            f"{_text('label', (box.left + box.right) / 2, box.bottom - 3.5, point.label)}</a>"
        )
    return _svg(width, height, f"{frontier.y_label} against {frontier.x_label}", parts)


def panel_svg(panel: Panel, rows: Mapping[str, Row]) -> str:
    """Curves with a marker at every point, and a band of one standard deviation where there are several seeds.

    rows: how the labels of the panel's series are drawn.
    """
    width, height = 560.0, 340.0
    area = Box(58, 12, width - 14, height - 50)
    lines = panel.lines
    spread = [(mean, deviation or 0.0) for points in lines.values() for _, mean, deviation in points]
    across = [(point[0], 0.0) for points in lines.values() for point in points]
    x = _fitting(across, area.left, area.right, room=0.02)
    y = _fitting(spread, area.bottom, area.top)
    parts = _frame(area, x, y, panel.x, panel.unit)
    for label, points in lines.items():
        row = rows.get(label, (None, "others"))
        banded = [(at, mean, deviation) for at, mean, deviation in points if deviation is not None]
        upper = [(x(at), y(mean + deviation)) for at, mean, deviation in banded]
        lower = [(x(at), y(mean - deviation)) for at, mean, deviation in banded]
        band = f'<path class="band" d="{_path([*upper, *lower[::-1]])}Z"/>' if banded else ""
        means = [(x(at), y(mean)) for at, mean, _ in points]
        style = style_of(*row)
        curve = _line("curve" if style.filled else "curve dashed", means)
        dots = "".join(marker(style, *mean, radius=3.0) for mean in means)
        said = f"{label}: {points[0][1]:.4g} at {points[0][0]:g}, {points[-1][1]:.4g} at {points[-1][0]:g}"
        parts.append(f'<g class="{_class(row)}"><title>{html.escape(said)}</title>{band}{curve}{dots}</g>')
    return _svg(width, height, f"{panel.title}: {panel.unit} against {panel.x}", parts)


def key_svg(row: Row) -> str:
    """How a row is drawn, for the text of a key."""
    mark = marker(style_of(*row), 8, 8)
    return f'<svg class="key {_class(row)}" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">{mark}</svg>'


def marker(style: Style, x: float, y: float, *, radius: float = RADIUS) -> str:
    """A method's marker around a point, all of about the same area."""
    r = radius
    shapes = {
        "s": [(-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)],
        "D": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "^": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
        "v": [(0, 1.2), (1.15, -0.85), (-1.15, -0.85)],
        "P": [(-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4), (0.4, 1.1), (-0.4, 1.1),
              (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)],
        "X": [(0, -0.5), (0.65, -1.15), (1.15, -0.65), (0.5, 0), (1.15, 0.65), (0.65, 1.15), (0, 0.5), (-0.65, 1.15),
              (-1.15, 0.65), (-0.5, 0), (-1.15, -0.65), (-0.65, -1.15)],
    }  # fmt: skip
    name = "marker filled" if style.filled else "marker"
    if style.marker not in shapes:
        return f'<circle class="{name}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/>'
    return f'<path class="{name}" d="{_path([(x + r * a, y + r * b) for a, b in shapes[style.marker]])}Z"/>'


def _class(row: Row) -> str:
    method, section = row
    return "m-base" if section == "base" else f"m-{method}" if method else "m-other"


def _bars(point: Point, x: Axis, y: Axis) -> tuple[Box, Box]:
    """A point's error bars, as boxes without width."""
    across = sorted((x(point.x - point.x_error), x(point.x + point.x_error)))
    down = sorted((y(point.y - point.y_error), y(point.y + point.y_error)))
    return Box(across[0], y(point.y), across[1], y(point.y)), Box(x(point.x), down[0], x(point.x), down[1])


def _fitting(
    values: Sequence[tuple[float, float]], start: float, end: float, *, reverse: bool = False, room: float = 0.07
) -> Axis:
    """The axis that shows values with their errors and some room beside them. reverse: the larger, the nearer to
    start."""
    low = min(value - error for value, error in values)
    high = max(value + error for value, error in values)
    margin = room * (high - low) or max(abs(high), 1.0) * room
    ends = (low - margin, high + margin)
    return Axis(*(ends[::-1] if reverse else ends), start, end)


def _frame(area: Box, x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    """Grid, numbers and names of the axes."""
    parts = []
    for value in x.ticks:
        parts.append(_line("grid", [(x(value), area.top), (x(value), area.bottom)]))
        parts.append(_text("tick", x(value), area.bottom + 18, f"{value:,g}"))
    for value in y.ticks:
        parts.append(_line("grid", [(area.left, y(value)), (area.right, y(value))]))
        parts.append(_text("tick", area.left - 8, y(value) + 4, f"{value:,g}", anchor="end"))
    parts.append(_line("axis", [(area.left, area.top), (area.left, area.bottom), (area.right, area.bottom)]))
    parts.append(_text("name", (area.left + area.right) / 2, area.bottom + 42, x_label))
    middle = (area.top + area.bottom) / 2
    turned = f'transform="rotate(-90 16 {_n(middle)})"'
    return [*parts, _text("name", 16, middle, y_label, more=turned)]


def _svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    inner = "\n".join(parts)
    return (
        f'<svg class="plot" viewBox="0 0 {_n(width)} {_n(height)}" role="group" aria-label="{html.escape(label)}">\n'
        f"{inner}\n</svg>"
    )


def _text(name: str, x: float, y: float, text: str, *, anchor: str = "middle", more: str = "") -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{f" {more}" if more else ""}'
    return f'<text class="{name}" {place}>{html.escape(text)}</text>'


def _line(name: str, points: Sequence[tuple[float, float]]) -> str:
    return f'<path class="{name}" d="{_path(points)}"/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
