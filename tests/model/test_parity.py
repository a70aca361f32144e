"""A widened model whose added head is zero against the family's own class, in float32 on a CPU.

With sdpa to the last bit. Eager attention is matrix products whose rounding depends on how keys lie in memory, and ours
lie in one cache with those of the added heads: there to the tolerance.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TOLERANCE
from tests.helpers import BASES, probe, tiny_base, widened

ATTENTION = ("sdpa", "eager")


def both(name: str, attention: str = "sdpa") -> tuple[Any, Any]:
    """A base and the same base widened: every added value random but the head, which is zero."""
    base = tiny_base(name)
    model = widened(base)
    nn.init.zeros_(model.expansion.head.weight)
    for one in (base, model):
        one.set_attn_implementation(attention)
    return base, model


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Three sequences of 11, 8 and 4 tokens and their mask, (3, 11) each."""
    tokens, mask = probe(batch=3), torch.ones(3, 11, dtype=torch.long)
    for row, absent in enumerate((0, 3, 7)):
        mask[row, slice(0, absent) if side == "left" else slice(11 - absent, 11)] = 0
    return tokens, mask


def assert_same(found: Tensor, expected: Tensor, attention: str) -> None:
    if attention == "sdpa":
        assert torch.equal(found, expected)
    else:
        near: Any = TOLERANCE[torch.float32]
        torch.testing.assert_close(found, expected, **near)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_logits_states_and_loss(name: str, attention: str) -> None:
    base, model = both(name, attention)
    tokens = probe()
    expected = base(tokens, labels=tokens, output_hidden_states=True)
    found = model(tokens, labels=tokens, output_hidden_states=True)
    assert_same(found.logits, expected.logits, attention)
    assert_same(found.loss, expected.loss, attention)
    for a, b in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert_same(a, b, attention)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(("attention", "side"), [("sdpa", "left"), ("eager", "right")])
@torch.no_grad()
def test_padding(name: str, attention: str, side: str) -> None:
    base, model = both(name, attention)
    tokens, mask = padded(side)
    expected, found = (one(tokens, attention_mask=mask).logits[mask.bool()] for one in (base, model))
    assert_same(found, expected, attention)
    assert not torch.equal(found, model(tokens).logits[mask.bool()]) or side == "right"


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_a_mask_and_positions_of_ones_own(name: str, attention: str) -> None:
    """Two documents packed into one sequence: the mask is block-diagonal, positions start again."""
    base, model = both(name, attention)
    tokens = probe(batch=1)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]])
    document = (torch.arange(11) >= 5).long()
    seen = (document[:, None] == document) & (torch.arange(11)[:, None] >= torch.arange(11))
    mask = torch.zeros(1, 1, 11, 11).masked_fill(~seen, torch.finfo(torch.float32).min)
    expected, found = (one(tokens, attention_mask=mask, position_ids=positions).logits for one in (base, model))
    assert_same(found, expected, attention)
    assert not torch.equal(found[:, 5:], model(tokens).logits[:, 5:])


@pytest.mark.parametrize(
    ("name", "cache"), [*((name, "static") for name in BASES), ("llama-grouped", "dynamic"), ("gemma3", "dynamic")]
)
@torch.no_grad()
def test_generation_from_a_cache(name: str, cache: str) -> None:
    base, model = both(name)
    tokens, mask = padded("left")
    greedy: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    greedy |= {"cache_implementation": cache, "disable_compile": True}
    expected, found = (one.generate(tokens, attention_mask=mask, **greedy) for one in (base, model))
    assert found.shape == (3, 20)
    assert torch.equal(found, expected)
    assert len(set(found[:, 11:].flatten().tolist())) > 2


@torch.no_grad()
def test_a_head_that_is_not_zero_is_seen() -> None:
    base, model = both("llama")
    model.expansion.head.weight[0, 0] = 1e-3
    assert not torch.equal(model(probe()).logits, base(probe()).logits)
