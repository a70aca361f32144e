"""Comparison of two checkpoints: the difference in every column, with a paired test if both have scores of items."""

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
    "McNemar": "McNemar: exact test on the items that only one of the two answers correctly",
    "paired t": "paired t: test on the differences of the items' scores",
    "z": "z: from the standard error of the change if the record has it, else from both errors as independent; "
    "averages from the errors of their tasks",
}


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints by label.

    lines: per column that both have, its group, the column, the first value, the second value, and the difference
        second minus first; in the metric's unit.
    """

    first: str
    second: str
    lines: tuple[tuple[Group, Column, float, float, Difference], ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per compared column, with the values in the metric's unit."""
        names = {"first": self.first, "second": self.second}
        rows = [
            names
            | {"suite": group.name, "label": column.flat_label, "task": column.task, "metric": column.metric}
            | {"first_value": before, "second_value": after, "difference": change.value, "stderr": change.error}
            | {"p_value": change.p_value, "test": change.test, "items": change.items}
            for group, column, before, after, change in self.lines
        ]
        return pd.DataFrame(rows, dtype=object)


def compare(table: Table, first: str, second: str, *, items: Items = read_items) -> Comparison:
    """Compare two results of a table by label, in every measured column and average.

    items: reads the scores of a measurement's items, None if there are none.
    Raises RequestError if a label is that of no result or of several, if both labels are the same, and if the two
    results have no column in common.
    """
    first_index, second_index = _find(table.results, first), _find(table.results, second)
    if first_index == second_index:
        raise RequestError(f"--compare {first} {second}: both are the same checkpoint; name two checkpoints")
    pairing, lines = Pairing(table.results, items), []
    for group, column in table.numbers:
        before, after = pairing.value(first_index, column), pairing.value(second_index, column)
        if before is not None and after is not None:
            pairs = None if column.parts else pairing.pairs(first_index, second_index, column.key)
            error = pairing.error(first_index, second_index, column)[0]
            change = paired_difference(*pairs) if pairs else difference(after - before, error)
            lines.append((group, column, before, after, change))
    if not lines:
        raise RequestError(
            f"--compare {first} {second}: no task was measured in the same way for both; choose others or measure again"
        )
    return Comparison(first, second, tuple(lines))


def _find(results: Sequence[Result], label: str) -> int:
    """The position of the result with a label."""
    labels = [result.checkpoint.label for result in results]
    if labels.count(label) > 1:
        raise RequestError(f"--compare {label}: {labels.count(label)} results have this label; give fewer results")
    if label not in labels:
        raise RequestError(f"--compare {label}: choose from {', '.join(dict.fromkeys(labels))}")
    return labels.index(label)


def comparison_sheet(comparison: Comparison) -> Sheet:
    """The sheet of a comparison, one row per compared column."""
    first, second = comparison.first, comparison.second
    names = ("items", first, second, "difference", "p", "test")
    headings = (Heading("", "task", "task", numeric=False), *(Heading("", name, name) for name in names))
    sections: dict[Group, list[tuple[Entry, ...]]] = {}
    columns: dict[Group, list[Column]] = {}
    for group, column, before, after, change in comparison.lines:
        columns.setdefault(group, []).append(column)
        sections.setdefault(group, []).append(
            (
                Entry(column.flat_label),
                Entry("" if column.parts else f"{change.items or column.samples:,}"),
                Entry(column.show(before)),
                Entry(column.show(after)),
                number_entry(column, change.value, change.error, sign=True),
                Entry(p_text(change.p_value)),
                Entry(change.test),
            )
        )
    used = {change.test for *_, change in comparison.lines}
    legend = (
        ("difference", f"{second} minus {first} {PLUS_MINUS} its standard error."),
        (
            "p",
            "two-sided p value of no difference, not corrected for the number of lines: without any difference, one "
            "line in twenty is below 0.05.",
        ),
        ("test", f"{'; '.join(meaning for test, meaning in TESTS.items() if test in used)}."),
        ("columns", columns_words([replace(group, columns=tuple(compared)) for group, compared in columns.items()])),
    )
    return Sheet(f"{second} against {first}", headings, tuple(map(tuple, sections.values())), legend)


def p_text(p_value: float | None) -> str:
    """A p value with four decimals, "<0.0001" below them, "-" for None."""
    if p_value is None:
        return "-"
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"
