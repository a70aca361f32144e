"""Which columns of results belong together: from suites, or from tasks named one by one."""

from __future__ import annotations

from collections.abc import Sequence

from scale_cli.core.errors import RequestError
from scale_cli.evaluation.suites import Suite
from scale_cli.reporting.build import ColumnSpec, GroupSpec
from scale_cli.reporting.table import Role
from scale_cli.results.result import Result


def suite_group(suite: Suite) -> GroupSpec:
    """The columns of a suite."""
    columns = (
        ColumnSpec(entry.task, entry.metric, entry.heading, entry.filter, entry.num_fewshot, entry.aggregation)
        for entry in suite.entries
    )
    return GroupSpec(suite.name, suite.title, suite.role, tuple(columns))


def measured_suites(results: Sequence[Result], suites: Sequence[Suite]) -> list[Suite]:
    """Of the suites of which some result has every task, the largest for each role and language."""
    largest: dict[tuple[str, str], Suite] = {}
    for suite in suites:
        wanted = {(entry.task, entry.metric) for entry in suite.entries}
        complete = any(wanted <= {(m.task, m.metric) for m in result.measurements} for result in results)
        key = (suite.role, suite.language)
        if complete and (key not in largest or len(suite.tasks) > len(largest[key].tasks)):
            largest[key] = suite
    return sorted(largest.values(), key=lambda suite: suite.role != "stability")


def task_group(role: Role, words: Sequence[str], results: Sequence[Result]) -> GroupSpec:
    """The columns of a role, named one by one.

    words: each TASK or TASK=METRIC, the metric where results have several of the task.
    Raises RequestError for a task or metric that no result has, and where the metric has to be said.
    """
    metrics: dict[str, list[str]] = {}
    for measurement in (m for result in results for m in result.measurements):
        known = metrics.setdefault(measurement.task, [])
        if measurement.metric not in known:
            known.append(measurement.metric)
    columns = []
    for word in words:
        task, _, metric = word.partition("=")
        if task not in metrics:
            raise RequestError(f"--{role} {word}: no result has this task; choose from {', '.join(metrics)}")
        if (metric or len(metrics[task]) > 1) and metric not in metrics[task]:
            choices = ", ".join(f"{task}={name}" for name in metrics[task])
            raise RequestError(f"--{role} {word}: say which metric; choose from {choices}")
        columns.append((task, metric or metrics[task][0]))
    labelled = (ColumnSpec(task, metric, metric if len(columns) == 1 else task) for task, metric in columns)
    return GroupSpec(role, ", ".join(task for task, _ in columns), role, tuple(labelled))
