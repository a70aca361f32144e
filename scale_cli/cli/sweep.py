"""`scale sweep`: finds each method's best learning rate in a benchmark."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import progress, say
from scale_cli.core.errors import RequestError


def sweep(
    name: Annotated[Literal["bios", "korean"], typer.Argument(help="The benchmark.", show_choices=True)],
    out: Annotated[Path, typer.Argument(help="Folder of the runs and of sweep.json; an existing one is continued.")],
    preset: Annotated[str, typer.Option(help="demo, small, paper or a YAML file.")] = "demo",
    seed: Annotated[int, typer.Option(help="A seed that the benchmark itself does not use.")] = 1,
    rates: Annotated[str | None, typer.Option(help="Learning rates, separated by commas.  [the benchmark's]")] = None,
    precision: Annotated[str | None, typer.Option(help="korean: precision of training, float32 or bfloat16.")] = None,
) -> None:
    """Train every method at the same learning rates and print the best rate of each.

    The best rate retains most among the rates that learn enough: in bios, the most of Task 0 among those that reach 95%
    of Task 1; in korean, the most English among those with at least 90% of the method's largest gain in Korean.
    For a model and texts of your own: scale run --rates.
    """
    if precision is not None and name != "korean":
        raise RequestError(f"--precision {precision}: only scale sweep korean has this option; leave it out")
    changes: dict[str, Any] = {} if precision is None else {"precision": precision}
    try:
        chosen = None if rates is None else [float(word) for word in rates.split(",")]
    except ValueError as error:
        raise RequestError(f"--rates {rates}: give numbers, separated by commas, as in 1e-4,1e-3") from error

    from scale_cli.bench.sweep import sweep as run

    quiet_libraries()
    run(preset, out, seed=seed, bench=name, rates=chosen, say=say, progress=progress, **changes)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one prints
        print((out / "sweep.md").read_text(encoding="utf-8"))
