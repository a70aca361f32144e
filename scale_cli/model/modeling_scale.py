"""The width-upscaled causal LM of SCALE (arXiv 2511.03270): two streams beside each other.

The base stays whole as `model.base`, the untouched Hugging Face module, frozen. What is added is `model.expansion`.
Two tensors travel through the layers, `x` (batch, length, hidden) and `x_up` (batch, length, hidden_up), and every
linear map of a layer computes

    y    = W x   + W12 x_up     the W12 term only where the map collaborates
    y_up = W21 x + W22 x_up

The streams are never concatenated: where no W12 feeds it, `x` depends on nothing trainable, so autograd builds no
graph for the base and SCALE-Preserve costs one base forward plus the expansion's own forward and backward.

Legend of shapes: B batch, T length, H heads, D head_dim; `_up` marks what was added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from .configuration_scale import ScaleConfig
from .families import NORMS, ROLES, Family, LayerShape, family_of, module_of

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
"""How the library makes the mask of each kind of layer."""


class Stream(NamedTuple):
    """One path through the decoder. SCALE-Route has two above its fork, everything else one."""

    x: Tensor
    """(B, T, hidden): the base's half."""
    x_up: Tensor
    """(B, T, hidden_up): the added half."""


@dataclass
class ScaleOutput(CausalLMOutputWithPast):
    """What `ScaleForCausalLM` returns: the library's own causal LM output and what only a two-stream model has.

    hidden_states: with `output_hidden_states`, the base's half after the embedding, each layer and the final norm,
        (B, T, hidden) each; under a router those of the adapting path.
    expansion_hidden_states: the same of the added half, (B, T, hidden_up) each.
    preserved: under a router, (B, T) bool, True where a token took the preserve branch of eq. 5.
    """

    expansion_hidden_states: tuple[Tensor, ...] | None = None
    preserved: Tensor | None = None


class ExpansionLinear(nn.Module):
    """What widening adds to one linear map: W21 and W22, their bias where the base map has one, and W12 on request.

    w21 (out_up, in), w22 (out_up, in_up), bias (out_up), w12 (out, in_up) or None.
    """

    def __init__(self, out_features: int, in_features: int, out_up: int, in_up: int, *, bias: bool) -> None:
        super().__init__()
        self.out_features = out_features
        self.w21 = nn.Parameter(torch.empty(out_up, in_features))
        self.w22 = nn.Parameter(torch.empty(out_up, in_up))
        self.bias = nn.Parameter(torch.empty(out_up)) if bias else None
        self.w12: nn.Parameter | None
        self.register_parameter("w12", None)

    def set_collaborative(self, collaborative: bool) -> None:
        """Give the map a zero W12, or take it away; a W12 that is there is left as it is."""
        if collaborative and self.w12 is None:
            self.w12 = nn.Parameter(self.w22.new_zeros(self.out_features, self.w22.shape[1]))
        elif not collaborative:
            self.w12 = None

    def forward(self, x: Tensor, x_up: Tensor, y: Tensor, *, masked: bool = False) -> tuple[Tensor, Tensor]:
        """Both halves of the widened map's output, from both halves of its input and from y = W x (+ b), the base's.

        x (..., in), x_up (..., in_up), y (..., out); masked: take W12 for zero.
        Returns W x + W12 x_up, which is y itself where no W12 counts, and W21 x + W22 x_up (+ bias), (..., out_up).
        """
        if self.w12 is not None and not masked:
            y = y + functional.linear(x_up, self.w12).view(y.shape)
        return y, functional.linear(x, self.w21, self.bias) + functional.linear(x_up, self.w22)


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
    """Plain softmax attention in the form of the library's attention interface.

    query (B, H, T, D); key, value (B, H / groups, S, D); attention_mask added to the scores, broadcast over heads.
    Returns (B, T, H, D) and the weights (B, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ExpansionLayer(GradientCheckpointingLayer):
    """What widening adds to one decoder layer, and the forward of base layer and addition together.

    Its children bear the names of `ROLES` and `NORMS`, as many of these as the family has.
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
        """Let the maps of `modules` (of "attention", "ffn") collaborate and no others."""
        for role, linear in self.named_children():
            if isinstance(linear, ExpansionLinear):
                linear.set_collaborative(module_of(role) in modules)

    def forward(
        self,
        streams: tuple[Stream, ...],
        *,
        base: nn.Module,
        parallel: bool,
        attention_implementation: str | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Any = None,
        layer_idx: int = 0,
        **kwargs: Any,
    ) -> tuple[Stream, ...]:
        """All streams through base layer and addition; the first of two streams has its W12 masked to zero."""
        masked = [len(streams) == 2 and i == 0 for i in range(len(streams))]
        attended = self._attention(
            streams,
            masked,
            base,
            attention_implementation,
            position_embeddings,
            attention_mask,
            past_key_values,
            layer_idx,
            kwargs,
        )
        outputs = []
        for (x, x_up), a, mask in zip(streams, attended, masked, strict=True):
            if parallel:
                y = self._ffn(Stream(x, x_up), base, mask)
                outputs.append(Stream(y.x + a.x + x, y.x_up + a.x_up + x_up))
            else:
                h = Stream(x + a.x, x_up + a.x_up)
                y = self._ffn(h, base, mask)
                outputs.append(Stream(h.x + y.x, h.x_up + y.x_up))
        return tuple(outputs)

    def _norm(self, role: str, stream: Stream, base: nn.Module) -> Stream:
        """Both halves normalised apart, where the family has this norm."""
        path = self.family.path(role)
        if path is None:
            return stream
        return Stream(base.get_submodule(path)(stream.x), getattr(self, role)(stream.x_up))

    def _linear(self, role: str, stream: Stream, base: nn.Module, masked: bool) -> Stream:
        """Both halves through the widened map that plays `role`."""
        path = self.family.path(role)
        assert path is not None
        return Stream(*getattr(self, role)(*stream, base.get_submodule(path)(stream.x), masked=masked))

    def _attention(
        self,
        streams: tuple[Stream, ...],
        masked: list[bool],
        base: nn.Module,
        attention_implementation: str | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Any,
        layer_idx: int,
        kwargs: dict[str, Any],
    ) -> list[Stream]:
        """The attention block of every stream: normalised, projected, attended and projected back, both halves."""
        attention: Any = base.get_submodule(self.family.attention)
        cos, sin = (t.unsqueeze(1) for t in position_embeddings)
        queries, keys, values = [], [], []  # base and added heads of each stream in turn, (B, H, T, D) each
        for stream, mask in zip(streams, masked, strict=True):
            q, k, v = self._project(self._norm("attention_norm", stream, base), base, mask)
            queries += [apply_rotary(half.transpose(1, 2), cos, sin) for half in q]
            keys += [apply_rotary(half.transpose(1, 2), cos, sin) for half in k]
            values += [half.transpose(1, 2) for half in v]
        if past_key_values is not None:  # one cache: the heads of all streams beside each other
            heads = [k.shape[1] for k in keys]
            key, value = past_key_values.update(torch.cat(keys, dim=1), torch.cat(values, dim=1), layer_idx)
            keys, values = list(key.split(heads, dim=1)), list(value.split(heads, dim=1))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention_implementation or "eager", eager_attention)
        contexts = [
            attend(attention, q, k, v, attention_mask, dropout=0.0, scaling=attention.scaling, **kwargs)[0].flatten(2)
            for q, k, v in zip(queries, keys, values, strict=True)
        ]
        outputs = []
        for i, mask in enumerate(masked):
            projected = self._linear("o", Stream(*contexts[2 * i : 2 * i + 2]), base, mask)
            outputs.append(self._norm("attention_post_norm", projected, base))
        return outputs

    def _project(self, stream: Stream, base: nn.Module, masked: bool) -> list[Stream]:
        """q, k, v of the base's heads and of the added ones, (B, T, H, D) each, from the normalised halves."""
        family, head_dim = self.family, self.head_dim
        if family.qkv is not None:
            fused = base.get_submodule(family.qkv)(stream.x).unflatten(-1, (-1, 3 * head_dim)).chunk(3, dim=-1)
            projected = [
                Stream(*getattr(self, role)(*stream, y, masked=masked)) for role, y in zip("qkv", fused, strict=True)
            ]
        else:
            projected = [self._linear(role, stream, base, masked) for role in "qkv"]
        if family.qk_norm_per_head:
            projected = [self._heads(halves) for halves in projected]
        q, k, v = projected
        normed = [self._norm("q_norm", q, base), self._norm("k_norm", k, base), v]
        return normed if family.qk_norm_per_head else [self._heads(halves) for halves in normed]

    def _heads(self, halves: Stream) -> Stream:
        """Both halves split into heads, (B, T, H, D), where they are not yet."""
        return Stream(*(t if t.dim() == 4 else t.unflatten(-1, (-1, self.head_dim)) for t in halves))

    def _ffn(self, stream: Stream, base: nn.Module, masked: bool) -> Stream:
        """The feed-forward block, both halves, from the residual stream."""
        activation = base.get_submodule(self.family.activation)
        normed = self._norm("ffn_norm", stream, base)
        up = self._linear("up", normed, base, masked)
        if self.family.gate is not None:
            gate = self._linear("gate", normed, base, masked)
            inner = Stream(activation(gate.x) * up.x, activation(gate.x_up) * up.x_up)
        else:
            inner = Stream(activation(up.x), activation(up.x_up))
        return self._norm("ffn_post_norm", self._linear("down", inner, base, masked), base)


def norm_like(norm: nn.Module, size: int) -> nn.Module:
    """A new norm of the same class and epsilon as the base's `norm`, over `size` features."""
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return type(norm)(size, eps=eps)


class Expansion(nn.Module):
    """Everything that widening adds: the parameters that may train."""

    layers: nn.ModuleList
    norm: nn.Module

    def __init__(self, base: nn.Module, family: Family, shape: LayerShape, added: LayerShape, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, added.hidden_size)
        self.layers = nn.ModuleList(ExpansionLayer(layer, family, shape, added) for layer in family.layers_of(base))
        final_norm = family.decoder_of(base).get_submodule(family.final_norm)
        self.norm = norm_like(final_norm, added.hidden_size)
        self.head = nn.Linear(added.hidden_size, vocab_size, bias=False)


DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""The words for which the library places modules itself."""
HUB = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder"}
"""What `from_pretrained` is told about where a checkpoint lies."""


class _Pair(nn.Module):
    """Modules that belong on one device, as children."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)


class ScaleForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM widened by SCALE: frozen base, trainable expansion, and the three methods by configuration.

    Without collaborative layers it is SCALE-Preserve, with them SCALE-Adapt, with a router on top SCALE-Route.
    """

    config_class = ScaleConfig
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "base"]
    _no_split_modules = ["ExpansionLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ScaleConfig) -> None:
        super().__init__(config)
        base_config = config.build_base_config()
        base_config._attn_implementation = config._attn_implementation
        self.family = family_of(base_config.model_type)
        base_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(base_config)]
        self.base = base_class(base_config)
        assert config.expansion is not None
        shape = LayerShape.of(base_config)
        added = LayerShape(**config.expansion, head_dim=shape.head_dim)
        self.expansion = Expansion(self.base, self.family, shape, added, base_config.vocab_size)
        self._apply_collaboration()
        self._freeze_base()
        self.post_init()

    # -- what is frozen ------------------------------------------------------------------------------------------

    def _freeze_base(self) -> None:
        self.base.requires_grad_(False)
        self.base.eval()

    def train(self, mode: bool = True) -> ScaleForCausalLM:
        """Training mode for the expansion; the base stays in eval mode, so its stream has no dropout."""
        super().train(mode)
        self.base.eval()
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the library's; it makes every loaded tensor trainable, so the base is frozen again afterwards.

        device_map: a word such as "auto" puts a base layer and what was added to it on the same device.
        """
        if isinstance(kwargs.get("device_map"), str) and kwargs["device_map"] in DEVICE_MAPS:
            kwargs["device_map"] = cls._paired_device_map(pretrained_model_name_or_path, kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_base()
        return loaded

    @classmethod
    def _paired_device_map(cls, name: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The devices of the model's modules by accelerate's rule, in which base layer and addition count as one."""
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory, get_max_memory

        config = kwargs.get("config")
        if config is None:
            config = cls.config_class.from_pretrained(name, **{key: kwargs[key] for key in HUB & kwargs.keys()})
        with torch.device("meta"):
            model = cls(config)
        decoder, family, expansion = model.family.decoder_of(model.base), model.family, model.expansion
        layers = enumerate(zip(family.layers_of(model.base), expansion.layers, strict=True))
        pairs = {  # names of which none is a part of another, or accelerate takes them for tied
            "embedding": _Pair(decoder.get_submodule(family.embedding), expansion.embedding),
            **{f"layer_{i}": _Pair(*pair) for i, pair in layers},
            "norm": _Pair(
                decoder.get_submodule(family.final_norm), decoder.get_submodule(family.rotary), expansion.norm
            ),
            "head": _Pair(model.base.get_submodule(family.head), expansion.head),
        }
        stand_in = nn.ModuleDict(pairs)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        dtype = config.dtype if dtype in (None, "auto") else dtype
        sizes: dict[str, Any] = {"no_split_module_classes": [_Pair.__name__], "dtype": dtype or torch.float32}
        if kwargs["device_map"] == "sequential":
            memory = get_max_memory(kwargs.get("max_memory"))
        else:
            low_zero = kwargs["device_map"] == "balanced_low_0"
            memory = get_balanced_memory(stand_in, kwargs.get("max_memory"), low_zero=low_zero, **sizes)
        found = infer_auto_device_map(stand_in, memory, **sizes)
        if set(found) == {""}:
            return found
        names = {module: name for name, module in model.named_modules()}
        return {names[module]: found[key] for key, pair in pairs.items() for module in pair.children()}

    # -- the three methods ---------------------------------------------------------------------------------------

    def set_collaboration(
        self, layers: Sequence[int], modules: Sequence[str], *, threshold: float | None = None
    ) -> None:
        """Choose the method: which layers and modules ("attention", "ffn") collaborate, and the router's threshold.

        No layers: SCALE-Preserve. Layers: SCALE-Adapt; new W12 are zero, those already there keep their values.
        Layers and a threshold: SCALE-Route. Raises ValueError for what the configuration refuses.
        """
        config = self.config.to_dict() | {
            "collaborative": {"layers": sorted(layers), "modules": list(modules)},
            "router": None if threshold is None else {"threshold": threshold},
        }
        checked = ScaleConfig.from_dict(config)
        self.config.collaborative, self.config.router = checked.collaborative, checked.router
        self._apply_collaboration()

    def _apply_collaboration(self) -> None:
        collaborative = self.config.collaborative
        for i, layer in enumerate(self.expansion.layers):
            assert isinstance(layer, ExpansionLayer)
            layer.set_collaborative(collaborative["modules"] if i in collaborative["layers"] else ())

    @property
    def _fork(self) -> int:
        """The first layer from which SCALE-Route runs two paths: its first collaborating one."""
        layers = self.config.collaborative["layers"]
        return min(layers) if self.config.router is not None else len(self.expansion.layers)

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ScaleOutput:
        """Next-token logits of the widened model.

        input_ids: (B, T). attention_mask: (B, S) over cached and new tokens, 0 is padding.
        labels: (B, T), -100 is ignored; logits_to_keep: the last n positions, or indices, whose logits are wanted.
        Returns `ScaleOutput` with logits (B, T or kept, vocabulary).
        """
        if input_ids is None or kwargs.pop("inputs_embeds", None) is not None:
            raise ValueError("a widened model has two embeddings: give input_ids, not inputs_embeds")
        decoder, family = self.family.decoder_of(self.base), self.family
        embedding = decoder.get_submodule(family.embedding)
        x, x_up = embedding(input_ids), self.expansion.embedding(input_ids)
        if family.embedding_scale is not None:
            x_up = x_up * embedding.get_buffer(family.embedding_scale).to(x_up.dtype)

        if use_cache is None:
            use_cache = not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(x.shape[1], device=x.device) + seen).unsqueeze(0)
        base_config = self.base.config
        layer_types = family.layer_types(base_config)
        masks: Any = attention_mask
        if not isinstance(masks, dict):  # `generate` makes them itself for a cache of fixed size
            known = {"attention_mask": attention_mask, "past_key_values": past_key_values, "position_ids": position_ids}
            masks = {kind: MASKS[kind](config=base_config, inputs_embeds=x, **known) for kind in set(layer_types)}
        rotary = decoder.get_submodule(family.rotary)
        angles = {kind: rotary(x, position_ids, *([kind] if family.rotary_by_layer_type else [])) for kind in masks}

        streams: tuple[Stream, ...] = (Stream(x, x_up),)
        states = streams if output_hidden_states else ()
        fork, parallel = self._fork, family.is_parallel(base_config)
        layers = zip(self.expansion.layers, family.layers_of(self.base), strict=True)
        for i, (layer, base_layer) in enumerate(layers):
            if i == fork:
                streams = (streams[0], streams[0])
            kind = layer_types[i]
            streams = layer(
                streams,
                base=base_layer,
                parallel=parallel,
                attention_implementation=self.config._attn_implementation,
                position_embeddings=angles[kind],
                attention_mask=masks[kind],
                sliding_window=base_config.sliding_window if kind == "sliding_attention" else None,
                past_key_values=past_key_values,
                layer_idx=i,
                position_ids=position_ids,
                **kwargs,
            )
            states += streams[-1:] if output_hidden_states else ()

        norm = decoder.get_submodule(family.final_norm)
        streams = tuple(Stream(norm(x), self.expansion.norm(x_up)) for x, x_up in streams)
        states = (*states[:-1], *streams[-1:]) if output_hidden_states else ()
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, preserved = self._head(tuple(Stream(x[:, kept], x_up[:, kept]) for x, x_up in streams))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return ScaleOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(s.x for s in states) if output_hidden_states else None,
            expansion_hidden_states=tuple(s.x_up for s in states) if output_hidden_states else None,
            preserved=preserved,
        )

    def _head(self, streams: tuple[Stream, ...]) -> tuple[Tensor, Tensor | None]:
        """Logits of the final normalised streams: Z + Z_up, or eq. 5's choice between two; then the base's soft cap.

        Training SCALE-Route (appendix D) weighs the two losses by a routing decision r that is a constant; as r is 0
        or 1 for each token, that is the loss of the chosen logits, so no other loss is needed.
        """
        head = self.base.get_submodule(self.family.head)
        z = [head(s.x) for s in streams]
        z_up = [self.expansion.head(s.x_up).to(z[0].device) for s in streams]  # a tied head may be on another one
        if len(streams) == 1:
            return self._soft_cap(z[0] + z_up[0]), None
        z_preserve, z_adapt = z
        with torch.no_grad():
            cosine = functional.cosine_similarity(z_preserve.float(), z_adapt.float(), dim=-1)
            preserved = cosine > self.config.router["threshold"]
        routed = torch.where(preserved.unsqueeze(-1), (z_preserve + z_adapt) / 2 + z_up[0], z_adapt + z_up[1])
        return self._soft_cap(routed), preserved

    def _soft_cap(self, logits: Tensor) -> Tensor:
        """c tanh(logits / c) where the base's config sets such a c."""
        name = self.family.logit_softcap
        cap = None if name is None else getattr(self.base.config, name)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    # -- what the library asks of a model --------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """A new expansion that changes no logit: W12, W22 and the added head are zero."""
        if isinstance(module, ExpansionLinear):
            init.normal_(module.w21, mean=0.0, std=self.config.initializer_range)
            init.zeros_(module.w22)
            for zero in (module.bias, module.w12):
                if zero is not None:
                    init.zeros_(zero)
        else:
            super()._init_weights(module)
            if isinstance(module, Expansion):
                init.zeros_(module.head.weight)
            if isinstance(module, Expansion | ExpansionLayer):  # after their norms
                for name, norm in module.named_children():
                    if name in (*NORMS, "norm"):
                        init.constant_(norm.get_parameter("weight"), self.family.norm_neutral)
