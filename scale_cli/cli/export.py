"""`scale export`: writes a checkpoint, or its base, as a complete Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import AsJson, progress, show
from scale_cli.core.errors import RequestError


def export(
    checkpoint: Annotated[str, typer.Argument(help="Model folder, run folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    base: Annotated[
        bool, typer.Option("--base", help="Write the base of an upscaled checkpoint or a run, bit for bit.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="Cast all weights to float32, bfloat16 or float16.  [as stored]")
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(
            help="Router of a widened checkpoint: none, cosine:TAU, mixture:SHARE[:PRIOR].  [the checkpoint's own]"
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the base in the model card.  [as in its own]", metavar="ORG/NAME")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Licence in the model card, as the hub names it: apache-2.0.  [as in its own]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint as a complete Hugging Face folder that loads anywhere.

    The folder contains all weights, with LoRA merged, and the tokenizer, model code and model card.
    """
    if base and dtype is not None:
        raise RequestError(
            f"--dtype {dtype}: --base writes the base bit for bit, without a cast; choose one of the two"
        )
    if base and router is not None:
        raise RequestError(f"--router {router}: --base writes the base, which has no router; choose one of the two")
    for option, value in (("--base-model", base_model), ("--licence", licence)):
        if base and value is not None:
            raise RequestError(f"{option} {value}: --base writes the base with its own card; choose one of the two")

    from rich.table import Table

    from scale_cli.checkpoints import export as exporting
    from scale_cli.checkpoints.restore import export_base

    quiet_libraries()
    stated = {"base_model": base_model, "licence": licence}
    with progress("tensors", None) as advance:

        def report(done: int, total: int) -> None:
            advance(done=done, total=total)

        if base:
            result = export_base(checkpoint, out, progress=report)
        else:
            result = exporting.export(checkpoint, out, dtype=dtype, router=router, **stated, progress=report)
    table = Table("written to", str(out))
    table.add_row("model", {"plain": "plain", "width": "width-upscaled", "depth": "depth-upscaled"}[result.form])
    table.add_row("loads in", result.dtype or "the library's default")
    table.add_row("parameters", f"{result.parameters:,}")
    table.add_row("bytes", f"{result.size_bytes:,}")
    for file, verdict in (result.weights_sha256 or {}).items():
        table.add_row(f"sha256 of {file}", verdict)
    table.add_row("seconds", f"{result.seconds:.1f}")
    show(result, table, as_json=as_json)
