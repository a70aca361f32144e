"""Sizes of an upscaling: the requested ones, and those with which another method trains as many parameters."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from scale_cli.core.errors import RequestError
from scale_cli.methods import Kind, Method, yardstick
from scale_cli.methods.cost import numel
from scale_cli.methods.existing_layers import nearest_layers
from scale_cli.model import LayerShape, ScaleConfig, ScaleForCausalLM
from scale_cli.surgery.depth import deepened_config, new_layers, plan_depth
from scale_cli.surgery.source import Base
from scale_cli.surgery.width import InitPair, expansion_sizes, plan_width

SIZE_STEP = 8
"""Chosen hidden and feed-forward sizes are multiples of this number, which suits a GPU's matrix units. Multiples of 64
would miss the parameters to match by up to 10% in a base of 1B parameters."""
DEFAULT_SHARE = 1 / 8
"""The default number of added hidden features, as a share of the base's: 256 of 2048 in the paper."""


@dataclass(frozen=True)
class Sizer:
    """Builds a base's checkpoints on the meta device, counts trained parameters, and finds sizes.

    options: the options of every method, by the method's name.
    """

    base: Base
    init: InitPair
    options: Mapping[str, Any]

    def checkpoint(
        self, kind: Kind, *, added: LayerShape | None = None, layers: int | None = None
    ) -> tuple[Any, list[int]]:
        """A checkpoint of this kind on the meta device, and the indices of the blocks that block expansion added.

        added: the expansion's shape, for "width". layers: the total number of layers, for "depth".
        Raises RequestError for an invalid number of layers.
        """
        base = self.base
        with torch.device("meta"):
            if kind == "width":
                assert added is not None
                config = ScaleConfig(base_config=base.raw_config, expansion=expansion_sizes(added))
                return ScaleForCausalLM(config), []
            if kind == "depth":
                assert layers is not None
                copied = plan_depth(base.num_layers, layers=layers, name=base.name)
                deepened = type(base.config).from_dict(deepened_config(base, copied))
                return base.model_class(deepened), new_layers(copied)
            return base.model_class(base.config), []

    def prepare(self, method: Method, checkpoint: tuple[Any, list[int]]) -> Any:
        """The model after `method.apply`, in training mode. Raises RequestError if the method's options do not fit."""
        with torch.device("meta"):
            return method.apply(checkpoint[0], self.options[method.name], checkpoint[1]).train()

    def trained(self, method: Method, *, added: LayerShape | None = None, layers: int | None = None) -> int:
        """The number of parameters that the method trains. added, layers: as for `checkpoint`."""
        return numel(trained(self.prepare(method, self.checkpoint(method.needs[0], added=added, layers=layers))))

    def width(self, hidden: int, heads: int | None = None, ffn: int | None = None) -> LayerShape:
        """The shape of the expansion with these sizes. Raises RequestError for sizes that do not fit the base."""
        return plan_width(
            self.base.shape,
            vocab_size=self.base.config.vocab_size,
            hidden=hidden,
            heads=heads,
            ffn=ffn,
            init=self.init,
            name=self.base.name,
        )

    def default_hidden(self) -> int:
        """An eighth of the base's hidden size, rounded to a multiple of `SIZE_STEP`."""
        return _rounded(self.base.shape.hidden_size * DEFAULT_SHARE)

    def chosen_width(self, hidden: int) -> LayerShape:
        """As `width`, with the base's proportion of feed-forward features rounded to a multiple of `SIZE_STEP`."""
        shape = self.base.shape
        return self.width(hidden, ffn=_rounded(shape.intermediate_size * hidden / shape.hidden_size))

    def share(self, share: float) -> int:
        """This share of the base's parameters, as a number. Raises RequestError if no width trains so many."""
        target = round(share * self.base.parameters)
        hidden = self._hidden_sizes()[-1]
        widest = self.trained(yardstick("width"), added=self.chosen_width(hidden))
        if target > widest:
            limit = math.floor(100 * widest / self.base.parameters) / 100
            raise RequestError(
                f"--match-params {share:g}: {self.base.name} widened by {hidden} features, the most, trains {limit:g} "
                f"of its parameters; choose up to {limit:g}{', or --init random' if 'svd' in self.init else ''}"
            )
        return target

    def nearest_width(self, target: int) -> LayerShape:
        """The width whose number of trained parameters is closest to `target`, among the `chosen_width`s."""
        sizes = self._hidden_sizes()

        def trained(hidden: int) -> int:
            return self.trained(yardstick("width"), added=self.chosen_width(hidden))

        above = bisect.bisect_left(sizes, target, key=trained)
        nearest = min(sizes[max(0, above - 1) : above + 1], key=lambda hidden: abs(trained(hidden) - target))
        return self.chosen_width(nearest)

    def _hidden_sizes(self) -> list[int]:
        """The possible hidden sizes, ascending, up to the base's own. Raises RequestError if none fits."""
        sizes: list[int] = []
        for hidden in range(SIZE_STEP, max(SIZE_STEP, self.base.shape.hidden_size) + 1, SIZE_STEP):
            try:
                self.chosen_width(hidden)
            except RequestError:
                if not sizes:
                    raise
                break
            sizes.append(hidden)
        return sizes


def _rounded(size: float) -> int:
    """The nearest multiple of `SIZE_STEP`, at least one step."""
    return max(1, round(size / SIZE_STEP)) * SIZE_STEP


def matching_layers(config: PreTrainedConfig, parameters: int) -> int:
    """The total number of layers with which block expansion trains closest to `parameters`, at most twice the base's.

    config: of the base. Raises ValueError for an unknown family.
    """
    return int(config.num_hidden_layers) + nearest_layers(config, parameters)


def trained(model: Any) -> Iterable[Tensor]:
    """The parameters that require a gradient."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def check_sizes(sizes: Mapping[str, int | None], match: str | None, match_params: float | None) -> None:
    """Raise RequestError for contradictory options. sizes: by flag, None if not given. Nothing is read."""
    given = {flag: str(value) for flag, value in sizes.items() if value is not None}
    if match is not None:
        given = {"--match": match, **given}
    if match_params is not None:
        given = {"--match-params": f"{match_params:g}", **given}
        if not (match_params > 0 and math.isfinite(match_params)):
            raise RequestError(f"--match-params {match_params:g}: a share of the base's parameters above 0, as in 0.15")
    if len(given) > 1 and next(iter(given)) in ("--match", "--match-params"):
        first, second = (f"{flag} {value}" for flag, value in list(given.items())[:2])
        raise RequestError(f"{first} and {second} each set the sizes; give one of them")
    for flag in ("--heads", "--ffn"):
        if flag in given and "--hidden" not in given:
            raise RequestError(
                f"{flag} {given[flag]} needs --hidden, the number of features to add, as in --hidden 256"
            )


def parse_match(text: str) -> tuple[int | None, int | None, int | None, int | None]:
    """Hidden, heads, ffn and layers in "depth:20" or "width:256,heads=4,ffn=1024"."""
    parts = re.fullmatch(r"width:([0-9]+)(?:,heads=([0-9]+))?(?:,ffn=([0-9]+))?|depth:([0-9]+)", text)
    if parts is None:
        raise RequestError(
            f"--match {text}: write depth:LAYERS or width:HIDDEN[,heads=N][,ffn=N], as in depth:20 or "
            "width:256,ffn=1024"
        )
    hidden, heads, ffn, layers = (None if size is None else int(size) for size in parts.groups())
    return hidden, heads, ffn, layers
