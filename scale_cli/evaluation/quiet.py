"""Runs the harness without output and its templates in a sandbox; reports its progress and warnings to the caller."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import datasets
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.models.huggingface
import lm_eval.utils
import tqdm
from jinja2.sandbox import SandboxedEnvironment

from scale_cli.evaluation.evaluate import Advance


class SilentBar:
    """A tqdm without output."""

    def __init__(
        self, iterable: Any = (), *, total: int | None = None, desc: str = "", disable: bool = False, **rest: Any
    ) -> None:
        self.iterable, self.total = iterable, total
        self.counts_requests = desc.startswith("Running ") and not disable

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def update(self, steps: int = 1) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def progress_shown(lm: Any, advance: Advance, *, total_known: bool) -> Iterator[None]:
    """Report the number of requests that the harness has finished to `advance`.

    The harness counts the requests of a batch one by one after the batch. They are reported at the start of the next
    batch and at the end, so that the rate is that of whole batches.
    total_known: whether the harness has one bar for all requests instead of one per batch.
    """
    done = total = 0

    def report() -> None:
        if done:
            advance(done=done, total=total if total_known else None)

    def reporting(call: Callable[..., Any]) -> Callable[..., Any]:
        def with_progress(*args: Any, **kwargs: Any) -> Any:
            report()
            return call(*args, **kwargs)

        return with_progress

    class CountingBar(SilentBar):
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
                report()

    with contextlib.ExitStack() as stack:
        for module in (lm_eval.models.huggingface, lm_eval.api.model, lm_eval.api.task, tqdm):
            stack.enter_context(mock.patch.object(module, "tqdm", CountingBar))
        for name in ("_model_call", "_model_generate"):
            stack.enter_context(mock.patch.object(lm, name, reporting(getattr(lm, name))))
        # It queries pip, the compiler and the driver for three seconds; the record has the environment anyway.
        stack.enter_context(mock.patch.object(lm_eval.evaluator, "add_env_info", return_value=None))
        yield


@functools.cache
def _sandbox() -> SandboxedEnvironment:
    """The harness's jinja environment as a sandbox."""
    own = lm_eval.utils.env
    environment = SandboxedEnvironment(
        loader=own.loader, undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    environment.filters = own.filters
    return environment


class _WarningCounter(logging.Handler):
    """Counts the harness's warnings. Warnings that differ only in numbers count as equal."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self.counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        message = re.sub(r"\d+", "N", " ".join(record.getMessage().split()))
        if not message.startswith("Overwriting default num_fewshot"):  # as requested, and recorded
            self.counts[message] += 1


@contextlib.contextmanager
def quiet(warned: Counter[str] | None = None) -> Iterator[None]:
    """Silence the harness in the block, and keep it from querying git for the commit of the current folder.

    Templates of task files are rendered in jinja's sandbox, as they could otherwise call any Python function.

    warned: counts the harness's warnings.
    """
    harness = logging.getLogger("lm_eval")
    handler = _WarningCounter(Counter() if warned is None else warned)
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
            mock.patch.object(lm_eval.utils, "env", _sandbox()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        harness.removeHandler(handler)
        harness.propagate = propagate
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
