"""`scale export`: any checkpoint as a whole Hugging Face folder, or the base taken back."""

from pathlib import Path
from typing import Annotated

import typer

from scale_cli.cli.output import AsJson, progress, quiet_libraries, show
from scale_cli.core.errors import RequestError


def export(
    checkpoint: Annotated[str, typer.Argument(help="Model folder, run folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    base: Annotated[
        bool, typer.Option("--base", help="Give back the base of an upscaled checkpoint or a run, bit for bit.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16: cast all weights.  [each as it is stored]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint as a whole Hugging Face folder that loads anywhere: what was trained put together with its
    base, a LoRA merged, with tokenizer, model code and model card."""
    if base and dtype is not None:
        raise RequestError(f"--dtype {dtype}: --base gives the base back bit for bit, and casts nothing; choose one")

    from rich.table import Table

    from scale_cli.checkpoints import export as exporting
    from scale_cli.checkpoints.restore import export_base

    quiet_libraries()
    with progress("tensors", None) as advance:

        def report(done: int, total: int) -> None:
            advance(done=done, total=total)

        if base:
            result = export_base(checkpoint, out, progress=report)
        else:
            result = exporting.export(checkpoint, out, dtype=dtype, progress=report)
    table = Table("written to", str(out))
    table.add_row("model", {"plain": "plain", "width": "width-upscaled", "depth": "depth-upscaled"}[result.form])
    table.add_row("loads in", result.dtype or "the library's default")
    table.add_row("parameters", f"{result.parameters:,}")
    table.add_row("bytes", f"{result.size_bytes:,}")
    for file, verdict in (result.weights_sha256 or {}).items():
        table.add_row(f"sha256 of {file}", verdict)
    table.add_row("seconds", f"{result.seconds:.1f}")
    show(result, table, as_json=as_json)
