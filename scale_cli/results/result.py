"""What an evaluation leaves behind: for each checkpoint a record of its measurements, and the scores of single items.

    OUT/<label>/result.json         what was measured, rewritten whole after every finished task
    OUT/<label>/items/<task>.json   one score an item, for paired tests

Values are those of whatever measured them (accuracies from 0 to 1); only tables show percent. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json, write_text
from scale_cli.core.records import environment, git_state, read_record, write_record

KIND = "evaluation"
FILE = "result.json"
ITEMS = "items"


@dataclass(frozen=True)
class CheckpointInfo:
    """What was measured.

    label: its name in tables and in the result folder. source: the folder or hub id as it was given.
    fingerprint: of its weights, config and tokenizer, as hex: two checkpoints with the same one are the same model.
    kind: "plain", "width" or "depth". method: what trained it, None where nothing of ours did.
    parameters: "total", and "trained" (None where no method of ours trained it).
    options: of the latest training, None where there was none: what its method was told, steps, lr, ..., and "seed", in
        which alone the repetitions of a run differ.
    training: "tokens" and "seconds" of that training, None where its record is not there.
    """

    label: str
    source: str
    fingerprint: str
    kind: str
    method: str | None
    parameters: Mapping[str, int | None]
    options: Mapping[str, Any] | None = None
    training: Mapping[str, float] | None = None


class Key(NamedTuple):
    """What has to agree for a measurement of a checkpoint to count as done."""

    task: str
    metric: str
    filter: str
    task_version: str | None
    num_fewshot: int | None
    limit: int | None
    seed: int | None
    dtype: str


@dataclass(frozen=True)
class Measurement:
    """One number.

    task: of the harness, or "perplexity:NAME", "drift", "bios:NAME". metric, filter: the harness's words.
    stderr: standard error of `value`, in its unit; None where none can be given. samples: items it is the mean of.
    num_fewshot, limit: None where the task knows none; limit also where all items were measured.
    seconds: that the task took, which all its metrics share. created: when it had ended, in UTC.
    routed: under a router, the share of scored tokens that took the preserve branch.
    details: whatever else belongs to it.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    samples: int
    higher_is_better: bool
    dtype: str
    batch_size: int | str
    seconds: float
    filter: str = "none"
    task_version: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    seed: int | None = None
    routed: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: _now())

    @property
    def key(self) -> Key:
        return Key(*(getattr(self, name) for name in Key._fields))


@dataclass(frozen=True)
class Result:
    """All measurements of one checkpoint.

    command: of the latest call. path: the file they were read from or written to, None where there is none.
    record: the file's other fields: created, environment and git of the latest call, and in `earlier` the same of the
        calls before it that measured something; a measurement belongs to the last call created before it.
    """

    command: str
    checkpoint: CheckpointInfo
    measurements: tuple[Measurement, ...] = ()
    path: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def find(self, task: str, metric: str | None = None, filter: str | None = None) -> list[Measurement]:
        """The measurements of a task, in the order in which they were made; metric, filter: only with these."""
        return [
            m for m in self.measurements if m.task == task and metric in (None, m.metric) and filter in (None, m.filter)
        ]

    def adding(self, new: Iterable[Measurement]) -> Result:
        """With new measurements at the end, each instead of one with its key that is there."""
        new = list(new)
        keys = {m.key for m in new}
        return dataclasses.replace(self, measurements=(*(m for m in self.measurements if m.key not in keys), *new))

    def called_again(self, command: str) -> Result:
        """The same for a new call, which is what will have made the measurements that are added from now on."""
        record: dict[str, Any] = {"created": _now(), "environment": environment(), "git": git_state()}
        if self.measurements:
            before = {name: self.record.get(name) for name in record} | {"command": self.command}
            record["earlier"] = [*self.record.get("earlier", ()), before]
        return dataclasses.replace(self, command=command, record=record)

    def save(self, folder: Path) -> Result:
        """Write `folder`/result.json whole or not at all, and give the result as it is there."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        fields = {"kind": KIND, "command": self.command, "checkpoint": self.checkpoint}
        write_record(path, **fields, measurements=self.measurements, **self.record)
        return dataclasses.replace(self, path=path)


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
    dtype: str
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
        fields = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name != "scores"}
        write_text(path, to_json({**fields, **self.scores}) + "\n")


def read_items(result: Result, measurement: Measurement) -> dict[int | str, float] | None:
    """The score of each item that a measurement is the mean of, by doc id.

    None where none were kept, or only those of a later measurement of the task with other shots, limit, ....
    """
    path = None if result.path is None else _items_path(result.path.parent, measurement.task)
    if path is None or not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    same = ("task_version", "num_fewshot", "limit", "seed", "dtype")
    name = Items.name_of(measurement)
    if name not in stored or any(stored[name] != getattr(measurement, name) for name in same):
        return None
    return dict(zip(stored["doc_ids"], stored[name], strict=True))


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results in files and folders, in their order; those of a folder by path.

    paths: each a result.json, a folder with such files at any depth, or a record with a list `results` of them.
    Raises RequestError for a path that is missing or holds no results.
    """
    results = []
    for path in paths:
        if path.is_dir():
            files = sorted(path.rglob(FILE))
            if not files:
                raise RequestError(f"{path} holds no {FILE}; make one with: scale eval CHECKPOINT --out {path}")
        elif path.is_file():
            files = [path]
        else:
            raise RequestError(f"{path}: no such file or folder; give results of: scale eval CHECKPOINT --out DIR")
        for file in files:
            results += _read(file)
    return results


def read_result(folder: Path) -> Result | None:
    """The result in a checkpoint's result folder, None where there is none yet."""
    path = folder / FILE
    if not path.is_file():
        return None
    (result,) = _read(path)
    return result


def _read(path: Path) -> list[Result]:
    try:
        record = read_record(path)
        entries = record.pop("results", None)
        return [_parse(record, path)] if entries is None else [_parse(record | entry, path) for entry in entries]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise RequestError(f"{path} is no result of scale eval: the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path} is no result of scale eval: {error}") from error


def _parse(record: Mapping[str, Any], path: Path) -> Result:
    """A result from a record's fields. Raises ValueError, KeyError or TypeError where they are not a result's."""
    if record.get("kind") != KIND:
        raise ValueError(f"its kind is {record.get('kind')!r} and not {KIND!r}")
    measurements = tuple(
        Measurement(**(entry | {"value": math.nan if entry["value"] is None else entry["value"]}))
        for entry in record["measurements"]
    )
    known = ("schema", "kind", "command", "checkpoint", "measurements")
    rest = {name: value for name, value in record.items() if name not in known}
    return Result(record["command"], CheckpointInfo(**record["checkpoint"]), measurements, path, rest)


def _items_path(folder: Path, task: str) -> Path:
    return folder / ITEMS / f"{task.replace('/', '_')}.json"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
