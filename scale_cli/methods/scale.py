"""The three methods of SCALE (arXiv 2511.03270, section 4): which W12 train, and whether a router chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.methods.options import MethodOptions

PAPER_PRESERVE_LAYERS = 3


def scale_preserve(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """SCALE-Preserve: every W12 is zero and frozen, W21 and W22 train; the base's half never changes (theorem 3.1)."""
    return _train_expansion(model, "scale-preserve", (), ())


def scale_adapt(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """SCALE-Adapt: above L_fp the W12 of the chosen modules train as well, from zero."""
    return _train_expansion(model, "scale-adapt", collaborating_layers(model, options), options.adapt_modules)


def scale_route(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """SCALE-Route: SCALE-Adapt and, for each token, the choice of eq. 5 between it and the preserving path."""
    layers, modules = collaborating_layers(model, options), options.adapt_modules
    return _train_expansion(model, "scale-route", layers, modules, threshold=options.threshold)


def collaborating_layers(model: Any, options: MethodOptions) -> range:
    """The layers above L_fp. Raises RequestError where none is left to collaborate."""
    count = model.config.num_hidden_layers
    preserved = options.preserve_layers
    if preserved is None:
        preserved = PAPER_PRESERVE_LAYERS if count > PAPER_PRESERVE_LAYERS else 0
    if preserved >= count:
        raise RequestError(
            f"--preserve-layers {preserved}: the model has {count} layers and one at least must collaborate; choose 0 "
            f"to {count - 1}, or --method scale-preserve"
        )
    return range(preserved, count)


def _train_expansion(
    model: Any, method: str, layers: Sequence[int], modules: Sequence[str], *, threshold: float | None = None
) -> Any:
    """The model with these W12 and exactly its expansion training. RequestError where that would drop trained W12."""
    collaborating = model.config.collaborative
    if not (set(collaborating["layers"]) <= set(layers) and set(collaborating["modules"]) <= set(modules)):
        raise RequestError(
            f"--method {method}: the checkpoint has trained W12 of {', '.join(collaborating['modules'])} in layers "
            f"{', '.join(map(str, collaborating['layers']))}, counted from 0, and this would drop some; keep them by "
            "--preserve-layers and --adapt-modules, or train from the checkpoint before"
        )
    model.set_collaboration(layers, modules, threshold=threshold)
    model.base.requires_grad_(False)
    model.expansion.requires_grad_(True)
    return model
