"""Results as one tidy table, one row per measurement of each result. Every other table is a view of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from scale_cli.results.groups import GroupSpec, role_of
from scale_cli.results.result import Result

CHECKPOINT = ("label", "stem", "kind", "method", "seed", "identity", "source", "fingerprint")
MEASUREMENT = (
    *("task", "metric", "filter", "task_version", "num_fewshot", "limit", "dtype", "batch_size", "seconds"),
    *("value", "stderr", "paired_stderr", "samples", "higher_is_better", "routed", "details", "created"),
)
NUMBERS = ("value", "stderr", "paired_stderr", "routed", "seconds")


def tidy(results: Sequence[Result], groups: Iterable[GroupSpec] = ()) -> pd.DataFrame:
    """One row per measurement, in the order of the results.

    groups: give measurements their roles.
    Returns the columns
        result: position of the result.
        CHECKPOINT: fields of `CheckpointInfo`; `seed` is the training's.
        reported: source of a number that was not measured here, else None.
        MEASUREMENT: fields of `Measurement`; values and errors in the metric's unit.
        draw: seed of the few-shot examples.
        column: key shared by numbers measured in the same way (`Way`); precision is not part of it.
        role: "stability", "plasticity" or None.
        command, commit, clean: call, git commit and state of the work tree that made the number.
    """
    groups = tuple(groups)
    rows = []
    for index, result in enumerate(results):
        info = {name: getattr(result.checkpoint, name) for name in CHECKPOINT}
        for measurement in result.measurements:
            call = result.call_of(measurement)
            git = call["git"] or {}
            rows.append(
                {
                    "result": index,
                    **info,
                    "reported": result.record.get("reported"),
                    **{name: getattr(measurement, name) for name in MEASUREMENT},
                    "draw": measurement.seed,
                    "column": measurement.way.column,
                    "role": role_of(measurement.task, measurement.metric, groups),
                    "command": call["command"],
                    "commit": git.get("commit"),
                    "clean": git.get("clean"),
                }
            )
    columns = ["result", *CHECKPOINT, "reported", *MEASUREMENT, "draw", "column", "role", "command", "commit", "clean"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    return table.astype(dict.fromkeys(NUMBERS, float) | {"result": int})
