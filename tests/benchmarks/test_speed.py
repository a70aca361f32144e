"""The speed measurements time real work: methods take training steps, the cost model gets true counts, checkpoints are
copied, widened and deepened; and their common frame."""

import dataclasses
import functools
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.speed import frame, train_step, upscale
from benchmarks.speed.shapes import Shape
from benchmarks.speed.upscale import Run, summarise, summary_table
from scale_cli.methods import METHODS
from scale_cli.surgery import directions
from tests.helpers import load

ROOT = Path(__file__).parent.parent.parent
TINY = Shape(
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
    layers=5,
    preserve_layers=3,
    batch_size=2,
    seq_length=8,
)
BLOCK = 32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48
HEAD = 64 * 32


@pytest.mark.parametrize("method", METHODS)
def test_a_step_moves_exactly_what_the_method_trains(method: str) -> None:
    prepared = train_step.prepare(method, TINY, device="cpu")
    before = {name: p.detach().clone() for name, p in prepared.model.named_parameters()}
    tokens = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(0))
    for _ in range(3):  # gradients pass a zero head from the second step on, W22 and zero features from the third
        train_step.step(prepared, tokens, bfloat16=False)
    moved = {name for name, p in prepared.model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in prepared.model.named_parameters() if p.requires_grad}
    assert moved == trained


def test_the_cost_model_gets_the_true_counts() -> None:
    counts = {method: train_step.prepare(method, TINY, device="cpu").cost for method in METHODS}
    base = 4 * BLOCK + HEAD
    assert {cost.base for cost in counts.values()} == {base}
    wide, up = 32 + 16, 16  # each added row reads both halves: q 16 rows, k and v 8, o 16, gate and up 24, down 16
    per_layer = up * wide + 2 * 8 * wide + up * wide + 2 * 24 * wide + up * (48 + 24)
    preserve, adapt = counts["scale-preserve"], counts["scale-adapt"]
    assert preserve.added == 4 * per_layer + 64 * up
    w21 = (16 + 2 * 8 + 2 * 24 + 16) * 32 + 16 * 48  # what each role's added rows read of the base's half
    assert preserve.training == 2 * base + 6 * preserve.added - 2 * 4 * w21
    assert adapt.training == 2 * base * 1.25 + 6 * adapt.added - 2 * 3 * w21
    lora = train_step.prepare("lora", TINY, device="cpu")
    assert counts["lora"].added == lora.trained_parameters
    assert counts["llama-pro"].added == BLOCK * round(counts["scale-preserve"].added / BLOCK)
    assert counts["freeze"].training == 2 * base + 4 * (BLOCK + HEAD)


def test_the_ratios_are_to_fft() -> None:
    methods = ("fft", "scale-preserve")
    lines = train_step.measure(TINY, methods=methods, repetitions=2, warmup=1, device="cpu", bfloat16=False)
    fft, preserve = lines.to_dict("records")
    assert (fft["method"], preserve["method"]) == methods
    assert fft["cpu_ratio"] == fft["wall_ratio"] == fft["model_ratio"] == fft["over_floor"] == 1.0
    assert preserve["cpu_ratio"] == preserve["cpu_seconds"] / fft["cpu_seconds"]
    assert preserve["wall_ratio"] == preserve["wall_seconds"] / fft["wall_seconds"]
    assert preserve["over_floor"] == preserve["cpu_ratio"] / preserve["model_ratio"]


def test_medians() -> None:
    runs = [(1.0, 2.0), (2.0, 8.0), (4.0, 4.0)]
    by_cpu, by_wall = frame.medians(runs), frame.medians(runs, by_wall=True)
    assert by_cpu == {"cpu_seconds": 2.0, "wall_seconds": 4.0, "compared_seconds": 2.0, "spread": 0.75}
    assert by_wall == by_cpu | {"compared_seconds": 4.0}
    assert frame.medians(runs[:1])["spread"] == 0.0


def test_works_are_done_in_turn_and_warmup_is_not_counted() -> None:
    calls: list[str] = []
    works = {("x", name): functools.partial(calls.append, name) for name in "ab"}
    lines = frame.interleave(works, "group", "name", repetitions=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert lines[["group", "name"]].values.tolist() == [["x", "a"], ["x", "b"]]
    assert set(frame.rows(lines)[0]) == {"group", "name", "cpu_seconds", "wall_seconds", "spread"}


def cells(table: str) -> list[list[str]]:
    """The texts of a printed table's cells below its headings."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


def test_a_table() -> None:
    lines = [
        {"work": "eval", "kind": "base", "tokens": 12345, "ratio": None},
        {"work": "eval", "kind": "wide", "tokens": 7, "ratio": 1.25},
        {"work": "train", "kind": "wide", "tokens": 7, "ratio": float("nan")},
    ]
    written = io.StringIO()
    Console(file=written, width=80).print(
        frame.table(lines, "work kind tokens ratio", title="speed", headings={"ratio": "/ base"})
    )
    assert cells(written.getvalue()) == [
        ["eval", "base", "12,345", "-"],
        ["", "wide", "7", "1.250"],
        ["train", "wide", "7", "-"],
    ]
    assert written.getvalue().count("├") == written.getvalue().count("…") == 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    upscale.make_base(TINY, tmp_path / "base")
    return tmp_path / "base"


def test_the_base_has_the_shape_and_loads(base: Path) -> None:
    model = load(base)
    assert model.dtype == torch.bfloat16
    assert {name: getattr(model.config, name) for name in TINY.config} == TINY.config
    assert model.model.norm.weight.eq(1).all()
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_folders_are_copied_widened_and_deepened(base: Path, tmp_path: Path) -> None:
    copy = upscale.copy_folder(base, tmp_path / "copy")
    assert {file.name: file.read_bytes() for file in base.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()
    }
    assert (copy.kind, copy.seconds) == ("copy", {"copy": copy.total_seconds})
    runs = {
        kind: upscale.upscale(kind, TINY, base, tmp_path / kind, verify=kind == "depth", threads=1)
        for kind in ("width", "depth")
    }
    assert load(tmp_path / "width").config.expansion == TINY.expansion
    assert load(tmp_path / "depth").config.num_hidden_layers == TINY.layers
    assert set(runs["width"].seconds) == set(runs["width"].cpu_seconds) == {"copy", "svd", "write"}
    assert set(runs["depth"].seconds) == set(runs["depth"].peak_bytes) | {"copy"} == {"copy", "write", "verify"}
    for run in runs.values():
        assert sum(run.seconds.values()) <= run.total_seconds


def test_the_svd_solvers_are_compared_on_maps_of_each_size(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of one size share a row, and a map that "auto" decomposes in full has no second solver."""
    monkeypatch.setattr(directions, "FLOAT64_LIMIT", 31)
    shape = dataclasses.replace(TINY, expansion=TINY.expansion | {"hidden_size": 4})
    lines = upscale.decompositions(shape, base, threads=1)
    assert [(line["name"], line["maps"], line["rows"], line["columns"], line["directions"]) for line in lines] == [
        ("embedding", 1, 64, 32, 4),
        ("q", 4, 32, 32, 16),
        ("k", 8, 32, 16, 8),
        ("o", 4, 32, 32, 4),
        ("gate", 8, 48, 32, 24),
        ("down", 4, 48, 32, 4),
    ]
    for line in lines:
        randomized = line["directions"] == 4
        assert line["solver"] == ("randomized" if randomized else "full")
        assert line["full_cpu_seconds"] > 0
        assert (line["randomized_wall_seconds"] is not None) == randomized
        assert 0.9 < line["energy_kept"] < 1 if randomized else line["energy_kept"] is None


def run_of(kind: str, total: float, peak: int, **seconds: float) -> Run:
    """A run whose CPU seconds are twice its wall seconds."""
    cpu = {stage: 2 * value for stage, value in seconds.items()}
    peaks = {"write": peak} | ({"verify": 2 * peak} if "verify" in seconds else {})
    return Run(kind, seconds, cpu, total, 2 * total, peaks)


def test_the_summary() -> None:
    plain = [
        run_of("copy", 1.0, 20, copy=1.0),
        run_of("width", 13.0, 30, copy=1.0, svd=11.0, write=0.5),
        run_of("copy", 2.0, 20, copy=2.0),
        run_of("width", 10.0, 40, copy=2.0, svd=7.0, write=0.5),
        run_of("copy", 9.0, 20, copy=9.0),
        run_of("width", 11.0, 35, copy=1.5, svd=8.0, write=1.5),
    ]
    copy, width = summarise(plain, [run_of("width", 99.0, 50, copy=1.0, svd=7.0, write=0.5, verify=90.0)])
    absent = ("svd_seconds", "write_seconds", "proof_seconds", "proof_peak_bytes")
    assert copy == {"kind": "copy", "copy_seconds": 2.0, "total_seconds": 2.0, "peak_bytes": 20} | dict.fromkeys(
        absent
    ) | {"over_copy": 1.0, "cpu_over_copy": 1.0}
    assert width == {"kind": "width", "copy_seconds": 1.5, "svd_seconds": 8.0, "write_seconds": 0.5} | {
        "total_seconds": 11.0,
        "over_copy": 1.5,
        "cpu_over_copy": 1.5,
        "peak_bytes": 40,
        "proof_seconds": 90.0,
        "proof_peak_bytes": 100,
    }


def test_the_table_of_the_summary() -> None:
    plain = [
        run_of("copy", 1.0, 27_000_000, copy=1.0),
        run_of("width", 13.0, 898_000_000, copy=1.25, svd=11.0, write=0.5),
    ]
    written = io.StringIO()
    lines = summarise(plain, [run_of("width", 99.0, 898_000_000, copy=1.0, svd=7.0, write=0.5, verify=90.0)])
    Console(file=written, width=80).print(summary_table(lines, title="upscaling"))
    assert cells(written.getvalue()) == [
        ["seconds to copy", "1.0", "1.2"],
        ["seconds of the SVD", "-", "11.0"],
        ["seconds to write the expansion", "-", "0.5"],
        ["seconds in total", "1.0", "13.0"],
        ["without the SVD / copy, wall", "1.00", "2.00"],
        ["without the SVD / copy, CPU", "1.00", "2.00"],
        ["peak MB", "27", "898"],
        ["seconds of the proof", "-", "90.0"],
        ["peak MB with the proof", "-", "1796"],
    ]


@pytest.mark.slow
def test_upscaling_is_measured_in_new_processes(tmp_path: Path) -> None:
    words = ["upscale", "--shape", "llama-small", "--repetitions", "1", "--threads", "1", "--work", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.speed", *words, "--out", str(tmp_path / "record.json")]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert "seconds of the SVD" in completed.stdout
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    runs = record["runs"]
    assert [run["kind"] for run in runs] == ["copy", "width", "depth", "width", "depth"]
    assert ["verify" in run["seconds"] for run in runs] == [False, False, False, True, True]
    assert runs[0]["peak_bytes"]["write"] < runs[1]["peak_bytes"]["write"]  # the same imports, and no model
    assert [path.name for path in (tmp_path / "llama-small").iterdir()] == ["base"]
