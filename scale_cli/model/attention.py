"""Attention of the base's heads and the added heads, on every path, through the library's attention interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .streams import Streams, join_rows

Weights = tuple[Tensor | None, Tensor | None]
"""The attention weights of the base's heads and of the added heads, (B, H, T, S) each, on the last path; None if the
attention function returns none."""


def attend(
    attention: Any,
    q: Streams,
    k: Streams,
    v: Streams,
    *,
    implementation: str | None,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    cache: Any,
    layer_idx: int,
    **kwargs: Any,
) -> tuple[Streams, Weights]:
    """The heads' outputs, (R, T, H D), and their weights. The heads of a path and stream attend among themselves.

    attention: the base's attention module. q, k, v: (R, T, H, D). position_embeddings: cos and sin, (B, T, rotated).
    cache: one cache, in which the heads of all paths and both streams lie side by side. kwargs: for the attention
    function.
    """
    paths, (cos, sin) = q.paths, (t.unsqueeze(1) for t in position_embeddings)
    # x of every path, then x_up of every path: lists of (B, H, T, D).
    queries, keys, values = ([t.transpose(1, 2) for part in s.per_path() for t in part] for s in (q, k, v))
    num_heads = [t.shape[1] for t in queries]
    if cache is not None and queries[0].shape[2] == 1:  # one generated token: as few calls as possible
        queries, keys, values = ([torch.cat(tensors, dim=1)] for tensors in (queries, keys, values))
    queries, keys = ([apply_rotary(t, cos, sin) for t in tensors] for tensors in (queries, keys))
    if cache is not None:
        cached = cache.update(torch.cat(keys, dim=1), torch.cat(values, dim=1), layer_idx)
        keys, values = (t.split([key.shape[1] for key in keys], dim=1) for t in cached)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation or "eager", eager_attention)
    kwargs = {"dropout": 0.0, "scaling": attention.scaling, **kwargs}
    outputs = [function(attention, *qkv, attention_mask, **kwargs) for qkv in zip(queries, keys, values, strict=True)]
    contexts = [output[0] for output in outputs]
    if len(contexts) < len(num_heads):
        contexts = list(contexts[0].split(num_heads, dim=2))
    flat = [t.flatten(2) for t in contexts]
    x = flat[:paths] if len(q.x) == paths else [join_rows(flat[:paths])]
    weights: Weights = (None, None)
    if kwargs.get("output_attentions"):
        per_head = [output[1] for output in outputs]
        if len(per_head) < len(num_heads) and per_head[0] is not None:
            per_head = list(per_head[0].split(num_heads, dim=1))
        weights = (per_head[paths - 1], per_head[-1]) if per_head[0] is not None else weights
    return Streams(tuple(x), join_rows(flat[paths:]), paths), weights


def rotate_half(x: Tensor) -> Tensor:
    """(a, b) -> (-b, a) on the halves of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (B, H, T, D) by cos, sin (B, 1, T, rotated); features beyond `rotated` pass through."""
    rotated = cos.shape[-1]
    if rotated == x.shape[-1]:
        return (x * cos + rotate_half(x) * sin).to(x.dtype)  # some families keep cos and sin in float32
    turned, passed = x[..., :rotated], x[..., rotated:]
    return torch.cat(((turned * cos + rotate_half(turned) * sin).to(x.dtype), passed), dim=-1)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Plain softmax attention with the signature of the library's attention interface.

    query: (B, H, T, D). key, value: (B, H / groups, S, D). attention_mask: added to the scores, broadcast over heads.
    Returns (B, T, H, D) and the weights (B, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
