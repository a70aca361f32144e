"""Block expansion against models put together by hand from the library's own layers."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scale_cli.surgery import upscale
from scale_cli.surgery.depth import new_layers, plan_depth
from tests.helpers import BASES, base_folder, load, probe

OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
NEOX_OUTPUTS = ("attention.dense", "mlp.dense_4h_to_h")


def by_hand(base: Any, layers: int) -> Any:
    """LLaMA Pro by its authors' script: after every (L / P)-th layer a copy with zeroed outputs."""
    old = base.config.num_hidden_layers
    split = old // (layers - old)
    decoder = base.base_model
    new = nn.ModuleList()
    for i, layer in enumerate(decoder.layers):
        new.append(copy.deepcopy(layer))
        if (i + 1) % split == 0:
            block = copy.deepcopy(layer)
            for path in NEOX_OUTPUTS if base.config.model_type == "gpt_neox" else OUTPUTS:
                for parameter in block.get_submodule(path).parameters():
                    nn.init.zeros_(parameter)
            new.append(block)
    deeper = copy.deepcopy(base)
    deeper.base_model.layers = new
    deeper.config.num_hidden_layers = len(new)
    return deeper


@pytest.mark.parametrize(("name", "layers"), list(zip(BASES, itertools.cycle((5, 6, 8)), strict=False)))
def test_the_result_is_the_one_made_by_hand(name: str, layers: int, tmp_path: Path) -> None:
    folder, out = base_folder(tmp_path / "base", name, num_hidden_layers=4, shard="20KB"), tmp_path / "out"
    base = load(folder)
    result = upscale(str(folder), out, by="depth", layers=layers)
    assert result.max_delta_logit == 0.0
    model = load(out)
    assert type(model) is type(base)
    expected = by_hand(base, layers)
    assert model.config.num_hidden_layers == layers == expected.config.num_hidden_layers
    found = model.state_dict()
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.state_dict().items())
    tokens = probe()
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, base(tokens).logits)

    record = json.loads((out / "upscale.json").read_text(encoding="utf-8"))
    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert record["by"] == "depth"
    assert not set(record["pretrained"]) & set(record["added"])
    assert set(record["pretrained"]) | set(record["added"]) == index["weight_map"].keys()
    blocks = [f".layers.{layer}." for layer in record["new_layers"]]
    assert len(blocks) == layers - 4
    for key in index["weight_map"]:
        assert (key in record["added"]) == any(block in key for block in blocks)
    assert result.added_parameters == model.num_parameters() - base.num_parameters()
    assert result.base_parameters == base.num_parameters()


@pytest.mark.parametrize("name", ["llama-biased", "gemma3", "neox"])
def test_random_blocks_are_those_of_a_new_model(name: str, tmp_path: Path) -> None:
    """Normal values of the config's own width, neutral norms, zero outputs; the copied layers appear nowhere."""
    folder = base_folder(tmp_path / "base", name, num_hidden_layers=4)
    base = load(folder)
    upscaled = {}
    for out, seed in {"a": 0, "again": 0, "other": 5}.items():
        result = upscale(str(folder), tmp_path / out, by="depth", layers=6, init="random", seed=seed)
        assert result.max_delta_logit == 0.0
        upscaled[out] = load(tmp_path / out)
    record = json.loads((tmp_path / "a" / "upscale.json").read_text(encoding="utf-8"))
    assert record["initialisation"] == {"blocks": "random"}
    assert record["new_layers"] == [2, 5]
    blocks = {out: [model.base_model.layers[i].state_dict() for i in (2, 5)] for out, model in upscaled.items()}
    torch.manual_seed(0)
    fresh = type(base)(base.config).base_model.layers[0].state_dict()
    outputs = NEOX_OUTPUTS if name == "neox" else OUTPUTS
    for (first, second), copied in zip(zip(blocks["a"], blocks["other"], strict=True), (1, 3), strict=True):
        for key, tensor in first.items():
            if key.rpartition(".")[0] in outputs:
                assert not tensor.any()
            elif tensor.ndim == 2:
                assert float(tensor.std()) == pytest.approx(base.config.initializer_range, rel=0.1)
                assert not torch.equal(tensor, second[key])
                assert not torch.equal(tensor, base.base_model.layers[copied].state_dict()[key])
            else:
                assert torch.equal(tensor, fresh[key])  # norms and biases
    up = "mlp.dense_h_to_4h.weight" if name == "neox" else "mlp.up_proj.weight"
    assert not torch.equal(blocks["a"][0][up], blocks["a"][1][up])
    assert all(torch.equal(x[key], y[key]) for x, y in zip(blocks["a"], blocks["again"], strict=True) for key in x)


def test_an_output_that_is_not_zero_fails_the_check(tmp_path: Path) -> None:
    base = load(base_folder(tmp_path / "base", "neox", num_hidden_layers=4))
    tokens = probe()
    for path in ("attention.dense", "mlp.dense_4h_to_h"):
        for tensor in ("weight", "bias"):
            deeper = by_hand(base, 5)
            getattr(deeper.gpt_neox.layers[4].get_submodule(path), tensor).data.view(-1)[0] = 0.1
            with torch.no_grad():
                assert not torch.equal(deeper(tokens).logits, base(tokens).logits)


@pytest.mark.parametrize("base_layers", range(1, 33))
def test_positions(base_layers: int) -> None:
    """The authors' rule (i + 1) % (L / P) == 0 if P divides L, else spread evenly, with the last block on top."""
    for layers in range(base_layers + 1, 2 * base_layers + 1):
        new = layers - base_layers
        copied = plan_depth(base_layers, layers=layers)
        assert len(copied) == new
        if base_layers % new == 0:
            assert copied == [i for i in range(base_layers) if (i + 1) % (base_layers // new) == 0]
        gaps = [b - a for a, b in zip([-1, *copied], copied, strict=False)]
        assert max(gaps) - min(gaps) <= 1
        assert min(gaps) >= 1
        assert copied[-1] == base_layers - 1
        order = [layer for i in range(base_layers) for layer in [i] * (1 + (i in copied))]
        assert [order[index] for index in new_layers(copied)] == copied
        assert [order[index - 1] for index in new_layers(copied)] == copied


@pytest.mark.parametrize(
    ("name", "written"), [("gemma3", True), *((name, False) for name in ("qwen2", "gemma3", "mistral", "qwen3"))]
)
def test_a_copy_attends_as_the_layer_that_it_copies(name: str, written: bool, tmp_path: Path) -> None:
    """Also if the library derives a layer's type from its index, which copies shift."""
    folder, out = base_folder(tmp_path / "base", name, num_hidden_layers=4), tmp_path / "out"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kinds = config.pop("layer_types", None)
    if not written:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    base = load(folder)
    assert getattr(base.config, "layer_types", None) == kinds
    assert upscale(str(folder), out, by="depth", layers=6).max_delta_logit == 0.0
    deeper = load(out)
    if kinds is not None:
        assert deeper.config.layer_types == [kinds[layer] for layer in (0, 1, 1, 2, 3, 3)]
    tokens = probe()
    with torch.no_grad():
        assert torch.equal(deeper(tokens).logits, base(tokens).logits)
    found = json.loads((out / "config.json").read_text(encoding="utf-8"))
    derivable = not written and name == "qwen3"  # all its layers are of one kind
    assert ("layer_types" in found) == (kinds is not None and not derivable)


def test_the_rest_of_the_config_is_the_bases(tmp_path: Path) -> None:
    folder, out = base_folder(tmp_path / "base", "neox"), tmp_path / "out"
    upscale(str(folder), out, by="depth", layers=4, verify=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert json.loads((out / "config.json").read_text(encoding="utf-8")) == config | {"num_hidden_layers": 4}
    assert (out / "tokenizer_config.json").read_bytes() == (folder / "tokenizer_config.json").read_bytes()
