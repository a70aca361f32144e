"""The sweep finds each method's best learning rate by the rule in its module's docstring."""

from __future__ import annotations

from pathlib import Path

import pytest

from scale_cli.bench.bios import load_preset
from scale_cli.bench.sweep import BENCHES, best_rates, sweep
from scale_cli.core.records import read_record
from scale_cli.results.groups import BIOGRAPHIES, text_group
from scale_cli.results.result import Result, read_results
from tests.results.made import measured, result
from tests.runs import World, bench_file, continual_bench, silent

pytestmark = pytest.mark.usefixtures("quick_figures")
TEXTS = (text_group("english", "stability"), text_group("korean", "plasticity"))


def row(method: str, rate: float, task0: float, task1: float) -> Result:
    values = [measured("bios:task0", task0, metric="hard"), measured("bios:task1", task1, metric="hard")]
    exact = measured("bios:task0", 1 - task0, metric="exact")  # not used by the rule
    return result(f"{method}@{rate:g}", method, [*values, exact], options={"lr": rate})


def test_the_best_rate_keeps_most_among_those_that_learn() -> None:
    rows = [
        row("fft", 1e-2, 0.10, 1.00),
        row("fft", 1e-3, 0.50, 0.95),
        row("fft", 1e-4, 0.90, 0.94),  # keeps more, but has not learnt enough
        row("lora", 1e-2, 0.20, 0.80),  # no rate has learnt enough: highest Task 1
        row("lora", 1e-3, 0.60, 0.70),
        row("freeze", 1e-2, 0.40, 1.00),  # equal: the lowest rate
        row("freeze", 1e-3, 0.40, 0.99),
        row("scale-adapt", 1e-2, 0.2, 0.5),
        row("scale-adapt", 1e-3, 0.3, 0.5),
    ]
    base = result("before Task 1", None, [measured("bios:task0", 1.0, metric="hard")])
    wanted = {"fft": 1e-3, "lora": 1e-2, "freeze": 1e-3, "scale-adapt": 1e-3}
    assert best_rates([base, *rows], BIOGRAPHIES, BENCHES["bios"]) == wanted
    assert best_rates([base, *rows[::-1]], BIOGRAPHIES, BENCHES["bios"]) == wanted


def text_row(method: str | None, rate: float | None, english: float, korean: float) -> Result:
    bits = [
        measured(f"perplexity:{name}", value, metric="bits_per_byte")
        for name, value in (("english", english), ("korean", korean))
    ]
    return result("base" if method is None else f"{method}@{rate:g}", method, bits, options={"lr": rate})


def test_the_best_rate_on_text_forgets_least_among_those_that_learn() -> None:
    rows = [
        text_row("fft", 1e-2, 1.9, 1.0),  # gains 1.0
        text_row("fft", 1e-3, 1.2, 1.05),  # gains 0.95
        text_row("fft", 1e-4, 1.0, 1.11),  # keeps more, but gains less than 90% of 1.0
        text_row("lora", 1e-2, 3.0, 2.4),  # no rate gains: smallest loss
        text_row("lora", 1e-3, 1.1, 2.1),
        text_row("freeze", 1e-2, 1.5, 1.0),  # equal: the lowest rate
        text_row("freeze", 1e-3, 1.5, 1.0),
    ]
    base = text_row(None, None, 1.0, 2.0)
    wanted = {"fft": 1e-3, "lora": 1e-3, "freeze": 1e-3}
    assert best_rates([base, *rows], TEXTS, BENCHES["korean"]) == wanted
    assert best_rates([base, *rows[::-1]], TEXTS, BENCHES["korean"]) == wanted


def test_a_sweep(tmp_path: Path) -> None:
    preset, out = bench_file(tmp_path, methods={"freeze": {"freeze_layers": 1}}), tmp_path / "out"
    done = sweep(preset, out, seed=5, rates=(1e-3, 1e-2), say=print, progress=silent)
    labels = ["before Task 1", "freeze@0.001", "freeze@0.01"]
    assert [r.checkpoint.label for r in done.results] == labels
    assert [r.checkpoint.seed for r in done.results] == [5, 5, 5]
    record = read_record(out / "sweep.json")
    stored = read_results([out / "sweep.json"])
    assert record["best"] == best_rates(stored, BIOGRAPHIES, BENCHES["bios"])
    assert [r.measurements for r in stored] == [r.measurements for r in done.results]
    assert record["command"] == f"scale sweep bios OUT --preset {preset} --seed 5 --rates 0.001,0.01"
    text = (out / "sweep.md").read_text(encoding="utf-8")
    assert "\n| freeze@0.01" in text
    assert text.endswith(f"Each method's own best rate:\n\n- freeze: {record['best']['freeze']:g}\n")
    assert load_preset(preset).methods == {"freeze": {"freeze_layers": 1}}


def test_a_sweep_of_continual_pre_training(world: World, tmp_path: Path) -> None:
    preset = continual_bench(tmp_path, world.checkpoint("llama"), methods={"scale-adapt": {}}, suites=["english"])
    options = {"seed": 5, "bench": "korean", "rates": (1e-3, 1e-2), "precision": "bfloat16"}
    done = sweep(preset, tmp_path / "out", **options, say=print, progress=silent)  # type: ignore[arg-type]
    labels = ["base", "scale-adapt@0.001", "scale-adapt@0.01"]
    assert [r.checkpoint.label for r in done.results] == labels
    record = read_record(tmp_path / "out" / "sweep.json")
    assert record["best"] == best_rates(done.results, TEXTS, BENCHES["korean"])
    command = f"scale sweep korean OUT --preset {preset} --seed 5 --rates 0.001,0.01 --precision bfloat16"
    assert record["command"] == command
    assert record["recipe"]["suites"] == []
    texts = record["recipe"]["texts"].values()
    assert all(text["documents"] == text["documents_while_training"] == 2 for text in texts)
    assert "\n| scale-adapt@0.01" in (tmp_path / "out" / "sweep.md").read_text(encoding="utf-8")
