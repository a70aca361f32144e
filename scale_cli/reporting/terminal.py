"""A sheet in a terminal: groups side by side, or in several blocks if the width does not suffice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from scale_cli.reporting.sheet import Entry, Heading, Sheet
from scale_cli.reporting.words import PLUS_MINUS

BEST = "*"
LINES = Box("━━━━\n    \n────\n    \n────\n────\n    \n━━━━\n")
GAP = 2


@dataclass(frozen=True)
class SheetText:
    """A sheet as a rich renderable for any width. Numbers are never wrapped or cut."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.sheet.title, style="bold")
        yield ""
        columns = [_Column(heading, entries) for heading, entries in self._columns()]
        for block in _blocks(columns[0], columns[1:], options.max_width):
            yield _side_by_side(block)
            yield ""
        for term, meaning in self.sheet.legend:
            yield Text.assemble((f"{term}:", "bold"), f" {meaning}")

    def _columns(self) -> Iterator[tuple[Heading, list[list[Entry]]]]:
        """Each heading with its column's entries, by section."""
        for index, heading in enumerate(self.sheet.headings):
            yield heading, [[row[index] for row in rows] for rows in self.sheet.sections]


class _Column:
    """A column of a block, with cells padded so that numbers and errors are aligned."""

    def __init__(self, heading: Heading, sections: Sequence[Sequence[Entry]]) -> None:
        self.group, self.numeric = heading.group, heading.numeric
        entries = [entry for rows in sections for entry in rows]
        number = max((cell_len(entry.text) for entry in entries), default=0)
        error = max((cell_len(entry.error) for entry in entries), default=0)
        mark = BEST if any(entry.best for entry in entries) else ""
        width = number + (3 + error if error else 0) + len(mark)
        self.heads = [heading.label]
        if self.numeric:  # as wide as the numbers, or as the longest word
            self.heads = wrap(heading.label, max(width, *map(len, heading.label.split(" "))))
        self.width = max(width, *map(cell_len, self.heads))

        def cell(entry: Entry) -> Text:
            shown = Text(entry.text, style="bold" if entry.best else "")
            if not self.numeric:
                return shown
            shown.pad_left(number - shown.cell_len)
            if entry.error:
                shown.append(f" {PLUS_MINUS} {entry.error}", style="not bold dim")
            shown.append(BEST if entry.best else "")
            shown.pad_right(width - shown.cell_len)
            shown.pad_left(self.width - width)
            return shown

        self.sections = [[cell(entry) for entry in rows] for rows in sections]

    def head(self, lines: int) -> Text:
        """The heading on a number of lines, at the bottom."""
        filled = [""] * (lines - len(self.heads)) + self.heads
        return Text("\n".join(filled), style="bold", justify="right" if self.numeric else "left")


def _blocks(name: _Column, columns: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns in blocks of at most a width; a group that fits into one block is not divided."""
    block: list[_Column] = []
    for _, members in groupby(columns, key=lambda column: column.group):
        group = list(members)
        if block and _width([name, *block, *group]) > width:
            yield [name, *block]
            block = []
        for column in group:
            if block and _width([name, *block, column]) > width:
                yield [name, *block]
                block = []
            block.append(column)
    yield [name, *block]


def _width(columns: Sequence[_Column]) -> int:
    """The width of a block in characters."""
    return sum(width + GAP for _, width in _groups(columns)) - GAP


def _groups(columns: Sequence[_Column]) -> Iterator[tuple[list[_Column], int]]:
    """The groups of a block with their widths in characters."""
    for title, members in groupby(columns, key=lambda column: column.group):
        group = list(members)
        yield group, max(sum(column.width + GAP for column in group) - GAP, cell_len(title))


def _side_by_side(columns: Sequence[_Column]) -> Table:
    """A block: one table per group, with rows on the same lines."""
    lines = max(len(column.heads) for column in columns)
    titled = any(column.group for column in columns)
    grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    tables = []
    for group, width in _groups(columns):
        table = Table(box=LINES, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, min_width=width)
        table.title = group[0].group or (" " if titled else None)
        table.title_style = "bold"
        for column in group:
            table.add_column(column.head(lines), no_wrap=True, min_width=column.width, vertical="bottom")
        for rows in zip(*(column.sections for column in group), strict=True):
            for cells in zip(*rows, strict=True):
                table.add_row(*cells)
            table.add_section()
        tables.append(table)
    grid.add_row(*tables)
    return grid
