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
Tolerance = Callable[[torch.dtype], Any]


class Reference:
    """The widened model as dense algebra, in float64. Without `split_norms` it norms the whole vector at once."""

    def __init__(self, model: Any, *, split_norms: bool = True) -> None:
        self.config = model.config.build_base_config()
        self.weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.llama = self.config.model_type == "llama"
        self.split_norms = split_norms
        self.hidden = self.config.hidden_size
        self.heads = self.config.num_attention_heads
        self.head_dim = getattr(self.config, "head_dim", None) or self.hidden // self.heads
        self.group = self.heads // getattr(self.config, "num_key_value_heads", self.heads)

    def logits(self, tokens: Tensor) -> Tensor:
        """(T,) -> (T, vocabulary)."""
        w, decoder = self.weights, "base.model." if self.llama else "base.gpt_neox."
        embedding = w[f"{decoder}{'embed_tokens' if self.llama else 'embed_in'}.weight"]
        h = torch.cat([embedding, w["expansion.embedding.weight"]], dim=1)[tokens]
        for layer in range(self.config.num_hidden_layers):
            base, added = f"{decoder}layers.{layer}.", f"expansion.layers.{layer}."
            normed = self.norm(h, f"{base}input_layernorm", f"{added}attention_norm")
            if not self.llama and self.config.use_parallel_residual:
                attended = self.attention(normed, base, added)
                h = (
                    h
                    + attended
                    + self.ffn(self.norm(h, f"{base}post_attention_layernorm", f"{added}ffn_norm"), base, added)
                )
            else:
                h = h + self.attention(normed, base, added)
                h = h + self.ffn(self.norm(h, f"{base}post_attention_layernorm", f"{added}ffn_norm"), base, added)
        h = self.norm(h, f"{decoder}{'norm' if self.llama else 'final_layer_norm'}", "expansion.norm")
        head = torch.cat([w["base.lm_head.weight"], w["expansion.head.weight"]], dim=1)
        return h @ head.T

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
        if self.llama or role in NEOX:
            path = base + (LLAMA if self.llama else NEOX)[role]
            return self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias")
        d, part = self.head_dim, "qkv".index(role)
        rows = [head * 3 * d + part * d + i for head in range(self.heads) for i in range(d)]
        path = f"{base}attention.query_key_value"
        bias = self.weights.get(f"{path}.bias")
        return self.weights[f"{path}.weight"][rows], None if bias is None else bias[rows]

    def norm(self, h: Tensor, base: str, added: str) -> Tensor:
        if not self.split_norms:
            return self.affine(self.standardise(h), base, added)
        parts = [self.standardise(h[:, : self.hidden]), self.standardise(h[:, self.hidden :])]
        return self.affine(torch.cat(parts, dim=1), base, added)

    def standardise(self, h: Tensor) -> Tensor:
        if self.llama:
            return h / (h.pow(2).mean(dim=1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        h = h - h.mean(dim=1, keepdim=True)
        return h / (h.pow(2).mean(dim=1, keepdim=True) + self.config.layer_norm_eps).sqrt()

    def affine(self, h: Tensor, base: str, added: str) -> Tensor:
        h = h * torch.cat([self.weights[f"{base}.weight"], self.weights[f"{added}.weight"]])
        if not self.llama:
            h = h + torch.cat([self.weights[f"{base}.bias"], self.weights[f"{added}.bias"]])
        return h

    def rotate(self, head: Tensor) -> Tensor:
        """The rotary embedding of one head, (T, D), as a rotation of the pairs (i, i + rotated / 2)."""
        parameters = self.config.rope_parameters
        rotated = int(self.head_dim * parameters.get("partial_rotary_factor", 1.0))
        half = rotated // 2
        frequency = parameters["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(len(head), dtype=torch.float64)[:, None] * frequency
        turned = torch.complex(head[:, :half], head[:, half:rotated]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag, head[:, rotated:]], dim=1)

    def attention(self, h: Tensor, base: str, added: str) -> Tensor:
        q, k, v = (self.linear(h, role, base, added).split(self.head_dim, dim=1) for role in "qkv")
        contexts = []
        for i, query in enumerate(q):
            query, key, value = self.rotate(query), self.rotate(k[i // self.group]), v[i // self.group]
            rows = []
            for t in range(len(h)):
                scores = key[: t + 1] @ query[t] / math.sqrt(self.head_dim)
                rows.append(scores.softmax(dim=0) @ value[: t + 1])
            contexts.append(torch.stack(rows))
        return self.linear(torch.cat(contexts, dim=1), "o", base, added)

    def ffn(self, h: Tensor, base: str, added: str) -> Tensor:
        up = self.linear(h, "up", base, added)
        if self.llama:
            gate = self.linear(h, "gate", base, added)
            inner = gate * gate.sigmoid() * up
        else:
            inner = up * (1 + torch.erf(up / math.sqrt(2))) / 2
        return self.linear(inner, "down", base, added)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(
    ("layers", "modules"),
    [((), ()), ((0, 1, 2), ("attention", "ffn")), ((1,), ("attention",)), ((0, 2), ("ffn",))],
    ids=["preserve", "everywhere", "attention", "ffn"],
)
def test_forward_is_the_dense_algebra(
    name: str, layers: tuple[int, ...], modules: tuple[str, ...], tolerance: Tolerance
) -> None:
    model = widened(tiny_base(name, dtype=torch.float64), layers=layers, modules=modules)
    tokens = probe()
    expected = torch.stack([Reference(model).logits(row) for row in tokens])
    with torch.no_grad():
        found = model(tokens).logits
    # The library computes rotary angles and Llama's norms in float32 whatever the model's dtype.
    torch.testing.assert_close(found, expected, **tolerance(torch.float32))


def test_float64_is_exact_where_the_library_computes_in_it(tolerance: Tolerance) -> None:
    """At the first position rotary angles are zero, and GPT-NeoX's norms keep float64: only the algebra is left."""
    model = widened(tiny_base("neox", dtype=torch.float64), layers=(0, 1, 2), modules=("attention", "ffn"))
    tokens = probe(batch=4, length=1)
    expected = torch.stack([Reference(model).logits(row) for row in tokens])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected, **tolerance(torch.float64))


@pytest.mark.parametrize("name", ["llama-biased", "neox"])
@pytest.mark.parametrize("part", ["w12", "w21", "w22", "bias"])
def test_every_added_matrix_counts(name: str, part: str, tolerance: Tolerance) -> None:
    model = widened(tiny_base(name, dtype=torch.float64), layers=(0, 1, 2), modules=("attention", "ffn"))
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
