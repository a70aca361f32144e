"""Which numbers stand in one column: those that were measured in the same way, under headings that are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from scale_cli.core.errors import RequestError
from scale_cli.evaluation.suites import Suite
from scale_cli.results.groups import ColumnSpec, GroupSpec, Role
from scale_cli.results.measurement import Way, is_share
from scale_cli.results.result import Result

MINUS = "\N{MINUS SIGN}"
LOWER = "\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW}"
"""Behind the heading of a column in which lower is better."""


@dataclass(frozen=True)
class Column:
    """A column of numbers that were all measured in the same way.

    key: its name among the columns. label, flat_label: its heading below the group's, and without the group's.
    percent: the values are shares, shown in percent. unit: in which they are shown. decimals: to show, after that.
    form: how a value is formatted instead, "compact", "equal" (1 or not) or a format of Python's.
    parts: keys of the columns that it is the average of; empty for a task.
    change: its numbers are the changes of the group's summary, under the name that the group's role gives them;
        signed: they are shown with their sign, as no role says which one is good.
    samples: items of the values, the most of any row.
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
        """What a shown number is a multiple of the value by."""
        return (100.0 if self.percent else 1.0) / self.unit

    @property
    def is_task(self) -> bool:
        """Whether its numbers are measured, and not made of those of other columns."""
        return not self.parts and not self.change

    @property
    def arrow(self) -> str:
        return "" if self.higher_is_better or self.change else LOWER

    @property
    def axis_label(self) -> str:
        """What an axis with its values is called."""
        unit = ", %" if self.percent else ""
        return f"{self.flat_label}{unit}{'' if self.higher_is_better else ' (lower is better)'}"

    def show(self, value: float, *, sign: bool = False) -> str:
        """A value, an error or a change as it is shown."""
        if self.form == "equal":
            return "equal" if value == 1 else "DIFFERS"
        if self.form == "compact":
            return compact(value)
        text = f"{self.factor * value:{'+' if sign else ''}{self.form or f'.{self.decimals}f'}}"
        if not text.strip("+-0."):  # no minus before a zero
            text = text.lstrip("+-")
        return text.replace("-", MINUS) if self.form is None else text


def compact(value: float) -> str:
    """A count in three digits: 384 K, 1.24 B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{value:,.0f}"


@dataclass(frozen=True)
class Group:
    """Columns under one heading.

    summary: the column that stands for all of them, the average or the only one; None where there is none.
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
    def change_heading(self) -> str:
        """What the change of the summary against the base is called: forgetting is positive where something was lost,
        gain where something was learnt; without a role it is after minus base."""
        return {"stability": "forgetting", "plasticity": "gain", None: "change"}[self.role]


def groups_of(results: Sequence[Result]) -> list[GroupSpec]:
    """The columns that belong together by results' records. Raises RequestError for an entry that is no group."""
    groups: dict[GroupSpec, None] = {}
    for result in results:
        try:
            groups |= dict.fromkeys(map(GroupSpec.read, result.record.get("groups") or ()))
        except (KeyError, TypeError) as error:
            raise RequestError(f"{result.path}: its groups are not those of a report: {error!r}") from error
    return list(groups)


def suite_group(suite: Suite) -> GroupSpec:
    """The columns of a suite."""
    columns = (
        ColumnSpec(entry.task, entry.metric, entry.heading, entry.filter, entry.num_fewshot, entry.aggregation)
        for entry in suite.entries
    )
    return GroupSpec(suite.name, suite.title, suite.role, tuple(columns))


def measured_suites(results: Sequence[Result], suites: Sequence[Suite]) -> list[Suite]:
    """The largest suite of each role and language that some result has every task of, stability first."""
    largest: dict[tuple[str, str], Suite] = {}
    measured = [{(m.task, m.metric) for m in result.measurements} for result in results]
    for suite in sorted(suites, key=lambda suite: -len(suite.tasks)):
        wanted = {(entry.task, entry.metric) for entry in suite.entries}
        if any(wanted <= found for found in measured):
            largest.setdefault((suite.role, suite.language), suite)
    return sorted(largest.values(), key=lambda suite: suite.role != "stability")


def task_group(role: Role, words: Sequence[str], results: Sequence[Result]) -> GroupSpec:
    """The columns of a role, named one by one.

    words: each TASK or TASK=METRIC, the metric where results have several of the task.
    Raises RequestError for a task or metric that no result has, and where the metric has to be named.
    """
    metrics: dict[str, dict[str, None]] = {}
    for measurement in (m for result in results for m in result.measurements):
        metrics.setdefault(measurement.task, {})[measurement.metric] = None
    columns = []
    for word in words:
        task, _, metric = word.partition("=")
        if task not in metrics:
            raise RequestError(f"--{role} {word}: no result has this task; choose from {', '.join(metrics)}")
        if (metric or len(metrics[task]) > 1) and metric not in metrics[task]:
            choices = ", ".join(f"{task}={name}" for name in metrics[task])
            raise RequestError(f"--{role} {word}: say which metric; choose from {choices}")
        columns.append((task, metric or next(iter(metrics[task]))))
    labelled = (ColumnSpec(task, metric, metric if len(columns) == 1 else task) for task, metric in columns)
    return GroupSpec(role, ", ".join(task for task, _ in columns), role, tuple(labelled))


def routed_group(spec: GroupSpec, results: Sequence[Result]) -> list[GroupSpec]:
    """The shares of tokens that took the preserve branch in the tasks of a group, where results have them."""
    known = {m.task for result in results for m in result.measurements if m.metric == "routed"}
    columns = tuple(replace(column, metric="routed", filter=None) for column in spec.columns if column.task in known)
    return [GroupSpec(f"{spec.name}-routed", f"{spec.title} routed", None, columns, average=False)] if columns else []


Ways = Mapping[Way, pd.DataFrame]
"""The rows of the tidy table by how their numbers were measured."""


def arrange(table: pd.DataFrame, specs: Sequence[GroupSpec]) -> list[Group]:
    """The columns that a tidy table has numbers for: those of the specs, then the other tasks'.

    Numbers are averaged where limit and seed of the few-shot examples agree; else each has a group of its own.
    Raises RequestError for a spec that no number belongs to.
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
            differing = {"limit": len({c[0] for c in conditions}) > 1 or limit is not None}  # a limit is a trial's only
            differing["seed"] = len({c[1] for c in conditions}) > 1
            words = [
                f"no {name}" if value is None else f"{name} {value}"
                for name, value in (("limit", limit), ("seed", seed))
                if differing[name]
            ]
            groups.append(_group(spec, own, f" ({', '.join(words)})" if words else "", alone=spec in others))
    return _with_unique_headings(groups)


def _other_groups(ways: Iterable[Way]) -> list[GroupSpec]:
    """Groups for tasks that nobody asked for: one per task, and one per metric that has parts, as "hard/birthday"."""
    groups: dict[tuple[str, str], dict[str, ColumnSpec]] = {}
    ways = list(ways)
    with_parts = {(way.task, way.metric.partition("/")[0]) for way in ways if "/" in way.metric}
    for way in ways:
        kind, _, part = way.metric.partition("/")
        has_parts = (way.task, kind) in with_parts
        label = part or ("mean" if has_parts else way.metric)
        group = groups.setdefault((way.task, kind if has_parts else ""), {})
        group[way.metric] = ColumnSpec(way.task, way.metric, label)
    return [
        GroupSpec(f"{task} {kind}".strip(), f"{task} {kind}".strip(), None, tuple(columns.values()), average=False)
        for (task, kind), columns in groups.items()
    ]


def _group(spec: GroupSpec, ways: Ways, apart: str, *, alone: bool) -> Group:
    """The columns of a spec among numbers that may be averaged. apart: what tells them from the spec's others.

    alone: nobody has asked for the columns, which are called by task and metric where groups are not shown.
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
    """A column. alike: the ways of the columns with the same task and metric; the label says how they differ."""
    words = {
        "filter": way.filter,
        "num_fewshot": f"{way.num_fewshot}-shot",
        "task_version": f"version {way.task_version}",
    }
    differing = [text for name, text in words.items() if len({getattr(other, name) for other in alike}) > 1]
    how = f" ({', '.join(differing)})" if differing else ""
    return Column(
        key=way.column,
        label=f"{wanted.label}{how}",
        flat_label=f"{f'{way.task} {way.metric}' if alone else wanted.label}{how}{apart}",
        **way._asdict(),
        higher_is_better=bool(rows["higher_is_better"].iloc[0]),
        percent=is_share(way.metric),
        decimals=2 if is_share(way.metric) else _decimals(rows),
        aggregation=wanted.aggregation,
        samples=int(rows["samples"].max()),
    )


def _decimals(rows: pd.DataFrame) -> int:
    """As many as show two digits of the smallest standard error, or four of the largest value; at most six."""
    errors = rows["stderr"][rows["stderr"] > 0]
    digits, size = (1, errors.min()) if len(errors) else (3, rows["value"].abs().max())
    return min(6, max(0, digits - math.floor(math.log10(size)))) if size else 2


def _with_unique_headings(groups: Sequence[Group]) -> list[Group]:
    """The groups; where groups are not shown, a heading that stands in several of them begins with its group's."""
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
    """The different words, with commas between."""
    return ", ".join(dict.fromkeys(words))
