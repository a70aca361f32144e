"""The stability-plasticity table: a row per checkpoint, or per training over its seeds; a view of the tidy table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS
from scale_cli.reporting.columns import Column, Group, arrange, listed
from scale_cli.reporting.pairing import Items, Pairing
from scale_cli.reporting.statistics import difference_error, mean_error, pareto
from scale_cli.results.frame import tidy
from scale_cli.results.groups import ROLES, GroupSpec, Role
from scale_cli.results.result import Result, read_items, repetitions

SECTIONS = ("base", "baselines", "SCALE", "others")
FACTS = {
    "trained": Column("trained", "trained", "trained", form="compact"),
    "lr": Column("lr", "lr", "lr", form=".3g"),
    "tokens": Column("tokens", "tokens", "tokens", form="compact"),
    "seconds": Column("seconds", "seconds", "seconds", form=",.0f"),
    "peak_memory_bytes": Column("peak_memory_bytes", "peak GB", "peak GB", form=".2f", unit=1e9),
}
"""What a training was and took: the columns of trained parameters, peak rate, tokens, seconds and memory."""


class Cell(NamedTuple):
    """A number of the table, in its metric's unit.

    error: its standard error; over several seeds the standard deviation.
    change: after minus base; change_error: its standard error, over seeds the standard deviation of the changes.
    paired: the change's error is that of differences on the same items.
    best: of the methods, by more than the standard error of its lead over the next.
    """

    value: float
    error: float | None = None
    change: float | None = None
    change_error: float | None = None
    paired: bool = False
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A checkpoint, or several that are repetitions of one training.

    section: of SECTIONS. results: their positions in the table's list. seeds: of them, where they are known.
    pareto: no other row is at least as good in both roles' summaries and better in one.
    """

    label: str
    section: str
    method: str | None
    results: tuple[int, ...]
    seeds: tuple[int, ...]
    reported: bool = False
    pareto: bool = False


@dataclass(frozen=True)
class Table:
    """Rows by section and in the paper's order, columns by group.

    cells: the numbers, one per line: `row` (its label), `column` (its key) and the fields of `Cell`; of FACTS
        too. tidy: the measurements behind them. notes: what a reader has to know besides the legend.
    """

    title: str
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    cells: pd.DataFrame
    tidy: pd.DataFrame
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def base(self) -> Row | None:
        """The base's row, None where no result is known to be it."""
        return self.rows[0] if self.rows[0].section == "base" else None

    @property
    def aggregated(self) -> bool:
        """Whether some row holds several seeds."""
        return any(len(row.results) > 1 for row in self.rows)

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for group in self.groups for column in group.columns)

    @property
    def numbers(self) -> list[tuple[Group, Column]]:
        """The columns of measured numbers and their averages, each with its group."""
        return [(group, column) for group in self.groups for column in group.columns if not column.change]

    def summary(self, role: Role) -> Column | None:
        """The column that stands for a role: of the first group that has the role and a summary."""
        return next((group.summary for group in self.groups if group.role == role and group.summary is not None), None)

    def cell(self, row: Row, column: Column) -> Cell | None:
        """The number of a row in a column, None where there is none."""
        return self._cells.get((row.label, column.key))

    @cached_property
    def _cells(self) -> Mapping[tuple[str, str], Cell]:
        known = self.cells.astype(object).where(self.cells.notna(), None)
        return {(row, column): Cell(*fields) for row, column, *fields in known.itertuples(index=False)}

    def with_cells(self, column: Column, cells: Mapping[str, Cell]) -> Table:
        """With the numbers of another column, by the labels of rows."""
        more = [(label, column.key, *cell) for label, cell in cells.items()]
        return replace(self, cells=_cells([*self.cells.itertuples(index=False), *more]))


def _cells(lines: Sequence[Sequence[object]]) -> pd.DataFrame:
    names = ["row", "column", *Cell._fields]
    kinds = dict.fromkeys(Cell._fields[:4], float) | dict.fromkeys(Cell._fields[4:], bool)
    return pd.DataFrame(lines, columns=names).astype(kinds)


def build_table(
    results: Sequence[Result],
    groups: Sequence[GroupSpec],
    *,
    title: str = "Stability and plasticity",
    base: str | None = None,
    seeds: bool = False,
    items: Items = read_items,
) -> Table:
    """The table of results.

    groups: the columns asked for; tasks of none of them get columns of their own.
    base: the label of the base's result; None: the one that no method has trained.
    seeds: make one row of repetitions, with mean and standard deviation.
    items: the scores of a measurement's single items, None where there are none.
    Raises RequestError where `base` is none of the labels, and where a group has no number.
    """
    if not results:
        raise RequestError("there are no results to report")
    is_base, notes = _find_base(results, base)
    everything = tidy(results, groups)
    arranged = arrange(everything[np.isfinite(everything["value"])], groups)
    pairing = Pairing(results, items)
    grouped = repetitions(results) if seeds else [[index] for index in range(len(results))]
    rows = _unique_labels([_row(indices, results, is_base=is_base[indices[0]], stem=seeds) for indices in grouped])
    rows.sort(key=lambda row: (SECTIONS.index(row.section), _method_rank(row.method)))
    bases = [_base_of(index, results, is_base) for index in range(len(results))]
    cells = _over_seeds(_points(rows, results, arranged, bases, pairing), rows)
    table = Table(title, tuple(rows), tuple(arranged), cells, everything, tuple(results))
    table = _with_changes(replace(table, cells=_mark_best(table, pairing)))
    return replace(table, rows=_flag_pareto(table), notes=(*notes, *_notes(table, groups)))


def _find_base(results: Sequence[Result], label: str | None) -> tuple[list[bool], list[str]]:
    """Which results are the base, and a note where that cannot be said. Each seed may have one of its own."""
    infos = [result.checkpoint for result in results]
    if label is not None:
        chosen = [info.stem for info in infos if info.label == label]
        if not chosen:
            raise RequestError(f"--base {label}: choose from {listed(info.label for info in infos)}")
        return [info.stem == chosen[0] for info in infos], []
    untrained = [info.method is None and info.kind == "plain" for info in infos]
    if len({info.stem for info, is_base in zip(infos, untrained, strict=True) if is_base}) == 1:
        return untrained, []
    why = "several checkpoints could be it" if any(untrained) else "every checkpoint is trained or upscaled"
    return [False] * len(results), [f"No change against a base: {why}; choose one with --base LABEL."]


def _base_of(index: int, results: Sequence[Result], is_base: Sequence[bool]) -> int | None:
    """The base that a result is compared with: that of its seed, where each seed has one."""
    bases = [place for place, base in enumerate(is_base) if base]
    if is_base[index] or not bases:
        return None
    if len(bases) == 1:
        return bases[0]
    seed = results[index].checkpoint.seed
    return next((place for place in bases if results[place].checkpoint.seed == seed), None)


def _row(indices: Sequence[int], results: Sequence[Result], *, is_base: bool, stem: bool) -> Row:
    """A row of some results. stem: it is called by their label without the seed."""
    own = [results[index].checkpoint for index in indices]
    method, section = own[0].method, "others"
    if is_base:
        section = "base"
    elif method is not None and method in METHODS:
        section = "SCALE" if METHODS[method].group == "SCALE" else "baselines"
    return Row(
        label=own[0].stem if stem else own[0].label,
        section=section,
        method=method,
        results=tuple(indices),
        seeds=tuple(info.seed for info in own if info.seed is not None),
        reported=all(results[index].record.get("reported") for index in indices),
    )


def _unique_labels(rows: Sequence[Row]) -> list[Row]:
    """The rows, those whose label another one has too told apart by a number."""
    labels = pd.Series([row.label for row in rows])
    twins, number = labels.duplicated(keep=False), labels.groupby(labels).cumcount() + 1
    return [
        replace(row, label=f"{row.label} ({count})") if twin else row
        for row, twin, count in zip(rows, twins, number, strict=True)
    ]


def _points(
    rows: Sequence[Row],
    results: Sequence[Result],
    groups: Sequence[Group],
    bases: Sequence[int | None],
    pairing: Pairing,
) -> pd.DataFrame:
    """One result's numbers per line, each with its error and the change against its base."""
    points: list[tuple[object, ...]] = []
    columns = [column for group in groups for column in group.columns]
    for label, index in [(row.label, index) for row in rows for index in row.results]:
        info = results[index].checkpoint
        facts = {"trained": info.parameters.get("trained"), "lr": (info.recipe or {}).get("lr")}
        facts |= info.training or {}
        points += [(label, n, *Cell(facts[n])) for n in FACTS if facts.get(n) is not None]  # type: ignore[arg-type]
        for column in columns:
            value = pairing.value(index, column)
            if value is None:
                continue
            cell = Cell(value, mean_error(pairing.stderrs(index, column)))
            base = bases[index]
            before = None if base is None else pairing.value(base, column)
            if base is not None and before is not None:
                error, paired = pairing.error(base, index, column)
                cell = cell._replace(change=value - before, change_error=error, paired=paired)
            points.append((label, column.key, *cell))
    return _cells(points)


def _over_seeds(points: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """The cells: of a row with several results the mean and, in place of the error, the standard deviation, where all
    have a number; of a single one its own."""
    grouped = points.groupby(["row", "column"], sort=False)
    numbers, cells = grouped[["value", "change"]], grouped.first()
    runs = pd.Series(
        cells.index.get_level_values("row").map({row.label: len(row.results) for row in rows}), cells.index
    )
    whole, means, deviations, several = numbers.count().eq(runs, axis=0), numbers.mean(), numbers.std(), runs > 1
    cells["value"], cells["change"] = means["value"].where(whole["value"]), means["change"].where(whole["change"])
    cells["error"] = cells["error"].where(~several, deviations["value"])
    cells["change_error"] = cells["change_error"].where(~several, deviations["change"]).where(whole["change"])
    cells["paired"] &= ~several
    return cells[cells["value"].notna()].reset_index()


def _mark_best(table: Table, pairing: Pairing) -> pd.DataFrame:
    """The cells, the best of each column marked: of the rows besides the base, where its lead over the next is larger
    than the standard error of that difference. Where that error is not known nothing is marked."""
    rows = {row.label: row for row in table.rows if row.section != "base"}
    columns = {column.key: column for column in table.columns if column.metric != "routed"}  # neither good nor bad
    best = []
    cells = table.cells[table.cells["row"].isin(rows) & table.cells["column"].isin(columns)]
    for key, numbers in cells.groupby("column", sort=False):
        column = columns[str(key)]
        ordered = numbers.sort_values("value", ascending=not column.higher_is_better, kind="stable")
        if len(ordered) < 2:
            continue
        first, second = ordered.iloc[0], ordered.iloc[1]
        error = _lead_error(rows[first["row"]], rows[second["row"]], column, table, pairing)
        if error is not None and abs(first["value"] - second["value"]) > error:
            best.append(ordered.index[0])
    return table.cells.assign(best=table.cells.index.isin(best))


def _lead_error(first: Row, second: Row, column: Column, table: Table, pairing: Pairing) -> float | None:
    """The standard error of the difference of two rows; of means over seeds, from their standard deviations."""
    counts = (len(first.results), len(second.results))
    if counts == (1, 1):
        return pairing.error(first.results[0], second.results[0], column)[0]
    cells = [table.cell(row, column) for row in (first, second)]
    errors = [None if cell is None else cell.error for cell in cells]
    if 1 in counts or None in errors:
        return None
    return difference_error(*(e / math.sqrt(n) for e, n in zip(errors, counts, strict=True) if e is not None))


def _with_changes(table: Table) -> Table:
    """With a column for the change of each group's summary, where there is a base."""
    groups, made = [], table
    for group in table.groups:
        column, cells = group.summary, {}
        if column is not None:
            turn = -1 if (group.role == "stability") == column.higher_is_better and group.role else 1
            for row in table.rows:
                cell = table.cell(row, column)
                if cell is not None and cell.change is not None:
                    cells[row.label] = Cell(turn * cell.change, cell.change_error)
        if column is not None and cells:
            name = group.change_heading
            named = {"key": f"{name}:{column.key}", "label": name, "flat_label": f"{group.title} {name}"}
            change = replace(column, **named, parts=(), change=True, signed=group.role is None)  # type: ignore[arg-type]
            group, made = replace(group, columns=(*group.columns, change)), made.with_cells(change, cells)
        groups.append(group)
    return replace(made, groups=tuple(groups))


def _flag_pareto(table: Table) -> tuple[Row, ...]:
    """The rows, those on the front of both roles' summaries marked."""
    columns = [column for role in ROLES if (column := table.summary(role)) is not None]
    points: list[tuple[float, float] | None] = []
    for row in table.rows:
        cells = [(column, table.cell(row, column)) for column in columns]
        values = [(1 if column.higher_is_better else -1) * cell.value for column, cell in cells if cell is not None]
        points.append((values[0], values[1]) if len(values) == 2 else None)
    front = pareto(points) if sum(point is not None for point in points) > 1 else [False] * len(points)
    return tuple(replace(row, pareto=optimal) for row, optimal in zip(table.rows, front, strict=True))


def _notes(table: Table, specs: Sequence[GroupSpec]) -> list[str]:
    """What a reader has to know: numbers that are not comparable, not complete, or not ours."""
    notes = list(dict.fromkeys(str(result.record["note"]) for result in table.results if result.record.get("note")))
    for spec in specs:
        own = [group for group in table.groups if group.name == spec.name]
        present = {column.task for group in own for column in group.columns}
        if spec.average and (missing := [column.label for column in spec.columns if column.task not in present]):
            notes.append(f"{spec.title}: no average, as {listed(missing)} is not measured.")
        for group in own:
            parts = [column for column in group.columns if column.is_task]
            for row in table.rows:
                absent = [column.label for column in parts if table.cell(row, column) is None]
                if group.summary and absent and len(absent) < len(parts):
                    notes.append(f"{group.title}: no average of {row.label}, as {listed(absent)} is not measured.")
        if len(own) > 1:
            notes.append(f"{spec.title} was measured in several ways, which are not compared with each other.")
    ours = [index for row in table.rows if not row.reported for index in row.results]
    measured = table.tidy[table.tidy["result"].isin(ours) & table.tidy["dtype"].notna() & (table.tidy["dtype"] != "")]
    precisions = {str(dtype): set(rows["result"]) for dtype, rows in measured.groupby("dtype", sort=False)}
    if len(precisions) > 1:
        which = [
            f"{dtype} ({listed(row.label for row in table.rows if set(row.results) & found)})"
            for dtype, found in precisions.items()
        ]
        notes.append(f"Measured in different precisions: {'; '.join(which)}.")
    broken = table.tidy[~np.isfinite(table.tidy["value"])]
    if len(broken):
        names = broken["task"] + " " + broken["metric"] + " of " + broken["label"]
        notes.append(f"Left out, as the value is not a finite number: {listed(names)}.")
    return notes


def _method_rank(method: str | None) -> int:
    return list(METHODS).index(method) if method is not None and method in METHODS else len(METHODS)
