"""The speed of evaluation is measured on evaluation's own work, as ratios to the base and to counted weights."""

import dataclasses
import math

import pytest
import torch

from benchmarks.speed import eval as speed_eval
from benchmarks.speed.eval import WORK, choice_work, measure, perplexity_work, prepare
from benchmarks.speed.generate import KINDS
from tests.benchmarks import test_speed

TINY = dataclasses.replace(
    test_speed.TINY, config=test_speed.TINY.config | {"vocab_size": 300, "max_position_embeddings": 128}, seq_length=16
)
BASE = 4 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48) + 300 * 32
PRESERVE = 4 * (16 * 48 + 2 * 8 * 48 + 16 * 48 + 2 * 24 * 48 + 16 * 72) + 300 * 16
W12 = 32 * 16 + 2 * 16 * 16 + 32 * 16
"""W12 of q, k and v, o in the attention of the one layer above the three preserved ones."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_is_evaluations(kind: str) -> None:
    """The model reads every counted token once; the router is active."""
    subject = prepare(kind, TINY, device="cpu")
    assert not subject.model.training
    assert subject.has_routed == (kind == "scale-route" or kind.endswith("mixture"))
    batches: list[torch.Tensor] = []
    subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs.get("input_ids", args[0] if args else None)),
        with_kwargs=True,
    )
    work, tokens = perplexity_work(subject, TINY)
    losses = work().losses
    assert math.isfinite(losses.sum())
    assert sum(batch.numel() for batch in batches) == tokens == TINY.batch_size * TINY.seq_length
    batches.clear()
    work, tokens = choice_work(subject, TINY)
    answers = work()
    assert len(answers) == speed_eval.QUESTIONS * speed_eval.ANSWERS
    assert all(score < 0 for score, _ in answers)
    assert [len(batch) for batch in batches] == [16, 16]
    assert tokens <= sum(batch.numel() for batch in batches) <= 1.3 * tokens  # padding


def test_the_ratios() -> None:
    lines = measure(TINY, repetitions=2, warmup=1, device="cpu").to_dict("records")
    assert [(line["work"], line["kind"]) for line in lines] == [(work, kind) for work in WORK for kind in KINDS]
    for line in lines:
        base = lines[0] if line["work"] == "perplexity" else lines[len(KINDS)]
        assert line["ratio"] == pytest.approx(line["cpu_seconds"] / base["cpu_seconds"])
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["wall_seconds"])
        assert line["over_floor"] == pytest.approx(line["ratio"] / line["model_ratio"])
    weights = {line["kind"]: line["weights"] for line in lines}
    again = (BASE - 300 * 32) // 4 + (PRESERVE - 300 * 16) // 4 + 300 * 32  # the upper layer and the base's head
    assert weights == {
        "base": BASE,
        "scale-preserve": BASE + PRESERVE,
        "scale-adapt": BASE + PRESERVE + W12,
        "scale-route": BASE + PRESERVE + W12 + again,
        "scale-preserve mixture": BASE + PRESERVE,
        "scale-adapt mixture": BASE + PRESERVE + W12 + again,
    }
    assert lines[1]["model_ratio"] == 1 + PRESERVE / BASE
