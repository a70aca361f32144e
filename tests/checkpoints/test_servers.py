"""The requirements of the transformers backends of vLLM and SGLang, as far as they can be tested without these.

The rules are those of the library's page "Building a compatible model backend for inference" and of the code that calls
the model there: `auto_map`, one attention interface for all attention with every keyword passed on to it, positions
from outside, no cache of the model's own, sizes that can be read from the config. What is not met stands at the end.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scale_cli.model import LayerShape
from scale_cli.surgery import upscale
from tests.helpers import BASES, base_folder, probe, tiny_base, widened

METHODS: dict[str, Any] = {
    "preserve": {},
    "adapt": {"layers": (0, 2), "modules": ("attention", "ffn")},
    "route": {"layers": (1, 2), "modules": ("attention",), "threshold": 0.7},
}
Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The attention of a server, registered as "server". It keeps keys and values itself and records every call."""
    noted: Calls = []

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        attention_instances: dict[int, dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        assert attention_instances is not None
        cache = attention_instances[module.layer_idx]
        turn = cache["calls"] = cache.get("calls", -1) + 1
        turn %= cache["streams"](module.layer_idx)
        keys, values = cache.setdefault(turn, ([], []))
        keys.append(key)
        values.append(value)
        noted.append({"layer": module.layer_idx, "query": query.shape, "key": key.shape, "scaling": scaling} | kwargs)
        key, value = (
            torch.cat(tensors, dim=2).repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            for tensors in (keys, values)
        )
        scores = query @ key.transpose(2, 3) * scaling
        last = key.shape[2]
        positions = torch.arange(last - query.shape[2], last)[:, None], torch.arange(last)[None, :]
        hidden = positions[1] > positions[0]
        if kwargs.get("sliding_window") is not None:
            hidden |= positions[0] - positions[1] >= kwargs["sliding_window"]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        return (weights @ value).transpose(1, 2).contiguous(), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "server", attend)
    return noted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_a_server_decodes_with_a_cache_of_its_own(
    name: str, method: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token by token, each at the position that the server gives, with the server's attention only."""
    model, tokens = widened(tiny_base(name), **METHODS[method]), probe(batch=1, length=9)
    expected = model(tokens, use_cache=False).logits
    config = model.config
    config._attn_implementation = "server"  # as they set it, before the model is built
    served = AutoModelForCausalLM.from_config(config).eval()
    served.load_state_dict(model.state_dict())
    monkeypatch.setattr("scale_cli.model.modeling_scale.DynamicCache", lambda *_, **__: pytest.fail("a cache"))

    def streams(layer: int) -> int:
        return 4 if method == "route" and layer >= 1 else 2

    instances: dict[int, dict[str, Any]] = defaultdict(lambda: {"streams": streams})
    logits = []
    for start, stop in ((0, 5), (5, 6), (6, 8), (8, 9)):
        outputs = served(
            input_ids=tokens[:, start:stop],
            inputs_embeds=None,
            use_cache=False,
            position_ids=torch.arange(start, stop)[None],
            attention_instances=instances,
            return_dict=False,
            max_length_q=9,
        )
        logits.append(outputs[0])
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, rtol=1e-4, atol=1e-5)
    assert {call["max_length_q"] for call in calls} == {9}
    assert {call["layer"] for call in calls} == {*range(config.num_hidden_layers)}
    shape = LayerShape.of(model.base.config)
    assert {call["query"][3] for call in calls} == {shape.head_dim}
    assert (shape.num_attention_heads, shape.num_key_value_heads) in {
        (call["query"][1], call["key"][1]) for call in calls
    }


@pytest.mark.parametrize("name", ["llama-grouped", "neox", "gemma3"])
def test_the_class_is_found_by_auto_map_and_says_that_it_is_compatible(name: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", name)
    upscale(str(base), tmp_path / "wide", by="width", hidden=8, verify=False)
    config = AutoConfig.from_pretrained(tmp_path / "wide", trust_remote_code=True)
    assert [*config.auto_map] == ["AutoConfig", "AutoModelForCausalLM"]
    assert config.architectures == ["ScaleForCausalLM"]
    for reference in config.auto_map.values():  # the config first, as they do
        found: Any = get_class_from_dynamic_module(reference.rpartition("--")[2], tmp_path / "wide")
    assert found.__name__ == "ScaleForCausalLM"
    assert found.is_backend_compatible()
    assert found._can_set_attn_implementation()


@pytest.mark.parametrize("name", BASES)
def test_sizes_are_read_from_the_config(name: str) -> None:
    base = tiny_base(name).config
    config = widened(tiny_base(name)).config.get_text_config()
    for attribute in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "sliding_window",
    ):
        if getattr(base, attribute, None) is not None:
            assert getattr(config, attribute) == getattr(base, attribute)
    assert len(config.layer_types) == base.num_hidden_layers


@torch.no_grad()
def test_what_is_not_met(calls: Calls) -> None:
    """The reasons why they cannot serve the model, as in every card and in the README; update these if one ends."""
    model = widened(tiny_base("llama-grouped"))
    config = model.config
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModel.from_config(config)  # they build it without its head, and put one matrix on one hidden state
    config._attn_implementation = "server"
    served = AutoModelForCausalLM.from_config(config).eval()
    served(probe(), use_cache=False, attention_instances=defaultdict(lambda: {"streams": lambda _: 2}))
    heads = [(call["layer"], call["query"][1], call["key"][1]) for call in calls]
    own, added = (config.num_attention_heads, config.num_key_value_heads), (2, 1)
    # They keep one cache per layer, for the number of heads in the config.
    assert heads == [(layer, *pair) for layer in range(config.num_hidden_layers) for pair in (own, added)]
