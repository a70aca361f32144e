"""A table as text: what stands in each cell, the headings, and the legend that says how to read it.

Between the numbers and the formats: text, Markdown and LaTeX differ in how they set a sheet, not in what is on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scale_cli.reporting.table import SECTIONS, Cell, Column, Group, Role, Row, StabilityPlasticityTable

MINUS = "\N{MINUS SIGN}"
DAGGER = "\N{DAGGER}"
MISSING = "-"
LOWER = "\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW}"
"""Behind the heading of a column in which lower is better."""


@dataclass(frozen=True)
class Entry:
    """What stands in a cell: a number and its error, each as text, or only words. best: it is to stand out."""

    text: str
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
    legend: tuple[tuple[str, str], ...]


def table_sheet(table: StabilityPlasticityTable, *, changes: bool = False, best: str = "bold") -> Sheet:
    """The sheet of a stability-plasticity table.

    changes: each number as its change against the base, instead of the number and the change of the averages.
    best: how the format shows an entry that stands out, for the legend.
    """
    extra = [(name, of) for name, of in TRAINING_COLUMNS if any(of(row) is not None for row in table.rows)]
    headings = [Heading("", "checkpoint", "checkpoint", numeric=False), *(Heading("", name, name) for name, _ in extra)]
    for group in table.groups:
        title = group_title(group)
        for column in group.columns:
            arrow = "" if column.higher_is_better else LOWER
            headings.append(Heading(title, f"{column.label}{arrow}", f"{column.flat_label}{arrow}"))
        if has_change(table, group) and not changes:
            headings.append(Heading(title, group.change_heading, f"{group.title} {group.change_heading}"))
    sections = []
    for section in SECTIONS:
        rows = [row for row in table.rows if row.section == section and not (changes and section == "base")]
        if rows:
            sections.append(tuple(_row(table, row, extra, changes) for row in rows))
    legend = table_legend(table, changes=changes, best=best)
    return Sheet(table.title, tuple(headings), tuple(sections), tuple(legend))


TrainingColumn = tuple[str, Callable[[Row], float | None]]
TRAINING_COLUMNS: tuple[TrainingColumn, ...] = (
    ("trained", lambda row: row.trained),
    ("tokens", lambda row: row.tokens),
    ("seconds", lambda row: row.seconds),
)


def _row(
    table: StabilityPlasticityTable, row: Row, extra: Sequence[TrainingColumn], changes: bool
) -> tuple[Entry, ...]:
    entries = [Entry(row_label(table, row))]
    for name, of in extra:
        value = of(row)
        shown = f"{value:,.0f}" if name == "seconds" and value is not None else compact(value)
        entries.append(Entry(shown))
    for group in table.groups:
        for column in group.columns:
            cell = row.cells.get(column.key)
            entries.append(change_entry(column, cell) if changes else value_entry(column, cell))
        if has_change(table, group) and not changes:
            column = next(column for column in group.columns if column.key == group.summary)
            entries.append(summary_change_entry(group, column, row.cells.get(column.key)))
    return tuple(entries)


def has_change(table: StabilityPlasticityTable, group: Group) -> bool:
    """Whether a group's summary has a change against the base to show."""
    return group.summary is not None and any(
        (cell := row.cells.get(group.summary)) is not None and cell.change is not None for row in table.rows
    )


def group_title(group: Group) -> str:
    """A group's heading, its role first."""
    return f"{group.role}: {group.title}" if group.role else group.title


def row_label(table: StabilityPlasticityTable, row: Row) -> str:
    """A row's first cell: its label, whose numbers they are if not all are reported, and whether it is on the front."""
    words = [row.label]
    if row.reported and not all(other.reported for other in table.rows):
        words.append("(reported)")
    if len(row.results) > 1:
        words.append(f"({len(row.results)} seeds)")
    return " ".join(words) + (DAGGER if row.pareto else "")


def number(value: float, column: Column, *, sign: bool = False) -> str:
    """A value or a change of a column as it is shown."""
    text = f"{column.factor * value:{'+' if sign else ''}.{column.decimals}f}"
    if not text.strip("+-0."):  # no minus before a zero
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def value_entry(column: Column, cell: Cell | None) -> Entry:
    """A value and its error."""
    if cell is None:
        return Entry(MISSING)
    return Entry(number(cell.value, column), _error(cell.error, column), cell.best)


def change_entry(column: Column, cell: Cell | None) -> Entry:
    """After minus base, signed, and its error."""
    if cell is None or cell.change is None:
        return Entry(MISSING)
    return Entry(number(cell.change, column, sign=True), _error(cell.change_error, column), cell.best)


def summary_change(group: Group, column: Column, cell: Cell) -> float | None:
    """The change of a group's summary under the name that its role gives it: forgetting is positive where something
    was lost, gain where something was learnt, and without a role the change is after minus base."""
    if cell.change is None or group.role is None:
        return cell.change
    better = cell.change if column.higher_is_better else -cell.change
    return better if group.role == "plasticity" else -better


def summary_change_entry(group: Group, column: Column, cell: Cell | None) -> Entry:
    """The change of a group's summary and its error."""
    change = None if cell is None else summary_change(group, column, cell)
    if cell is None or change is None:
        return Entry(MISSING)
    return Entry(number(change, column, sign=group.role is None), _error(cell.change_error, column))


def _error(error: float | None, column: Column) -> str:
    return "" if error is None else number(error, column)


def compact(value: float | None) -> str:
    """A count in three digits: 384 K, 1.24 B."""
    if value is None:
        return MISSING
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{value:,.0f}"


def table_legend(table: StabilityPlasticityTable, *, changes: bool, best: str) -> list[tuple[str, str]]:
    """How to read the table: terms and what they mean."""
    legend = []
    base = None if table.base is None else table.rows[table.base].label
    for role, meaning in (
        ("stability", "what is kept of the base's ability"),
        ("plasticity", "what is gained on the new data"),
    ):
        titles = [group.title for group in table.groups if group.role == role]
        if titles:
            legend.append((role, f"{meaning}; here {_join(titles)}."))
    if not legend:
        legend.append(
            (
                "stability, plasticity",
                "what is kept of the base's ability, and what is gained on the new data; no suite says which columns "
                "measure them (give --suite, or --stability and --plasticity).",
            )
        )
    if base is not None:
        legend += _change_terms(table, base, changes)
    legend.append(("\N{PLUS-MINUS SIGN}", _error_words(table)))
    if any(column.average for column in table.columns):
        legend.append(
            (
                "average",
                "mean of the group's columns, each with the same weight; its error takes the tasks as independent: the "
                "root of the sum of their squared errors, over their number.",
            )
        )
    if any(cell.best for row in table.rows for cell in row.cells.values()):
        legend.append(
            (
                best,
                "best of its column, the base left out, where its lead over the next is larger than the standard error "
                "of that difference.",
            )
        )
    if any(row.pareto for row in table.rows):
        legend.append(
            (
                DAGGER,
                "Pareto-optimal: no other row is at least as good in stability and in plasticity and better in one; "
                "by the values alone, whatever their errors.",
            )
        )
    legend.append(("columns", columns_words([column for column in table.columns if not column.average])))
    return legend + [("note", note) for note in (*reported_notes(table), *table.notes)]


def _change_terms(table: StabilityPlasticityTable, base: str, changes: bool) -> list[tuple[str, str]]:
    """What the changes against the base are called and how they are signed."""
    if changes:
        return [("each number", f"the change against {base}: after minus base, in the metric's own units.")]
    names: tuple[tuple[Role | None, str, str], ...] = (
        ("stability", "base minus after", "lost"),
        ("plasticity", "after minus base", "learnt"),
        (None, "after minus base", ""),
    )
    terms = []
    for role, order, positive in names:
        groups = [group for group in table.groups if group.role == role and has_change(table, group)]
        columns = [column for group in groups for column in group.columns if column.key == group.summary]
        if not columns:
            continue
        what = "average" if any(column.average for column in columns) else "column"
        turned = [column for column in columns if role and not column.higher_is_better]
        other_way = f" (where lower is better, {' minus '.join(order.split(' minus ')[::-1])})" if turned else ""
        terms.append(
            (
                groups[0].change_heading,
                f"{order} of the {f'{role} ' if role else ''}{what}, in {_join(map(_unit, columns))}{other_way}"
                f"{f'; positive is {positive}' if positive else ''}. The base is {base}.",
            )
        )
    return terms


def _unit(column: Column) -> str:
    return "points of percent" if column.percent else column.metric


def _error_words(table: StabilityPlasticityTable) -> str:
    words = (
        "one standard error; that of a difference is paired by item where both have scores of the same items, else "
        "from both errors."
    )
    if not table.aggregated:
        return words
    return f"one standard deviation over the seeds, where a row has several; else {words}"


def columns_words(columns: Sequence[Column]) -> str:
    """What columns are: tasks and metrics in the harness's words, how they were measured, and on how many items."""
    facts = [_facts(column) for column in columns]
    shared = [fact for fact in facts[0] if all(fact in others for others in facts)]
    words = []
    for column, mine in zip(columns, facts, strict=True):
        name = f"{column.task} {column.metric}"
        own = [fact for fact in mine if fact not in shared]
        named = name if column.flat_label == name else f"{column.flat_label} = {name}"
        words.append(f"{named} ({', '.join([*own, f'n={column.samples:,}'])})")
    return f"{f'all {_join(shared)}: ' if shared and len(columns) > 1 else ''}{', '.join(words)}."


def _facts(column: Column) -> list[str]:
    """How a column was measured, most of which the columns of a table often share."""
    facts = {
        "in percent": column.percent,
        "lower is better": not column.higher_is_better,
        f"{column.num_fewshot}-shot": column.num_fewshot is not None,
        f"{column.aggregation} average of its subtasks": column.aggregation is not None,
        f"filter {column.filter}": column.filter not in ("", "none"),
        f"version {column.task_version}": column.task_version is not None,
        f"only the first {column.limit} items": column.limit is not None,
    }
    return [fact for fact, holds in facts.items() if holds]


def reported_notes(table: StabilityPlasticityTable) -> list[str]:
    """Which rows are reported and not measured here."""
    sources: dict[str, list[str]] = {}
    for row in table.rows:
        if row.reported:
            source = str(table.results[row.results[0]].record["reported"])
            sources.setdefault(source, []).append(row.label)
    return [
        f"{'All values' if len(labels) == len(table.rows) else _join(labels)}: reported by {source}, not measured here."
        for source, labels in sources.items()
    ]


def _join(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} and {last}" if first else last
