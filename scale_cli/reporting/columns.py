"""Columns and groups of a table. All numbers of a column were measured in the same way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from scale_cli.core.errors import RequestError
from scale_cli.evaluation.suites import Suite, find_suite, names
from scale_cli.reporting.names import METRIC_WORDS, full_name, is_own, label_of, task_words
from scale_cli.results.groups import ColumnSpec, GroupSpec, Role, groups_by_name
from scale_cli.results.measurement import Way, is_share, main_metric
from scale_cli.results.result import Result

KINDS = ("perplexity", "bios")
"""The kinds of tasks that may be named by their text or people alone."""
MINUS = "\N{MINUS SIGN}"
LOWER = "\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW}"
"""Follows the heading of a column in which lower is better."""


@dataclass(frozen=True)
class Column:
    """A column of numbers that were all measured in the same way.

    key: unique name. label: heading below the group's. flat_label: heading in formats without groups.
    task, metric, filter, task_version, num_fewshot, limit, seed: settings of the measurement (`Way`).
    percent: values are shares, shown in percent. unit: values are shown as multiples of it. decimals: shown decimals.
    form: format in place of decimals: "compact" (1.24 B), "equal" (1 as "equal", others as "DIFFERS") or one of
        Python's format specifications.
    parts: keys of the averaged columns; empty for a task.
    change: values are changes of the group's summary, with the sign given by `Group.change_heading`.
    signed: changes are shown with a plus sign too, as the group has no role.
    aggregation: average over subtasks, as in `ColumnSpec`. samples: number of items, the maximum over the rows.
    """

    key: str
    label: str
    flat_label: str
    task: str = ""
    metric: str = ""
    filter: str = ""
    higher_is_better: bool = True
    percent: bool = False
    unit: float = 1.0
    decimals: int = 2
    form: str | None = None
    parts: tuple[str, ...] = ()
    change: bool = False
    signed: bool = False
    task_version: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    seed: int | None = None
    aggregation: str | None = None
    samples: int = 0

    @property
    def factor(self) -> float:
        """The factor from a value to the number shown."""
        return (100.0 if self.percent else 1.0) / self.unit

    @property
    def is_task(self) -> bool:
        """Whether the numbers are measured, and not computed from other columns."""
        return not self.parts and not self.change

    @property
    def arrow(self) -> str:
        return "" if self.higher_is_better or self.change else LOWER

    def show(self, value: float, *, sign: bool = False) -> str:
        """A value, an error or a change as text. sign: show a plus sign too."""
        if self.form == "equal":
            return "equal" if value == 1 else "DIFFERS"
        if self.form == "compact":
            return compact(value)
        text = f"{self.factor * value:{'+' if sign else ''}{self.form or f'.{self.decimals}f'}}"
        if not text.strip("+-0."):  # no minus before a zero
            text = text.lstrip("+-")
        return text.replace("-", MINUS) if self.form is None else text


def compact(value: float) -> str:
    """A count with three significant digits: 384 K, 1.24 B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{value:,.0f}"


@dataclass(frozen=True)
class Group:
    """Columns under one heading.

    summary: the average of the columns, or the only column; None if the columns cannot be averaged.
    """

    name: str
    title: str
    role: Role | None
    columns: tuple[Column, ...]
    summary: Column | None

    @property
    def heading(self) -> str:
        return f"{self.role}: {self.title}" if self.role else self.title

    @property
    def is_drift(self) -> bool:
        """Whether the columns measure the drift from the base."""
        return all(column.task.partition(":")[0] == "drift" for column in self.columns)

    @property
    def axis_label(self) -> str:
        """The label of an axis of the summary's values, with role, unit and direction."""
        column = self.summary
        assert column is not None
        label = column.flat_label
        named = label if label.lower().startswith(self.title.lower()) else f"{self.title} {label}"
        direction = "" if column.higher_is_better else " (lower is better)"
        return f"{self.role}: {named}{', %' if column.percent else ''}{direction}"

    @property
    def change_heading(self) -> str:
        """The name of the summary's change against the base: "forgetting" (positive if ability was lost), "gain"
        (positive if ability was gained), or "change" (after minus base) without a role.
        """
        return {"stability": "forgetting", "plasticity": "gain", None: "change"}[self.role]


def groups_of(results: Sequence[Result]) -> list[GroupSpec]:
    """The distinct groups in the records of results. Raises RequestError for a malformed entry."""
    groups: dict[GroupSpec, None] = {}
    for result in results:
        try:
            groups |= dict.fromkeys(map(GroupSpec.read, result.record.get("groups") or ()))
        except ValueError as error:
            raise RequestError(f"{result.path}: malformed groups in the record: {error}") from error
    return list(groups)


def suite_group(suite: Suite) -> GroupSpec:
    """The group of a suite, one column per entry."""
    columns = (
        ColumnSpec(entry.task, entry.metric, entry.heading, entry.filter, entry.num_fewshot, entry.aggregation)
        for entry in suite.entries
    )
    return GroupSpec(suite.name, suite.title, suite.role, tuple(columns))


def measured_suites(results: Sequence[Result], suites: Sequence[Suite]) -> list[Suite]:
    """The largest suite per role and language all of whose tasks are in one of the results; stability first."""
    largest: dict[tuple[str, str], Suite] = {}
    measured = [{(m.task, m.metric) for m in result.measurements} for result in results]
    for suite in sorted(suites, key=lambda suite: -len(suite.tasks)):
        wanted = {(entry.task, entry.metric) for entry in suite.entries}
        if any(wanted <= tasks for tasks in measured):
            largest.setdefault((suite.role, suite.language), suite)
    return sorted(largest.values(), key=lambda suite: suite.role != "stability")


def task_group(role: Role, words: Sequence[str], results: Sequence[Result]) -> GroupSpec:
    """The group of a role, from a list of tasks.

    words: each TASK or TASK=METRIC. TASK may be the name of a text or of people alone, as "old" for "perplexity:old".
        The default metric is `main_metric` or the only one.
    Raises RequestError for a task or metric that no result has, and for a missing metric.
    """
    metrics: dict[str, dict[str, None]] = {}
    for measurement in (m for result in results for m in result.measurements):
        metrics.setdefault(measurement.task, {})[measurement.metric] = None
    columns = []
    for word in words:
        name, _, metric = word.partition("=")
        named = [name] if name in metrics else [f"{kind}:{name}" for kind in KINDS if f"{kind}:{name}" in metrics]
        if not named:
            raise RequestError(f"--{role} {word}: no result has this task; choose from {', '.join(metrics)}")
        task = named[0]
        if not metric and main_metric(task) in metrics[task]:
            metric = str(main_metric(task))
        if (metric or len(metrics[task]) > 1) and metric not in metrics[task]:
            choices = ", ".join(f"{task}={name}" for name in metrics[task])
            problem = "no result has this metric" if metric else "results have several metrics of this task"
            raise RequestError(f"--{role} {word}: {problem}; choose from {choices}")
        columns.append((task, metric or next(iter(metrics[task]))))
    labelled = (
        ColumnSpec(task, metric, label_of(task, metric) if len(columns) == 1 else task_words(task))
        for task, metric in columns
    )
    return GroupSpec(role, ", ".join(task_words(task) for task, _ in columns), role, tuple(labelled))


def routed_group(spec: GroupSpec, results: Sequence[Result]) -> list[GroupSpec]:
    """The group of `routed` shares of a group's tasks; no group if no result has such shares."""
    known = {m.task for result in results for m in result.measurements if m.metric == "routed"}
    columns = tuple(replace(column, metric="routed", filter=None) for column in spec.columns if column.task in known)
    return [GroupSpec(f"{spec.name}-routed", f"{spec.title} routed", None, columns, average=False)] if columns else []


Ways = Mapping[Way, pd.DataFrame]
"""The rows of the tidy table by the settings of their measurement."""


def arrange(table: pd.DataFrame, specs: Sequence[GroupSpec]) -> list[Group]:
    """The groups of columns that a tidy table has numbers for: those of the specs, then those of other tasks.

    A spec yields one group per limit and seed of the few-shot examples, as others are not averaged.
    Raises RequestError for a spec without any number.
    """
    names = ["task", "metric", "filter", "task_version", "num_fewshot", "limit", "draw"]
    ways = {Way(*rows[names].iloc[0]): rows for _, rows in table.groupby("column", sort=False)}
    asked = {column.task for spec in specs for column in spec.columns}
    others = _other_groups(way for way in ways if way.task not in asked)
    groups = []
    for spec in (*specs, *others):
        wanted = {(column.task, column.metric) for column in spec.columns}
        conditions = list(dict.fromkeys((w.limit, w.seed) for w in ways if (w.task, w.metric) in wanted))
        if not conditions:
            raise RequestError(
                f"{spec.title}: none of its tasks ({listed(column.task for column in spec.columns)}) is in these "
                f"results, which hold {listed(sorted(set(table['task']))) or 'nothing'}"
            )
        for limit, seed in conditions:
            own = {way: rows for way, rows in ways.items() if (way.limit, way.seed) == (limit, seed)}
            differing = {"limit": len({c[0] for c in conditions}) > 1 or limit is not None}  # a limit is always shown
            differing["seed"] = len({c[1] for c in conditions}) > 1
            words = {"limit": "all" if limit is None else f"first {limit:,}", "seed": f"seed {seed}"}
            suffixes = [word for name, word in words.items() if differing[name]]
            groups.append(_group(spec, own, f" ({', '.join(suffixes)})" if suffixes else "", alone=spec in others))
    return _with_unique_headings(groups)


def _other_groups(ways: Iterable[Way]) -> list[GroupSpec]:
    """Groups for tasks of no spec: one per task, and one per metric with parts, as "hard/birthday"."""
    groups: dict[tuple[str, str], dict[str, ColumnSpec]] = {}
    ways = list(ways)
    with_parts = {(way.task, way.metric.partition("/")[0]) for way in ways if "/" in way.metric}
    for way in ways:
        kind, _, part = way.metric.partition("/")
        has_parts = (way.task, kind) in with_parts
        label = part or ("mean" if has_parts else label_of(way.task, way.metric))
        group = groups.setdefault((way.task, kind if has_parts else ""), {})
        group[way.metric] = ColumnSpec(way.task, way.metric, label)
    return [
        GroupSpec(
            f"{task} {kind}".strip(),
            full_name(task, kind) if kind else task_words(task),
            None,
            tuple(columns.values()),
            average=False,
        )
        for (task, kind), columns in groups.items()
    ]


def _group(spec: GroupSpec, ways: Ways, apart: str, *, alone: bool) -> Group:
    """The columns of a spec, and their average.

    ways: numbers with the same limit and seed. apart: suffix of the title that distinguishes the spec's groups.
    alone: the columns were not requested; their flat labels are task and metric.
    """
    columns: list[Column] = []
    for wanted in spec.columns:
        own = [way for way in ways if (way.task, way.metric) == (wanted.task, wanted.metric)]
        for name in ("filter", "num_fewshot"):
            own = [way for way in own if getattr(wanted, name) in (None, getattr(way, name))] or own
        columns += [_column(wanted, way, own, ways[way], apart, alone=alone) for way in own]
    summary = columns[0] if len(columns) == 1 and spec.average else None
    one_each = [column.task for column in columns] == [wanted.task for wanted in spec.columns]
    units = {(column.percent or column.metric, column.higher_is_better) for column in columns}
    if spec.average and len(columns) > 1 and one_each and len(units) == 1:
        summary = Column(
            key=f"average:{spec.name}{apart}",
            label="average",
            flat_label=f"{spec.title}{apart} average",
            task=f"average:{spec.name}",
            metric="mean",
            higher_is_better=columns[0].higher_is_better,
            percent=columns[0].percent,
            decimals=max(column.decimals for column in columns),
            parts=tuple(column.key for column in columns),
            limit=columns[0].limit,
            seed=columns[0].seed,
        )
        columns.append(summary)
    return Group(spec.name, f"{spec.title}{apart}", spec.role, tuple(columns), summary)


def _column(
    wanted: ColumnSpec, way: Way, alike: Sequence[Way], rows: pd.DataFrame, apart: str, *, alone: bool
) -> Column:
    """A column. alike: settings of the columns with the same task and metric; the label names the differences."""
    version = f"version {way.task_version}"
    if is_own(way.task):  # its version holds digests of texts and base, which the records show
        versions = list(dict.fromkeys(other.task_version for other in alike))
        version = f"way {versions.index(way.task_version) + 1}"
    settings = {"filter": way.filter, "num_fewshot": f"{way.num_fewshot}-shot", "task_version": version}
    differing = [text for name, text in settings.items() if len({getattr(other, name) for other in alike}) > 1]
    how = f" ({', '.join(differing)})" if differing else ""
    label = METRIC_WORDS.get(wanted.label, wanted.label) if is_own(way.task) else wanted.label
    return Column(
        key=way.column,
        label=f"{label}{how}",
        flat_label=f"{full_name(way.task, way.metric) if alone else label}{how}{apart}",
        **way._asdict(),
        higher_is_better=bool(rows["higher_is_better"].iloc[0]),
        percent=is_share(way.metric),
        decimals=2 if is_share(way.metric) else _decimals(rows),
        aggregation=wanted.aggregation,
        samples=int(rows["samples"].max()),
    )


def _decimals(rows: pd.DataFrame) -> int:
    """Decimals that show two digits of the smallest standard error, or else four digits of the largest value; at
    most six.
    """
    errors = rows["stderr"][rows["stderr"] > 0]
    digits, size = (1, errors.min()) if len(errors) else (3, rows["value"].abs().max())
    return min(6, max(0, digits - math.floor(math.log10(size)))) if size else 2


def _with_unique_headings(groups: Sequence[Group]) -> list[Group]:
    """The groups with distinct flat labels: those that occur several times begin with the group's title."""
    shown = [column.flat_label for group in groups for column in group.columns]

    def unique(group: Group, column: Column) -> Column:
        twice = shown.count(column.flat_label) > 1
        return replace(column, flat_label=f"{group.title} {column.flat_label}") if twice else column

    return [
        replace(
            group,
            columns=tuple(unique(group, column) for column in group.columns),
            summary=None if group.summary is None else unique(group, group.summary),
        )
        for group in groups
    ]


def listed(words: Iterable[str]) -> str:
    """The distinct words, separated by commas."""
    return ", ".join(dict.fromkeys(words))


def requested_groups(
    results: Sequence[Result], suites: Sequence[str], stability: Sequence[str], plasticity: Sequence[str]
) -> list[GroupSpec]:
    """The groups of columns of a report: the named columns of both roles, those of the records, those of suites, those
    of texts and people whose names state their role.

    suites: names or YAML files; none for the largest measured shipped suite per role and language.
    stability, plasticity: TASK or TASK=METRIC.
    Raises RequestError for an unknown suite and for columns that no result has.
    """
    named = [task_group("stability", stability, results)] if stability else []
    named += [task_group("plasticity", plasticity, results)] if plasticity else []
    recorded = groups_of(results)
    taken = {group.role for group in named} | {group.role for group in recorded}
    by_name = groups_by_name((m.task, m.metric) for result in results for m in result.measurements)
    by_name = [group for group in by_name if group.role not in taken]
    if suites:
        chosen = [find_suite(name) for name in dict.fromkeys(suites)]
    else:
        shipped = measured_suites(results, [find_suite(name) for name in names()])
        roles, recorded_names = {group.role for group in named}, {group.name for group in recorded}
        chosen = [suite for suite in shipped if suite.role not in roles and suite.name not in recorded_names]
    return [*named, *recorded, *map(suite_group, chosen), *by_name]
