"""Results of continual pre-training, read from its run folder: measurements, curves, table and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scale_cli.bench.routers import frontier_panels, routed_results, split_panels
from scale_cli.bench.stages import BenchResult, curves, finished_lines, label_of
from scale_cli.core.files import write_text
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS
from scale_cli.reporting.columns import Column
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.pairing import compared_with
from scale_cli.reporting.sheet import Sheet, rows_sheet, shown_terms
from scale_cli.reporting.table import FACTS, Cell, Row, Table, build_table
from scale_cli.reporting.words import METRICS, PLUS_MINUS, change_terms, error_words, joined, role_terms, standing_out
from scale_cli.results.groups import ROLES, ColumnSpec, GroupSpec
from scale_cli.results.result import CheckpointInfo, Result, of_training, read_result

if TYPE_CHECKING:
    from scale_cli.bench.continual_recipe import ContinualRecipe

BASE = "base"
"""The label of the base."""
EVALUATION = "evaluation"
Reported = Mapping[str, Mapping[str, float]]
"""A paper's values by label of the row and name of the measurement, as "perplexity:english/perplexity"."""
LEGEND = (
    ("bits/byte", "bits per byte of held-out text; lower is better. The base's row is measured before training."),
    ("routed", "share of tokens that took the preserve branch, in percent."),
    (
        "base half",
        "equal: the base's half of every hidden state is bitwise the base's own hidden state, in every seed.",
    ),
    ("cosine", METRICS["cosine"]),
    ("norm", METRICS["expansion_norm"]),
    ("perplexity", METRICS["perplexity"]),
    ("seconds", "duration of training, measurements during training included."),
    ("peak GB", "peak memory of training, in 10^9 bytes."),
)
"""Definitions of the terms of the benchmark's table; a sheet shows those that its columns use."""


def results_of(recipe: ContinualRecipe, out: Path) -> tuple[Result, ...]:
    """The results in the run folder `out`: the base, then for each seed all measured rows, compared with the base by
    item."""
    base = read_result(out / EVALUATION / BASE)
    assert base is not None
    results = [base]
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        for label in recipe.methods:
            measured = read_result(folder / EVALUATION / label)
            if measured is not None:
                info = _info(recipe, folder, label, seed, measured.checkpoint)
                row = replace(measured, checkpoint=info)
                for each in (row, *routed_results(recipe, row, label, seed, folder)):
                    compared = replace(each.checkpoint, compared=base.checkpoint.fingerprint)
                    results.append(replace(compared_with(base, each), checkpoint=compared, path=None))
    return tuple(results)


def _info(recipe: ContinualRecipe, folder: Path, label: str, seed: int, info: CheckpointInfo) -> CheckpointInfo:
    """The description of a row's checkpoint, completed from the record of its training. A row without a training of its
    own has another row's recipe with its own threshold."""
    from scale_cli.checkpoints.schemas import RECORD

    record = read_record(folder / recipe.trained_by(label) / RECORD)
    fields = of_training(record)
    if recipe.trained_by(label) != label:
        fields["recipe"] = {**fields["recipe"], "threshold": recipe.methods[label]["threshold"]}
    counts = {**info.parameters, "trained": record["trained_parameters"]}
    return replace(info, label=label_of(label, seed, recipe), parameters=counts, **fields)


def panels_of(recipe: ContinualRecipe, out: Path) -> tuple[Panel, ...]:
    """The measurements while training, in bits per byte over training tokens, as in the paper's Fig. 9."""
    trained = [label for label in recipe.methods if recipe.trained_by(label) == label]
    lines = finished_lines(recipe, out, trained)
    curves_of_training = tuple(
        Panel(
            title=f"{name.title()} ({role})",
            x="training tokens",
            unit="bits per byte",
            percent=False,
            series=curves(lines, f"{name}/bits_per_byte", x_per_step=recipe.step_tokens),
            log_x=recipe.training.get("eval_per_doubling") is not None,
        )
        for name, role in recipe.roles.items()
    )
    old, new = (next(name for name, own in recipe.roles.items() if own == role) for role in ROLES)

    def summary(result: Result) -> tuple[float, float] | None:
        values = {m.task: m.value for m in result.measurements if m.metric == "bits_per_byte"}
        tasks = [f"perplexity:{name}" for name in (old, new)]
        return (values[tasks[0]], values[tasks[1]]) if set(tasks) <= values.keys() else None

    axes = {"x": f"{old.title()}, bits per byte", "unit": f"{new.title()}, bits per byte"}
    return (*curves_of_training, *frontier_panels(recipe, out, summary=summary, percent=False, **axes))


def results_table(results: Sequence[Result], groups: Iterable[GroupSpec], *, title: str = "") -> Table:
    """The table of the results, one row per label over its seeds, with perplexity and routed share of every text."""
    results, groups = [result.with_routed() for result in results], list(groups)
    texts = [group for group in groups if group.columns[0].task.startswith("perplexity:")]
    has_routed = {m.task for result in results for m in result.measurements if m.metric == "routed"}
    for group in texts:
        task, name = group.columns[0].task, group.title.removesuffix(" text")
        more = [ColumnSpec(task, "perplexity", f"{name} perplexity")]
        more += [ColumnSpec(task, "routed", f"{name} routed")] if task in has_routed else []
        groups.append(GroupSpec(f"{group.name}-more", group.title, None, tuple(more), average=False))
    return build_table(results, groups, title=title, base=BASE, seeds=True)


def sheet(
    results: Sequence[Result],
    groups: Sequence[GroupSpec],
    *,
    title: str,
    best: str,
    reported: Reported | None = None,
) -> Sheet:
    """The table of the benchmark: stability and plasticity, drift from the base, a paper's values, and the cost.

    reported: a paper's values of the rows. best: how the output format marks the best value, one of `documents.BEST`.
    """
    table = results_table(results, groups, title=title)
    texts = [group for group in groups if group.columns[0].task.startswith("perplexity:")]
    tasks = {group.columns[0].task.removeprefix("perplexity:"): group for group in texts}
    shown: list[tuple[str, Column]] = []
    suites: list[str] = []
    for group in table.groups:
        if group.role is not None and group.summary is not None:
            is_text = group.name in {text.name for text in texts}
            name = group.title.removesuffix(" text")
            label = f"{name} bits/byte" if is_text else name
            suites += [] if is_text else [name]
            shown.append((group.heading, replace(group.summary, label=label, flat_label=label)))
            shown += [(group.heading, column) for column in group.columns if column.change]
    shown += [("", column) for column in _text_columns(table, tasks, "perplexity:{}", "routed", "routed {}")]
    table, half = _with_half(table)
    shown += [("", half)] if half is not None else []
    moved = [*_text_columns(table, tasks, "drift:{}", "cosine", "cosine {}"), *_norms(table)]
    shown += [("moved", column) for column in moved]
    for column, cells in _reported_columns(reported or {}).items():
        table, shown = table.with_cells(column, cells), [*shown, ("paper", column)]
    cost = [
        *_text_columns(table, tasks, "perplexity:{}", "perplexity", "{} perplexity"),
        replace(FACTS["trained"], label="trained params", flat_label="trained params", form=",.0f"),
        FACTS["lr"],
        replace(FACTS["tokens"], form=",.0f"),
        FACTS["seconds"],
        FACTS["peak_memory_bytes"],
    ]
    available = set(table.cells["column"])
    shown += [("cost", column) for column in cost if column.key in available]
    base = [row for row in table.rows if row.section == "base"]
    rows = [row for row in table.rows if row.section != "base"]
    made = rows_sheet(table, shown, [base, rows], name="method")
    terms = [*role_terms(table), *change_terms(table), *LEGEND]
    terms += [(PLUS_MINUS, error_words(aggregated=table.aggregated)), *standing_out(table, best=best)]
    legend = shown_terms(made, terms, best=best)
    averages = [(joined(suites), "mean over the tasks of the suite; accuracies in percent.")] if suites else []
    return replace(made, legend=(*legend, *averages))


def _text_columns(table: Table, texts: Iterable[str], task: str, metric: str, label: str) -> list[Column]:
    """The table's columns of a metric on the texts. task, label: patterns with {} for the text's name."""
    columns = {(column.task, column.metric): column for column in table.columns}
    by_text = {text: columns.get((task.format(text), metric)) for text in texts}
    names = {text: label.format(text.title()) for text in by_text}
    return [
        replace(column, label=names[text], flat_label=names[text])
        for text, column in by_text.items()
        if column is not None
    ]


def _norms(table: Table) -> list[Column]:
    """The columns of the norms of added weights, by module."""
    columns = [column for column in table.columns if column.metric.startswith("expansion_norm/")]
    names = [f"norm {column.metric.partition('/')[2]}" for column in columns]
    return [replace(column, label=name, flat_label=name) for column, name in zip(columns, names, strict=True)]


def _with_half(table: Table) -> tuple[Table, Column | None]:
    """The table with the column "base half", which shows `half_is_base`, and the column; None if no row has a value."""
    cells = {row.label: Cell(float(equal)) for row in table.rows if (equal := half_is_base(table, row)) is not None}
    column = Column("base half", "base half", "base half", form="equal")
    return (table.with_cells(column, cells), column) if cells else (table, None)


def half_is_base(table: Table, row: Row) -> bool | None:
    """Whether the base's half of every hidden state is bitwise equal to the base's, in all seeds.

    None if it was not measured, or if the row's method does not keep the base.
    """
    results = [table.results[index] for index in row.results]
    equal = [
        m.details["hidden_states_equal"] for r in results for m in r.measurements if "hidden_states_equal" in m.details
    ]
    method = METHODS.get(row.method or "")
    return all(equal) if equal and method is not None and method.keeps_base else None


def _reported_columns(reported: Reported) -> dict[Column, dict[str, Cell]]:
    """Columns of a paper's values, with their cells by label."""
    columns = {}
    for name in dict.fromkeys(name for values in reported.values() for name in values):
        task, _, metric = name.partition("/")
        kind, _, text = task.partition(":")
        heading = f"paper: {metric} {text.title()}" if kind == "drift" else f"paper: {text.title()} {metric}"
        cells = {label: Cell(values[name]) for label, values in reported.items() if name in values}
        columns[Column(f"paper:{name}", heading, heading, form="g")] = cells
    return columns


def write(result: BenchResult) -> None:
    """Write results.json, table.md, and figures of the trade-off on texts and in suites and of the curves."""
    from scale_cli.reporting.captions import draw_curves, draw_frontier
    from scale_cli.reporting.documents import BEST, markdown

    result.save()
    title = f"Continual pre-training, {result.recipe.preset}"
    table_sheet = sheet(result.results, result.groups, title=title, best=BEST["markdown"])
    write_text(result.out / "table.md", markdown(table_sheet))
    texts = [group for group in result.groups if group.columns[0].task.startswith("perplexity:")]
    kinds = {"frontier": texts, "frontier-suites": [group for group in result.groups if group not in texts]}
    for name, groups in kinds.items():
        if groups:
            table = build_table(result.results, groups, base=BASE, seeds=True)
            draw_frontier(table, result.out, name)
            if name == "frontier":
                for file, panels in zip(("curves", "frontier-routers"), split_panels(result.panels), strict=True):
                    draw_curves(table, panels, result.out, file)
