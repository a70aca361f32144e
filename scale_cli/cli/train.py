"""`scale train`: train a checkpoint with one of the methods."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.options import recipe_options
from scale_cli.cli.output import AsJson, counter, duration, progress, say, show
from scale_cli.core.recipe import load_recipe
from scale_cli.training import TrainRecipe

if TYPE_CHECKING:
    from rich.table import Table

    from scale_cli.training.result import TrainResult


@recipe_options(TrainRecipe)
def train(
    checkpoint: Annotated[str, typer.Argument(help="Model folder, run folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Run folder to write; a checkpoint for eval and train.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML file with the options below; flags override it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in OUT.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: AsJson = False,
    *,
    context: typer.Context,
    given: dict[str, Any],
) -> None:
    """Train a checkpoint: continual pre-training on text, or fine-tuning on questions about people."""
    from scale_cli.training.source import load_request

    first_process = os.environ.get("RANK", "0") == "0"
    shown: dict[str, Any] = {"say": say if first_process else lambda line: None}
    resolved = load_request(checkpoint, out, recipe, given, resume=resume, revision=revision, **shown)

    from scale_cli.training.result import Watch
    from scale_cli.training.resume import RECIPE, last_checkpoint, step_of
    from scale_cli.training.train import train as run

    quiet_libraries()
    done = step_of(last_checkpoint(out)) if resume else 0
    watch = Watch(resolved.method, say, resumed_at=done)
    try:
        with progress(resolved.method, None if resolved.amount else resolved.steps, done=done) as advance:
            result = run(
                checkpoint,
                out,
                resolved,
                resume=resume,
                revision=revision,
                progress=lambda done, total: advance(done=done, total=total, note=watch.note),
                report=watch,
                reading=counter("tokens read from --data"),
                sampling=counter("tokens sampled from the base for --rehearse"),
                **shown,
            )
    except KeyboardInterrupt:
        if first_process:
            _say_how_to_resume(out, context.obj)
        raise
    if not first_process:  # only one of several processes prints
        return
    if result.warning is not None:
        say(f"warning: {result.warning}")

    from rich.console import Group

    parts = [
        _summary(result, load_recipe(TrainRecipe, out / RECIPE, {})),
        *([_measured(result)] if result.metrics else []),
    ]
    show(result, Group(*parts), as_json=as_json)


def _say_how_to_resume(out: Path, words: list[str]) -> None:
    """Print what an interrupted run has written, and the command that continues it. words: the interrupted command."""
    from scale_cli.checkpoints.schemas import RECORD
    from scale_cli.training.resume import RECIPE, last_checkpoint

    if (out / RECORD).is_file():
        say(f"the training is finished: {out}")
    elif (out / RECIPE).is_file():
        last = last_checkpoint(out)
        written = "no checkpoint was written, so it begins anew" if last is None else f"{last} was written"
        command = shlex.join(words if "--resume" in words else [*words, "--resume"])
        say(f"{written}; continue with: {command}")


def _summary(result: TrainResult, recipe: TrainRecipe) -> Table:
    """What was trained, on what, and how the loss went."""
    from rich.table import Table

    table = Table("written to", str(result.out))
    share = result.trained_parameters / result.total_parameters
    table.add_row("method", recipe.method)
    table.add_row("trained parameters", f"{result.trained_parameters:,} of {result.total_parameters:,} ({share:.1%})")
    table.add_row("learning rate", f"{recipe.learning_rate:g}, {recipe.schedule_in_words}")
    if result.last_loss is not None:
        table.add_row("loss", f"{result.first_loss:,.3f} at first, {result.last_loss:,.3f} at last")
    if result.warning is not None:
        table.add_row("warning", result.warning)
    if recipe.keep_best is not None:
        table.add_row("kept step", f"{result.kept_step:,} of {result.steps:,}, the best in {recipe.keep_best}")
    if result.ended_by is not None:
        table.add_row("ended early", f"after {result.steps:,} of {recipe.steps:,} steps by {result.ended_by}")
    table.add_row("tokens", f"{result.tokens:,} in {duration(result.seconds)}")
    for source, epochs in result.epochs.items():
        table.add_row("epochs", f"{'less than one' if epochs is None else f'{epochs:.2f}'} of {source}")
    return table


def _measured(result: TrainResult) -> Table:
    """The measured values before and after, without those of single attributes, which are in metrics.jsonl."""
    from rich.table import Table

    from scale_cli.training.result import change

    table = Table("measured")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, value in result.metrics.items():
        if name.count("/") == 1:
            before = result.before.get(name)
            cells = ("", "") if before is None else (f"{before:,.3f}", change(name, value, before))
            table.add_row(name, cells[0], f"{value:,.3f}", cells[1])
    return table
