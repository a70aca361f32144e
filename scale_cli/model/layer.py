"""A decoder layer of the base and its addition, computed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import attend
from .families import NORMS, ROLES, Family, LayerShape, module_of
from .linear import ExpansionLinear
from .streams import Streams


class ExpansionLayer(GradientCheckpointingLayer):
    """The addition to one decoder layer, whose forward also runs the base's layer.

    Its children have the names of `ROLES` and `NORMS`, of which each family has some.
    """

    def __init__(self, base_layer: nn.Module, family: Family, shape: LayerShape, added: LayerShape) -> None:
        super().__init__()
        self.family = family
        self.head_dim = shape.head_dim
        for role in ROLES:
            path = family.path(role)
            if path is not None:
                bias = base_layer.get_submodule(path).bias is not None
                setattr(self, role, ExpansionLinear(*shape.features(role), *added.features(role), bias=bias))
        for role in NORMS:
            path = family.path(role)
            if path is not None:
                setattr(self, role, norm_like(base_layer.get_submodule(path), added.norm_features(role, family)))

    def set_collaborative(self, modules: Sequence[str]) -> None:
        """Make the maps of `modules` ("attention", "ffn") collaborate, and no others."""
        for role, linear in self.named_children():
            if isinstance(linear, ExpansionLinear):
                linear.set_collaborative(module_of(role) in modules)

    def forward(
        self,
        *tensors: Tensor,
        base: nn.Module,
        paths: int,
        parallel: bool,
        implementation: str | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Any = None,
        layer_idx: int = 0,
        **kwargs: Any,
    ) -> tuple[Tensor | None, ...]:
        """Both streams after base layer and addition, from `Streams.tensors`, as `Streams.tensors`.

        base: the base's layer. parallel: attention and feed-forward read the same streams. kwargs: for the attention
        function; with `output_attentions` the base's and the added heads' weights follow.
        """
        streams = Streams(tensors[:-1], tensors[-1], paths)
        q, k, v = self._project(self._norm("attention_norm", streams, base), base)
        heads, weights = attend(
            at(base, self.family.attention),
            q,
            k,
            v,
            implementation=implementation,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            cache=cache,
            layer_idx=layer_idx,
            **kwargs,
        )
        attended = self._norm("attention_post_norm", self._linear("o", heads, base), base)
        if parallel:
            streams = self._ffn(streams, base).plus(attended).plus(streams)
        else:
            streams = streams.plus(attended)
            streams = streams.plus(self._ffn(streams, base))
        return (*streams.tensors, *weights) if kwargs.get("output_attentions") else streams.tensors

    def _norm(self, role: str, streams: Streams, base: nn.Module) -> Streams:
        """Each stream normalised by its own norm, if the family has a norm of this role."""
        path = self.family.path(role)
        return streams if path is None else streams.map(at(base, path), getattr(self, role))

    def _linear(self, role: str, streams: Streams, base: nn.Module) -> Streams:
        """Both streams through the widened map of this role (eq. 1)."""
        path = self.family.path(role)
        assert path is not None
        linear = at(base, path)
        return getattr(self, role)(streams, tuple([linear(t) for t in streams.x]))

    def _project(self, streams: Streams, base: nn.Module) -> list[Streams]:
        """q, k, v of the base's heads and the added heads, (R, T, H, D) each, from the normalised streams."""
        family, head_dim = self.family, self.head_dim
        if family.qkv is not None:
            fused = at(base, family.qkv)
            parts = [fused(t).unflatten(-1, (-1, 3 * head_dim)).chunk(3, dim=-1) for t in streams.x]
            projected = [
                getattr(self, role)(streams, y) for role, y in zip("qkv", zip(*parts, strict=True), strict=True)
            ]
        else:
            projected = [self._linear(role, streams, base) for role in "qkv"]
        if family.qk_norm_per_head:
            projected = [part.map(self._split_heads, self._split_heads) for part in projected]
        q, k, v = projected
        normed = [self._norm("q_norm", q, base), self._norm("k_norm", k, base), v]
        if family.qk_norm_per_head:
            return normed
        return [part.map(self._split_heads, self._split_heads) for part in normed]

    def _split_heads(self, x: Tensor) -> Tensor:
        """(R, T, H D) as (R, T, H, D); the fused map's output has its heads already."""
        return x if x.dim() == 4 else x.view(*x.shape[:2], -1, self.head_dim)

    def _ffn(self, streams: Streams, base: nn.Module) -> Streams:
        """The feed-forward block of both streams, before it is added to them."""
        activation = at(base, self.family.activation)
        normed = self._norm("ffn_norm", streams, base)
        up = self._linear("up", normed, base)
        if self.family.gate is not None:
            gate = self._linear("gate", normed, base)
            x = tuple([activation(a) * b for a, b in zip(gate.x, up.x, strict=True)])
            inner = Streams(x, activation(gate.x_up) * up.x_up, up.paths)
        else:
            inner = up.map(activation, activation)
        return self._norm("ffn_post_norm", self._linear("down", inner, base), base)


def norm_like(norm: nn.Module, size: int) -> nn.Module:
    """A new norm over `size` features, of the class and epsilon of `norm`."""
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return type(norm)(size, eps=eps)


def at(module: nn.Module, path: str) -> Any:
    """`module.get_submodule(path)`, several times faster, which matters in generation."""
    for name in path.split("."):
        module = module._modules[name]  # type: ignore[assignment]
    return module
