"""`scale bench`: the paper's benchmarks from end to end."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, say, show
from scale_cli.errors import RequestError


def bench(
    name: Annotated[
        Literal["bios", "korean"],
        typer.Argument(help="bios: the synthetic biographies; korean: continual pre-training on Korean."),
    ],
    preset: Annotated[str, typer.Option(help="demo, small, paper, or a YAML file of your own.")] = "demo",
    methods: Annotated[str | None, typer.Option(help="Only these, with commas between.  [all of the preset]")] = None,
    seeds: Annotated[str | None, typer.Option(help="Repetitions, with commas between: 0,1,2.  [the preset's]")] = None,
    base: Annotated[
        str | None, typer.Option(help="korean: the model to begin with, a folder or a hub id.  [the preset's]")
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(help="korean: Korean to train on, sources as of scale train --data.  [the preset's]"),
    ] = None,
    english_data: Annotated[
        str | None,
        typer.Option(help="korean: held-out English, a source as of scale eval --perplexity.  [the preset's]"),
    ] = None,
    korean_data: Annotated[str | None, typer.Option(help="korean: held-out Korean, the same.  [the preset's]")] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="korean: measured at the end, as of scale eval --suite. Several: --suite twice.  [the preset's]"
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it takes: recipes, parameters, tokens, memory and hours."),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(help="--dry-run: 10^12 operations a second of each process.  [the preset's, else 200]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; one that was interrupted goes on.  [runs/NAME-PRESET]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a benchmark of the paper: every method from the same checkpoint, and the stability-plasticity table."""
    changes: dict[str, Any] = {
        "base": base,
        "train_data": train_data,
        "english_data": english_data,
        "korean_data": korean_data,
        "suites": tuple(suite) if suite else None,
    }
    if name != "korean" and (given := [word for word, value in changes.items() if value is not None]):
        flag = {"suites": "suite"}.get(given[0], given[0]).replace("_", "-")
        raise RequestError(f"--{flag}: only scale bench korean has it; leave it out")

    if tflops is not None and not dry_run:
        raise RequestError(f"--tflops {tflops:g}: only --dry-run estimates hours; add it")

    from benchmarks.stages import parse_seeds

    chosen: dict[str, Any] = {
        "methods": None if methods is None else [word.strip() for word in methods.split(",")],
        "seeds": None if seeds is None else parse_seeds(seeds),
    }
    folder = out or Path("runs") / f"{name}-{Path(preset).stem}"
    result: Any
    if name == "bios":
        from benchmarks import bios
        from scale_cli.reporting.bios import rich_table as bios_table

        recipe = bios.load_preset(preset, **chosen)
        quiet_libraries()
        if dry_run:
            from benchmarks.dry_run import dry_run_bios

            return _show_dry_run(dry_run_bios(recipe, tflops=tflops), name, preset, as_json=as_json)
        result = bios.run(recipe, folder, say=say, progress=progress)
        figures = "curves.png are"
        table: Any = bios_table([vars(row) for row in result.rows], title=f"Biography benchmark, {preset}")
    else:
        from benchmarks import korean
        from scale_cli.reporting.korean import rich_tables as korean_tables

        korean_recipe = korean.load_preset(preset, **chosen, **changes)
        quiet_libraries()
        if dry_run:
            from benchmarks.dry_run import dry_run_korean

            return _show_dry_run(dry_run_korean(korean_recipe, tflops=tflops), name, preset, as_json=as_json)
        result = korean.run(korean_recipe, folder, say=say, progress=progress)
        figures = "figures are"
        table = korean_tables([vars(row) for row in result.rows], title=f"Korean benchmark, {preset}")
    if os.environ.get("RANK", "0") != "0":  # of several processes one speaks
        return
    say(f"{result.seconds:,.0f} s in all; records, table.md and {figures} in {folder}")
    show(result, table, as_json=as_json)


def _show_dry_run(result: Any, name: str, preset: str, *, as_json: bool) -> None:
    """What a benchmark would take, and the options of its trainings: what all have in common, then what differs."""
    import yaml
    from rich.console import Group
    from rich.text import Text

    from scale_cli.files import plain
    from scale_cli.reporting.dry_run import rich_table

    recipes = {budget.label: plain(budget.recipe) for budget in result.budgets}
    first = next(iter(recipes.values()))
    shared = {option: value for option, value in first.items() if all(r[option] == value for r in recipes.values())}
    own = {label: {o: v for o, v in recipe.items() if o not in shared} for label, recipe in recipes.items()}
    table = rich_table(
        [vars(budget) for budget in result.budgets],
        title=f"{name}, {preset}: {result.base_parameters:,} parameters, seeds {', '.join(map(str, result.seeds))}",
        gpus=result.gpus,
        tflops=result.tflops,
        seeds=len(result.seeds),
    )
    words = yaml.safe_dump({"all": shared, **own}, sort_keys=False, allow_unicode=True)
    show(result, Group(table, Text(words), Text(result.command)), as_json=as_json)
