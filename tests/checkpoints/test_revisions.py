"""A run on a hub id records the commit and loads it again. Only safetensors are ever loaded."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM

from scale_cli.checkpoints.card import card_text, history, origin
from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe, fingerprint, load_model, load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record
from scale_cli.evaluation.subject import targets
from scale_cli.training.train import train
from tests.runs import World, progress_that, reload, same_tensors

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
ID = "org/model"


class FakeHub:
    """A repository on the hub: a folder for each commit, and the branch main."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main = OLD
        self.asked: list[str | None] = []

    def snapshot_download(self, name: str, *, revision: str | None = None, **_: Any) -> str:
        assert name == ID
        self.asked.append(revision)
        return str(self.folder / (self.main if revision in (None, "main") else revision))


@pytest.fixture
def hub(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """Two commits of the tiny llama with different weights; main is the old one."""
    found = FakeHub(tmp_path / "snapshots")
    for commit in (OLD, NEW):
        shutil.copytree(world.checkpoint("llama"), found.folder / commit)
    model = AutoModelForCausalLM.from_pretrained(found.folder / NEW)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(found.folder / NEW)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


@pytest.mark.parametrize("revision", [None, "main", OLD])
def test_a_run_loads_the_commit_that_it_was_trained_from(
    revision: str | None, hub: FakeHub, world: World, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(ID, run, world.recipe("freeze", steps=1), revision=revision)
    assert json.loads((run / "trained.json").read_text(encoding="utf-8"))["revision"] == OLD
    assert read_record(run / "record.json")["base"] == {"source": ID, "revision": OLD, "fingerprint": None}
    assert f"| trained from | `{ID}` at `{OLD}` |" in (run / "README.md").read_text(encoding="utf-8")
    before, identity = reload(run).state_dict(), fingerprint(describe(str(run)))
    hub.main = NEW
    hub.asked.clear()
    assert same_tensors(reload(run).state_dict(), before)
    assert load_tokenizer(describe(str(run))).get_vocab() == world.tokenizer.get_vocab()
    assert fingerprint(describe(str(run))) == identity
    export(str(run), tmp_path / "out")
    assert same_tensors(reload(tmp_path / "out").state_dict(), before)
    assert set(hub.asked) == {OLD}
    pointer = json.loads((run / "trained.json").read_text(encoding="utf-8"))
    # as older runs wrote it
    (run / "trained.json").write_text(json.dumps(pointer | {"revision": None}), encoding="utf-8")
    assert not same_tensors(reload(run).state_dict(), before)


def test_a_hub_id_that_is_described_is_loaded_at_that_commit(hub: FakeHub) -> None:
    checkpoint = describe(ID)
    assert (checkpoint.source, checkpoint.revision) == (ID, OLD)
    hub.main = NEW
    assert same_tensors(load_model(checkpoint).state_dict(), reload(hub.folder / OLD).state_dict())
    assert same_tensors(load_model(describe(ID)).state_dict(), reload(hub.folder / NEW).state_dict())


def test_a_resumed_run_stays_on_its_commit(hub: FakeHub, world: World, tmp_path: Path) -> None:
    recipe = world.recipe("freeze", save_steps=2)
    train(ID, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(ID, tmp_path / "run", recipe, progress=progress_that(lambda: os.kill(os.getpid(), signal.SIGINT), at=2))
    hub.main = NEW
    message = rf"^--revision main: .*run was started on commit {OLD} of {ID}; leave --revision out$"
    with pytest.raises(RequestError, match=message):
        train(ID, tmp_path / "run", recipe, resume=True, revision="main")
    train(ID, tmp_path / "run", recipe, resume=True)
    trained = [(tmp_path / name / "trained.safetensors").read_bytes() for name in ("whole", "run")]
    assert trained[0] == trained[1]


def test_an_evaluation_reads_the_commit_that_it_was_given(hub: FakeHub, world: World) -> None:
    plain = str(world.checkpoint("llama"))
    before, other, folder = targets([ID, f"new={ID}", plain], revision=OLD, dtype=None, device=torch.device("cpu"))
    (after,) = targets([ID], revision=NEW, dtype=None, device=torch.device("cpu"))
    assert before.fingerprint == other.fingerprint == folder.fingerprint != after.fingerprint
    assert (before.checkpoint.revision, after.checkpoint.revision) == (OLD, NEW)
    with pytest.raises(RequestError, match="--revision main: a revision belongs to a hub id, and only folders"):
        targets([plain], revision="main", dtype=None, device=torch.device("cpu"))


def test_a_revision_belongs_to_a_hub_id(world: World, tmp_path: Path) -> None:
    message = r"^--revision main: .*llama-plain is a folder; a revision belongs to a hub id$"
    with pytest.raises(RequestError, match=message):
        train(world.source("fft"), tmp_path / "run", world.recipe("fft"), revision="main")


class Payload:
    """A pickle that runs code when it is loaded."""

    def __init__(self, act: Callable[..., Any], *words: Any) -> None:
        self.act, self.words = act, words

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.act, self.words


def test_a_pickle_is_never_loaded(hub: FakeHub, world: World, tmp_path: Path) -> None:
    folder = hub.folder / OLD
    (folder / "model.safetensors").unlink()
    payload = Payload(os.mkdir, str(tmp_path / "executed"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(payload))
    with pytest.raises(RequestError, match=rf"^{ID} holds pytorch_model.bin and no safetensors; convert it with "):
        load_model(describe(ID))
    with pytest.raises(RequestError, match=r"holds pytorch_model\.bin and no safetensors"):
        describe(str(folder))
    with pytest.raises(RequestError, match=r"holds pytorch_model\.bin and no safetensors"):
        train(ID, tmp_path / "run", world.recipe("fft"))
    (folder / "other.safetensors").write_bytes(b"")  # which the library does not read
    with pytest.raises(RequestError, match=f"^{ID} does not load: "):
        load_model(describe(ID))
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(payload))  # loading the file would have had this effect
    assert (tmp_path / "executed").exists()


def test_a_card_names_the_owner_of_a_data_set_and_its_commit(tmp_path: Path) -> None:
    digest = "a" * 64
    record = {
        "command": "train",
        "base": {"source": "some/folder", "fingerprint": "b" * 64},
        "data": {"org/texts:ko:train:body:0.9": OLD, "/data/mine.jsonl:text:0.1": digest},
        "recipe": {"method": "fft", "lr": 1e-3},
        **dict.fromkeys(("tokens", "seconds", "trained_parameters", "total_parameters"), 1),
        "metrics": [],
    }
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (step,) = history(tmp_path)
    assert [source[:2] for source in step["data"]] == [
        ["org/texts:ko:train:body:0.9", OLD],
        ["mine.jsonl:text:0.1", digest],
    ]
    card = card_text(name="x", form="plain", source=origin(tmp_path), steps=[step])
    sources = f"`org/texts:ko:train:body:0.9` (commit `{OLD}`)<br>`mine.jsonl:text:0.1` (sha256 `{digest}`)"
    assert f"| data | {sources} |" in card
