"""`scale run`: continual pre-training of one's own model on one's own texts, to a verdict."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scale_cli.bench.own_recipe import OwnRecipe
from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.options import recipe_options
from scale_cli.cli.output import AsJson, progress, say, show, show_sheets
from scale_cli.core.recipe import load_recipe

if TYPE_CHECKING:
    from scale_cli.bench.own import OwnPlan
    from scale_cli.reporting.requirements import Verdict
    from scale_cli.reporting.table import Table as ResultTable


@recipe_options(OwnRecipe)
def run(
    base: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Run folder; an interrupted run is continued.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML file with the options below; flags override it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan: sizes, tokens, epochs, memory and hours.")
    ] = False,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Train a model on your own texts with several methods, and find out what was learnt and what was kept."""
    resolved = load_recipe(OwnRecipe, recipe, given)
    quiet_libraries()

    from scale_cli.bench import own

    if dry_run:
        _show_plan(base, out, resolved, as_json=as_json)
        return
    _, table, verdicts = own.run(base, out, resolved, say=say, progress=progress)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one prints
        return
    if as_json:
        from scale_cli.results.result import BENCH_FILE

        print((out / own.RUN / BENCH_FILE).read_text(encoding="utf-8"), end="")
        return
    _show_result(out, resolved, table, verdicts)


def _show_plan(base: str, out: Path, recipe: OwnRecipe, *, as_json: bool) -> None:
    """Print the plan and the cost of each training."""
    from scale_cli.bench import own
    from scale_cli.bench.continual_recipe import ContinualRecipe
    from scale_cli.bench.dry_run import dry_run_continual, sheet

    plan, _ = own.make_plan(base, recipe, say=say)
    fields = own.bench_fields(base, out, recipe, plan) | {"preset": ""}
    bench = load_recipe(ContinualRecipe, None, fields)
    cost = dry_run_continual(bench)
    if as_json:
        show({"plan": plan, "cost": cost}, "", as_json=True)
        return
    table = _plan_table(plan)
    trainings = {label: bench.train_recipe(label, seed=0) for label in bench.methods}
    table.add_row("learning rate", ", ".join(f"{label} {each.learning_rate:g}" for label, each in trainings.items()))
    table.add_row("schedule", next(iter(trainings.values())).schedule_in_words)
    show({}, table, as_json=False)
    show_sheets([sheet(cost, title=f"{base}: {cost.base_parameters:,} parameters")])


def _plan_table(plan: OwnPlan) -> Any:
    from rich.table import Table

    table = Table("plan", "")
    table.add_row("new texts", f"{plan.documents:,} documents to train on, about {plan.new_tokens:,} tokens")
    table.add_row("held out", f"{plan.held_out:,} documents of each text")
    table.add_row("training", f"{plan.steps:,} steps, {plan.tokens:,} tokens, {plan.epochs:.2f} epochs per method")
    table.add_row("widened by", ", ".join(f"{value:,} {name}" for name, value in plan.width.items()))
    table.add_row("deepened to", f"{plan.depth['layers']} layers")
    return table


def _show_result(out: Path, recipe: OwnRecipe, table: ResultTable, verdicts: list[Verdict]) -> None:
    """Print what each row learnt and kept, and the commands for the row to take."""
    from rich.table import Table

    from scale_cli.bench import own
    from scale_cli.bench.own_verdict import NEW, OLD, best_kept, best_rows, change, info_of, rate_of

    shown = Table("bits per byte", "old", "new", f"old kept within {recipe.allow:.1%}")
    words = {"met": "yes", "not met": "no", "not decided": "not decided"}
    rows = {row.label: row for row in table.rows}
    cells: dict[str, list[str]] = {}
    for verdict in verdicts:
        changes = [f"{change(table, rows[verdict.row], text):+.2%}" for text in (OLD, NEW)]
        cells[verdict.row] = [*changes, words[verdict.outcome]]
        shown.add_row(verdict.row, *cells[verdict.row])
    show({}, shown, as_json=False)
    of_methods = best_rows(table, verdicts)
    if recipe.rates:
        chosen = Table("best rate of", "rate", "old", "new", "old kept")
        for name, row in of_methods.items():
            chosen.add_row(name, f"{rate_of(info_of(table, row)):g}", *cells[row.label])
        show({}, chosen, as_json=False)
    best = best_kept(table, verdicts)
    if best is None:
        least = min(of_methods.values(), key=lambda row: change(table, row, OLD))
        say(f"no row kept the old texts for certain; the least was forgotten by {least.label}")
        say("train less, lower the rates, or measure more (--held-out)")
    else:
        say(f"best of those that kept the old texts: {best.label}")
        taken = info_of(table, best)
        router = "" if taken.router is None else f" --router {taken.router}"
        say(f"try it:  scale generate {shlex.quote(taken.source)}{router} --prompt '...'")
        if taken.kind == "width" or taken.router is None:  # other models predict with their base in a second pass
            say(f"take it: scale export {shlex.quote(taken.source)} FOLDER{router}")
    say(f"report:  {out / own.REPORT}")
    say(f"again:   scale bench korean --preset {shlex.quote(str(out / own.RECIPE))}")
