"""Model families as data: the module of a Hugging Face causal LM that plays each role.

A new family is a new entry here and a parity test; the forward in `modeling_scale.py` and `layer.py` stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""The linear maps of a decoder layer, by role. `gate` exists only in gated feed-forwards."""
NORMS = ("attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm", "q_norm", "k_norm")
"""The norms of a decoder layer, by role: before and after each block, and of queries and keys. A family has some."""
ATTENTION_ROLES = ("q", "k", "v", "o")
FFN_ROLES = ("gate", "up", "down")
MODULES = ("attention", "ffn")
"""The two groups of maps that can collaborate (train W12), as named in a checkpoint's config."""


@dataclass(frozen=True)
class Family:
    """The paths of one family's modules, and its rules.

    Paths of `decoder` and `head` start at the causal LM, those of `embedding`, `layers`, `final_norm` and `rotary` at
    the decoder, and all others at a decoder layer.
    """

    model_type: str
    decoder: str
    embedding: str
    attention: str
    """The attention module, whose attributes the attention interface reads (group size, causality)."""
    o: str
    up: str
    down: str
    activation: str
    q: str | None = None
    k: str | None = None
    v: str | None = None
    qkv: str | None = None
    """A fused q/k/v map with an output of (heads, [q k v], head_dim), as in GPT-NeoX."""
    q_norm: str | None = None
    k_norm: str | None = None
    qk_norm_per_head: bool = True
    """Queries and keys are normalised head by head; False: over all heads at once. Read only with `q_norm`."""
    gate: str | None = None
    """Gated feed-forward, `down(act(gate(x)) * up(x))`; None: plain feed-forward, `down(act(up(x)))`."""
    layers: str = "layers"
    final_norm: str = "norm"
    rotary: str = "rotary_emb"
    head: str = "lm_head"
    attention_norm: str | None = "input_layernorm"
    """The norm of the attention block's input; None if only its output is normalised."""
    attention_post_norm: str | None = None
    """The norm of the attention block's output, before it is added to the hidden state."""
    ffn_norm: str | None = "post_attention_layernorm"
    ffn_post_norm: str | None = None
    norm_neutral: float = 1.0
    """The weight with which a norm of this family scales by 1: the initial weight of a new norm."""
    embedding_scale: str | None = None
    """The buffer of the embedding by which it scales its output."""
    logit_softcap: str | None = None
    """The config's entry c for logits c tanh(z / c), if it is set."""
    sliding_layers: Literal["none", "all", "listed"] = "none"
    """The layers that attend to the last `sliding_window` tokens only, if the config sets it; "listed": by the config's
    layer_types."""
    rotary_by_layer_type: bool = False
    """The rotary module takes the layer's type as an argument, because each type has angles of its own."""
    parallel_residual: str | None = None
    """The config's flag for attention and feed-forward reading the same hidden state; None: they never do."""

    def is_parallel(self, config: Any) -> bool:
        """Whether attention and feed-forward read the same hidden state in this config."""
        return self.parallel_residual is not None and bool(getattr(config, self.parallel_residual))

    def layer_types(self, config: Any) -> list[str]:
        """The kind of attention in each layer, "full_attention" or "sliding_attention"."""
        if self.sliding_layers == "listed":
            return list(config.layer_types)
        sliding = self.sliding_layers == "all" and config.sliding_window is not None
        return ["sliding_attention" if sliding else "full_attention"] * config.num_hidden_layers

    def path(self, role: str) -> str | None:
        """The path of a role's linear map or norm below a layer; for fused q, k and v the path of the fused map."""
        own: str | None = getattr(self, role)
        return self.qkv if own is None and role in ("q", "k", "v") else own

    def linear_paths(self) -> tuple[str, ...]:
        """The paths of a layer's linear maps, a fused map once. LoRA adapts these."""
        return tuple(dict.fromkeys(path for role in ROLES if (path := self.path(role)) is not None))

    def decoder_of(self, model: nn.Module) -> nn.Module:
        """The decoder below the causal LM `model`."""
        return model.get_submodule(self.decoder)

    def layers_of(self, model: nn.Module) -> list[nn.Module]:
        """The decoder layers of the causal LM `model`, bottom first."""
        return list(self.decoder_of(model).get_submodule(self.layers).children())


_LLAMA = Family(
    model_type="llama",
    decoder="model",
    embedding="embed_tokens",
    attention="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    activation="mlp.act_fn",
)
"""Llama 2 and 3, SmolLM2. Most other families are described by their differences from it."""
_QK_NORMED = replace(_LLAMA, q_norm="self_attn.q_norm", k_norm="self_attn.k_norm")

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        _LLAMA,
        replace(_LLAMA, model_type="mistral", sliding_layers="all"),
        replace(_LLAMA, model_type="qwen2", sliding_layers="listed"),
        replace(_QK_NORMED, model_type="qwen3", sliding_layers="listed"),
        replace(
            _QK_NORMED,
            model_type="olmo2",
            qk_norm_per_head=False,
            attention_norm=None,
            attention_post_norm="post_attention_layernorm",
            ffn_norm=None,
            ffn_post_norm="post_feedforward_layernorm",
        ),
        replace(
            _QK_NORMED,
            model_type="gemma3_text",
            attention_post_norm="post_attention_layernorm",
            ffn_norm="pre_feedforward_layernorm",
            ffn_post_norm="post_feedforward_layernorm",
            norm_neutral=0.0,
            embedding_scale="embed_scale",
            logit_softcap="final_logit_softcapping",
            sliding_layers="listed",
            rotary_by_layer_type=True,
        ),
        Family(
            model_type="gpt_neox",
            decoder="gpt_neox",
            embedding="embed_in",
            attention="attention",
            qkv="attention.query_key_value",
            o="attention.dense",
            up="mlp.dense_h_to_4h",
            down="mlp.dense_4h_to_h",
            activation="mlp.act",
            final_norm="final_layer_norm",
            parallel_residual="use_parallel_residual",
        ),
    )
}


def family_of(model_type: str) -> Family:
    """The family of a Hugging Face `model_type`. Raises ValueError, which lists the supported ones."""
    if model_type not in FAMILIES:
        raise ValueError(f"model type {model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a decoder's linear maps, as a config gives them.

    `num_key_value_groups` query heads share one key/value head.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> LayerShape:
        """The shape that a Hugging Face config describes. Nothing is loaded."""
        heads = config.num_attention_heads
        return cls(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=heads,
            num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )

    @property
    def num_key_value_groups(self) -> int:
        return self.num_attention_heads // self.num_key_value_heads

    def norm_features(self, role: str, family: Family) -> int:
        """The number of features that a norm of `NORMS` normalises."""
        if role not in ("q_norm", "k_norm"):
            return self.hidden_size
        return self.head_dim if family.qk_norm_per_head else self.features(role[0])[0]

    def features(self, role: str) -> tuple[int, int]:
        """(out_features, in_features) of the linear map that plays `role`."""
        attention = self.num_attention_heads * self.head_dim
        key_value = self.num_key_value_heads * self.head_dim
        return {
            "q": (attention, self.hidden_size),
            "k": (key_value, self.hidden_size),
            "v": (key_value, self.hidden_size),
            "o": (self.hidden_size, attention),
            "gate": (self.intermediate_size, self.hidden_size),
            "up": (self.intermediate_size, self.hidden_size),
            "down": (self.hidden_size, self.intermediate_size),
        }[role]


def split_fused_rows(tensor: Any, shape: LayerShape) -> Iterator[Any]:
    """The q, k and v rows of a fused GPT-NeoX weight (3 * heads * head_dim, in) or bias (3 * heads * head_dim,).

    Yields three tensors of heads * head_dim rows each, copies in head order.
    """
    per_head = tensor.unflatten(0, (shape.num_attention_heads, 3, shape.head_dim))
    for part in range(3):
        yield per_head[:, part].flatten(0, 1).contiguous()


def module_of(role: str) -> str:
    """The group of `MODULES` to which a role belongs."""
    return "attention" if role in ATTENTION_ROLES else "ffn"


def fused_features(family: Family, shape: LayerShape) -> list[tuple[int, int]]:
    """(out_features, in_features) of each linear map of a layer, a fused map once, in the order of `linear_paths`."""
    features = []
    for path in family.linear_paths():
        parts = [shape.features(role) for role in ROLES if family.path(role) == path]
        features.append((sum(out for out, _ in parts), parts[0][1]))
    return features


def lora_parameters(family: Family, shape: LayerShape, num_layers: int) -> int:
    """The parameters of a LoRA of rank 1 on every linear map: the sum of in + out features, a fused map once."""
    return num_layers * sum(map(sum, fused_features(family, shape)))


def group_ends(layers: int, groups: int) -> list[int]:
    """The indices of the last layers of `groups` groups of consecutive layers, from the bottom.

    Group j ends at layer floor((j + 1) layers / groups) - 1. LLaMA Pro (arXiv 2401.02415) copies these layers.
    """
    return [(j + 1) * layers // groups - 1 for j in range(groups)]


def without_layers(model: Any, layers: Sequence[int]) -> Any:
    """Remove these decoder layers from the model, in place."""
    if layers:
        family, config = family_of(model.config.model_type), model.config
        kept = [i for i in range(config.num_hidden_layers) if i not in layers]
        blocks = family.layers_of(model)
        setattr(family.decoder_of(model), family.layers, nn.ModuleList(blocks[i] for i in kept))
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[i] for i in kept]
        config.num_hidden_layers = len(kept)
    return model
