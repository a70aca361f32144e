"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scale_cli.methods.cost import by_layers
from scale_cli.methods.method import Look, Method, NoOptions


def apply(model: Any, options: NoOptions, new_layers: Sequence[int]) -> Any:
    """The model with all parameters trainable."""
    model.requires_grad_(True)
    return model


FFT = Method(
    name="fft",
    title="FFT",
    group="baseline",
    # Not "width": the base of a widened checkpoint always stays frozen.
    needs=("plain", "depth"),
    lr=1e-4,
    apply=apply,
    cost=by_layers,  # 6N
    trains_all=True,
    paper=True,
    order=0,
    look=Look("#c8452d", "#ff7f66", "o"),
)
