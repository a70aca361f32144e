"""The base is restored bit for bit, with config and tokenizer, from every checkpoint that was made from it."""

from __future__ import annotations

import json
import shutil
import struct
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.restore import export_base, renumbered
from scale_cli.core.records import sha256_file
from scale_cli.methods import METHODS
from scale_cli.surgery import upscale
from scale_cli.surgery.depth import new_layers, plan_depth
from tests.helpers import BASES, base_folder, load, refusal
from tests.runs import PARTIAL, World, run, save, tree

UPSCALINGS: dict[str, dict[str, Any]] = {
    "width": {"by": "width", "hidden": 8, "init": "random"},
    "depth": {"by": "depth", "layers": 5},
}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors in the weight files of a folder."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_is_base(out: Path, base: Path) -> None:
    """`out` equals `base`: the tensors bitwise, and all other files but the index and the card byte for byte."""
    found, expected = tensors_of(out), tensors_of(base)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name].view(torch.uint8), expected[name].view(torch.uint8))
    ignored = (".safetensors", ".index.json", "README.md")
    others = [{name: content for name, content in tree(f).items() if not name.endswith(ignored)} for f in (out, base)]
    assert others[0] == others[1]
    load(out)


@pytest.mark.parametrize(
    ("name", "by", "shard"),
    [*zip(BASES, cycle(UPSCALINGS), cycle(("1GB", "30KB", "30KB", "1GB"))), ("llama-grouped", "width", "30KB")],
)
def test_from_an_upscaled_folder(name: str, by: str, shard: str, tmp_path: Path) -> None:
    """Each base by one of the ways, in one file or in several."""
    base = base_folder(tmp_path / "base", name, shard=shard)
    upscale(str(base), tmp_path / "up", verify=False, **UPSCALINGS[by])
    result = export_base(str(tmp_path / "up"), tmp_path / "out")
    assert_is_base(tmp_path / "out", base)
    files = {file.name: sha256_file(file) for file in base.glob("*.safetensors")}
    assert {file.name: sha256_file(file) for file in (tmp_path / "out").glob("*.safetensors")} == files
    assert result.weights_sha256 == dict.fromkeys(files, "equal")
    assert (len(files) > 1) == (shard == "30KB")
    assert (result.form, result.dtype, result.parameters) == ("plain", "float32", load(base).num_parameters())


@pytest.mark.parametrize("by", UPSCALINGS)
def test_in_bfloat16_and_with_a_config_that_others_wrote(by: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "qwen2", dtype=torch.bfloat16)
    file = base / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {name: config[name] for name in sorted(config, reverse=True) if name not in ("layer_types", "dtype")}
    file.write_bytes(json.dumps(config | {"torch_dtype": "bfloat16", "_name": "한"}, indent=1).encode() + b"\r\n")
    upscale(str(base), tmp_path / "up", verify=False, **UPSCALINGS[by])
    result = export_base(str(tmp_path / "up"), tmp_path / "out")
    assert_is_base(tmp_path / "out", base)
    assert (result.dtype, result.weights_sha256) == ("bfloat16", {"model.safetensors": "equal"})


@pytest.mark.parametrize(("method", "family"), [*zip(PARTIAL, cycle(("llama", "neox")))])
def test_from_a_run_and_its_export(method: str, family: str, finished: Any, world: World, tmp_path: Path) -> None:
    base, folder = world.checkpoint(family), finished(method, family).folder
    result = export_base(str(folder), tmp_path / "out")
    assert_is_base(tmp_path / "out", base)
    upscaled = METHODS[method].needs[0] != "plain"
    assert result.weights_sha256 == {"model.safetensors": "equal" if upscaled else "not recorded"}
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    export(str(folder), tmp_path / "export")
    if upscaled:
        again = export_base(str(tmp_path / "export"), tmp_path / "again")
        assert_is_base(tmp_path / "again", base)
        assert again.weights_sha256 == {"model.safetensors": "equal"}


@pytest.mark.parametrize(("name", "shard"), [("llama", "1GB"), ("neox", "30KB"), ("gemma3", "30KB")])
def test_from_a_widened_model_that_the_library_saved_again(name: str, shard: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", name)
    upscale(str(base), tmp_path / "up", verify=False, **UPSCALINGS["width"])
    load(tmp_path / "up").save_pretrained(tmp_path / "again", max_shard_size=shard)
    for file in base.glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / "again" / file.name)
    result = export_base(str(tmp_path / "again"), tmp_path / "out")
    values = [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (tmp_path / "out", base)]
    assert values[0] == values[1]
    shutil.copyfile(base / "config.json", tmp_path / "out" / "config.json")  # the library has sorted the keys
    assert_is_base(tmp_path / "out", base)
    assert result.weights_sha256 is not None
    assert set(result.weights_sha256.values()) <= {"written anew", "not recorded"}


def test_from_a_deepened_model_that_the_library_saved_again(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "llama")
    upscale(str(base), tmp_path / "up", verify=False, **UPSCALINGS["depth"])
    again = tmp_path / "again"
    load(tmp_path / "up").save_pretrained(again)
    assert refusal(export_base, str(again), tmp_path / "out") == (
        f"--base: {again} is neither upscaled nor a run, so it contains no base; export it without --base"
    )
    for file in ("upscale.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tmp_path / "up" / file, again / file)
    result = export_base(str(again), tmp_path / "out")
    assert_is_base(tmp_path / "out", base)
    assert set(result.weights_sha256 or {}) == {"model.safetensors"}


def test_a_file_whose_header_is_not_padded(tmp_path: Path) -> None:
    """As older versions of safetensors wrote files, without aligned data."""
    base = base_folder(tmp_path / "base", "neox")
    file = base / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip().replace(b"embed_out", b"embed_out")
    header = header.replace(b'{"format":"pt"}', b'{"format":"pt","a":"12"}').replace(b'"12"', b'"1"')
    header += b"" if len(header) % 8 else b" "
    file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    assert len(header) % 8
    upscale(str(base), tmp_path / "up", verify=False, **UPSCALINGS["width"])
    result = export_base(str(tmp_path / "up"), tmp_path / "out")
    assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert result.weights_sha256 == {file.name: "equal"}


@pytest.mark.parametrize("by", UPSCALINGS)
def test_a_base_that_was_changed_is_not_given_for_the_base(by: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    upscale(str(base), tmp_path / "up", verify=False, **UPSCALINGS[by])
    file = tmp_path / "up" / "base-model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    message = refusal(export_base, str(tmp_path / "up"), tmp_path / "out")
    assert message.startswith(
        f"--base: {tmp_path / 'up'}/base-model.safetensors does not contain the base that was upscaled"
    )
    assert f", not {sha256_file(base / 'model.safetensors')}; use another copy of" in message
    assert not (tmp_path / "out").exists()


def test_an_export_that_was_cast(finished: Any, world: World, tmp_path: Path) -> None:
    export(str(finished("scale-preserve").folder), tmp_path / "cast", dtype="bfloat16")
    assert refusal(export_base, str(tmp_path / "cast"), tmp_path / "out") == (
        f"--base: {tmp_path / 'cast'} was exported with --dtype bfloat16, which has cast its base as well; give the "
        "checkpoint that was exported"
    )
    assert not (tmp_path / "out").exists()
    export(str(finished("scale-preserve").folder), tmp_path / "same", dtype="float32")  # as it was
    export_base(str(tmp_path / "same"), tmp_path / "out")
    assert_is_base(tmp_path / "out", world.checkpoint("llama"))


@pytest.mark.parametrize("kind", ["plain", "depth"])
def test_of_fft_nothing_is_left(kind: str, world: World, tmp_path: Path) -> None:
    run(str(world.checkpoint("llama", kind)), tmp_path / "fft", world.recipe("fft", steps=1))
    export(str(tmp_path / "fft"), tmp_path / "export")
    sources = [tmp_path / "fft", tmp_path / "export"]
    if kind == "depth":
        run(str(tmp_path / "fft"), tmp_path / "more", world.recipe("llama-pro", steps=1))
        sources.append(tmp_path / "more")
    for source in sources:
        assert refusal(export_base, str(source), tmp_path / "out") == (
            f"--base: {source} was trained by fft, which changes every tensor, so it does not contain its base; "
            "give the checkpoint that it was trained from"
        )
    assert not (tmp_path / "out").exists()


def test_the_base_of_a_run_on_an_fft_run_is_that(world: World, tmp_path: Path) -> None:
    run(str(world.checkpoint("llama")), tmp_path / "fft", world.recipe("fft", steps=1))
    run(str(tmp_path / "fft"), tmp_path / "lora", world.recipe("lora", steps=1))
    export_base(str(tmp_path / "lora"), tmp_path / "out")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fft" / name).read_bytes()


@pytest.mark.parametrize("layers", [(2, 3), (3, 4), (3, 6), (12, 20), (11, 13)])
def test_renumbering_is_undone(layers: tuple[int, int]) -> None:
    new = tuple(new_layers(plan_depth(layers[0], layers=layers[1])))
    names = [renumbered(f"model.layers.{i}.mlp.up_proj.weight", "model.layers.", new) for i in range(layers[1])]
    assert [name for name in names if name] == [f"model.layers.{i}.mlp.up_proj.weight" for i in range(layers[0])]
    assert [i for i, name in enumerate(names) if name is None] == list(new)
    assert renumbered("lm_head.weight", "model.layers.", new) == "lm_head.weight"


def test_saved_tokenizers_are_the_bases(world: World, tmp_path: Path) -> None:
    """A run and the restored base have the files of the base's tokenizer, not the library's current form of them."""
    base = save(load(world.checkpoint("llama")), tmp_path / "base", world.tokenizer)
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8"))), encoding="utf-8")
    run(str(base), tmp_path / "run", world.recipe("freeze", steps=1))
    assert (tmp_path / "run" / file.name).read_bytes() == file.read_bytes()
    export_base(str(tmp_path / "run"), tmp_path / "out")
    assert_is_base(tmp_path / "out", base)
