"""The jobs of an evaluation, from the names of suites, tasks, texts and people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_cli.core.errors import RequestError

if TYPE_CHECKING:
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.evaluate import Job
    from scale_cli.evaluation.suites import Suite


@dataclass(frozen=True)
class Request:
    """An evaluation. suites: the requested suites. tasks: names of the requested tasks that belong to no suite."""

    jobs: tuple[Job, ...]
    suites: tuple[Suite, ...]
    tasks: tuple[str, ...]


def request(
    *,
    suites: Sequence[str] = (),
    tasks: Sequence[str] = (),
    bios: Path | None = None,
    people: str | None = None,
    texts: Sequence[str] = (),
    documents: int | None = None,
    windows: WindowOptions | None = None,
    drift: bool = False,
    base: str | None = None,
    drift_tokens: int | None = None,
    routers: Sequence[str] = (),
    num_fewshot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    system: str | None = None,
    confirm_run_unsafe_code: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Request:
    """The jobs of an evaluation.

    suites: names of shipped suites, or YAML files. tasks: tasks and groups of the harness.
    bios: a gen-bios folder; people: "A:B", the people A to B-1, None for all.
    texts: NAME=SOURCE, for perplexity and drift. documents: number per text, from the first; None for all.
    windows: None for the defaults of `WindowOptions`.
    drift: measure the drift from `base`, None as in `DriftJob`, on `drift_tokens` tokens per text, None for
        `drift.DEFAULT_TOKENS`.
    routers: those that the checkpoints are measured with.
    chat, system: whether the tasks' prompts go through the tokenizer's chat template, and the system prompt.
    confirm_run_unsafe_code: whether Python functions that a suite's own task files name may run, in the harness's word.
    num_fewshot, limit: examples and items per task; None for the suite's or task's own, and for all.
    say: called with messages on skipped files.
    Raises RequestError for an unknown suite or task, an unreadable text, and if nothing is requested, and for functions
    in task files that are not confirmed.
    """
    if base is not None and not (drift or routers):
        raise RequestError(f"--base {base}: only --drift and --router need a base; add one of them")
    if documents is not None and not texts:
        raise RequestError(
            f"--perplexity-documents {documents}: there is no text to read; add --perplexity NAME=SOURCE"
        )
    if people is not None and bios is None:
        raise RequestError(f"--people {people}: only --bios has people; add --bios DIR")
    if (chat or system is not None) and not (suites or tasks):
        given = "--apply-chat-template" if chat else "--system-instruction"
        raise RequestError(f"{given}: there is no task to prompt; add --suite or --tasks")
    if not (suites or tasks or bios or texts or drift):
        raise RequestError(
            "nothing to measure: give --suite english, --tasks a,b, --bios DIR, --perplexity NAME=FILE or --drift"
        )
    # Imported only now: these load torch, and a wrong request is refused without it.
    from scale_cli.data.corpora import read_corpora
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.bios import BiographyJob
    from scale_cli.evaluation.drift import DEFAULT_TOKENS, DriftJob
    from scale_cli.evaluation.perplexity import PerplexityJob
    from scale_cli.evaluation.suites import find_suite

    found = tuple(find_suite(name) for name in dict.fromkeys(suites))
    jobs: list[Job] = []
    names: list[str] = []
    if found or tasks:
        from scale_cli.evaluation.catalogue import check_functions
        from scale_cli.evaluation.harness import find_tasks, suite_tasks, without_repetitions

        if not confirm_run_unsafe_code:
            for folder in filter(None, (suite.include_path for suite in found)):
                check_functions(folder)
        prompts: dict[str, Any] = {"limit": limit, "chat": chat, "system": system}
        by_suite = [suite_tasks(suite, num_fewshot=num_fewshot, **prompts) for suite in found]
        single = find_tasks(dict.fromkeys(tasks, num_fewshot), **prompts)
        jobs += without_repetitions([task for group in [*by_suite, single] for task in group])
        names += [task.name for task in single]
    if bios is not None:
        people_job = BiographyJob(bios, people)
        jobs.append(people_job)
        names.append(people_job.label)
    if texts or drift:
        options = windows or WindowOptions()
        corpora = read_corpora(texts, limit=documents, say=say)
        text_jobs: list[PerplexityJob | DriftJob] = [PerplexityJob(corpus, options) for corpus in corpora]
        if drift:
            text_jobs.append(DriftJob(corpora, options, base, DEFAULT_TOKENS if drift_tokens is None else drift_tokens))
        jobs += text_jobs
        names += [task for job in text_jobs for task in job.tasks]
    return Request(tuple(jobs), found, tuple(names))
