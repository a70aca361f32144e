"""Routers by their names on the command line: none, cosine:TAU, mixture:SHARE[:PRIOR], interpolate:WEIGHT.

`weights:SHARE` stands beside them: the model whose weights are that share of the way from the base's to the trained
ones (WiSE-FT, arXiv 2109.01903; a task vector, scaled). It needs a trained model with the base's own parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scale_cli.checkpoints.load import Checkpoint, skeleton
from scale_cli.core.errors import RequestError
from scale_cli.methods import Kind

FORMS = "none, cosine:TAU, mixture:SHARE, mixture:SHARE:PRIOR, interpolate:WEIGHT, or weights:SHARE"
WEIGHTS = "weights"
"""The kind whose router averages weights instead of combining predictions."""
FRONTIER = (
    "none",
    *(f"interpolate:{weight:g}" for weight in (0.9, 0.75, 0.5, 0.25, 0.1)),
    *(f"mixture:1:{prior:g}" for prior in (0.1, 0.3, 0.4, 0.45, 0.5, 0.6, 0.8)),
    *(f"mixture:{share:g}" for share in (0.0, 0.001, 0.01, 0.1)),
    *(f"{WEIGHTS}:{share:g}" for share in (0.9, 0.75, 0.5, 0.25, 0.1)),
)
"""The routers that show the trade-off of one training."""


def parse_router(text: str) -> dict[str, Any] | None:
    """The router of a config, None for "none". Raises RequestError for another form."""
    kind, *numbers = text.split(":")
    from scale_cli.model.configuration_scale import ROUTERS

    names = {"none": (), **ROUTERS, WEIGHTS: ("share",)}.get(kind)
    least = min(1, len(names or ()))
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise RequestError(f"--router {text}: choose {FORMS}") from error
    if names is None or not least <= len(values) <= len(names):
        raise RequestError(f"--router {text}: choose {FORMS}")
    return None if kind == "none" else {"kind": kind, **dict(zip(names, values, strict=False))}


def is_average(text: str) -> bool:
    """Whether this router averages weights."""
    return text.partition(":")[0] == WEIGHTS


def frontier_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The routers of `FRONTIER` that a checkpoint can have."""
    return tuple(text for text in FRONTIER if checkpoint.kind == "plain" or not is_average(text))


def router_of(model: Any) -> Mapping[str, Any] | None:
    """The router of a model, of its own or in its config; None without one."""
    router: Mapping[str, Any] | None = getattr(model, "router", None)
    return router or getattr(model.config, "router", None)


def label_under(label: str, text: str) -> str:
    """The label of a checkpoint's result under a router, which is also the name of a folder."""
    return f"{label}-{text.replace(':', '-')}"


def check_router(checkpoint: Checkpoint, text: str) -> None:
    """Raise RequestError unless the checkpoint's model can have this router. No weights are loaded."""
    set_router(skeleton(checkpoint), text, checkpoint.source)


def check_reading(text: str, source: str, *, kind: Kind = "plain") -> None:
    """Raise RequestError unless the router combines a trained model with its base.

    source, kind: of the trained checkpoint, which is not widened.
    """
    from scale_cli.model.configuration_scale import checked_router

    router = parse_router(text)
    if router is None:
        return
    if router["kind"] == WEIGHTS:
        if not 0 <= router["share"] <= 1:
            raise RequestError(f"--router {text}: the share of the trained weights is in [0, 1]")
        if kind != "plain":
            raise RequestError(
                f"--router {text}: {source} has weights that its base lacks, so there is no average of both; "
                "interpolate:WEIGHT combines their predictions"
            )
        return
    if router["kind"] == "cosine":
        raise RequestError(f"--router {text}: {source} is not width-upscaled, so it has one path")
    try:
        checked_router(router, has_two_paths=False)
    except ValueError as error:
        raise RequestError(f"--router {text}: {error}") from error


def set_router(model: Any, text: str, source: str) -> None:
    """Give a model this router. source: the name in the RequestError for a router that it cannot have."""
    router = parse_router(text)
    if router is not None and router["kind"] == WEIGHTS and hasattr(model, "expansion"):
        check_reading(text, source, kind="width")
    if not hasattr(model, "set_router"):
        raise RequestError(
            f"--router {text}: {source} is not width-upscaled, so it has one prediction only; give a checkpoint that "
            "scale upscale --by width made, or that was trained from one"
        )
    try:
        model.set_router(router)
    except ValueError as error:
        raise RequestError(f"--router {text}: {source}: {error}") from error
