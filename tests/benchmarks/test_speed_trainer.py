"""The trainer's overhead is measured against a loop that does the same work."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.speed.trainer import BLOCK, BareLoop, make_cases, measure_accuracy, measure_training
from scale_cli.bench.bios import BiosRecipe, load_preset
from scale_cli.checkpoints.load import describe, load_model
from tests.benchmarks.conftest import Measured

METHODS = ("fft", "scale-adapt", "lora")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The demo at tiny sizes."""
    tiny: dict[str, Any] = {
        "people": 8,
        "bios": 2,
        "pretrain_people": 4,
        "task1_people": 4,
        "tokenizer": "word",
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            "initializer_range": 0.06,
        },
        "width": {"hidden": 16, "heads": 1, "ffn": 32},
        "depth": {"layers": 3},
        "stages": {
            "pretrain": {"steps": 1, "batch_size": 2, "seq_length": 16, "lr": 1e-3},
            "task0": {"steps": 1, "batch_size": 2},
            "task1": {"steps": 1, "batch_size": 4, "eval_steps": 1, "preserve_layers": 1, "weight_decay": 0.1},
        },
        "methods": {"fft": {"lr": 1e-3}, "scale-adapt": {"lr": 1e-2}, "lora": {"lr": 1e-2}},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny), encoding="utf-8")
    return file


@pytest.fixture
def recipe(recipe_file: Path) -> BiosRecipe:
    return load_preset(str(recipe_file))


def test_the_bare_loop_does_what_the_run_does(recipe: BiosRecipe, tmp_path: Path) -> None:
    """At a constant rate both end with the same weights, which differ from the initial ones."""
    for number, case in enumerate(make_cases(recipe, tmp_path / "cases", METHODS, steps=2 * BLOCK)):
        constant = dataclasses.replace(case.recipe, schedule="constant", warmup=0.0)
        out = tmp_path / f"run-{number}"
        row, bare = measure_training(dataclasses.replace(case, recipe=constant), out, device="cpu")
        assert (row["work"], row["method"]) == (case.stage, case.recipe.method)
        assert all(row[f"{part}{clock}_seconds"] > 0 for part in ("", "bare_") for clock in ("wall", "cpu"))
        before, after = (weights(loop.model) for loop in (BareLoop(case.source, constant, "cpu"), bare))
        trained = load_model(describe(str(out))).state_dict()
        assert trained.keys() == before.keys() == after.keys()
        torch.testing.assert_close(trained, after, rtol=1e-4, atol=1e-4)
        assert max((trained[name] - before[name]).abs().max() for name in trained) > 5e-3


def weights(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model as its loaded checkpoint has them: LoRA's are merged."""
    tensors: dict[str, torch.Tensor] = (
        model.merge_and_unload() if hasattr(model, "peft_config") else model
    ).state_dict()
    return tensors


def test_accuracy_computes_only_the_logits_that_it_reads(recipe: BiosRecipe, tmp_path: Path) -> None:
    case = make_cases(recipe, tmp_path / "cases", ("scale-adapt",), steps=BLOCK)[1]
    model = load_model(describe(case.source))
    computed: list[torch.Size] = []
    model.register_forward_hook(lambda module, args, output: computed.append(output.logits.shape))
    row = measure_accuracy(case, model, (4, 8), repetitions=1, warmup=0, device="cpu")
    questions = 6 * 4
    passes = len(computed) // 3  # once to record the inputs, then once whole and once bare
    assert len(computed) == 3 * passes
    assert sum(shape[0] for shape in computed[:passes]) == questions
    assert {shape[1] for shape in computed} == {1}
    assert (row["work"], row["method"]) == ("accuracy", "scale-adapt")
    assert row["tokens"] > 3 * questions


def test_measuring_accuracy_leaves_the_model_as_it_was(recipe: BiosRecipe, tmp_path: Path) -> None:
    case = make_cases(recipe, tmp_path / "cases", ("fft",), steps=BLOCK)[1]
    model = load_model(describe(case.source)).train()
    measure_accuracy(case, model, (4, 8), repetitions=1, warmup=0, device="cpu")
    assert model.training
    assert not model._forward_pre_hooks


def test_the_command(measured: Measured, recipe_file: Path) -> None:
    words = ("--preset", str(recipe_file), "--methods", "fft,scale-adapt", "--repetitions", "1")
    record = measured("trainer", *words, title="Training runs against their bare steps")
    assert [(line["work"], line["method"]) for line in record["lines"]] == [
        ("pretrain", "fft"),
        ("task1", "fft"),
        ("task1", "scale-adapt"),
        ("accuracy", "fft"),
        ("accuracy", "scale-adapt"),
    ]
    for line, target in zip(record["lines"], record["targets"], strict=True):
        assert math.isclose(line["wall_ratio"], line["wall_seconds"] / line["bare_wall_seconds"])
        assert math.isclose(line["tokens_per_second"], line["tokens"] / line["wall_seconds"])
        assert (target["value"], target["limit"]) == (line["wall_ratio"], 1.15)
