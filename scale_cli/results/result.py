"""The measurements of a checkpoint with their provenance, and the records that hold them.

    OUT/<label>/result.json         `scale eval`: one result, rewritten as a whole after every finished task
    OUT/<label>/items/<task>.json   `scale eval`: one score per item, for paired tests
    OUT/results.json                `scale bench`: a list of results, and the benchmark's recipe

Values are in the metrics' own units, so accuracies are from 0 to 1; only tables show percent. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from scale_cli.core.errors import RequestError
from scale_cli.core.files import check_fields, parsed, plain
from scale_cli.core.records import digest, environment, git_state, read_record, write_record
from scale_cli.results.measurement import Measurement, items_in, now
from scale_cli.results.schema1 import upgraded

KIND = "evaluation"
FILE, BENCH_FILE = "result.json", "results.json"
PLACES = ("tokens_cache",)
"""Options of a training that name a place and do not affect its outcome."""
SAMPLED = "self"
"""The name of data that the base samples, which follow from the base, the recipe and the seed."""
SEED_WORD = re.compile(r"[\W_]*seed[\W_]*\d+[\W_]*", re.IGNORECASE)


@dataclass(frozen=True)
class CheckpointInfo:
    """The measured checkpoint.

    label: name in tables and of the result folder. source: folder or hub id, as given.
    fingerprint: digest of weights, config and tokenizer, in hex; equal fingerprints mean the same model.
    kind: "plain", "width" or "depth". method: the method that trained it, None without one of ours.
    parameters: counts "total" and "trained"; "trained" is None without a method.
    recipe: recipe of the latest training, as far as known; whole and resolved if `base` is known too.
    base: fingerprint or hub id of the checkpoint that training started from; the digest of the recipe that makes it if
        a benchmark makes one per seed. None without the training's record.
    data: fingerprints of the data for training and for measurements during training, by their source in the recipe.
    compared: fingerprint of the checkpoint that the measurements' `paired_stderr` refer to.
    training: "tokens", "seconds" and "peak_memory_bytes" of the training, None without its record.
    companions: digest of the files beside the weights that change what is measured: those of the tokenizer and of
        generation. None in results of earlier versions.
    router: the router that was chosen for the measurement, as on the command line; None for the checkpoint's own.
    """

    __pydantic_config__ = {"extra": "forbid"}

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
    companions: str | None = None
    router: str | None = None

    @property
    def seed(self) -> int | None:
        """The seed of the training, else the number after "seed" in the label, else None."""
        seed = (self.recipe or {}).get("seed")
        if isinstance(seed, int):
            return seed
        named = SEED_WORD.search(self.label)
        return int(re.sub(r"\D", "", named[0])) if named else None

    @property
    def stem(self) -> str:
        """The label without its seed: "fft" for both "seed-0-fft" and "fft (seed 1)"."""
        return SEED_WORD.sub("-", self.label).strip("-") or self.label

    @property
    def identity(self) -> str | None:
        """A digest that is equal for repetitions of one training, None if unknown.

        It covers kind, method, the whole resolved recipe without the seed, and the fingerprints of base and data. Paths
        of data count by their fingerprints, as the data of each seed may be in a different folder.
        """
        if self.recipe is None or self.base is None or self.data is None:
            return None
        data = {source: digest for source, digest in self.data.items() if source != SAMPLED}
        sources = sorted(data, key=len, reverse=True)  # a path before its own prefixes

        def with_fingerprints(value: Any) -> Any:
            if isinstance(value, str):
                source = next((source for source in sources if source in value), None)
                return value if source is None else value.replace(source, data[source])
            return [with_fingerprints(part) for part in value] if isinstance(value, list | tuple) else value

        recipe = {
            name: with_fingerprints(value) for name, value in self.recipe.items() if name not in ("seed", *PLACES)
        }
        parts = [self.kind, self.method, recipe, self.base, sorted(data.values())]
        return digest(parts if self.router is None else [*parts, self.router])


def of_training(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `CheckpointInfo` from the record of a training run: method, recipe, base, data and cost."""
    texts = record.get("eval_text", {}).values()
    return {
        "method": record["recipe"]["method"],
        "recipe": record["recipe"],
        "base": record["base"]["fingerprint"] or record["base"]["source"],
        "data": record["data"] | {text["source"]: text["sha256"] for text in texts},
        "training": {name: record.get(name) for name in ("tokens", "seconds", "peak_memory_bytes")},
    }


@dataclass(frozen=True)
class Result:
    """All measurements of one checkpoint.

    command: command line of the latest call. path: the file read or written, None without one.
    record: other fields of the file: `created`, `environment` and `git` of the latest call, and a list `earlier` of
        `command` and the same fields of the calls before it that measured something.
    """

    command: str
    checkpoint: CheckpointInfo
    measurements: tuple[Measurement, ...] = ()
    path: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def find(self, task: str, metric: str | None = None, filter: str | None = None) -> list[Measurement]:
        """The measurements of a task in the order in which they were made. metric, filter: None for any."""
        return [
            m for m in self.measurements if m.task == task and metric in (None, m.metric) and filter in (None, m.filter)
        ]

    def adding(self, new: Iterable[Measurement]) -> Result:
        """The result with new measurements at the end; they replace those with the same keys."""
        new = list(new)
        keys = {m.key for m in new}
        return dataclasses.replace(self, measurements=(*(m for m in self.measurements if m.key not in keys), *new))

    def together_with(self, saved: Result) -> Result:
        """The result with those measurements of `saved` that it lacks, and the calls that made them as earlier ones."""
        keys = {m.key for m in self.measurements}
        more = tuple(m for m in saved.measurements if m.key not in keys)
        names = ("created", "environment", "git")
        own, last = ({n: r.record.get(n) for n in names} | {"command": r.command} for r in (self, saved))
        earlier = list(self.record.get("earlier", ()))
        earlier += [call for call in (*saved.record.get("earlier", ()), last) if call not in (*earlier, own)]
        record = {**self.record, "earlier": earlier} if earlier else self.record
        return dataclasses.replace(self, measurements=(*more, *self.measurements), record=record)

    def called_again(self, command: str) -> Result:
        """The result for a new call, to which the measurements added afterwards belong."""
        record: dict[str, Any] = {"created": now(), "environment": environment(), "git": git_state()}
        if self.measurements:
            before = {name: self.record.get(name) for name in record} | {"command": self.command}
            record["earlier"] = [*self.record.get("earlier", ()), before]
        return dataclasses.replace(self, command=command, record=record)

    def with_routed(self) -> Result:
        """The result with each task's `routed` share as a measurement with the metric "routed"."""
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
        """The fields of the result's file as plain dicts, lists and scalars."""
        fields = {"command": self.command, "checkpoint": self.checkpoint, "measurements": self.measurements}
        return dict(plain({**fields, **self.record}))

    def save(self, folder: Path) -> Result:
        """Write `folder`/result.json atomically. Returns the result with its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        write_record(path, kind=KIND, **self.as_record())
        return dataclasses.replace(self, path=path)


def write_results(path: Path, results: Sequence[Result], **fields: Any) -> None:
    """Write a benchmark's record.

    results: their checkpoints and measurements are written; their own `record` fields are not.
    fields: `command`, `recipe`, `seconds`, and optionally `groups` (list of `GroupSpec`) and `curves` (list of
        `reporting.curves.Panel`) for reports.
    """
    entries = [{"checkpoint": result.checkpoint, "measurements": result.measurements} for result in results]
    write_record(path, kind=KIND, results=entries, **fields)


def read_items(result: Result, measurement: Measurement) -> dict[int | str, float] | None:
    """The scores of a measurement's items by doc id; None if no file has them."""
    return None if result.path is None else items_in(result.path.parent, measurement)


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results in files and folders, in the order of the paths, and sorted by path within a folder.

    paths: each a result.json, a record with a list `results`, the run folder of a benchmark, or a folder with
        result.json files at any depth.
    Raises RequestError for a path that is missing, cannot be read or holds no results.
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
    """The result in a checkpoint's result folder, None without one. Raises RequestError if it cannot be read."""
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
        raise RequestError(f"{path} is not a result of scale eval: the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise RequestError(f"{path} is not a result of scale eval: {error}") from error


def parse_results(record: Mapping[str, Any], path: Path | None = None) -> list[Result]:
    """The results in the fields of a record of any schema.

    path: the record's file. Raises ValueError, KeyError or TypeError if the record does not hold results.
    """
    record = upgraded(record)
    if record.get("kind") != KIND:
        raise ValueError(f"its kind is {record.get('kind')!r}, not {KIND!r}")
    shared = {name: value for name, value in record.items() if name not in ("schema", "kind", "results")}
    entries = record.get("results")
    return [_parse(shared | entry, path) for entry in ([{}] if entries is None else entries)]


class ShownRecipe(TypedDict):
    """The keys of a checkpoint's recipe that tables compute with; the others are free in form."""

    lr: NotRequired[float | None]


class Git(TypedDict):
    """The state of the package's repository in a record."""

    commit: NotRequired[str | None]
    clean: NotRequired[bool | None]


class Circumstances(TypedDict):
    """The circumstances of a command's call in a record; the environment is free in form."""

    created: NotRequired[str | None]
    environment: NotRequired[dict[str, Any] | None]
    git: NotRequired[Git | None]


class Call(Circumstances):
    """An earlier call in a record."""

    command: NotRequired[str | None]


class Fields(Circumstances):
    """The fields of a result's file that are read, besides checkpoint and measurements, which are dataclasses."""

    command: str
    checkpoint: dict[str, Any]
    measurements: list[dict[str, Any]]
    earlier: NotRequired[list[Call]]
    reported: NotRequired[str | None]
    note: NotRequired[str | None]
    groups: NotRequired[list[dict[str, Any]] | None]
    curves: NotRequired[list[dict[str, Any]] | None]


def _parse(entry: Mapping[str, Any], path: Path | None) -> Result:
    check_fields(entry, Fields)
    measurements = tuple(map(Measurement.read, entry["measurements"]))
    rest = {name: value for name, value in entry.items() if name not in ("command", "checkpoint", "measurements")}
    info = parsed(CheckpointInfo, entry["checkpoint"])
    check_fields(dict(info.recipe or {}), ShownRecipe)
    return Result(entry["command"], info, measurements, path, rest)


def repetitions(results: Sequence[Result]) -> list[list[int]]:
    """The positions of the results, grouped into repetitions of one training: same identity, distinct seeds.

    If a seed occurs twice in one identity, results are grouped by their labels without seeds; if it occurs twice under
    such a label too, each result is a group of its own.
    """
    rows: list[list[int]] = []
    by_identity: dict[object, list[int]] = {}
    for index, result in enumerate(results):
        identity = result.checkpoint.identity
        by_identity.setdefault(identity or index, []).append(index)
    for indices in by_identity.values():
        rows += _split(results, indices)
    return sorted(rows)


def _split(results: Sequence[Result], indices: Sequence[int]) -> list[list[int]]:
    """Positions of one identity, grouped so that the seeds of a group are distinct."""
    if _have_distinct_seeds(results, indices):
        return [list(indices)]
    by_stem: dict[str, list[int]] = {}
    for index in indices:
        by_stem.setdefault(results[index].checkpoint.stem, []).append(index)
    rows: list[list[int]] = []
    for group in by_stem.values():
        rows += [group] if _have_distinct_seeds(results, group) else [[index] for index in group]
    return rows


def _have_distinct_seeds(results: Sequence[Result], indices: Sequence[int]) -> bool:
    """Whether every result has a seed and no two seeds are equal."""
    seeds = [results[index].checkpoint.seed for index in indices]
    return None not in seeds and len(set(seeds)) == len(seeds)
