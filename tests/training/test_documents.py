"""With packing "documents", each text is computed as if it were alone, by the base classes and by ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.records import read_record
from scale_cli.data.examples import IGNORED, Examples, PackedTexts, load_examples
from scale_cli.data.options import Packing
from scale_cli.data.packing import Windows
from scale_cli.methods import METHODS
from tests.data.chunks import group_of, random_documents
from tests.helpers import VOCABULARY, tiny_base, widened
from tests.runs import World, lines, run

LENGTH = 24


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Packing], Examples]:
    """Documents shorter and longer than a window, some with a single token."""
    group = group_of(tmp_path_factory.mktemp("documents") / "group", random_documents(1, 60, 20, vocabulary=VOCABULARY))
    return lambda packing: PackedTexts([Windows("x", group, LENGTH, (0, 0))], LENGTH, 12, packing=packing)


def pieces(positions: torch.Tensor) -> list[tuple[int, slice]]:
    """Row and columns of each document in a batch, or of its part."""
    found = []
    for row, places in enumerate(positions.tolist()):
        begins = [column for column, place in enumerate(places) if place == 0]
        found += [(row, slice(*ends)) for ends in zip(begins, [*begins[1:], len(places)], strict=True)]
    return found


def model_of(name: str) -> Any:
    base, _, method = name.partition("+")
    model = tiny_base(base)
    widths: dict[str, dict[str, Any]] = {
        "preserve": {},
        "adapt": {"layers": (1, 2), "modules": ("attention", "ffn")},
        "route": {"layers": (1, 2), "modules": ("attention",), "threshold": 0.5},
    }
    model = widened(model, **widths[method]) if method else model
    model.config.use_cache = False  # as in `Trainer`
    return model.train()


NAMES = ["llama", "llama-grouped", "neox", "mistral", "qwen2", "gemma3"]
NAMES += ["llama+preserve", "llama+adapt", "neox+route", "neox-sequential+adapt", "llama+route", "mistral+adapt"]


@pytest.mark.parametrize(("name", "attention"), [*zip(NAMES, itertools.cycle(["sdpa", "eager"])), ("gemma3", "sdpa")])
@torch.no_grad()
def test_packed_is_as_alone(
    name: str,
    attention: str,
    examples: Callable[[Packing], Examples],
    tolerance: Callable[[torch.dtype], dict[str, Any]],
) -> None:
    model = model_of(name)
    model.set_attn_implementation(attention)
    batch = examples("documents").__getitems__(range(5))
    packed = model(**batch)
    parts = pieces(batch["position_ids"])
    assert len({row for row, _ in parts}) == 5 < len(parts) / 2
    losses = []
    for row, columns in parts:
        tokens = batch["input_ids"][row : row + 1, columns]
        alone = model(input_ids=tokens).logits
        torch.testing.assert_close(packed.logits[row : row + 1, columns], alone, **tolerance(alone.dtype))
        losses.append(functional.cross_entropy(alone[0, :-1], tokens[0, 1:], reduction="none"))
    torch.testing.assert_close(packed.loss, torch.cat(losses).mean(), **tolerance(torch.float32))
    crossing = model(**examples("concat").__getitems__(range(5)))  # the companion: under "concat" the logits differ
    assert (crossing.logits - packed.logits).abs().max() > 1e-2


@pytest.mark.parametrize(("method", "family"), [("fft", "neox"), ("lora", "llama"), ("scale-route", "llama")])
def test_a_run_packed_by_documents(method: str, family: str, world: World, tmp_path: Path) -> None:
    """The first loss is the mean over the tokens of separate texts; the record counts the tokens with a loss."""
    options: dict[str, Any] = {"objective": "lm", "seq_length": 160, "steps": 2, "precision": "float32"}
    recipe = world.recipe(method, packing="documents", **options)
    source = world.source(method, family)
    done = run(source, tmp_path / "run", recipe)
    checkpoint = describe(source)
    model = METHODS[method].apply(load_model(checkpoint), recipe.options, checkpoint.new_layers).eval()
    batch = load_examples(recipe, world.tokenizer).__getitems__(range(8))
    with torch.no_grad():
        losses = [
            functional.cross_entropy(model(input_ids=tokens).logits[0, :-1], tokens[0, 1:], reduction="none")
            for row, columns in pieces(batch["position_ids"][:4])
            for tokens in [batch["input_ids"][row : row + 1, columns]]
        ]
    assert len(losses) > 4
    assert lines(done.folder)[0]["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    crossing = run(source, tmp_path / "crossing", world.recipe(method, **options))
    assert lines(crossing.folder)[0]["loss"] != pytest.approx(lines(done.folder)[0]["loss"], rel=1e-3)
    counted = (batch["labels"][:, 1:] != IGNORED).sum().item()
    apart, together = (read_record(one.folder / "record.json") for one in (done, crossing))
    assert apart["predicted_tokens"] == counted < together["predicted_tokens"] == 8 * 159
    assert apart["tokens"] == together["tokens"] == 8 * 160
