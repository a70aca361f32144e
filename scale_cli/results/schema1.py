"""Conversion of records of schema 1, which are no longer written, to the current schema.

result.json      `scale eval`: the part of the recipe that the model card shows, as `options` of the checkpoint
rows, curves     `scale bench bios`: one row per method and seed; accuracies without errors or counts
rows, results    `scale bench korean|ablations`: errors of changes, tokens and memory in the rows only
rows             `scale sweep` of either benchmark
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scale_cli.core.files import plain
from scale_cli.core.records import digest
from scale_cli.results.groups import BIOGRAPHIES, text_group
from scale_cli.results.measurement import share_error

Record = Mapping[str, Any]
QUESTIONS = 6
"""Questions per person in the biographies of these records."""
ROLES = (("english", "stability"), ("korean", "plasticity"))
KINDS = {"llama-pro": "depth", "scale-preserve": "width", "scale-adapt": "width", "scale-route": "width"}


def upgraded(record: Record) -> Record:
    """A record of schema 1 with results in the current schema; any other record unchanged."""
    if record.get("schema") != 1:
        return record
    rows, recipe = record.get("rows"), record.get("recipe")
    if rows and recipe and "task0" in rows[0]:
        return _biographies(record)
    if rows and recipe and "bits" in rows[0]:
        return _texts(record)
    if "results" in record:
        return {**record, "results": [_evaluated(entry) for entry in record["results"]]}
    return _evaluated(record) if "checkpoint" in record else record


def _evaluated(entry: Record) -> Record:
    checkpoint = dict(entry["checkpoint"])
    if "options" in checkpoint:
        checkpoint["recipe"] = checkpoint.pop("options")
    return {**entry, "checkpoint": checkpoint}


def _repetition(record: Record, row: Record) -> dict[str, Any]:
    """A recipe shared by a row's repetitions only: the options of its label, and a digest of recipe and record."""
    recipe = record["recipe"]
    shared = {name: value for name, value in recipe.items() if name not in ("methods", "seeds")}
    own = {name: value for name, value in recipe["methods"].get(row["label"], {}).items() if name != "of"}
    bench = digest([shared, record["created"]])
    return {**own, "method": row["method"], "seed": row["seed"], "lr": row["learning_rate"], "bench": bench}


def _biographies(record: Record) -> Record:
    """A record of `scale bench bios`. Counts and standard errors are computed from the recipe."""
    recipe = record["recipe"]
    asked = recipe["eval_people"] or math.inf
    counts = {
        "task0": QUESTIONS * int(min(asked, recipe["pretrain_people"] - recipe["pretrain_people"] // 2)),
        "task1": QUESTIONS * int(min(asked, recipe["task1_people"])),
    }
    curves = record.get("curves") or {}
    several = len({row["seed"] for row in record["rows"]}) > 1

    def measured(task: str, metric: str, value: float, routed: float | None = None) -> dict[str, Any]:
        samples = counts[task]
        number = {"value": value, "stderr": share_error(value, samples), "samples": samples, "routed": routed}
        shared = {"higher_is_better": True, "created": record["created"]}
        return {"task": f"bios:{task}", "metric": metric, **number, **shared}

    def entry(label: str, row: Record, measurements: list[dict[str, Any]], *, trained: bool) -> dict[str, Any]:
        own = _repetition(record, row)
        checkpoint = {
            "label": f"{label} (seed {row['seed']})" if several else label,
            "source": f"seed-{row['seed']}/{label if trained else 'task0'}",
            "fingerprint": None,
            "kind": KINDS.get(row["method"], "plain") if trained else "plain",
            "method": row["method"] if trained else None,
            "parameters": {"total": None, "trained": row["trained_parameters"] if trained else None},
            "recipe": own if trained else {"seed": row["seed"], "bench": own["bench"]},
            "base": own["bench"],
            "data": {},
            "training": {"seconds": row["seconds"]} if trained else None,
        }
        return {"checkpoint": checkpoint, "measurements": measurements}

    results = []
    for seed in dict.fromkeys(row["seed"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["seed"] == seed]
        before = [measured("task0", "hard", rows[0]["task0_before"])]
        first = next((runs[str(seed)][0] for runs in curves.values() if str(seed) in runs), None)
        if first is not None and first[0] == 0:
            before.append(measured("task1", "hard", first[2]))
        results.append(entry("before Task 1", rows[0], before, trained=False))
        for row in rows:
            after = [
                measured(task, metric, row[name], row[f"routed_{task}"])
                for task in counts
                for metric, name in (("hard", task), ("exact", f"exact_{task}"))
            ]
            after += [
                measured(task, "routed", row[f"routed_{task}"]) for task in counts if row[f"routed_{task}"] is not None
            ]
            results.append(entry(row["label"], row, after, trained=True))
    titles = ("Task 0, held-out people (stability)", "Task 1 (plasticity)")
    panels = [
        {
            "title": title,
            "x": "steps of Task 1",
            "unit": "hard first-token accuracy, %",
            "percent": True,
            "series": {
                label: {str(seed): [[point[0], point[index]] for point in run] for seed, run in runs.items()}
                for label, runs in curves.items()
            },
        }
        for index, title in enumerate(titles, start=1)
    ]
    rest = {name: value for name, value in record.items() if name not in ("rows", "curves")}
    groups = plain(BIOGRAPHIES)
    return {**rest, "kind": "evaluation", "results": results, "groups": groups, "curves": panels if curves else []}


def _texts(record: Record) -> Record:
    """A record of `scale bench korean|ablations`, or of a sweep, which has rows only."""
    rows = record["rows"]
    entries: Sequence[Record] = record.get("results") or [_from_row(record, row) for row in rows]
    compared = entries[0]["checkpoint"]["fingerprint"]
    results = []
    for row, entry in zip(rows, entries, strict=True):
        checkpoint = dict(_evaluated(entry)["checkpoint"])
        measurements = [dict(measured) for measured in entry["measurements"]]
        if row["method"] is not None:
            training = {name: row[name] for name in ("tokens", "seconds", "peak_memory_bytes")}
            recipe = {**(checkpoint["recipe"] or {}), **_repetition(record, row)}
            checkpoint |= {"recipe": recipe, "base": recipe["bench"], "data": {}, "compared": compared}
            checkpoint |= {"training": training}
            _add_paired_errors(row, measurements)
        results.append({"checkpoint": checkpoint, "measurements": measurements})
    groups = record.get("groups") or [plain(text_group(name, role)) for name, role in ROLES]  # type: ignore[arg-type]
    rest = {name: value for name, value in record.items() if name != "rows"}
    return {**rest, "kind": "evaluation", "results": results, "groups": groups}


def _add_paired_errors(row: Record, measurements: Sequence[dict[str, Any]]) -> None:
    """Set the paired errors of bits per byte, and those of perplexity, whose logarithm is proportional to the bits."""
    for text, error in row["change_stderr"].items():
        if error is not None:
            perplexity = row["perplexity"][text]
            by_logarithm = perplexity * math.log(perplexity) * error / row["bits"][text]
            errors = {"bits_per_byte": error, "perplexity": by_logarithm}
            for measured in measurements:
                if measured["task"] == f"perplexity:{text}" and measured["metric"] in errors:
                    measured["paired_stderr"] = errors[measured["metric"]]


def _from_row(record: Record, row: Record) -> dict[str, Any]:
    """A result from a row of a sweep, whose record has no results."""
    measurements = [
        {
            "task": f"perplexity:{text}",
            "metric": metric,
            "value": row[field][text],
            "stderr": row["bits_stderr"][text] if field == "bits" else None,
            "samples": record["recipe"]["documents"][text],
            "higher_is_better": False,
            "routed": row["routed"][text],
            "created": record["created"],
        }
        for text in row["bits"]
        for field, metric in (("bits", "bits_per_byte"), ("perplexity", "perplexity"))
    ]
    checkpoint = {
        "label": row["label"],
        "source": row["label"] if row["seed"] is None else f"seed-{row['seed']}/{row['label']}",
        "fingerprint": None,
        "kind": KINDS.get(row["method"] or "", "plain"),
        "method": row["method"],
        "parameters": {"total": None, "trained": row["trained_parameters"]},
        "recipe": None,
    }
    return {"checkpoint": checkpoint, "measurements": measurements}
