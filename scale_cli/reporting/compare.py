"""Two checkpoints on the same items: the difference in every column, with a paired test where items have scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from scale_cli.core.errors import RequestError
from scale_cli.reporting.columns import Column, Group
from scale_cli.reporting.pairing import Items, Pairing
from scale_cli.reporting.sheet import Entry, Heading, Sheet, number_entry
from scale_cli.reporting.statistics import Difference, difference, paired_difference
from scale_cli.reporting.table import Table
from scale_cli.reporting.words import PLUS_MINUS, columns_words
from scale_cli.results.result import Result, read_items

TESTS = {
    "McNemar": "McNemar: exact, on the items that one of the two gets right and the other wrong",
    "paired t": "paired t: on the differences of the items' scores",
    "z": "z: from both standard errors, as if the two were independent, unless the record has that of the change "
    "(averages: from those of the tasks)",
}


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints by their labels. lines: a column that both have, its two values, the second minus the first."""

    first: str
    second: str
    lines: tuple[tuple[Group, Column, float, float, Difference], ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per column that the two were compared in."""
        names = {"first": self.first, "second": self.second}
        rows = [
            names
            | {"suite": group.name, "label": column.flat_label, "task": column.task, "metric": column.metric}
            | {"first_value": first, "second_value": second, "difference": found.value, "stderr": found.error}
            | {"p_value": found.p_value, "test": found.test, "items": found.items}
            for group, column, first, second, found in self.lines
        ]
        return pd.DataFrame(rows, dtype=object)


def compare(table: Table, first: str, second: str, *, items: Items = read_items) -> Comparison:
    """Compare two results of a table by their labels.

    Raises RequestError for a label that is none of the results', or of several, and where the two have no column in
    common.
    """
    one, other = _find(table.results, first), _find(table.results, second)
    if one == other:
        raise RequestError(f"--compare {first} {second}: the two are one checkpoint; name another one")
    pairing, lines = Pairing(table.results, items), []
    for group, column in table.numbers:
        before, after = pairing.value(one, column), pairing.value(other, column)
        if before is not None and after is not None:
            pairs = None if column.parts else pairing.pairs(one, other, column.key)
            error = pairing.error(one, other, column)[0]
            found = paired_difference(*pairs) if pairs else difference(after - before, error)
            lines.append((group, column, before, after, found))
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


def comparison_sheet(comparison: Comparison) -> Sheet:
    """The comparison as a sheet, a row per column of the table."""
    first, second = comparison.first, comparison.second
    names = ("items", first, second, "difference", "p", "test")
    headings = (Heading("", "task", "task", numeric=False), *(Heading("", name, name) for name in names))
    sections: dict[Group, list[tuple[Entry, ...]]] = {}
    columns: dict[Group, list[Column]] = {}
    for group, column, before, after, found in comparison.lines:
        columns.setdefault(group, []).append(column)
        sections.setdefault(group, []).append(
            (
                Entry(column.flat_label),
                Entry("" if column.parts else f"{found.items or column.samples:,}"),
                Entry(column.show(before)),
                Entry(column.show(after)),
                number_entry(column, found.value, found.error, sign=True),
                Entry(p_text(found.p_value)),
                Entry(found.test),
            )
        )
    used = {found.test for *_, found in comparison.lines}
    legend = (
        ("difference", f"{second} minus {first} {PLUS_MINUS} its standard error."),
        (
            "p",
            "two-sided, of no difference; not corrected for the number of lines, so of twenty without a difference one "
            "is below 0.05.",
        ),
        ("test", f"{'; '.join(words for test, words in TESTS.items() if test in used)}."),
        ("columns", columns_words([replace(group, columns=tuple(found)) for group, found in columns.items()])),
    )
    return Sheet(f"{second} against {first}", headings, tuple(map(tuple, sections.values())), legend)


def p_text(p_value: float | None) -> str:
    """A p value as it is shown."""
    if p_value is None:
        return "-"
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"
