"""The trainer's overhead is measured against a loop that really does the same work."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from benchmarks.speed.__main__ import main
from benchmarks.speed.trainer import BLOCK, BareLoop, Line, make_cases, measure_accuracy, measure_training, speed_table
from scale_cli.bench.bios import BiosRecipe, load_preset
from scale_cli.checkpoints.load import describe, load_model

METHODS = ("fft", "scale-adapt", "lora")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The demo, but tiny."""
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
    """At a constant rate both end with the same weights, which the first steps have moved."""
    for number, case in enumerate(make_cases(recipe, tmp_path / "made", METHODS, steps=2 * BLOCK)):
        constant = dataclasses.replace(case.recipe, schedule="constant", warmup=0.0)
        out = tmp_path / f"run-{number}"
        line, bare = measure_training(dataclasses.replace(case, recipe=constant), out, device="cpu")
        assert (line.work, line.method) == (case.stage, case.recipe.method)
        assert min(line.wall_seconds, line.cpu_seconds, line.bare_wall_seconds, line.bare_cpu_seconds) > 0
        before, after = (weights(one.model) for one in (BareLoop(case.source, constant, "cpu"), bare))
        trained = load_model(describe(str(out))).state_dict()
        assert trained.keys() == before.keys() == after.keys()
        torch.testing.assert_close(trained, after, rtol=1e-4, atol=1e-4)
        assert max((trained[name] - before[name]).abs().max() for name in trained) > 5e-3


def weights(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model, LoRA's merged, as a checkpoint of it has them when it is loaded."""
    tensors: dict[str, torch.Tensor] = (
        model.merge_and_unload() if hasattr(model, "peft_config") else model
    ).state_dict()
    return tensors


def test_accuracy_computes_only_the_logits_that_it_reads(recipe: BiosRecipe, tmp_path: Path) -> None:
    case = make_cases(recipe, tmp_path / "made", ("scale-adapt",), steps=BLOCK)[1]
    model = load_model(describe(case.source))
    computed: list[torch.Size] = []
    model.register_forward_hook(lambda module, args, output: computed.append(output.logits.shape))
    line = measure_accuracy(case, model, (4, 8), repetitions=1, warmup=0, device="cpu")
    questions = 6 * 4
    passes = len(computed) // 3  # once to see what is asked, then once whole and once bare
    assert len(computed) == 3 * passes
    assert sum(shape[0] for shape in computed[:passes]) == questions
    assert {shape[1] for shape in computed} == {1}
    assert (line.work, line.method) == ("accuracy", "scale-adapt")
    assert line.tokens > 3 * questions


def test_the_accuracy_that_is_measured_is_the_models(recipe: BiosRecipe, tmp_path: Path) -> None:
    """Measuring leaves the model in training mode, as it was, with no hook left."""
    case = make_cases(recipe, tmp_path / "made", ("fft",), steps=BLOCK)[1]
    model = load_model(describe(case.source)).train()
    measure_accuracy(case, model, (4, 8), repetitions=1, warmup=0, device="cpu")
    assert model.training
    assert not model._forward_pre_hooks


def test_the_table_fits() -> None:
    lines = [
        Line(work, "scale-preserve", 6144, 0.123, 0.246, 0.1, 0.2, 0.012) for work in ("pretrain", "task1", "task1")
    ]
    written = io.StringIO()
    Console(file=written, width=80).print(speed_table(lines, title="trainer"))
    assert "…" not in written.getvalue()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in written.getvalue().splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["pretrain", "task1", ""]
    assert rows[0][1:] == ["scale-preserve", "49,951", "123.0", "0.012", "1.230", "1.230"]


def test_the_command_line(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", str(recipe_file), "--methods", "fft,scale-adapt", "--repetitions", "1", "--threads", "1"]
    assert main(["trainer", *words, "--out", str(tmp_path / "record.json")]) == 0
    printed = capsys.readouterr()
    assert "Training runs against their bare steps" in printed.out
    assert printed.err == ""
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("python -m benchmarks.speed trainer --preset ")
    assert [(line["work"], line["method"]) for line in record["lines"]] == [
        ("pretrain", "fft"),
        ("task1", "fft"),
        ("task1", "scale-adapt"),
        ("accuracy", "fft"),
        ("accuracy", "scale-adapt"),
    ]
    for line, target in zip(record["lines"], record["targets"], strict=True):
        assert math.isclose(line["wall_ratio"], line["wall_seconds"] / line["bare_wall_seconds"])
        assert (target["value"], target["limit"]) == (line["wall_ratio"], 1.15)


def test_a_method_that_the_demo_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainer", "--methods", "fft,dora"]) == 2
    allowed = ", ".join(load_preset("demo").methods)
    assert capsys.readouterr().err == f"benchmarks.speed: --methods fft,dora: 'dora' is not one of {allowed}\n"
