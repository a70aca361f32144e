"""The speed measurements measure what they say: methods take real steps, the cost model gets true counts, checkpoints
are really copied, widened and deepened; and their command line."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.speed import common, train_step, upscale
from benchmarks.speed.__main__ import MEASUREMENTS, main
from benchmarks.speed.shapes import SHAPES, Shape
from benchmarks.speed.upscale import Run, summarise, summary_table
from scale_cli.methods import METHODS
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
    for _ in range(2):  # a zero head or LoRA matrix lets a gradient through from the second step on
        train_step.step(prepared, tokens, bfloat16=False)
    moved = {name for name, p in prepared.model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in prepared.model.named_parameters() if p.requires_grad}
    assert moved <= trained
    assert moved


def test_the_cost_model_gets_the_true_counts() -> None:
    counts = {method: train_step.prepare(method, TINY, device="cpu").cost for method in METHODS}
    base = 4 * BLOCK + HEAD
    assert {cost.base for cost in counts.values()} == {base}
    adapt = counts["scale-adapt"]
    assert adapt.training == 2 * base * 1.25 + 6 * adapt.added
    wide, up = 32 + 16, 16  # each added row reads both halves: q 16 rows, k and v 8, o 16, gate and up 24, down 16
    per_layer = up * wide + 2 * 8 * wide + up * wide + 2 * 24 * wide + up * (48 + 24)
    assert counts["scale-preserve"].added == 4 * per_layer + 64 * up
    lora = train_step.prepare("lora", TINY, device="cpu")
    assert counts["lora"].added == lora.trained_parameters
    assert counts["llama-pro"].added == BLOCK * round(counts["scale-preserve"].added / BLOCK)
    assert counts["freeze"].training == 2 * base + 4 * (BLOCK + HEAD)


def test_the_table_has_every_method_and_fft_as_one() -> None:
    timings = train_step.train_step(
        TINY, methods=("fft", "scale-preserve"), repetitions=2, warmup=1, device="cpu", bfloat16=False
    )
    assert [timing.method for timing in timings] == ["fft", "scale-preserve"]
    assert timings[0].cpu_ratio == timings[0].model_ratio == timings[0].over_floor == 1.0
    preserve = timings[1]
    assert preserve.over_floor == pytest.approx(preserve.cpu_ratio / preserve.model_ratio)
    written = io.StringIO()
    Console(file=written, width=80).print(train_step.timing_table(timings, title="steps"))
    assert "scale-preserve" in written.getvalue()
    assert "…" not in written.getvalue()


def test_what_takes_time_is_clocked() -> None:
    made, cpu, wall = common.clocked(lambda: sum(range(2_000_000)))
    assert made == 1999999000000
    assert 0 < cpu < 10
    assert 0 < wall < 10


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


def test_what_is_measured_is_made(base: Path, tmp_path: Path) -> None:
    copied = upscale.copy_folder(base, tmp_path / "copy")
    assert {file.name: file.read_bytes() for file in base.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()
    }
    assert (copied.kind, copied.seconds) == ("copy", {"copy": copied.total_seconds})
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


def run_of(kind: str, total: float, peak: int, **seconds: float) -> Run:
    """A run whose CPU seconds are twice those of the wall."""
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
    assert (copy.kind, copy.copy_seconds, copy.total_seconds, copy.over_copy, copy.peak_bytes) == ("copy", 2, 2, 1, 20)
    assert (copy.svd_seconds, copy.write_seconds, copy.proof_seconds, copy.proof_peak_bytes) == (None,) * 4
    assert (width.copy_seconds, width.svd_seconds, width.write_seconds, width.total_seconds) == (1.5, 8.0, 0.5, 11.0)
    assert (width.over_copy, width.cpu_over_copy) == (1.5, 1.5)
    assert (width.peak_bytes, width.proof_seconds, width.proof_peak_bytes) == (40, 90.0, 100)


def test_the_table_says_it_all() -> None:
    plain = [
        run_of("copy", 1.0, 27_000_000, copy=1.0),
        run_of("width", 13.0, 898_000_000, copy=1.25, svd=11.0, write=0.5),
    ]
    written = io.StringIO()
    lines = summarise(plain, [run_of("width", 99.0, 898_000_000, copy=1.0, svd=7.0, write=0.5, verify=90.0)])
    Console(file=written, width=80).print(summary_table(lines, title="upscaling"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in written.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["seconds to copy", "1.0", "1.2"],
        ["seconds of the svd", "-", "11.0"],
        ["seconds to write what is added", "-", "0.5"],
        ["seconds in all", "1.0", "13.0"],
        ["all but the svd / copy, wall", "1.00", "2.00"],
        ["all but the svd / copy, CPU", "1.00", "2.00"],
        ["peak MB", "27", "898"],
        ["seconds of the proof", "-", "90.0"],
        ["peak MB with the proof", "-", "1796"],
    ]


def test_a_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "llama-1b", TINY)
    asked: list[Any] = []

    def measure(shape: Shape, work: Path, **options: Any) -> tuple[list[Run], list[Run]]:
        asked.append((shape, work, options["repetitions"], options["threads"]))
        return [run_of("copy", 1.0, 20, copy=1.0)], []

    monkeypatch.setattr(upscale, "measure", measure)
    words = ["--repetitions", "2", "--threads", "1", "--work", str(tmp_path), "--out", str(tmp_path / "record.json")]
    assert main(["upscale", *words]) == 0
    assert asked == [(TINY, tmp_path / "llama-1b", 2, 1)]
    assert "Upscaling llama-1b" in capsys.readouterr().out
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["command"] == " ".join(["python -m benchmarks.speed upscale", *words])
    assert (record["shape"]["layers"], record["repetitions"], record["threads"]) == (5, 2, 1)
    assert record["lines"][0]["total_seconds"] == 1.0
    assert record["runs"][0]["peak_bytes"] == {"write": 20}


def test_the_command_line_of_a_training_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "llama-small", TINY)
    words = ["--methods", "scale-preserve", "--repetitions", "1", "--warmup", "0", "--threads", "1"]
    assert main(["train-step", *words, "--out", str(tmp_path / "record.json")]) == 0
    assert "scale-preserve" in capsys.readouterr().out
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("python -m benchmarks.speed train-step --methods scale-preserve ")
    assert [timing["method"] for timing in record["timings"]] == ["fft", "scale-preserve"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["walk"], f"walk: choose one of {', '.join(MEASUREMENTS)}"),
        (
            ["train-step", "--methods", "fft,ftt"],
            f"--methods fft,ftt: 'ftt' is not one of {', '.join(METHODS)}",
        ),
        (
            ["upscale", "--work", "/dev/null/x", "--repetitions", "1"],
            "/dev/null/x/llama-1b/base cannot be written: Not a directory; mend that or choose another folder",
        ),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upscale, "in_own_process", lambda function, *arguments: function(*arguments))
    assert main(words) == 2
    ended = capsys.readouterr()
    assert (ended.out, ended.err.splitlines()[-1]) == ("", f"benchmarks.speed: {line}")


def test_numbers_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["upscale", "--repetitions", "0"])
    assert ended.value.code == 2
    assert "argument --repetitions: 0: at least 1" in capsys.readouterr().err


def test_help_lists_what_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"\n  {name} ") == 2 for name in MEASUREMENTS)


@pytest.mark.slow
def test_upscaling_is_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    words = ["upscale", "--shape", "llama-small", "--repetitions", "1", "--threads", "1", "--work", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.speed", *words, "--out", str(tmp_path / "record.json")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "seconds of the svd" in ended.stdout
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    runs = record["runs"]
    assert [run["kind"] for run in runs] == ["copy", "width", "depth", "width", "depth"]
    assert ["verify" in run["seconds"] for run in runs] == [False, False, False, True, True]
    assert runs[0]["peak_bytes"]["write"] < runs[1]["peak_bytes"]["write"]  # the same imports, and no model
    assert [path.name for path in (tmp_path / "llama-small").iterdir()] == ["base"]
