"""The speed of evaluation is measured on what evaluation does, as ratios to the base, beside counted weights."""

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.speed import eval as speed_eval
from benchmarks.speed.__main__ import main
from benchmarks.speed.eval import KINDS, Line, choice_work, measure, perplexity_work, prepare, speed_table
from benchmarks.speed.shapes import SHAPES, Shape

TINY = Shape(
    config={
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
    },
    expansion={"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24},
    layers=5,
    preserve_layers=3,
    batch_size=2,
    seq_length=16,
)
BASE = 4 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48) + 300 * 32
PRESERVE = 4 * (16 * 48 + 2 * 8 * 48 + 16 * 48 + 2 * 24 * 48 + 16 * 72) + 300 * 16
W12 = 32 * 16 + 2 * 16 * 16 + 32 * 16
"""Of the attention of the one layer above the three that preserve: q, k and v, o."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_is_that_of_evaluation(kind: str) -> None:
    """Every token counted goes through the model, once; the router routes."""
    subject = prepare(kind, TINY, device="cpu")
    assert not subject.model.training
    assert subject.has_router == (kind == "scale-route")
    seen: list[torch.Tensor] = []
    subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("input_ids", args[0] if args else None)), with_kwargs=True
    )
    work, tokens = perplexity_work(subject, TINY)
    losses = work().losses
    assert math.isfinite(losses.sum())
    assert sum(batch.numel() for batch in seen) == tokens == TINY.batch_size * TINY.seq_length
    seen.clear()
    work, tokens = choice_work(subject)
    answers = work()
    assert len(answers) == speed_eval.QUESTIONS * speed_eval.ANSWERS
    assert all(score < 0 for score, _ in answers)
    assert [len(batch) for batch in seen] == [16, 16]
    assert tokens <= sum(batch.numel() for batch in seen) <= 1.3 * tokens  # padding


def test_the_ratios() -> None:
    lines = measure(TINY, repetitions=2, warmup=1, device="cpu")
    assert [(line.work, line.kind) for line in lines] == [(work, kind) for work in speed_eval.WORK for kind in KINDS]
    for line in lines:
        base = lines[0] if line.work == "perplexity" else lines[4]
        assert line.ratio == pytest.approx(line.cpu_seconds / base.cpu_seconds)
        assert line.tokens_per_second == pytest.approx(line.tokens / line.wall_seconds)
        assert line.over_floor == pytest.approx(line.ratio / line.model_ratio)
    weights = {line.kind: line.weights for line in lines}
    assert weights["base"] == BASE
    assert weights["scale-preserve"] == BASE + PRESERVE
    assert weights["scale-adapt"] == BASE + PRESERVE + W12
    again = (BASE - 300 * 32) // 4 + (PRESERVE - 300 * 16) // 4 + 300 * 32  # the upper layer and the base's head
    assert weights["scale-route"] == BASE + PRESERVE + W12 + again
    assert lines[1].model_ratio == 1 + PRESERVE / BASE


def test_the_table_fits() -> None:
    lines = [Line(kind, work, 1024, 100, 2.0, 1.0, 0.01234, 1.25, 1.2) for work in speed_eval.WORK for kind in KINDS]
    written = io.StringIO()
    Console(file=written, width=80).print(speed_table(lines, title="speed"))
    assert "…" not in written.getvalue()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in written.getvalue().splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["perplexity", "", "", "", "choice", "", "", ""]
    assert rows[0][1:] == ["base", "1,024", "0.012", "1.250", "1.200", "1.042"]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SHAPES, "llama-small", TINY)
    words = ["--repetitions", "1", "--warmup", "0", "--threads", "1", "--out", str(tmp_path / "record.json")]
    assert main(["eval", *words]) == 0
    printed = capsys.readouterr()
    assert "Evaluation, llama-small, cpu, windows of 2 x 16 tokens" in printed.out
    assert printed.err == ""
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["command"] == " ".join(["python -m benchmarks.speed eval", *words])
    assert [line["kind"] for line in record["lines"]] == [*KINDS, *KINDS]
    assert all(line["tokens_per_second"] > 0 for line in record["lines"])
