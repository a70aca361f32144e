"""`scale eval`: measure checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, show
from scale_cli.errors import RequestError


def evaluate(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Model folders, run folders or hub ids.", show_default=False)
    ],
    bios: Annotated[Path | None, typer.Option(help="Biography accuracy on this gen-bios folder.")] = None,
    people: Annotated[str | None, typer.Option(help="A:B, the people asked about.  [all]")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions a forward pass.")] = 512,
    as_json: AsJson = False,
) -> None:
    """Measure checkpoints: hard and soft first-token accuracy and exact match on the questions of a gen-bios folder."""
    if bios is None:
        raise RequestError("nothing to measure: give --bios DIR, a folder made by scale gen-bios")

    from scale_cli.evaluation.evaluate import evaluate_bios
    from scale_cli.reporting.bios import metrics_table

    quiet_libraries()
    with progress("checkpoints", len(checkpoints)) as advance:
        results = evaluate_bios(checkpoints, bios, people, batch_size=batch_size, advance=advance)
    show(results, metrics_table(results, title=f"{bios}, people {people or 'all'}"), as_json=as_json)
