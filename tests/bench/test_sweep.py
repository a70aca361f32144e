"""The sweep: each method's own best rate, by the rule that its module states."""

from __future__ import annotations

from pathlib import Path

import pytest

from scale_cli.bench import bios
from scale_cli.bench.bios import Row, load_preset
from scale_cli.bench.korean import Row as TextRow
from scale_cli.bench.sweep import best_rates, best_text_rates, sweep
from scale_cli.core.records import read_record
from tests.bench.test_bios import silent
from tests.runs import World, bench_file, korean_bench


def row(method: str, rate: float, task0: float, task1: float) -> Row:
    return Row(f"{method}@{rate:g}", method, 0, rate, 1, 1.0, task0, task1, 0.0, 0.0, 1.0)


def test_the_best_rate_keeps_most_among_those_that_learn() -> None:
    rows = [
        row("fft", 1e-2, 0.10, 1.00),
        row("fft", 1e-3, 0.50, 0.95),
        row("fft", 1e-4, 0.90, 0.94),  # keeps more and has not learnt
        row("lora", 1e-2, 0.20, 0.80),  # none has learnt: the one that learns most
        row("lora", 1e-3, 0.60, 0.70),
        row("freeze", 1e-2, 0.40, 1.00),  # equals: the lowest rate
        row("freeze", 1e-3, 0.40, 0.99),
        row("scale-adapt", 1e-2, 0.2, 0.5),
        row("scale-adapt", 1e-3, 0.3, 0.5),
    ]
    wanted = {"fft": 1e-3, "lora": 1e-2, "freeze": 1e-3, "scale-adapt": 1e-3}
    assert best_rates(rows) == wanted
    assert best_rates(rows[::-1]) == wanted


def test_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bios, "TASK0_NEEDED", 0.0)
    preset, out = bench_file(tmp_path, methods={"freeze": {"freeze_layers": 1}}), tmp_path / "out"
    result = sweep(preset, out, seed=5, rates=(1e-3, 1e-2), say=print, progress=silent)
    assert [(row.label, row.method, row.seed, row.learning_rate) for row in result.rows] == [
        ("freeze@0.001", "freeze", 5, 1e-3),
        ("freeze@0.01", "freeze", 5, 1e-2),
    ]
    record = read_record(out / "sweep.json")
    assert record["best"] == best_rates(result.rows)
    assert record["command"] == f"scale sweep bios OUT --preset {preset} --seed 5 --rates 0.001,0.01"
    text = (out / "sweep.md").read_text(encoding="utf-8")
    assert "| freeze@0.01 | " in text
    assert text.endswith(f"Each method's own best rate:\n\n- freeze: {record['best']['freeze']:g}\n")
    assert load_preset(preset).methods == {"freeze": {"freeze_layers": 1}}


def text_row(method: str | None, rate: float | None, english: float, korean: float) -> TextRow:
    bits = {"english": english, "korean": korean}
    label = "base" if method is None else f"{method}@{rate:g}"
    routed: dict[str, float | None] = dict.fromkeys(bits)
    return TextRow(label, method, None, bits, dict.fromkeys(bits), bits, routed, learning_rate=rate)


def test_the_best_rate_on_text_forgets_least_among_those_that_learn() -> None:
    rows = [
        text_row("fft", 1e-2, 1.9, 1.0),  # gains 1.0
        text_row("fft", 1e-3, 1.2, 1.05),  # gains 0.95
        text_row("fft", 1e-4, 1.0, 1.11),  # keeps more and gains less than 90% of 1.0
        text_row("lora", 1e-2, 3.0, 2.4),  # none gains: the one that loses least
        text_row("lora", 1e-3, 1.1, 2.1),
        text_row("freeze", 1e-2, 1.5, 1.0),  # equals: the lowest rate
        text_row("freeze", 1e-3, 1.5, 1.0),
    ]
    base = text_row(None, None, 1.0, 2.0)
    wanted = {"fft": 1e-3, "lora": 1e-3, "freeze": 1e-3}
    assert best_text_rates([base, *rows]) == wanted
    assert best_text_rates([base, *rows[::-1]]) == wanted


def test_a_sweep_of_the_korean_benchmark(world: World, tmp_path: Path) -> None:
    preset = korean_bench(tmp_path, world.checkpoint("llama"), methods={"scale-adapt": {}}, suites=["english"])
    result = sweep(
        preset,
        tmp_path / "out",
        seed=5,
        bench="korean",
        rates=(1e-3, 1e-2),
        precision="bfloat16",
        say=print,
        progress=silent,
    )
    assert [(row.label, row.method, row.seed, row.learning_rate) for row in result.rows] == [
        ("base", None, None, None),
        ("scale-adapt@0.001", "scale-adapt", 5, 1e-3),
        ("scale-adapt@0.01", "scale-adapt", 5, 1e-2),
    ]
    record = read_record(tmp_path / "out" / "sweep.json")
    assert record["best"] == best_text_rates(result.rows)
    said = f"scale sweep korean OUT --preset {preset} --seed 5 --rates 0.001,0.01 --precision bfloat16"
    assert record["command"] == said
    assert record["recipe"]["suites"] == []
    assert record["recipe"]["documents"] == record["recipe"]["documents_while_training"]
    assert "| scale-adapt@0.01 | " in (tmp_path / "out" / "sweep.md").read_text(encoding="utf-8")
