"""The table of families has every family, with the expected measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families import HEADINGS, MODELS, PROMPTS, cells, markdown, measure
from scale_cli.model import FAMILIES

NEW_TOKENS = 4


def test_every_family_is_measured() -> None:
    assert {model_type for model_type, _ in MODELS.values()} == set(FAMILIES)


def test_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Llama 3.2 (scaled rope, tied)"
    model_type, sizes = MODELS[name]
    monkeypatch.setitem(MODELS, name, (model_type, sizes | {"num_hidden_layers": 2}))
    monkeypatch.setattr("benchmarks.families.LAYERS", 2)
    monkeypatch.setattr("benchmarks.families.NEW_TOKENS", NEW_TOKENS)
    row = measure(name, tmp_path, backend="eager")
    assert (row.width, row.depth, row.bf16) == (0.0, 0.0, 0.0)
    assert row.generation_equal == row.generation_tokens == PROMPTS * NEW_TOKENS
    assert 0 < row.padding < 1e-4
    assert row.compile < 1e-4
    assert 1 < row.max_logit < 100
    text = cells(row)
    assert len(text) == len(HEADINGS)
    assert text[:5] == [name, row.model_type, "0", "0", "12 of 12"]
    assert markdown([row]).splitlines()[2] == f"| {' | '.join(text)} |"
