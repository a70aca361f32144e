"""The public Python functions do what the commands do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import scale_cli
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.errors import RequestError
from tests.runs import World, korean_texts, same_tensors


def test_from_a_base_to_a_table(world: World, run_cli: Callable[..., Any], tmp_path: Path) -> None:
    base, texts = world.checkpoint("llama"), korean_texts(tmp_path)
    scale_cli.upscale(str(base), tmp_path / "wide", by="width", hidden=8)
    options: dict[str, Any] = {
        "method": "scale-preserve",
        "steps": 2,
        "batch_size": 2,
        "seq_length": 32,
        "precision": "float32",
    }
    trained = scale_cli.train(tmp_path / "wide", tmp_path / "run", data=(str(texts["train"]),), **options)
    assert trained.steps == 2
    model, tokenizer = scale_cli.load(tmp_path / "run", dtype=torch.float64)
    assert model.dtype == torch.float64
    assert tokenizer("a").input_ids == world.tokenizer("a").input_ids
    expected = load_model(describe(str(tmp_path / "run")), dtype=torch.float64)
    assert same_tensors(model.state_dict(), expected.state_dict())

    sources = [f"old={texts['english']}", f"new={texts['korean']}"]
    results = scale_cli.evaluate([f"base={base}", tmp_path / "run"], texts=sources, out=tmp_path / "out")
    columns: dict[str, Any] = {
        "stability": ["perplexity:old=bits_per_byte"],
        "plasticity": ["perplexity:new=bits_per_byte"],
    }
    words = [word for role, names in columns.items() for word in (f"--{role}", *names)]
    for given in (results, [tmp_path / "out"]):
        for form in ("markdown", "csv", "json"):
            printed = run_cli("report", tmp_path / "out", *words, "--format", form)
            assert printed.code == 0
            made = scale_cli.report(given, format=form, **columns)
            if form == "json" and given is results:
                assert json.loads(made)["rows"] == json.loads(printed.stdout)["rows"]
            else:
                assert made == printed.stdout
    routers = ["none", "mixture:0"]
    (own, mixed) = scale_cli.generate([tmp_path / "run"], ["Ann Lee"], routers=routers, max_new_tokens=3, device="cpu")
    words = ["--prompt", "Ann Lee", "--router", "none", "--max-new-tokens", 3]
    assert run_cli("generate", tmp_path / "run", *words).stdout == f"{own.text}\n"
    assert (own.weights, len(mixed.weights or ())) == (None, 3)
    asked = ["new.gain>=99", "old.forgetting<=99"]
    document = json.loads(scale_cli.report(results, format="json", require=asked, **columns))
    assert [line["verdict"] for line in document["requirements"]] == ["not met", "met"]


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to measure: give"):
        scale_cli.evaluate([tmp_path])
    with pytest.raises(RequestError, match="unknown key 'stepz'; did you mean 'steps'"):
        scale_cli.train(tmp_path, tmp_path / "run", stepz=3)
    with pytest.raises(AttributeError, match="no attribute 'upscales'"):
        scale_cli.upscales  # noqa: B018
