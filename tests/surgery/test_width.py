"""Width upscaling: the function is the base's, its tensors are unchanged, and every violation is detected."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scale_cli.checkpoints import storage
from scale_cli.checkpoints.storage import copy_renamed
from scale_cli.model import ScaleForCausalLM
from scale_cli.model.families import LayerShape
from scale_cli.surgery import directions, upscale
from scale_cli.surgery.initialise import INITS
from scale_cli.surgery.source import open_base
from scale_cli.surgery.verify import compare, prove_unchanged
from scale_cli.surgery.width import plan_width
from tests.helpers import BASES, base_folder, load, probe

PAIRS = [",".join(pair) for pair in itertools.product(INITS, INITS)]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors files, whose names are distinct."""
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    names = [name for file in files for name in file]
    assert len(names) == len(set(names))
    return {name: tensor for file in files for name, tensor in file.items()}


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(probe()).logits


@given(
    name=st.sampled_from(sorted(BASES)),
    init=st.sampled_from(PAIRS),
    hidden=st.integers(2, 20),
    groups=st.integers(1, 2),
    ffn=st.integers(1, 30),
    seed=st.integers(0, 3),
)
@settings(max_examples=20, deadline=None)
def test_a_fresh_model_gives_the_bases_logits(
    name: str, init: str, hidden: int, groups: int, ffn: int, seed: int
) -> None:
    """Family x tied and untied x grouped queries x sizes x initialisations, exactly, in float32 on the CPU."""
    with TemporaryDirectory() as temporary:
        folder, out = Path(temporary, "base"), Path(temporary, "out")
        base = load(base_folder(folder, name))
        group = base.config.num_attention_heads // getattr(base.config, "num_key_value_heads", 4)
        heads = group * (1 if group == 4 or name == "gemma3" else groups)  # as many as svd has directions for
        upscale(str(folder), out, by="width", hidden=hidden, heads=heads, ffn=ffn, init=init, seed=seed, verify=False)
        model = load(out)
        assert isinstance(model, ScaleForCausalLM)
        assert torch.equal(logits_of(model), logits_of(base))
        tokens = probe()
        with torch.no_grad():
            assert model(tokens, output_hidden_states=True).expansion_hidden_states[-1].abs().max() > 0


def tensors_that_stay(folder: Path) -> set[str]:
    """The added tensors that five steps of a collaborating model do not change."""
    model = load(folder)
    model.set_collaboration((1, 2), ("attention", "ffn"))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    model.train()
    tokens = probe(batch=4)
    for _ in range(5):
        model(tokens, labels=tokens).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return {name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[name])}


@pytest.mark.parametrize(
    ("init", "name"),
    list(
        zip((pair for pair in PAIRS if pair != "zero,zero"), itertools.cycle(("llama-grouped", "neox")), strict=False)
    ),
)
def test_every_initialisation_can_learn(name: str, init: str, tmp_path: Path) -> None:
    base_folder(tmp_path / "base", name)
    upscale(str(tmp_path / "base"), tmp_path / "out", by="width", hidden=8, init=init, verify=False)
    # What all keys share goes through no softmax, so their bias has no gradient but rounding's.
    assert {key for key in tensors_that_stay(tmp_path / "out") if not key.endswith("k.bias")} == set()


def test_zero_for_both_keeps_added_heads_and_features_zero_for_ever(tmp_path: Path) -> None:
    """Their inputs and outputs are zero, so neither gets a gradient; the other tensors learn."""
    base_folder(tmp_path / "base")
    upscale(str(tmp_path / "base"), tmp_path / "out", by="width", hidden=8, init="zero", verify=False)
    still = tensors_that_stay(tmp_path / "out")
    dead: tuple[str, ...] = ("q.w21", "q.w22", "k.w21", "k.w22", "v.w21", "v.w22", "o.w22", "o.w12")
    dead += ("gate.w21", "gate.w22", "up.w21", "up.w22", "down.w22", "down.w12")
    assert {key for key in still if key.endswith(dead)} == {key for key in still if ".w" in key and "norm" not in key}
    assert {f"expansion.layers.{layer}.{key}" for layer in range(3) for key in dead[:7]} <= still
    assert not {"expansion.embedding.weight", "expansion.head.weight", "expansion.layers.2.o.w21"} & still


class JointNorm(nn.Module):
    """The wrong norm: the base's, over the concatenation of both halves."""

    def __init__(self, norm: Any, layer: nn.Module) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight
        self.eps: float = norm.variance_epsilon
        self.x_up = torch.zeros(())
        layer.register_forward_pre_hook(self.remember)

    def remember(self, layer: nn.Module, args: Any) -> None:
        self.x_up = args[-1]

    def forward(self, x: Tensor) -> Tensor:
        variance = torch.cat([x, self.x_up], dim=-1).pow(2).mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(variance + self.eps)


def test_one_norm_over_both_halves_fails_the_check(tmp_path: Path) -> None:
    base = load(base_folder(tmp_path / "base", "llama"))
    upscale(str(tmp_path / "base"), tmp_path / "out", by="width", hidden=8)
    model = load(tmp_path / "out")
    expected = logits_of(base)
    proof = compare(expected, logits_of(model), dtype=torch.float32, seed=0, shape=(2, 11))
    assert proof.max_delta_logit == 0.0
    for layer, base_layer in zip(model.expansion.layers, model.base.model.layers, strict=True):
        base_layer.input_layernorm = JointNorm(base_layer.input_layernorm, layer)
    proof = compare(expected, logits_of(model), dtype=torch.float32, seed=0, shape=(2, 11))
    assert proof.max_delta_logit > 1000 * proof.tolerance


@pytest.mark.parametrize("broken", ["expansion.head.weight", "expansion.layers.1.o.w12", "base", "nan"])
def test_the_proof_fails_if_the_function_changed(broken: str, tmp_path: Path) -> None:
    base_folder(tmp_path / "base")
    out = tmp_path / "out"
    upscale(str(tmp_path / "base"), out, by="width", hidden=8)
    base = open_base(str(tmp_path / "base"))
    assert prove_unchanged(base, out, ScaleForCausalLM, seed=1).max_delta_logit == 0.0

    model = load(out)
    if broken.endswith("w12"):
        model.set_collaboration((1,), ("attention",))
    parameters = dict(model.named_parameters())
    name = {"base": "base.model.layers.0.mlp.up_proj.weight", "nan": "expansion.head.weight"}.get(broken, broken)
    with torch.no_grad():
        parameters[name].view(-1)[3] += float("nan") if broken == "nan" else 1e-2
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(RuntimeError, match=r"^the logits .* differ from those of .*base: max \|delta logit\| is"):
        prove_unchanged(base, tmp_path / "broken", ScaleForCausalLM, seed=1)


def test_the_proof_fails_if_a_tensor_is_missing(tmp_path: Path) -> None:
    base_folder(tmp_path / "base")
    upscale(str(tmp_path / "base"), tmp_path / "out", by="width", hidden=8, verify=False)
    file = tmp_path / "out" / "expansion-00001.safetensors"
    tensors = load_file(file)
    tensors["expansion.layers.0.q.w22_"] = tensors.pop("expansion.layers.0.q.w22")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"lacks expansion\.layers\.0\.q\.w22$"):
        prove_unchanged(open_base(str(tmp_path / "base")), tmp_path / "out", ScaleForCausalLM, seed=0)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama-grouped", torch.float32),
        ("llama-grouped", torch.bfloat16),
        ("neox", torch.float16),
        ("neox", torch.float64),
    ],
)
def test_any_dtype_and_any_number_of_files(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base tensors are bitwise the base's, added ones have its dtype, the record names exactly both."""
    monkeypatch.setattr(storage, "SHARD_BYTES", 6000)
    folder, out = base_folder(tmp_path / "base", name, shard="20KB", dtype=dtype), tmp_path / "out"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sum(file.endswith(".safetensors") for file in before) > 2
    result = upscale(str(folder), out, by="width", hidden=8)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert result.max_delta_logit == 0.0

    base, written = tensors_of(folder), tensors_of(out)
    record = json.loads((out / "upscale.json").read_text(encoding="utf-8"))
    assert set(record["pretrained"]) == {f"base.{key}" for key in base}
    assert set(record["added"]) == written.keys() - set(record["pretrained"])
    assert len(record["pretrained"]) + len(record["added"]) == len(written)
    for key, tensor in base.items():
        assert written[f"base.{key}"].dtype == tensor.dtype == dtype
        assert bytes_of(written[f"base.{key}"]) == bytes_of(tensor)
    assert all(written[key].dtype == dtype for key in record["added"])
    assert result.added_parameters == sum(written[key].numel() for key in record["added"])
    assert len(list(out.glob("expansion-*.safetensors"))) > 2

    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"].keys() == written.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in written.values())
    model = load(out)
    assert model.dtype == dtype
    assert result.base_parameters == model.base.num_parameters()


def test_config_and_companions(tmp_path: Path) -> None:
    folder, out = base_folder(tmp_path / "base", "neox"), tmp_path / "out"
    upscale(str(folder), out, by="width", hidden=8, ffn=7)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "scale"
    assert config["architectures"] == ["ScaleForCausalLM"]
    assert config["base_config"] == json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["expansion"] == {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "intermediate_size": 7,
    }
    assert config["collaborative"] == {"layers": [], "modules": []}
    assert config["router"] is None
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("name", ["llama-biased", "neox"])
def test_added_norms_biases_and_head(name: str, tmp_path: Path) -> None:
    """Norms are the identity, biases and head are zero, and exactly the loaded model's tensors exist."""
    base_folder(tmp_path / "base", name)
    upscale(str(tmp_path / "base"), tmp_path / "out", by="width", hidden=8, verify=False)
    written = tensors_of(tmp_path / "out")
    model = load(tmp_path / "out")
    assert {f"expansion.{key}" for key in model.expansion.state_dict()} == {
        key for key in written if key.startswith("expansion.")
    }
    for key, tensor in written.items():
        if key.startswith("expansion.") and tensor.ndim == 1:
            assert torch.equal(tensor, torch.full_like(tensor, float(key.endswith("norm.weight"))))
    assert not written["expansion.head.weight"].any()
    assert written["expansion.layers.0.q.w21"].any()


@pytest.mark.parametrize("head", ["embed_out", "lm_head"])
def test_both_spellings_of_the_neox_head(head: str, tmp_path: Path) -> None:
    folder, out = base_folder(tmp_path / "base", "neox"), tmp_path / "out"
    original = folder / "model.safetensors"
    (tmp_path / "old").mkdir()
    old = original.rename(tmp_path / "old" / "model.safetensors")
    names, _ = copy_renamed(old, original, lambda name: name.replace("embed_out", head).replace("lm_head", head))
    assert f"{head}.weight" in names
    result = upscale(str(folder), out, by="width", hidden=8)
    assert result.max_delta_logit == 0.0
    assert f"base.{head}.weight" in tensors_of(out)


def test_leftovers_of_old_checkpoints_are_copied_and_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = base_folder(tmp_path / "base", "neox"), tmp_path / "out"
    tensors = load_file(folder / "model.safetensors")
    for layer in range(3):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = upscale(str(folder), out, by="width", hidden=8)
    assert result.max_delta_logit == 0.0
    written = tensors_of(out)
    assert all(torch.equal(written[f"base.{key}"], tensor) for key, tensor in tensors.items())
    load(out)
    assert result.base_parameters == load(folder).num_parameters()


def test_one_seed_one_checkpoint(tmp_path: Path) -> None:
    base_folder(tmp_path / "base")
    outs = []
    for i, seed in enumerate((0, 0, 1)):
        outs.append(tmp_path / str(i))
        upscale(str(tmp_path / "base"), outs[-1], by="width", hidden=8, init="random", seed=seed, verify=False)
    first, second, other = (tensors_of(out) for out in outs)
    assert all(torch.equal(first[key], second[key]) for key in first)
    changed = {key for key in first if not torch.equal(first[key], other[key])}
    assert changed == {key for key in first if key.endswith(("w21", "w22", "expansion.embedding.weight"))}


def test_the_record_names_the_solver_of_every_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the solver is used: above a limit "auto" is randomised for few directions; --svd-solver names another."""
    base = str(base_folder(tmp_path / "base", "llama"))
    monkeypatch.setattr(directions, "FLOAT64_LIMIT", 20)
    monkeypatch.setattr(directions, "BASIS", (1, 0))  # few vectors, so that the results differ visibly

    def widened(solver: Any, **options: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        folder = tmp_path / "-".join([solver, *options.values()])
        result = upscale(base, folder, by="width", hidden=4, heads=1, ffn=4, svd_solver=solver, **options)
        record = json.loads((folder / "upscale.json").read_text(encoding="utf-8"))
        assert record["svd_solver"] == result.svd_solver
        return load_file(folder / "expansion-00001.safetensors"), record["svd_solver"]

    (auto, by_auto), (full, by_full), (random, by_randomized) = map(widened, ("auto", "full", "randomized"))
    roles = ("embedding", "q", "k", "v", "o", "gate", "up", "down")
    few = ("embedding", "o", "gate", "up", "down")  # 4 directions of 32, where q, k and v take 8
    assert by_auto == {role: "randomized" if role in few else "full" for role in roles}
    assert (set(by_full.values()), set(by_randomized.values())) == ({"full"}, {"randomized"})
    for role in roles:
        key = "expansion.embedding.weight" if role == "embedding" else f"expansion.layers.1.{role}.w21"
        same, other = (random, full) if role in few else (full, random)
        assert torch.equal(auto[key], same[key]), role
        assert not torch.equal(auto[key], other[key]), role
    assert set(widened("auto", init="random,svd")[1]) == set(roles[1:])
    assert widened("auto", init="random,zero")[1] == {}


def test_a_copied_file_keeps_its_metadata_and_opens(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3), "한": torch.ones(2, 2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = tmp_path / "a.safetensors"
    names, sha256 = copy_renamed(file, tmp_path / "b.safetensors", lambda name: f"base.{name}")
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert sorted(names) == ["base.a", "base.한"]
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("base.a").tolist() == [0, 1, 2]


def shape(**changes: int) -> LayerShape:
    llama_1b = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8}
    return LayerShape(**(llama_1b | {"head_dim": 64} | changes))


@pytest.mark.parametrize(
    ("base", "hidden", "expected"),
    [
        (shape(), 256, (256, 1024, 4, 1)),  # the paper's sizes for Llama-3.2-1B
        (shape(), 257, (257, 1028, 8, 2)),
        (shape(num_key_value_heads=32), 128, (128, 512, 2, 2)),
        (
            shape(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_key_value_heads=12),
            128,
            (128, 512, 2, 2),
        ),
        (shape(), 1, (1, 4, 4, 1)),
    ],
)
def test_planned_sizes(base: LayerShape, hidden: int, expected: tuple[int, int, int, int]) -> None:
    added = plan_width(base, vocab_size=1000, hidden=hidden)
    sizes = (added.hidden_size, added.intermediate_size, added.num_attention_heads, added.num_key_value_heads)
    assert sizes == expected
    assert added.head_dim == 64


@pytest.mark.slow
def test_a_base_whose_maps_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 decomposition in a complete upscaling, with grouped queries and several files."""
    monkeypatch.setattr(storage, "SHARD_BYTES", 20_000_000)
    changes: dict[str, Any] = {"hidden_size": 1152, "num_attention_heads": 18, "num_key_value_heads": 6}
    changes |= {"head_dim": 64, "intermediate_size": 3072, "vocab_size": 4000, "num_hidden_layers": 2}
    folder = base_folder(tmp_path / "base", "llama-grouped", shard="30MB", dtype=torch.bfloat16, **changes)
    result = upscale(str(folder), tmp_path / "out", by="width", hidden=144, ffn=150)
    assert result.max_delta_logit == 0.0
    assert result.sizes["num_attention_heads"] == 3
    base, written = tensors_of(folder), tensors_of(tmp_path / "out")
    up = base["model.layers.1.mlp.up_proj.weight"].float()
    w21 = written["expansion.layers.1.up.w21"].float()
    norms = w21.norm(dim=1)
    cosines = (w21 @ w21.T / norms[:, None] / norms).fill_diagonal_(0.0)
    assert cosines.abs().max() < 0.02  # orthogonal but for bfloat16
    exact = torch.linalg.svdvals(up)[:150]
    torch.testing.assert_close(norms, exact, rtol=2e-3, atol=0.0)  # but for bfloat16
