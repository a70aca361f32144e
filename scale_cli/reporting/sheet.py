"""A table as text: entries, headings and legend. All formats of a table are typeset from the same sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from scale_cli.reporting.columns import Column
from scale_cli.reporting.table import FACTS, SECTIONS, Row, Table
from scale_cli.reporting.words import DAGGER, PLUS_MINUS, table_legend

SHOWN_FACTS = ("trained", "tokens", "seconds")


@dataclass(frozen=True)
class Entry:
    """The content of a cell: a number and its error as text, or a text alone. best: the number is emphasised."""

    text: str = "-"
    error: str = ""
    best: bool = False


@dataclass(frozen=True)
class Heading:
    """The heading of a column.

    group: the group's title, empty without one. label: the heading below it. flat_label: the heading in formats
        without groups. numeric: the cells are numbers, aligned to the right.
    """

    group: str
    label: str
    flat_label: str
    numeric: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table ready to be typeset.

    sections: groups of rows, each row one entry per heading. legend: terms with their definitions.
    """

    title: str
    headings: tuple[Heading, ...]
    sections: tuple[tuple[tuple[Entry, ...], ...], ...]
    legend: tuple[tuple[str, str], ...] = ()

    def texts(self, text: Callable[[Entry], str]) -> pd.DataFrame:
        """The cells as text; one row per row of the sheet, columns named (group, label)."""
        names = pd.MultiIndex.from_tuples([(heading.group, heading.label) for heading in self.headings])
        rows = [[text(entry) for entry in row] for rows in self.sections for row in rows]
        return pd.DataFrame(rows, columns=names, dtype=object)


def table_sheets(table: Table, *, changes: bool = False, best: str = "bold") -> list[Sheet]:
    """The sheet of a stability-plasticity table, and one of the drift if that was measured.

    changes, best: as for `table_sheet`.
    """
    drift = table.drift
    sheets = [] if drift and not table.without_drift.groups else [table_sheet(table, changes=changes, best=best)]
    return sheets if drift is None else [*sheets, table_sheet(drift, best=best)]


def table_sheet(table: Table, *, changes: bool = False, best: str = "bold") -> Sheet:
    """The sheet of a stability-plasticity table without its columns of drift, or of such columns alone.

    changes: show the change of each number against the base, without the base's row and the columns of changes.
    best: the legend's term for the format's mark on a best value.
    """
    table = table.without_drift if table.without_drift.groups else table
    columns = [(group, column) for group, column in shown_columns(table) if not (changes and column.change)]
    rows = [row for row in table.rows if not (changes and row.section == "base")]
    sections = [[row for row in rows if row.section == section] for section in SECTIONS]
    sheet = rows_sheet(table, columns, filter(None, sections), changes=changes)
    hidden = {PLUS_MINUS, DAGGER, best} - _shown_marks(sheet, best)
    legend = (entry for entry in table_legend(table, changes=changes, best=best) if entry[0] not in hidden)
    return replace(sheet, legend=tuple(legend))


def shown_terms(sheet: Sheet, terms: Iterable[tuple[str, str]], *, best: str) -> tuple[tuple[str, str], ...]:
    """The legend of a sheet: those terms, with their definitions, that occur in its headings or as marks.

    best: the legend's term for the format's mark on a best value.
    """
    headings = [text for heading in sheet.headings for text in (heading.group, heading.label)]
    marks = _shown_marks(sheet, best)
    return tuple(
        (term, meaning) for term, meaning in terms if term in marks or any(term in heading for heading in headings)
    )


def _shown_marks(sheet: Sheet, best: str) -> set[str]:
    """The marks that occur in a sheet: plus-minus signs, daggers, and best values under the term `best`."""
    entries = [entry for rows in sheet.sections for row in rows for entry in row]
    shown = {
        PLUS_MINUS: any(entry.error for entry in entries),
        DAGGER: any(DAGGER in entry.text for entry in entries),
        best: any(entry.best for entry in entries),
    }
    return {mark for mark, is_shown in shown.items() if is_shown}


def shown_columns(table: Table) -> list[tuple[str, Column]]:
    """The columns of a table, each with its group's heading: costs first, unless it shows drift, then numbers."""
    known = set() if all(group.is_drift for group in table.groups) else set(table.cells["column"])
    facts = [("", FACTS[name]) for name in SHOWN_FACTS if name in known]
    return facts + [(group.heading, column) for group in table.groups for column in group.columns]


def rows_sheet(
    table: Table,
    columns: Sequence[tuple[str, Column]],
    sections: Iterable[Sequence[Row]],
    *,
    changes: bool = False,
    name: str = "checkpoint",
) -> Sheet:
    """A sheet of selected rows and columns of a table, without a legend.

    columns: each with its group's heading, empty for none. sections: groups of rows.
    changes: show the change of each number against the base. name: the heading of the rows' names.
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
    return Sheet(table.title, tuple(heads), tuple(entries))


def cell_entry(table: Table, row: Row, column: Column, *, changes: bool = False) -> Entry:
    """The entry of a row in a column.

    changes: show the number's change against the base, and "-" for a number without one; costs have no change.
    """
    cell = table.cell(row, column)
    if cell is None or (changes and column.key not in FACTS and cell.change is None):
        return Entry()
    if changes and cell.change is not None:
        return number_entry(column, cell.change, cell.change_error, sign=True, best=cell.best)
    error = cell.error if column.key not in FACTS or (cell.error and column.form != "compact") else None
    return number_entry(column, cell.value, error, sign=column.signed, best=cell.best)


def number_entry(column: Column, value: float, error: float | None, *, sign: bool = False, best: bool = False) -> Entry:
    """The entry of a value and its error, formatted by the column. sign: show a plus sign too."""
    return Entry(column.show(value, sign=sign), "" if error is None else column.show(error), best)


def row_name(table: Table, row: Row) -> str:
    """A row's label with a dagger if the row is Pareto-optimal."""
    return f"{row_label(table, row)}{DAGGER if row.pareto else ''}"


def row_label(table: Table, row: Row) -> str:
    """A row's label with its number of seeds if several, and as `point_label`."""
    return f"{point_label(table, row)}{f' ({len(row.results)} seeds)' if len(row.results) > 1 else ''}"


def point_label(table: Table, row: Row) -> str:
    """A row's label, with "(reported)" in a table that has measured rows too."""
    reported = row.reported and not all(other.reported for other in table.rows)
    return f"{row.label} (reported)" if reported else row.label
