"""Tasks of the harness (lm-evaluation-harness), run by its own `simple_evaluate` on our loaded model.

Prompts, requests, scores, aggregation and standard errors are the harness's. What is added around it: finding a task
without indexing all of its 14,000 files, saying before a model loads what is missing, progress, and the share of scored
tokens that a router sent to the preserve branch.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import io
import logging
import math
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import datasets
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.models.huggingface
import lm_eval.tasks
import torch
import tqdm
from accelerate import Accelerator, PartialState
from datasets.exceptions import DatasetsError
from lm_eval.api.group import Group
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import GROUP_FIELD_NAMES
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from scale_cli.core.errors import RequestError
from scale_cli.data.windows import rows_for
from scale_cli.evaluation.evaluate import Advance, Outcome
from scale_cli.evaluation.subject import Subject, Target
from scale_cli.evaluation.suites import Suite, SuiteTask
from scale_cli.results.measurement import Items, Measurement
from scale_cli.results.result import Result

MOST_ROWS = 64
"""The harness's own bound of the batch size that it looks for."""
TASKS = Path(lm_eval.tasks.__file__).parent
NAME = re.compile(r"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?([^\s\"'#\[]+)", re.MULTILINE)
"""A task's or group's name in a task file."""
UNUSABLE = {
    "unsafe_code": "runs code that the model writes, which scale eval does not do",
    "doc_to_image": "shows pictures, and the models here read text",
    "doc_to_audio": "plays sound, and the models here read text",
}
"""Keys of a task's definition for which it cannot be run here, and why."""

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Leaf:
    """A single task, alone or in a group, as its definition has it.

    num_fewshot: None where it does not say. data: path and name of its data set, None where it makes its own.
    metrics, filters, data, output_type: None where the task is a Python class, which does not say.
    """

    task: str
    version: str | None
    num_fewshot: int | None
    metrics: tuple[str, ...] | None
    filters: tuple[str, ...] | None
    data: tuple[str, str | None] | None
    output_type: str | None


@dataclass
class HarnessTask:
    """A task or group of the harness, to be run on checkpoints; a `Job`.

    name: the harness's. version: of the group where it is one. include_path: where files of one's own lie.
    leaves: the tasks that it is made of; itself, where it is no group.
    metrics: the numbers that it has, None where only running it shows.
    weights: of a group, by metric, what the harness does with its subtasks: "micro" over items, "macro" over subtasks.
    num_fewshot, limit: as asked for; None: its own, and all items.
    """

    name: str
    manager: Any
    version: str | None
    include_path: Path | None
    leaves: tuple[Leaf, ...]
    metrics: tuple[str, ...] | None
    weights: Mapping[str, Literal["micro", "macro"]] | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    spread: bool = field(default=True, init=False)

    @property
    def label(self) -> str:
        return self.name

    @cached_property
    def shots(self) -> int | None:
        """The examples that each of its tasks will show, None where they differ."""
        return _one({_shots(leaf.num_fewshot, self.num_fewshot) for leaf in self.leaves})

    @property
    def definition(self) -> Path | None:
        """The file in which it is defined."""
        path: Path | None = self.manager.task_index[self.name].yaml_path
        return path

    def prepare(self, targets: Sequence[Target]) -> None:
        """Load its data sets, from the cache or from the hub. Raises RequestError where there is one that does not."""
        try:
            with _quiet():
                self.manager.load([self.name])
        except (OSError, ValueError, TypeError, ImportError, DatasetsError) as error:
            raise _data_error(self, error) from error

    def done(self, result: Result, target: Target, seed: int) -> bool:
        key = (self.version, self.shots, self.limit, seed, target.dtype)
        return any((m.task_version, m.num_fewshot, m.limit, m.seed, m.dtype) == key for m in result.find(self.name))

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        """Run it by the harness on a loaded checkpoint."""
        lm, batch_sizes = harness_model(subject)
        share = RoutedShare(lm) if subject.has_router else None
        said: Counter[str] = Counter()
        begun = time.perf_counter()
        one_bar = all(leaf.output_type != "loglikelihood_rolling" for leaf in self.leaves)
        with _quiet(said), _progress_shown(lm, advance, total_known=one_bar):
            results = lm_eval.evaluator.simple_evaluate(
                model=lm,
                tasks=[self.name],
                task_manager=self.manager,
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                log_samples=True,
                **_seeds(subject.seed),
            )
        routed = None if share is None else share.over_processes()
        if results is None:  # in all processes but the first
            return Outcome(())
        common = {
            "task": self.name,
            "task_version": _version(results["versions"][self.name]),
            "num_fewshot": _one({results["n-shot"][leaf] for leaf in results["samples"]}),
            "limit": self.limit,
            "seed": subject.seed,
            "dtype": subject.target.dtype,
            "batch_size": subject.batch_size or max(batch_sizes),
            "seconds": time.perf_counter() - begun,
            "routed": routed,
        }
        details: dict[str, Any] = {"harness": f"lm_eval {importlib.metadata.version('lm_eval')}"}
        if said:
            details["harness_says"] = dict(said)
        measurements = [
            Measurement(**common, **number, details=details | more) for number, more in self._numbers(results)
        ]
        if not measurements:
            raise RequestError(f"{self.name}: the harness gives no number for it; choose another task")
        items = self._items(results, measurements)
        return Outcome(measurements, [items] if items.scores else [])

    def _numbers(self, results: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The fields of each number of the harness's results, and what else is to be said of it."""
        values, leaves = results["results"], list(results["samples"])
        for key, value in values[self.name].items():
            metric, comma, filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr_key = f"{metric}_stderr,{filter}"
            of = {leaf: values[leaf] for leaf in leaves if key in values[leaf]}
            number = {
                "metric": metric,
                "filter": filter,
                "value": float(value),
                "stderr": _number(values[self.name].get(stderr_key)),
                "samples": sum(task["sample_len"] for task in of.values()),
                "higher_is_better": all(results["higher_is_better"][leaf].get(metric, True) for leaf in of),
            }
            more: dict[str, Any] = {}
            if self.weights is not None:
                more["aggregation"] = self.weights[metric]
                more["subtasks"] = {
                    leaf: {
                        "value": task[key],
                        "stderr": _number(task.get(stderr_key)),
                        "samples": task["sample_len"],
                        "task_version": str(results["versions"][leaf]),
                    }
                    for leaf, task in of.items()
                }
            yield number, more

    def _items(self, results: Mapping[str, Any], measurements: Sequence[Measurement]) -> Items:
        """The score of each item under each metric that is a mean of such scores."""
        scores: dict[str, dict[int | str, float]] = {}
        for leaf, samples in results["samples"].items():
            for sample in samples:
                item = sample["doc_id"] if self.weights is None else f"{leaf}/{sample['doc_id']}"
                for m in measurements:
                    if m.filter == sample["filter"] and isinstance(sample.get(m.metric), Real):
                        scores.setdefault(Items.name_of(m), {})[item] = float(sample[m.metric])
        doc_ids = max((list(of) for of in scores.values()), key=len, default=[])
        whole = {name: list(of.values()) for name, of in scores.items() if list(of) == doc_ids}
        m = measurements[0]
        return Items(m.task, m.task_version, m.num_fewshot, m.limit, m.seed, m.dtype, doc_ids, whole)


def suite_tasks(suite: Suite, *, num_fewshot: int | None = None, limit: int | None = None) -> list[HarnessTask]:
    """The tasks of a suite, in its order. num_fewshot: for all of them, in place of what the suite says.

    Raises RequestError for a task, metric or filter that the harness does not have, and for an aggregation that is not
    what it does.
    """
    entries = suite.entries
    shots = {entry.task: entry.num_fewshot if num_fewshot is None else num_fewshot for entry in entries}
    by_name = {task.name: task for task in find_tasks(shots, include_path=suite.include_path, limit=limit)}
    for entry in entries:
        if entry.task not in by_name:
            raise RequestError(f"suite {suite.name}: {entry.task} is a tag, a name for several tasks; name the tasks")
        try:
            _check_entry(entry, by_name[entry.task])
        except RequestError as error:
            raise RequestError(f"suite {suite.name}: {error}") from error
    return list(by_name.values())


def find_tasks(
    names: Mapping[str, int | None], *, include_path: Path | None = None, limit: int | None = None
) -> list[HarnessTask]:
    """Tasks and groups of the harness by name; a tag, and a group without a number of its own, become their members.

    names: with the examples to show, None for the task's own number.
    include_path: a folder with more task files, which win over the harness's.
    limit: the first so many items of each task only.
    Raises RequestError for a name that there is not, and for a task that cannot be run here.
    """
    if any(shots is not None and shots < 0 for shots in names.values()):
        raise RequestError(f"--num-fewshot {min(filter(None, names.values()))}: at least 0")
    if limit is not None and limit < 1:
        raise RequestError(f"--limit {limit}: at least 1")
    manager = _manager(tuple(names), include_path)
    found = {
        member: _described(manager, include_path, member, shots, limit)
        for name, shots in names.items()
        for member in _members(manager, name)
    }
    return list(found.values())


def without_repetitions(tasks: Sequence[HarnessTask]) -> list[HarnessTask]:
    """The tasks, each once. Raises RequestError where a name stands for different tasks, whose results would mix."""
    once: dict[tuple[str, int | None], HarnessTask] = {}
    for task in tasks:
        known = once.setdefault((task.name, task.shots), task)
        if known.include_path != task.include_path and known.definition != task.definition:
            raise RequestError(f"{task.name} stands for two tasks in what is asked for; measure the suites one by one")
    return list(once.values())


def harness_model(subject: Subject) -> tuple[Any, list[int]]:
    """The harness's own model class around our loaded model, and a list that each batch size it finds is added to.

    With `accelerate launch` or torchrun it knows its share of the requests. Where the batch size is left to it, on a
    GPU the harness tries what fits; on a CPU, where nothing ever fails to fit until it is too late, a batch is as many
    of the longest requests as keep a forward pass within the bounds of `rows_for`.
    """
    with _quiet():
        lm = HFLM(
            pretrained=subject.model,
            tokenizer=subject.tokenizer,
            backend="causal",
            batch_size=subject.batch_size or "auto",
            max_batch_size=MOST_ROWS,
        )
    state = PartialState()
    if state.num_processes > 1:  # the harness sets these itself where it loads the model
        lm.accelerator = Accelerator()
        lm._rank, lm._world_size = state.process_index, state.num_processes
    batch_sizes: list[int] = []
    harness_finds = lm._detect_batch_size

    def detect(requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        if subject.device.type == "cpu":
            length = min(lm.max_length, sum(map(len, requests[pos][1:]))) if requests else lm.max_length
            size = min(MOST_ROWS, rows_for(subject.model, length))
        else:
            size = harness_finds(requests, pos)
        batch_sizes.append(size)
        return size

    lm._detect_batch_size = detect
    return lm, batch_sizes


class RoutedShare:
    """Counts, while the harness runs a routed model, which tokens took the preserve branch.

    Counted are the positions whose logits are scored: those that predict the tokens of a continuation, and in
    generation those that chose a token, up to the end-of-text. Context and padding do not count. Where the harness
    answers several requests from one position (single-token choices after one prompt), it counts once; a request that
    it repeats so that several processes have equally many counts again.
    """

    def __init__(self, lm: Any) -> None:
        """Look over the shoulder of an `HFLM` from now on; nothing that it computes changes."""
        self.preserved = 0
        self.scored = 0
        self._forward: list[torch.Tensor] = []
        self._lm = lm
        self._row = 0
        self._select, self._generate, self._call = lm._select_cont_toks, lm._model_generate, lm._model_call
        lm._model_call, lm._select_cont_toks, lm._model_generate = self._called, self._selected, self._generated

    @property
    def share(self) -> float | None:
        return self.preserved / self.scored if self.scored else None

    def over_processes(self) -> float | None:
        """The share over all processes; to be asked for in each of them."""
        counts = torch.tensor([[self.preserved, self.scored]], device=self._lm.device)
        preserved, scored = self._lm.all_gather(counts).sum(dim=0).tolist()
        self.preserved, self.scored = preserved, scored
        return self.share

    def _watched(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `call` gives; meanwhile `_forward` gets each forward pass's (rows, positions)."""
        self._forward = []
        keep = lambda module, arguments, output: self._forward.append(output.preserved)  # noqa: E731
        handle = self._lm.model.register_forward_hook(keep)
        try:
            return call(*args, **kwargs)
        finally:
            handle.remove()

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        self._row = 0
        return self._watched(self._call, *args, **kwargs)

    def _selected(self, logits: torch.Tensor, contlen: int | None = None, inplen: int | None = None) -> Any:
        """The harness takes a request's scored logits, row after row of the latest forward pass."""
        assert contlen is not None
        assert inplen is not None
        self._count(self._forward[-1][self._row, inplen - contlen : inplen])
        self._row += 1
        return self._select(logits, contlen=contlen, inplen=inplen)

    def _generated(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        tokens = self._watched(self._generate, context, *args, **kwargs)
        chosen = torch.stack([preserved[:, -1] for preserved in self._forward], dim=1)  # (rows, new tokens)
        new = tokens[:, context.shape[1] :]
        ended = (new == self._lm.eot_token_id).cumsum(dim=1) - (new == self._lm.eot_token_id).int()
        self._count(chosen[:, : new.shape[1]][ended == 0])
        return tokens

    def _count(self, preserved: torch.Tensor) -> None:
        self.preserved += int(preserved.sum())
        self.scored += preserved.numel()


# -- finding tasks -------------------------------------------------------------------------------------------------


@cache
def _manager(names: tuple[str, ...], include_path: Path | None) -> Any:
    """A task manager that knows these names and all that belongs to them.

    Indexing everything takes 20 seconds, so only the folders in which the names are defined are, and everything where
    that does not do. Raises RequestError for a name that there is not.
    """
    own = [] if include_path is None else [include_path]
    with _quiet():
        manager = TaskManager(include_path=own, include_defaults=False)
        if _is_closed(manager, names):
            return manager
        mine = manager.task_index.keys()
        folders = {_folders()[name] for name in names if name not in mine and name in _folders()}
        # Of two definitions the harness takes the first folder's; of several paths it takes the last one's.
        manager = TaskManager(include_path=[*sorted(folders, reverse=True), *own], include_defaults=False)
        if _is_closed(manager, names):
            return manager
        for name in names:
            if name not in manager.task_index and not _is_mentioned(name):
                near = difflib.get_close_matches(name, {*mine, *_folders()}, n=3, cutoff=0.7)
                hint = f"did you mean {' or '.join(near)}?" if near else "list what there is with: lm_eval ls tasks"
                raise RequestError(f"{name}: the harness has no such task; {hint}")
        return TaskManager(include_path=own)


@cache
def _folders() -> dict[str, Path]:
    """The folder right below the harness's tasks in which each of its tasks and groups is defined."""
    found: dict[str, Path] = {}
    for file in sorted(TASKS.glob("**/*.yaml"), key=lambda path: path.as_posix()):
        for name in NAME.findall(file.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, TASKS / file.relative_to(TASKS).parts[0])
    return found


def _is_mentioned(name: str) -> bool:
    """Whether a file of the harness's tasks has this word in it, as one that gives tasks a tag has."""
    word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
    files = (file for file in TASKS.glob("**/*yaml") if file.is_file())
    return any(word.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def _is_closed(manager: Any, names: Iterable[str]) -> bool:
    """Whether the manager knows these names and all members of the groups among them."""
    index = manager.task_index
    return all(
        name in index
        and (index[name].kind is not Kind.GROUP or _is_closed(manager, filter(None, map(_name_of, _of(index[name])))))
        for name in names
    )


def _of(entry: Any) -> list[Any]:
    """The members of a group, as its file has them: names, or definitions that change or make one."""
    members = entry.cfg.get("task") or []
    return [members] if isinstance(members, str) else members


def _name_of(member: Any) -> str | None:
    """The name that a group's member refers to; None for one that is defined in the group itself."""
    if isinstance(member, str):
        return member
    return None if isinstance(member.get("task"), list) or "dataset_path" in member else _named(member)


def _named(member: Config) -> str:
    return str(member.get("group") or member.get("task"))


def _members(manager: Any, name: str) -> list[str]:
    """The tasks, and groups with a number of their own, that a name stands for."""
    entry = manager.task_index[name]
    if entry.kind is Kind.TAG:
        return [member for tagged in sorted(entry.tags) for member in _members(manager, tagged)]
    if entry.kind is Kind.GROUP and not entry.cfg.get("aggregate_metric_list"):
        names = [_name_of(member) for member in _of(entry)]
        if not all(isinstance(member, str) for member in _of(entry)):
            raise RequestError(f"{name}: it has no number of its own; name its tasks: {', '.join(map(str, names))}")
        return [member for inner in _of(entry) for member in _members(manager, inner)]
    return [name]


def _described(
    manager: Any, include_path: Path | None, name: str, num_fewshot: int | None, limit: int | None
) -> HarnessTask:
    """A task or group with a number of its own, from its definition. RequestError for one that cannot be run here."""
    entry = manager.task_index[name]
    leaves = tuple(_leaves(manager.task_index, entry, {}))
    version, metrics = leaves[0].version, leaves[0].metrics
    weights: dict[str, Literal["micro", "macro"]] | None = None
    if entry.kind is Kind.GROUP:
        group = Group.from_config({key: value for key, value in entry.cfg.items() if key in GROUP_FIELD_NAMES})
        aggregated = group.aggregate_metric_list or []
        weights = {of.metric: "micro" if of.weight_by_size else "macro" for of in aggregated}
        version, metrics = _version(group.version), tuple(weights)
    return HarnessTask(name, manager, version, include_path, leaves, metrics, weights, num_fewshot, limit)


def _leaves(index: Mapping[str, Any], entry: Any, overrides: Config) -> Iterator[Leaf]:
    """The tasks of an entry with what its groups change in them, found as the harness's own factory finds them."""
    if entry.kind is Kind.TAG:
        for name in sorted(entry.tags):
            yield from _leaves(index, index[name], overrides)
    elif entry.kind is Kind.GROUP:
        inherited = {key: value for key, value in entry.cfg.items() if key not in GROUP_FIELD_NAMES} | dict(overrides)
        for member in _of(entry):
            changes = {} if isinstance(member, str) else dict(member)
            name = member if isinstance(member, str) else _named(member)
            if name in index:
                yield from _leaves(index, index[name], inherited | {k: v for k, v in changes.items() if k != "group"})
            else:
                kind = Kind.GROUP if "group" in changes else Kind.TASK
                yield from _leaves(index, Entry(name, kind, entry.yaml_path, changes), inherited)
    else:
        yield _leaf(entry, {**entry.cfg, **overrides})


def _leaf(entry: Any, config: Config) -> Leaf:
    for key, reason in UNUSABLE.items():
        if config.get(key):
            raise RequestError(f"{entry.name} {reason}; choose another task")
    if entry.kind is Kind.PY_TASK:  # a class, which alone knows
        made = load_yaml(entry.yaml_path, resolve_func=True)["class"]
        version = _version((config.get("metadata") or {}).get("version", made.VERSION))
        return Leaf(entry.name, version, config.get("num_fewshot"), None, None, None, None)
    listed = config.get("metric_list") or [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[config["output_type"]]]
    return Leaf(
        task=entry.name,
        version=_version((config.get("metadata") or {}).get("version", ConfigurableTask.VERSION)),
        num_fewshot=config.get("num_fewshot"),
        metrics=tuple(str(metric["metric"]).rpartition(".")[2] for metric in listed),
        filters=tuple(filter["name"] for filter in config.get("filter_list") or [{"name": "none"}]),
        data=(config["dataset_path"], config.get("dataset_name")) if config.get("dataset_path") else None,
        output_type=config["output_type"],
    )


def _check_entry(entry: SuiteTask, task: HarnessTask) -> None:
    """Raise RequestError where a suite reads from a task what it does not have."""
    if task.metrics is not None and entry.metric not in task.metrics:
        raise RequestError(f"{entry.task} has no metric {entry.metric}; it has {', '.join(task.metrics)}")
    filters = task.leaves[0].filters
    if entry.filter is not None and filters is not None and entry.filter not in filters:
        raise RequestError(f"{entry.task} has no filter {entry.filter}; it has {', '.join(filters)}")
    if entry.aggregation is not None:
        does = (
            "no aggregation, it is no group" if task.weights is None else f"aggregation: {task.weights[entry.metric]}"
        )
        if does != f"aggregation: {entry.aggregation}":
            raise RequestError(f"{entry.task} with aggregation: {entry.aggregation}; the harness has {does}")


def _shots(own: int | None, asked: int | None) -> int:
    """The examples that a task shows, by the harness's rule: a task that has 0 itself keeps to that."""
    return own or 0 if asked is None or own == 0 else asked


def _version(stated: Any) -> str | None:
    return None if stated in (None, "N/A") else str(stated)


# -- running them ----------------------------------------------------------------------------------------------------


def _data_error(task: HarnessTask, error: Exception) -> RequestError:
    """What to say where a task's data set does not load."""
    said = _first_line(error)
    if isinstance(error, ImportError):
        return RequestError(f"{task.name}: the harness needs a package for it: {said}")
    if isinstance(error, TypeError):
        return RequestError(f"{task.name}: the harness does not take its file {task.definition}: {said}")
    sets = [leaf.data for leaf in task.leaves if leaf.data is not None]
    named = [data for data in sets if data[0] in str(error)] or sets
    named = [data for data in named if f"{data[1]}" in str(error)] or named
    if not named or "/" not in named[0][0]:
        return RequestError(f"{task.name}: its data cannot be read: {said}")
    path, name = named[0]
    own = "" if task.include_path is None else f"include_path={str(task.include_path)!r}"
    program = f"from lm_eval.tasks import TaskManager; TaskManager({own}).load([{task.name!r}])"
    return RequestError(
        f"{task.name}: its data set {path}{f' ({name})' if name else ''} does not load ({said}); fetch it into the "
        f'cache once, where the hub can be reached: python -c "{program}"'
    )


class _Bar:
    """What the harness takes for a tqdm, silent."""

    def __init__(
        self, iterable: Any = (), *, total: int | None = None, desc: str = "", disable: bool = False, **rest: Any
    ) -> None:
        self.iterable, self.total = iterable, total
        self.counts_requests = desc.startswith("Running ") and not disable

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def update(self, steps: int = 1) -> None:
        """A tqdm's."""

    def close(self) -> None:
        """A tqdm's."""


@contextlib.contextmanager
def _progress_shown(lm: Any, advance: Advance, *, total_known: bool) -> Iterator[None]:
    """Let `advance` know of the requests that the harness has run.

    It counts those of a batch one by one when the batch is over. They are told when the next batch begins, and at the
    end, so that the rate is that of whole batches.
    total_known: the harness has one bar for all requests, and not one for each batch.
    """
    done = total = 0

    def tell() -> None:
        if done:
            advance(done=done, total=total if total_known else None)

    def telling(call: Callable[..., Any]) -> Callable[..., Any]:
        def with_progress(*args: Any, **kwargs: Any) -> Any:
            tell()
            return call(*args, **kwargs)

        return with_progress

    class Bar(_Bar):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nonlocal total
            super().__init__(*args, **kwargs)
            if self.counts_requests:
                total += self.total or 0

        def update(self, steps: int = 1) -> None:
            nonlocal done
            if self.counts_requests:
                done += steps

        def close(self) -> None:
            if self.counts_requests:
                tell()

    with contextlib.ExitStack() as stack:
        for module in (lm_eval.models.huggingface, lm_eval.api.model, lm_eval.api.task, tqdm):
            stack.enter_context(_replaced(module, "tqdm", Bar))
        for name in ("_model_call", "_model_generate"):
            stack.enter_context(_replaced(lm, name, telling(getattr(lm, name))))
        # It asks pip, the compiler and the driver for three seconds; the record knows the environment.
        stack.enter_context(_replaced(lm_eval.evaluator, "add_env_info", lambda results: None))
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class _Heard(logging.Handler):
    """Counts the harness's warnings; those that differ in numbers only are one."""

    def __init__(self, said: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        message = re.sub(r"\d+", "N", " ".join(record.getMessage().split()))
        if not message.startswith("Overwriting default num_fewshot"):  # as asked for, and recorded
            self.said[message] += 1


@contextlib.contextmanager
def _quiet(said: Counter[str] | None = None) -> Iterator[None]:
    """The harness prints nothing meanwhile; `said` gets its warnings.

    Nor does git, which it asks for the commit of the current folder: our records have that of the code.
    """
    harness = logging.getLogger("lm_eval")
    handler = _Heard(Counter() if said is None else said)
    propagate, bars = harness.propagate, datasets.are_progress_bars_disabled()
    level = datasets.logging.get_verbosity()
    harness.addHandler(handler)
    harness.propagate = False
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(lm_eval.evaluator, "get_git_commit_hash", return_value=None),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        harness.removeHandler(handler)
        harness.propagate = propagate
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _seeds(seed: int) -> dict[str, int]:
    """The arguments that the harness's `--seed` gives; with its default seed, its defaults."""
    return {
        "random_seed": DEFAULT_RANDOM_SEED if seed == DEFAULT_OTHER_SEED else seed,
        "numpy_random_seed": seed,
        "torch_random_seed": seed,
        "fewshot_random_seed": seed,
    }


def _one(values: set[Any]) -> Any:
    """The only one of these values, None where there are several."""
    return next(iter(values)) if len(values) == 1 else None


def _number(value: Any) -> float | None:
    """A standard error; None for the harness's "N/A"."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
