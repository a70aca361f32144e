"""What a training token costs, in multiply-adds of weights; attention scores are left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """Weights of linear maps, the head included, embeddings not: each is one multiply-add a token and pass.

    base: N. added: E, of the expansion, of LoRA's matrices or of the new blocks.
    adaptable_share: (L - L_fp) / L, the share of layers that collaborate under scale-adapt and scale-route.
    above: for llama-pro, the weights of all that lies above the lowest new block; for freeze, above the frozen layers.
    frozen_above: for freeze, what of these is frozen all the same: a head tied to the embedding.
    """

    base: int
    added: int = 0
    adaptable_share: float = 0.0
    above: int = 0
    frozen_above: int = 0


def multiply_adds(method: str, weights: Weights) -> float:
    """Multiply-adds a token of forward and backward pass, in units where a weight's forward costs 2.

    method: a name of `METHODS`. Raises KeyError for another.
    """
    n, e, share, above = weights.base, weights.added, weights.adaptable_share, weights.above
    return {
        "fft": 6 * n,
        "lora": 4 * n + 6 * e,
        "freeze": 2 * n + 4 * above - 2 * weights.frozen_above,
        "llama-pro": 2 * (n + e) + 2 * above + 2 * e,
        "scale-preserve": 2 * n + 6 * e,
        "scale-adapt": 2 * n + 2 * n * share + 6 * e,
        "scale-route": 2 * n + 4 * n * share + 6 * e + 6 * e * share,
    }[method]
