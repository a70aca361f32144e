"""The biography benchmark from one number, the people: data, model, steps and rates in the paper's proportions.

The paper (arXiv 2511.03270, section 5.2) pre-trains a GPT-NeoX of 85M weights, without the embeddings, on 100,000
people and teaches it 20,000 new ones. Here the same ratios hold at any number of people: 5 to 1 people, half of the
former for Task 0, 850 weights per person pre-trained, an expansion of a sixth in width, all layers preserved but the
last, and 25 passes over the questions of Task 1. `people: 120000` gives the paper's model.

The learning rates of the questions fall with the root of the number of steps, so that the steps add up to as much
change. Not in proportion is the number of times that a person is read about: a quarter of the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.methods import paper_methods

PRETRAINED = 5 / 6
"""The share of the people whose biographies are pre-trained."""
WEIGHTS_PER_PERSON = 850
"""Weights of the model, without the embeddings, per person pre-trained."""
HIDDEN_PER_LAYER = 64
"""The paper's ratio of hidden size to layers."""
LEAST_LAYERS = 4
BIOGRAPHIES, PASSES = 20, {"pretrain": 5, "task0": 8, "task1": 25}
"""Biographies per person, and how often each stage reads its biographies or questions."""
TOKENS_PER_BIOGRAPHY = 79
"""Mean number of tokens of a biography with one token per word."""
QUESTIONS_PER_PERSON = 6
SEQUENCE = 128
"""Tokens of a sequence in pre-training."""
BATCH = {"pretrain": 16, "task0": 32, "task1": 48}
"""Sequences or questions per step up to `PEOPLE_PER_BATCH` people; more people have larger batches, not more steps."""
PEOPLE_PER_BATCH = 1_200
INITIALIZER = 0.68
"""The standard deviation of new weights times the root of the hidden size."""
PEAK = 0.5
"""The peak learning rate of pre-training times the hidden size."""
FACTORS = {
    "fft": 1,
    "lora": 5,
    "llama-pro": 10,
    "existing-layers": 10,
    "osf": 10,
    "ewc": 1,
    "freeze": 3,
    "scale-preserve": 20,
    "scale-adapt": 10,
    "scale-route": 10,
}
"""Each method's learning rate in Task 1, in units of the pre-training's peak over the root of the number of steps.

The paper's are 1.25 units for FFT and 12.5 for added weights. Methods of other packages have 1.
"""


def with_proportions(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe that gives `people` and no `model`, completed by `proportions`; others unchanged.

    Options of a stage and rows of the table are completed one by one. A row without a rate has that of its method,
    unless stage task1 gives one for all.
    """
    if "model" in values or "people" not in values:
        return dict(values)
    derived = proportions(values["people"])
    stages = dict(values.get("stages", {}))
    rows = values.get("methods", {name: {} for name in paper_methods()})
    unit = derived["stages"]["task1"].pop("lr")
    if "lr" not in (stages.get("task1") or {}):
        rows = {
            label: {"lr": _rounded(unit * FACTORS.get(row.get("method", label), 1))} | row
            for label, row in rows.items()
        }
    stages |= {name: {**options, **(stages.get(name) or {})} for name, options in derived["stages"].items()}
    return {**derived, **values, "stages": stages, "methods": rows}


def _rounded(value: float) -> float:
    """The value with two digits."""
    return float(f"{value:.2g}")


def proportions(people: int) -> dict[str, Any]:
    """The fields of a `BiosRecipe` for a number of people, pre-trained and new ones together.

    Raises RequestError for fewer than 12 people.
    """
    if people < 12:
        raise RequestError(f"people {people}: at least 12, of whom 10 are pre-trained and 2 new")
    pretrained = round(people * PRETRAINED)
    new = people - pretrained
    weights = WEIGHTS_PER_PERSON * pretrained
    layers = max(LEAST_LAYERS, round((weights / 12 / HIDDEN_PER_LAYER**2) ** (1 / 3)))
    width = math.sqrt(weights / 12 / layers)  # a layer has 12 x hidden x hidden weights
    sixth = max(16, 8 * round(width / 48))  # a head's size, a multiple of 8 for the rotary half of its quarter
    heads = 6
    if sixth >= 128:
        sixth, heads = sixth // 16 * 8, 12
    hidden = heads * sixth
    factor = max(1, round(people / PEOPLE_PER_BATCH))
    items = {
        "pretrain": pretrained * BIOGRAPHIES * TOKENS_PER_BIOGRAPHY / SEQUENCE,
        "task0": pretrained // 2 * QUESTIONS_PER_PERSON,
        "task1": new * QUESTIONS_PER_PERSON,
    }
    peak = _rounded(PEAK / hidden)
    stages: dict[str, dict[str, Any]] = {
        stage: {
            "steps": max(10, round(PASSES[stage] * items[stage] / (factor * BATCH[stage]))),
            "batch_size": factor * BATCH[stage],
        }
        for stage in BATCH
    }
    stages["pretrain"] |= {"seq_length": SEQUENCE, "lr": peak, "min_lr_rate": 0.1, "warmup": 0.03, "weight_decay": 0.1}
    stages["pretrain"] |= {"adam_epsilon": 1e-6}
    for stage in ("task0", "task1"):
        stages[stage]["lr"] = _rounded(peak / math.sqrt(stages[stage]["steps"]))
    stages["task0"] |= {"min_lr_rate": 0.1}
    stages["task1"] |= {"min_lr_rate": 0.9, "eval_per_doubling": 6}
    stages["task1"] |= {"preserve_layers": layers - 1, "freeze_layers": layers - 1}
    return {
        "bios": BIOGRAPHIES,
        "pretrain_people": pretrained,
        "task1_people": new,
        "eval_people": 100,
        "tokenizer": "word",
        "vocab_size": 8_000,
        "model": {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
            "max_position_embeddings": 512,
            "initializer_range": _rounded(INITIALIZER / math.sqrt(hidden)),
        },
        "width": {"hidden": hidden // 6, "heads": heads // 6, "ffn": hidden // 6},
        "depth": {"layers": layers + round(layers / 3)},
        "stages": stages,
    }
