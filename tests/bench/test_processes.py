"""If two processes share a benchmark, files are written once, and the numbers are nearly those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from scale_cli.bench import bios
from scale_cli.bench.stages import BenchResult
from scale_cli.core.errors import RequestError
from scale_cli.results.result import Result, read_results
from tests.processes import together
from tests.runs import TINY_BENCH, World, bench_file, continual_bench, silent

SAVEFIG = "matplotlib.figure.Figure.savefig"


def touch(figure: Figure, file: Path, **options: Any) -> None:
    """Save an empty figure: drawing takes longer than a tiny model's training."""
    file.touch()


def assert_near(alone: list[Result], shared: list[Result], **tolerance: Any) -> None:
    """The same measurements of the same tokens, with values within the tolerance."""
    for one, both in zip(alone, shared, strict=True):
        assert one.checkpoint.label == both.checkpoint.label
        assert (one.checkpoint.training or {}).get("tokens") == (both.checkpoint.training or {}).get("tokens")
        for expected, actual in zip(one.measurements, both.measurements, strict=True):
            assert (actual.name, actual.samples) == (expected.name, expected.samples)
            if expected.task.startswith("bios:") or expected.metric == "bits_per_byte":
                assert actual.value == pytest.approx(expected.value, **tolerance)


def test_two_processes_share_a_run(
    bios_run: BenchResult, korean_run: BenchResult, world: World, tmp_path: Path
) -> None:
    stages = {name: {**stage, "batch_size": stage["batch_size"] // 2} for name, stage in TINY_BENCH["stages"].items()}
    biographies = bench_file(tmp_path, gpus=2, stages=stages, methods={"fft": {"lr": 2e-2}})
    training = {"steps": 4, "batch_size": 1, "seq_length": 32, "lr": 1e-2, "preserve_layers": 1}
    methods: dict[str, Any] = {"scale-preserve": {}}
    korean = continual_bench(tmp_path, world.checkpoint("llama"), gpus=2, training=training, methods=methods)
    commands = [
        ["bench", name, "--preset", preset, "--out", tmp_path / name]
        for name, preset in (("bios", biographies), ("korean", korean))
    ]
    together(2, tmp_path, *commands, patches={SAVEFIG: touch})
    assert {path.name for path in (tmp_path / "bios" / "seed-0").iterdir()} == {"pretrain", "task0", "fft"}
    assert_near(list(bios_run.results[:2]), read_results([tmp_path / "bios"]), abs=0.1)
    both = read_results([tmp_path / "korean"])
    assert_near([korean_run.results[0], korean_run.results[3]], both, rel=1e-4)
    assert any(m.details.get("hidden_states_equal") for m in both[1].measurements)
    with pytest.raises(RequestError, match=r"the recipe's number of processes is 2, not 1; start it with: torch"):
        bios.run(bios.load_preset(biographies), tmp_path / "one", say=print, progress=silent)
