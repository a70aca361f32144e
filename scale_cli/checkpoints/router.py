"""Routers by their names on the command line: none, cosine:TAU, mixture:SHARE[:PRIOR]."""

from __future__ import annotations

from typing import Any

from scale_cli.checkpoints.load import Checkpoint, skeleton
from scale_cli.core.errors import RequestError

FORMS = "none, cosine:TAU, or mixture:SHARE or mixture:SHARE:PRIOR"


def parse_router(text: str) -> dict[str, Any] | None:
    """The router of a config, None for "none". Raises RequestError for another form."""
    kind, *numbers = text.split(":")
    names = {"none": (), "cosine": ("threshold",), "mixture": ("share", "prior")}.get(kind)
    least = {"none": 0, "cosine": 1, "mixture": 1}.get(kind, 0)
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise RequestError(f"--router {text}: choose {FORMS}") from error
    if names is None or not least <= len(values) <= len(names):
        raise RequestError(f"--router {text}: choose {FORMS}")
    return None if kind == "none" else {"kind": kind, **dict(zip(names, values, strict=False))}


def check_router(checkpoint: Checkpoint, text: str) -> None:
    """Raise RequestError unless the checkpoint's model can have this router. No weights are loaded."""
    set_router(skeleton(checkpoint), text, checkpoint.source)


def set_router(model: Any, text: str, source: str) -> None:
    """Give a model this router. source: the name in the RequestError for a router that it cannot have."""
    from scale_cli.model import ScaleForCausalLM

    router = parse_router(text)
    if not isinstance(model, ScaleForCausalLM):
        raise RequestError(
            f"--router {text}: {source} is not width-upscaled, so it has one prediction only; give a checkpoint that "
            "scale upscale --by width made, or that was trained from one"
        )
    try:
        model.set_router(router)
    except ValueError as error:
        raise RequestError(f"--router {text}: {source}: {error}") from error
