"""Growth is measured at sizes from small to large."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib import image

from benchmarks.speed import growth
from benchmarks.speed.growth import SWEEPS, Point, Series, panels, sized, without_expansion
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.train_step import build, prepare
from scale_cli.methods.cost import two_streams
from tests.benchmarks.conftest import Measured
from tests.benchmarks.test_speed import TINY

STEP_SWEEPS = ("expansion", "depth", "length", "batch")
GROWING = ["fft", "scale-preserve", "scale-adapt"]

OPTIONS: dict[str, Any] = {"repetitions": 1, "threads": 1, "people": 10_001, "device": "cpu"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, in_this_process: None) -> None:
    """Every sweep at tiny sizes."""
    monkeypatch.setitem(SHAPES, growth.SHAPE, dataclasses.replace(TINY, preserve_layers=2))
    monkeypatch.setattr(growth, "SHARES", (1 / 4, 1 / 2))
    monkeypatch.setattr(growth, "DEPTHS", (2, 4))
    monkeypatch.setattr(growth, "LENGTHS", (4, 8))
    monkeypatch.setattr(growth, "BATCHES", (1, 2))
    monkeypatch.setattr(growth, "STEP_SIZE", (1, 8))
    monkeypatch.setattr(growth, "SHORT", 4)
    monkeypatch.setattr(growth, "HIDDEN", (32, 64))


@pytest.mark.parametrize("sweep", STEP_SWEEPS)
def test_each_sweep_of_steps(sweep: str, tiny: None) -> None:
    series = growth.measure(sweep, **OPTIONS)
    assert {line.sweep for line in series} == {sweep}
    assert [line.label for line in series] == (GROWING[1:] if sweep == "expansion" else GROWING)
    for line in series:
        sizes, counted = zip(*((point.x, point.counted) for point in line.points), strict=True)
        assert list(sizes) == sorted(sizes)
        assert list(counted) == sorted(counted)
        assert all(point.seconds > 0 for point in line.points)
        assert (line.at_zero is not None and line.at_zero > 0) == (sweep == "expansion")
    exponents = {line.label: line.exponents["model_exponent"] for line in series}
    if sweep in ("length", "batch"):
        assert all(exponent == pytest.approx(1) for exponent in exponents.values())
    else:  # the head does not grow with the depth, nor the base with the expansion
        assert all(exponent is not None and 0 < exponent < 1 for exponent in exponents.values())


def test_the_expansion_reaches_as_many_weights_as_the_base_has() -> None:
    shape = SHAPES[growth.SHAPE]
    with torch.device("meta"):
        costs = [two_streams(build("scale-preserve", sized(shape, share=share))) for share in growth.SHARES]
    shares = [cost.added / cost.base for cost in costs]
    assert shares == sorted(shares)
    assert shares[0] < 0.07
    assert shares[-1] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("method", "expected"), [("scale-preserve", []), ("scale-adapt", [3, 2])])
def test_without_an_expansion_only_the_base_is_timed(
    method: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preserve has no backward pass. Adapt's ends at the lowest collaborating layer and gives no weight a gradient."""
    shape = growth.with_step(dataclasses.replace(TINY, preserve_layers=2), 1, 8)
    base = prepare("fft", shape, device="cpu").model
    monkeypatch.setattr(growth, "prepare", lambda *values, **named: SimpleNamespace(model=base))
    passed: list[int] = []
    for number, layer in enumerate(base.model.layers):
        layer.register_full_backward_hook(lambda module, inputs, outputs, n=number: passed.append(n))
    without_expansion(method, shape, device="cpu")()
    assert passed == expected
    assert all(parameter.grad is None for parameter in base.parameters())


def test_upscaling_grows_with_the_checkpoint(tiny: None) -> None:
    series = growth.measure("upscale", **OPTIONS)
    assert [line.label for line in series] == ["SVD of width", "rest of width", "depth"]
    small, large = (point.x for point in series[0].points)
    assert 2 * small < large  # twice the hidden size: nearly four times the weights
    assert all(line.exponents["model_exponent"] is None for line in series)


def test_people_grow_tenfold(tiny: None) -> None:
    (series,) = growth.measure("gen-bios", **OPTIONS)
    assert [point.x for point in series.points] == [1000, 10_000]


def series_of(sweep: str, label: str = "scale-preserve", *, counted: bool = True) -> Series:
    points = tuple(Point(10.0**n, 2 * 10.0**n, 3 * 10.0 ** (n / 2) if counted else None) for n in range(3))
    return Series(sweep, label, "scale-preserve", points, 0.5 if sweep == "expansion" else None)


def test_a_plot_for_each_sweep() -> None:
    plots = panels([series_of(sweep) for sweep in SWEEPS], device="cpu")
    assert [panel.title for panel in plots] == [title for title, _ in SWEEPS.values()]
    assert [panel.y for panel in plots] == ["CPU seconds"] * 4 + ["seconds"] * 2
    assert [panel.series[0].level for panel in plots] == [0.5, None, None, None, None, None]
    assert {panel.y for panel in panels([series_of("depth")], device="cuda")} == {"seconds"}


def test_the_command(measured: Measured, tiny: None, tmp_path: Path) -> None:
    words = ("--only", "expansion,batch", "--repetitions", "1")
    record = measured("growth", *words, title="Growth of seconds", progress="expansion ...\nbatch ...\n")
    assert [(line["sweep"], line["label"]) for line in record["series"]] == [
        ("expansion", "scale-preserve"),
        ("expansion", "scale-adapt"),
        *(("batch", method) for method in GROWING),
    ]
    assert record["series"][-1]["model_exponent"] == pytest.approx(1)
    assert record["targets"] == []
    assert image.imread(tmp_path / "record.png").shape[1] == pytest.approx(2 * 1005, abs=1)  # two columns
