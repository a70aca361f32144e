"""`scale bench`: the paper's benchmarks from end to end."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, say, show
from scale_cli.core.errors import RequestError


def bench(
    name: Annotated[
        Literal["bios", "korean", "ablations"],
        typer.Argument(
            help="bios: synthetic biographies; korean: continual pre-training on Korean; ablations: variants of that."
        ),
    ],
    ablation: Annotated[
        str | None, typer.Argument(help="ablations: init, layers, modules, drift, threshold or where.")
    ] = None,
    preset: Annotated[str, typer.Option(help="demo, small, paper, or a YAML file of your own.")] = "demo",
    methods: Annotated[str | None, typer.Option(help="Only these, with commas between.  [all of the preset]")] = None,
    seeds: Annotated[str | None, typer.Option(help="Repetitions, with commas between: 0,1,2.  [the preset's]")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="korean, ablations: the model to begin with, a folder or a hub id.  [the preset's]"),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(help="korean, ablations: Korean to train on, sources as of scale train --data.  [the preset's]"),
    ] = None,
    english_data: Annotated[
        str | None,
        typer.Option(
            help="korean, ablations: held-out English, a source as of scale eval --perplexity.  [the preset's]"
        ),
    ] = None,
    korean_data: Annotated[
        str | None, typer.Option(help="korean, ablations: held-out Korean, the same.  [the preset's]")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="korean, ablations: measured at the end, as of scale eval --suite; may be repeated.  [the preset's]"
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(
            help="korean, ablations: arithmetic of training. bfloat16 takes a fraction of the time on processors that "
            "have it, see scale doctor.  [the preset's]"
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
        "precision": precision,
    }
    if name == "bios" and (given := [word for word, value in changes.items() if value is not None]):
        flag = {"suites": "suite"}.get(given[0], given[0]).replace("_", "-")
        raise RequestError(f"--{flag}: scale bench bios does not have it; leave it out")

    if (ablation is None) == (name == "ablations"):
        from scale_cli.bench.ablations import ROWS

        said = "name one" if ablation is None else f"{ablation}: only scale bench ablations takes a name"
        raise RequestError(f"scale bench {name}: {said}" + (f": {', '.join(ROWS)}" if ablation is None else ""))
    if tflops is not None and not dry_run:
        raise RequestError(f"--tflops {tflops:g}: only --dry-run estimates hours; add it")

    from scale_cli.bench.stages import parse_seeds

    chosen: dict[str, Any] = {
        "methods": None if methods is None else [word.strip() for word in methods.split(",")],
        "seeds": None if seeds is None else parse_seeds(seeds),
    }
    named = name if ablation is None else f"{name}-{ablation}"
    folder = out or Path("runs") / f"{named}-{Path(preset).stem}"
    result: Any
    table: Any
    if name == "bios":
        from scale_cli.bench import bios
        from scale_cli.reporting.bios import rich_table as bios_table

        recipe = bios.load_preset(preset, **chosen)
        quiet_libraries()
        if dry_run:
            from scale_cli.bench.dry_run import dry_run_bios

            return _show_dry_run(dry_run_bios(recipe, tflops=tflops), name, preset, as_json=as_json)
        result = bios.run(recipe, folder, say=say, progress=progress)
        figures = "curves.png are"
        table = bios_table([vars(row) for row in result.rows], title=f"Biography benchmark, {preset}")
    else:
        from scale_cli.bench import ablations, korean
        from scale_cli.reporting.korean import rich_tables as korean_tables

        reported: Any = None
        korean_recipe: Any
        if ablation is None:
            korean_recipe = korean.load_preset(preset, **chosen, **changes)
        else:
            korean_recipe = ablations.load_preset(ablation, preset, **chosen, **changes)
            reported = ablations.paper_values(ablation)
        quiet_libraries()
        if dry_run:
            from scale_cli.bench.dry_run import dry_run_korean

            return _show_dry_run(dry_run_korean(korean_recipe, tflops=tflops), named, preset, as_json=as_json)
        runner = korean.run if ablation is None else ablations.run
        result = runner(korean_recipe, folder, say=say, progress=progress)
        figures = "figures are"
        title = "Korean benchmark" if ablation is None else f"Ablation {ablation}"
        rows = [vars(row) for row in result.rows]
        table = korean_tables(rows, title=f"{title}, {preset}", reported=reported)
    if os.environ.get("RANK", "0") != "0":  # of several processes one speaks
        return
    say(f"{result.seconds:,.0f} s in all; records, table.md and {figures} in {folder}")
    show(result, table, as_json=as_json)


def _show_dry_run(result: Any, name: str, preset: str, *, as_json: bool) -> None:
    """What a benchmark would take, and the options of its trainings: what all have in common, then what differs."""
    import yaml
    from rich.console import Group
    from rich.text import Text

    from scale_cli.core.files import plain
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
