"""The table's numbers for programs: CSV, a line a number, and JSON. Nothing is rounded, and values are in the metrics'
own units, accuracies from 0 to 1."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scale_cli.core.files import plain, to_json
from scale_cli.reporting.compare import Comparison
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.sheet import table_legend
from scale_cli.reporting.table import Cell, Column, Group, Row, StabilityPlasticityTable
from scale_cli.results.result import Measurement, Result


def csv_text(table: StabilityPlasticityTable) -> str:
    """One line a number of the table, averages included, with all that is known of it."""
    lines = [
        _line(table, row, group, column, row.cells[column.key])
        for row in table.rows
        for group in table.groups
        for column in group.columns
        if column.key in row.cells
    ]
    return _csv(FIELDS, lines)


def comparison_csv(comparison: Comparison) -> str:
    """One line a column that two checkpoints were compared in."""
    lines = _comparison_lines(comparison)
    return _csv(list(lines[0]), lines)


def _comparison_lines(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "first": comparison.first,
            "second": comparison.second,
            "suite": line.group.name,
            "label": line.column.flat_label,
            "task": line.column.task,
            "metric": line.column.metric,
            "first_value": line.first,
            "second_value": line.second,
            "difference": line.difference.value,
            "stderr": line.difference.error,
            "p_value": line.difference.p_value,
            "test": line.difference.test,
            "items": line.difference.items,
        }
        for line in comparison.lines
    ]


def _csv(fields: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


FIELDS = (
    *("checkpoint", "method", "section", "seeds", "pareto", "reported"),
    *("suite", "role", "label", "task", "metric", "filter", "task_version", "num_fewshot", "limit", "aggregation"),
    *("value", "stderr", "deviation", "samples", "higher_is_better"),
    *("change", "change_stderr", "change_deviation", "paired", "best"),
    *("trained_parameters", "tokens", "training_seconds", "routed", "dtype", "batch_size", "seed", "seconds"),
    *("source", "fingerprint", "command", "commit", "clean", "created"),
)
"""The columns. stderr is that of one run; deviation, in place of it, of the value over several seeds. What several runs
have otherwise stands with spaces between."""


def _line(table: StabilityPlasticityTable, row: Row, group: Group, column: Column, cell: Cell) -> dict[str, Any]:
    several = len(row.results) > 1
    measurements = list(cell.measurements.values())
    results = [table.results[index] for index in row.results]
    calls = [call_of(table.results[index], m) for index, m in cell.measurements.items()]
    gits = [call.get("git") or {} for call in calls]
    return {
        "checkpoint": row.label,
        "method": row.method,
        "section": row.section,
        "seeds": _words(row.seeds),
        "pareto": _flag(row.pareto),
        "reported": _words(result.record.get("reported") for result in results),
        "suite": group.name,
        "role": group.role,
        "label": column.flat_label,
        "task": column.task,
        "metric": column.metric,
        "filter": column.filter,
        "task_version": column.task_version,
        "num_fewshot": column.num_fewshot,
        "limit": column.limit,
        "aggregation": column.aggregation,
        "value": cell.value,
        "stderr": None if several else cell.error,
        "deviation": cell.error if several else None,
        "samples": _words(m.samples for m in measurements),
        "higher_is_better": _flag(column.higher_is_better),
        "change": cell.change,
        "change_stderr": None if several else cell.change_error,
        "change_deviation": cell.change_error if several else None,
        "paired": None if cell.change is None else _flag(cell.paired),
        "best": _flag(cell.best),
        "trained_parameters": _count(row.trained),
        "tokens": _count(row.tokens),
        "training_seconds": row.seconds,
        "routed": _words(m.routed for m in measurements),
        "dtype": _words(m.dtype for m in measurements),
        "batch_size": _words(m.batch_size for m in measurements),
        "seed": column.seed,
        "seconds": _words(m.seconds for m in measurements),
        "source": _words(result.checkpoint.source for result in results),
        "fingerprint": _words(result.checkpoint.fingerprint for result in results),
        "command": _words(call["command"] for call in calls),
        "commit": _words(git.get("commit") for git in gits),
        "clean": _words(git.get("clean") for git in gits),
        "created": _words(m.created for m in measurements),
    }


def call_of(result: Result, measurement: Measurement) -> dict[str, Any]:
    """The call that made a measurement, the last one created before it: its command, created, environment and git."""
    names = ("command", "created", "environment", "git")
    calls = [*result.record.get("earlier", ()), {**result.record, "command": result.command}]
    before = [call for call in calls if (call.get("created") or "") <= measurement.created] or calls[-1:]
    return {name: before[-1].get(name) for name in names}


def _count(value: float | None) -> float | None:
    """A mean of counts, which is a whole number where they are the same."""
    return int(value) if value is not None and value == int(value) else value


def _words(values: Iterable[Any]) -> str:
    """The different values that are known, with spaces between."""
    return " ".join(
        dict.fromkeys(_flag(value) if isinstance(value, bool) else str(value) for value in values if value is not None)
    )


def _flag(value: bool) -> str:
    return "true" if value else "false"


def table_data(table: StabilityPlasticityTable) -> dict[str, Any]:
    """The table as builtins, with the records that its numbers come from."""
    return {
        "title": table.title,
        "base": None if table.base is None else table.rows[table.base].label,
        "legend": table_legend(table, changes=False, best="best"),
        "groups": [
            {name: plain(getattr(group, name)) for name in ("name", "title", "role", "summary", "columns")}
            for group in table.groups
        ],
        "rows": [
            {
                **{name: value for name, value in plain(row).items() if name != "cells"},
                "cells": {
                    key: {name: value for name, value in plain(cell).items() if name != "measurements"}
                    for key, cell in row.cells.items()
                },
            }
            for row in table.rows
        ],
        "notes": list(table.notes),
        "results": [record_of(result) for result in table.results],
    }


def record_of(result: Result) -> dict[str, Any]:
    """A result as its file has it, without the path."""
    return {
        "command": result.command,
        "checkpoint": plain(result.checkpoint),
        "measurements": plain(result.measurements),
        **plain(result.record),
    }


def json_text(
    table: StabilityPlasticityTable, *, panels: Sequence[Panel] = (), comparison: Comparison | None = None
) -> str:
    """The table as JSON, with the curves and the comparison there are."""
    more: dict[str, Any] = {"curves": panels} if panels else {}
    if comparison is not None:
        more["comparison"] = _comparison_lines(comparison)
    return to_json(table_data(table) | plain(more)) + "\n"
