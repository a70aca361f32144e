"""A training recipe is checked on construction and has the documented defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from scale_cli.bench.sweep import BENCHES, best_rates
from scale_cli.core.recipe import load_recipe
from scale_cli.data.options import parse_people
from scale_cli.methods import paper_methods
from scale_cli.reporting.columns import groups_of
from scale_cli.results.result import read_results
from scale_cli.training import TrainRecipe
from scale_cli.training.recipe import parse_eval_people


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ()}, "--data is missing: name a gen-bios folder or text files"),
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"batch_size": -1}, "--batch-size -1: at least 1"),
        ({"gradient_accumulation_steps": 0}, "--gradient-accumulation-steps 0: at least 1"),
        ({"seq_length": 0}, "--seq-length 0: at least 1"),
        ({"eval_steps": 0}, "--eval-steps 0: at least 1"),
        ({"logging_steps": 0}, "--logging-steps 0: at least 1"),
        ({"save_steps": -5}, "--save-steps -5: at least 1"),
        ({"lr": 0.0}, "--lr 0.0: above 0"),
        ({"lr": -1e-3}, "--lr -0.001: above 0"),
        ({"lr": float("nan")}, "--lr nan: above 0"),
        ({"adam_epsilon": 0.0}, "--adam-epsilon 0.0: above 0"),
        ({"warmup": -1.0}, "--warmup -1.0: at least 0"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1: at least 0"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm -1.0: at least 0"),
        ({"min_lr_rate": 1.1}, "--min-lr-rate 1.1: a share of --lr, 0 to 1"),
        ({"min_lr_rate": -0.1}, "--min-lr-rate -0.1: a share of --lr, 0 to 1"),
        ({"seed": -1}, "--seed -1: 0 to 2^32 - 1"),
        ({"seed": 2**32}, "--seed 4294967296: 0 to 2^32 - 1"),
        ({"from_scratch": True, "method": "lora"}, "--from-scratch: lora does not train every parameter; choose"),
        ({"people": "5:5"}, "people '5:5': write A:B"),
        ({"eval_people": ("0:5",)}, "eval people '0:5': write NAME=A:B"),
        ({"eval_people": ("a=0:5", "a=5:6")}, "--eval-people a=0:5,a=5:6: a name occurs twice; choose different names"),
        ({"lora_r": 0}, "--lora-r 0: a rank, from 1 to 65536"),
    ],
)
def test_values_are_checked(options: dict[str, Any], message: str) -> None:
    assert TrainRecipe(data=("x",), seed=2**32 - 1).lr is None
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_recipe(TrainRecipe, None, {"data": ("x",)} | options)


def test_the_default_rate_is_the_best_of_the_recorded_sweep() -> None:
    record = Path(__file__).parents[2] / "benchmarks" / "records" / "korean-demo-sweep.json"
    results = read_results([record])
    best = best_rates(results, groups_of(results), BENCHES["korean"])
    assert {name: TrainRecipe(data=("x",), method=name).learning_rate for name in paper_methods()} == best
    assert TrainRecipe(data=("x",), lr=0.5).learning_rate == 0.5


@pytest.mark.parametrize("text", ["", "5", ":", "0:", ":5", "5:5", "6:5", "-1:5", "a:b", "0:1:2", "1.0:2"])
def test_a_range_of_people(text: str) -> None:
    assert parse_people("0:5") == (0, 5)
    with pytest.raises(ValueError, match=f"^people {text!r}: write A:B"):
        parse_people(text)


@pytest.mark.parametrize("text", ["0:5", "=0:5", "a", "a=5:0"])
def test_a_named_range_of_people(text: str) -> None:
    assert parse_eval_people("task0=3:5") == ("task0", (3, 5))
    with pytest.raises(ValueError, match="people"):
        parse_eval_people(text)
