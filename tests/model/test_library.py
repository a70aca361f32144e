"""What the library does with any model: cached generation, padding, attention kinds, saving and loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.model.compatibility import CACHE
from scale_cli.model.placement import paired_device_map
from tests.helpers import ADDED, BASES, CASES, WIDENED, load, probe, tiny_base, widened

Tolerance = Callable[[torch.dtype], Any]
SIDES = [("left", "sdpa"), ("left", "eager"), ("right", "sdpa"), ("right", "eager")]
PAIRWISE = [(name, method, *SIDES[(i + j) % 4]) for i, name in enumerate(BASES) for j, method in enumerate(WIDENED)]
"""Every pair of a base, a method, a side and an attention, in a quarter of their product."""

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def model_of(name: str, method: str, *, dtype: torch.dtype = torch.float32) -> Any:
    return widened(tiny_base(name, dtype=dtype), **WIDENED[method])


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "method"), CASES)
@torch.no_grad()
def test_cached_generation_is_generation(name: str, method: str, tolerance: Tolerance) -> None:
    model, tokens = model_of(name, method), probe(length=5)
    cached = model.generate(tokens, use_cache=True, **GREEDY)
    assert cached.shape == (2, 13)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **GREEDY))

    whole = model(cached, use_cache=False).logits
    first = model(cached[:, :6])
    middle = model(cached[:, 6:9], cache=first[CACHE])
    last = model(cached[:, 9:], past_key_values=middle[CACHE])  # its older name
    parts = torch.cat([first.logits, middle.logits, last.logits], dim=1)
    torch.testing.assert_close(parts, whole, **tolerance(torch.float32))


@pytest.mark.parametrize(("name", "method", "side", "attention"), PAIRWISE)
@torch.no_grad()
def test_padding_changes_no_real_token(name: str, method: str, side: str, attention: str, tolerance: Tolerance) -> None:
    model = model_of(name, method)
    model.set_attn_implementation(attention)
    tokens, padding = probe(batch=3, length=7), probe(batch=3, length=4, seed=9)
    both = (padding, tokens) if side == "left" else (tokens, padding)
    mask = torch.cat([torch.full_like(t, int(t is tokens)) for t in both], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # as generation counts them
    padded: dict[str, Any] = {"input_ids": torch.cat(both, dim=1), "position_ids": positions}
    found = model(**padded, attention_mask=mask).logits[mask.bool()].view(3, 7, -1)
    torch.testing.assert_close(found, model(tokens).logits, **tolerance(torch.float32))
    unmasked = model(**padded).logits[mask.bool()].view(3, 7, -1)
    assert torch.allclose(unmasked, found, **tolerance(torch.float32)) == (side == "right")


@torch.no_grad()
def test_generation_from_left_padded_prompts() -> None:
    model = model_of("llama-grouped", "route")
    tokens = probe(batch=1, length=6)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), tokens], dim=1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(tokens)], dim=1)
    found = model.generate(padded, attention_mask=mask, **GREEDY)[:, 9:]
    assert torch.equal(found, model.generate(tokens, attention_mask=torch.ones_like(tokens), **GREEDY)[:, 6:])


@pytest.mark.parametrize(("name", "method"), CASES)
@torch.no_grad()
def test_eager_attention_is_sdpa(name: str, method: str, tolerance: Tolerance) -> None:
    model, tokens = model_of(name, method), probe()
    assert model.config._attn_implementation == "sdpa"
    sdpa = model(tokens).logits
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(model(tokens).logits, sdpa, **tolerance(torch.float32))


@pytest.mark.parametrize(
    ("name", "method", "dtype"),
    [
        ("llama-grouped", "route", torch.float32),
        ("llama-grouped", "preserve", torch.bfloat16),
        ("neox", "adapt", torch.bfloat16),
    ],
)
@torch.no_grad()
def test_saving_and_loading_is_bitwise(name: str, method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, tokens = model_of(name, method, dtype=dtype), probe()
    model.save_pretrained(tmp_path / "first")
    config = json.loads((tmp_path / "first" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "scale"
    assert config["base_config"] == json.loads(json.dumps(model.config.base_config))
    loaded = load(tmp_path / "first")
    assert isinstance(loaded, ScaleForCausalLM)
    assert loaded.dtype == dtype
    assert {key: p.requires_grad for key, p in loaded.named_parameters()} == {
        key: key.startswith("expansion.") for key, _ in model.named_parameters()
    }
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    loaded.save_pretrained(tmp_path / "second")
    names = [load_file(tmp_path / folder / "model.safetensors") for folder in ("first", "second")]
    assert names[0].keys() == names[1].keys()
    assert all(torch.equal(names[0][key], names[1][key]) for key in names[0])


@pytest.mark.parametrize("name", ["gemma3", "neox"])
@torch.no_grad()
def test_it_compiles_as_one_graph(name: str, tolerance: Tolerance) -> None:
    """Norms of heads and four norms with two kinds of layers, and the other layout."""
    model = widened(tiny_base(name, num_hidden_layers=2), layers=(1,), modules=("attention",), threshold=0.7)
    tokens = probe()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected = model(tokens, use_cache=False).logits
    torch.testing.assert_close(compiled(tokens, use_cache=False).logits, expected, **tolerance(torch.float32))


def test_the_kept_positions_and_the_loss_are_the_librarys(tolerance: Tolerance) -> None:
    model, tokens = model_of("llama", "route"), probe()
    whole = model(tokens, labels=tokens)
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, whole.logits[:, -2:], **tolerance(torch.float32))
    loss = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(whole.loss, loss, **tolerance(torch.float32))


EXPANSION: dict[str, Any] = ADDED | {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expansion": EXPANSION | {"hidden_size": 0}}, "each at least 1"),
        ({"expansion": ADDED}, "it needs hidden_size"),
        ({"expansion": EXPANSION | {"num_attention_heads": 3}}, "brings its whole group"),
        ({"collaborative": {"layers": [3], "modules": ["ffn"]}}, "the base has layers 0 to 2"),
        ({"collaborative": {"layers": [1], "modules": []}}, "name both or neither"),
        ({"collaborative": {"layers": [1], "modules": ["norms"]}}, "name both or neither"),
        ({"router": {"threshold": 0.5}}, "there is only one"),
    ],
)
def test_a_config_that_does_not_fit_the_base_is_refused(changes: dict[str, Any], message: str) -> None:
    base_config = tiny_base("llama-grouped").config.to_dict()
    assert ScaleConfig(base_config=base_config, expansion=EXPANSION).num_hidden_layers == 3
    with pytest.raises(ValueError, match=message):
        ScaleConfig(**({"base_config": base_config, "expansion": EXPANSION} | changes))


def test_a_config_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "scale", "base_config": {"model_type": "gpt2"}, "expansion": EXPANSION}),
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="'gpt2' is not supported; supported are gemma3_text, gpt_neox, llama"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(("name", "method"), CASES)
@torch.no_grad()
def test_bfloat16_is_float32_to_its_rounding(name: str, method: str) -> None:
    """As near as the family's own class in bfloat16 is to itself in float32."""
    tokens, base = probe(), tiny_base(name)
    own = (base(tokens).logits - tiny_base(name, dtype=torch.bfloat16)(tokens).logits.float()).abs().max()
    model = model_of(name, method)
    model.config.router = None if method != "route" else {"threshold": 2.0}  # a token near tau may go either way
    expected = model(tokens).logits
    found = model.bfloat16()(tokens).logits
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 10 * own


@pytest.mark.parametrize("name", ["llama-grouped", "neox", "gemma3"])
@torch.no_grad()
def test_offloaded_to_disk_it_computes_the_same(name: str, tmp_path: Path) -> None:
    model, tokens = model_of(name, "route"), probe()
    model.save_pretrained(tmp_path / "model")
    options: dict[str, Any] = {"device_map": "auto", "offload_folder": tmp_path / "offloaded"}
    whole_fits_disk = Version(version("accelerate")) >= Version("1.15")  # older ones refuse to put all of it there
    half = sum(parameter.nbytes for parameter in model.parameters()) // 2
    for memory in (20_000, 60_000) if whole_fits_disk else (half,):
        loaded = ScaleForCausalLM.from_pretrained(tmp_path / "model", max_memory={"cpu": memory}, **options)
        assert any(parameter.device.type == "meta" for parameter in loaded.parameters())
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
        assert torch.equal(loaded.generate(tokens, **GREEDY), model.generate(tokens, **GREEDY))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="auto")
    assert torch.equal(whole(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("name", ["llama-grouped", "neox"])
@pytest.mark.parametrize("word", ["auto", "balanced_low_0", "sequential"])
def test_a_layer_and_its_addition_share_a_device(name: str, word: str) -> None:
    model = model_of(name, "adapt")
    memory = {0: 110_000, 1: 80_000, "cpu": 10**9}
    found = paired_device_map(model, word, memory)
    decoder = "base.gpt_neox" if name == "neox" else "base.model"
    devices = [found[f"{decoder}.layers.{i}"] for i in range(3)]
    assert devices == [found[f"expansion.layers.{i}"] for i in range(3)]
    assert len(set(devices)) > 1
    assert found["base.lm_head"] == found["expansion.head"]
    for key, _ in model.named_parameters():
        assert sum(key.startswith(f"{module}.") for module in found) == 1, key
    roomy = paired_device_map(model, word, {0: 10**9, 1: 10**9})
    assert set(roomy.values()) == {"auto": {0, 1}, "balanced_low_0": {1}, "sequential": {0}}[word]


@pytest.mark.parametrize("name", BASES)
def test_a_model_from_its_config_is_whole_and_neutral(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight is left as memory had it, and what was added changes no logit."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        config = widened(tiny_base(name)).config
        model = ScaleForCausalLM(config).eval()
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert torch.equal(model(probe()).logits, model.base(probe()).logits)
        for module in model.expansion.modules():
            if isinstance(module, type(model.expansion.norm)):
                assert (module.get_parameter("weight") == model.family.norm_neutral).all()
