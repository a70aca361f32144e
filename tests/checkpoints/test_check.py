"""What a checkpoint's files may hold is checked alike by every command that loads one, before its work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import scale_cli
from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe
from scale_cli.checkpoints.restore import export_base
from scale_cli.core.errors import RequestError
from scale_cli.evaluation.subject import targets
from scale_cli.surgery import upscale
from scale_cli.training.request import check_request
from tests.runs import Run, World, reload

Finished = Callable[[str, str], Run]
Damage = Callable[[Path], Any]
Door = Callable[[World, Path, Path], Any]
"""(world, the damaged folder, a new folder)"""

DOORS: dict[str, Door] = {
    "eval": lambda world, folder, out: targets([str(folder)], dtype=None, device=torch.device("cpu")),
    "train": lambda world, folder, out: check_request(str(folder), out, world.recipe("fft"), resume=False),
    "export": lambda world, folder, out: export(str(folder), out),
    "upscale": lambda world, folder, out: upscale(str(folder), out, by="width", hidden=8),
    "load": lambda world, folder, out: scale_cli.load(folder),
}


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Change the tensors of a folder in place."""

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        stored = load_file(file)
        change(stored)
        save_file(stored, file, metadata={"format": "pt"})

    return damage


def config(**changes: Any) -> Damage:
    """Change entries of config.json."""

    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")

    return damage


def cut(name: str) -> Damage:
    """Cut the end of a file off."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 40)


def as_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


NAME = "model.layers.1.mlp.down_proj.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a tensor is missing": (tensors(lambda t: t.pop(NAME)), f"lacks the tensor {NAME}"),
    "an unknown tensor": (tensors(lambda t: t.update(extra=torch.ones(2))), "holds the tensor extra"),
    "another shape": (tensors(lambda t: t.update({NAME: t[NAME][:, 1:].contiguous()})), f"{NAME} has the shape"),
    "whole numbers": (tensors(lambda t: t.update({NAME: t[NAME].to(torch.int8)})), f"{NAME} is stored as I8"),
    "no positions": (config(max_position_embeddings=-1), "config.json has max_position_embeddings -1, at least 1"),
    "fewer layers": (config(num_hidden_layers=1), "holds the tensor model.layers.1."),
    "two heads": (
        tensors(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1})),
        "ties lm_head.weight to model.embed_tokens.weight",
    ),
    "quantised": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantised"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), r"an adapter \(adapter_config.json\)"),
    "pickled weights": (as_bin, "pytorch_model.bin and no safetensors"),
    "half the weights": (cut("model.safetensors"), "model.safetensors is damaged"),
    "half a config": (cut("config.json"), "config.json is damaged"),
    "half a tokenizer": (cut("tokenizer.json"), "tokenizer.json is damaged"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_at_every_door(damage: str, door: str, world: World, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    folder = shutil.copytree(world.checkpoint("llama"), tmp_path / "base")
    change(folder)
    with pytest.raises(RequestError, match=message) as refused:
        DOORS[door](world, folder, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("door", DOORS)
def test_a_whole_folder_is_taken_at_every_door(door: str, world: World, tmp_path: Path) -> None:
    DOORS[door](world, world.checkpoint("llama"), tmp_path / "out")


@pytest.mark.parametrize("name", ["trained.json", "trained.safetensors", "record.json"])
@pytest.mark.parametrize("door", [name for name in DOORS if name != "upscale"])
def test_a_damaged_run_is_refused_at_every_door(
    door: str, name: str, world: World, finished: Finished, tmp_path: Path
) -> None:
    run = moved(finished("lora", "llama").folder, tmp_path)
    cut(name)(run)
    with pytest.raises(RequestError, match=f"{name} is damaged"):
        DOORS[door](world, run, tmp_path / "out")


def test_a_damaged_record_of_upscaling_is_named(world: World, tmp_path: Path) -> None:
    deep = shutil.copytree(world.checkpoint("llama", "depth"), tmp_path / "deep")
    config(num_hidden_layers=1)(deep)
    with pytest.raises(RequestError, match=r"upscale\.json is damaged: new_layers"):
        describe(str(deep))
    cut("upscale.json")(deep)
    with pytest.raises(RequestError, match=r"upscale\.json is damaged: it is not JSON"):
        describe(str(deep))


@pytest.mark.parametrize("door", [name for name in DOORS if name != "upscale"])
def test_a_run_refuses_another_base_than_it_was_trained_on(
    door: str, world: World, finished: Finished, tmp_path: Path
) -> None:
    run = moved(finished("lora", "llama").folder, tmp_path)
    base = describe(str(run)).root
    tensors(lambda t: t[NAME].add_(1))(Path(base))
    for check in (DOORS[door], lambda world, folder, out: export_base(str(folder), out)):
        with pytest.raises(RequestError, match=r"was trained from .*, which has other weights"):
            check(world, run, tmp_path / "out")


def test_a_run_of_an_earlier_version_has_no_fingerprint_of_its_base(finished: Finished, tmp_path: Path) -> None:
    run = moved(finished("lora", "llama").folder, tmp_path)
    pointer = json.loads((run / "trained.json").read_text())
    del pointer["base_fingerprint"]
    (run / "trained.json").write_text(json.dumps(pointer), encoding="utf-8")
    reload(run)


def test_names_without_the_prefix_load_as_in_the_library_and_are_not_upscaled(world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.checkpoint("llama"), tmp_path / "base")
    stored = load_file(folder / "model.safetensors")
    plain = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, _ = scale_cli.load(folder)
    expected: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in expected.state_dict().items())
    for by in ({"by": "width", "hidden": 8}, {"by": "depth", "layers": 3}):
        with pytest.raises(RequestError, match=r"it has no model.embed_tokens.weight; load it with"):
            upscale(str(folder), tmp_path / "out", **by)  # type: ignore[arg-type]


def moved(run: Path, folder: Path) -> Path:
    """A copy of a run and of its base, both free to be changed."""
    base = Path(describe(str(run)).root)
    shutil.copytree(base, folder / "base")
    copy = shutil.copytree(run, folder / "run")
    pointer = json.loads((copy / "trained.json").read_text()) | {"base": "../base"}
    (copy / "trained.json").write_text(json.dumps(pointer), encoding="utf-8")
    return copy
