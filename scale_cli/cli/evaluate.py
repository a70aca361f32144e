"""`scale eval`: measure checkpoints."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import AsJson, progress, say, show_sheets
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
        typer.Argument(
            help="Model folders, run folders or hub ids; LABEL=CHECKPOINT sets a label.", show_default=False
        ),
    ],
    suite: Annotated[
        list[str] | None,
        typer.Option(help="english, korean, english-extended, korean-extended, or a YAML file; may be repeated."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks and groups of the harness, separated by commas.", metavar="<task,...>")
    ] = None,
    bios: Annotated[Path | None, typer.Option(help="Biography accuracy on this gen-bios folder.")] = None,
    people: Annotated[str | None, typer.Option(help="--bios: only the people A to B-1, as A:B.  [all]")] = None,
    perplexity: Annotated[
        list[str] | None,
        typer.Option(
            help="Perplexity of a text. SOURCE as in scale train --data: a file, FILE:FIELD, a folder, a glob, or a "
            "hub dataset ORG/NAME:CONFIG:SPLIT:FIELD. May be repeated.",
            metavar="NAME=SOURCE",
        ),
    ] = None,
    perplexity_documents: Annotated[
        int | None,
        typer.Option(
            help="Number of documents of each text, from the first; required for hub datasets.  [all]",
        ),
    ] = None,
    perplexity_length: Annotated[
        int | None, typer.Option(help="Tokens per window.  [the model's maximum, at most 2048]")
    ] = None,
    perplexity_stride: Annotated[
        int | None,
        typer.Option(help="New tokens predicted per window; below the length, windows overlap.  [the length]"),
    ] = None,
    perplexity_packing: Annotated[
        Literal["concat", "documents"],
        typer.Option(
            help="concat: windows over concatenated documents, as in training; documents: windows of one document each."
        ),
    ] = "concat",
    perplexity_lead: Annotated[
        Literal["auto", "bos", "eos"],
        typer.Option(
            help="The token before each document: begin-of-text, which Gemma was trained with, or end-of-text; auto: "
            "eos with concat, bos with documents."
        ),
    ] = "auto",
    drift: Annotated[
        bool,
        typer.Option("--drift", help="Drift from the base: of weights, and of outputs on the texts of --perplexity."),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            help="--drift: the checkpoint to compare with; --router: the one that a checkpoint which is not widened "
            "predicts together with.  [--drift: the only untrained plain model given beside others; else the base in "
            "each checkpoint]"
        ),
    ] = None,
    drift_tokens: Annotated[int, typer.Option(help="--drift: number of tokens of each text, from the first.")] = 65_536,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results; measurements in it are not repeated.  [only printed]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Number of items of each task, from the first, for a trial.  [all]")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Few-shot examples per item.  [the suite's, else the task's own]")
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Prompt the tasks through the tokenizer's chat template.")
    ] = False,
    system_instruction: Annotated[str | None, typer.Option(help="System prompt of the tasks.  [none]")] = None,
    confirm_run_unsafe_code: Annotated[
        bool,
        typer.Option(
            "--confirm-run-unsafe-code", help="Run Python functions that a suite's own task files name (!function)."
        ),
    ] = False,
    router: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure with this router: none, cosine:TAU, mixture:SHARE[:PRIOR], interpolate:WEIGHT, "
            "weights:SHARE (of the trained weights, the rest of the base); may be repeated. A checkpoint that is not "
            "widened needs a second forward pass, of its base.  [the checkpoint's own]"
        ),
    ] = None,
    frontier: Annotated[
        bool, typer.Option("--frontier", help="Measure with the routers that show the trade-off of one training.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub ids.")] = None,
    batch_size: Annotated[
        str, typer.Option(help="Sequences per forward pass; auto: as many as fit.", metavar="<int|auto>")
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Dtype of the weights; auto: bfloat16 on a GPU, the stored dtype on a CPU."),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the few-shot examples.")] = 1234,
    as_json: AsJson = False,
) -> None:
    """Measure checkpoints: suites and tasks of the harness, biography accuracy, perplexity, drift.

    Prints every number with its standard error.
    """
    task_names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    text_options = {"length": perplexity_length, "stride": perplexity_stride}
    for name, value in text_options.items():
        if value is not None and not perplexity:
            raise RequestError(f"--perplexity-{name} {value}: there is no text to read; add --perplexity NAME=SOURCE")
    if batch_size != "auto" and not batch_size.isdecimal():
        raise RequestError(f"--batch-size {batch_size}: a whole number of at least 1, or auto")

    from scale_cli.checkpoints.router import FRONTIER
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.evaluate import evaluate as run
    from scale_cli.evaluation.request import request

    routers = list(dict.fromkeys(router or ()))
    first_process = os.environ.get("RANK", "0") == "0"
    requested = request(
        suites=suite or (),
        tasks=task_names,
        bios=bios,
        people=people,
        texts=perplexity or (),
        documents=perplexity_documents,
        windows=WindowOptions(perplexity_length, perplexity_stride, perplexity_packing, perplexity_lead),
        drift=drift,
        base=base,
        drift_tokens=drift_tokens,
        routers=[*routers, *(FRONTIER if frontier else ())],
        num_fewshot=num_fewshot,
        limit=limit,
        chat=apply_chat_template,
        system=system_instruction,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        say=say if first_process else lambda line: None,
    )

    quiet_libraries()
    results = run(
        checkpoints,
        requested.jobs,
        out=out,
        routers=routers,
        frontier=frontier,
        base=base,
        revision=revision,
        dtype=None if dtype == "auto" else dtype,
        batch_size=None if batch_size == "auto" else int(batch_size),
        seed=seed,
        command=_command(context),
        say=say,
        progress=progress,
    )
    if not first_process:  # only the first process prints
        return

    if as_json:
        print(to_json([{"checkpoint": result.checkpoint, "measurements": result.measurements} for result in results]))
        return
    show_sheets(_sheets(results, requested.suites, requested.tasks, num_fewshot=num_fewshot, limit=limit))


def _sheets(
    results: Sequence[Result],
    suites: Sequence[Suite],
    tasks: Sequence[str],
    *,
    num_fewshot: int | None,
    limit: int | None,
) -> list[Sheet]:
    """The tables of the requested measurements, one row per checkpoint. Other measurements in the results are left out.

    tasks: names of requested tasks beside the suites'. num_fewshot, limit: as given to the suites and tasks.
    """
    from scale_cli.reporting.columns import routed_group, suite_group
    from scale_cli.reporting.documents import BEST
    from scale_cli.reporting.names import is_own
    from scale_cli.reporting.sheet import table_sheets
    from scale_cli.reporting.table import build_table

    requested = {*tasks, *(entry.task for suite in suites for entry in suite.entries)}
    has_shots = {m.task for result in results for m in result.measurements if m.num_fewshot == num_fewshot}

    def wanted(m: Measurement) -> bool:
        # A task with 0 examples of its own keeps 0 whatever --num-fewshot is.
        shots_fit = num_fewshot is None or m.num_fewshot == num_fewshot or m.task not in has_shots
        return m.task in requested and (is_own(m.task) or (m.limit == limit and shots_fit))

    shown = [replace(r, measurements=tuple(filter(wanted, r.with_routed().measurements))) for r in results]
    groups = list(map(suite_group, suites))
    groups += [routed for group in groups for routed in routed_group(group, shown)]
    sheets = table_sheets(build_table(shown, groups, title="Measured"), best=BEST["text"])

    def is_report_only(term: str, meaning: str) -> bool:
        """Whether an entry of a legend names options of `scale report`."""
        return term == "stability, plasticity" or "--base LABEL" in meaning

    return [
        replace(each, legend=tuple(entry for entry in each.legend if not is_report_only(*entry))) for each in sheets
    ]


def _command(context: typer.Context) -> str:
    """The command line of this call, quoted for a shell."""
    arguments = ["scale", "eval", *context.params["checkpoints"]]
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name != "checkpoints" and source is not None and source.name == "COMMANDLINE":
            flag = {"as_json": "--json"}.get(name, f"--{name.replace('_', '-')}")
            values: list[Any] = value if isinstance(value, list) else [value]
            for item in values:
                arguments += [flag] if item is True else [flag, str(item)]
    return shlex.join(arguments)
