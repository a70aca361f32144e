"""A table as text: the entries, their headings, and the legend that says how to read them. Formats differ in how they
set a sheet, not in what stands on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from scale_cli.reporting.columns import Column
from scale_cli.reporting.table import FACTS, SECTIONS, Row, Table
from scale_cli.reporting.words import DAGGER, table_legend

SHOWN_FACTS = ("trained", "tokens", "seconds")


@dataclass(frozen=True)
class Entry:
    """The content of a cell: a number and its error, each as text, or only words. best: it is to stand out."""

    text: str = "-"
    error: str = ""
    best: bool = False


@dataclass(frozen=True)
class Heading:
    """Of a column: the group's title (empty where there is none), the column's below it, and the column's where groups
    are not shown. numeric: its cells are numbers, set to the right."""

    group: str
    label: str
    flat_label: str
    numeric: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table ready to be set. sections: rows that belong together. legend: terms and what they mean."""

    title: str
    headings: tuple[Heading, ...]
    sections: tuple[tuple[tuple[Entry, ...], ...], ...]
    legend: tuple[tuple[str, str], ...] = ()

    def texts(self, text: Callable[[Entry], str]) -> pd.DataFrame:
        """The cells as text, the columns called by (group, label)."""
        names = pd.MultiIndex.from_tuples([(heading.group, heading.label) for heading in self.headings])
        rows = [[text(entry) for entry in row] for rows in self.sections for row in rows]
        return pd.DataFrame(rows, columns=names, dtype=object)


def table_sheet(table: Table, *, changes: bool = False, best: str = "bold") -> Sheet:
    """The sheet of a stability-plasticity table.

    changes: each number as its change against the base, instead of the number and the change of the averages.
    best: how the format shows an entry that stands out, for the legend.
    """
    columns = [(group, column) for group, column in shown_columns(table) if not (changes and column.change)]
    rows = [row for row in table.rows if not (changes and row.section == "base")]
    sections = [[row for row in rows if row.section == section] for section in SECTIONS]
    legend = table_legend(table, changes=changes, best=best)
    return rows_sheet(table, columns, filter(None, sections), legend, changes=changes)


def shown_columns(table: Table) -> list[tuple[str, Column]]:
    """The columns of a stability-plasticity table with the headings of their groups: cost first, then numbers."""
    known = set(table.cells["column"])
    facts = [("", FACTS[name]) for name in SHOWN_FACTS if name in known]
    return facts + [(group.heading, column) for group in table.groups for column in group.columns]


def rows_sheet(
    table: Table,
    columns: Sequence[tuple[str, Column]],
    sections: Iterable[Sequence[Row]],
    legend: Iterable[tuple[str, str]],
    *,
    changes: bool = False,
    name: str = "checkpoint",
) -> Sheet:
    """A sheet with some rows and columns of a table. columns: each with the heading of its group.

    changes: each number as its change against the base. name: the heading of the rows' names.
    """
    heads = [Heading("", name, name, numeric=False)]
    heads += [Heading(group, f"{c.label}{c.arrow}", f"{c.flat_label}{c.arrow}") for group, c in columns]
    entries = [
        tuple(
            (Entry(row_name(table, row)), *(cell_entry(table, row, column, changes=changes) for _, column in columns))
            for row in rows
        )
        for rows in sections
    ]
    return Sheet(table.title, tuple(heads), tuple(entries), tuple(legend))


def cell_entry(table: Table, row: Row, column: Column, *, changes: bool = False) -> Entry:
    """The entry of a row in a column. changes: the number's change against the base, of numbers that have one."""
    cell = table.cell(row, column)
    if cell is None or (changes and column.key not in FACTS and cell.change is None):
        return Entry()
    if changes and cell.change is not None:
        return number_entry(column, cell.change, cell.change_error, sign=True, best=cell.best)
    error = cell.error if column.key not in FACTS or (cell.error and column.form != "compact") else None
    return number_entry(column, cell.value, error, sign=column.signed, best=cell.best)


def number_entry(column: Column, value: float, error: float | None, *, sign: bool = False, best: bool = False) -> Entry:
    """A number of a column and its error."""
    return Entry(column.show(value, sign=sign), "" if error is None else column.show(error), best)


def row_name(table: Table, row: Row) -> str:
    """A row's label, whose numbers they are if not all are reported, its number of seeds, and whether it is on the
    front."""
    return f"{row_label(table, row)}{DAGGER if row.pareto else ''}"


def row_label(table: Table, row: Row) -> str:
    """A row's name without the mark of the front."""
    reported = " (reported)" if row.reported and not all(other.reported for other in table.rows) else ""
    return f"{row.label}{reported}{f' ({len(row.results)} seeds)' if len(row.results) > 1 else ''}"
