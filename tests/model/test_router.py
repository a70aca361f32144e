"""SCALE-Route, eq. 5, against single-path forwards put together by hand for each token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import BASES, probe, tiny_base, widened, without_w12

Tolerance = Callable[[torch.dtype], Any]


def two_logits(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Z and Z_up of a model with one path, from its last hidden states."""
    output = model(tokens, output_hidden_states=True)
    z = output.hidden_states[-1] @ model.base.get_output_embeddings().weight.T
    z_up = output.expansion_hidden_states[-1] @ model.expansion.head.weight.T
    return z, z_up


def capped(model: Any, logits: Tensor) -> Tensor:
    """The logits as Gemma hands them out."""
    cap = getattr(model.config.build_base_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def single_path(model: Any) -> Any:
    """A copy without the router: SCALE-Adapt with the same weights."""
    adapt = copy.deepcopy(model)
    adapt.config.router = None
    return adapt


def routed(name: str, threshold: float) -> Any:
    base = tiny_base(name, dtype=torch.float64)
    return widened(base, layers=(1, 2), modules=("attention", "ffn"), threshold=threshold)


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_each_token_follows_equation_5(name: str, tolerance: Tolerance) -> None:
    tokens = probe(batch=3, length=13)
    model = routed(name, threshold=0.5)
    z_p, z_up_p = two_logits(without_w12(model), tokens)
    z_a, z_up_a = two_logits(single_path(model), tokens)
    cosines = (z_p * z_a).sum(-1) / (z_p.norm(dim=-1) * z_a.norm(dim=-1))
    ordered = cosines.flatten().sort().values
    middle = len(ordered) // 2
    threshold = float((ordered[middle - 1] + ordered[middle]) / 2)  # half of the tokens on each side
    model.config.router = {"threshold": threshold}
    expected = torch.empty_like(z_p)
    for i in range(tokens.shape[0]):
        for t in range(tokens.shape[1]):
            if cosines[i, t] > threshold:
                expected[i, t] = (z_p[i, t] + z_a[i, t]) / 2 + z_up_p[i, t]
            else:
                expected[i, t] = z_a[i, t] + z_up_a[i, t]
    output = model(tokens)
    assert output.preserved is not None
    assert torch.equal(output.preserved, cosines > threshold)
    assert 0 < output.preserved.sum() < output.preserved.numel()
    torch.testing.assert_close(output.logits, capped(model, expected), **tolerance(torch.float64))


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_above_every_cosine_it_is_adapt_and_below_every_one_the_preserve_branch(
    name: str, tolerance: Tolerance
) -> None:
    tokens = probe()
    model = routed(name, threshold=1.5)
    z_p, z_up_p = two_logits(without_w12(model), tokens)
    z_a, z_up_a = two_logits(single_path(model), tokens)
    adapt, preserve = capped(model, z_a + z_up_a), capped(model, (z_p + z_a) / 2 + z_up_p)
    assert not torch.allclose(adapt, preserve, **tolerance(torch.float32))
    torch.testing.assert_close(model(tokens).logits, adapt, **tolerance(torch.float64))
    torch.testing.assert_close(single_path(model)(tokens).logits, adapt, **tolerance(torch.float64))
    model.config.router = {"threshold": -1.5}
    torch.testing.assert_close(model(tokens).logits, preserve, **tolerance(torch.float64))


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_before_training_it_is_the_base(name: str) -> None:
    base, tokens = tiny_base(name), probe()
    model = widened(base)
    torch.nn.init.zeros_(model.expansion.head.weight)
    model.set_collaboration((1, 2), ("attention",), threshold=0.5)
    output = model(tokens)
    assert output.preserved.all()
    assert torch.equal(output.logits, base(tokens).logits)
    torch.nn.init.normal_(model.expansion.layers[1].o.w12)
    assert not torch.equal(model(tokens).logits, base(tokens).logits)


@pytest.mark.parametrize(("gradients", "pieces"), [(True, [1, 2, 2]), (False, [1, 1, 1])])
def test_both_paths_are_the_same_below_the_fork(gradients: bool, pieces: list[int]) -> None:
    """Above it the base's half is apart where one of them has a graph, and in one piece where none has."""
    model = routed("llama", threshold=0.5)
    found: list[tuple[int, int]] = []
    for layer in model.expansion.layers:
        layer.register_forward_hook(lambda module, args, out: found.append((len(out[:-1]), len(out[-1]))))
    with torch.set_grad_enabled(gradients):
        model(probe(batch=3))
    assert found == list(zip(pieces, [3, 6, 6], strict=True))


def test_the_routing_decision_passes_no_gradient() -> None:
    tokens = probe()
    model = routed("llama", threshold=1.5)
    model(tokens).logits.sum().backward()
    adapt = single_path(model)
    adapt.zero_grad()
    adapt(tokens).logits.sum().backward()
    for (name, a), b in zip(model.named_parameters(), adapt.parameters(), strict=True):
        if name.startswith("expansion."):
            assert b.grad is not None, name
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8)


def test_set_collaboration_keeps_w12_that_are_there_and_drops_the_others() -> None:
    model = widened(tiny_base("llama"), layers=(1, 2), modules=("attention",))
    kept = model.expansion.layers[2].q.w12.clone()
    model.set_collaboration((2,), ("attention", "ffn"))
    assert model.expansion.layers[1].q.w12 is None
    assert torch.equal(model.expansion.layers[2].q.w12, kept)
    assert torch.equal(model.expansion.layers[2].gate.w12, torch.zeros(48, 6))
    assert model.config.collaborative == {"layers": [2], "modules": ["attention", "ffn"]}
    for layers, modules, threshold in (((3,), ("attention",), None), ((1,), ("norm",), None), ((), (), 0.5)):
        with pytest.raises(ValueError, match="layers"):
            model.set_collaboration(layers, modules, threshold=threshold)
    assert model.config.collaborative == {"layers": [2], "modules": ["attention", "ffn"]}
