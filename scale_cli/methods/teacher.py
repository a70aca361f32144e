"""Teachers of rehearsal: the base's predictions while a method trains, from the base inside the model or a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Teacher:
    """The base of a model in training, as it was when the training began.

    model: a causal LM with the base's predictions; it shares its weights with the trained model unless it is a copy.
    both: (trained model, perhaps wrapped for several processes; inputs) -> its logits, with gradients, and the base's
        without, (B, T or kept, vocabulary) each.
    is_copy: whether the base's weights exist a second time.
    """

    model: Any
    both: Callable[[Any, Mapping[str, Any]], tuple[Tensor, Tensor]]
    is_copy: bool = False


def frozen_copy(model: Any, new_layers: Sequence[int]) -> Teacher:
    """A copy of a model that training changes as a whole."""
    return _beside(copy.deepcopy(model).requires_grad_(False).eval(), is_copy=True)


def own_base(model: Any, new_layers: Sequence[int]) -> Teacher:
    """The base of a widened model, whose predictions the model's own forward pass gives beside its own."""

    def both(trained: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        output = trained(**inputs, use_cache=False, output_base_logits=True)
        return output.logits, output.base_logits.detach()

    return Teacher(model.base, both)


def without_adapters(model: Any, new_layers: Sequence[int]) -> Teacher:
    """The model of peft with its adapters off."""
    import torch

    def both(trained: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        was_training = model.training
        model.eval()
        with torch.no_grad(), model.disable_adapter():
            base = model(**inputs, use_cache=False).logits
        model.train(was_training)
        return trained(**inputs, use_cache=False).logits, base

    return Teacher(model.get_base_model(), both)  # a new adapter adds nothing, so the model samples as the base


def without_new_blocks(model: Any, new_layers: Sequence[int]) -> Teacher:
    """The model without the blocks that block expansion added; it shares all weights."""
    from scale_cli.model.families import without_layers

    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return _beside(without_layers(copy.deepcopy(model, shared), new_layers).eval())


def _beside(base: Any, *, is_copy: bool = False) -> Teacher:
    """The teacher whose predictions come from a forward pass of its own."""
    import torch

    def both(trained: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = base(**inputs, use_cache=False).logits
        return trained(**inputs, use_cache=False).logits, logits

    return Teacher(base, both, is_copy)
