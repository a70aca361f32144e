"""The outputs that a caller or the config requests, and the library's accessors of a model's parts."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.model.compatibility import CACHE
from scale_cli.model.outputs import selected_indices
from tests.helpers import BASES, WIDENED, probe, tiny_base, widened, without_w12

Tolerance = Callable[[torch.dtype], Any]


def single_path(model: Any) -> Any:
    """A copy without the router."""
    adapt = copy.deepcopy(model)
    adapt.config.router = None
    return adapt


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_attention_weights_are_those_of_the_familys_own_class(name: str, tolerance: Tolerance) -> None:
    base, tokens = tiny_base(name), probe()
    model = widened(base)
    for either in (base, model):
        either.set_attn_implementation("eager")
    expected = base(tokens, output_attentions=True).attentions
    output = model(tokens, output_attentions=True)
    assert len(output.attentions) == len(output.expansion_attentions) == 3
    for ours, theirs in zip(output.attentions, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance(torch.float32))
    groups = base.config.num_attention_heads // getattr(base.config, "num_key_value_heads", 4)
    for weights in output.expansion_attentions:
        assert weights.shape == (2, groups, 11, 11)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, groups, 11))
        assert weights.triu(1).count_nonzero() == 0


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", ["llama-grouped", "neox"])
def test_under_a_router_states_and_weights_are_the_adapting_paths(
    name: str, gradients: bool, tolerance: Tolerance
) -> None:
    model, tokens = widened(tiny_base(name), **WIDENED["route"]), probe()
    model.set_attn_implementation("eager")
    asked: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    with torch.set_grad_enabled(gradients):
        found, adapt, preserve = (m(tokens, **asked) for m in (model, single_path(model), without_w12(model)))
    for field in ("hidden_states", "expansion_hidden_states", "attentions", "expansion_attentions"):
        for ours, expected in zip(found[field], adapt[field], strict=True):
            torch.testing.assert_close(ours, expected, **tolerance(torch.float32))
        assert not torch.allclose(found[field][-1], preserve[field][-1], **tolerance(torch.float32))


@pytest.mark.parametrize("method", WIDENED)
@torch.no_grad()
def test_attention_weights_of_a_generated_token(method: str, tolerance: Tolerance) -> None:
    """Its heads are computed in one call, and their weights are the last row of the whole forward's."""
    model, tokens = widened(tiny_base("llama-grouped"), **WIDENED[method]), probe()
    model.set_attn_implementation("eager")
    whole = model(tokens, output_attentions=True)
    cache = model(tokens[:, :-1])[CACHE]
    step = model(tokens[:, -1:], cache=cache, output_attentions=True)
    for field in ("attentions", "expansion_attentions"):
        for ours, expected in zip(step[field], whole[field], strict=True):
            torch.testing.assert_close(ours, expected[:, :, -1:], **tolerance(torch.float32))


@torch.no_grad()
def test_sdpa_returns_no_attention_weights_as_in_the_librarys_models() -> None:
    base = tiny_base("llama")
    for model in (base, widened(base)):
        assert model(probe(), output_attentions=True).attentions == ()
        with pytest.raises(ValueError, match="Please set it to 'eager' instead"):
            model.config.output_attentions = True


@torch.no_grad()
def test_the_config_requests_outputs() -> None:
    model, tokens = widened(tiny_base("llama")), probe()
    model.set_attn_implementation("eager")
    plain = model(tokens)
    assert plain.hidden_states is None
    assert plain.expansion_attentions is None
    assert CACHE in plain
    model.config.output_hidden_states = model.config.output_attentions = True
    model.config.use_cache = False
    output = model(tokens)
    assert [len(output[f]) for f in ("hidden_states", "expansion_hidden_states", "attentions")] == [4, 4, 3]
    assert CACHE not in output
    assert CACHE in model(tokens, use_cache=True)
    assert ScaleConfig.from_dict(model.config.to_dict()).use_cache is False
    assert model.config.base_config["use_cache"] is True


@torch.no_grad()
def test_chosen_hidden_states() -> None:
    model, tokens = widened(tiny_base("llama"), **WIDENED["route"]), probe()
    whole = model(tokens, output_hidden_states=True)
    output = model(tokens, output_hidden_states=[0, 2, -1])
    for field in ("hidden_states", "expansion_hidden_states"):
        assert [state is None for state in output[field]] == [False, True, False, False]
        for state, expected in zip(output[field], whole[field], strict=True):
            assert state is None or torch.equal(state, expected)
    assert model(tokens, output_hidden_states=False).hidden_states is None


@pytest.mark.parametrize(
    ("selection", "indices"), [(True, {0, 1, 2}), (False, set()), (1, {1}), ([0, -1], {0, 2}), ([-4, 3], set())]
)
def test_selected_indices(selection: Any, indices: set[int]) -> None:
    assert selected_indices(selection, 3) == indices


def test_gradients_at_hidden_states() -> None:
    """Those of x from the first collaborating layer on, and those of x_up."""
    model, tokens = widened(tiny_base("llama"), **WIDENED["route"]).train(), probe()
    output = model(tokens, output_hidden_states=True, labels=tokens)
    assert [state.requires_grad for state in output.hidden_states] == [False, False, True, True]
    states = [*output.hidden_states[2:], *output.expansion_hidden_states[:2]]
    for state in states:
        state.retain_grad()
    output.loss.backward()
    assert all(state.grad.abs().sum() > 0 for state in states)


@pytest.mark.parametrize("name", BASES)
def test_the_attention_of_the_config_reaches_the_bases(name: str) -> None:
    model = widened(tiny_base(name))
    assert model.config.base is model.base.config
    assert model.config.base._attn_implementation == "sdpa"
    model.config._attn_implementation = "eager"
    assert model.base.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    assert model.base.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["llama", "llama-grouped", "neox", "neox-sequential"])
def test_embeddings_and_tied_weights_are_the_bases(name: str) -> None:
    model = widened(tiny_base(name))
    assert model.base_model is model.base
    assert model.get_input_embeddings() is model.base.get_input_embeddings()
    assert model.get_output_embeddings() is model.base.get_output_embeddings()
    ties = {f"base.{key}": f"base.{source}" for key, source in model.base.all_tied_weights_keys.items()}
    assert (model._tied_weights_keys or {}) == model.all_tied_weights_keys == ties
    assert bool(ties) == model.config.tie_word_embeddings == (name in ("llama-grouped", "neox-sequential"))
    embedding, head = nn.Embedding(61, 32), nn.Linear(32, 61)
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(head)
    assert model.base.get_input_embeddings() is embedding
    assert model.base.get_output_embeddings() is head


def test_resizing_the_vocabulary_is_refused() -> None:
    model = widened(tiny_base("llama"))
    assert model.resize_token_embeddings(61) is model.get_input_embeddings()
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    for arguments in ({"new_num_tokens": 70}, {"pad_to_multiple_of": 8}):
        with pytest.raises(ValueError, match="keeps the 61 tokens of its frozen base; resize the base"):
            model.resize_token_embeddings(**arguments)


def test_sizes_written_to_the_config_are_the_bases() -> None:
    config = widened(tiny_base("mistral")).config
    config.sliding_window = 3
    assert config.base.sliding_window == config.base_config["sliding_window"] == 3
    assert ScaleForCausalLM(config).base.config.sliding_window == 3
    assert ScaleConfig.from_dict(config.to_dict()).sliding_window == 3


def test_a_config_without_a_base_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 61, but base_config is missing"):
        ScaleConfig.from_dict(tiny_base("llama").config.to_dict())


def test_reentrant_checkpointing_gives_the_same_gradients() -> None:
    for method in WIDENED.values():
        model, tokens = widened(tiny_base("llama"), **method).train(), probe()
        model(tokens, labels=tokens).loss.backward()
        plain = {name: parameter.grad for name, parameter in model.named_parameters()}
        model.zero_grad()
        name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # its older name
        getattr(model, f"{name}_checkpointing_enable")(**{f"{name}_checkpointing_kwargs": {"use_reentrant": True}})
        model(tokens, labels=tokens).loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (plain[name] is None)
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_the_librarys_own_tests_pass(family: str) -> None:
    """Its common model tests, downloaded with the source distribution of the installed release."""
    command = [sys.executable, "-m", "tests.common", "--family", family]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:]
    assert all(f"{method}Test: " in ended.stdout for method in ("Preserve", "Adapt", "Route"))
