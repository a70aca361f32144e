"""What training cannot change: the base's tensors, and under preserve the base's half of every hidden state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scale_cli.methods.step import recompute_activations
from tests.helpers import BASES, CASES, WIDENED, probe, tiny_base, widened


def train(model: Any, *, steps: int = 3) -> None:
    """Steps of AdamW with weight decay over whatever requires a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(steps):
        tokens = probe(seed=100 + step)
        model(tokens, labels=tokens).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


def half_states(model: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(tokens, output_hidden_states=True).hidden_states


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("name", "method"), CASES)
def test_training_leaves_every_pretrained_tensor(name: str, method: str) -> None:
    base = tiny_base(name)
    model = widened(base, **WIDENED[method])
    before = copy.deepcopy(model.state_dict())
    train(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith("base."), key
    assert all(parameter.grad is None for parameter in model.base.parameters())
    for key, tensor in base.state_dict().items():
        assert torch.equal(after[f"base.{key}"], tensor)


def test_a_base_that_trains_would_be_seen() -> None:
    model = widened(tiny_base("llama"))
    before = copy.deepcopy(model.state_dict())
    model.base.requires_grad_(True)
    train(model, steps=1)
    assert any(not torch.equal(before[key], t) for key, t in model.state_dict().items() if key.startswith("base."))


@pytest.mark.parametrize("name", BASES)
def test_preserve_keeps_the_base_half_of_every_hidden_state(name: str) -> None:
    base, tokens = tiny_base(name), probe()
    model = widened(base)
    train(model)
    expected = half_states(base, tokens)
    assert len(expected) == base.config.num_hidden_layers + 1
    assert same(half_states(model, tokens), expected)


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_a_collaborating_layer_changes_the_states_above_it_and_none_below(name: str) -> None:
    base, tokens = tiny_base(name), probe()
    model = widened(base, layers=(1,), modules=("attention",))
    expected, found = half_states(base, tokens), half_states(model, tokens)
    assert [torch.equal(a, b) for a, b in zip(expected, found, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize("method", WIDENED)
@pytest.mark.parametrize("name", ["llama-grouped", "neox"])
def test_no_graph_for_the_base_below_the_first_collaborating_layer(name: str, method: str) -> None:
    model = widened(tiny_base(name), **WIDENED[method]).train()
    has_graph: list[list[bool]] = []
    for layer in model.expansion.layers:
        layer.register_forward_hook(
            lambda module, args, streams: has_graph.append([x.grad_fn is not None for x in streams[:-1]])
        )
    tokens = probe()
    model(tokens, labels=tokens).loss.backward()
    expected = {
        "preserve": [[False], [False], [False]],
        "adapt": [[True], [True], [True]],
        "route": [[False], [False, True], [False, True]],
    }
    assert has_graph == expected[method]
    trained = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {key for key, parameter in model.named_parameters() if key.startswith("expansion.")}


@pytest.mark.parametrize("method", WIDENED)
def test_dropout_of_the_base_has_no_effect(method: str) -> None:
    changes: dict[str, Any] = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
    model = widened(tiny_base("neox", **changes), **WIDENED[method])
    tokens = probe()
    assert model.train().training
    assert not any(module.training for module in model.base.modules())
    with torch.no_grad():
        assert torch.equal(model.train()(tokens).logits, model.eval()(tokens).logits)
        base = tiny_base("neox", **changes).train()
        assert not torch.equal(base(tokens).logits, base.eval()(tokens).logits)


@pytest.mark.parametrize("method", WIDENED)
def test_gradient_checkpointing_gives_the_same_gradients(method: str, tolerance: Callable[[torch.dtype], Any]) -> None:
    plain = widened(tiny_base("llama-grouped"), **WIDENED[method]).train()
    checkpointed = copy.deepcopy(plain)
    recompute_activations(checkpointed)
    forwards: list[str] = []
    tokens = probe()
    for kind, model in (("plain", plain), ("checkpointed", checkpointed)):
        model.expansion.layers[0].o.register_forward_hook(lambda *_, kind=kind: forwards.append(kind))
        model(tokens, labels=tokens).loss.backward()
    assert (forwards.count("plain"), forwards.count("checkpointed")) == (1, 2)
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) == key.startswith("base.")
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **tolerance(torch.float32))
