"""Hand-made results in the form of those of `scale eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scale_cli.results.groups import ColumnSpec, GroupSpec
from scale_cli.results.measurement import Items, Measurement
from scale_cli.results.result import CheckpointInfo, Result

KINDS = {"llama-pro": "depth", "scale-preserve": "width", "scale-adapt": "width", "scale-route": "width"}

STABLE = GroupSpec("en", "English", "stability", (ColumnSpec("a", "acc", "A"), ColumnSpec("b", "acc", "B")))
PLASTIC = GroupSpec("ko", "Korean", "plasticity", (ColumnSpec("k", "acc", "K"),))


def measured(task: str, value: float, stderr: float | None = 0.01, metric: str = "acc", **more: Any) -> Measurement:
    """A measurement of 100 items, zero-shot, in float32."""
    fields: dict[str, Any] = {
        "samples": 100,
        "higher_is_better": metric not in ("perplexity", "bits_per_byte"),
        "dtype": "float32",
        "batch_size": 8,
        "seconds": 1.5,
        "num_fewshot": 0,
        "task_version": "1.0",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Measurement(task=task, metric=metric, value=value, stderr=stderr, **(fields | more))


def result(
    label: str, method: str | None, measurements: Sequence[Measurement], *, seed: int | None = None, **record: Any
) -> Result:
    """A checkpoint's result with a whole recipe.

    record: other fields of its file; `options` go to the recipe, and `trained`, `training`, `base`, `data` and
        `compared` to the checkpoint.
    """
    recipe = {"steps": 10, **record.pop("options", {})} if method else None
    if recipe is not None and seed is not None:
        recipe["seed"] = seed
    checkpoint = CheckpointInfo(
        label=label,
        source=f"runs/{label}",
        fingerprint=label.encode().hex(),
        kind=KINDS.get(method or "", "plain"),
        method=method,
        parameters={"total": 1000, "trained": record.pop("trained", None)},
        recipe=recipe,
        base=record.pop("base", "b" * 64 if method else None),
        data=record.pop("data", {"text.jsonl": "d" * 64} if method else None),
        compared=record.pop("compared", None),
        training=record.pop("training", None),
    )
    return Result("scale eval", checkpoint, tuple(measurements), None, record)


def scored(label: str, method: str | None, scores: Mapping[str, Sequence[float]], folder: Path) -> Result:
    """A result saved with the scores of its items; each value is the mean of its items' scores."""
    measurements = []
    for task, values in scores.items():
        count = len(values)
        mean = sum(values) / count
        stderr = (sum((value - mean) ** 2 for value in values) / (count - 1) / count) ** 0.5
        measurements.append(measured(task, mean, stderr, samples=count))
        measurement = measurements[-1]
        Items(
            task=task,
            task_version=measurement.task_version,
            num_fewshot=measurement.num_fewshot,
            limit=measurement.limit,
            seed=measurement.seed,
            dtype=measurement.dtype,
            doc_ids=list(range(count)),
            scores={"acc": values},
        ).save(folder / label)
    return result(label, method, measurements).save(folder / label)
