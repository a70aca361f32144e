"""A target has its fingerprint, label and dtype before it is loaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scale_cli.checkpoints.load import describe, fingerprint, load_model, save_pointer, save_trained
from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record
from scale_cli.evaluation.subject import information, load, targets
from scale_cli.methods import NoOptions, trained_parameters
from tests.runs import Run, World

CPU, GPU = torch.device("cpu"), torch.device("cuda")
Finished = Callable[..., Run]


def of(path: Path) -> str:
    return fingerprint(describe(str(path)))


def changed_tensor(file: Path) -> None:
    """Add one to the first number in a file of tensors."""
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_fingerprint_is_that_of_the_content(world: World, tmp_path: Path) -> None:
    source = world.checkpoint("llama", "width")
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    same = of(source)
    assert of(copy) == same
    (copy / "README.md").write_text("another card")
    assert of(copy) == same
    changed_tensor(weights(copy))
    assert of(copy) != same
    prints = {
        of(world.checkpoint(family, kind)) for family in ("llama", "neox") for kind in ("plain", "width", "depth")
    }
    assert len(prints) == 6


def weights(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[-1]


@pytest.mark.parametrize("part", ["trained", "method", "base", "elsewhere"])
def test_a_run_is_its_tensors_its_method_and_its_base(
    part: str, world: World, finished: Finished, tmp_path: Path
) -> None:
    original = finished("scale-route").folder
    folder, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(original, folder)
    shutil.copytree(world.checkpoint("llama", "width"), base)
    pointer = json.loads((folder / "trained.json").read_text())
    del pointer["base_fingerprint"]  # as in a run of an earlier version; with it another base is refused
    (folder / "trained.json").write_text(json.dumps(pointer | {"base": "../base"}))
    if part == "trained":
        changed_tensor(folder / "trained.safetensors")
    elif part == "method":
        options = pointer["options"] | {"threshold": 0.25}
        (folder / "trained.json").write_text(json.dumps(pointer | {"base": "../base", "options": options}))
    elif part == "base":
        changed_tensor(weights(base))
    assert (of(folder) == of(original)) == (part == "elsewhere")


def test_a_checkpoint_from_scratch_needs_no_base_weights(world: World, tmp_path: Path) -> None:
    """A model trained from random weights stores all of them; only the config of its base counts."""
    bare, folder = tmp_path / "bare", tmp_path / "run"
    shutil.copytree(world.checkpoint("neox"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    folder.mkdir()
    save_trained(trained_parameters(load_model(describe(str(world.checkpoint("neox"))))), folder)
    base = describe(str(bare), from_scratch=True)
    save_pointer(base, folder, "fft", NoOptions(), from_scratch=True)
    (target,) = targets([str(folder)], dtype=None, device=CPU)
    assert target.fingerprint == of(folder)
    assert load(target, device=CPU, batch_size=None, seed=0).model.num_parameters() > 0
    changed_tensor(folder / "trained.safetensors")
    assert of(folder) != target.fingerprint
    with pytest.raises(RequestError, match="holds no weights in safetensors"):
        targets([str(bare)], dtype=None, device=CPU)


def labels(*sources: str) -> list[str]:
    return [target.label for target in targets(sources, dtype=None, device=CPU)]


def test_labels_tell_the_checkpoints_apart(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("a/out", "b/out", "b/other", "x=y"):
        shutil.copytree(world.checkpoint("llama"), tmp_path / path)
    monkeypatch.chdir(tmp_path)
    assert labels("a/out") == labels(str(tmp_path / "a" / "out")) == labels("a/out/") == ["out"]
    assert labels("a/out", "b/other") == ["out", "other"]
    assert labels("a/out", "b/out", "b/other") == ["a-out", "b-out", "b-other"]
    assert labels("mine=a/out", "b/out") == ["mine", "out"]
    assert labels("mine=a/out", "b/out", "a/out") == ["mine", "b-out", "a-out"]
    assert labels("x=y") == ["x=y"]
    assert labels("one=x=y") == ["one"]
    for wrong in (["a/out", "a/out"], ["n=a/out", "n=b/out"]):
        with pytest.raises(
            RequestError, match="occurs twice among the checkpoints; give each once, or name them: LABEL="
        ):
            labels(*wrong)
    for wrong_label in ("=a/out", ".n=a/out", "c/n=a/out"):
        with pytest.raises(RequestError, match="write LABEL=CHECKPOINT"):
            labels(wrong_label)


def test_the_dtype_is_the_stored_one_on_a_cpu_and_bfloat16_on_a_gpu(
    world: World, finished: Finished, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    load_model(describe(str(world.checkpoint("neox"))), dtype=torch.bfloat16).save_pretrained(half)
    world.tokenizer.save_pretrained(half)
    silent = tmp_path / "silent"  # its config does not say
    shutil.copytree(half, silent)
    config = json.loads((half / "config.json").read_text())
    (silent / "config.json").write_text(json.dumps({name: v for name, v in config.items() if name != "dtype"}))
    sources = [str(half), str(silent), str(world.checkpoint("llama", "width")), str(finished("lora").folder)]
    sources = [f"{number}={source}" for number, source in enumerate(sources)]
    stored = ["bfloat16", "bfloat16", "float32", "float32"]
    assert [target.dtype for target in targets(sources, dtype=None, device=CPU)] == stored
    assert [target.dtype for target in targets(sources, dtype="float16", device=CPU)] == ["float16"] * 4
    assert [target.dtype for target in targets(sources, dtype=None, device=GPU)] == ["bfloat16"] * 4
    for target in targets(sources, dtype=None, device=CPU):
        for dtype in (target.dtype, "bfloat16"):
            requested = dataclasses.replace(target, dtype=dtype)
            model = load(requested, device=CPU, batch_size=None, seed=0).model
            assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
    loaded: Any = load_model(describe(str(silent)))
    assert loaded.dtype == torch.bfloat16


def test_the_description_of_a_checkpoint_in_results(world: World, finished: Finished, tmp_path: Path) -> None:
    (plain,) = targets([f"x={world.checkpoint('llama')}"], dtype=None, device=CPU)
    model = load(plain, device=CPU, batch_size=None, seed=0).model
    info = information(plain, model)
    assert (info.label, info.kind, info.method, info.recipe, info.identity) == ("x", "plain", None, None, None)
    assert info.parameters == {"total": model.num_parameters(), "trained": None}
    for method in ("fft", "scale-adapt"):
        (target,) = targets([str(finished(method).folder)], dtype=None, device=CPU)
        info = information(target, load(target, device=CPU, batch_size=None, seed=0).model)
        assert (info.method, info.kind) == (method, "plain" if method == "fft" else "width")
        record = read_record(target.checkpoint.folder / "record.json")
        assert (info.recipe, info.base) == (record["recipe"], record["base"]["fingerprint"])
        assert info.data is not None
        assert record["data"].items() <= info.data.items()
        assert (info.seed, info.identity is None) == (0, False)
    # without its record only the method and its options are known, too little to identify repetitions
    copy = tmp_path / "copy"
    shutil.copytree(finished("scale-adapt").folder, copy, ignore=shutil.ignore_patterns("record.json"))
    (target,) = targets([str(copy)], dtype=None, device=CPU)
    info = information(target, load(target, device=CPU, batch_size=None, seed=0).model)
    assert info.recipe is not None
    assert (info.recipe["preserve_layers"], info.base, info.identity) == (1, None, None)
