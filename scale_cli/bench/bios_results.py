"""Results of the biography benchmark, read from the records of its runs: measurements, curves and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_cli.bench.course import AREA, KEPT, LEVELS, RECOVERED, course_measurements, course_of, mean_courses
from scale_cli.bench.routers import Summary, frontier_panels, routed_results, split_panels
from scale_cli.bench.stages import FREE, BenchRecipe, BenchResult, curves, finished_lines, label_of
from scale_cli.core.files import plain, write_text
from scale_cli.core.records import digest, read_record
from scale_cli.methods import METHODS
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.runs import measured
from scale_cli.reporting.sheet import Sheet, rows_sheet, shown_terms
from scale_cli.reporting.table import FACTS, Cell, build_table
from scale_cli.reporting.words import PLUS_MINUS, error_words, standing_out
from scale_cli.results.groups import BIOGRAPHIES, ColumnSpec, GroupSpec
from scale_cli.results.measurement import Measurement, share_error
from scale_cli.results.result import CheckpointInfo, Result, of_training
from scale_cli.training.resume import METRICS, metric_lines

if TYPE_CHECKING:
    from scale_cli.bench.bios import BiosRecipe

TASK0, TASK1 = ("bios:task0", "hard"), ("bios:task1", "hard")
"""Task and metric of stability and of plasticity."""
RECOVERY = "recovery"
"""The folder of the rows that are trained again on the questions of Task 0."""
BEFORE = "before Task 1"
"""The label of the checkpoint that every row starts from."""


def results_of(recipe: BiosRecipe, out: Path) -> tuple[Result, ...]:
    """The results in the run folder `out`: for each seed the checkpoint before Task 1, then all finished rows."""
    # Bases differ between seeds. The digest of their common recipe identifies them, so that seeds are repetitions.
    base_digest = digest({name: value for name, value in plain(recipe).items() if name not in FREE})
    results = []
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        records = {label: read_record(run) for label in recipe.methods if (run := _record(folder / label)).is_file()}
        if records:
            first = next(iter(records))
            task0 = read_record(_record(folder / "task0"))
            before = [*measured(task0), *_before_task1(folder / first, measured(records[first]))]
            name = label_of(BEFORE, seed, recipe)
            results.append(_result(recipe, folder / "task0", name, task0, base_digest, before))
            for label, record in records.items():
                name = label_of(label, seed, recipe)
                row = _result(recipe, folder / label, name, record, base_digest, measured(record))
                course = course_of(metric_lines(folder / label / METRICS))
                samples = next(m.samples for m in row.measurements if (m.task, m.metric) == TASK0)
                own = (
                    *row.measurements,
                    *course_measurements(course, TASK0[0], samples=samples, created=record["created"]),
                    *_recovered(folder / RECOVERY / label),
                )
                results.append(replace(row, measurements=own))
                results += routed_results(recipe, row, label, seed, folder, task_of=_task_of(recipe))
    return tuple(without_way(result) for result in results)


def _task_of(recipe: BenchRecipe) -> Callable[[str], str]:
    """The name in the benchmark of the people that `scale eval --bios` names."""
    people = {f"bios:{ids}": f"bios:{name}" for name, ids in recipe.measured.items()}  # type: ignore[attr-defined]
    return lambda task: people[task]


def without_way(result: Result) -> Result:
    """The result with measurements as training makes them, without version and precision."""
    return replace(result, measurements=tuple(replace(m, task_version=None, dtype=None) for m in result.measurements))


def _record(run: Path) -> Path:
    from scale_cli.checkpoints.schemas import RECORD

    return run / RECORD


def _result(
    recipe: BenchRecipe,
    run: Path,
    label: str,
    record: Mapping[str, Any],
    base_digest: str,
    measurements: Sequence[Measurement],
) -> Result:
    """The result of a run. base_digest: identifies the base in the result."""
    fields = of_training(record) | {"base": base_digest}
    trained = record["trained_parameters"]
    if label.startswith(BEFORE):
        fields |= {"method": None, "training": None}
        trained = None
    info = CheckpointInfo(
        label=label,
        source=str(run),
        fingerprint=None,
        kind="plain" if fields["method"] is None else METHODS[fields["method"]].needs[0],
        parameters={"total": record["total_parameters"], "trained": trained},
        **fields,
    )
    provenance = {name: record.get(name) for name in ("created", "environment", "git")}
    return Result(recipe.command, info, tuple(measurements), None, provenance)


def _recovered(run: Path) -> list[Measurement]:
    """Task 0 accuracy after its questions were trained again, as the metric RECOVERED; empty if they were not."""
    if not _record(run).is_file():
        return []
    return [replace(m, metric=RECOVERED) for m in measured(read_record(_record(run))) if (m.task, m.metric) == TASK0]


def _before_task1(run: Path, after: Sequence[Measurement]) -> list[Measurement]:
    """Task 1 accuracy before its training, from step 0 of a run's metrics. after: the measurements at the run's end,
    on the same questions. Empty if the run has no such line."""
    first = next((line for line in metric_lines(run / METRICS) if "task1/hard" in line and line["step"] == 0), None)
    if first is None:
        return []
    last = next(m for m in after if (m.task, m.metric) == TASK1)
    value = first["task1/hard"]
    return [replace(last, value=value, stderr=share_error(value, last.samples), routed=None)]


def panels_of(recipe: BiosRecipe, out: Path) -> tuple[Panel, ...]:
    """The curves of both tasks over the steps of Task 1, as in the paper's Fig. 8, and one against the other."""
    lines = finished_lines(recipe, out, recipe.methods)
    titles = {"task0": "Task 0, held-out people (stability)", "task1": "Task 1 (plasticity)"}
    curves_of_training = tuple(
        Panel(
            title=title,
            x="steps of Task 1",
            unit="hard first-token accuracy, %",
            percent=True,
            series=curves(lines, f"{task}/hard"),
            log_x=recipe.train_recipe(next(iter(recipe.methods)), seed=0).eval_per_doubling is not None,
        )
        for task, title in titles.items()
    )
    axes: dict[str, Any] = {"x": "Task 0 kept, %", "unit": "Task 1, %"}
    course = Panel("Course of training", percent=True, series=mean_courses(lines), in_order=True, **axes)
    return (*curves_of_training, course, *frontier_panels(recipe, out, summary=_summary(recipe), percent=True, **axes))


def _summary(recipe: BenchRecipe) -> Summary:
    """Task 0 in percent and Task 1 as a share."""
    task_of = _task_of(recipe)

    def summary(result: Result) -> tuple[float, float] | None:
        values = {(task_of(m.task), m.metric): m.value for m in result.measurements}
        return (100 * values[TASK0], values[TASK1]) if {TASK0, TASK1} <= values.keys() else None

    return summary


ROUTED = GroupSpec(
    "bios-routed",
    "routed",
    None,
    (ColumnSpec("bios:task0", "routed", "routed 0"), ColumnSpec("bios:task1", "routed", "routed 1")),
    average=False,
)
LEGEND = (
    (
        "Task 0",
        "stability: hard first-token accuracy on held-out people before and after training on Task 1, in percent of "
        "the questions, with teacher forcing.",
    ),
    ("forgetting", "Task 0 before minus after, in percentage points."),
    ("Task 1", "plasticity: hard first-token accuracy after training on Task 1, measured in the same way."),
    ("exact", "questions of Task 0 and Task 1 whose whole answer is produced by greedy generation, in percent."),
    ("routed", "first tokens of answers that took the preserve branch, in percent."),
    ("seconds", "duration of training on Task 1, measurements during training included."),
)
"""Definitions of the terms of the benchmark's table; a sheet shows those that its columns use."""


COURSE = GroupSpec(
    "bios-course",
    "Task 0 at equal Task 1",
    None,
    (
        *(ColumnSpec(TASK0[0], f"{KEPT}/{level:g}", f"at {level:.0%}") for level in LEVELS),
        ColumnSpec(TASK0[0], AREA, "area"),
        ColumnSpec(TASK0[0], RECOVERED, RECOVERED),
    ),
    average=False,
)
COURSE_LEGEND = (
    (
        COURSE.columns[0].label,
        "the highest Task 0 accuracy, in percent, of a measured step at which Task 1 has at least this accuracy, and "
        "so on; chosen among the steps with hindsight, equally for every method.",
    ),
    ("area", "the mean of that accuracy over all levels of Task 1 from 0 to 100, with 0 for levels not reached."),
    (
        RECOVERED,
        "Task 0 accuracy on its held-out people after the questions that Task 0 trained were trained again for a few "
        "steps: what stays lost was not only out of reach.",
    ),
)


def sheets(results: Sequence[Result], *, title: str, best: str) -> list[Sheet]:
    """The tables of the benchmark: end points, and Task 0 at equal Task 1. Arguments as in `sheet`."""
    made = [sheet(results, title=title, best=best)]
    if any(m.metric == AREA for result in results for m in result.measurements):
        made.append(course_sheet(results, title=f"{title}: {COURSE.title}", best=best))
    return made


def course_sheet(results: Sequence[Result], *, title: str, best: str) -> Sheet:
    """Task 0 at equal Task 1, one row per label. Arguments as in `sheet`."""
    trained = [result for result in results if any(m.metric == AREA for m in result.measurements)]
    table = build_table(trained, [COURSE], title=title, seeds=True)
    wanted = {(column.task, column.metric): column.label for column in COURSE.columns}
    shown = [
        replace(column, label=label, flat_label=label, decimals=1)
        for column in table.columns
        if (label := wanted.get((column.task, column.metric))) is not None and not column.change
    ]
    terms = (*COURSE_LEGEND, (PLUS_MINUS, error_words(aggregated=table.aggregated)), *standing_out(table, best=best))
    made = rows_sheet(table, [("", column) for column in [FACTS["lr"], *shown]], [table.rows], name="method")
    return replace(made, legend=shown_terms(made, terms, best=best))


def sheet(results: Sequence[Result], *, title: str, best: str) -> Sheet:
    """The table of end points: one row per label, with the mean over its seeds.

    best: how the output format marks the best value, one of `documents.BEST`.
    """
    has_routed = any(m.metric == "routed" for result in results for m in result.measurements)
    table = build_table(results, [*BIOGRAPHIES, *([ROUTED] if has_routed else [])], title=title, seeds=True)
    columns = {(column.task, column.metric, column.change): column for column in table.columns}
    stability, plasticity = columns[(*TASK0, False)], columns[(*TASK1, False)]
    shown = [
        replace(FACTS["trained"], label="trained params", flat_label="trained params", form=",.0f"),
        FACTS["lr"],
        replace(stability, key="before", label="Task 0 before", flat_label="Task 0 before", decimals=1),
        *(
            replace(column, label=name, flat_label=name, decimals=1)
            for name, column in (
                ("Task 0 after", stability),
                ("forgetting", columns[(*TASK0, True)]),
                ("Task 1", plasticity),
                ("exact 0", columns["bios:task0", "exact", False]),
                ("exact 1", columns["bios:task1", "exact", False]),
                ("routed 0", columns.get(("bios:task0", "routed", False))),
                ("routed 1", columns.get(("bios:task1", "routed", False))),
            )
            if column is not None
        ),
        FACTS["seconds"],
    ]
    rows = [row for row in table.rows if row is not table.base]
    before = None if table.base is None else table.cell(table.base, stability)
    if before is not None:
        cell = Cell(before.value, before.error)
        table = table.with_cells(shown[2], {row.label: cell for row in rows})
    terms = (*LEGEND, (PLUS_MINUS, error_words(aggregated=table.aggregated)), *standing_out(table, best=best))
    made = rows_sheet(table, [("", column) for column in shown], [rows], name="method")
    return replace(made, legend=shown_terms(made, terms, best=best))


def write(result: BenchResult) -> None:
    """Write results.json, table.md, the figure `curves` and, with a frontier, `frontier` into the run folder."""
    from scale_cli.reporting.captions import draw_curves
    from scale_cli.reporting.documents import BEST, markdown

    result.save()
    title = f"Biography benchmark, {result.recipe.preset}"
    tables = sheets(result.results, title=title, best=BEST["markdown"])
    write_text(result.out / "table.md", "\n".join(map(markdown, tables)))
    table = build_table(result.results, result.groups, seeds=True)
    for name, panels in zip(("curves", "frontier"), split_panels(result.panels), strict=True):
        draw_curves(table, panels, result.out, name)
