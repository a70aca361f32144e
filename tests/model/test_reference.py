"""The two-stream forward against a reference written from the paper: plain matrices [[W, W12], [W21, W22]] on the
concatenated vector, one token sequence, loops over heads and positions, no code of the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import BASES, probe, tiny_base, widened

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
LLAMA = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NEOX = {"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"}
COLLABORATIVE: dict[str, dict[str, Any]] = {
    "preserve": {},
    "everywhere": {"layers": (0, 1, 2), "modules": ("attention", "ffn")},
    "attention": {"layers": (1,), "modules": ("attention",)},
    "ffn": {"layers": (0, 2), "modules": ("ffn",)},
}
Tolerance = Callable[[torch.dtype], Any]


class Reference:
    """The widened model as dense algebra, in float64. Without `split_norms` it norms the whole vector at once."""

    def __init__(self, model: Any, *, split_norms: bool = True) -> None:
        self.config = model.config.build_base_config()
        self.weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.type = self.config.model_type
        self.neox = self.type == "gpt_neox"
        self.split_norms = split_norms
        self.hidden = self.config.hidden_size
        self.heads = self.config.num_attention_heads
        self.head_dim = getattr(self.config, "head_dim", None) or self.hidden // self.heads
        self.group = self.heads // getattr(self.config, "num_key_value_heads", self.heads)

    def logits(self, tokens: Tensor) -> Tensor:
        """(T,) -> (T, vocabulary)."""
        w, decoder = self.weights, "base.gpt_neox." if self.neox else "base.model."
        embedding = w[f"{decoder}{'embed_in' if self.neox else 'embed_tokens'}.weight"]
        h = torch.cat([embedding, w["expansion.embedding.weight"]], dim=1)[tokens]
        if self.type == "gemma3_text":
            h = h * self.hidden**0.5
        for layer in range(self.config.num_hidden_layers):
            h = self.layer(h, layer, f"{decoder}layers.{layer}.", f"expansion.layers.{layer}.")
        h = self.norm(h, f"{decoder}{'final_layer_norm' if self.neox else 'norm'}", "expansion.norm")
        head = torch.cat([w["base.lm_head.weight"], w["expansion.head.weight"]], dim=1)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return h @ head.T if cap is None else cap * torch.tanh(h @ head.T / cap)

    def layer(self, h: Tensor, index: int, base: str, added: str) -> Tensor:
        def norm(t: Tensor, name: str, own: str) -> Tensor:
            return self.norm(t, f"{base}{name}", f"{added}{own}")

        if self.type == "olmo2":  # only what leaves a block is normalised
            h = h + norm(self.attention(h, index, base, added), "post_attention_layernorm", "attention_post_norm")
            return h + norm(self.ffn(h, base, added), "post_feedforward_layernorm", "ffn_post_norm")
        attended = self.attention(norm(h, "input_layernorm", "attention_norm"), index, base, added)
        if self.type == "gemma3_text":  # what enters and what leaves
            h = h + norm(attended, "post_attention_layernorm", "attention_post_norm")
            transformed = self.ffn(norm(h, "pre_feedforward_layernorm", "ffn_norm"), base, added)
            return h + norm(transformed, "post_feedforward_layernorm", "ffn_post_norm")
        if self.neox and self.config.use_parallel_residual:
            return h + attended + self.ffn(norm(h, "post_attention_layernorm", "ffn_norm"), base, added)
        h = h + attended
        return h + self.ffn(norm(h, "post_attention_layernorm", "ffn_norm"), base, added)

    def linear(self, h: Tensor, role: str, base: str, added: str) -> Tensor:
        weight, bias = self.base_map(role, base)
        w12 = self.weights.get(f"{added}{role}.w12")
        w21, w22 = self.weights[f"{added}{role}.w21"], self.weights[f"{added}{role}.w22"]
        if w12 is None:
            w12 = weight.new_zeros(weight.shape[0], w22.shape[1])
        dense = torch.cat([torch.cat([weight, w12], dim=1), torch.cat([w21, w22], dim=1)])
        y = h @ dense.T
        if bias is not None:
            y = y + torch.cat([bias, self.weights[f"{added}{role}.bias"]])
        return y

    def base_map(self, role: str, base: str) -> tuple[Tensor, Tensor | None]:
        if not self.neox or role in NEOX:
            path = base + (NEOX if self.neox else LLAMA)[role]
            return self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias")
        d, part = self.head_dim, "qkv".index(role)
        rows = [head * 3 * d + part * d + i for head in range(self.heads) for i in range(d)]
        path = f"{base}attention.query_key_value"
        bias = self.weights.get(f"{path}.bias")
        return self.weights[f"{path}.weight"][rows], None if bias is None else bias[rows]

    def norm(self, h: Tensor, base: str, added: str) -> Tensor:
        """The norm of h (T, features), of which as many are the base's as its gain has."""
        own = len(self.weights[f"{base}.weight"])
        parts = [h[:, :own], h[:, own:]] if self.split_norms else [h]
        h = torch.cat([self.standardise(part) for part in parts], dim=1)
        h = h * self.gain(torch.cat([self.weights[f"{base}.weight"], self.weights[f"{added}.weight"]]))
        if self.neox:
            h = h + torch.cat([self.weights[f"{base}.bias"], self.weights[f"{added}.bias"]])
        return h

    def gain(self, weight: Tensor) -> Tensor:
        return 1 + weight if self.type == "gemma3_text" else weight

    def standardise(self, h: Tensor) -> Tensor:
        if self.neox:
            h = h - h.mean(dim=1, keepdim=True)
            return h / (h.pow(2).mean(dim=1, keepdim=True) + self.config.layer_norm_eps).sqrt()
        return h / (h.pow(2).mean(dim=1, keepdim=True) + self.config.rms_norm_eps).sqrt()

    def rotate(self, head: Tensor, kind: str) -> Tensor:
        """The rotary embedding of one head, (T, D), as a rotation of the pairs (i, i + rotated / 2)."""
        parameters = self.config.rope_parameters
        parameters = parameters[kind] if self.type == "gemma3_text" else parameters
        rotated = int(self.head_dim * parameters.get("partial_rotary_factor", 1.0))
        half = rotated // 2
        frequency = parameters["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        if parameters["rope_type"] == "llama3":  # long waves slower by the factor, in between interpolated
            turns = parameters["original_max_position_embeddings"] * frequency / (2 * math.pi)
            low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
            smooth = ((turns - low) / (high - low)).clamp(0, 1)
            frequency = (1 - smooth) * frequency / parameters["factor"] + smooth * frequency
        angle = torch.arange(len(head), dtype=torch.float64)[:, None] * frequency
        turned = torch.complex(head[:, :half], head[:, half:rotated]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag, head[:, rotated:]], dim=1)

    def attention(self, h: Tensor, index: int, base: str, added: str) -> Tensor:
        q, k, v = (self.linear(h, role, base, added) for role in "qkv")
        if self.type == "olmo2":
            q = self.norm(q, f"{base}self_attn.q_norm", f"{added}q_norm")
            k = self.norm(k, f"{base}self_attn.k_norm", f"{added}k_norm")
        queries, keys, values = (t.split(self.head_dim, dim=1) for t in (q, k, v))
        if self.type in ("qwen3", "gemma3_text"):
            queries = self.norm_heads(queries, self.heads, f"{base}self_attn.q_norm", f"{added}q_norm")
            keys = self.norm_heads(keys, self.heads // self.group, f"{base}self_attn.k_norm", f"{added}k_norm")
        window, kind = self.window(index)
        scale = getattr(self.config, "query_pre_attn_scalar", self.head_dim) ** -0.5
        contexts = []
        for i, query in enumerate(queries):
            query, key, value = (
                self.rotate(query, kind),
                self.rotate(keys[i // self.group], kind),
                values[i // self.group],
            )
            rows = []
            for t in range(len(h)):
                seen = slice(max(0, t + 1 - window), t + 1)
                rows.append((key[seen] @ query[t] * scale).softmax(dim=0) @ value[seen])
            contexts.append(torch.stack(rows))
        return self.linear(torch.cat(contexts, dim=1), "o", base, added)

    def norm_heads(self, heads: tuple[Tensor, ...], own: int, base: str, added: str) -> tuple[Tensor, ...]:
        gains = [self.gain(self.weights[f"{name}.weight"]) for name in (base, added)]
        return tuple(self.standardise(head) * gains[i >= own] for i, head in enumerate(heads))

    def window(self, index: int) -> tuple[int, str]:
        """How many tokens a token of this layer sees, itself included, and the kind of the layer."""
        types = {
            "mistral": ["sliding_attention"] * 3,
            "qwen2": ["full_attention"] * 2 + ["sliding_attention"],
            "gemma3_text": ["sliding_attention", "full_attention", "sliding_attention"],
        }.get(self.type, ["full_attention"] * 3)
        return (5 if types[index] == "sliding_attention" else 1_000_000), types[index]

    def ffn(self, h: Tensor, base: str, added: str) -> Tensor:
        up = self.linear(h, "up", base, added)
        if self.neox:
            inner = up * (1 + torch.erf(up / math.sqrt(2))) / 2
        else:
            gate = self.linear(h, "gate", base, added)
            if self.type == "gemma3_text":  # the approximation of GELU by tanh
                inner = gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2 * up
            else:
                inner = gate * gate.sigmoid() * up
        return self.linear(inner, "down", base, added)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *((name, "everywhere") for name in BASES),
        *((name, where) for name in ("llama-grouped", "neox") for where in ("preserve", "attention", "ffn")),
    ],
)
def test_forward_is_the_dense_algebra(name: str, where: str, tolerance: Tolerance) -> None:
    model = widened(tiny_base(name, dtype=torch.float64), **COLLABORATIVE[where])
    tokens = probe()
    expected = torch.stack([Reference(model).logits(row) for row in tokens])
    with torch.no_grad():
        found = model(tokens).logits
    # The library computes rotary angles and Llama's norms in float32 whatever the model's dtype.
    torch.testing.assert_close(found, expected, **tolerance(torch.float32))


def test_float64_is_exact_where_the_library_computes_in_it(tolerance: Tolerance) -> None:
    """At the first position rotary angles are zero, and GPT-NeoX's norms keep float64: only the algebra is left."""
    model = widened(tiny_base("neox", dtype=torch.float64), **COLLABORATIVE["everywhere"])
    tokens = probe(batch=4, length=1)
    expected = torch.stack([Reference(model).logits(row) for row in tokens])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected, **tolerance(torch.float64))


@pytest.mark.parametrize("name", ["llama-biased", "neox"])
@pytest.mark.parametrize("part", ["w12", "w21", "w22", "bias"])
def test_every_added_matrix_counts(name: str, part: str, tolerance: Tolerance) -> None:
    model = widened(tiny_base(name, dtype=torch.float64), **COLLABORATIVE["everywhere"])
    reference, tokens = Reference(model), probe()[0]
    with torch.no_grad():
        found = model(tokens[None]).logits[0]
    for role in ROLES:
        tensor = reference.weights.get(f"expansion.layers.1.{role}.{part}")
        if tensor is None or (role, part) == ("k", "bias"):  # the softmax does not see what all keys share
            assert role in ("gate", "k")
            continue
        kept = tensor.clone()
        tensor.zero_()
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found, reference.logits(tokens), **tolerance(torch.float32))
        tensor.copy_(kept)
    torch.testing.assert_close(found, reference.logits(tokens), **tolerance(torch.float32))


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_one_norm_over_both_halves_is_seen(name: str, tolerance: Tolerance) -> None:
    base = tiny_base(name, dtype=torch.float64)
    model = widened(base)
    torch.nn.init.zeros_(model.expansion.head.weight)
    tokens = probe()[0]
    with torch.no_grad():
        expected = base(tokens[None]).logits[0]
    torch.testing.assert_close(Reference(model).logits(tokens), expected, **tolerance(torch.float32))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            Reference(model, split_norms=False).logits(tokens), expected, **tolerance(torch.float32)
        )
