"""LLaMA Pro (arXiv 2401.02415): block expansion. Only the added blocks are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scale_cli.methods.cost import Cost, linear_weights, training_layers
from scale_cli.methods.families import family_for
from scale_cli.methods.method import Look, Method, NoOptions
from scale_cli.methods.teacher import without_new_blocks


def apply(model: Any, options: NoOptions, new_layers: Sequence[int]) -> Any:
    """The model with only the blocks of `new_layers` trainable."""
    layers = family_for(model, LLAMA_PRO.name).layers_of(model)
    model.requires_grad_(False)
    for index in new_layers:
        layers[index].requires_grad_(True)
    return model


def cost(model: Any) -> Cost:
    """2(N + E) + 2 x (weights above the lowest new block) + 2E. E is the number of weights in the new blocks."""
    head, layers, training = training_layers(model)
    total, added = linear_weights(model), linear_weights(*(layers[i] for i in training))
    above = linear_weights(head, *layers[training[0] + 1 :])
    return Cost(base=total - added, added=added, training=2 * total + 2 * above + 2 * added, generation=total)


LLAMA_PRO = Method(
    name="llama-pro",
    title="LLaMA Pro",
    group="baseline",
    needs=("depth",),
    lr=1e-3,
    apply=apply,
    cost=cost,
    teacher=without_new_blocks,
    yardstick=True,
    paper=True,
    order=2,
    look=Look("#8a4f9e", "#cb9fe0", "^"),
)
