"""A measured number, and the scores of its items."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from scale_cli.core.files import parsed, to_json, write_text

ITEMS = "items"
HARNESS_SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mc1", "mc2", "pass@1")
BIOGRAPHY_SHARES = ("hard", "soft", "exact", "routed", "kept", "kept_area", "recovered")
SHARES = frozenset((*HARNESS_SHARES, *BIOGRAPHY_SHARES))
"""Metrics with values from 0 to 1, shown in percent by tables."""


class Way(NamedTuple):
    """How a number was measured. All numbers of a table's column agree in it."""

    task: str
    metric: str
    filter: str
    task_version: str | None
    num_fewshot: int | None
    limit: int | None
    seed: int | None

    @property
    def column(self) -> str:
        """The key of its column: the fields that are set, joined by colons."""
        return ":".join(str(part) for part in self if part not in (None, ""))


@dataclass(frozen=True)
class Measurement:
    """A measured number.

    task: a task of the harness, or "perplexity:NAME", "drift", "drift:NAME", "bios:NAME"; during training, the name of
        the text or population.
    metric, filter: in the harness's words.
    value: in the metric's own unit, so an accuracy is from 0 to 1.
    stderr: standard error of `value`, in its unit; None if unknown. samples: number of items.
    paired_stderr: standard error of the change against the checkpoint `CheckpointInfo.compared`, paired by item; None
        if not computed.
    task_version: None if the task has no version. num_fewshot: examples in the prompt, None if the task has none.
    limit: number of items measured at most, None for all. seed: seed of the few-shot examples.
    dtype, batch_size, seconds: None if not recorded. seconds: duration of the task, shared by all its metrics.
    routed: share of scored tokens that took the preserve branch, or under a mixture router the base's mean weight in
        them; None without a router.
    details: other data, free in form. created: end of the measurement, UTC in ISO 8601.
    """

    __pydantic_config__ = {"extra": "forbid"}

    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int
    higher_is_better: bool
    dtype: str | None = None
    batch_size: int | str | None = None
    seconds: float | None = None
    filter: str = "none"
    task_version: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    seed: int | None = None
    routed: float | None = None
    paired_stderr: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: now())

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Measurement:
        """Parse an entry of a result's `measurements`, or of a run's `metrics`, which has a `name`.

        A null value is read as NaN. Raises ValueError for a missing or unknown field, or one of another type.
        """
        values = dict(entry)
        if "name" in values:
            values["task"], _, values["metric"] = str(values.pop("name")).partition("/")
        if "value" in values and values["value"] is None:
            values["value"] = math.nan
        return parsed(cls, values)

    @property
    def way(self) -> Way:
        return Way(*(getattr(self, name) for name in Way._fields))

    @property
    def key(self) -> tuple[Way, str | None]:
        """Identity among a checkpoint's measurements: a new measurement with the same key replaces the old one."""
        return self.way, self.dtype

    @property
    def name(self) -> str:
        """TASK/METRIC, the name in a training run's metrics."""
        return f"{self.task}/{self.metric}"

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.value)

    def as_metric(self) -> dict[str, Any]:
        """The entry of a training run's record in `metrics`."""
        shown = ("value", "stderr", "samples", "higher_is_better", "task_version", "num_fewshot")
        return {"name": self.name, **{name: getattr(self, name) for name in shown}}


def is_share(metric: str) -> bool:
    """Whether a metric's values are shares. "hard/birthday" is the metric "hard" of one attribute."""
    return metric.partition("/")[0] in SHARES


def main_metric(task: str) -> str | None:
    """The metric that is meant if only the task is named: of a text or a population; None for other tasks."""
    return {"perplexity": "bits_per_byte", "bios": "hard"}.get(task.partition(":")[0])


@dataclass(frozen=True)
class Items:
    """The scores of a task's items, for paired tests between checkpoints.

    doc_ids: the harness's item numbers; "task/number" for a task group; document numbers from 0 for a text.
    scores: one list per metric ("metric,filter" if the task has filters), in the order of doc_ids.
    """

    task: str
    task_version: str | None
    num_fewshot: int | None
    limit: int | None
    seed: int | None
    dtype: str | None
    doc_ids: Sequence[int | str]
    scores: Mapping[str, Sequence[float]]

    @staticmethod
    def name_of(measurement: Measurement) -> str:
        """The key of a measurement in `scores`: "metric", or "metric,filter" if the task has filters."""
        return measurement.metric if measurement.filter == "none" else f"{measurement.metric},{measurement.filter}"

    def save(self, folder: Path) -> None:
        """Write `folder`/items/<task>.json, over that of an earlier measurement of the task."""
        path = _items_path(folder, self.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "scores"}
        write_text(path, to_json({**known, **self.scores}) + "\n")


def items_in(folder: Path, measurement: Measurement) -> dict[int | str, float] | None:
    """The scores of a measurement's items by doc id, from a checkpoint's result folder.

    None if the folder has none, or has those of another measurement of the task: other version, shots, limit, seed or
    precision.
    """
    path = _items_path(folder, measurement.task)
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    same = ("task_version", "num_fewshot", "limit", "seed", "dtype")
    name = Items.name_of(measurement)
    if name not in stored or any(stored[name] != getattr(measurement, name) for name in same):
        return None
    return dict(zip(stored["doc_ids"], stored[name], strict=True))


def share_error(share: float, count: int) -> float | None:
    """The standard error of a share of `count` items with scores 0 or 1: sqrt(p (1 - p) / (n - 1)), the harness's
    formula. None for a single item.
    """
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None


def now() -> str:
    """The current time in UTC, ISO 8601 to the second, the format of records."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _items_path(folder: Path, task: str) -> Path:
    return folder / ITEMS / f"{task.replace('/', '_')}.json"
