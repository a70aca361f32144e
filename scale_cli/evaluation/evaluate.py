"""Measuring checkpoints: runs one job at a time and saves after each, so that an interrupted call can continue."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from scale_cli.core.errors import RequestError
from scale_cli.core.files import only_writer
from scale_cli.evaluation.subject import DTYPES, Subject, Target, information, load, targets
from scale_cli.results.measurement import Items, Measurement
from scale_cli.results.result import Result, read_result

DEFAULT_SEED = 1234
"""The harness's own seed of the few-shot examples."""
JOINING = datetime.timedelta(weeks=52)
"""Timeout of a process that waits for the others: practically unlimited, as in the harness."""

Advance = Callable[..., None]
"""Updates a progress display: `advance(done=3, total=10)`."""


class Progress(Protocol):
    """Displays the progress of one job. total: number of steps, None if unknown."""

    def __call__(self, label: str, total: int | None) -> AbstractContextManager[Advance]: ...


@contextlib.contextmanager
def _no_progress(label: str, total: int | None) -> Any:
    yield lambda *args, **kwargs: None


@dataclass(frozen=True)
class Outcome:
    """The measurements of a job. items: scores of single items, if there are any."""

    measurements: Sequence[Measurement]
    items: Sequence[Items] = ()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put the model in eval mode without gradients for the duration of the block."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class Job(Protocol):
    """A measurement to make on each checkpoint.

    label: its name in progress displays. spread: whether all processes share its work, or the first runs it alone.
    """

    @property
    def label(self) -> str: ...

    @property
    def spread(self) -> bool: ...

    def prepare(self, targets: Sequence[Target]) -> None:
        """Raise RequestError if the job cannot run on these targets. Called before a model is loaded."""

    def done(self, result: Result, target: Target, seed: int) -> bool:
        """Whether the result of this target already holds the job's measurements."""

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        """Measure. Only the first process's outcome is used.

        A job may also have `run_together(subject, targets, advance)`, which returns the outcomes of several targets of
        one checkpoint that differ in their routers.
        """


def evaluate(
    sources: Sequence[str],
    jobs: Sequence[Job],
    *,
    out: Path | None = None,
    routers: Sequence[str] = (),
    frontier: bool = False,
    base: str | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    seed: int = DEFAULT_SEED,
    command: str = "scale eval",
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = _no_progress,
) -> list[Result]:
    """Measure checkpoints. Returns one result per checkpoint, with earlier measurements in `out` included.

    sources: checkpoints of any kind, or LABEL=CHECKPOINT.
    out: folder of the results, written after every job. Measurements that it already holds are not repeated.
    routers: to measure checkpoints with, each as a result of its own; empty for the checkpoint's own.
    frontier: besides, the routers that show the trade-off of a training.
    base: the base for routers of checkpoints that are not widened; None for the one that each was trained from.
    revision: branch, tag or commit of the hub ids among the sources.
    dtype: of the weights, a name of `DTYPES`; None takes bfloat16 on a GPU and the stored dtype on a CPU.
    batch_size: None for "as many as fit". seed: of few-shot examples and everything else that is random.
    command: the command to record. say: called with messages on skipped jobs. progress: displays each job.
    Under `accelerate launch` or torchrun all processes share the work and the first one writes.
    Raises RequestError for missing or contradictory inputs, before a model is loaded if possible.
    """
    from accelerate import PartialState

    _check(batch_size=batch_size, dtype=dtype, seed=seed, out=out)
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=JOINING)
    first = state.is_main_process
    read: dict[str, Any] = {"routers": routers, "frontier": frontier, "base": base}
    described = targets(sources, **read, revision=revision, dtype=dtype, device=state.device)
    results = [_earlier_result(target, out) for target in described]
    missing = [
        [job for job in jobs if result is None or not job.done(result, target, seed)]
        for target, result in zip(described, results, strict=True)
    ]
    for job in jobs:
        if affected := [target for target, wanted in zip(described, missing, strict=True) if job in wanted]:
            with state.main_process_first():
                job.prepare(affected)
    state.wait_for_everyone()  # no process writes before all have read
    finished: list[Result] = []
    at = 0
    for _, group in itertools.groupby(described, key=lambda target: target.checkpoint.source):
        same = range(at, at + len(list(group)))
        at = same.stop
        current = {i: results[i] for i in same}
        lacking = {i: missing[i] for i in same if missing[i]}
        for i in same:
            if len(missing[i]) < len(jobs) and first:
                say(f"{described[i].label}: {len(jobs) - len(missing[i])} of {len(jobs)} are in {out} already")
        if lacking:
            pair = next((i for i in lacking if described[i].base is not None), min(lacking))
            subject = load(described[pair], device=state.device, batch_size=batch_size, seed=seed)
            for i in lacking:
                info = information(described[i], subject.model)  # replaces an earlier result's, which may lack fields
                before = results[i]
                earlier = Result(command, info) if before is None else replace(before, checkpoint=info)
                current[i] = earlier.called_again(command)
            for wanted, job in _together(lacking, jobs):
                if not (first or job.spread):
                    continue
                names = ", ".join(described[i].label for i in wanted[:2]) + ", ..." * (len(wanted) > 2)
                own = lacking[wanted[0]]
                label = f"{names}: {job.label} ({own.index(job) + 1} of {len(own)})"
                with progress(label, None) if first else _no_progress(label, None) as advance:
                    outcomes = _run(job, subject, [described[i] for i in wanted], advance)
                for i, outcome in zip(wanted, outcomes, strict=True) if first else ():
                    target, result = described[i], current[i]
                    assert result is not None
                    for m in outcome.measurements:
                        if not m.is_finite:
                            say(f"{target.label}: {m.task}, {m.metric} is {m.value} in {m.dtype}; try another --dtype")
                    current[i] = _keep(result, outcome, target, out)
            state.wait_for_everyone()
            del subject
            if state.device.type == "cuda":
                torch.cuda.empty_cache()
        for result in current.values():
            assert result is not None
            finished.append(result)
    return finished


def _together(lacking: Mapping[int, Sequence[Job]], jobs: Sequence[Job]) -> Iterator[tuple[list[int], Job]]:
    """The targets and the job of each piece of work: all targets of a job that can measure them together.

    lacking: the jobs of each target, by its number.
    """
    for job in jobs:
        wanted = [i for i, of_target in lacking.items() if job in of_target]
        if hasattr(job, "run_together"):
            yield from [(wanted, job)] if wanted else []
        else:
            yield from (([i], job) for i in wanted)


def _run(job: Job, subject: Subject, same: Sequence[Target], advance: Advance) -> Sequence[Outcome]:
    """The outcomes of a job for targets of the subject's checkpoint."""
    if len(same) == 1:
        return [job.run(subject.under(same[0]), advance)]
    outcomes: Sequence[Outcome] = job.run_together(subject, same, advance)  # type: ignore[attr-defined]
    return outcomes


def _check(*, batch_size: int | None, dtype: str | None, seed: int, out: Path | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"--batch-size {batch_size}: at least 1, or auto")
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: choose auto, {', '.join(DTYPES)}")
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: 0 to 2^32 - 1")
    if out is not None:
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise RequestError(f"--out {out}: {existing} is not a writable folder; choose another")


def _earlier_result(target: Target, out: Path | None) -> Result | None:
    """The result of an earlier call for this target in `out`, None if there is none.

    Raises RequestError if the target's label has a result of another checkpoint.
    """
    if out is None:
        return None
    result = read_result(out / target.label)
    if result is None:
        return None
    advice = f"choose another --out, or another name: LABEL={target.checkpoint.source}"
    if result.checkpoint.fingerprint != target.fingerprint:
        raise RequestError(
            f"{out / target.label} holds results of another checkpoint (once {result.checkpoint.source}); {advice}"
        )
    if result.checkpoint.companions not in (None, target.companions):  # None: written by an earlier version
        raise RequestError(
            f"{out / target.label} holds results with other files of the tokenizer or of generation; {advice}"
        )
    return result


def _keep(result: Result, outcome: Outcome, target: Target, out: Path | None) -> Result:
    """The result with a job's outcome added, saved in `out`."""
    result = result.adding(outcome.measurements)
    if out is None:
        return result
    folder = out / target.label
    with only_writer(folder, wait=True):
        if (others := _earlier_result(target, out)) is not None:  # of another process, since this one read the folder
            result = result.together_with(others)
        try:
            for items in outcome.items:  # first, so that every saved measurement has its items
                items.save(folder)
            return result.save(folder)
        except OSError as error:
            raise RequestError(f"--out {out} cannot be written: {error.strerror or error}") from error
