"""`scale data`: what texts hold, before a model is trained on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.options import key_options
from scale_cli.cli.output import AsJson, progress, say, show_sheets
from scale_cli.core.errors import RequestError, printable
from scale_cli.core.files import to_json
from scale_cli.core.recipe import keys_of, load_recipe, parse_count
from scale_cli.data.options import DataOptions

if TYPE_CHECKING:
    from scale_cli.data.statistics import DataReport

OF_STEPS = ("batch_size", "gradient_accumulation_steps")
OF_TRAINING = ("people", "bos", "seq_length", *OF_STEPS)
"""The options that have the meaning that they have in `scale train`."""
KEYS = {name: key for name, key in keys_of(DataOptions).items() if name in OF_TRAINING}
SAMPLE_CHARACTERS = 400


@key_options(KEYS)
def data(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Texts as in scale train --data: files, folders, globs, gen-bios folders, hub datasets, with :FIELD; "
            "a share of the tokens, as in :0.95, is added at the end, for all sources or none.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Count tokens with the tokenizer of this folder or hub id of a model.", metavar="MODEL"),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Tokens of the training, as in 20M, for the epochs of each source.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of the training, in place of --tokens.")] = None,
    documents: Annotated[
        int | None,
        typer.Option(help="Number of documents of each source, from the first; required for hub datasets.  [all]"),
    ] = None,
    eval_text: Annotated[
        list[str] | None,
        typer.Option(help="A held-out text, to be compared with the sources; may be repeated.", metavar="NAME=SOURCE"),
    ] = None,
    eval_documents: Annotated[
        int | None,
        typer.Option(help="Number of documents of each --eval-text; required for hub datasets.  [all]"),
    ] = None,
    samples: Annotated[int, typer.Option(help="Print this many documents of each source, drawn by --seed.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of --samples.")] = 0,
    revision: Annotated[str | None, typer.Option(help="--tokenizer: branch, tag or commit of a hub id.")] = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Print documents, tokens, shares, epochs and packing of texts, and documents that occur twice.

    Nothing is written. Documents are equal if they differ in whitespace only.
    """
    asked = given | {"data": list(sources), "seed": seed, "steps": steps, "tokens": tokens}
    recipe = load_recipe(DataOptions, None, asked)
    if steps is None and (unused := [name for name in OF_STEPS if name in given]):
        raise RequestError(f"{_flag(unused[0])}: only --steps needs it; add --steps N, or leave it out")
    counted = {"tokens": tokens, "steps": steps} | {name: given.get(name) for name in ("bos", "seq_length")}
    if tokenizer is None and (needing := [name for name, value in counted.items() if value is not None]):
        raise RequestError(f"{_flag(needing[0])}: sequences and epochs are counted in tokens; add --tokenizer MODEL")
    try:
        report = _report(
            recipe,
            tokenizer=tokenizer,
            revision=revision,
            counts=steps is not None or tokens is not None,
            held_out=eval_text or (),
            limit=documents,
            held_out_limit=eval_documents,
            samples=samples,
            progress=progress,
            say=say,
        )
    except RequestError as error:  # the sources are those of an option of scale train, and here arguments
        raise RequestError(str(error).removeprefix("--data ")) from error
    if as_json:
        print(to_json(report))
        return

    from scale_cli.reporting.texts import data_sheets

    show_sheets(data_sheets(report))
    _show_samples(report)
    if not report.overlaps and len(report.texts) > 1:
        print("\nNo document is in two sources.")
    for warning in report.warnings:
        say(f"warning: {warning}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _report(
    recipe: DataOptions,
    *,
    tokenizer: str | None,
    revision: str | None,
    counts: bool,
    **options: Any,
) -> DataReport:
    """The statistics, with the tokenizer of a checkpoint.

    counts: whether the recipe's length is that of a training, for epochs. options: of `describe_data`.
    """
    from scale_cli.data.statistics import describe_data

    quiet_libraries()
    if tokenizer is None:
        if revision is not None:
            raise RequestError(f"--revision {revision}: a revision is one of the hub id in --tokenizer; leave it out")
        return describe_data(recipe, **options)

    from scale_cli.checkpoints.load import describe, load_tokenizer
    from scale_cli.training.request import check_length, default_length

    checkpoint = describe(tokenizer, from_scratch=True, revision=revision)
    if recipe.seq_length is not None:
        check_length(recipe.seq_length, checkpoint)
    length = recipe.seq_length or default_length(checkpoint)
    step_tokens = recipe.batch_size * recipe.gradient_accumulation_steps * length
    tokens = parse_count("--tokens", recipe.tokens) if recipe.tokens else recipe.steps * step_tokens
    options |= {"default_length": length, "run_tokens": tokens if counts else None}
    return describe_data(recipe, tokenizer=load_tokenizer(checkpoint), **options)


def _show_samples(report: DataReport) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=not sys.stdout.isatty())
    for text in report.texts:
        for sample in text.samples:
            console.print(Text(f"\n{text.name}, document {sample.number:,}", "bold"))
            cut = sample.text[:SAMPLE_CHARACTERS]
            console.print(Text(printable(cut.strip()) + " ..." * (len(cut) < len(sample.text))))
