"""Each method trains exactly its own parameters, and only checkpoints of its kinds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS, method_options
from tests.helpers import probe, randomise, tiny_base, widened

Tolerance = Callable[[torch.dtype], dict[str, Any]]
LLAMA_BLOCK = {
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
}
NEOX_BLOCK = {
    f"{module}.{kind}"
    for module in (
        "input_layernorm",
        "post_attention_layernorm",
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )
    for kind in ("weight", "bias")
}
BLOCKS = {
    "llama": ("model.layers", LLAMA_BLOCK),
    "llama-grouped": ("model.layers", LLAMA_BLOCK),
    "neox": ("gpt_neox.layers", NEOX_BLOCK),
}
EXPANSION_MAPS = {"llama": ("q", "k", "v", "o", "gate", "up", "down"), "neox": ("q", "k", "v", "o", "up", "down")}


def blocks(name: str, layers: range | tuple[int, ...]) -> set[str]:
    """The names of all parameters of these layers."""
    prefix, block = BLOCKS[name]
    return {f"{prefix}.{layer}.{rest}" for layer in layers for rest in block}


def applied(method: str, model: Any, new_layers: tuple[int, ...] = (), **options: Any) -> Any:
    return METHODS[method].apply(model, method_options(options)[method], new_layers)


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", BLOCKS)
def test_fft_trains_everything(name: str) -> None:
    model = tiny_base(name).requires_grad_(False)
    assert trained(applied("fft", model)) == {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "above"),
    [
        ("llama", {"model.norm.weight", "lm_head.weight"}),
        ("llama-grouped", {"model.norm.weight"}),  # the head is tied to the embedding
        ("neox", {"gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias", "lm_head.weight"}),
    ],
)
def test_freeze_trains_what_is_above_its_layers(name: str, above: set[str]) -> None:
    """With two layers frozen of twelve, `layers.1` is frozen and neither `layers.10` nor `layers.11` are."""
    model = tiny_base(name, num_hidden_layers=12)
    assert trained(applied("freeze", model, freeze_layers=2)) == blocks(name, range(2, 12)) | above
    assert trained(applied("freeze", model, freeze_layers=0)) == blocks(name, range(12)) | above


def test_freezing_by_substring_would_be_seen() -> None:
    model = applied("freeze", tiny_base("llama", num_hidden_layers=12), freeze_layers=2)
    right = trained(model)
    for key, parameter in model.named_parameters():
        if any(part in key for part in ("layers.0", "layers.1")):
            parameter.requires_grad_(False)
    assert trained(model) < right


def test_freeze_leaves_a_layer_to_train() -> None:
    with pytest.raises(RequestError, match=r"^--freeze-layers 3: the model has 3 layers .*; choose 0 to 2$"):
        applied("freeze", tiny_base("llama"), freeze_layers=3)


@pytest.mark.parametrize("name", BLOCKS)
def test_llama_pro_trains_the_recorded_blocks(name: str) -> None:
    model = tiny_base(name, num_hidden_layers=12)
    assert trained(applied("llama-pro", model, (1, 10))) == blocks(name, (1, 10))


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        (
            "llama-grouped",
            [*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))],
        ),
        ("neox", ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
    ],
)
def test_lora_is_pefts(name: str, paths: list[str], tolerance: Tolerance) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=paths, task_type="CAUSAL_LM")
    models = []
    for make in (lambda base: applied("lora", base, lora_r=4, lora_alpha=8), lambda base: get_peft_model(base, config)):
        torch.manual_seed(0)
        models.append(make(tiny_base(name)))
    ours, peft = models
    assert trained(ours) == trained(peft)
    layers = BLOCKS[name][0]
    assert trained(ours) == {
        f"base_model.model.{layers}.{layer}.{path}.lora_{matrix}.default.weight"
        for layer in range(3)
        for path in paths
        for matrix in "AB"
    }
    for model in models:
        randomise(model, seed=5, names="lora_B")  # they start at zero
    with torch.no_grad():
        logits = ours(probe()).logits
        assert torch.equal(logits, peft(probe()).logits)
        assert not torch.allclose(logits, tiny_base(name)(probe()).logits, **tolerance(torch.float32))
        merged = ours.merge_and_unload()
        torch.testing.assert_close(merged(probe()).logits, logits, **tolerance(torch.float32))
    assert {key for key, _ in merged.named_parameters()} == {key for key, _ in tiny_base(name).named_parameters()}


def test_the_scale_of_lora_is_alpha_over_r() -> None:
    assert applied("lora", tiny_base("llama"), lora_r=4).peft_config["default"].lora_alpha == 4
    assert applied("lora", tiny_base("llama"), lora_r=4, lora_alpha=8).peft_config["default"].lora_alpha == 8


@pytest.mark.parametrize("name", ["llama", "neox"])
@pytest.mark.parametrize(
    ("method", "options", "layers", "modules", "router"),
    [
        ("scale-preserve", {}, [], [], None),
        ("scale-adapt", {"preserve_layers": 2}, [2, 3], ["attention"], None),
        ("scale-adapt", {"adapt_modules": ("ffn",)}, [3], ["ffn"], None),
        ("scale-adapt", {"preserve_layers": 0}, [0, 1, 2, 3], ["attention"], None),
        ("scale-route", {}, [3], ["attention"], {"kind": "cosine", "threshold": 0.5}),
        (
            "scale-route",
            {"preserve_layers": 2, "adapt_modules": ("attention", "ffn"), "threshold": 0.7},
            [2, 3],
            ["attention", "ffn"],
            {"kind": "cosine", "threshold": 0.7},
        ),
    ],
)
def test_the_scale_methods_train_the_expansion_and_the_w12_they_choose(
    name: str, method: str, options: dict[str, Any], layers: list[int], modules: list[str], router: Any
) -> None:
    model = widened(tiny_base(name, num_hidden_layers=4)).requires_grad_(True)
    before = {key for key, _ in model.named_parameters() if key.startswith("expansion.")}
    model = applied(method, model, **options)
    assert (model.config.collaborative, model.config.router) == ({"layers": layers, "modules": modules}, router)
    maps = {
        role for role in EXPANSION_MAPS[name] if ("attention" if role in ("q", "k", "v", "o") else "ffn") in modules
    }
    w12 = {f"expansion.layers.{layer}.{role}.w12" for layer in layers for role in maps}
    assert trained(model) == before | w12
    assert all(not p.any() for key, p in model.named_parameters() if key in w12)  # from zero: no logit changes


@pytest.mark.parametrize(("layers", "collaborating"), [(1, [0]), (3, [0, 1, 2]), (4, [3]), (5, [3, 4])])
def test_three_layers_are_preserved_where_there_are_more(layers: int, collaborating: list[int]) -> None:
    model = applied("scale-adapt", widened(tiny_base("llama", num_hidden_layers=layers)))
    assert model.config.collaborative["layers"] == collaborating


def test_a_layer_is_left_to_collaborate() -> None:
    message = r"^--preserve-layers 3: the model has 3 layers .*; choose 0 to 2, or --method scale-preserve$"
    for method in ("scale-adapt", "scale-route"):
        with pytest.raises(RequestError, match=message):
            applied(method, widened(tiny_base("llama")), preserve_layers=3)


def test_trained_w12_are_kept_or_the_request_is_refused() -> None:
    def trained_before() -> Any:
        return widened(tiny_base("llama"), layers=(1, 2), modules=("attention",))

    kept = trained_before().expansion.layers[1].q.w12
    for options in ({"preserve_layers": 1}, {"preserve_layers": 0, "adapt_modules": ("attention", "ffn")}):
        model = applied("scale-route", trained_before(), **options)
        assert torch.equal(model.expansion.layers[1].q.w12, kept)
    dropping: list[tuple[str, dict[str, Any]]] = [
        ("scale-preserve", {}),
        ("scale-adapt", {"preserve_layers": 2}),
        ("scale-route", {"preserve_layers": 1, "adapt_modules": ("ffn",)}),
    ]
    for method, options in dropping:
        message = (
            f"^--method {method}: the checkpoint has trained W12 of attention in layers 1, 2, counted from 0, and "
        )
        with pytest.raises(RequestError, match=message):
            applied(method, trained_before(), **options)


def test_lora_alpha_is_the_rank_unless_it_is_given() -> None:
    for given, alpha in ({}, 4), ({"lora_alpha": 9}, 9):
        options = method_options({"lora_r": 4} | given)["lora"]
        assert METHODS["lora"].resolve(options, None).lora_alpha == alpha


@pytest.mark.parametrize("method", ["lora", "freeze", "llama-pro", "existing-layers", "osf"])
def test_a_family_whose_parts_are_unknown_is_refused(method: str) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=11))
    with pytest.raises(RequestError, match=f"^--method {method}: model type 'gpt2' is not supported; .*--method fft"):
        applied(method, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preserve_layers": -1}, "--preserve-layers -1: a number of layers, at least 0"),
        ({"adapt_modules": ()}, "--adapt-modules is empty; choose attention, ffn or both"),
        ({"lora_r": 0}, "--lora-r 0: a rank, from 1 to 65536"),
        ({"lora_r": 10**30}, f"--lora-r {10**30}: a rank, from 1 to 65536"),
        ({"lora_alpha": 0}, "--lora-alpha 0: from 1 to 65536"),
        ({"freeze_layers": -1}, "--freeze-layers -1: a number of layers, at least 0"),
        ({"train_layers": 0}, "--train-layers 0: a number of layers, at least 1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        method_options(options)
