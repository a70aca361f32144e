"""The trade-off as points: stability against plasticity, as in Fig. 2 of arXiv 2511.03270, and places for labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scale_cli.reporting.sheet import row_label
from scale_cli.reporting.table import Column, StabilityPlasticityTable


@dataclass(frozen=True)
class Point:
    """A row: its place in the table, and the two summaries with their errors as they are shown (percent)."""

    row: int
    label: str
    method: str | None
    section: str
    x: float
    y: float
    x_error: float
    y_error: float
    pareto: bool


@dataclass(frozen=True)
class Frontier:
    """x is stability, y plasticity. reversed_x, reversed_y: lower is better, so the axis runs the other way and better
    is to the right and up in any case."""

    x_label: str
    y_label: str
    reversed_x: bool
    reversed_y: bool
    points: tuple[Point, ...]

    @property
    def texts(self) -> list[str]:
        return [self.x_label, self.y_label, *(point.label for point in self.points)]

    @property
    def front(self) -> list[tuple[float, float]]:
        """The corners of the front, from the least stable point: whatever lies below or left of it (as drawn) some
        checkpoint beats in both."""
        sign = -1 if self.reversed_x else 1
        best = sorted({(point.x, point.y) for point in self.points if point.pareto}, key=lambda xy: sign * xy[0])
        corners = best[:1]
        for (x, _), (next_x, next_y) in pairwise(best):
            corners += [(x, next_y), (next_x, next_y)]
        return corners


def frontier(table: StabilityPlasticityTable) -> Frontier | None:
    """The points of the rows that have both summaries; None where the table has not both, or fewer than two points."""
    x, y = table.summary("stability"), table.summary("plasticity")
    if x is None or y is None:
        return None
    points = tuple(
        Point(
            row=place,
            label=row_label(table, row).rstrip("\N{DAGGER}"),
            method=row.method,
            section=row.section,
            x=x.factor * row.cells[x.key].value,
            y=y.factor * row.cells[y.key].value,
            x_error=x.factor * (row.cells[x.key].error or 0.0),
            y_error=y.factor * (row.cells[y.key].error or 0.0),
            pareto=row.pareto,
        )
        for place, row in enumerate(table.rows)
        if x.key in row.cells and y.key in row.cells
    )
    if len(points) < 2:
        return None
    return Frontier(
        f"stability: {axis_label(x)}",
        f"plasticity: {axis_label(y)}",
        not x.higher_is_better,
        not y.higher_is_better,
        points,
    )


def axis_label(column: Column) -> str:
    """What an axis with a column's values is called."""
    unit = ", %" if column.percent else ""
    return f"{column.flat_label}{unit}{'' if column.higher_is_better else ' (lower is better)'}"


@dataclass(frozen=True)
class Box:
    """A rectangle of a drawing, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that two have in common."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    bounds: Box,
    *,
    gap: float,
) -> list[Box]:
    """Where the labels of points may stand with the least overlap, each at one of a few places around its point.

    sizes: width and height of each label. obstacles: what no label should cover. bounds: of the drawing.
    gap: between a point and its label.
    """
    placed: list[Box] = []

    def cost(box: Box) -> float:
        covered = sum(box.overlap(other) for other in obstacles) + 3 * sum(box.overlap(other) for other in placed)
        return round(covered + 4 * (box.area - box.overlap(bounds)), 3)

    for (x, y), (width, height) in zip(points, sizes, strict=True):
        placed.append(min(_around(x, y, width, height, gap), key=cost))  # of equals the first, the best to read
    return placed


def leader(point: tuple[float, float], label: Box, *, gap: float) -> tuple[float, float] | None:
    """The end of a line from a point to its label, None where the label stands next to it."""
    x = min(max(point[0], label.left), label.right)
    y = min(max(point[1], label.top), label.bottom)
    return (x, y) if math.hypot(x - point[0], y - point[1]) > 1.5 * gap else None


def _around(x: float, y: float, width: float, height: float, gap: float) -> Iterator[Box]:
    """The places around a point, the best to read first."""
    for distance in (gap, 2.5 * gap, 4.5 * gap, 7 * gap):
        corners = [
            (x + distance, y - height / 2),
            (x - distance - width, y - height / 2),
            (x + distance * 0.7, y - distance * 0.7 - height),
            (x - distance * 0.7 - width, y - distance * 0.7 - height),
            (x + distance * 0.7, y + distance * 0.7),
            (x - distance * 0.7 - width, y + distance * 0.7),
            (x - width / 2, y - distance - height),
            (x - width / 2, y + distance),
        ]
        for left, top in corners:
            yield Box(left, top, left + width, top + height)
