"""The continuations under routers are the model's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import continuations
from benchmarks.command import run
from tests.runs import Run, World, reload


def test_each_router_writes_its_own_continuation(world: World, finished: Callable[..., Run], tmp_path: Path) -> None:
    folder, out = finished("scale-preserve").folder, tmp_path / "record.json"
    prompt = "Where was Ann Lee born?"
    words = [str(folder), "--prompt", prompt, "--new-tokens", "5", "--out", str(out)]
    words += ["--router", "none", "--router", "interpolate:0", "--router", "mixture:0:0.3"]
    assert run(continuations.main, "continuations", words) == 0
    rows = {row["router"]: row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]}
    tokens = world.tokenizer(prompt, return_tensors="pt")["input_ids"]
    model = reload(folder)
    for router, own in (("none", model), ("interpolate:0", model.base)):
        with torch.no_grad():
            written = own.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, tokens.shape[1] :]
        assert rows[router]["text"] == world.tokenizer.decode(written, skip_special_tokens=True)
        assert rows[router]["weights"] is None
    assert len(rows["mixture:0:0.3"]["weights"]) == 5
    assert all(0 <= weight <= 1 for weight in rows["mixture:0:0.3"]["weights"])


def test_a_mistake_is_one_line(finished: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(finished("scale-preserve").folder)
    words = [folder, "--prompt", "a", "--router", "mixture:2"]
    assert run(continuations.main, "continuations", words) == 2
    assert "the share is in [0, 1]" in capsys.readouterr().err
