"""The mixture router: the base's prediction and the widened model's, weighted by Bayes' rule along the text.

With the base's logits Z and the widened model's Z_A, the prediction of the token after x_t is

    p(x | x_<=t) = w_t softmax(Z)[x] + (1 - w_t) softmax(Z_A)[x],     w_0 = prior
    w_(t+1) = (1 - s) v + s prior,     v = w_t p_base(x_(t+1)) / p(x_(t+1))

Share s = 0 is the Bayesian mixture, whose loss on every text is at most the base's plus ln(1 / prior) and at most the
widened model's plus ln(1 / (1 - prior)), in nats. Share 1 is the average at each token with weight `prior`. Shares in
between follow a text that changes its language (fixed share: Herbster & Warmuth, Machine Learning 32, 1998).
DEMix (arXiv 2108.05036) and Branch-Train-Merge (arXiv 2208.03306) weight separately trained models in this way; here
both predictions are of one forward.

The weights are log-odds, ln(w / (1 - w)). One more layer of the key/value cache holds the last hidden
streams and the log-odds of each position, so the library reorders and crops them with the keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicLayer, StaticLayer

from .streams import Streams

CHUNK_POSITIONS = 512
"""Positions per chunk, over all rows: both predictions exist in whole only for a chunk."""

Predictors = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, Tensor]]
"""(x of every path, x_up of every path) -> the logits of the base and of the widened model, (..., vocabulary) each."""


class LastPosition(StaticLayer):
    """A cache layer of fixed size that holds the last position only. It cannot be cropped."""

    is_croppable = False

    def __init__(self) -> None:
        super().__init__(max_cache_len=1)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Replace the stored position by the last of the new ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys.copy_(key_states[:, :, -1:])
        self.values.copy_(value_states[:, :, -1:])
        return self.keys, self.values

    def get_seq_length(self, *args: Any) -> int:
        """The number of stored positions."""
        return int(self.is_initialized)


def state_layer(cache: Any, num_layers: int) -> Any:
    """The layer of the cache that holds the mixture's state; it is added to a cache that lacks it."""
    if len(cache.layers) == num_layers:
        static = any(isinstance(layer, StaticLayer) for layer in cache.layers)
        cache.layers.append(LastPosition() if static else DynamicLayer())
    return cache.layers[num_layers]


def mix(
    predictors: Predictors,
    streams: Streams,
    tokens: Tensor,
    *,
    share: float,
    prior: float,
    kept: int | Tensor,
    valid: Tensor | None,
    restarts: Tensor,
    state: Any,
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the mixture at the kept positions, and the base's weights there.

    streams: the final normalised streams of the positions, whose tokens are `tokens` (B, T).
    kept: as `logits_to_keep`, the number of last positions, 0 for all, or their indices.
    valid: (B, T + 1), which tokens are not padding, the one before the first included; None: all. A padding token, and
        the token after one, change no weight.
    restarts: (B, T), which tokens begin a text, whose weight is the prior again.
    state: the cache's layer; None without a cache.
    Returns (B, kept, vocabulary) and (B, kept), both float32 at least.
    """
    x, x_up = streams.per_path()
    length = tokens.shape[1]
    positions = range(length)[-kept:] if isinstance(kept, int) else None
    if share == 1:  # the weight is always the prior, so neither the other positions nor a state are needed
        chosen = slice(-kept, None) if isinstance(kept, int) else kept
        base, adapted = _log_probabilities(predictors([t[:, chosen] for t in x], [t[:, chosen] for t in x_up]))
        odds = base.new_full(base.shape[:2], _logit(prior))
        return _average(base, adapted, odds), odds.sigmoid()
    before = _read(state, x, x_up) if state is not None else None
    step = max(1, CHUNK_POSITIONS // tokens.shape[0])
    last = None  # the log-probabilities at the position before the chunk, and its log-odds
    if before is not None:
        x_before, x_up_before, odds = before
        last = (*_log_probabilities(predictors(x_before, x_up_before)), odds)
    mixed: list[Tensor] = []
    all_odds: list[Tensor] = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        pair = predictors([t[:, start:stop] for t in x], [t[:, start:stop] for t in x_up])
        base, adapted = _log_probabilities(pair)
        chunk = tokens[:, start:stop]
        odds, gains = _start(last, base.detach(), adapted.detach(), chunk, prior)
        updates = None if valid is None else valid[:, start:stop] & valid[:, start + 1 : stop + 1]
        chunk_odds = follow(odds, gains, share=share, prior=prior, updates=updates, restarts=restarts[:, start:stop])
        last = (base[:, -1:], adapted[:, -1:], chunk_odds[:, -1:])
        all_odds.append(chunk_odds)
        if positions is None or positions.start < stop:
            skipped = 0 if positions is None else max(0, positions.start - start)
            mixed.append(_average(base[:, skipped:], adapted[:, skipped:], chunk_odds[:, skipped:]))
    whole = torch.cat(all_odds, 1)
    if state is not None:
        _write(state, x, x_up, whole)
    logits = torch.cat(mixed, 1)
    if positions is None:
        return logits[:, kept], whole[:, kept].sigmoid()
    return logits, whole[:, positions.start :].sigmoid()


def read(
    router: Mapping[str, Any] | None,
    z: Tensor,
    z_adapted: Tensor,
    tokens: Tensor,
    *,
    kept: int | Tensor = 0,
    valid: Tensor | None = None,
    restarts: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The logits of a router other than cosine from whole predictions, and the base's weights under a mixture.

    z, z_adapted: the logits of the base and of the adapted model, (B, T, vocabulary). Other arguments: those of `mix`.
    Returns (B, kept, vocabulary), and (B, kept) or None.
    """
    if router is not None and router["kind"] == "mixture":
        return mix(
            lambda x, x_up: (x[0], x_up[0]),
            Streams((z,), z_adapted),
            tokens,
            share=router["share"],
            prior=router["prior"],
            kept=kept,
            valid=valid,
            restarts=torch.zeros_like(tokens, dtype=torch.bool) if restarts is None else restarts,
            state=None,
        )
    chosen = slice(-kept, None) if isinstance(kept, int) else kept
    if router is None:
        return z_adapted[:, chosen], None
    return torch.lerp(z[:, chosen], z_adapted[:, chosen], router["weight"]), None


def valid_tokens(attention_mask: Any, length: int) -> Tensor | None:
    """Which of the last `length` tokens are not padding, and the one before them, (B, length + 1); None: all.

    attention_mask: as the model's, over cached and new tokens.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        return None
    padded = attention_mask if attention_mask.shape[1] > length else functional.pad(attention_mask, (1, 0))
    return padded[:, -length - 1 :].bool()


@torch.no_grad()
def follow(
    odds: Tensor, gains: Tensor, *, share: float, prior: float, updates: Tensor | None, restarts: Tensor
) -> Tensor:
    """The log-odds of the base's weight after each token, (B, T).

    odds: before the first token, (B, 1). gains: ln p_base - ln p_adapted of each token, (B, T).
    updates: which tokens change the weight; None: all. restarts: which tokens set it to the prior.

    A token maps the unnormalised weights (a, b) of base and widened model linearly, so all prefixes are products of
    2 x 2 matrices, which a scan finds in log2(T) steps. Matrices are logarithms, because products of many likelihood
    ratios overflow.
    """
    to_base, to_adapted = _log(share * prior), _log(share * (1 - prior))
    zero = torch.zeros_like(gains)
    rows = [
        [gains + _log(1 - share + share * prior), zero + to_base],
        [gains + to_adapted, zero + _log(1 - share + share * (1 - prior))],
    ]
    matrices = torch.stack([torch.stack(row, -1) for row in rows], -2)
    if updates is not None:
        identity = matrices.new_tensor([[0.0, -math.inf], [-math.inf, 0.0]])
        matrices = torch.where(updates[..., None, None], matrices, identity)
    start_again = matrices.new_tensor([[_log(prior)] * 2, [_log(1 - prior)] * 2])
    matrices = torch.where(restarts[..., None, None], start_again, matrices)
    distance = 1
    while distance < gains.shape[1]:
        later, earlier = matrices[:, distance:], matrices[:, :-distance]
        products = torch.logsumexp(later.unsqueeze(-1) + earlier.unsqueeze(-3), dim=-2)
        products = products - products.amax((-2, -1), keepdim=True)
        matrices = torch.cat((matrices[:, :distance], products), 1)
        distance *= 2
    weights = torch.stack((functional.logsigmoid(odds), functional.logsigmoid(-odds)), -1)
    a, b = torch.logsumexp(matrices + weights.unsqueeze(-2), dim=-1).unbind(-1)
    return a - b


def _start(
    last: tuple[Tensor, Tensor, Tensor] | None, base: Tensor, adapted: Tensor, tokens: Tensor, prior: float
) -> tuple[Tensor, Tensor]:
    """The log-odds before a chunk's first token, (B, 1), and the gain of the base on each of its tokens, (B, T).

    last: the log-probabilities of both predictors and the log-odds at the position before; None at the very beginning,
    where nothing predicts the first token.
    """
    index = tokens.unsqueeze(-1)
    inside = (base[:, :-1].gather(-1, index[:, 1:]) - adapted[:, :-1].gather(-1, index[:, 1:])).squeeze(-1)
    if last is None:
        odds = base.new_full((len(tokens), 1), _logit(prior))
        return odds, functional.pad(inside, (1, 0))
    base_before, adapted_before, odds = last
    first = (base_before.gather(-1, index[:, :1]) - adapted_before.gather(-1, index[:, :1])).squeeze(-1)
    return odds, torch.cat((first, inside), 1)


def _log_probabilities(logits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The log-probabilities of both predictors, in float32 at least."""
    z, z_adapted = (t.to(torch.promote_types(t.dtype, torch.float32)).log_softmax(-1) for t in logits)
    return z, z_adapted


def _average(base: Tensor, adapted: Tensor, odds: Tensor) -> Tensor:
    """The logarithm of the average of two predictions (B, T, vocabulary), weighted by log-odds (B, T)."""
    odds = odds.unsqueeze(-1)
    return torch.logaddexp(base + functional.logsigmoid(odds), adapted + functional.logsigmoid(-odds))


def _read(state: Any, x: Sequence[Tensor], x_up: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor] | None:
    """The streams and log-odds of the last cached position; None for an empty cache."""
    if not state.is_initialized or state.keys.shape[-2] == 0:
        return None
    keys, values = state.keys[:, 0, -1:], state.values[:, 0, -1:]
    x_before = [part.to(x[0].dtype) for part in keys.split([t.shape[-1] for t in x], -1)]
    *x_up_before, odds = values.split([*(t.shape[-1] for t in x_up), 1], -1)
    return x_before, [part.to(x_up[0].dtype) for part in x_up_before], odds.squeeze(-1)


def _write(state: Any, x: Sequence[Tensor], x_up: Sequence[Tensor], odds: Tensor) -> None:
    """Add the positions to the cache, (B, 1, T, features), in float32 at least, which loses nothing."""
    keys = torch.cat([t.to(odds.dtype) for t in x], -1)
    values = torch.cat([*(t.to(odds.dtype) for t in x_up), odds.unsqueeze(-1)], -1)
    state.update(keys.unsqueeze(1), values.unsqueeze(1))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _logit(value: float) -> float:
    return _log(value) - _log(1 - value)
