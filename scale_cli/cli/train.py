"""`scale train`: train a checkpoint with one of the methods."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.options import recipe_options
from scale_cli.cli.output import AsJson, counter, progress, say, show
from scale_cli.core.recipe import load_recipe
from scale_cli.training import TrainRecipe


@recipe_options(TrainRecipe)
def train(
    checkpoint: Annotated[str, typer.Argument(help="Model folder, run folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Run folder to write; a checkpoint for eval and train.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML file with the options below; flags override it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in OUT.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Train a checkpoint: continual pre-training on text, or fine-tuning on questions about people."""
    resolved = load_recipe(TrainRecipe, recipe, given)

    from scale_cli.training.resume import last_checkpoint, step_of
    from scale_cli.training.train import train as run

    quiet_libraries()
    first_process = os.environ.get("RANK", "0") == "0"
    done = step_of(last_checkpoint(out)) if resume else 0
    with progress(resolved.method, resolved.steps, done=done) as advance:
        result = run(
            checkpoint,
            out,
            resolved,
            resume=resume,
            revision=revision,
            progress=lambda done, total: advance(done=done, total=total),
            reading=counter("tokens read from --data"),
            sampling=counter("tokens sampled from the base for --rehearse"),
            say=say if first_process else lambda line: None,
        )
    if not first_process:  # only one of several processes prints
        return

    from rich.table import Table

    table = Table("written to", str(out))
    share = result.trained_parameters / result.total_parameters
    table.add_row("method", resolved.method)
    table.add_row("trained parameters", f"{result.trained_parameters:,} of {result.total_parameters:,} ({share:.1%})")
    if resolved.keep_best is not None:
        table.add_row("kept step", f"{result.kept_step:,} of {result.steps:,}, the best in {resolved.keep_best}")
    if result.ended_by is not None:
        table.add_row("ended early", f"after {result.steps:,} of {resolved.steps:,} steps by {result.ended_by}")
    table.add_row("tokens", f"{result.tokens:,} in {result.seconds:,.1f} s")
    for name, value in result.metrics.items():
        if name.count("/") == 1:  # the means; the attributes are in metrics.jsonl and record.json
            table.add_row(name, f"{value:.3f}")
    show(result, table, as_json=as_json)
