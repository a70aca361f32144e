"""Requests that cannot be met, interrupted work, and the record of an upscaling."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPT2Config, LlamaConfig

from scale_cli.errors import RequestError
from scale_cli.surgery import initialise, upscale, verify, width
from tests.helpers import base_folder, tiny_base


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def widen(folder: Path) -> None:
    upscale(str(folder), folder.parent / "wide", by="width", hidden=8, verify=False)
    (folder / "model.safetensors").unlink()
    for file in (folder.parent / "wide").iterdir():
        file.replace(folder / file.name)
    (folder.parent / "wide").rmdir()


def nothing(folder: Path) -> None:
    pass


Q = "model.layers.1.self_attn.q_proj.weight"
CAUSAL = "give a ...ForCausalLM of gpt_neox, llama"
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
        "what is--this: no such folder, and no hub id, which looks like org/name",
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
    "a broken config": (write("config.json", "{"), WIDTH, "BASE/config.json cannot be read: Expecting…"),
    "no model type": (
        write("config.json", "{}"),
        WIDTH,
        "BASE/config.json names no model_type; give the folder of a Hugging Face model",
    ),
    "an impossible config": (
        edit_config(hidden_size=30),
        WIDTH,
        "BASE: its config.json is no llama config: …",
    ),
    "BERT": (
        save_config(BertConfig(architectures=["BertForMaskedLM"])),
        WIDTH,
        f"BASE is a BertForMaskedLM and no causal language model; {CAUSAL}",
    ),
    "no head": (
        save_config(LlamaConfig(architectures=["LlamaForSequenceClassification"])),
        WIDTH,
        f"BASE is a LlamaForSequenceClassification and no causal language model; {CAUSAL}",
    ),
    "a family without architecture": (
        save_config(BertConfig()),
        WIDTH,
        "BASE: model type 'bert' is not supported; supported are gpt_neox, llama; give a base of one of these",
    ),
    "an unknown family": (
        save_config(GPT2Config(architectures=["GPT2LMHeadModel", "GPT2ForCausalLM"])),
        DEPTH,
        "BASE: model type 'gpt2' is not supported; supported are gpt_neox, llama; give a base of one of these",
    ),
    "upscaled already": (
        widen,
        WIDTH,
        "BASE is already upscaled by width; upscale the base that it was made from instead",
    ),
    "upscaled already, by depth": (
        widen,
        DEPTH,
        "BASE is already upscaled by width; upscale the base that it was made from instead",
    ),
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
    "damaged": (truncate, WIDTH, "BASE/model.safetensors is damaged or no safetensors file (…"),
    "a broken index": (
        write("model.safetensors.index.json", "{}"),
        WIDTH,
        "BASE/model.safetensors.index.json is no index of safetensors files: KeyError('weight_map'); fetch it again",
    ),
    "an absent shard": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}'),
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
        "BASE: model.embed_tokens.weight has the shape (61, 32) and config.json says (60, 32); they do not match",
    ),
    "heads beside the groups": (
        nothing,
        WIDTH | {"heads": 3},
        "--heads 3: in base 2 query heads share a key/value head, so heads are added 2 at a time; choose 2 or 4",
    ),
    "fewer heads than a group": (
        nothing,
        WIDTH | {"heads": 1},
        "--heads 1: in base 2 query heads share a key/value head…",
    ),
    "no hidden features": (
        nothing,
        {"by": "width", "hidden": 0},
        "--hidden 0: what is added is at least 1; choose a positive number",
    ),
    "negative heads": (nothing, WIDTH | {"heads": -2}, "--heads -2: what is added is at least 1…"),
    "negative ffn": (nothing, WIDTH | {"ffn": -2}, "--ffn -2: what is added is at least 1…"),
    "hidden missing": (
        nothing,
        {"by": "width"},
        "--by width needs --hidden: how many features to add, as in --hidden 256",
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
    "three inits": (nothing, WIDTH | {"init": "svd,zero,zero"}, "--init svd,zero,zero: give one word for W21 and one…"),
    "a seed below zero": (nothing, WIDTH | {"seed": -1}, "--seed -1: choose a whole number from 0 to 2^63 - 1"),
    "no way": (nothing, {"by": "height"}, "--by height: choose width or depth"),
    "not more layers": (
        nothing,
        {"by": "depth", "layers": 3},
        "--layers 3: base has 3 layers and block expansion only adds; choose 4 to 6",
    ),
    "negative layers": (
        nothing,
        {"by": "depth", "layers": -1},
        "--layers -1: base has 3 layers and block expansion only adds; choose 4 to 6",
    ),
    "too many layers": (
        nothing,
        {"by": "depth", "layers": 7},
        "--layers 7: base has 3 layers and block expansion copies each at most once; choose 4 to 6",
    ),
    "layers missing": (
        nothing,
        {"by": "depth"},
        "--by depth needs --layers: how many layers there shall be in all",
    ),
    "hidden by depth": (
        nothing,
        DEPTH | {"hidden": 8},
        "--hidden 8 belongs to --by width; by depth choose --layers",
    ),
    "init by depth": (
        nothing,
        DEPTH | {"init": "zero"},
        "--init zero belongs to --by width; by depth the copies' output matrices are zero",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    prepare, arguments, message = REFUSED[case]
    folder = base_folder(tmp_path / "base")
    prepare(folder)
    before = tree(tmp_path)
    base = arguments.get("base", "BASE").replace("BASE", str(folder))
    with pytest.raises(RequestError) as refusal:
        upscale(base, tmp_path / "deep" / "out", **{key: value for key, value in arguments.items() if key != "base"})
    found = str(refusal.value).replace(str(folder), "BASE")
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


@pytest.mark.parametrize("arguments", [WIDTH, DEPTH], ids=["width", "depth"])
@pytest.mark.parametrize("where", ["layers", "proof"])
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_an_interruption_between_matrices_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base_folder(tmp_path / "base")
    expand, calls = initialise.expand_linear, []

    def expand_twice(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return expand(*args, **kwargs)

    monkeypatch.setattr(width, "expand_linear", expand_twice)
    with pytest.raises(KeyboardInterrupt):
        upscale(str(tmp_path / "base"), tmp_path / "out", **WIDTH)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("arguments", [WIDTH, DEPTH], ids=["width", "depth"])
def test_a_failed_proof_leaves_nothing(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_folder(tmp_path / "base")
    monkeypatch.setattr(verify, "TOLERANCE_EPS", -1.0)
    with pytest.raises(RuntimeError, match="does not compute what"):
        upscale(str(tmp_path / "base"), tmp_path / "out", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("arguments", [WIDTH, DEPTH], ids=["width", "depth"])
def test_a_base_without_all_its_tensors_is_refused_by_the_proof(arguments: dict[str, Any], tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", "llama")
    edit_tensors(lambda tensors: tensors.pop("lm_head.weight"))(folder)
    with pytest.raises(RequestError, match=r"base lacks lm_head.weight; give a whole checkpoint"):
        upscale(str(folder), tmp_path / "out", **arguments)


def test_the_record(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    result = upscale(str(folder), tmp_path / "wide", by="width", hidden=8, init="random", seed=5)
    record = json.loads((tmp_path / "wide" / "upscale.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert record["base"] == {"path": str(folder), "weights_sha256": {"model.safetensors": digest}}
    assert record["proof"] == {
        "max_delta_logit": 0.0,
        "max_logit": record["proof"]["max_logit"],
        "tolerance": pytest.approx(4 * 2**-23 * record["proof"]["max_logit"]),
        "dtype": "float32",
        "probe_seed": 5,
        "probe_shape": [2, 64],
    }
    assert {key: record[key] for key in ("by", "method", "initialisation", "seed", "sizes")} == {
        "by": "width",
        "method": "scale",
        "initialisation": {"w21": "random", "w22": "random"},
        "seed": 5,
        "sizes": result.sizes,
    }
    assert result.tolerance == record["proof"]["tolerance"]
    assert set(result.seconds) == {"write", "verify"}

    result = upscale(str(folder), tmp_path / "deep", by="depth", layers=5, verify=False)
    record = json.loads((tmp_path / "deep" / "upscale.json").read_text(encoding="utf-8"))
    assert (record["by"], record["method"], record["proof"]) == ("depth", "llama-pro", None)
    assert (record["new_layers"], record["copied_layers"]) == ([1, 4], [0, 2])
    assert (result.max_delta_logit, result.tolerance, set(result.seconds)) == (None, None, {"write"})


def test_a_hub_id_is_fetched_and_recorded_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = base_folder(tmp_path / "cache" / "snapshots" / "0123abc")
    asked: list[tuple[object, ...]] = []

    def snapshot_download(name: str, *, revision: str | None, **patterns: list[str]) -> str:
        asked.append((name, revision))
        assert "*.safetensors" in patterns["allow_patterns"]
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    upscale("org/tiny", tmp_path / "out", by="width", hidden=8, revision="v1")
    assert asked == [("org/tiny", "v1")]
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
