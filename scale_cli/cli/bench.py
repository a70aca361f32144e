"""`scale bench`: the paper's benchmarks from end to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, say, show_sheets
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
            "texts; ablations: variants of that."
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
        typer.Option(help="korean, ablations: texts to train on, as of scale train --data.  [the preset's]"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="korean, ablations: the source of a held-out text of the preset, as of scale eval --perplexity; may "
            "be repeated.  [the preset's]",
            metavar="NAME=SOURCE",
        ),
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
        typer.Option("--dry-run", help="Only print its cost: recipes, parameters, tokens, memory and hours."),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(help="--dry-run: 10^12 operations per second of each process.  [the preset's, else 200]"),
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
        "text": text or None,
        "suites": tuple(suite) if suite else None,
        "precision": precision,
    }
    if name == "bios" and (given := [word for word, value in changes.items() if value is not None]):
        flag = {"suites": "suite"}.get(given[0], given[0]).replace("_", "-")
        raise RequestError(f"--{flag}: scale bench bios does not have it; leave it out")
    if (ablation is None) == (name == "ablations"):
        from scale_cli.bench.ablations import ROWS

        wrong = "name one" if ablation is None else f"{ablation}: only scale bench ablations takes a name"
        raise RequestError(f"scale bench {name}: {wrong}" + (f": {', '.join(ROWS)}" if ablation is None else ""))
    if tflops is not None and not dry_run:
        raise RequestError(f"--tflops {tflops:g}: only --dry-run estimates hours; add it")

    from scale_cli.bench.stages import parse_seeds

    changes["sources"] = _sources(changes.pop("text") or [])
    chosen: dict[str, Any] = {
        "methods": None if methods is None else [word.strip() for word in methods.split(",")],
        "seeds": None if seeds is None else parse_seeds(seeds),
    }
    named = name if ablation is None else f"{name}-{ablation}"
    folder = out or Path("runs") / f"{named}-{Path(preset).stem}"
    recipe, run, sheet = _bench(name, ablation, preset, chosen, changes)
    quiet_libraries()
    if dry_run:
        _show_dry_run(recipe, named, preset, tflops, as_json=as_json)
        return
    result = run(recipe, folder, say=say, progress=progress)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one prints
        return
    say(f"{result.seconds:,.0f} s in all; record, table.md and figures are in {folder}")
    if as_json:
        from scale_cli.results.result import BENCH_FILE

        print((folder / BENCH_FILE).read_text(encoding="utf-8"), end="")
    else:
        show_sheets([sheet(result)])


def _sources(words: list[str]) -> dict[str, str]:
    """The sources of texts by name. Raises RequestError for words that are not NAME=SOURCE."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, source) in zip(words, pairs, strict=True):
        if not (name and equals and source):
            raise RequestError(f"--text {word}: write NAME=SOURCE, as in english=test.jsonl")
    return {name: source for name, _, source in pairs}


def _bench(
    name: str, ablation: str | None, preset: str, chosen: dict[str, Any], changes: dict[str, Any]
) -> tuple[Any, Callable[..., BenchResult], Callable[[BenchResult], Sheet]]:
    """The recipe of a benchmark, the function that runs it, and the one that makes its table."""
    from scale_cli.reporting.documents import BEST

    best = BEST["text"]
    recipe: Any
    if name == "bios":
        from scale_cli.bench import bios, bios_results

        title = f"Biography benchmark, {preset}"
        recipe = bios.load_preset(preset, **chosen)
        return recipe, bios.run, lambda result: bios_results.sheet(result.results, title=title, best=best)

    from scale_cli.bench import ablations, continual, continual_results

    if ablation is None:
        title, reported = f"Continual pre-training, {preset}", None
        recipe = continual.load_preset(preset, **chosen, **changes)
    else:
        title, reported = f"Ablation {ablation}, {preset}", ablations.paper_values(ablation)
        recipe = ablations.load_preset(ablation, preset, **chosen, **changes)

    def sheet(result: BenchResult) -> Sheet:
        return continual_results.sheet(result.results, result.groups, title=title, best=best, reported=reported)

    return recipe, continual.run if ablation is None else ablations.run, sheet


def _show_dry_run(recipe: Any, name: str, preset: str, tflops: float | None, *, as_json: bool) -> None:
    """The cost of a benchmark, and the options of its trainings: those that all share, then those that differ."""
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
    own = {label: {o: v for o, v in found.items() if o not in shared} for label, found in recipes.items()}
    seeds = ", ".join(map(str, result.seeds))
    title = f"{name}, {preset}: {result.base_parameters:,} parameters, seeds {seeds}"
    show_sheets([sheet(result, title=title)])
    print()
    print(yaml.safe_dump({"all": shared, **own}, sort_keys=False, allow_unicode=True))
    print(result.command)
