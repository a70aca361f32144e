"""Training of some layers of the base: a control for LLaMA Pro, which adds blocks at the same depths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import option
from scale_cli.methods.cost import by_layers, numel
from scale_cli.methods.families import family_for
from scale_cli.methods.method import Look, Method, Size


@dataclass(frozen=True)
class ExistingLayersOptions:
    """The number of trained layers."""

    train_layers: int | None = option(
        None,
        help="Number of layers that existing-layers trains: those that block expansion would copy to add as many "
        "blocks.  [a quarter of the layers]",
    )

    def __post_init__(self) -> None:
        if self.train_layers is not None and self.train_layers < 1:
            raise ValueError(f"--train-layers {self.train_layers}: a number of layers, at least 1")


def resolve(options: ExistingLayersOptions, config: Any) -> ExistingLayersOptions:
    """The options with `train_layers` filled in. Raises RequestError for more layers than the model has."""
    layers = config.num_hidden_layers
    count = options.train_layers or max(1, layers // 4)
    if count > layers:
        raise RequestError(f"--train-layers {count}: the model has {layers} layers; choose 1 to {layers}")
    return dataclasses.replace(options, train_layers=count)


def apply(model: Any, options: ExistingLayersOptions, new_layers: Sequence[int]) -> Any:
    """The model with only the last layers of `train_layers` equal groups of layers trainable.

    Raises RequestError for an unknown family, and for more layers than the model has.
    """
    from scale_cli.model.families import group_ends

    layers = family_for(model, EXISTING_LAYERS.name).layers_of(model)
    count = resolve(options, model.config).train_layers
    assert count is not None
    model.requires_grad_(False)
    for index in group_ends(len(layers), count):
        layers[index].requires_grad_(True)
    return model


def nearest_layers(config: Any, parameters: int) -> int:
    """The number of layers, at least 1, that together have closest to `parameters` parameters.

    config: of the base. Raises ValueError for an unknown family.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from scale_cli.model import family_of

    family = family_of(config.model_type)
    with torch.device("meta"):
        layer = family.layers_of(AutoModelForCausalLM.from_config(config, trust_remote_code=False))[0]
    return min(max(1, round(parameters / numel(layer.parameters()))), int(config.num_hidden_layers))


EXISTING_LAYERS = Method(
    name="existing-layers",
    title="Existing layers",
    group="baseline",
    needs=("plain",),
    lr=1e-3,  # llama-pro's, whose control it is; not in the sweep
    apply=apply,
    options=ExistingLayersOptions,
    resolve=resolve,
    cost=by_layers,
    size=Size("train_layers", nearest_layers),
    order=7,
    look=Look("#5c6f1f", "#b3c76a", "<"),
)
