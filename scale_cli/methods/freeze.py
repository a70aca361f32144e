"""Freeze: fine-tuning with the lowest layers and the input embedding frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import option
from scale_cli.methods.cost import by_layers
from scale_cli.methods.families import family_for
from scale_cli.methods.method import Look, Method


@dataclass(frozen=True)
class FreezeOptions:
    """The number of frozen layers."""

    freeze_layers: int = option(3, help="Number of lowest layers that freeze keeps frozen, with the input embedding.")

    def __post_init__(self) -> None:
        if self.freeze_layers < 0:
            raise ValueError(f"--freeze-layers {self.freeze_layers}: a number of layers, at least 0")


def apply(model: Any, options: FreezeOptions, new_layers: Sequence[int]) -> Any:
    """The model with its lowest layers and its input embedding frozen. A head tied to the embedding is frozen too.

    Raises RequestError if no layer is left to train, or for an unknown family.
    """
    layers = family_for(model, FREEZE.name).layers_of(model)
    if options.freeze_layers >= len(layers):
        raise RequestError(
            f"--freeze-layers {options.freeze_layers}: the model has {len(layers)} layers and at least one must train; "
            f"choose 0 to {len(layers) - 1}"
        )
    model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    for layer in layers[: options.freeze_layers]:
        layer.requires_grad_(False)
    return model


FREEZE = Method(
    name="freeze",
    title="Freeze",
    group="baseline",
    needs=("plain",),
    lr=1e-4,
    apply=apply,
    options=FreezeOptions,
    cost=by_layers,  # 2N + 4 x (weights above the frozen layers) - 2 x (weights of a frozen head)
    paper=True,
    order=3,
    look=Look("#6b7280", "#a3acb8", "v"),
)
