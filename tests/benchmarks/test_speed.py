"""The speed measurement measures what it says: every method takes real steps, and the cost model gets true counts."""

import io

import pytest
import torch
from rich.console import Console

from benchmarks import speed
from scale_cli.methods import METHODS

TINY = speed.Shape(
    config={
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
    expansion={"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24},
    preserve_layers=3,
    batch_size=2,
    seq_length=8,
)
BLOCK = 32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48
HEAD = 64 * 32


@pytest.mark.parametrize("method", METHODS)
def test_a_step_moves_exactly_what_the_method_trains(method: str) -> None:
    prepared = speed.prepare(method, TINY, device="cpu")
    before = {name: p.detach().clone() for name, p in prepared.model.named_parameters()}
    tokens = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # a zero head or LoRA matrix lets a gradient through from the second step on
        speed.step(prepared, tokens, bfloat16=False)
    moved = {name for name, p in prepared.model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in prepared.model.named_parameters() if p.requires_grad}
    assert moved <= trained
    assert moved


def test_the_cost_model_gets_the_true_counts() -> None:
    counts = {method: speed.prepare(method, TINY, device="cpu").weights for method in METHODS}
    assert {weights.base for weights in counts.values()} == {4 * BLOCK + HEAD}
    assert counts["scale-adapt"].adaptable_share == 0.25
    wide, up = 32 + 16, 16  # each added row reads both halves: q 16 rows, k and v 8, o 16, gate and up 24, down 16
    per_layer = up * wide + 2 * 8 * wide + up * wide + 2 * 24 * wide + up * (48 + 24)
    assert counts["scale-preserve"].added == 4 * per_layer + 64 * up
    lora = speed.prepare("lora", TINY, device="cpu")
    assert counts["lora"].added == lora.trained_parameters
    assert counts["llama-pro"].added == BLOCK * round(counts["scale-preserve"].added / BLOCK)
    freeze = counts["freeze"]
    assert freeze.above == BLOCK + HEAD


def test_the_table_has_every_method_and_fft_as_one() -> None:
    timings = speed.train_step(
        TINY, methods=("fft", "scale-preserve"), repetitions=2, warmup=1, device="cpu", bfloat16=False
    )
    assert [timing.method for timing in timings] == ["fft", "scale-preserve"]
    assert timings[0].cpu_ratio == timings[0].model_ratio == timings[0].over_floor == 1.0
    preserve = timings[1]
    assert preserve.over_floor == pytest.approx(preserve.cpu_ratio / preserve.model_ratio)
    written = io.StringIO()
    Console(file=written, width=80).print(speed.timing_table(timings, title="steps"))
    assert "scale-preserve" in written.getvalue()
    assert "…" not in written.getvalue()
