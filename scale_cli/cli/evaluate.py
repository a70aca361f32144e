"""`scale eval`: measure checkpoints."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, say, show
from scale_cli.core.errors import RequestError


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

    from rich.console import Group

    from scale_cli.reporting.bios import metrics_table
    from scale_cli.reporting.measurements import suite_table, task_table
    from scale_cli.reporting.texts import text_tables

    tables = [suite_table(results, suite, num_fewshot=num_fewshot, limit=limit) for suite in suites]
    if words:
        tables.append(task_table(results, [task.name for task in named], title="Tasks"))
    if bios is not None:
        label = jobs[-1].label
        metrics = {result.checkpoint.label: result.find(label) for result in results}
        tables.append(metrics_table(metrics, title=f"{bios}, people {people or 'all'}"))
    tables += text_tables(results, [task for job in text_jobs for task in job.tasks])
    values = [{"checkpoint": result.checkpoint, "measurements": result.measurements} for result in results]
    show(values, Group(*tables), as_json=as_json)


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
