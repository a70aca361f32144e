"""The export of any checkpoint is an ordinary folder that is bitwise equivalent to the loaded checkpoint."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from scale_cli.checkpoints import storage
from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe
from scale_cli.methods import METHODS
from scale_cli.surgery import upscale
from scale_cli.training.train import train
from tests.helpers import load, refusal, tiny_base
from tests.runs import BASES, PARTIAL, World, as_loaded, logits, progress_that, reload, run, same_tensors, save, tree

RunOf = Callable[..., Any]


def assert_is(out: Path, source: Path) -> None:
    """`out`, loaded by the library alone, has the values, dtype, config and logits of the loaded `source`."""
    found, expected = load(out).eval(), reload(source)
    assert same_tensors(found.state_dict(), expected.state_dict())
    assert found.dtype == expected.dtype
    for name in ("model_type", "collaborative", "router", "tie_word_embeddings"):
        assert getattr(found.config, name, None) == getattr(expected.config, name, None)
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-5, atol=1e-5)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def in_files(folder: Path) -> dict[str, torch.dtype]:
    """The tensors in a folder's weight files and their dtypes."""
    return {name: tensor.dtype for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(("method", "family"), [*zip(METHODS, itertools.cycle(BASES)), ("scale-route", "neox")])
def test_an_export_is_the_run(method: str, family: str, finished: RunOf, world: World, tmp_path: Path) -> None:
    done, out = finished(method, family), tmp_path / "out"
    result = export(str(done.folder), out)
    assert_is(out, done.folder)
    kind = describe(str(done.folder)).kind
    assert describe(str(out)).kind == kind
    assert describe(str(out)).new_layers == describe(str(done.folder)).new_layers
    assert (result.out, result.form, result.dtype, result.weights_sha256) == (out, kind, "float32", None)
    assert result.parameters == reload(done.folder).num_parameters()
    assert result.size_bytes == sum(len(content) for content in tree(out).values())
    root = done.folder if method == "fft" else Path(world.source(method, family))
    new = in_files(out).keys() - in_files(root).keys()
    assert in_files(root).keys() <= in_files(out).keys()
    assert all(name.endswith(".w12") for name in new)
    assert bool(new) == (method in ("scale-adapt", "scale-route"))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (root / name).read_bytes()


def test_another_value_would_be_seen(finished: RunOf, tmp_path: Path) -> None:
    done = finished("scale-adapt", "llama")
    changed = shutil.copytree(done.folder, tmp_path / "changed")
    pointer = json.loads((changed / "trained.json").read_text(encoding="utf-8"))
    pointer["base"] = str(describe(str(done.folder)).chain[0].folder)
    (changed / "trained.json").write_text(json.dumps(pointer), encoding="utf-8")
    tensors = load_file(changed / "trained.safetensors")
    tensors["expansion.layers.1.q.w12"][0, 0] += 1e-3
    save_file(tensors, changed / "trained.safetensors", metadata={"format": "pt"})
    export(str(changed), tmp_path / "out")
    assert_is(tmp_path / "out", changed)
    with pytest.raises(AssertionError):
        assert_is(tmp_path / "out", done.folder)


CHAINS = [
    ("scale-preserve", "scale-adapt", "scale-route"),
    ("llama-pro", "llama-pro", "fft"),
    ("llama-pro", "fft", "llama-pro"),
    ("lora", "lora", "freeze"),
    ("freeze", "lora", "freeze"),
]


@pytest.mark.parametrize(("methods", "family"), [*zip(CHAINS, itertools.cycle(BASES))])
def test_of_a_run_on_a_run(methods: tuple[str, ...], family: str, world: World, tmp_path: Path) -> None:
    """Each run starts from the end of the previous one, and the export is the last."""
    source = world.source(methods[0], family)
    kind = describe(source).kind
    for step, method in enumerate(methods):
        before, out = reload(Path(source)).state_dict(), tmp_path / f"{step}-{method}"
        done = run(source, out, world.recipe(method, steps=1, seed=step))
        begun = {name.replace("base_model.model.", ""): tensor for name, tensor in done.untrained.items()}
        for name, tensor in before.items():
            wrapped = name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
            assert torch.equal(tensor, begun[name] if name in begun else begun[wrapped])
        assert same_tensors(reload(out).state_dict(), as_loaded(done.model).state_dict())
        assert describe(str(out)).kind == kind
        source = str(out)
    export(source, tmp_path / "out")
    assert_is(tmp_path / "out", Path(source))


@pytest.mark.parametrize(
    ("method", "scratch"), [("fft", False), ("fft", True), ("lora", False), ("scale-route", False)]
)
def test_of_an_unfinished_run(method: str, scratch: bool, world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = world.recipe(method, from_scratch=scratch)
    with pytest.raises(KeyboardInterrupt):
        train(world.source(method), out, recipe, progress=progress_that(ctrl_c, at=2))
    export(str(out / "checkpoint-2"), tmp_path / "out")
    assert_is(tmp_path / "out", out / "checkpoint-2")


def test_a_tied_head_that_is_stored_too_is_not_left_behind(world: World, tmp_path: Path) -> None:
    """Training an embedding trains the head tied to it, whatever the base's file contains."""
    base = save(load(world.checkpoint("llama")), tmp_path / "base", world.tokenizer)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(str(base), out, world.recipe("fft"), progress=progress_that(ctrl_c, at=2))
    export(str(out / "checkpoint-2"), tmp_path / "out")
    assert_is(tmp_path / "out", out / "checkpoint-2")
    run(str(base), tmp_path / "frozen", world.recipe("freeze", steps=1))
    export(str(tmp_path / "frozen"), tmp_path / "other")
    assert_is(tmp_path / "other", tmp_path / "frozen")


@pytest.mark.parametrize("by", ["width", "depth"])
def test_an_upscaled_folder_is_copied(by: str, world: World, tmp_path: Path) -> None:
    source = world.checkpoint("neox", by)
    export(str(source), tmp_path / "out")
    before, after = tree(source), tree(tmp_path / "out")
    assert set(after) - set(before) == {"export.json"}
    assert [name for name in before if before[name] != after[name]] == ["README.md"]  # it has another name


@pytest.fixture(scope="module")
def bfloat16_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a widened base stored in bfloat16; its trained tensors are float32."""
    folder = tmp_path_factory.mktemp("bfloat16")
    base = tiny_base("llama-grouped", dtype=torch.bfloat16, vocab_size=len(world.tokenizer), num_hidden_layers=2)
    save(base, folder / "base", world.tokenizer)
    upscale(str(folder / "base"), folder / "wide", by="width", hidden=8, verify=False)
    run(str(folder / "wide"), folder / "run", world.recipe("scale-adapt", steps=1))
    return folder / "run"


def test_each_tensor_stays_as_it_is_stored_and_loads_as_it_was_evaluated(bfloat16_run: Path, tmp_path: Path) -> None:
    result = export(str(bfloat16_run), tmp_path / "out")
    assert_is(tmp_path / "out", bfloat16_run)
    assert set(in_files(tmp_path / "out").values()) == {torch.bfloat16, torch.float32}
    assert result.dtype == "float32"
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (config["dtype"], config["base_config"]["dtype"]) == ("float32", "bfloat16")
    base = "base-model.safetensors"
    assert (tmp_path / "out" / base).read_bytes() == (bfloat16_run.parent / "wide" / base).read_bytes()


@pytest.mark.parametrize("method", ["lora", "freeze", "scale-route"])
def test_casting(method: str, finished: RunOf, tmp_path: Path) -> None:
    done, out = finished(method, "neox"), tmp_path / "out"
    result = export(str(done.folder), out, dtype="bfloat16")
    assert (result.dtype, set(in_files(out).values())) == ("bfloat16", {torch.bfloat16})
    found = load(out)
    assert found.dtype == torch.bfloat16
    assert same_tensors(found.state_dict(), reload(done.folder).to(torch.bfloat16).state_dict())


def test_upscale_json_names_what_training_added(finished: RunOf, world: World, tmp_path: Path) -> None:
    export(str(finished("scale-route", "llama").folder), tmp_path / "out")
    before, after = (
        json.loads((folder / "upscale.json").read_text(encoding="utf-8"))
        for folder in (world.checkpoint("llama", "width"), tmp_path / "out")
    )
    new = set(after["added"]) - set(before["added"])
    assert new == {f"expansion.layers.1.{role}.w12" for role in ("q", "k", "v", "o")}
    assert {name: before[name] for name in before if name != "added"} == {
        name: after[name] for name in after if name != "added"
    }
    assert set(after["pretrained"]) | set(after["added"]) == set(load(tmp_path / "out").state_dict()) - {
        "base.lm_head.weight"  # tied
    }


def test_only_a_merged_update_is_loaded(finished: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other models are copied tensor by tensor, in shards of a bounded size."""
    monkeypatch.setattr("scale_cli.checkpoints.export.load_model", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(storage, "SHARD_BYTES", 20_000)
    copied = [method for method in PARTIAL if METHODS[method].merged is None]
    for method in copied:
        export(str(finished(method, "llama").folder), tmp_path / method)
    monkeypatch.undo()
    for method in copied:
        assert_is(tmp_path / method, finished(method, "llama").folder)
    assert len([*(tmp_path / "freeze").glob("model-*.safetensors")]) > 1


def test_shards_of_an_export_are_not_overwritten(
    finished: RunOf, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on an export of several shards, some of which contain no trained tensor."""
    monkeypatch.setattr(storage, "SHARD_BYTES", 20_000)
    export(str(finished("freeze", "llama").folder), tmp_path / "first")
    run(str(tmp_path / "first"), tmp_path / "run", world.recipe("freeze", steps=1, seed=3))
    export(str(tmp_path / "run"), tmp_path / "second")
    assert_is(tmp_path / "second", tmp_path / "run")


OTHER_NAMES: dict[str, Callable[[str], str]] = {
    "llama": lambda name: name.removeprefix("model."),  # the decoder alone, without the prefix of the causal LM
    "neox": lambda name: "lm_head.weight" if name == "embed_out.weight" else name,  # the module's name, not the file's
}


@pytest.mark.parametrize("method", ["freeze", "fft"])
@pytest.mark.parametrize("family", BASES)
def test_names_that_only_the_library_understands(family: str, method: str, world: World, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "run"
    save(load(world.checkpoint(family)), base, world.tokenizer)
    usual = load_file(base / "model.safetensors")
    unusual = {OTHER_NAMES[family](name): tensor for name, tensor in usual.items()}
    assert unusual.keys() != usual.keys()
    save_file(unusual, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(KeyboardInterrupt):
        train(str(base), out, world.recipe(method), progress=progress_that(ctrl_c, at=2))
    export(str(out / "checkpoint-2"), tmp_path / "out")
    assert_is(tmp_path / "out", out / "checkpoint-2")
    load(base).save_pretrained(tmp_path / "again")
    assert in_files(tmp_path / "out").keys() == in_files(tmp_path / "again").keys()


def test_a_run_on_a_hub_id(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(world.source("freeze"), tmp_path / "run", world.recipe("freeze", steps=1))
    file = tmp_path / "run" / "trained.json"
    pointer = json.loads(file.read_text(encoding="utf-8")) | {"base": "org/model", "base_is_folder": False}
    file.write_text(json.dumps(pointer), encoding="utf-8")
    snapshot = tmp_path / "snapshot"
    asked: list[set[str]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        """Copies only the requested files."""
        assert name == "org/model"
        asked.append(set(allow_patterns))
        snapshot.mkdir(exist_ok=True)
        for pattern in allow_patterns:
            for found in Path(world.source("freeze")).glob(pattern):
                shutil.copyfile(found, snapshot / found.name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    export(str(tmp_path / "run"), tmp_path / "out")
    assert "*.safetensors" not in asked[0]
    assert "base_model: org/model" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    pointer |= {"base": world.source("freeze"), "base_is_folder": True}
    file.write_text(json.dumps(pointer), encoding="utf-8")
    assert_is(tmp_path / "out", tmp_path / "run")


def test_everything_beside_the_weights_arrives(world: World, tmp_path: Path) -> None:
    base = save(load(world.checkpoint("neox")), tmp_path / "base", world.tokenizer)
    beside = {
        "chat_template.jinja": "{{ messages }} 한\r\n",
        "generation_config.json": '{"temperature":   0.7}',
        "special_tokens_map.json": "{}",
        "LICENSE": "all rights\r\n",
        "NOTICE.txt": "notice",
        "USE_POLICY.md": "policy",
    }
    for name, text in beside.items():
        (base / name).write_bytes(text.encode())
    upscale(str(base), tmp_path / "wide", by="width", hidden=8, verify=False)
    run(str(tmp_path / "wide"), tmp_path / "run", world.recipe("scale-preserve", steps=1))
    export(str(tmp_path / "run"), tmp_path / "out")
    for folder in ("wide", "out"):
        assert {name: (tmp_path / folder / name).read_bytes() for name in beside} == {
            name: text.encode() for name, text in beside.items()
        }


def spoil(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"half")


def lose(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


# What was done to the run and its base, the request, and the message; one that ends with … goes on in another's words.
REFUSED: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "a dtype": (lambda _: None, {"dtype": "int8"}, "--dtype int8: choose one of float32, bfloat16, float16"),
    "a broken trained part": (
        spoil("run/trained.safetensors"),
        {},
        "ROOT/run/trained.safetensors is damaged or not a safetensors file (…",
    ),
    "weights of another name": (
        lambda root: (root / "base" / "model.safetensors").rename(root / "base" / "other.safetensors"),
        {},
        "ROOT/base holds other.safetensors, and neither model.safetensors nor its index; rename it, or fetch the index",
    ),
    "a config of no language model": (
        lambda root: (root / "base" / "config.json").write_text('{"model_type": "no-such"}'),
        {},
        "ROOT/base does not load: …",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_said_in_one_line(case: str, world: World, tmp_path: Path) -> None:
    prepare, request, message = REFUSED[case]
    shutil.copytree(world.checkpoint("neox"), tmp_path / "base")
    run(str(tmp_path / "base"), tmp_path / "run", world.recipe("freeze", steps=1))
    prepare(tmp_path)
    before = tree(tmp_path)
    source = request.get("source", "ROOT/run").replace("ROOT", str(tmp_path))
    options = {name: value for name, value in request.items() if name != "source"}
    expected, unfinished, _ = message.replace("ROOT", str(tmp_path)).partition("…")
    assert refusal(export, source, tmp_path / "out", **options)[: len(expected) if unfinished else None] == expected
    assert tree(tmp_path) == before


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_export_leaves_nothing(exception: type[BaseException], finished: RunOf, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        if done > total // 2:
            raise exception

    with pytest.raises(exception):
        export(str(finished("freeze", "llama").folder), tmp_path / "deep" / "out", progress=stop)
    assert [*tmp_path.iterdir()] == []
