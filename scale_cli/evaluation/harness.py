"""Tasks of the harness (lm-evaluation-harness), run by its own `simple_evaluate` on our loaded model.

Prompts, requests, scores, aggregation and standard errors are the harness's. This module adds checks before a model is
loaded, progress, and the share of scored tokens that a router sent to the preserve branch.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import lm_eval.evaluator
from accelerate import Accelerator, PartialState
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM

from scale_cli.checkpoints.load import load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.records import digest
from scale_cli.data.tokens import check_ids
from scale_cli.data.windows import rows_for
from scale_cli.evaluation.catalogue import Definition, definition, members, own_definition, task_manager, version
from scale_cli.evaluation.evaluate import Advance, Outcome
from scale_cli.evaluation.quiet import progress_shown, quiet
from scale_cli.evaluation.routed import RoutedShare
from scale_cli.evaluation.subject import Subject, Target
from scale_cli.evaluation.suites import Suite, SuiteTask
from scale_cli.results.measurement import Items, Measurement
from scale_cli.results.result import Result

MOST_ROWS = 64
"""The harness's own limit for automatic batch sizes."""


@dataclass
class HarnessTask:
    """A `Job` that runs a task or group of the harness.

    name: the harness's. include_path: a folder with the user's own task files.
    num_fewshot: as requested, None for the task's own. limit: number of items, None for all.
    chat: whether prompts go through the tokenizer's chat template. system: the system prompt, None for none.
    """

    name: str
    manager: Any
    include_path: Path | None
    defined: Definition
    num_fewshot: int | None = None
    limit: int | None = None
    chat: bool = False
    system: str | None = None
    spread: bool = field(default=True, init=False)

    @property
    def label(self) -> str:
        return self.name

    @cached_property
    def shots(self) -> int | None:
        """The number of few-shot examples of its tasks, None if it differs between them."""
        return _only({_shots(leaf.num_fewshot, self.num_fewshot) for leaf in self.defined.leaves})

    @property
    def file(self) -> Path | None:
        """The file that defines it."""
        path: Path | None = self.manager.task_index[self.name].yaml_path
        return path

    def version(self, of_task: str | None) -> str | None:
        """The version of measurements: the task's, and how prompts are made if that is not the task's own way."""
        made = ["chat template"] * self.chat
        made += [] if self.system is None else [f"system prompt {digest(self.system)[:8]}"]
        return ", ".join([of_task or "no version", *made]) if made else of_task

    @cached_property
    def definition(self) -> str | None:
        """The digest of the user's own task files and their data; None for a task of the harness."""
        if self.include_path is None or self.file is None or not self.file.is_relative_to(self.include_path):
            return None
        return own_definition(self.include_path, self.manager)

    def prepare(self, targets: Sequence[Target]) -> None:
        """Load its datasets from the cache or the hub.

        Raises RequestError if one does not load, and if a tokenizer lacks the chat template that is to be applied.
        """
        for target in targets if self.chat else ():
            if load_tokenizer(target.checkpoint).chat_template is None:
                raise RequestError(f"--apply-chat-template: the tokenizer of {target.checkpoint.source} has none")
        try:
            with quiet():
                self.manager.load([self.name])
        except (OSError, ValueError, TypeError, ImportError, DatasetsError, TemplateError) as error:
            raise _data_error(self, error) from error

    def done(self, result: Result, target: Target, seed: int) -> bool:
        key = (self.version(self.defined.version), self.shots, self.limit, seed, target.dtype)
        return any(
            (m.task_version, m.num_fewshot, m.limit, m.seed, m.dtype) == key
            and m.details.get("definition") == self.definition
            for m in result.find(self.name)
        )

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        """Run the task with the harness on a loaded checkpoint."""
        lm, batch_sizes = harness_model(subject)
        share = RoutedShare(lm) if subject.has_routed else None
        warned: Counter[str] = Counter()
        begun = time.perf_counter()
        one_bar = all(leaf.output_type != "loglikelihood_rolling" for leaf in self.defined.leaves)
        with quiet(warned), progress_shown(lm, advance, total_known=one_bar):
            results = lm_eval.evaluator.simple_evaluate(
                model=lm,
                tasks=[self.name],
                task_manager=self.manager,
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                apply_chat_template=self.chat,
                system_instruction=self.system,
                log_samples=True,
                **_seeds(subject.seed),
            )
        routed = None if share is None else share.over_processes()
        if results is None:  # in every process but the first
            return Outcome(())
        common = {
            "task": self.name,
            "task_version": self.version(version(results["versions"][self.name])),
            "num_fewshot": _only({results["n-shot"][leaf] for leaf in results["samples"]}),
            "limit": self.limit,
            "seed": subject.seed,
            "dtype": subject.target.dtype,
            "batch_size": subject.batch_size or max(batch_sizes),
            "seconds": time.perf_counter() - begun,
            "routed": routed,
        }
        details: dict[str, Any] = {"harness": f"lm_eval {importlib.metadata.version('lm_eval')}"}
        if self.definition is not None:
            details["definition"] = self.definition
        if self.system is not None:
            details["system_prompt"] = self.system
        if warned:
            details["harness_says"] = dict(warned)
        measurements = [
            Measurement(**common, **number, details=details | more) for number, more in self._numbers(results)
        ]
        if not measurements:
            raise RequestError(f"{self.name}: the harness returns no number for it; choose another task")
        items = self._items(results, measurements)
        return Outcome(measurements, [items] if items.scores else [])

    def _numbers(self, results: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The fields of each number in the harness's results, and its further details."""
        values, leaves = results["results"], list(results["samples"])
        for key, value in values[self.name].items():
            metric, comma, filter = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr_key = f"{metric}_stderr,{filter}"
            scored = {leaf: values[leaf] for leaf in leaves if key in values[leaf]}
            number = {
                "metric": metric,
                "filter": filter,
                "value": float(value),
                "stderr": _number(values[self.name].get(stderr_key)),
                "samples": sum(task["sample_len"] for task in scored.values()),
                "higher_is_better": all(results["higher_is_better"][leaf].get(metric, True) for leaf in scored),
            }
            more: dict[str, Any] = {}
            if self.defined.weights is not None:
                more["aggregation"] = self.defined.weights[metric]
                more["subtasks"] = {
                    leaf: {
                        "value": task[key],
                        "stderr": _number(task.get(stderr_key)),
                        "samples": task["sample_len"],
                        "task_version": str(results["versions"][leaf]),
                    }
                    for leaf, task in scored.items()
                }
            yield number, more

    def _items(self, results: Mapping[str, Any], measurements: Sequence[Measurement]) -> Items:
        """The scores of single items, for each metric that is a mean of such scores."""
        scores: dict[str, dict[int | str, float]] = {}
        for leaf, samples in results["samples"].items():
            for sample in samples:
                item = sample["doc_id"] if self.defined.weights is None else f"{leaf}/{sample['doc_id']}"
                for m in measurements:
                    if m.filter == sample["filter"] and isinstance(sample.get(m.metric), Real):
                        scores.setdefault(Items.name_of(m), {})[item] = float(sample[m.metric])
        doc_ids = max((list(by_item) for by_item in scores.values()), key=len, default=[])
        complete = {name: list(by_item.values()) for name, by_item in scores.items() if list(by_item) == doc_ids}
        m = measurements[0]
        return Items(m.task, m.task_version, m.num_fewshot, m.limit, m.seed, m.dtype, doc_ids, complete)


def suite_tasks(suite: Suite, *, num_fewshot: int | None = None, **options: Any) -> list[HarnessTask]:
    """The tasks of a suite, in its order. num_fewshot: for all of them, overriding the suite. options: of `find_tasks`.

    Raises RequestError for a task, metric or filter that the harness does not have, and for an aggregation that differs
    from the harness's.
    """
    entries = suite.entries
    shots = {entry.task: entry.num_fewshot if num_fewshot is None else num_fewshot for entry in entries}
    by_name = {task.name: task for task in find_tasks(shots, include_path=suite.include_path, **options)}
    for entry in entries:
        if entry.task not in by_name:
            raise RequestError(
                f"suite {suite.name}: {entry.task} is a tag, which stands for several tasks; name the tasks"
            )
        try:
            _check_entry(entry, by_name[entry.task])
        except RequestError as error:
            raise RequestError(f"suite {suite.name}: {error}") from error
    return list(by_name.values())


def find_tasks(
    names: Mapping[str, int | None],
    *,
    include_path: Path | None = None,
    limit: int | None = None,
    chat: bool = False,
    system: str | None = None,
) -> list[HarnessTask]:
    """Tasks and groups of the harness by name. Tags, and groups without a score of their own, become their members.

    names: with the number of few-shot examples, None for the task's own number.
    include_path: a folder with more task files, which override the harness's.
    limit: number of items of each task, from the first; None for all. chat, system: as in `HarnessTask`.
    Raises RequestError for an unknown name and for a task that cannot be run here.
    """
    if any(shots is not None and shots < 0 for shots in names.values()):
        raise RequestError(f"--num-fewshot {min(filter(None, names.values()))}: at least 0")
    if limit is not None and limit < 1:
        raise RequestError(f"--limit {limit}: at least 1")
    manager = task_manager(tuple(names), include_path)
    tasks = {
        member: HarnessTask(member, manager, include_path, definition(manager, member), shots, limit, chat, system)
        for name, shots in names.items()
        for member in members(manager, name)
    }
    return list(tasks.values())


def without_repetitions(tasks: Sequence[HarnessTask]) -> list[HarnessTask]:
    """The tasks without duplicates. Raises RequestError if a name refers to two different tasks."""
    unique: dict[tuple[str, int | None], HarnessTask] = {}
    for task in tasks:
        known = unique.setdefault((task.name, task.shots), task)
        if known.include_path != task.include_path and known.file != task.file:
            raise RequestError(f"{task.name} is the name of two different tasks here; measure the suites one by one")
    return list(unique.values())


def harness_model(subject: Subject) -> tuple[Any, list[int]]:
    """The harness's own model class around the loaded model, and a list of the batch sizes that it chooses.

    With `accelerate launch` or torchrun each process gets its share of the requests. An automatic batch size is found
    by trial on a GPU. On a CPU, where memory does not run out until it is too late, it is the number of longest
    requests that keeps a forward pass within the limits of `rows_for`.
    """
    with quiet():
        lm = HFLM(
            pretrained=subject.model,
            tokenizer=subject.tokenizer,
            backend="causal",
            batch_size=subject.batch_size or "auto",
            max_batch_size=MOST_ROWS,
        )
    state = PartialState()
    if state.num_processes > 1:  # the harness sets these only for a model that it loads
        lm.accelerator = Accelerator()
        lm._rank, lm._world_size = state.process_index, state.num_processes
    batch_sizes: list[int] = []
    detect_by_trial = lm._detect_batch_size

    def detect(requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        if subject.device.type == "cpu":
            length = min(lm.max_length, sum(map(len, requests[pos][1:]))) if requests else lm.max_length
            size = min(MOST_ROWS, rows_for(subject.model, length))
        else:
            size = detect_by_trial(requests, pos)
        batch_sizes.append(size)
        return size

    lm._detect_batch_size = detect
    _check_ids_of(lm, subject.tokenizer)
    return lm, batch_sizes


def _check_ids_of(lm: Any, tokenizer: Any) -> None:
    """Let the harness's model raise RequestError for tokens that have no row in the model's embedding."""
    encode, encode_batch = lm.tok_encode, lm.tok_batch_encode

    def checked_encode(*args: Any, **kwargs: Any) -> Any:
        ids = encode(*args, **kwargs)
        check_ids(max(_flat(ids), default=0), tokenizer)
        return ids

    def checked_batch(*args: Any, **kwargs: Any) -> Any:
        ids, mask = encode_batch(*args, **kwargs)
        check_ids(int(ids.max()), tokenizer)
        return ids, mask

    lm.tok_encode, lm.tok_batch_encode = checked_encode, checked_batch


def _flat(ids: Sequence[Any]) -> Iterator[int]:
    for item in ids:
        if isinstance(item, int):
            yield item
        else:
            yield from item


def _check_entry(entry: SuiteTask, task: HarnessTask) -> None:
    """Raise RequestError if a suite reads a metric, filter or aggregation that its task does not have."""
    if task.defined.metrics is not None and entry.metric not in task.defined.metrics:
        raise RequestError(f"{entry.task} has no metric {entry.metric}; it has {', '.join(task.defined.metrics)}")
    filters = task.defined.leaves[0].filters
    if entry.filter is not None and filters is not None and entry.filter not in filters:
        raise RequestError(f"{entry.task} has no filter {entry.filter}; it has {', '.join(filters)}")
    if entry.aggregation is not None:
        weights = task.defined.weights
        actual = "none, it is not a group" if weights is None else weights[entry.metric]
        if actual != entry.aggregation:
            raise RequestError(f"{entry.task} with aggregation: {entry.aggregation}; the harness has {actual}")


def _shots(own: int | None, requested: int | None) -> int:
    """The number of few-shot examples of a task by the harness's rule: a task with 0 of its own keeps 0."""
    return own or 0 if requested is None or own == 0 else requested


def _data_error(task: HarnessTask, error: Exception) -> RequestError:
    """The error for a task whose dataset does not load."""
    reason = _first_line(error)
    if isinstance(error, ImportError):
        return RequestError(f"{task.name}: the harness needs a package for it: {reason}")
    if isinstance(error, TypeError):
        return RequestError(f"{task.name}: the harness does not accept its file {task.file}: {reason}")
    sets = [leaf.data for leaf in task.defined.leaves if leaf.data is not None]
    candidates = [data for data in sets if data[0] in str(error)] or sets
    candidates = [data for data in candidates if f"{data[1]}" in str(error)] or candidates
    if not candidates or "/" not in candidates[0][0]:
        return RequestError(f"{task.name}: its data cannot be read: {reason}")
    path, name = candidates[0]
    own = "" if task.include_path is None else f"include_path={str(task.include_path)!r}"
    program = f"from lm_eval.tasks import TaskManager; TaskManager({own}).load([{task.name!r}])"
    return RequestError(
        f"{task.name}: its dataset {path}{f' ({name})' if name else ''} does not load ({reason}); fetch it into the "
        f'cache once, with access to the hub: python -c "{program}"'
    )


def _seeds(seed: int) -> dict[str, int]:
    """The arguments that the harness's `--seed` sets. Its default seed gives its default arguments."""
    return {
        "random_seed": DEFAULT_RANDOM_SEED if seed == DEFAULT_OTHER_SEED else seed,
        "numpy_random_seed": seed,
        "torch_random_seed": seed,
        "fewshot_random_seed": seed,
    }


def _only(values: set[Any]) -> Any:
    """The only value, None if there are several."""
    return next(iter(values)) if len(values) == 1 else None


def _number(value: Any) -> float | None:
    """A standard error; None for the harness's "N/A"."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
