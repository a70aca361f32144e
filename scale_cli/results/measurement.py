"""A measured number, and the scores of the single items that it is the mean of."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from scale_cli.core.files import to_json, write_text

ITEMS = "items"
HARNESS_SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mc1", "mc2", "pass@1")
BIOGRAPHY_SHARES = ("hard", "soft", "exact", "routed")
SHARES = frozenset((*HARNESS_SHARES, *BIOGRAPHY_SHARES))
"""Metrics whose values are shares from 0 to 1, which tables show in percent."""


class Way(NamedTuple):
    """How a number was measured: the numbers of a table's column agree in it."""

    task: str
    metric: str
    filter: str
    task_version: str | None
    num_fewshot: int | None
    limit: int | None
    seed: int | None

    @property
    def column(self) -> str:
        """Its name among the columns of a table."""
        return ":".join(str(part) for part in self if part not in (None, ""))


@dataclass(frozen=True)
class Measurement:
    """One number.

    task: of the harness, or "perplexity:NAME", "drift", "drift:NAME", "bios:NAME"; while training the
        name of the text or people.
    metric, filter: the harness's words.
    stderr: standard error of `value`, in its unit; None where none can be given. samples: items it is the mean of.
    paired_stderr: standard error of the change against the checkpoint `CheckpointInfo.compared`, paired by item; None
        where it has not been computed.
    num_fewshot, limit: None where the task knows none; limit also where all items were measured.
    dtype, batch_size, seconds: None where they were not recorded. seconds: of the task, which all its metrics share.
    routed: under a router, the share of scored tokens that took the preserve branch.
    details: whatever else belongs to it. created: when it had ended, in UTC.
    """

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
        """From a record: an entry of `measurements`, or of a run's `metrics`, which has a name. Null is NaN."""
        values = dict(entry)
        if "name" in values:
            values["task"], _, values["metric"] = values.pop("name").partition("/")
        return cls(**(values | {"value": math.nan if values["value"] is None else values["value"]}))

    @property
    def way(self) -> Way:
        return Way(*(getattr(self, name) for name in Way._fields))

    @property
    def key(self) -> tuple[Way, str | None]:
        """What has to agree for a measurement of a checkpoint to count as done."""
        return self.way, self.dtype

    @property
    def name(self) -> str:
        """TASK/METRIC, as a training run's metrics are called."""
        return f"{self.task}/{self.metric}"

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.value)

    def as_metric(self) -> dict[str, Any]:
        """The entry in the `metrics` of a training run's record."""
        shown = ("value", "stderr", "samples", "higher_is_better", "task_version", "num_fewshot")
        return {"name": self.name, **{name: getattr(self, name) for name in shown}}


def is_share(metric: str) -> bool:
    """Whether a metric's values are shares; "hard/birthday" is the metric "hard" of one attribute."""
    return metric.partition("/")[0] in SHARES


@dataclass(frozen=True)
class Items:
    """The scores of a task's single items, for paired tests between checkpoints.

    doc_ids: the harness's numbers of the items; of a group's, "task/number"; of a text its documents', from 0.
    scores: by metric ("metric,filter" where a task has filters), in the order of doc_ids.
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
        """What a measurement's scores are called: its metric, with its filter if the task has some."""
        return measurement.metric if measurement.filter == "none" else f"{measurement.metric},{measurement.filter}"

    def save(self, folder: Path) -> None:
        """Write `folder`/items/<task>.json, in place of what an earlier measurement of the task has left."""
        path = _items_path(folder, self.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "scores"}
        write_text(path, to_json({**known, **self.scores}) + "\n")


def items_in(folder: Path, measurement: Measurement) -> dict[int | str, float] | None:
    """The score of each item that a measurement is the mean of, by doc id, from a checkpoint's result folder.

    None where none were kept, or only those of a later measurement of the task with other shots, limit, ....
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
    """The standard error of a share of `count` items that count 0 or 1, sqrt(p (1 - p) / (n - 1)), as the harness gives
    it; None for a single item."""
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None


def now() -> str:
    """The time in UTC, as records have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _items_path(folder: Path, task: str) -> Path:
    return folder / ITEMS / f"{task.replace('/', '_')}.json"
