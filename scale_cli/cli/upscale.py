"""`scale upscale`: widens or deepens a checkpoint without changing its function."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import AsJson, progress, say, show


def upscale(
    base: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    by: Annotated[
        Literal["width", "depth"] | None,
        typer.Option(
            help="width: add features to every layer (SCALE); depth: add layers (LLaMA Pro).  [by --hidden or --layers]"
        ),
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Width: hidden features to add.")] = None,
    heads: Annotated[
        int | None, typer.Option(help="Width: query heads to add, in whole groups.  [fewest that reach --hidden]")
    ] = None,
    ffn: Annotated[
        int | None, typer.Option(help="Width: feed-forward features to add.  [the base's proportion]")
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Depth: total number of layers, at most twice the base's.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Width: initial W21 and W22, each zero, random or svd; one word sets both.  [svd,zero] Depth: copy or "
            "random, the initial values of new blocks, whose output matrices are zero.  [copy]"
        ),
    ] = None,
    svd_solver: Annotated[
        Literal["auto", "full", "randomized"],
        typer.Option(
            help="Width: how singular directions are computed. full: by LAPACK. randomized: by a block Krylov method, "
            "with at least 0.97 of their energy. auto: randomized for up to an eighth of the directions of maps of "
            "more than 1024 rows and columns, else full."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of random values and of the proof's tokens.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Load the result and check that its logits equal the base's.")
    ] = True,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Widen or deepen a model without changing its function."""
    import scale_cli.surgery

    quiet_libraries()
    with progress("layers", None) as advance:
        result = scale_cli.surgery.upscale(
            base,
            out,
            by=by,
            hidden=hidden,
            heads=heads,
            ffn=ffn,
            layers=layers,
            init=init,
            svd_solver=svd_solver,
            seed=seed,
            verify=verify,
            revision=revision,
            progress=lambda done, total: advance(done=done, total=total),
        )
    from rich.table import Table

    table = Table("written to", str(out))
    for name, size in result.sizes.items():
        table.add_row(f"{'added ' if result.by == 'width' else ''}{name}", f"{size:,}")
    if result.by == "width" and init is not None and set(init.split(",")) == {"zero"}:
        say("zero for both W21 and W22: added heads and feed-forward features get no gradient and never learn")
    if not result.has_tokenizer:
        say(f"{base} has no tokenizer, so {out} has none; add one before use")
    if result.token_ids is not None and result.token_ids > result.vocab_size:
        say(
            f"{base} has a tokenizer of {result.token_ids} tokens and an embedding of {result.vocab_size} rows: texts "
            "with the other tokens are refused; to use them, resize the embedding of the base first"
        )
    share = result.added_parameters / result.base_parameters
    table.add_row("base parameters", f"{result.base_parameters:,}")
    table.add_row("added parameters", f"{result.added_parameters:,} ({share:.1%} of the base)")
    if result.max_delta_logit is None:
        table.add_row("max |delta logit|", "not proved (--no-verify)")
    else:
        table.add_row("max |delta logit|", f"{result.max_delta_logit:.3g} (tolerance {result.tolerance:.3g})")
    table.add_row("seconds", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items()))
    peaks = [f"{peak / 1e9:.2f} GB" for peak in result.peak_bytes.values()]
    table.add_row("peak memory", ", with the proof ".join(peaks))
    show(result, table, as_json=as_json)
