"""Two checkpoints on the same items: the difference in every column, with a paired test where items have scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scale_cli.core.errors import RequestError
from scale_cli.reporting.build import Items, Scores
from scale_cli.reporting.sheet import Entry, Heading, Sheet, columns_words, number
from scale_cli.reporting.statistics import Difference, difference, paired_difference
from scale_cli.reporting.table import Column, Group, StabilityPlasticityTable
from scale_cli.results.result import Result, read_items


@dataclass(frozen=True)
class Line:
    """A column's values of both and their difference, the second minus the first."""

    group: Group
    column: Column
    first: float
    second: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints by their labels, and a line for each column that both have."""

    first: str
    second: str
    lines: tuple[Line, ...]


def compare(table: StabilityPlasticityTable, first: str, second: str, *, items: Items = read_items) -> Comparison:
    """Compare two results of a table by their labels.

    Raises RequestError for a label that is none of the results', or of several, and where the two have no column in
    common.
    """
    one, other = (_find(table.results, label) for label in (first, second))
    if one == other:
        raise RequestError(f"--compare {first} {second}: the two are one checkpoint; name another one")
    scores = Scores(table.results, table.groups, items)
    lines = [
        line for group in table.groups for column in group.columns if (line := _line(group, column, one, other, scores))
    ]
    if not lines:
        raise RequestError(f"--compare {first} {second}: they have no task in common that was measured in the same way")
    return Comparison(first, second, tuple(lines))


def _find(results: Sequence[Result], label: str) -> int:
    labels = [result.checkpoint.label for result in results]
    if labels.count(label) > 1:
        raise RequestError(f"--compare {label}: {labels.count(label)} results have this label; give fewer results")
    if label not in labels:
        raise RequestError(f"--compare {label}: choose from {', '.join(dict.fromkeys(labels))}")
    return labels.index(label)


def _line(group: Group, column: Column, first: int, second: int, scores: Scores) -> Line | None:
    """The line of a column, None where one of the two lacks it."""
    values = [scores.value(place, column) for place in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    pairs = None if column.average else scores.pairs(first, second, column)
    found = (
        paired_difference(*pairs)
        if pairs
        else difference(values[1] - values[0], scores.error(first, second, column)[0])
    )
    return Line(group, column, values[0], values[1], found)


def comparison_sheet(comparison: Comparison) -> Sheet:
    """The comparison as a sheet, a row a column of the table."""
    headings = (
        Heading("", "task", "task", numeric=False),
        *(
            Heading("", name, name)
            for name in ("items", comparison.first, comparison.second, "difference", "p", "test")
        ),
    )
    sections: dict[str, list[tuple[Entry, ...]]] = {}
    for line in comparison.lines:
        column, found = line.column, line.difference
        error = "" if found.error is None else number(found.error, column)
        row = (
            Entry(column.flat_label),
            Entry("" if column.average else f"{found.items or column.samples:,}"),
            Entry(number(line.first, column)),
            Entry(number(line.second, column)),
            Entry(number(found.value, column, sign=True), error),
            Entry(p_text(found.p_value)),
            Entry(found.test),
        )
        sections.setdefault(f"{line.group.name} {line.group.title}", []).append(row)
    columns = [line.column for line in comparison.lines if not line.column.average]
    return Sheet(
        f"{comparison.second} against {comparison.first}",
        headings,
        tuple(map(tuple, sections.values())),
        (
            ("difference", f"{comparison.second} minus {comparison.first} \N{PLUS-MINUS SIGN} its standard error."),
            (
                "p",
                "two-sided, of no difference; not corrected for the number of lines, so of twenty without a difference "
                "one is below 0.05.",
            ),
            ("test", _tests_words(comparison)),
            ("columns", columns_words(columns)),
        ),
    )


def p_text(p_value: float | None) -> str:
    """A p value as it is shown."""
    if p_value is None:
        return "-"
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def _tests_words(comparison: Comparison) -> str:
    words = {
        "McNemar": "McNemar: exact, on the items that one of the two gets right and the other wrong",
        "paired t": "paired t: on the differences of the items' scores",
        "z": "z: from both standard errors, as if the two were independent (averages: from those of the tasks)",
    }
    used = [words[test] for test in words if any(line.difference.test == test for line in comparison.lines)]
    return "; ".join(used) + "."
