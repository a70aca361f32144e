"""A sheet for a terminal: each number with its error beside it, below it, or in blocks, as the width allows."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from scale_cli.reporting.sheet import Entry, Heading, Sheet

GAP = "  "
BEST = "*"
LONG = 9
"""Characters of a heading above which it is set in several lines."""


@dataclass(frozen=True)
class SheetText:
    """A sheet that rich prints, made for the width that there is."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.sheet.title, style="bold")
        yield Text("")
        for block in _blocks(self.sheet, options.max_width):
            yield from block.lines()
            yield Text("")
        for term, meaning in self.sheet.legend:
            # rich would leave a space at the end of a line that it breaks
            for number, line in enumerate(textwrap.wrap(f"{term}: {meaning}", options.max_width)):
                words = Text(line)
                if number == 0:
                    words.stylize("bold", 0, len(term) + 1)
                yield words


@dataclass(frozen=True)
class _Column:
    """A column of a block: its heading and its cells, by section.

    stacked: the error stands below the number. least: characters that it is wide at least.
    """

    heading: Heading
    entries: tuple[tuple[Entry, ...], ...]
    stacked: bool
    least: int = 0

    @property
    def heads(self) -> list[str]:
        """The heading's lines: a long one has a word on each."""
        label = self.heading.label
        return label.split(" ") if self.heading.numeric and len(label) > LONG else [label]

    @property
    def _all(self) -> list[Entry]:
        return [entry for section in self.entries for entry in section]

    @property
    def _error_width(self) -> int:
        return max(cell_len(entry.error) for entry in self._all)

    @property
    def _mark_width(self) -> int:
        return len(BEST) if any(entry.best for entry in self._all) else 0

    @property
    def width(self) -> int:
        number, error = max(cell_len(entry.text) for entry in self._all), self._error_width
        both = max(number, error + 1) if self.stacked else number + (3 + error if error else 0)
        return max(self.least, both + self._mark_width, *(cell_len(head) for head in self.heads))

    def cell(self, entry: Entry) -> list[Text]:
        """The cell's lines, of the column's width."""
        if not self.heading.numeric:
            return [_padded(Text(entry.text), self.width, right=False)]
        mark = (BEST if entry.best else "").ljust(self._mark_width)
        number = Text(entry.text, style="bold" if entry.best else "")
        error = Text(entry.error, style="dim")
        if self.stacked:
            below = Text.assemble("±" if entry.error else "", error, " " * len(mark))
            return [_padded(Text.assemble(number, mark), self.width), _padded(below, self.width)]
        if self._error_width:
            beside = f" ± {entry.error}" if entry.error else ""
            number.append(beside.ljust(3 + self._error_width), style="not bold dim")
        return [_padded(Text.assemble(number, mark), self.width)]


@dataclass(frozen=True)
class _Block:
    """Columns that stand side by side, the first of them the row's name."""

    columns: tuple[_Column, ...]

    @property
    def width(self) -> int:
        return _width(self.columns)

    def lines(self) -> Iterator[Text]:
        yield Text("━" * self.width)
        yield from self._group_lines()
        depth = max(len(column.heads) for column in self.columns)
        for place in range(depth):
            heads = [[""] * (depth - len(column.heads)) + column.heads for column in self.columns]
            yield _joined(
                [
                    _padded(Text(head[place], style="bold"), column.width, right=column.heading.numeric)
                    for head, column in zip(heads, self.columns, strict=True)
                ]
            )
        for number, _ in enumerate(self.columns[0].entries):
            yield Text(("─" if number else "━") * self.width)
            for row in range(len(self.columns[0].entries[number])):
                cells = [column.cell(column.entries[number][row]) for column in self.columns]
                for line in range(max(map(len, cells))):
                    yield _joined(
                        [
                            cell[line] if line < len(cell) else Text(" " * column.width)
                            for cell, column in zip(cells, self.columns, strict=True)
                        ]
                    )
        yield Text("━" * self.width)

    def _group_lines(self) -> Iterator[Text]:
        """The groups' titles over their columns, and a rule below each."""
        spans = [(title, _width(columns)) for title, columns in _spans(self.columns)]
        if any(title for title, _ in spans):
            yield _joined([_centred(title, width) for title, width in spans])
            yield _joined([Text(("─" if title else " ") * width) for title, width in spans])


def _blocks(sheet: Sheet, width: int) -> list[_Block]:
    """The sheet as one block if it fits, errors beside the numbers or else below them; if it does not, as several, each
    of as many groups as fit."""
    for stacked in (False, True):
        block = _block(sheet, range(len(sheet.headings)), stacked)
        if block.width <= width:
            return [block]
    blocks: list[list[int]] = []
    for columns in _by_group(sheet):
        wider = [*blocks[-1], *columns] if blocks else [0, *columns]
        if blocks and _block(sheet, wider, False).width <= width:
            blocks[-1] = wider
            continue
        blocks.append([0])
        for column in columns:
            wider = [*blocks[-1], column]
            if len(blocks[-1]) > 1 and _block(sheet, wider, False).width > width:
                blocks.append([0, column])
            else:
                blocks[-1] = wider
    return [_block(sheet, columns, False) for columns in blocks]


def _by_group(sheet: Sheet) -> list[list[int]]:
    """The numbers of the columns behind the first, those of a group together."""
    places = range(1, len(sheet.headings))
    return [list(mine) for _, mine in groupby(places, key=lambda place: sheet.headings[place].group)]


def _block(sheet: Sheet, columns: Sequence[int], stacked: bool) -> _Block:
    made = [
        _Column(sheet.headings[place], tuple(tuple(row[place] for row in rows) for rows in sheet.sections), stacked)
        for place in columns
    ]
    wide_enough: list[_Column] = []
    for title, (*others, last) in _spans(made):
        missing = max(0, cell_len(title) - _width([*others, last]))
        wide_enough += [*others, dataclasses.replace(last, least=last.width + missing)]
    return _Block(tuple(wide_enough))


def _spans(columns: Sequence[_Column]) -> list[tuple[str, list[_Column]]]:
    """The groups' titles, each with its columns."""
    return [(title, list(mine)) for title, mine in groupby(columns, key=lambda column: column.heading.group)]


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def _padded(text: Text, width: int, *, right: bool = True) -> Text:
    """The text at one end of a cell."""
    space = " " * max(0, width - text.cell_len)
    return Text.assemble(space, text) if right else Text.assemble(text, space)


def _centred(text: str, width: int) -> Text:
    """The text in the middle."""
    space = width - cell_len(text)
    return Text.assemble(" " * (space // 2), (text, "bold"), " " * (space - space // 2))


def _joined(cells: Sequence[Text]) -> Text:
    line = Text(GAP, no_wrap=True, end="\n").join(cells)
    line.rstrip()
    return line
