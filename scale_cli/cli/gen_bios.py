"""`scale gen-bios`: generates synthetic biographies and questions."""

import time
from pathlib import Path
from typing import Annotated

import typer

from scale_cli.cli.output import AsJson, progress, show
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain


def gen_bios(
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    people: Annotated[int, typer.Option(help="Number of people, each with a unique name.")] = 200_000,
    bios: Annotated[int, typer.Option(help="Biographies per person, in different wordings and orders.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    locale: Annotated[
        str, typer.Option(help="Locale of names, cities and companies. en_US is frozen; others are drawn from faker.")
    ] = "en_US",
    split_answers: Annotated[
        int | None,
        typer.Option(
            help="People from this number on draw their attributes from one half of each pool, those before from the "
            "other half.  [all draw from whole pools]"
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Number of threads.  [one per core]")] = None,
    as_json: AsJson = False,
) -> None:
    """Generate people, their biographies, and questions about them."""
    import data_gen

    start = time.monotonic()
    try:
        with progress("people", people) as advance:
            manifest = data_gen.generate(
                out,
                people=people,
                bios=bios,
                seed=seed,
                locale=locale,
                split_answers=split_answers,
                workers=workers,
                progress=lambda done, total: advance(done=done, total=total),
            )
    except data_gen.DataRequestError as error:
        raise RequestError(str(error)) from error
    seconds = time.monotonic() - start
    size_bytes = sum(file.stat().st_size for file in out.iterdir())

    from rich.table import Table

    table = Table("written to", str(out))
    bits = manifest.bits_per_person
    for name, value in {
        "people": f"{manifest.people:,}",
        "biographies": f"{manifest.biographies:,}",
        "questions": f"{manifest.questions:,}",
        "characters": f"{manifest.characters:,}",
        "bytes": f"{size_bytes:,}",
        "bits of knowledge": f"{bits['attributes']:.1f} of attributes + {bits['name']:.1f} of name per person",
        "seconds": f"{seconds:.1f}",
    }.items():
        table.add_row(name, value)
    result = plain(manifest) | {"out": str(out), "bytes": size_bytes, "seconds": seconds}
    show(result, table, as_json=as_json)
