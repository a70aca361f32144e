"""The family of the model that a method trains: the names of its layers and linear maps, and its decoder layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scale_cli.core.errors import RequestError

if TYPE_CHECKING:
    from torch import nn

    from scale_cli.model import Family


def family_for(model: Any, method: str) -> Family:
    """The family of a plain model. method: its name, for the RequestError that is raised for an unknown family."""
    from scale_cli.model import family_of

    try:
        return family_of(model.config.model_type)
    except ValueError as error:
        raise RequestError(f"--method {method}: {error}; --method fft trains any") from error


def decoder_layers(model: Any) -> list[tuple[nn.Module, ...]]:
    """The decoder layers of a model as `Method.apply` returned it, bottom first.

    In a widened model each is a pair, the base's layer and its addition. Raises RequestError for an unknown family.
    """
    from scale_cli.model import ScaleForCausalLM, family_of

    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    widened = isinstance(causal_lm, ScaleForCausalLM)
    base = causal_lm.base if widened else causal_lm
    try:
        layers = family_of(base.config.model_type).layers_of(base)
    except ValueError as error:
        raise RequestError(f"--shard: {error}") from error
    return list(zip(layers, causal_lm.expansion.layers, strict=True) if widened else zip(layers, strict=True))
