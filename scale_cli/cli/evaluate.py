"""`scale eval`: measure checkpoints."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, say, show_sheets
from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json

if TYPE_CHECKING:
    from scale_cli.evaluation.suites import Suite
    from scale_cli.reporting.sheet import Sheet
    from scale_cli.results.measurement import Measurement
    from scale_cli.results.result import Result


def evaluate(
    context: typer.Context,
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Model folders, run folders or hub ids; LABEL=CHECKPOINT names one.", show_default=False),
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="english, korean, english-extended, korean-extended, or a YAML file. Several: --suite twice."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks and groups of the harness, with commas between.", metavar="<task,...>")
    ] = None,
    bios: Annotated[Path | None, typer.Option(help="Biography accuracy on this gen-bios folder.")] = None,
    people: Annotated[str | None, typer.Option(help="--bios: A:B, the people asked about.  [all]")] = None,
    perplexity: Annotated[
        list[str] | None,
        typer.Option(
            help="Perplexity of a text, a source as of `scale train --data`: a file, FILE:FIELD, a folder, a glob, or "
            "a hub data set ORG/NAME:CONFIG:SPLIT:FIELD. Several: --perplexity twice.",
            metavar="NAME=SOURCE",
        ),
    ] = None,
    perplexity_documents: Annotated[
        int | None,
        typer.Option(help="The first so many documents of each text; a data set of the hub needs it.  [all]"),
    ] = None,
    perplexity_length: Annotated[
        int | None, typer.Option(help="Tokens of a window.  [what the model takes, at most 2048]")
    ] = None,
    perplexity_stride: Annotated[
        int | None, typer.Option(help="New tokens a window predicts; fewer than its length: windows overlap.  [length]")
    ] = None,
    perplexity_packing: Annotated[
        Literal["concat", "documents"],
        typer.Option(help="concat: windows of documents laid end to end, as in training; documents: each its own."),
    ] = "concat",
    drift: Annotated[
        bool, typer.Option("--drift", help="Distance from the base: of weights, and on the texts of --perplexity.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="--drift: the checkpoint to compare with.  [the base in each checkpoint]")
    ] = None,
    drift_tokens: Annotated[int, typer.Option(help="--drift: the first so many tokens of each text.")] = 65_536,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results; what it holds already is not measured again.  [only printed]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many items of each task, for a trial.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples before each item.  [the suite's, else the task's own]")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Sequences a forward pass; auto: as many as fit.", metavar="<int|auto>")
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; auto: bfloat16 on a GPU, on a CPU as they are stored."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the examples drawn for few-shot prompts.")] = 1234,
    as_json: AsJson = False,
) -> None:
    """Measure checkpoints: suites and tasks of the harness, biographies, perplexity, drift; print each number with its
    error and with what it is of."""
    words = [word.strip() for word in (tasks or "").split(",") if word.strip()]
    if base is not None and not drift:
        raise RequestError(f"--base {base}: only --drift compares with a base; add --drift")
    of_texts = {"documents": perplexity_documents, "length": perplexity_length, "stride": perplexity_stride}
    for name, value in of_texts.items():
        if value is not None and not perplexity:
            raise RequestError(f"--perplexity-{name} {value}: there is no text to read; add --perplexity NAME=SOURCE")
    if people is not None and bios is None:
        raise RequestError(f"--people {people}: only --bios asks about people; add --bios DIR")
    if not (suite or words or bios or perplexity or drift):
        raise RequestError(
            "nothing to measure: give --suite english, --tasks a,b, --bios DIR, --perplexity NAME=FILE or --drift"
        )
    if batch_size != "auto" and not batch_size.isdecimal():
        raise RequestError(f"--batch-size {batch_size}: a whole number of at least 1, or auto")

    from scale_cli.data.corpora import read_corpora
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.bios import BiographyJob
    from scale_cli.evaluation.drift import DriftJob
    from scale_cli.evaluation.evaluate import Job
    from scale_cli.evaluation.evaluate import evaluate as run
    from scale_cli.evaluation.perplexity import PerplexityJob
    from scale_cli.evaluation.suites import find_suite

    suites = [find_suite(word) for word in dict.fromkeys(suite or [])]
    jobs: list[Job] = []
    if suites or words:
        from scale_cli.evaluation.harness import find_tasks, suite_tasks, without_repetitions

        found = [suite_tasks(suite, num_fewshot=num_fewshot, limit=limit) for suite in suites]
        named = find_tasks(dict.fromkeys(words, num_fewshot), limit=limit)
        jobs += without_repetitions([task for tasks in [*found, named] for task in tasks])
    if bios is not None:
        jobs.append(BiographyJob(bios, people))
    text_jobs: list[PerplexityJob | DriftJob] = []
    if perplexity or drift:
        windows = WindowOptions(perplexity_length, perplexity_stride, perplexity_packing)
        silent = os.environ.get("RANK", "0") != "0"
        corpora = read_corpora(perplexity or [], limit=perplexity_documents, say=(lambda line: None) if silent else say)
        text_jobs += [PerplexityJob(corpus, windows) for corpus in corpora]
        text_jobs += [DriftJob(corpora, windows, base, drift_tokens)] if drift else []

    quiet_libraries()
    results = run(
        checkpoints,
        [*jobs, *text_jobs],
        out=out,
        dtype=None if dtype == "auto" else dtype,
        batch_size=None if batch_size == "auto" else int(batch_size),
        seed=seed,
        command=_command(context),
        say=say,
        progress=progress,
    )
    if os.environ.get("RANK", "0") != "0":  # of several processes one speaks
        return

    if as_json:
        print(to_json([{"checkpoint": result.checkpoint, "measurements": result.measurements} for result in results]))
        return
    asked = [task.name for task in named] if words else []
    asked += [job.label for job in jobs if isinstance(job, BiographyJob)]
    asked += [task for job in text_jobs for task in job.tasks]
    show_sheets([_sheet(results, suites, asked, num_fewshot=num_fewshot, limit=limit)])


def _sheet(
    results: Sequence[Result],
    suites: Sequence[Suite],
    tasks: Sequence[str],
    *,
    num_fewshot: int | None,
    limit: int | None,
) -> Sheet:
    """What was asked for, a row per checkpoint; what the folder of results holds besides is left out.

    num_fewshot, limit: with which suites and tasks were run; None: with their own, and all items.
    """
    from scale_cli.reporting.columns import routed_group, suite_group
    from scale_cli.reporting.documents import BEST
    from scale_cli.reporting.sheet import table_sheet
    from scale_cli.reporting.table import build_table

    of_suites = {entry.task for suite in suites for entry in suite.entries}
    has_shots = {m.task for result in results for m in result.measurements if m.num_fewshot == num_fewshot}

    def wanted(m: Measurement) -> bool:
        of_harness = m.task.partition(":")[0] not in ("bios", "perplexity", "drift")
        # A task that is always asked without examples keeps to that.
        shots_fit = num_fewshot is None or m.num_fewshot == num_fewshot or m.task not in has_shots
        return m.task in {*of_suites, *tasks} and (not of_harness or (m.limit == limit and shots_fit))

    shown = [replace(r, measurements=tuple(filter(wanted, r.with_routed().measurements))) for r in results]
    groups = list(map(suite_group, suites))
    groups += [found for group in groups for found in routed_group(group, shown)]
    sheet = table_sheet(build_table(shown, groups, title="Measured"), best=BEST["text"])
    of_reports = [entry for entry in sheet.legend if entry[0] == "stability, plasticity" or "--base LABEL" in entry[1]]
    return replace(sheet, legend=tuple(entry for entry in sheet.legend if entry not in of_reports))


def _command(context: typer.Context) -> str:
    """The words that the command was called with, as a shell takes them."""
    words = ["scale", "eval", *context.params["checkpoints"]]
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name != "checkpoints" and source is not None and source.name == "COMMANDLINE":
            flag = {"as_json": "--json"}.get(name, f"--{name.replace('_', '-')}")
            values: list[Any] = value if isinstance(value, list) else [value]
            words += [word for one in values for word in ([flag] if one is True else [flag, str(one)])]
    return shlex.join(words)
