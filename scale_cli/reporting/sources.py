"""What a report is made of, read from files: results of `scale eval`, and records of the biography benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS
from scale_cli.reporting.build import ColumnSpec, GroupSpec
from scale_cli.reporting.curves import Panel, biography_panels, read_panels
from scale_cli.reporting.statistics import proportion_error
from scale_cli.results.result import CheckpointInfo, Measurement, Result, read_results

BENCH_FILE = "results.json"
"""What `scale bench bios` leaves in its run folder."""
ATTRIBUTES = 6
"""Questions on each person."""

BIOGRAPHY_GROUPS = (
    GroupSpec("bios-task0", "Task 0", "stability", (ColumnSpec("bios:task0", "hard", "accuracy"),)),
    GroupSpec("bios-task1", "Task 1", "plasticity", (ColumnSpec("bios:task1", "hard", "accuracy"),)),
    GroupSpec(
        "bios-exact",
        "whole answers",
        None,
        (ColumnSpec("bios:task0", "exact", "Task 0 exact"), ColumnSpec("bios:task1", "exact", "Task 1 exact")),
        average=False,
    ),
)


@dataclass(frozen=True)
class Sources:
    """results: of all files. groups: columns that come with them. panels: curves of their training."""

    results: tuple[Result, ...]
    groups: tuple[GroupSpec, ...]
    panels: tuple[Panel, ...]


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read what `read_results` takes, and records and run folders of `scale bench bios`.

    Raises RequestError for a path that is missing or is neither.
    """
    results: list[Result] = []
    groups: list[GroupSpec] = []
    panels: list[Panel] = []
    for path in paths:
        file = path / BENCH_FILE if (path / BENCH_FILE).is_file() else path
        record = _bench_record(file)
        if record is None:
            read = read_results([path])
            panels += _panels_of(read, path)
            groups += [group for group in _groups_of(read, path) if group not in groups]
        else:
            try:
                read = _biography_results(record, file)
                panels += biography_panels(record["curves"]) if record.get("curves") else []
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RequestError(f"{file} is no record of scale bench bios: {error!r}") from error
            groups += [group for group in BIOGRAPHY_GROUPS if group not in groups]
        results += read
    return Sources(tuple(results), tuple(groups), tuple(panels))


def _bench_record(file: Path) -> dict[str, Any] | None:
    """The record of a biography benchmark in a file; None where it holds something else, if anything."""
    try:
        record = read_record(file) if file.is_file() else {}
    except (OSError, UnicodeDecodeError, ValueError):
        return None  # which read_results says better
    return record if {"rows", "recipe"} <= record.keys() and "results" not in record else None


def _panels_of(results: Sequence[Result], path: Path) -> list[Panel]:
    """The curves in results' records, each once."""
    found = {
        json.dumps(result.record["curves"], sort_keys=True): None for result in results if result.record.get("curves")
    }
    try:
        return [panel for curves in found for panel in read_panels(json.loads(curves))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path}: its curves are not those of a report: {error!r}") from error


def _groups_of(results: Sequence[Result], path: Path) -> list[GroupSpec]:
    """The columns that belong together, as results' records say, each once."""
    found = {json.dumps(group, sort_keys=True): None for r in results for group in r.record.get("groups") or ()}
    try:
        groups = map(json.loads, found)
        return [
            GroupSpec(**group | {"columns": tuple(ColumnSpec(**column) for column in group["columns"])})
            for group in groups
        ]
    except (KeyError, TypeError) as error:
        raise RequestError(f"{path}: its groups are not those of a report: {error!r}") from error


def _biography_results(record: Mapping[str, Any], file: Path) -> list[Result]:
    """A result for each row of a biography benchmark, and one for the checkpoint of each seed before Task 1."""
    recipe = record["recipe"]
    asked = recipe["eval_people"] or math.inf
    questions = {
        "task0": ATTRIBUTES * min(asked, recipe["pretrain_people"] - recipe["pretrain_people"] // 2),
        "task1": ATTRIBUTES * min(asked, recipe["task1_people"]),
    }
    provenance = {name: record.get(name) for name in ("created", "environment", "git", "recipe")}
    several = len({row["seed"] for row in record["rows"]}) > 1

    def measurement(task: str, metric: str, value: float, routed: float | None = None) -> Measurement:
        samples = int(questions[task])
        return Measurement(
            task=f"bios:{task}",
            metric=metric,
            value=value,
            stderr=proportion_error(value, samples),
            samples=samples,
            higher_is_better=True,
            dtype="",
            batch_size="",
            seconds=math.nan,
            routed=routed,
            created=record["created"],
        )

    def result(label: str, row: Mapping[str, Any], measurements: list[Measurement], *, trained: bool) -> Result:
        checkpoint = CheckpointInfo(
            label=f"{label} (seed {row['seed']})" if several else label,
            source=str(file),
            fingerprint="",
            kind=METHODS[row["method"]].needs[0] if trained else "plain",
            method=row["method"] if trained else None,
            parameters={"total": None, "trained": row["trained_parameters"] if trained else None},
            options={"seed": row["seed"]} | ({"lr": row["learning_rate"]} if trained else {}),
            training={"seconds": row["seconds"]} if trained else None,
        )
        return Result(record["command"], checkpoint, tuple(measurements), file, provenance)

    results = []
    for seed in dict.fromkeys(row["seed"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["seed"] == seed]
        before = [measurement("task0", "hard", rows[0]["task0_before"])]
        first = next((runs[str(seed)][0] for runs in record.get("curves", {}).values() if str(seed) in runs), None)
        if first is not None and first[0] == 0:
            before.append(measurement("task1", "hard", first[2]))
        results.append(result("before Task 1", rows[0], before, trained=False))
        for row in rows:
            after = [
                measurement(task, metric, row[name], row[f"routed_{task}"])
                for task in ("task0", "task1")
                for metric, name in (("hard", task), ("exact", f"exact_{task}"))
            ]
            results.append(result(row["label"], row, after, trained=True))
    return results
