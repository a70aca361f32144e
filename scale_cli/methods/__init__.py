"""What is trained: the three methods of SCALE and the baselines. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scale_cli.methods.baselines import fft, freeze, llama_pro, lora
from scale_cli.methods.options import MethodOptions
from scale_cli.methods.scale import scale_adapt, scale_preserve, scale_route

Kind = Literal["plain", "width", "depth"]
"""What a checkpoint is: as a Hugging Face class made it, or upscaled by width or by depth."""


@dataclass(frozen=True)
class Method:
    """One way to train.

    needs: the kinds of checkpoint it trains; fft is kept from a widened one, whose base stays frozen for ever.
    lr: the paper's learning rate for Korean continual pre-training (section 6), the default of `scale train`.
    apply: (model, options, new_layers) -> the model with exactly what it trains requiring a gradient; `new_layers` are
        the blocks that a depth-upscaled checkpoint records as added.
    """

    name: str
    needs: tuple[Kind, ...]
    lr: float
    apply: Callable[[Any, MethodOptions, Sequence[int]], Any]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("fft", ("plain", "depth"), 1e-5, fft),
        Method("lora", ("plain",), 1e-5, lora),
        Method("freeze", ("plain",), 1e-5, freeze),
        Method("llama-pro", ("depth",), 2e-4, llama_pro),
        Method("scale-preserve", ("width",), 1e-3, scale_preserve),
        Method("scale-adapt", ("width",), 1e-3, scale_adapt),
        Method("scale-route", ("width",), 1e-3, scale_route),
    )
}

__all__ = ["METHODS", "Kind", "Method", "MethodOptions"]
