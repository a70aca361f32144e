"""The model card: its text, the inherited fields, and its presence in every written folder."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from scale_cli.checkpoints.card import card_text, history, origin, write_card
from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe, load_model, load_tokenizer
from scale_cli.checkpoints.restore import export_base
from scale_cli.core.records import sha256_file
from scale_cli.data.sources import find_source
from scale_cli.surgery import source, upscale
from tests.helpers import base_folder, refusal
from tests.runs import World, logits, run, same_tensors

LICENSED = """---
license: other
license_name: llama-x
license_link: LICENSE
base_model: meta/another
tags: [a, b]
---
# Theirs
Words of theirs.
"""


def front(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's card."""
    start, block, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert start == ""
    found = yaml.safe_load(block)
    assert isinstance(found, dict)
    return found


def text(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with a licence and a card."""
    folder = base_folder(tmp_path / "base")
    (folder / "README.md").write_text(LICENSED, encoding="utf-8")
    (folder / "LICENSE").write_text("terms", encoding="utf-8")
    return folder


def test_the_text(base: Path, tmp_path: Path) -> None:
    upscale(str(base), tmp_path / "wide", by="width", hidden=8, ffn=9, seed=3)
    digest = sha256_file(base / "model.safetensors")
    record = json.loads((tmp_path / "wide" / "upscale.json").read_text(encoding="utf-8"))
    added, tolerance = record["parameters"]["added"], record["proof"]["tolerance"]
    expected = f"""---
library_name: transformers
license: other
license_name: llama-x
license_link: LICENSE
pipeline_tag: text-generation
tags:
- scale
- width-upscaled
---

# wide

`base`, widened with SCALE (arXiv 2511.03270). The base's own tensors are unchanged; the added tensors are stored \
separately.

## Widened

| | |
| --- | --- |
| base | `base` |
| sha256 of the base's weights | `model.safetensors` `{digest}` |
| added hidden_size | 8 |
| added intermediate_size | 9 |
| added num_attention_heads | 2 |
| added num_key_value_heads | 1 |
| initial values | W21 svd, W22 zero |
| singular directions | full: down, embedding, gate, k, o, q, up, v |
| seed | 3 |
| parameters | 25,216 of the base, {added:,} added ({added / 25_216:.1%}) |
| max \\|delta logit\\| | 0 on 2 x 64 random tokens in float32 (tolerance {tolerance:.3g}) |

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("wide", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("wide", trust_remote_code=False)
```

`trust_remote_code=True` runs the model code in this folder (`modeling_scale.py`), or that of the package `scale-cli` \
if it is installed. The tokenizer is the base's and needs no code; with `trust_remote_code=False` the \
library does not ask whether to run any.

With the package `scale-cli`, which also trains and evaluates the model:

```python
import scale_cli

model, tokenizer = scale_cli.load("wide")
```

## Limits

"""
    assert text(tmp_path / "wide").startswith(expected)
    rest = text(tmp_path / "wide").removeprefix(expected)
    for words in (
        "cannot be converted to a plain `LlamaForCausalLM`",
        "not to GGUF",
        "`scale export wide FOLDER --base` writes it, bit for bit.",
        "## Licence\n\nThe base's licence applies: `llama-x`. See [LICENSE](LICENSE).\n",
        "@inproceedings{lee-etal-2026-scale,",
    ):
        assert words in rest
    assert str(tmp_path) not in text(tmp_path / "wide")


@pytest.mark.parametrize("by", ["width", "depth"])
def test_every_output_has_a_card_that_the_hub_understands(by: str, world: World, tmp_path: Path) -> None:
    base = shutil.copytree(world.checkpoint("llama"), tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    sizes: dict[str, Any] = {"by": "width", "hidden": 8} if by == "width" else {"by": "depth", "layers": 3}
    method = "scale-adapt" if by == "width" else "llama-pro"
    upscale(str(base), tmp_path / "up", **sizes)
    run(str(tmp_path / "up"), tmp_path / "run", world.recipe(method, steps=2, eval_people=("a=0:1",)))
    export(str(tmp_path / "run"), tmp_path / "out", base_model="org/base", licence="mit")
    assert (front(tmp_path / "out")["base_model"], front(tmp_path / "out")["license"]) == ("org/base", "mit")
    assert "The base's licence applies: `mit`." in text(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    export(str(tmp_path / "run"), tmp_path / "out")
    export_base(str(tmp_path / "run"), tmp_path / "again")
    tags = {
        "up": ["scale", f"{by}-upscaled"],
        "run": ["scale", f"{by}-upscaled", method],
        "out": ["scale", f"{by}-upscaled", method],
        "again": ["scale"],
    }
    for name, expected in tags.items():
        data = ModelCard.load(tmp_path / name / "README.md").data
        assert (data.license, data.pipeline_tag, data.tags) == ("apache-2.0", "text-generation", expected)
        assert data.library_name == (None if name == "run" else "transformers")
        assert text(tmp_path / name).splitlines().count(f"# {name}") == 1
        assert str(tmp_path) not in text(tmp_path / name)
    assert str(tmp_path) not in (tmp_path / "out" / "export.json").read_text(encoding="utf-8")

    lines = text(tmp_path / "out").splitlines()
    assert f"## Trained with {method}" in lines
    assert {"| trained from | `up` |", "| steps | 2 |", "| seed | 0 |", "| peak learning rate | 0.01 |"} <= {*lines}
    record = json.loads((tmp_path / "run" / "record.json").read_text(encoding="utf-8"))
    (first, *_) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    means = [metric for metric in record["metrics"] if metric["name"].count("/") == 1]
    for metric in means:
        before = f"{first[metric['name']]:.4g}" if metric["name"] in first else "-"  # whole answers are measured last
        row = f"| {metric['name']} | {before} | {metric['value']:.4g} | {metric['stderr']:.4g} | {metric['samples']} |"
        assert row in lines
    assert first.keys() & {metric["name"] for metric in means}
    (data,) = [line for line in lines if line.startswith("| data |")]
    size, epochs = (record[name][str(world.data)] for name in ("data_bytes", "epochs"))
    assert size == find_source("--data", str(world.data)).size_bytes > 1000  # type: ignore[union-attr]
    assert data.startswith(f"| data | `data`, {size:,} bytes, read {epochs:.3g} times (sha256 `")
    assert len([line for line in lines if line.startswith("| a/")]) == len(means) > 0
    assert ("## Limits" in lines) == (by == "width")
    assert ("@misc{wu2024llamapro," in lines) == (by == "depth")
    assert "The base of `run`, restored: its tensors, config and tokenizer are unchanged." in text(tmp_path / "again")
    assert "| `model.safetensors` | equal |" in text(tmp_path / "again")


def test_a_hub_id_or_licence_that_no_card_can_hold_is_refused(base: Path, tmp_path: Path) -> None:
    for stated, message in (
        ({"base_model": "/home/me/base"}, "--base-model /home/me/base: not a hub id; give owner/name"),
        (
            {"licence": "Apache 2"},
            "--licence Apache 2: not a licence as the hub names it, such as apache-2.0 or llama3.2",
        ),
    ):
        assert refusal(export, str(base), tmp_path / "out", **stated) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("method", "loads_anywhere"), [("fft", {"run"}), ("scale-route", {"whole"})])
def test_the_python_blocks_load_the_model(
    method: str, loads_anywhere: set[str], finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished(method).folder, "run")
    if "whole" in loads_anywhere:
        export("run", Path("whole"))
    for name in sorted(loads_anywhere | {"run"}):
        blocks = re.findall(r"^```python\n(.*?)^```$", text(Path(name)), re.MULTILINE | re.DOTALL)
        imports = [block.split()[1] for block in blocks]
        assert imports == (["transformers", "scale_cli"] if name in loads_anywhere else ["scale_cli"])
        expected = load_model(describe(name))
        for block in blocks:
            names: dict[str, Any] = {}
            exec(block, names)
            assert same_tensors(names["model"].state_dict(), expected.state_dict())
            assert torch.equal(logits(names["model"]), logits(expected))
            assert names["tokenizer"].get_vocab() == load_tokenizer(describe(name)).get_vocab()


def test_the_card_of_a_run_tells_how_to_export_it(finished: Any) -> None:
    part, whole = (text(finished(method).folder) for method in ("lora", "fft"))
    assert "    scale export run FOLDER\n" in part
    assert "scale export" not in whole
    assert "| lora r | 4 |" in part
    assert "lora r" not in whole


def test_the_card_lists_every_step_of_a_chain(world: World, tmp_path: Path) -> None:
    run(world.source("scale-preserve"), tmp_path / "a", world.recipe("scale-preserve", steps=1))
    run(str(tmp_path / "a"), tmp_path / "b", world.recipe("scale-adapt", steps=1))
    export(str(tmp_path / "b"), tmp_path / "c")
    run(str(tmp_path / "c"), tmp_path / "d", world.recipe("scale-route", steps=1))
    export(str(tmp_path / "d"), tmp_path / "e")
    for name, methods in (("b", "preserve adapt"), ("c", "preserve adapt"), ("e", "preserve adapt route")):
        headings = [
            line for line in text(tmp_path / name).splitlines() if line.startswith(("## Trained", "## Widened"))
        ]
        assert headings == ["## Widened", *(f"## Trained with scale-{method}" for method in methods.split())]
    assert "trained with scale-preserve, then scale-adapt, then scale-route." in text(tmp_path / "e")
    assert front(tmp_path / "e")["tags"][-3:] == ["scale-preserve", "scale-adapt", "scale-route"]


def test_a_new_card_replaces_the_old_one(base: Path, tmp_path: Path) -> None:
    (base / "README.md").write_text(LICENSED, encoding="utf-8")
    write_card(base, name="x", form="plain", source=origin(base), steps=[])
    assert "theirs" not in text(base)
    assert front(base)["license_name"] == "llama-x"  # its own source here
    once = text(base)
    write_card(base, name="x", form="plain", source=origin(base), steps=[])
    assert text(base) == once
    assert (base / "LICENSE").read_text(encoding="utf-8") == "terms"


@pytest.mark.parametrize(
    "card",
    [
        None,
        "no front matter",
        "---\n- a list\n---\n",
        "---\na: [\n---\n",
        "---\nlicense: [mit, gpl]\n---\n",
        b"---\nlicense: \xff\n---\n",
    ],
)
def test_a_card_without_a_licence(card: str | bytes | None, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    if card is not None:
        (folder / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    upscale(str(folder), tmp_path / "wide", by="width", hidden=8, verify=False)
    assert "license" not in front(tmp_path / "wide")
    expected = "## Licence\n\nThe base's licence applies; the base's model card does not name it.\n"
    assert expected in text(tmp_path / "wide")


def test_a_hub_id_is_named_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = base_folder(tmp_path / "snapshots" / "0123abc")
    (snapshot / "README.md").write_text(LICENSED, encoding="utf-8")
    (snapshot / "USE_POLICY.md").write_text("policy", encoding="utf-8")
    asked: list[str] = []

    def fetch(given: str, patterns: list[str], **_: Any) -> Path:
        asked.extend(patterns)
        return snapshot

    monkeypatch.setattr(source, "fetch", fetch)
    upscale("org/model", tmp_path / "deep", by="depth", layers=4, verify=False)
    assert {"README.md", "LICENSE*", "NOTICE*", "USE_POLICY*"} <= {*asked}
    assert front(tmp_path / "deep")["base_model"] == "org/model"
    assert "| base | `org/model` at `0123abc` |" in text(tmp_path / "deep")
    assert (tmp_path / "deep" / "USE_POLICY.md").read_text(encoding="utf-8") == "policy"
    export(str(tmp_path / "deep"), tmp_path / "out")
    assert front(tmp_path / "out")["base_model"] == "org/model"
    export_base(str(tmp_path / "deep"), tmp_path / "again")
    assert "base_model" not in front(tmp_path / "again")  # a restored base is that model itself


def test_the_base_model_in_a_foreign_card_is_not_inherited(base: Path, world: World, tmp_path: Path) -> None:
    assert origin(base).base_model is None
    assert origin(base, hub_id="org/x").base_model == "org/x"
    upscale(str(base), tmp_path / "wide", by="width", hidden=8, verify=False)
    assert "base_model" not in front(tmp_path / "wide")


def test_random_weights_have_no_base(world: World, tmp_path: Path) -> None:
    base = shutil.copytree(world.checkpoint("neox"), tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    run(str(base), tmp_path / "run", world.recipe("fft", from_scratch=True, steps=1))
    assert "license" not in front(tmp_path / "run")
    assert "## Licence" not in text(tmp_path / "run")
    assert "| from scratch | True |" in text(tmp_path / "run")


def test_no_network_is_used(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        pytest.fail("a connection")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    upscale(str(base), tmp_path / "wide", by="width", hidden=8, verify=False)
    export(str(tmp_path / "wide"), tmp_path / "out")


def test_the_card_of_an_unfinished_run(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    options = {"lora_r": 4, "adapt_modules": ["attention"]}
    pointer = {"base": "../base", "base_is_folder": True, "method": "lora", "options": options, "from_scratch": False}
    (folder / "trained.json").write_text(json.dumps(pointer), encoding="utf-8")
    (step,) = history(folder)
    assert step == {"step": "train", "recipe": {"method": "lora", "lora_r": 4}}
    card = card_text(name="x", form="plain", source=origin(folder), steps=[step])
    assert "| state | checkpoint of an unfinished run |" in card


def test_a_record_of_another_command_is_not_a_step(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"command": "bench"}', encoding="utf-8")
    assert history(tmp_path) == []
