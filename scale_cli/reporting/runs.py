"""The material of a report: results of evaluations and benchmarks, and runs of `scale train` with their curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scale_cli.checkpoints.schemas import RECORD
from scale_cli.core.errors import RequestError
from scale_cli.core.files import shortest_ends
from scale_cli.core.recipe import load_recipe
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.names import task_words
from scale_cli.reporting.table import BASE, Table
from scale_cli.reporting.words import joined
from scale_cli.results.groups import role_of_name
from scale_cli.results.measurement import Measurement, is_share, main_metric
from scale_cli.results.result import BENCH_FILE, FILE, CheckpointInfo, Result, of_training, read_results
from scale_cli.training.choice import TEXT_METRICS
from scale_cli.training.recipe import TrainRecipe
from scale_cli.training.resume import METRICS, RECIPE, metric_lines

SAME = 1e-3
"""The largest relative difference between values of one base at step 0, which upscaling changes by rounding only."""
Values = Mapping[str, float]
"""A line of metrics.jsonl: the step, and values by name."""


@dataclass(frozen=True)
class Run:
    """A run folder of `scale train`.

    result: its last measurements, those of texts and people named as in `scale eval`. lines: of its metrics.jsonl.
    step_tokens: training tokens per step; None if unknown, as for an unfinished run without a sequence length.
    """

    result: Result
    lines: tuple[Values, ...]
    step_tokens: int | None

    @property
    def before(self) -> dict[str, float]:
        """The values at step 0, by the names of the result's measurements."""
        first = next((line for line in self.lines if line["step"] == 0), {})
        return {name: first[own] for name, own in self._names.items() if own in first}

    def points(self, name: str) -> list[tuple[float, float]]:
        """Training tokens, or steps if those are unknown, and the values of a measurement or of "loss"."""
        own, factor = self._names.get(name, name), self.step_tokens or 1
        return [(line["step"] * factor, line[own]) for line in self.lines if own in line]

    @property
    def _names(self) -> dict[str, str]:
        """The names in metrics.jsonl by those of the result's measurements."""
        return {m.name: m.name.partition(":")[2] for m in self.result.measurements}


@dataclass(frozen=True)
class Material:
    """Results, the runs that trained some of them by the position of the result, and notes for the legend."""

    results: tuple[Result, ...]
    runs: Mapping[int, Run]
    notes: tuple[str, ...] = ()


def read_material(paths: Sequence[Path]) -> Material:
    """The results and runs in files and folders, in the order of the paths, at any depth of a folder.

    paths: as for `read_results`, and run folders of `scale train` and `scale run`. If there are results of evaluations
        or benchmarks, runs only add their curves, and those without a result are left out. Otherwise each run is a
        result, and the first one has the values at step 0.
    Raises RequestError for a path that is missing, cannot be read or holds neither results nor runs.
    """
    results: list[Result] = []
    folders: list[Path] = []
    for path in paths:
        if path.is_file() or not path.exists():
            results += read_results([path])
            continue
        benches = [file.parent for file in sorted(path.rglob(BENCH_FILE))]
        others = [file for name in (FILE, METRICS) for file in sorted(path.rglob(name)) if _is_outside(file, benches)]
        if not benches and not others:
            raise RequestError(
                f"{path} holds neither a {FILE} nor a run; make one with: scale eval CHECKPOINT --out {path}"
            )
        results += read_results([*benches, *(file for file in others if file.name == FILE)])
        folders += [file.parent for file in others if file.name == METRICS]
    runs = list(_read_runs(list(dict.fromkeys(folders))))
    by_training = {_training(result): at for at, result in reversed(list(enumerate(results)))}
    evaluated = {by_training[key]: run for run in runs if (key := _training(run.result)) in by_training and key}
    if results:
        left_out = [run.result.checkpoint.label for run in runs if run not in evaluated.values()]
        notes = [f"{joined(left_out)}: left out, as not evaluated; measure with scale eval."] if left_out else []
        return Material(tuple(results), evaluated, tuple(notes))
    before = _before(runs)
    return Material((*before, *(run.result for run in runs)), dict(enumerate(runs, len(before))))


def _is_outside(file: Path, folders: Sequence[Path]) -> bool:
    return not any(folder in file.parents for folder in folders)


def _training(result: Result) -> tuple[str, int | None] | None:
    """The identity of the training that made a result's checkpoint, None if unknown."""
    info = replace(result.checkpoint, router=None)
    return None if info.identity is None else (info.identity, info.seed)


def _read_runs(folders: Sequence[Path]) -> Iterator[Run]:
    """The runs in their folders, with distinct labels: the ends of the folders' paths."""
    paths = [folder.resolve().parts[1:] for folder in folders]
    labels = shortest_ends(paths, "-") if folders else []
    for label, folder in zip(labels or (), folders, strict=True):
        try:
            lines = tuple(metric_lines(folder / METRICS))
            if (folder / RECORD).is_file():
                yield _finished(label, folder, lines)
            else:
                yield _unfinished(label, folder, lines)
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"{folder} is not a run of scale train: {error!r}") from error


def _finished(label: str, folder: Path, lines: tuple[Values, ...]) -> Run:
    record = read_record(folder / RECORD)
    fields = of_training(record)
    counts = {"total": record["total_parameters"], "trained": record["trained_parameters"]}
    info = CheckpointInfo(label, str(folder), None, _kind(fields["method"]), parameters=counts, **fields)
    provenance = {name: record.get(name) for name in ("created", "environment", "git")}
    tokens = record["tokens"] // record.get("steps", record["recipe"]["steps"])
    return Run(Result("scale train", info, tuple(measured(record)), None, provenance), lines, tokens)


def _unfinished(label: str, folder: Path, lines: tuple[Values, ...]) -> Run:
    """A run without its record: the values of its last measured step have no errors."""
    recipe = load_recipe(TrainRecipe, folder / RECIPE, {})
    last = next((line for line in reversed(lines) if any("/" in name for name in line)), {"step": 0})
    metrics = [
        {"name": name, "value": value, "stderr": None, "samples": 0, "higher_is_better": _is_higher_better(name)}
        for name, value in last.items()
        if "/" in name
    ]
    rate = {"lr": recipe.learning_rate}
    info = CheckpointInfo(label, str(folder), None, _kind(recipe.method), recipe.method, {}, rate)
    note = f"{label} is unfinished: values of step {last['step']:,} of {recipe.steps:,}."
    tokens = recipe.batch_size * recipe.gradient_accumulation_steps * recipe.seq_length if recipe.seq_length else None
    return Run(Result("scale train", info, tuple(measured({"metrics": metrics})), None, {"note": note}), lines, tokens)


def _kind(method: str) -> str:
    return METHODS[method].needs[0] if method in METHODS else "plain"


def _is_higher_better(name: str) -> bool:
    return name.partition("/")[2] not in TEXT_METRICS


def measured(record: Mapping[str, Any]) -> list[Measurement]:
    """The measurements in the record of a training, with the names of tasks of `scale eval`."""
    created = {"created": record["created"]} if "created" in record else {}
    measurements = [Measurement.read({**metric, **created}) for metric in record["metrics"]]
    routed = {m.task: m.value for m in measurements if m.metric == "routed"}
    texts = {m.task for m in measurements if m.metric in TEXT_METRICS}
    return [
        replace(
            m,
            task=f"{'perplexity' if m.task in texts else 'bios'}:{m.task}",
            routed=None if m.metric == "routed" else routed.get(m.task),
        )
        for m in measurements
    ]


def _before(runs: Sequence[Run]) -> list[Result]:
    """The base of the runs, by their values at step 0; nothing if these differ between runs, or without any."""
    known: dict[str, tuple[Measurement, float]] = {}
    for run in runs:
        for m in run.result.measurements:
            value = run.before.get(m.name)
            if value is None:
                continue
            if m.name in known and abs(value - known[m.name][1]) > SAME * abs(value):
                return []
            known.setdefault(m.name, (m, value))
    if not known or any((run.result.checkpoint.recipe or {}).get("from_scratch") for run in runs):
        return []
    info = CheckpointInfo(BASE, "the checkpoint before training", None, "plain", None, {})
    measurements = tuple(replace(m, value=value, stderr=None, routed=None) for m, value in known.values())
    note = "The base is measured at step 0 of the runs; the standard error of its values is not recorded."
    return [Result("scale train", info, measurements, None, {"note": note})]


def run_panels(table: Table, runs: Mapping[int, Run]) -> list[Panel]:
    """The curves of runs: the main metric of every text and of people, and the training loss.

    runs: by the position of their result in the table.
    """
    names = dict.fromkeys(
        m.name for run in runs.values() for m in run.result.measurements if m.metric == main_metric(m.task)
    )
    x = "training tokens" if all(run.step_tokens for run in runs.values()) else "steps"
    panels = []
    for name in [*names, "loss"]:
        series: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for row in table.rows:
            for at in row.results:
                if at in runs and (points := runs[at].points(name)):
                    seed = table.results[at].checkpoint.seed
                    series.setdefault(row.label, {})[str(at if seed is None else seed)] = points
        task, _, metric = name.partition("/")
        role = role_of_name(task.partition(":")[2])
        title = "Training loss" if name == "loss" else f"{task_words(task)}{f' ({role})' if role else ''}"
        unit = {"loss": "nats per token", "bits_per_byte": "bits per byte"}.get(metric or name, "accuracy, %")
        if series:
            panels.append(Panel(title[0].upper() + title[1:], x, unit, is_share(metric), series))
    return panels
