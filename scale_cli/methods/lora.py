"""LoRA (arXiv 2106.09685) with peft, on every attention and feed-forward matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scale_cli.core.recipe import option
from scale_cli.methods.cost import Cost, linear_weights, numel
from scale_cli.methods.families import family_for
from scale_cli.methods.method import Look, Method, Size, trained_parameters
from scale_cli.methods.teacher import without_adapters

MOST_RANK = 65_536
"""Beyond the sides of every matrix that is trained; a larger rank is a slip or a damaged file."""


@dataclass(frozen=True)
class LoraOptions:
    """Rank and scale of the update, named as in peft."""

    lora_r: int = option(256, help="Rank of lora's update.")
    lora_alpha: int | None = option(None, help="Scale of lora's update, which is multiplied by alpha / r.  [the rank]")

    def __post_init__(self) -> None:
        if not 1 <= self.lora_r <= MOST_RANK:
            raise ValueError(f"--lora-r {self.lora_r}: a rank, from 1 to {MOST_RANK}")
        if self.lora_alpha is not None and not 1 <= self.lora_alpha <= MOST_RANK:
            raise ValueError(f"--lora-alpha {self.lora_alpha}: from 1 to {MOST_RANK}")

    @property
    def alpha(self) -> int:
        """lora_alpha, by default the rank, which makes the update's factor alpha / r one."""
        return self.lora_alpha or self.lora_r


def resolve(options: LoraOptions, config: Any) -> LoraOptions:
    """The options with `lora_alpha` filled in."""
    return dataclasses.replace(options, lora_alpha=options.alpha)


def apply(model: Any, options: LoraOptions, new_layers: Sequence[int]) -> Any:
    """The model wrapped by peft: two trained matrices per linear map, everything else frozen.

    Raises RequestError for an unknown family.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.alpha,
        target_modules=list(family_for(model, LORA.name).linear_paths()),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def cost(model: Any) -> Cost:
    """4N + 6E: the base's N weights get no gradient, the E weights of the added matrices do.

    For generation the update is merged, so a generated token is multiplied with N weights.
    """
    added = numel(trained_parameters(model).values())
    base = linear_weights(model) - added
    return Cost(base=base, added=added, training=4 * base + 6 * added, generation=base)


def merged(model: Any) -> Any:
    """The base with the update added to its weights."""
    base = model.merge_and_unload()
    if hasattr(base, "peft_config"):  # peft before 0.19 leaves it, and then warns of a second adapter
        del base.peft_config
    return base


def nearest_rank(config: Any, parameters: int) -> int:
    """The rank, at least 1, with which LoRA's number of trained parameters is closest to `parameters`.

    config: of the base. Raises ValueError for an unknown family.
    """
    from scale_cli.model import LayerShape, family_of
    from scale_cli.model.families import lora_parameters

    per_rank = lora_parameters(family_of(config.model_type), LayerShape.of(config), config.num_hidden_layers)
    return max(1, round(parameters / per_rank))


LORA = Method(
    name="lora",
    title="LoRA",
    group="baseline",
    needs=("plain",),
    lr=1e-3,
    apply=apply,
    options=LoraOptions,
    resolve=resolve,
    cost=cost,
    teacher=without_adapters,
    merged=merged,
    size=Size("lora_r", nearest_rank),
    paper=True,
    order=1,
    look=Look("#a86f00", "#e3ad4f", "s"),
)
