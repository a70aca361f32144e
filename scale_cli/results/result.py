"""The numbers of a checkpoint: what was measured, of what, by which call; and the records that hold them.

    OUT/<label>/result.json         of `scale eval`: a result, rewritten whole after every finished task
    OUT/<label>/items/<task>.json   one score per item, for paired tests
    OUT/results.json                of `scale bench`: a list of results, and the recipe that they are of

Values are in the metrics' own units (accuracies from 0 to 1); only tables show percent. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.records import digest, environment, git_state, read_record, write_record
from scale_cli.results.measurement import Measurement, items_in, now
from scale_cli.results.schema1 import upgraded

KIND = "evaluation"
FILE, BENCH_FILE = "result.json", "results.json"
PLACES = ("tokens_cache",)
"""Options of a training that say where something is kept, and change nothing of the training."""
SEED_WORD = re.compile(r"[\W_]*seed[\W_]*\d+[\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class CheckpointInfo:
    """What was measured.

    label: its name in tables and in the result folder. source: the folder or hub id as it was given.
    fingerprint: of its weights, config and tokenizer, as hex: two checkpoints with the same one are the same model.
    kind: "plain", "width" or "depth". method: what trained it, None where nothing of ours did.
    parameters: "total", and "trained" (None where no method of ours trained it).
    recipe: of the latest training, as much as is known; whole and resolved where `base` is known too.
    base: fingerprint of the checkpoint that training began from, or its hub id; where a benchmark makes it anew for
        each seed, that of the recipe that makes it. None where the training's record is not there.
    data: fingerprints of what was trained on and measured meanwhile, by source as the recipe has it.
    compared: fingerprint of the checkpoint that the measurements' `paired_stderr` compare with.
    training: "tokens", "seconds" and "peak_memory_bytes" of that training, None where its record is not there.
    """

    label: str
    source: str
    fingerprint: str | None
    kind: str
    method: str | None
    parameters: Mapping[str, int | None]
    recipe: Mapping[str, Any] | None = None
    base: str | None = None
    data: Mapping[str, str] | None = None
    compared: str | None = None
    training: Mapping[str, float] | None = None

    @property
    def seed(self) -> int | None:
        """The seed of the training, or else the one in the label; None where neither says one."""
        seed = (self.recipe or {}).get("seed")
        if isinstance(seed, int):
            return seed
        named = SEED_WORD.search(self.label)
        return int(re.sub(r"\D", "", named[0])) if named else None

    @property
    def stem(self) -> str:
        """The label but for the seed in it: "seed-0-fft" and "fft (seed 1)" are both "fft"."""
        return SEED_WORD.sub("-", self.label).strip("-") or self.label

    @property
    def identity(self) -> str | None:
        """What two checkpoints have in common that are repetitions of one training: the whole resolved recipe but for
        the seed, and the fingerprints of base and data. None where one of these is not known.

        Files are known by their fingerprints: the data of each seed may lie in a folder of its own.
        """
        if self.recipe is None or self.base is None or self.data is None:
            return None
        sources = sorted(self.data, key=len, reverse=True)  # a path before those that it begins with

        def known(value: Any) -> Any:
            if isinstance(value, str):
                found = next((source for source in sources if source in value), None)
                return value if found is None else value.replace(found, self.data[found])  # type: ignore[index]
            return [known(part) for part in value] if isinstance(value, list | tuple) else value

        recipe = {name: known(value) for name, value in self.recipe.items() if name not in ("seed", *PLACES)}
        return digest([self.kind, self.method, recipe, self.base, sorted(self.data.values())])


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
        record: dict[str, Any] = {"created": now(), "environment": environment(), "git": git_state()}
        if self.measurements:
            before = {name: self.record.get(name) for name in record} | {"command": self.command}
            record["earlier"] = [*self.record.get("earlier", ()), before]
        return dataclasses.replace(self, command=command, record=record)

    def with_routed(self) -> Result:
        """With the shares of tokens that took the preserve branch as measurements of their own, one per task."""
        known = {m.task for m in self.measurements if m.metric == "routed"}
        routed = {m.task: m for m in reversed(self.measurements) if m.routed is not None and m.task not in known}
        more = (
            dataclasses.replace(m, metric="routed", filter="none", value=m.routed, stderr=None, higher_is_better=True)
            for m in routed.values()
            if m.routed is not None
        )
        return dataclasses.replace(self, measurements=(*self.measurements, *more))

    def call_of(self, measurement: Measurement) -> dict[str, Any]:
        """The call that made a measurement, the last one created before it: command, created, environment and git."""
        names = ("command", "created", "environment", "git")
        calls = [*self.record.get("earlier", ()), {**self.record, "command": self.command}]
        before = [call for call in calls if (call.get("created") or "") <= measurement.created] or calls[-1:]
        return {name: before[-1].get(name) for name in names}

    def as_record(self) -> dict[str, Any]:
        """The fields of the result's file, in builtins."""
        fields = {"command": self.command, "checkpoint": self.checkpoint, "measurements": self.measurements}
        return dict(plain({**fields, **self.record}))

    def save(self, folder: Path) -> Result:
        """Write `folder`/result.json whole or not at all, and give the result as it is there."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        write_record(path, kind=KIND, **self.as_record())
        return dataclasses.replace(self, path=path)


def write_results(path: Path, results: Sequence[Result], **fields: Any) -> None:
    """Write a benchmark's record: its results, and the fields `command`, `recipe`, `seconds` and what else there is.

    groups: the columns that belong together (`GroupSpec`). curves: panels of training curves, as a report shows them.
    """
    entries = [{"checkpoint": result.checkpoint, "measurements": result.measurements} for result in results]
    write_record(path, kind=KIND, results=entries, **fields)


def read_items(result: Result, measurement: Measurement) -> dict[int | str, float] | None:
    """The score of each item that a measurement is the mean of, by doc id; None where they were not kept."""
    return None if result.path is None else items_in(result.path.parent, measurement)


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results in files and folders, in their order; those of a folder by path.

    paths: each a result.json, a record with a list `results` of them, the run folder of a benchmark, or a folder with
        result.json at any depth.
    Raises RequestError for a path that is missing or holds no results.
    """
    results = []
    for path in paths:
        if (path / BENCH_FILE).is_file():
            files = [path / BENCH_FILE]
        elif path.is_dir():
            files = sorted(path.rglob(FILE))
            if not files:
                raise RequestError(f"{path} holds no {FILE}; make one with: scale eval CHECKPOINT --out {path}")
        elif path.exists():
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
        return parse_results(read_record(path), path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    except KeyError as error:
        raise RequestError(f"{path} is no result of scale eval: the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{path} is no result of scale eval: {error}") from error


def parse_results(record: Mapping[str, Any], path: Path | None = None) -> list[Result]:
    """The results in a record's fields. Raises ValueError, KeyError or TypeError where they are not such."""
    record = upgraded(record)
    if record.get("kind") != KIND:
        raise ValueError(f"its kind is {record.get('kind')!r} and not {KIND!r}")
    shared = {name: value for name, value in record.items() if name not in ("schema", "kind", "results")}
    entries = record.get("results")
    return [_parse(shared | entry, path) for entry in ([{}] if entries is None else entries)]


def _parse(entry: Mapping[str, Any], path: Path | None) -> Result:
    measurements = tuple(map(Measurement.read, entry["measurements"]))
    rest = {name: value for name, value in entry.items() if name not in ("command", "checkpoint", "measurements")}
    return Result(entry["command"], CheckpointInfo(**entry["checkpoint"]), measurements, path, rest)


def repetitions(results: Sequence[Result]) -> list[list[int]]:
    """The positions of the results, those together that are repetitions of one training: the same identity, and each
    another seed. Where a seed stands twice in one identity, labels without the seed tell the repetitions apart."""
    rows: list[list[int]] = []
    by_identity: dict[object, list[int]] = {}
    for index, result in enumerate(results):
        identity = result.checkpoint.identity
        by_identity.setdefault(identity or index, []).append(index)
    for indices in by_identity.values():
        rows += _split(results, indices)
    return sorted(rows)


def _split(results: Sequence[Result], indices: Sequence[int]) -> list[list[int]]:
    by_stem: dict[str, list[int]] = {}
    for index in indices:
        by_stem.setdefault(results[index].checkpoint.stem, []).append(index)
    return [
        row
        for found in ([list(indices)] if _differ(results, indices) else by_stem.values())
        for row in ([found] if _differ(results, found) else [[index] for index in found])
    ]


def _differ(results: Sequence[Result], indices: Sequence[int]) -> bool:
    """Whether each result has a seed, and another one than the others."""
    seeds = [results[index].checkpoint.seed for index in indices]
    return None not in seeds and len(set(seeds)) == len(seeds)
