"""OSF (orthogonal subspace fine-tuning, arXiv 2504.07097) with peft, on every attention and feed-forward matrix.

Each matrix is split by its singular values. The directions of the large ones are preserved, those of the small ones are
trained, and gradients are projected onto the complement of the preserved directions. AdamW scales a projected gradient
element by element, so its step is not exactly orthogonal to them; peft and training_hub (OSFT) train in this way.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import option
from scale_cli.methods.cost import Cost, linear_weights
from scale_cli.methods.families import family_for
from scale_cli.methods.lora import merged
from scale_cli.methods.method import Look, Method, Size, trained_parameters
from scale_cli.methods.teacher import without_adapters

if TYPE_CHECKING:
    from torch import Tensor

OLDEST_PEFT = "0.21"
"""The first release of peft whose OSF adds a low-rank update to the base and does not compute each matrix anew."""
START = "._osf_"
"""Part of the names of the buffers with the matrices' parts at the start."""


@dataclass(frozen=True)
class OsfOptions:
    """The preserved share, named as in peft."""

    effective_rank: float = option(
        0.5,
        help="Share of each matrix's singular directions that osf preserves, the largest first; it trains the rest.",
    )

    def __post_init__(self) -> None:
        if not 0 < self.effective_rank < 1:
            raise ValueError(f"--effective-rank {self.effective_rank:g}: a share above 0 and below 1")


def has_peft() -> bool:
    """Whether the installed peft is new enough."""
    return Version(importlib.metadata.version("peft")) >= Version(OLDEST_PEFT)


def resolve(options: OsfOptions, config: Any) -> OsfOptions:
    """The options as they are. Raises RequestError if the installed peft is too old."""
    if not has_peft():
        raise RequestError(
            f"--method {OSF.name}: needs peft {OLDEST_PEFT} or newer, and {importlib.metadata.version('peft')} is "
            f"installed; pip install 'peft>={OLDEST_PEFT}'"
        )
    return options


def apply(model: Any, options: OsfOptions, new_layers: Sequence[int]) -> Any:
    """The model wrapped by peft: the parts of small singular values are trained, everything else is frozen.

    Raises RequestError for an unknown family, and if a matrix has no direction to preserve or to train.
    """
    resolve(options, model.config)
    from peft import OSFConfig, get_peft_model

    family = family_for(model, OSF.name)
    paths = family.linear_paths()
    rank = min(min(weight.shape) for layer in family.layers_of(model) for weight in _matrices(layer, paths))
    if not 1 <= int(rank * options.effective_rank) < rank:
        raise RequestError(
            f"--effective-rank {options.effective_rank:g}: the smallest matrix has {rank} singular directions, and at "
            f"least one is preserved and one trained; choose {1 / rank:.2g} to {1 - 1 / rank:.2g}"
        )
    config = OSFConfig(effective_rank=options.effective_rank, target_modules=list(paths), task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _matrices(layer: Any, paths: Sequence[str]) -> list[Tensor]:
    return [layer.get_submodule(path).weight for path in paths]


def stored(model: Any) -> dict[str, Tensor]:
    """The trained parts, and the same parts at the start, whose difference is the update.

    They are stored because another machine or precision decomposes the base into other parts.
    """
    start = {name: buffer for name, buffer in model.named_buffers() if START in name and "_low_init" in name}
    return trained_parameters(model) | start


def cost(model: Any) -> Cost:
    """4N + 12E: E is the number of trained weights, and the update is the difference of two products of that size.

    The base's N weights get no gradient. The projection of gradients is per step, not per token, and is left out. For
    generation the update is merged.
    """
    added = linear_weights(model, trained_only=True)
    base = linear_weights(model) - added
    return Cost(base=base, added=added, training=4 * base + 12 * added, generation=base)


def nearest_share(config: Any, parameters: int) -> float:
    """The preserved share with which the number of trained parameters is closest to `parameters`.

    config: of the base. Raises ValueError for an unknown family.
    """
    from scale_cli.model import LayerShape, family_of
    from scale_cli.model.families import fused_features

    shapes = fused_features(family_of(config.model_type), LayerShape.of(config))
    least = min(min(shape) for shape in shapes)

    def distance(share: float) -> int:
        trained = sum((min(shape) - int(min(shape) * share)) * (sum(shape) + 1) for shape in shapes)
        return abs(config.num_hidden_layers * trained - parameters)

    # One share per number of preserved directions of the smallest matrix, away from the borders of rounding.
    return min((round((preserved + 0.5) / least, 4) for preserved in range(1, least)), key=distance)


OSF = Method(
    name="osf",
    title="OSF",
    group="baseline",
    needs=("plain",),
    lr=1e-3,  # lora's, whose update has the same form; not in the sweep
    apply=apply,
    options=OsfOptions,
    resolve=resolve,
    cost=cost,
    stored=stored,
    teacher=without_adapters,
    merged=merged,
    size=Size("effective_rank", nearest_share),
    order=8,
    shards=False,
    look=Look("#7a4b1e", "#c9996b", ">"),
)
