"""Cost per token in operations, two per multiply-add, counted on the model that a method trains.

Each weight of a linear map costs 2 operations in the forward pass. In the backward pass it costs 2 for the gradient of
the map's input and 2 for the gradient of the weight. The head counts; embeddings and attention scores do not. N is the
number of the base's weights, E the number of added weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """The cost of a model per token.

    base, added: N and E. training: operations per training token, forward and backward. generation: number of weights
    that a generated token is multiplied with.
    """

    base: int
    added: int
    training: float
    generation: int

    @property
    def ratio(self) -> float:
        """The cost per training token, divided by that of full fine-tuning of the base, 6N."""
        return self.training / (6 * self.base)


def by_model(model: Any) -> Cost:
    """`two_streams` for a widened model, `by_layers` for any other."""
    from scale_cli.model import ScaleForCausalLM

    return two_streams(model) if isinstance(model, ScaleForCausalLM) else by_layers(model)


def by_layers(model: Any) -> Cost:
    """2N + 2 x (weights that a gradient passes through) + 2 x (trained weights), for a model of a known family.

    Gradients pass from the head down to the lowest trained layer, including it. If the embedding is trained, they pass
    through all layers.
    """
    head, layers, training = training_layers(model)
    total = linear_weights(model)
    if any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters()):
        passed = total
    else:
        passed = linear_weights(head, *layers[training[0] :]) if training else 0
    trained = linear_weights(model, trained_only=True)
    return Cost(base=total, added=0, training=2 * total + 2 * passed + 2 * trained, generation=total)


def two_streams(model: Any) -> Cost:
    """The cost of a widened model with a frozen base and a trained expansion.

    s = (L - L_fp) / L is the share of collaborating layers. E21 is the number of the weights W21 in the layers below
    the first of them, where the base's stream depends on nothing trained and needs no gradient. Training costs

        on one path     2N + 2N s + 6E - 2 E21
        on two paths    2N + 4N s + 6E + 6E s - 2 E21: both run forward and backward above the fork

    Under a router, layers that collaborate run on two paths.
    """
    added = linear_weights(model.expansion)
    base = linear_weights(model) - added
    layers = model.config.collaborative["layers"]
    share = len(layers) / model.config.num_hidden_layers
    frozen = model.expansion.layers[: min(layers, default=None)]
    training = 2 * base + 2 * base * share + 6 * added - 2 * numel(named(frozen, ".w21"))
    generation = base + added
    if model.config.router is not None:
        training += 2 * base * share + 6 * added * share
        generation += second_path(model)
    return Cost(base=base, added=added, training=training, generation=generation)


def second_path(model: Any) -> int:
    """The number of weights that a token is multiplied with on the second path of a widened model.

    The layers above the fork run once more, without W12. The added head is computed for one path only.
    """
    layers = model.config.collaborative["layers"]
    if not layers:
        return 0
    fork, head = min(layers), model.base.get_submodule(model.family.head)
    above = (*model.family.layers_of(model.base)[fork:], *list(model.expansion.layers)[fork:], head)
    return linear_weights(*above) - numel(named(model.expansion, ".w12"))


def with_base(model: Any, cost: Cost) -> int:
    """The number of weights that a token is multiplied with if it is predicted by the model and by its base.

    model: as `Method.apply` returned it. cost: the method's. A widened model has both in one forward pass; any other
    needs one of each.
    """
    from scale_cli.model import ScaleForCausalLM

    if not isinstance(model, ScaleForCausalLM):
        return cost.generation + cost.base
    return cost.base + cost.added + second_path(model)


def training_layers(model: Any) -> tuple[nn.Module, list[nn.Module], list[int]]:
    """The head and the layers of a model of a known family, and the indices of the trained layers."""
    from scale_cli.model import family_of

    family = family_of(model.config.model_type)
    layers = family.layers_of(model)
    training = [i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())]
    return model.get_submodule(family.head), layers, training


def linear_weights(*modules: nn.Module, trained_only: bool = False) -> int:
    """The number of weights of all linear maps in these modules, a tied head included.

    trained_only: count only weights that require a gradient.
    """
    from torch.nn import Embedding

    submodules = (child for module in modules for child in module.modules() if not isinstance(child, Embedding))
    parameters = (p for module in submodules for p in module.parameters(recurse=False) if p.ndim == 2)
    return numel(p for p in parameters if p.requires_grad or not trained_only)


def named(module: nn.Module, end: str) -> list[Tensor]:
    """The module's parameters whose names end in `end`."""
    return [parameter for name, parameter in module.named_parameters() if name.endswith(end)]


def numel(tensors: Iterable[Tensor]) -> int:
    """The number of elements of all tensors together."""
    return sum(tensor.numel() for tensor in tensors)
