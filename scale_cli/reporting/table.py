"""The stability-plasticity table, a view of the tidy table: one row per checkpoint, or per training over its seeds."""

from __future__ import annotations

import math
from collections import Counter
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

BASE = "base"
"""The label of a benchmark's base."""
SECTIONS = ("base", "baselines", "SCALE", "others")
FACTS = {
    "trained": Column("trained", "trained", "trained", form="compact"),
    "lr": Column("lr", "lr", "lr", form=".3g"),
    "tokens": Column("tokens", "tokens", "tokens", form="compact"),
    "seconds": Column("seconds", "seconds", "seconds", form=",.0f"),
    "peak_memory_bytes": Column("peak_memory_bytes", "peak GB", "peak GB", form=".2f", unit=1e9),
}
"""Columns of the facts on a training: trained parameters, peak learning rate, tokens, seconds and peak memory."""


class Cell(NamedTuple):
    """A number of the table, in its metric's unit.

    error: standard error; for several seeds, standard deviation over the seeds.
    change: after minus base. change_error: standard error of the change; for several seeds, standard deviation.
    paired: change_error is wholly paired by item.
    best: best of the column without the base, with a lead over the next that exceeds the lead's standard error.
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

    section: one of SECTIONS. method: None without training by one of ours. results: positions in `Table.results`.
    seeds: known seeds of the results. reported: all results are reported by a source, not measured here.
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
    """The stability-plasticity table: rows by section and in the paper's order, columns by group.

    cells: one line per number, with the columns `row` (label), `column` (key) and the fields of `Cell`; the columns
        FACTS are included. tidy: the tidy table of all measurements. notes: remarks for the legend.
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
        """The base's row, None if no result is the base."""
        return self.rows[0] if self.rows[0].section == "base" else None

    @property
    def aggregated(self) -> bool:
        """Whether some row combines several results."""
        return any(len(row.results) > 1 for row in self.rows)

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for group in self.groups for column in group.columns)

    @property
    def numbers(self) -> list[tuple[Group, Column]]:
        """The columns of measured numbers and averages, without those of changes; each with its group."""
        return [(group, column) for group in self.groups for column in group.columns if not column.change]

    @property
    def summarised(self) -> dict[Role, Group]:
        """The first group of each role that has a summary."""
        groups = {group.role: group for group in reversed(self.groups) if group.role and group.summary is not None}
        return {role: groups[role] for role in ROLES if role in groups}

    def summary(self, role: Role) -> Column | None:
        """The summary of the first group that has the role and a summary; None without one."""
        return self.summarised[role].summary if role in self.summarised else None

    @property
    def drift(self) -> Table | None:
        """The columns of drift, and the rows that have one; None without any."""
        groups = tuple(group for group in self.groups if group.is_drift)
        keys = {column.key for group in groups for column in group.columns}
        measured = set(self.cells["row"][self.cells["column"].isin(keys)])
        rows = tuple(replace(row, pareto=False) for row in self.rows if row.label in measured)
        return replace(self, title="Drift from the base", groups=groups, rows=rows, notes=()) if rows else None

    @property
    def without_drift(self) -> Table:
        return replace(self, groups=tuple(group for group in self.groups if not group.is_drift))

    def cell(self, row: Row, column: Column) -> Cell | None:
        """The number of a row in a column, None without one."""
        return self._cells.get((row.label, column.key))

    @cached_property
    def _cells(self) -> Mapping[tuple[str, str], Cell]:
        known = self.cells.astype(object).where(self.cells.notna(), None)
        return {(row, column): Cell(*fields) for row, column, *fields in known.itertuples(index=False)}

    def with_cells(self, column: Column, cells: Mapping[str, Cell]) -> Table:
        """The table with the numbers of another column. cells: numbers by the labels of rows."""
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
    notes: Sequence[str] = (),
    items: Items = read_items,
) -> Table:
    """The table of results.

    groups: requested columns; tasks of no group get columns of their own.
    base: label of the base's result; None for the only plain checkpoint that no method has trained, if there is one.
    seeds: combine repetitions of a training in one row, with mean and standard deviation over seeds.
    notes: further remarks for the legend. items: reads the scores of a measurement's items, None if there are none.
    Raises RequestError if there are no results, if `base` is not one of the labels, and if a group has no number.
    """
    if not results:
        raise RequestError("there are no results to report")
    is_base, unfound = _find_base(results, base)
    everything = tidy(results, groups)
    arranged = arrange(everything[np.isfinite(everything["value"])], groups)
    pairing = Pairing(results, items)
    grouped = repetitions(results) if seeds else [[index] for index in range(len(results))]
    stems = Counter(results[indices[0]].checkpoint.stem for indices in grouped)
    rows = [_row(indices, results, is_base=is_base[indices[0]], stems=stems if seeds else {}) for indices in grouped]
    rows = _unique_labels(rows)
    rows.sort(key=lambda row: (SECTIONS.index(row.section), _method_rank(row.method)))
    bases = [_base_of(index, results, is_base) for index in range(len(results))]
    cells = _over_seeds(_points(rows, results, arranged, bases, pairing), rows)
    table = Table(title, tuple(rows), tuple(arranged), cells, everything, tuple(results))
    table = _with_changes(replace(table, cells=_mark_best(table, pairing)))
    return replace(table, rows=_flag_pareto(table), notes=(*notes, *unfound, *_notes(table, groups)))


def _find_base(results: Sequence[Result], label: str | None) -> tuple[list[bool], list[str]]:
    """Whether each result is the base, and a note if no base is found. Each seed may have a base of its own."""
    infos = [result.checkpoint for result in results]
    if label is not None:
        chosen = [info.stem for info in infos if label in (info.label, info.stem)]
        if not chosen:
            raise RequestError(f"--base {label}: choose from {listed(info.label for info in infos)}")
        return [info.stem == chosen[0] for info in infos], []
    untrained = [info.method is None and info.kind == "plain" for info in infos]
    if len({info.stem for info, is_base in zip(infos, untrained, strict=True) if is_base}) == 1:
        return untrained, []
    bases = {info.identity for info in infos if info.stem == BASE}
    if not any(untrained) and len(bases) == 1:  # a benchmark may have trained its base
        return [info.stem == BASE for info in infos], []
    why = "several checkpoints could be the base" if any(untrained) else "every checkpoint is trained or upscaled"
    return [False] * len(results), [f"No change against a base: {why}; choose one with --base LABEL."]


def _base_of(index: int, results: Sequence[Result], is_base: Sequence[bool]) -> int | None:
    """The position of the base that a result is compared with: the only base, else that of the result's seed."""
    bases = [position for position, base in enumerate(is_base) if base]
    if is_base[index] or not bases:
        return None
    if len(bases) == 1:
        return bases[0]
    seed = results[index].checkpoint.seed
    return next((position for position in bases if results[position].checkpoint.seed == seed), None)


def _row(indices: Sequence[int], results: Sequence[Result], *, is_base: bool, stems: Mapping[str, int]) -> Row:
    """A row of results. Its label is theirs without the seed if they are several or `stems`, how many rows have such a
    label, is 1 for it.
    """
    own = [results[index].checkpoint for index in indices]
    method, section = own[0].method, "others"
    if is_base:
        section = "base"
    elif method is not None and method in METHODS:
        section = "SCALE" if METHODS[method].group == "SCALE" else "baselines"
    return Row(
        label=own[0].stem if len(own) > 1 or stems.get(own[0].stem) == 1 else own[0].label,
        section=section,
        method=method,
        results=tuple(indices),
        seeds=tuple(info.seed for info in own if info.seed is not None),
        reported=all(results[index].record.get("reported") for index in indices),
    )


def _unique_labels(rows: Sequence[Row]) -> list[Row]:
    """The rows with distinct labels: equal ones are numbered."""
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
    """One line per result and column, with value, error and the change against the result's base."""
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
    """The cells of the rows. A row of several results has their mean, and the standard deviation as error, if all of
    them have a number; a row of one result has its numbers.
    """
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
    """The cells with the best value of each column marked, the base left out, if its lead over the next exceeds the
    standard error of their difference. A lead with an unknown error is not marked.
    """
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
    """The standard error of the difference of two rows; for means over seeds, from their standard deviations; None if
    unknown, or if only one row has several seeds.
    """
    counts = (len(first.results), len(second.results))
    if counts == (1, 1):
        return pairing.error(first.results[0], second.results[0], column)[0]
    cells = [table.cell(row, column) for row in (first, second)]
    errors = [None if cell is None else cell.error for cell in cells]
    if 1 in counts or None in errors:
        return None
    return difference_error(*(e / math.sqrt(n) for e, n in zip(errors, counts, strict=True) if e is not None))


def _with_changes(table: Table) -> Table:
    """The table with a column for the change of each group's summary against the base, if there is a base."""
    groups, changed = [], table
    for group in table.groups:
        column, cells = group.summary, {}
        if column is not None:
            # Forgetting is positive for a loss and gain for an improvement, whichever direction is better.
            sign = -1 if (group.role == "stability") == column.higher_is_better and group.role else 1
            for row in table.rows:
                cell = table.cell(row, column)
                if cell is not None and cell.change is not None:
                    cells[row.label] = Cell(sign * cell.change, cell.change_error)
        if column is not None and cells:
            name = group.change_heading
            named = {"key": f"{name}:{column.key}", "label": name, "flat_label": f"{group.title} {name}"}
            change = replace(column, **named, parts=(), change=True, signed=group.role is None)  # type: ignore[arg-type]
            group, changed = replace(group, columns=(*group.columns, change)), changed.with_cells(change, cells)
        groups.append(group)
    return replace(changed, groups=tuple(groups))


def _flag_pareto(table: Table) -> tuple[Row, ...]:
    """The rows with those on the Pareto front of both roles' summaries marked; none for fewer than two points."""
    columns = [column for role in ROLES if (column := table.summary(role)) is not None]
    points: list[tuple[float, float] | None] = []
    for row in table.rows:
        cells = [(column, table.cell(row, column)) for column in columns]
        values = [(1 if column.higher_is_better else -1) * cell.value for column, cell in cells if cell is not None]
        points.append((values[0], values[1]) if len(values) == 2 else None)
    front = pareto(points) if sum(point is not None for point in points) > 1 else [False] * len(points)
    return tuple(replace(row, pareto=optimal) for row, optimal in zip(table.rows, front, strict=True))


def _notes(table: Table, specs: Sequence[GroupSpec]) -> list[str]:
    """Notes of the records, and notes on numbers that are incomplete, not comparable or not finite."""
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
                    notes.append(f"{group.title}: no average for {row.label}, as {listed(absent)} is not measured.")
        if len(own) > 1:
            notes.append(f"{spec.title} was measured with several limits or seeds, which are not compared.")
    ours = [index for row in table.rows if not row.reported for index in row.results]
    measured = table.tidy[table.tidy["result"].isin(ours) & table.tidy["dtype"].notna() & (table.tidy["dtype"] != "")]
    precisions = {str(dtype): set(rows["result"]) for dtype, rows in measured.groupby("dtype", sort=False)}
    if len(precisions) > 1:
        rows_by_precision = [
            f"{dtype} ({listed(row.label for row in table.rows if set(row.results) & results)})"
            for dtype, results in precisions.items()
        ]
        notes.append(f"Measured in different precisions: {'; '.join(rows_by_precision)}.")
    broken = table.tidy[~np.isfinite(table.tidy["value"])]
    if len(broken):
        names = broken["task"] + " " + broken["metric"] + " of " + broken["label"]
        notes.append(f"Left out, as the value is NaN or infinite: {listed(names)}.")
    return notes


def _method_rank(method: str | None) -> int:
    return list(METHODS).index(method) if method is not None and method in METHODS else len(METHODS)
