"""`scale bench`: the paper's benchmarks from end to end."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, say, show


def bench(
    name: Annotated[Literal["bios"], typer.Argument(help="bios: the synthetic biographies.")],
    preset: Annotated[str, typer.Option(help="demo, small, paper, or a YAML file of your own.")] = "demo",
    methods: Annotated[str | None, typer.Option(help="Only these, with commas between.  [all of the preset]")] = None,
    seeds: Annotated[str | None, typer.Option(help="Repetitions, with commas between: 0,1,2.  [the preset's]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; one that was interrupted goes on.  [runs/NAME-PRESET]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a benchmark of the paper: every method from the same checkpoint, and the stability-plasticity table."""
    from benchmarks import bios

    recipe = bios.load_preset(
        preset,
        methods=None if methods is None else [word.strip() for word in methods.split(",")],
        seeds=None if seeds is None else bios.parse_seeds(seeds),
    )
    from scale_cli.reporting.bios import rich_table

    quiet_libraries()
    folder = out or Path("runs") / f"{name}-{Path(preset).stem}"
    result = bios.run(recipe, folder, say=say, progress=progress)
    say(f"{result.seconds:,.0f} s in all; records, table.md and curves.png are in {folder}")
    table = rich_table([vars(row) for row in result.rows], title=f"Biography benchmark, {preset}")
    show(result, table, as_json=as_json)
