"""Requests that cannot be met, interrupted work, and the record of an upscaling."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3MoeConfig

from scale_cli.core.errors import RequestError
from scale_cli.surgery import upscale, verify
from tests.helpers import base_folder, refusal, tiny_base
from tests.runs import tree


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")

    return edit


def save_config(config: Any) -> Callable[[Path], None]:
    return lambda folder: config.save_pretrained(folder)


def write(name: str, content: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return do


def rename(old: str, new: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / old).rename(folder / new)

    return do


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return do


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def sharded(edit: Callable[[Path], object]) -> Callable[[Path], None]:
    """Split the base into several files, then apply `edit`."""

    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        base_folder(folder, shard="20KB")
        edit(folder)

    return do


def edit_index(edit: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text(encoding="utf-8"))
        edit(index["weight_map"])
        file.write_text(json.dumps(index), encoding="utf-8")

    return sharded(do)


def hold_twice(folder: Path) -> None:
    save_file({"other": torch.zeros(1), Q: torch.zeros(1)}, folder / "more.safetensors")
    edit_index(lambda weight_map: weight_map.update(other="more.safetensors"))(folder)


def widen(folder: Path) -> None:
    upscale(str(folder), folder.parent / "wide", by="width", hidden=8, verify=False)
    (folder / "model.safetensors").unlink()
    for file in (folder.parent / "wide").iterdir():
        file.replace(folder / file.name)
    (folder.parent / "wide").rmdir()


def nothing(folder: Path) -> None:
    pass


ROOT = Path(__file__).parent.parent.parent
Q = "model.layers.1.self_attn.q_proj.weight"
SHARD = "model-00003-of-00006.safetensors"
"""The file that holds it, if there are several."""
SUPPORTED = "gemma3_text, gpt_neox, llama, mistral, olmo2, qwen2, qwen3"
CAUSAL = f"give a ...ForCausalLM of {SUPPORTED}"
WIDTH: dict[str, Any] = {"by": "width", "hidden": 8}
DEPTH: dict[str, Any] = {"by": "depth", "layers": 4}
# What was done to the base, the request, and the message; one that ends with … goes on in another's words.
REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "no folder": (
        nothing,
        WIDTH | {"base": "/no/such/folder"},
        "/no/such/folder: no such folder; give a checkpoint's folder or a hub id like org/name",
    ),
    "not on the hub": (
        nothing,
        WIDTH | {"base": "org/no-such-model"},
        "org/no-such-model: no such folder, and as a hub id it is not in the cache and the hub cannot be reached; give "
        "a folder, or go online (HF_HUB_OFFLINE unset)",
    ),
    "no hub id": (
        nothing,
        WIDTH | {"base": "what is--this"},
        "what is--this: no such folder, and not a hub id either; a hub id looks like org/name",
    ),
    "a file": (
        write("file", ""),
        WIDTH | {"base": "BASE/file"},
        "BASE/file is a file; give the folder of a Hugging Face model or a hub id",
    ),
    "a revision of a folder": (
        nothing,
        WIDTH | {"revision": "main"},
        "--revision main: BASE is a folder; a revision belongs to a hub id",
    ),
    "no config": (
        rename("config.json", "other.json"),
        WIDTH,
        "BASE holds no config.json; give the folder of a Hugging Face model",
    ),
    "a broken config": (write("config.json", "{"), WIDTH, "BASE/config.json is damaged: it is not JSON (Expecting…"),
    "no model type": (
        write("config.json", "{}"),
        WIDTH,
        "BASE/config.json names no model_type; give the folder of a Hugging Face model",
    ),
    "an impossible config": (
        edit_config(hidden_size=30),
        WIDTH,
        "BASE: its config.json is not a valid llama config: …",
    ),
    "BERT": (
        save_config(BertConfig(architectures=["BertForMaskedLM"])),
        WIDTH,
        f"BASE is a BertForMaskedLM, not a causal language model; {CAUSAL}",
    ),
    "no head": (
        save_config(LlamaConfig(architectures=["LlamaForSequenceClassification"])),
        WIDTH,
        f"BASE is a LlamaForSequenceClassification, not a causal language model; {CAUSAL}",
    ),
    "a family without architecture": (
        save_config(BertConfig()),
        WIDTH,
        f"BASE: model type 'bert' is not supported; supported are {SUPPORTED}; give a base of one of these",
    ),
    "an unknown family": (
        save_config(GPT2Config(architectures=["GPT2LMHeadModel", "GPT2ForCausalLM"])),
        DEPTH,
        f"BASE: model type 'gpt2' is not supported; supported are {SUPPORTED}; give a base of one of these",
    ),
    "a mixture of experts": (
        save_config(Qwen3MoeConfig(architectures=["Qwen3MoeForCausalLM"])),
        WIDTH,
        f"BASE is a mixture of experts (qwen3_moe); give a dense model of {SUPPORTED}",
    ),
    "both directions": (
        save_config(Gemma3TextConfig(architectures=["Gemma3ForCausalLM"], use_bidirectional_attention=True)),
        WIDTH,
        "BASE has bidirectional attention (use_bidirectional_attention); give a causal model",
    ),
    "upscaled already": (widen, WIDTH, "BASE is already upscaled by width; upscale its base instead"),
    "quantised": (
        edit_config(quantization_config={"quant_method": "gptq"}),
        WIDTH,
        "BASE is quantised; give the checkpoint it was quantised from",
    ),
    "quantised without saying so": (
        edit_tensors(lambda tensors: tensors.update({Q: tensors[Q].to(torch.int8)})),
        WIDTH,
        f"BASE: {Q} is stored as I8; give a checkpoint in F16, BF16, F32, F64",
    ),
    ".bin only": (
        rename("model.safetensors", "pytorch_model.bin"),
        WIDTH,
        "BASE holds pytorch_model.bin and no safetensors; convert it with AutoModelForCausalLM.from_pretrained('BASE')"
        ".save_pretrained(FOLDER), copy its tokenizer there, and give FOLDER",
    ),
    "no weights": (
        rename("model.safetensors", "other"),
        DEPTH,
        "BASE holds no weights in safetensors; convert it with …",
    ),
    "damaged": (truncate, WIDTH, "BASE/model.safetensors is damaged or not a safetensors file (…"),
    "an empty shard": (
        sharded(lambda folder: os.truncate(folder / SHARD, 0)),
        WIDTH,
        f"BASE/{SHARD} is damaged or not a safetensors file (…",
    ),
    "an index that names too much": (
        edit_index(lambda weight_map: weight_map.update(ghost=SHARD)),
        WIDTH,
        f"BASE/{SHARD} lacks ghost, which model.safetensors.index.json names; fetch both again",
    ),
    "an index that names too little": (
        edit_index(lambda weight_map: weight_map.pop(Q)),
        DEPTH,
        f"BASE/{SHARD} holds {Q}, which model.safetensors.index.json lacks; fetch both again",
    ),
    "a tensor in two files": (
        hold_twice,
        WIDTH,
        f"BASE/{SHARD} and more.safetensors both hold {Q}; fetch the checkpoint again",
    ),
    "a broken index": (
        sharded(write("model.safetensors.index.json", "{}")),
        WIDTH,
        "BASE/model.safetensors.index.json is damaged: weight_map: the field is missing; restore it, or make it again",
    ),
    "an absent shard": (
        edit_index(lambda weight_map: weight_map.update(other="more.safetensors")),
        WIDTH,
        "BASE lacks more.safetensors, which model.safetensors.index.json names; fetch the missing files",
    ),
    "an absent tensor": (
        edit_tensors(lambda tensors: tensors.pop(Q)),
        DEPTH,
        f"BASE lacks the tensor {Q}; its weights and its config.json do not match",
    ),
    "a tensor of another shape": (
        edit_config(vocab_size=60),
        WIDTH,
        "BASE: model.embed_tokens.weight has the shape (61, 32), and (60, 32) by config.json; they do not match",
    ),
    "an absent head": (
        edit_config(tie_word_embeddings=False),
        WIDTH,
        "BASE lacks the tensor lm_head.weight; its weights and its config.json do not match",
    ),
    "more layers than the config says": (
        edit_config(num_hidden_layers=2),
        WIDTH,
        "BASE holds the tensor model.layers.2.input_layernorm.weight, which a model of its config.json lacks; its "
        "weights and its config.json do not match",
    ),
    "fewer layers than the config says": (
        edit_config(num_hidden_layers=4),
        {"by": "depth", "layers": 5},
        "BASE lacks the tensor model.layers.3.input_layernorm.weight; its weights and its config.json do not match",
    ),
    "heads beside the groups": (
        nothing,
        WIDTH | {"heads": 3},
        "--heads 3: in base 2 query heads share a key/value head, so heads are added 2 at a time; choose 2 or 4",
    ),
    "no hidden features": (
        nothing,
        {"by": "width", "hidden": 0},
        "--hidden 0: an added size is at least 1; choose a positive number",
    ),
    "negative heads": (nothing, WIDTH | {"heads": -2}, "--heads -2: an added size is at least 1…"),
    "hidden missing": (
        nothing,
        {"by": "width"},
        "--by width needs --hidden, the number of features to add, as in --hidden 256",
    ),
    "layers by width": (
        nothing,
        WIDTH | {"layers": 4},
        "--layers 4 belongs to --by depth; by width choose --hidden, --heads and --ffn",
    ),
    "more hidden than svd has": (
        nothing,
        {"by": "width", "hidden": 33},
        "--hidden 33: svd takes at most 32 from the maps of base; choose --hidden up to 32, or --init random",
    ),
    "more heads than svd has": (
        nothing,
        WIDTH | {"heads": 6},
        "--heads 6: svd takes at most 4 from the maps of base; choose --heads up to 4, or --init random",
    ),
    "more ffn than svd has": (
        nothing,
        WIDTH | {"ffn": 33},
        "--ffn 33: svd takes at most 32 from the maps of base; choose --ffn up to 32, or --init random",
    ),
    "no whole group of heads in svd": (
        lambda folder: tiny_base("llama-biased", head_dim=12).save_pretrained(folder),
        WIDTH,
        "--heads 4: svd takes at most 0 from the maps of base; choose --init random",
    ),
    "an unknown init": (
        nothing,
        WIDTH | {"init": "svd,he"},
        "--init svd,he: give one word for W21 and one for W22, each of zero, random, svd, as in svd,zero",
    ),
    "an unknown solver": (
        nothing,
        WIDTH | {"svd_solver": "arpack"},
        "--svd-solver arpack: choose auto, full or randomized",
    ),
    "a solver without directions": (
        nothing,
        WIDTH | {"svd_solver": "full", "init": "random,zero"},
        "--svd-solver full belongs to the init svd, which --init random,zero lacks",
    ),
    "a solver by depth": (
        nothing,
        DEPTH | {"svd_solver": "full"},
        "--svd-solver full belongs to --by width; by depth nothing is decomposed",
    ),
    "a seed below zero": (nothing, WIDTH | {"seed": -1}, "--seed -1: choose a whole number from 0 to 2^63 - 1"),
    "no way": (nothing, {"by": "height"}, "--by height: choose width or depth"),
    "not more layers": (
        nothing,
        {"by": "depth", "layers": 3},
        "--layers 3: base has 3 layers and block expansion only adds; choose 4 to 6",
    ),
    "too many layers": (
        nothing,
        {"by": "depth", "layers": 7},
        "--layers 7: base has 3 layers and block expansion copies each at most once; choose 4 to 6",
    ),
    "layers missing": (nothing, {"by": "depth"}, "--by depth needs --layers, the total number of layers"),
    "hidden by depth": (nothing, DEPTH | {"hidden": 8}, "--hidden 8 belongs to --by width; by depth choose --layers"),
    "init by depth": (
        nothing,
        DEPTH | {"init": "zero"},
        "--init zero: by depth choose copy or random; their output matrices are zero either way",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_requests_end_with_one_line(case: str, tmp_path: Path) -> None:
    prepare, arguments, message = REFUSED[case]
    folder = base_folder(tmp_path / "base")
    prepare(folder)
    before = tree(tmp_path)
    base = arguments.get("base", "BASE").replace("BASE", str(folder))
    found = refusal(
        upscale, base, tmp_path / "deep" / "out", **{key: value for key, value in arguments.items() if key != "base"}
    ).replace(str(folder), "BASE")
    assert found.startswith(message.removesuffix("…")) if message.endswith("…") else found == message
    assert "\n" not in found
    assert tree(tmp_path) == before
    assert not (tmp_path / "deep").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    base_folder(tmp_path / "base")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("kept", encoding="utf-8")
    with pytest.raises(RequestError, match="out already holds files; choose a new or an empty folder"):
        upscale(str(tmp_path / "base"), tmp_path / "out", **WIDTH)
    assert tree(tmp_path / "out") == {"file": b"kept"}


@pytest.mark.parametrize(("arguments", "where"), [(WIDTH, "layers"), (DEPTH, "proof")], ids=["width", "depth"])
def test_an_interruption_leaves_nothing(
    arguments: dict[str, Any], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    base_folder(tmp_path / "base")
    before = tree(tmp_path)
    progress: dict[str, Any] = {}
    if where == "layers":
        progress["progress"] = interrupt
    else:
        monkeypatch.setattr(verify, "_logits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        upscale(str(tmp_path / "base"), tmp_path / "out", **arguments, **progress)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("arguments", [WIDTH, DEPTH], ids=["width", "depth"])
def test_a_failed_proof_leaves_nothing(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_folder(tmp_path / "base")
    monkeypatch.setattr(verify, "TOLERANCE_EPS", -1.0)
    with pytest.raises(RuntimeError, match="the logits of the upscaled model differ"):
        upscale(str(tmp_path / "base"), tmp_path / "out", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_the_record(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    result = upscale(str(folder), tmp_path / "wide", by="width", hidden=8, init="random", seed=5)
    record = json.loads((tmp_path / "wide" / "upscale.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    config = (folder / "config.json").read_text(encoding="utf-8")
    assert record["base"] == {"name": folder.name, "weights_sha256": {"model.safetensors": digest}, "config": config}
    assert record["proof"] == {
        "max_delta_logit": 0.0,
        "max_logit": record["proof"]["max_logit"],
        "tolerance": pytest.approx(4 * 2**-23 * record["proof"]["max_logit"]),
        "dtype": "float32",
        "probe_seed": 5,
        "probe_shape": [2, 64],
    }
    assert {key: record[key] for key in ("by", "method", "initialisation", "svd_solver", "seed", "sizes")} == {
        "by": "width",
        "method": "scale",
        "initialisation": {"w21": "random", "w22": "random"},
        "svd_solver": {},
        "seed": 5,
        "sizes": result.sizes,
    }
    assert result.tolerance == record["proof"]["tolerance"]
    assert set(result.seconds) == set(result.cpu_seconds) == {"copy", "svd", "write", "verify"}
    assert 0 < result.peak_bytes["write"] <= result.peak_bytes["verify"]

    result = upscale(str(folder), tmp_path / "deep", by="depth", layers=5, verify=False)
    record = json.loads((tmp_path / "deep" / "upscale.json").read_text(encoding="utf-8"))
    assert (record["by"], record["method"], record["proof"]) == ("depth", "llama-pro", None)
    assert (record["new_layers"], record["copied_layers"]) == ([1, 4], [0, 2])
    assert (result.max_delta_logit, result.tolerance, set(result.seconds)) == (None, None, {"copy", "write"})


MIXED = {
    "embed_tokens": torch.float32,
    "layers.0": torch.bfloat16,
    "layers.1": torch.float16,
    "layers.2": torch.float64,
    "norm": torch.float32,
}
"""A dtype for every part of a base; the last part in a tensor's name counts."""


@pytest.mark.parametrize(
    ("arguments", "shard"), [(WIDTH, "20KB"), (DEPTH | {"layers": 6}, "1GB")], ids=["width", "depth"]
)
def test_dtypes_may_be_mixed(arguments: dict[str, Any], shard: str, tmp_path: Path) -> None:
    """Base tensors stay bitwise; added ones have the dtype of the tensor that they extend or copy."""
    folder, out = base_folder(tmp_path / "base", "llama-biased", shard=shard), tmp_path / "out"
    before: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            dtype = [dtype for part, dtype in MIXED.items() if part in name] or [torch.float32]
            tensors[name] = tensor.to(dtype[-1])
        save_file(tensors, file, metadata={"format": "pt"})
        before |= tensors
    result = upscale(str(folder), out, **arguments)
    assert result.max_delta_logit == 0.0
    after = {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}
    record = json.loads((out / "upscale.json").read_text(encoding="utf-8"))
    if result.by == "width":
        kept = {f"base.{name}": name for name in before}
        added = {name: name.removeprefix("expansion.") for name in record["added"]}
        dtypes = {"embedding": torch.float32, "head": torch.float32} | MIXED
        for name, part in added.items():
            expected = [dtype for word, dtype in dtypes.items() if part.startswith(word)] or [torch.float32]
            if "norm" not in part:
                assert after[name].dtype == expected[0], name
    else:
        layer_of = {new: old for old, new in enumerate(i for i in range(6) if i not in record["new_layers"])}
        copied = dict(zip(record["new_layers"], record["copied_layers"], strict=True))
        prefix = "model.layers."

        def original(name: str) -> str:
            index, _, rest = name.removeprefix(prefix).partition(".")
            return f"{prefix}{(layer_of | copied)[int(index)]}.{rest}" if name.startswith(prefix) else name

        kept = {name: original(name) for name in record["pretrained"]}
        assert all(after[name].dtype == before[original(name)].dtype for name in record["added"])
    assert sorted(kept.values()) == sorted(before)
    for name, old in kept.items():
        assert after[name].dtype == before[old].dtype
        assert torch.equal(after[name], before[old])


def test_the_size_that_an_index_states_does_not_matter(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", shard="20KB")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(index | {"metadata": {"total_size": -5}}), encoding="utf-8")
    upscale(str(folder), tmp_path / "out", **WIDTH)
    written = json.loads((tmp_path / "out" / file.name).read_text(encoding="utf-8"))
    held = [load_file(file) for file in (tmp_path / "out").glob("*.safetensors")]
    assert written["metadata"]["total_size"] == sum(t.nbytes for tensors in held for t in tensors.values())


def test_one_file_goes_before_an_index_as_in_the_library(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    write("model.safetensors.index.json", '{"weight_map": {"of another": "model-00001-of-00009.safetensors"}}')(folder)
    result = upscale(str(folder), tmp_path / "out", **WIDTH)
    assert result.max_delta_logit == 0.0
    record = json.loads((tmp_path / "out" / "upscale.json").read_text(encoding="utf-8"))
    assert record["base"]["weights_sha256"].keys() == {"model.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [WIDTH | {"ffn": 16}, DEPTH], ids=["width", "depth"])
def test_no_more_is_held_than_a_shard_and_a_matrix(arguments: dict[str, Any], tmp_path: Path) -> None:
    """A base of 600 MB, most of it one embedding, takes at most 300 MB more than a tiny one.

    A third of that is the system's: how much of the libraries it keeps in memory changes from run to run.
    """
    sizes: dict[str, Any] = {
        "vocab_size": 400_000,
        "hidden_size": 512,
        "intermediate_size": 40_000,
        "num_attention_heads": 8,
    }
    base_folder(tmp_path / "large", dtype=torch.bfloat16, **sizes)
    base_folder(tmp_path / "small")
    peaks = []
    for name in ("small", "large"):
        program = (
            "from scale_cli.surgery import upscale; from pathlib import Path; "
            f"print(upscale({str(tmp_path / name)!r}, Path({str(tmp_path / name)!r} + '-out'), verify=False, "
            f"**{arguments}).peak_bytes['write'])"
        )
        # A process's peak begins at that of the one it was started from: so from a shell, which is small.
        command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, program]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr
        peaks.append(int(ended.stdout))
    size = sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors"))
    assert size > 600e6
    assert peaks[1] - peaks[0] < 300e6


def test_a_hub_id_is_fetched_and_recorded_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = base_folder(tmp_path / "cache" / "snapshots" / "0123abc")
    asked: list[tuple[object, ...]] = []
    patterns: list[str] = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str], **_: object) -> str:
        asked.append((name, revision))
        patterns.extend(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    upscale("org/tiny", tmp_path / "out", by="width", hidden=8, revision="v1")
    assert asked == [("org/tiny", "v1"), ("org/tiny", "0123abc")]  # the second for files in folders
    assert {"*.safetensors", "config.json", "additional_chat_templates/*"} <= set(patterns)
    record = json.loads((tmp_path / "out" / "upscale.json").read_text(encoding="utf-8"))
    assert (record["base"]["id"], record["base"]["revision"]) == ("org/tiny", "0123abc")
    with pytest.raises(RequestError, match=re.escape("--layers 1: tiny has 3 layers")):
        upscale("org/tiny", tmp_path / "other", by="depth", layers=1)


def test_progress_counts_the_layers(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    for arguments, total in ((WIDTH, 3), (DEPTH, 1)):
        seen: list[tuple[int, ...]] = []
        record = functools.partial(lambda calls, *counts: calls.append(counts), seen)
        upscale(str(folder), tmp_path / str(total), verify=False, progress=record, **arguments)
        assert seen == [(done + 1, total) for done in range(total)]


@pytest.mark.parametrize("init", ["svd,zero", "random"])
def test_a_tensor_that_is_not_a_number_is_named(init: str, tmp_path: Path) -> None:
    """NaN in a row of the embedding that no text uses passes in the library; every direction of an svd would be NaN."""
    base = base_folder(tmp_path / "base", "llama")
    stored = load_file(base / "model.safetensors")
    stored["model.embed_tokens.weight"][7] = math.nan
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"model\.embed_tokens\.weight holds NaN or infinite values"):
        upscale(str(base), tmp_path / "out", by="width", hidden=8, init=init)
    assert not (tmp_path / "out").exists()


def test_a_base_that_overflows_in_float16_is_proved_in_float32(tmp_path: Path) -> None:
    base = tiny_base("llama", dtype=torch.float16)
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight.mul_(600)
        base.model.layers[0].mlp.down_proj.weight.fill_(100)
        base.model.layers[0].mlp.gate_proj.weight.mul_(600)
    base.save_pretrained(tmp_path / "base")
    result = upscale(str(tmp_path / "base"), tmp_path / "out", by="width", hidden=8)
    record = json.loads((tmp_path / "out" / "upscale.json").read_text(encoding="utf-8"))
    assert (record["proof"]["dtype"], result.max_delta_logit) == ("float32", 0.0)
    with torch.no_grad():
        base.lm_head.weight[3] = math.nan
    base.save_pretrained(tmp_path / "base")
    message = "gives NaN or infinite logits at 128 of 128 random tokens, in float32 too"
    for by in ({"by": "width", "hidden": 8}, {"by": "depth", "layers": 4}):
        with pytest.raises(RequestError, match=message):
            upscale(str(tmp_path / "base"), tmp_path / "no", **by)  # type: ignore[arg-type]
        assert not (tmp_path / "no").exists()
