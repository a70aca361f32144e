"""`scale bench`: the paper's benchmarks from end to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import AsJson, progress, say, show_sheets
from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json

if TYPE_CHECKING:
    from scale_cli.bench.stages import BenchResult
    from scale_cli.reporting.sheet import Sheet


def bench(
    name: Annotated[
        Literal["bios", "korean", "ablations"],
        typer.Argument(
            help="bios: synthetic biographies; korean: continual pre-training, on Korean unless the preset names other "
            "texts; ablations: variants of korean."
        ),
    ],
    ablation: Annotated[
        str | None, typer.Argument(help="ablations: init, layers, modules, drift, threshold or where.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="demo, small, paper; bios also has medium, and korean scratch; or a YAML file of your own."),
    ] = "demo",
    methods: Annotated[
        str | None, typer.Option(help="Only these rows, separated by commas.  [all of the preset]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="One repetition per seed, separated by commas: 0,1,2.  [the preset's]")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Number of trainings that run at once, each in a process of its own; they share the processor's "
            "threads evenly and take turns on the GPUs.  [the preset's]"
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="korean, ablations: the model to start from, a folder or a hub id.  [the preset's]"),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(help="korean, ablations: texts to train on, as in scale train --data.  [the preset's]"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="korean, ablations: another source for a held-out text of the preset, as in scale eval --perplexity; "
            "may be repeated.  [the preset's]",
            metavar="NAME=SOURCE",
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="korean, ablations: suite to measure at the end, as in scale eval --suite; may be repeated.  [the "
            "preset's]"
        ),
    ] = None,
    fetched: Annotated[
        Path | None,
        typer.Option(help="korean, ablations: folder with outputs of scale fetch, by item.  [fetched into the run]"),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(
            help="korean, ablations: precision of training. bfloat16 is faster on hardware that supports it, see scale "
            "doctor.  [the preset's]"
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the cost: recipes, parameters, tokens, memory and hours."),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(help="--dry-run: 10^12 operations per second and process.  [the preset's, else 200]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; an interrupted run is continued.  [runs/NAME-PRESET]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a benchmark of the paper: train every method from the same checkpoint, print stability and plasticity."""
    changes: dict[str, Any] = {
        "base": base,
        "train_data": train_data,
        "text": text or None,
        "suites": tuple(suite) if suite else None,
        "fetched": fetched,
        "precision": precision,
    }
    if name == "bios" and (given := [option for option, value in changes.items() if value is not None]):
        flag = {"suites": "suite"}.get(given[0], given[0]).replace("_", "-")
        raise RequestError(f"--{flag}: scale bench bios does not have this option; leave it out")
    if name == "ablations" and ablation is None:
        from scale_cli.bench.ablations import ROWS

        raise RequestError(f"scale bench ablations: name an ablation: {', '.join(ROWS)}")
    if name != "ablations" and ablation is not None:
        raise RequestError(f"scale bench {name}: {ablation}: only scale bench ablations takes a name; leave it out")
    if tflops is not None and not dry_run:
        raise RequestError(f"--tflops {tflops:g}: only --dry-run estimates hours; add --dry-run")

    from scale_cli.bench.stages import parse_seeds

    changes["sources"] = _sources(changes.pop("text") or [])
    chosen: dict[str, Any] = {
        "methods": None if methods is None else [label.strip() for label in methods.split(",")],
        "seeds": None if seeds is None else parse_seeds(seeds),
        "jobs": jobs,
    }
    full_name = name if ablation is None else f"{name}-{ablation}"
    folder = out or Path("runs") / f"{full_name}-{Path(preset).stem}"
    recipe, run, sheets = _bench(name, ablation, preset, chosen, changes)
    quiet_libraries()
    if dry_run:
        _show_dry_run(recipe, full_name, preset, tflops, as_json=as_json)
        return
    result = run(recipe, folder, say=say, progress=progress)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one prints
        return
    say(f"{result.seconds:,.0f} s in total; results.json, table.md and figures are in {folder}")
    if as_json:
        from scale_cli.results.result import BENCH_FILE

        print((folder / BENCH_FILE).read_text(encoding="utf-8"), end="")
    else:
        show_sheets(sheets(result))


def _sources(texts: list[str]) -> dict[str, str]:
    """The sources in "NAME=SOURCE" by name. Raises RequestError for a text that is not of this form."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, source) in zip(texts, pairs, strict=True):
        if not (name and equals and source):
            raise RequestError(f"--text {text}: write NAME=SOURCE, as in english=test.jsonl")
    return {name: source for name, _, source in pairs}


def _bench(
    name: str, ablation: str | None, preset: str, chosen: dict[str, Any], changes: dict[str, Any]
) -> tuple[Any, Callable[..., BenchResult], Callable[[BenchResult], list[Sheet]]]:
    """The recipe of a benchmark, the function that runs it, and the function that makes its tables."""
    from scale_cli.reporting.documents import BEST

    best = BEST["text"]
    recipe: Any
    if name == "bios":
        from scale_cli.bench import bios, bios_results

        title = f"Biography benchmark, {preset}"
        recipe = bios.load_preset(preset, **chosen)
        return recipe, bios.run, lambda result: bios_results.sheets(result.results, title=title, best=best)

    from scale_cli.bench import ablations, continual, continual_recipe, continual_results

    if ablation is None:
        title, reported = f"Continual pre-training, {preset}", None
        recipe = continual_recipe.load_preset(preset, **chosen, **changes)
    else:
        title, reported = f"Ablation {ablation}, {preset}", ablations.paper_values(ablation)
        recipe = ablations.load_preset(ablation, preset, **chosen, **changes)

    def sheets(result: BenchResult) -> list[Sheet]:
        return [continual_results.sheet(result.results, result.groups, title=title, best=best, reported=reported)]

    return recipe, continual.run if ablation is None else ablations.run, sheets


def _show_dry_run(recipe: Any, name: str, preset: str, tflops: float | None, *, as_json: bool) -> None:
    """Print the cost of a benchmark and the options of its trainings: the shared ones, then each training's own."""
    import yaml

    from scale_cli.bench.bios import BiosRecipe
    from scale_cli.bench.dry_run import dry_run_bios, dry_run_continual, sheet
    from scale_cli.core.files import plain

    is_bios = isinstance(recipe, BiosRecipe)
    result = dry_run_bios(recipe, tflops=tflops) if is_bios else dry_run_continual(recipe, tflops=tflops)
    if as_json:
        print(to_json(result))
        return
    recipes = {budget.label: plain(budget.recipe) for budget in result.budgets}
    first = next(iter(recipes.values()))
    shared = {
        option: value
        for option, value in first.items()
        if all(option in r and r[option] == value for r in recipes.values())
    }
    own = {label: {o: v for o, v in options.items() if o not in shared} for label, options in recipes.items()}
    seeds = ", ".join(map(str, result.seeds))
    title = f"{name}, {preset}: {result.base_parameters:,} parameters, seeds {seeds}"
    show_sheets([sheet(result, title=title)])
    print()
    print(yaml.safe_dump({"all": shared, **own}, sort_keys=False, allow_unicode=True))
    print(result.command)
