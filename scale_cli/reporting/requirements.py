"""Requirements on a table's numbers, and a verdict per requirement and row from the number's 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from scale_cli.core.condition import Condition
from scale_cli.core.errors import RequestError
from scale_cli.reporting.columns import Column, listed
from scale_cli.reporting.sheet import Entry, Heading, Sheet
from scale_cli.reporting.statistics import half_width
from scale_cli.reporting.table import Row, Table
from scale_cli.results.measurement import main_metric

CHANGES = {"forgetting": -1, "gain": 1}
"""Quantities that are changes against the base: 1 for those that are positive if ability was gained, -1 if lost."""
Outcome = Literal["met", "not met", "not decided"]
OUTCOMES: tuple[Outcome, ...] = ("met", "not met", "not decided")
ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Verdict:
    """The outcome of a requirement for a row.

    requirement: as given. row: the row's label. column: the column of the number.
    value, low, high: the required quantity and the ends of its 95% interval, in the metric's unit; None if the row has
        no number. Without a known error both ends are the value.
    """

    requirement: str
    row: str
    column: Column
    value: float | None
    low: float | None
    high: float | None
    outcome: Outcome


def judge(table: Table, requirements: Sequence[str]) -> list[Verdict]:
    """The verdicts of requirements, each for every row except the base; for the base if the table has no other row.

    requirements: NAME.QUANTITY<=NUMBER or >=. NAME is a group with a summary, a task, or a task without its kind ("en"
        for "perplexity:en"), and may be followed by =METRIC. QUANTITY is one of CHANGES or the name of the metric,
        "average" for an average. NUMBER is in the unit in which the table shows the quantity.
    Raises RequestError for a requirement that is malformed or names nothing in the table, and for a change if there is
    no base or nothing to compare with it.
    """
    return [verdict for text in dict.fromkeys(requirements) for verdict in _judge(table, text)]


def count(verdicts: Sequence[Verdict]) -> str:
    """The number of verdicts by outcome."""
    outcomes = [verdict.outcome for verdict in verdicts]
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in OUTCOMES)


def requirements_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per verdict. value, low, high: in the unit of the requirement's number, as in the table."""
    rows = [
        {"requirement": verdict.requirement, "checkpoint": verdict.row}
        | {"task": verdict.column.task, "metric": verdict.column.metric}
        | {name: None if (x := getattr(verdict, name)) is None else verdict.column.factor * x for name in ENDS}
        | {"verdict": verdict.outcome}
        for verdict in verdicts
    ]
    return pd.DataFrame(rows, dtype=object)


def requirements_sheet(verdicts: Sequence[Verdict]) -> Sheet:
    """The sheet of verdicts, one row each."""
    headings = [Heading("", name, name, numeric=name == "value") for name in ("requirement", "checkpoint", "value")]
    headings += [Heading("", name, name, numeric=False) for name in ("95% interval", "verdict")]
    sections: dict[str, list[tuple[Entry, ...]]] = {}
    for verdict in verdicts:
        shown = [None if (x := getattr(verdict, name)) is None else verdict.column.show(x) for name in ENDS]
        interval = f"{shown[1]} to {shown[2]}" if shown[1] is not None else "-"
        texts = (verdict.requirement, verdict.row, shown[0] or "-", interval, verdict.outcome)
        sections.setdefault(verdict.requirement, []).append(tuple(map(Entry, texts)))
    legend = (
        (
            "verdict",
            "met or not met if the whole interval is on one side of the required number; not decided if the number is "
            "inside the interval, or if nothing was measured.",
        ),
        (
            "95% interval",
            "1.96 standard errors to both sides, paired by item for changes if possible; for a row of several seeds, "
            "Student's t interval of their mean; the value alone if its error is unknown.",
        ),
    )
    return Sheet("Requirements", tuple(headings), tuple(map(tuple, sections.values())), legend)


def _judge(table: Table, text: str) -> list[Verdict]:
    try:
        condition = Condition.parse(text, relative=False)
    except ValueError as error:
        raise RequestError(
            f"--require {text}: {error} in the table's unit, points for shares, as in english.forgetting<=1.0"
        ) from error
    name, dot, quantity = condition.name.rpartition(".")
    if not dot:
        raise RequestError(
            f"--require {text}: write NAME.QUANTITY before the comparison, as in {condition.name}.forgetting; NAME is "
            f"one of {listed(_names(table))}"
        )
    column = _find(table, text, name, quantity)
    rows = [row for row in table.rows if row.section != "base"] or list(table.rows)
    verdicts = [_verdict(table, row, column, quantity, condition) for row in rows]
    if quantity in CHANGES:
        _check_base(table, text, column, verdicts)
    return verdicts


def _verdict(table: Table, row: Row, column: Column, quantity: str, condition: Condition) -> Verdict:
    cell = table.cell(row, column)
    value, error = (None, None) if cell is None else (cell.value, cell.error)
    if quantity in CHANGES:
        value, error = (None, None) if cell is None else (cell.change, cell.change_error)
        sign = CHANGES[quantity] * (1 if column.higher_is_better else -1)
        value = None if value is None else sign * value
    if value is None:
        return Verdict(condition.text, row.label, column, None, None, None, "not decided")
    half = 0.0 if error is None else half_width(error, len(row.results))
    low, high = value - half, value + half
    worst, best = (high, low) if condition.at_most else (low, high)
    holds_at = [condition.excess(column.factor * end, base=0.0) == 0 for end in (worst, best)]
    outcome: Outcome = "met" if holds_at[0] else "not decided" if holds_at[1] else "not met"
    return Verdict(condition.text, row.label, column, value, low, high, outcome)


def _names(table: Table) -> dict[str, list[Column]]:
    """The columns by the names of their groups, if they are summaries, and of their tasks."""
    names: dict[str, list[Column]] = {group.name: [] for group in table.groups if group.summary is not None}
    for group, column in table.numbers:
        if column == group.summary:
            names[group.name].append(column)
        if column.is_task and column not in names.setdefault(column.task, []):
            names[column.task].append(column)
    return names


def _quantity(column: Column) -> str:
    """The name of a column's values as a quantity."""
    return "average" if column.parts else column.metric


def _find(table: Table, text: str, name: str, quantity: str) -> Column:
    """The column that a requirement names."""
    named, _, metric = name.partition("=")
    names = _names(table)
    whole = names.get(named, [])
    columns = [*whole, *(c for task, own in names.items() if task.partition(":")[2] == named for c in own)]
    if not columns:
        raise RequestError(f"--require {text}: nothing here is named {named}; choose from {listed(names)}")
    fitting = [column for column in columns if metric in ("", column.metric)]
    fitting = [column for column in fitting if quantity in (*CHANGES, _quantity(column))]
    if not fitting:
        metrics = listed(map(_quantity, columns))
        wrong = f"{named} has no {metric or quantity}"
        raise RequestError(f"--require {text}: {wrong}; choose from {listed(CHANGES)}, or a metric of it: {metrics}")
    for preferred in ([c for c in fitting if c in whole], [c for c in fitting if c.metric == main_metric(c.task)]):
        if len(fitting) > 1:
            fitting = preferred or fitting
    if len(fitting) > 1:
        choices = listed(f"{column.task}={column.metric}" for column in fitting)
        several = len({(column.task, column.metric) for column in fitting}) > 1
        advice = f"name one: {choices}" if several else f"give results of one way to measure {choices}"
        raise RequestError(f"--require {text}: {name} has several columns; {advice}")
    return fitting[0]


def _check_base(table: Table, text: str, column: Column, verdicts: Sequence[Verdict]) -> None:
    """Raise RequestError if there is no change against a base."""
    if table.base is None:
        labels = listed(row.label for row in table.rows)
        raise RequestError(f"--require {text}: there is no base to compare with; choose it with --base, from {labels}")
    if all(row.section == "base" for row in table.rows):
        raise RequestError(f"--require {text}: there is only the base, {table.base.label}; give other results too")
    if all(verdict.value is None for verdict in verdicts):
        raise RequestError(
            f"--require {text}: {column.flat_label} was not measured for both the base, {table.base.label}, and "
            "another checkpoint; measure it for both with scale eval"
        )
