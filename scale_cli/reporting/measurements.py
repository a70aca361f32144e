"""What `scale eval` prints: a row a number, a column a checkpoint, with what the number is of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from scale_cli.evaluation.suites import Suite
from scale_cli.reporting.build import PERCENT_METRICS
from scale_cli.reporting.statistics import mean_error
from scale_cli.results.result import Measurement, Result

CAPTION = "Shares in percent ± standard error."
ROUTED = "Routed: the share of scored tokens that took the preserve branch, in percent."

Row = Sequence[Measurement | None]
"""The measurements of the same thing on each checkpoint, None where there is none."""


def suite_table(results: Sequence[Result], suite: Suite, *, num_fewshot: int | None, limit: int | None) -> Table:
    """The numbers that a suite reads, and their average, each task counting the same.

    num_fewshot, limit: with which it was run; None: with the suite's own, and all items.
    """
    heading = f"{suite.title}, {suite.role} (suite {suite.name}, average: {suite.average})"
    rows: list[tuple[str, Row]] = []
    for entry in suite.entries:
        shots = entry.num_fewshot if num_fewshot is None else num_fewshot
        found = [
            [m for m in result.find(entry.task, entry.metric, entry.filter) if m.limit == limit] for result in results
        ]
        # A task that is always asked without examples keeps to that, so there may be one with other shots only.
        chosen = [next((m for m in of if m.num_fewshot == shots), of[-1] if of else None) for of in found]
        rows.append((entry.heading, chosen))
    table = _table(results, heading, [row for _, row in rows])
    for label, row in rows:
        _add(table, label, row)
    if len(rows) > 1:
        table.add_section()
        table.add_row("average", *[""] * 4, *(_average([row[i] for _, row in rows]) for i in range(len(results))))
    return table


def task_table(results: Sequence[Result], tasks: Sequence[str], *, title: str) -> Table:
    """All numbers of some tasks, in the order of the first checkpoint that has them."""
    keys = dict.fromkeys(m.key._replace(dtype="") for task in tasks for result in results for m in result.find(task))
    rows = []
    for key in keys:
        found = [[m for m in result.find(key.task) if m.key._replace(dtype="") == key] for result in results]
        rows.append([of[-1] if of else None for of in found])
    table = _table(results, title, rows)
    for row in rows:
        _add(table, next(m.task for m in row if m is not None), row)
    return table


def _table(results: Sequence[Result], title: str, rows: Iterable[Row]) -> Table:
    is_routed = any(m is not None and m.routed is not None for row in rows for m in row)
    caption = f"{CAPTION} {ROUTED}" if is_routed else CAPTION
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in ("task", "metric"):
        table.add_column(column, no_wrap=True)
    for column in ("shots", "version", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_column(result.checkpoint.label, justify="right", no_wrap=True)
    return table


def _add(table: Table, label: str, row: Row) -> None:
    of = next((m for m in row if m is not None), None)
    if of is None:
        table.add_row(label, *["-"] * 4, *("-" for _ in row))
        return
    metric = of.metric if of.filter == "none" else f"{of.metric}, {of.filter}"
    metric += f" ({of.details['aggregation']})" if "aggregation" in of.details else ""
    shots = "-" if of.num_fewshot is None else str(of.num_fewshot)
    count = f"{of.samples:,}" if of.limit is None else f"{of.samples:,} (limit {of.limit:,})"
    cells = ["-" if m is None else _cell(m.metric, m.value, m.stderr) for m in row]
    table.add_row(label, metric, shots, of.task_version or "-", count, *cells)
    if of.metric == "routed" or all(m is None or m.routed is None for m in row):
        return
    shares = ["-" if m is None or m.routed is None else f"{100 * m.routed:.1f}" for m in row]
    table.add_row("", "routed", "", "", "", *shares)


def _average(values: Row) -> str:
    present = [m for m in values if m is not None]
    if len(present) < len(values):
        return "-"
    mean = math.fsum(m.value for m in present) / len(present)
    return _cell(present[0].metric, mean, mean_error([m.stderr for m in present]))


def _cell(metric: str, value: float, stderr: float | None) -> str:
    if metric in PERCENT_METRICS or metric.partition("/")[0] in PERCENT_METRICS:
        return f"{100 * value:.2f}" + ("" if stderr is None else f" ± {100 * stderr:.2f}")
    return f"{value:.4g}" + ("" if stderr is None else f" ± {stderr:.2g}")
