"""From results of checkpoints to the stability-plasticity table: columns, rows, changes, and what stands out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json
from scale_cli.methods import METHODS
from scale_cli.reporting.statistics import difference_error, mean_and_deviation, mean_error, paired_error, pareto
from scale_cli.reporting.table import SECTIONS, Cell, Column, Group, Role, Row, StabilityPlasticityTable
from scale_cli.results.result import Key, Measurement, Result, read_items

HARNESS_SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mc1", "mc2", "pass@1")
BIOGRAPHY_SHARES = ("hard", "soft", "exact", "routed")
PERCENT_METRICS = frozenset((*HARNESS_SHARES, *BIOGRAPHY_SHARES))
"""Metrics whose values are shares, which renderers show in percent."""
PER_SEED = ("seed", "data", "eval_bios")
"""What may differ between the repetitions of a training: each seed may have its files in a folder of its own."""
SEED_WORD = re.compile(r"[\W_]*seed[\W_]*\d+[\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnSpec:
    """A column that is asked for: the metric of a task and what to call it.

    filter, num_fewshot: None for any. aggregation: how a group of tasks is averaged ("micro", "macro"), None for a
        single task.
    """

    task: str
    metric: str
    label: str
    filter: str | None = None
    num_fewshot: int | None = None
    aggregation: str | None = None


@dataclass(frozen=True)
class GroupSpec:
    """Columns that belong together.

    role: which side of the trade-off they measure, None for neither.
    average: one column stands for all of them, the average of their values (of a single column, itself).
    """

    name: str
    title: str
    role: Role | None
    columns: tuple[ColumnSpec, ...]
    average: bool = True


Items = Callable[[Result, Measurement], Mapping[int | str, float] | None]


def build_table(
    results: Sequence[Result],
    groups: Sequence[GroupSpec],
    *,
    title: str = "Stability and plasticity",
    base: str | None = None,
    seeds: bool = False,
    items: Items = read_items,
) -> StabilityPlasticityTable:
    """The table of results.

    groups: the columns asked for; tasks of none of them get columns of their own.
    base: the label of the base's result; None: the one that no method has trained.
    seeds: make one row of results that differ in the seed only, mean and standard deviation.
    items: the scores of a measurement's single items, None where there are none.
    Raises RequestError where `base` is none of the labels, and where a group has no result.
    """
    if not results:
        raise RequestError("there are no results to report")
    is_base, notes = _find_base(results, base)
    found = _groups(results, groups)
    for spec in groups:
        if not any(group.name == spec.name for group in found):
            raise RequestError(
                f"{spec.title}: none of its tasks ({_words(column.task for column in spec.columns)}) is in these "
                f"results, which hold {_words(sorted({m.task for r in results for m in r.measurements})) or 'nothing'}"
            )
    lookup = Scores(results, found, items)
    points = [
        _points(index, results, found, _base_of(index, results, is_base), lookup) for index in range(len(results))
    ]
    rows = _unique_labels(
        [
            _row(indices, results, points, is_base=is_base[indices[0]], aggregated=seeds)
            for indices in _grouped(results, seeds=seeds)
        ]
    )
    rows.sort(key=lambda row: (SECTIONS.index(row.section), _method_rank(row.method)))
    table = StabilityPlasticityTable(
        title=title,
        rows=tuple(rows),
        groups=tuple(found),
        results=tuple(results),
        base=0 if rows[0].section == "base" else None,
        aggregated=any(len(row.results) > 1 for row in rows),
        notes=(*notes, *_notes(results, found, groups, rows)),
    )
    return _flag_pareto(_mark_best(table, lookup))


def _find_base(results: Sequence[Result], label: str | None) -> tuple[list[bool], list[str]]:
    """Which results are the base, and a note where that cannot be said. Each seed may have one of its own."""
    labels = [result.checkpoint.label for result in results]
    names = [without_seed(one) for one in labels]
    if label is not None:
        if label not in labels:
            raise RequestError(f"--base {label}: choose from {_words(dict.fromkeys(labels))}")
        return [name == without_seed(label) for name in names], []
    untrained = [result.checkpoint.method is None and result.checkpoint.kind == "plain" for result in results]
    if len({name for name, is_base in zip(names, untrained, strict=True) if is_base}) == 1:
        return untrained, []
    why = "several checkpoints could be it" if any(untrained) else "every checkpoint is trained or upscaled"
    return [False] * len(results), [f"No change against a base: {why}; choose one with --base LABEL."]


def _base_of(index: int, results: Sequence[Result], is_base: Sequence[bool]) -> int | None:
    """The base that a result is compared with: that of its seed, where each seed has one."""
    bases = [place for place, one in enumerate(is_base) if one]
    if is_base[index] or not bases:
        return None
    if len(bases) == 1:
        return bases[0]
    return next((place for place in bases if seed_of(results[place]) == seed_of(results[index])), None)


def seed_of(result: Result) -> int | None:
    """The seed of the training that made a checkpoint, None where its record does not say."""
    seed = (result.checkpoint.options or {}).get("seed")
    if isinstance(seed, int):
        return seed
    named = SEED_WORD.search(result.checkpoint.label)
    return int(re.sub(r"\D", "", named[0])) if named else None


def _grouped(results: Sequence[Result], *, seeds: bool) -> list[list[int]]:
    """The positions of the results of each row."""
    if not seeds:
        return [[index] for index in range(len(results))]
    rows: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        rows.setdefault(_identity(result), []).append(index)
    return list(rows.values())


def without_seed(label: str) -> str:
    """A label but for the seed in it: "seed-0-fft" and "fft (seed 1)" are both "fft"."""
    return SEED_WORD.sub("-", label).strip("-") or label


def _identity(result: Result) -> str:
    """What results have in common that differ in the seed only: how they were trained, and their labels but for it."""
    checkpoint = result.checkpoint
    options = {name: value for name, value in (checkpoint.options or {}).items() if name not in PER_SEED}
    label = without_seed(checkpoint.label)
    same = [checkpoint.kind, checkpoint.method, checkpoint.parameters, options, label, result.record.get("reported")]
    return to_json(same)


class _Conditions(NamedTuple):
    """What has to agree between the numbers of a group, which are averaged."""

    limit: int | None
    seed: int | None

    @classmethod
    def of(cls, key: Key) -> _Conditions:
        return cls(key.limit, key.seed)

    def told_apart(self, others: Iterable[_Conditions]) -> str:
        """What others have otherwise, in brackets, and a limit in any case, as such numbers are of a trial only:
        " (limit 100)"."""
        parts = [
            f"no {name}" if value is None else f"{name} {value}"
            for name, value in self._asdict().items()
            if any(getattr(other, name) != value for other in others) or (name == "limit" and value is not None)
        ]
        return f" ({', '.join(parts)})" if parts else ""


def _groups(results: Sequence[Result], specs: Sequence[GroupSpec]) -> list[Group]:
    """The columns that there are numbers for: those of the specs, then the other tasks'."""
    ways: dict[Key, list[Measurement]] = {}
    for measurement in (m for result in results for m in result.measurements):
        if math.isfinite(measurement.value):
            ways.setdefault(_way(measurement), []).append(measurement)
    asked = {column.task for spec in specs for column in spec.columns}
    alone: dict[str, dict[str, ColumnSpec]] = {}
    for way in ways:
        if way.task not in asked:
            alone.setdefault(way.task, {})[way.metric] = ColumnSpec(way.task, way.metric, way.metric)
    others = [GroupSpec(task, task, None, tuple(columns.values()), average=False) for task, columns in alone.items()]
    groups = []
    for spec in (*specs, *others):
        wanted = {(column.task, column.metric) for column in spec.columns}
        conditions = list(dict.fromkeys(_Conditions.of(way) for way in ways if (way.task, way.metric) in wanted))
        for condition in conditions:
            mine = {way: found for way, found in ways.items() if _Conditions.of(way) == condition}
            groups.append(_group(spec, mine, condition.told_apart(conditions)))
    return _unique_headings(groups)


def _unique_headings(groups: Sequence[Group]) -> list[Group]:
    """The groups, headings that stand in several of them told apart by the group's where it is not shown."""
    shown = [column.flat_label for group in groups for column in group.columns]
    return [
        replace(
            group,
            columns=tuple(
                replace(column, flat_label=f"{group.title} {column.flat_label}")
                if shown.count(column.flat_label) > 1
                else column
                for column in group.columns
            ),
        )
        for group in groups
    ]


def _way(measurement: Measurement) -> Key:
    """How a number was measured: what agrees within a column. The precision need not: notes say where it does not."""
    return measurement.key._replace(dtype="")


def _group(spec: GroupSpec, ways: Mapping[Key, Sequence[Measurement]], apart: str) -> Group:
    """The columns of a spec among numbers that were measured under the same conditions.

    apart: what tells them from another group of the same spec, empty if there is none.
    """
    columns: list[Column] = []
    for wanted in spec.columns:
        mine = [way for way in ways if (way.task, way.metric) == (wanted.task, wanted.metric)]
        for name in ("filter", "num_fewshot"):
            mine = [way for way in mine if getattr(wanted, name) in (None, getattr(way, name))] or mine
        columns += [_column(wanted, way, mine, ways[way], apart) for way in mine]
    summary = columns[0].key if len(columns) == 1 and spec.average else None
    one_each = [column.task for column in columns] == [wanted.task for wanted in spec.columns]
    units = {(column.percent or column.metric, column.higher_is_better) for column in columns}
    if spec.average and len(columns) > 1 and one_each and len(units) == 1:
        average = Column(
            key=f"average:{spec.name}{apart}",
            label="average",
            flat_label=f"{spec.title}{apart} average",
            task=f"average:{spec.name}",
            metric="mean",
            filter="",
            higher_is_better=columns[0].higher_is_better,
            percent=columns[0].percent,
            decimals=max(column.decimals for column in columns),
            average=True,
            limit=columns[0].limit,
            seed=columns[0].seed,
        )
        columns.append(average)
        summary = average.key
    return Group(spec.name, f"{spec.title}{apart}", spec.role, tuple(columns), summary)


def _column(
    wanted: ColumnSpec,
    way: Key,
    alike: Sequence[Key],
    measurements: Sequence[Measurement],
    apart: str,
) -> Column:
    """A column. alike: the ways of all columns that are this one but for how they were measured, which the label says.
    measurements: of the column's rows."""
    words = {
        "filter": way.filter,
        "num_fewshot": f"{way.num_fewshot}-shot",
        "task_version": f"version {way.task_version}",
    }
    differing = [text for name, text in words.items() if len({getattr(other, name) for other in alike}) > 1]
    label = f"{wanted.label} ({', '.join(differing)})" if differing else wanted.label
    percent = way.metric.partition("/")[0] in PERCENT_METRICS  # of one attribute: "hard/birthday"
    alone = wanted.label == wanted.metric  # of a task of no suite, whose name is the group's title
    return Column(
        key=":".join(str(part) for part in way if part not in (None, "")),
        label=label,
        flat_label=f"{wanted.task} {label}{apart}" if alone else f"{label}{apart}",
        task=way.task,
        metric=way.metric,
        filter=way.filter,
        higher_is_better=measurements[0].higher_is_better,
        percent=percent,
        decimals=2 if percent else _decimals(measurements),
        task_version=way.task_version,
        num_fewshot=way.num_fewshot,
        limit=way.limit,
        seed=way.seed,
        aggregation=wanted.aggregation,
        samples=max(measurement.samples for measurement in measurements),
    )


def _decimals(measurements: Sequence[Measurement]) -> int:
    """As many as show two digits of the smallest standard error, or four of the largest value; at most six."""
    errors = [m.stderr for m in measurements if m.stderr]
    digits, size = (1, min(errors)) if errors else (3, max(abs(m.value) for m in measurements))
    return min(6, max(0, digits - math.floor(math.log10(size)))) if size else 2


class Scores:
    """Standard errors of differences, from the scores of single items where both results have them."""

    def __init__(self, results: Sequence[Result], groups: Sequence[Group], items: Items) -> None:
        self._results = results
        self._items = items
        self._parts = {
            column.key: [part for part in group.columns if not part.average] if column.average else [column]
            for group in groups
            for column in group.columns
        }
        self._read: dict[tuple[int, str], Mapping[int | str, float] | None] = {}

    def parts(self, column: Column) -> list[Column]:
        """The columns that a column is the average of; of a task, itself."""
        return self._parts[column.key]

    def measurement(self, index: int, column: Column) -> Measurement | None:
        """A result's measurement in a column of a task, the latest where precisions differ."""
        mine = [m for m in self._results[index].measurements if math.isfinite(m.value) and _in_column(m, column)]
        return mine[-1] if mine else None

    def value(self, index: int, column: Column) -> float | None:
        """A result's value in a column, None where it has none or an average is not complete."""
        parts = [self.measurement(index, part) for part in self.parts(column)]
        return None if None in parts else fmean(part.value for part in parts if part is not None)

    def of(self, index: int, column: Column) -> Mapping[int | str, float] | None:
        """The scores of a value's items. None where there are none, and where the value is not their mean: a test on
        them would be one of something else."""
        if (index, column.key) not in self._read:
            measurement = self.measurement(index, column)
            scores = None if measurement is None else self._items(self._results[index], measurement)
            if scores and measurement and not math.isclose(fmean(scores.values()), measurement.value, abs_tol=1e-6):
                scores = None
            self._read[index, column.key] = scores
        return self._read[index, column.key]

    def pairs(self, first: int, second: int, column: Column) -> tuple[list[float], list[float]] | None:
        """Two results' scores of the same items in the same order; None where they are not of the same, or of one."""
        mine, theirs = self.of(first, column), self.of(second, column)
        if not mine or not theirs or mine.keys() != theirs.keys() or len(mine) < 2:
            return None
        return list(mine.values()), [theirs[item] for item in mine]

    def error(self, first: int, second: int, column: Column) -> tuple[float | None, bool]:
        """The standard error of the difference of two results' values, and whether all of it is paired by item."""
        errors, paired = [], []
        for part in self.parts(column):
            scores = self.pairs(first, second, part)
            ours, theirs = self.measurement(first, part), self.measurement(second, part)
            assert ours is not None
            assert theirs is not None
            errors.append(paired_error(*scores) if scores else difference_error(ours.stderr, theirs.stderr))
            paired.append(scores is not None)
        return mean_error(errors), all(paired)


def _in_column(measurement: Measurement, column: Column) -> bool:
    return all(getattr(measurement, name) == getattr(column, name) for name in Key._fields if name != "dtype")


def _points(
    index: int, results: Sequence[Result], groups: Sequence[Group], base: int | None, scores: Scores
) -> dict[str, Cell]:
    """One result's numbers by column. base: the result that it is compared with."""
    cells: dict[str, Cell] = {}
    for column in (column for group in groups for column in group.columns):
        value = scores.value(index, column)
        if value is None:
            continue
        mine = [scores.measurement(index, part) for part in scores.parts(column)]
        cell = Cell(value, mean_error([m.stderr for m in mine if m is not None]))
        if not column.average and mine[0] is not None:
            cell = replace(cell, measurements={index: mine[0]})
        before = None if base is None else scores.value(base, column)
        if base is not None and before is not None:
            error, paired = scores.error(base, index, column)
            cell = replace(cell, change=value - before, change_error=error, paired=paired)
        cells[column.key] = cell
    return cells


def _row(
    indices: Sequence[int],
    results: Sequence[Result],
    points: Sequence[Mapping[str, Cell]],
    *,
    is_base: bool,
    aggregated: bool,
) -> Row:
    mine = [results[index] for index in indices]
    checkpoint = mine[0].checkpoint
    if is_base:
        section = "base"
    elif checkpoint.method is not None and checkpoint.method in METHODS:
        section = "SCALE" if METHODS[checkpoint.method].group == "SCALE" else "baselines"
    else:
        section = "others"
    keys = [key for key in points[indices[0]] if all(key in points[index] for index in indices)]
    training = [result.checkpoint.training or {} for result in mine]
    return Row(
        label=without_seed(checkpoint.label) if aggregated else checkpoint.label,
        section=section,
        method=checkpoint.method,
        results=tuple(indices),
        seeds=tuple(seed for seed in map(seed_of, mine) if seed is not None),
        cells={key: _over_seeds([points[index][key] for index in indices]) for key in keys},
        reported=all(result.record.get("reported") for result in mine),
        trained=_mean([result.checkpoint.parameters.get("trained") for result in mine]),
        tokens=_mean([fields.get("tokens") for fields in training]),
        seconds=_mean([fields.get("seconds") for fields in training]),
    )


def _over_seeds(cells: Sequence[Cell]) -> Cell:
    """The mean of several runs' numbers, their standard deviation as its error; a single one as it is."""
    if len(cells) == 1:
        return cells[0]
    value, deviation = mean_and_deviation([cell.value for cell in cells])
    measurements = {index: m for cell in cells for index, m in cell.measurements.items()}
    changes = [cell.change for cell in cells if cell.change is not None]
    if len(changes) < len(cells):
        return Cell(value, deviation, measurements=measurements)
    change, change_deviation = mean_and_deviation(changes)
    return Cell(value, deviation, change, change_deviation, measurements=measurements)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _unique_labels(rows: Sequence[Row]) -> list[Row]:
    """The rows, those whose label another one has too told apart by a number."""
    unique: list[Row] = []
    for row in rows:
        twins = [other for other in rows if other.label == row.label]
        number = 1 + next(place for place, other in enumerate(twins) if other is row)
        unique.append(replace(row, label=f"{row.label} ({number})") if len(twins) > 1 else row)
    return unique


def _mark_best(table: StabilityPlasticityTable, scores: Scores) -> StabilityPlasticityTable:
    """With the best cell of each column marked: of the rows besides the base, where its lead over the next is larger
    than the standard error of that difference. Where that error is not known nothing is marked."""
    marked: dict[int, dict[str, Cell]] = {place: dict(row.cells) for place, row in enumerate(table.rows)}
    for column in (column for column in table.columns if column.metric != "routed"):  # which is neither good nor bad
        rows = [place for place, row in enumerate(table.rows) if row.section != "base" and column.key in row.cells]
        rows.sort(key=lambda place: marked[place][column.key].value, reverse=column.higher_is_better)
        if len(rows) < 2:
            continue
        first, second = rows[:2]
        lead = abs(marked[first][column.key].value - marked[second][column.key].value)
        error = _lead_error(table.rows[first], table.rows[second], column, scores)
        if error is not None and lead > error:
            marked[first][column.key] = replace(marked[first][column.key], best=True)
    return replace(table, rows=tuple(replace(row, cells=marked[place]) for place, row in enumerate(table.rows)))


def _lead_error(first: Row, second: Row, column: Column, scores: Scores) -> float | None:
    """The standard error of the difference of two rows; of means over seeds, from their standard deviations."""
    if len(first.results) == len(second.results) == 1:
        return scores.error(first.results[0], second.results[0], column)[0]
    deviations = [
        None if (error := row.cells[column.key].error) is None else error / math.sqrt(len(row.results))
        for row in (first, second)
        if len(row.results) > 1
    ]
    return difference_error(*deviations) if len(deviations) == 2 else None


def _flag_pareto(table: StabilityPlasticityTable) -> StabilityPlasticityTable:
    columns = [table.summary("stability"), table.summary("plasticity")]
    points: list[tuple[float, float] | None] = []
    for row in table.rows:
        values = [
            (1 if column.higher_is_better else -1) * row.cells[column.key].value
            for column in columns
            if column is not None and column.key in row.cells
        ]
        points.append((values[0], values[1]) if len(values) == 2 else None)
    front = pareto(points) if sum(point is not None for point in points) > 1 else [False] * len(points)
    return replace(table, rows=tuple(replace(row, pareto=one) for row, one in zip(table.rows, front, strict=True)))


def _notes(
    results: Sequence[Result], groups: Sequence[Group], specs: Sequence[GroupSpec], rows: Sequence[Row]
) -> list[str]:
    """What a reader has to know: numbers that are not comparable, not complete, or not ours."""
    notes = list(dict.fromkeys(str(result.record["note"]) for result in results if result.record.get("note")))
    for spec in specs:
        mine = [group for group in groups if group.name == spec.name]
        present = {column.task for group in mine for column in group.columns}
        if spec.average and (missing := [column.label for column in spec.columns if column.task not in present]):
            notes.append(f"{spec.title}: no average, as {_words(missing)} is not measured.")
        for group in mine:
            parts = [column for column in group.columns if not column.average]
            for row in rows:
                absent = [column.label for column in parts if column.key not in row.cells]
                if group.summary and absent and len(absent) < len(parts):
                    notes.append(f"{group.title}: no average of {row.label}, as {_words(absent)} is not measured.")
        if len(mine) > 1:
            notes.append(f"{spec.title} was measured in several ways, which are not compared with each other.")
    precisions: dict[str, list[str]] = {}
    for row in (row for row in rows if not row.reported):
        for dtype in sorted({m.dtype for cell in row.cells.values() for m in cell.measurements.values()}):
            precisions.setdefault(dtype, []).append(row.label)
    if len(precisions) > 1:
        which = [f"{dtype} ({_words(labels)})" for dtype, labels in precisions.items()]
        notes.append(f"Measured in different precisions: {'; '.join(which)}.")
    broken = [
        f"{m.task} {m.metric} of {result.checkpoint.label}"
        for result in results
        for m in result.measurements
        if not math.isfinite(m.value)
    ]
    if broken:
        notes.append(f"Left out, as the value is not a finite number: {_words(broken)}.")
    return notes


def _method_rank(method: str | None) -> int:
    return list(METHODS).index(method) if method is not None and method in METHODS else len(METHODS)


def _words(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))
