"""Growth is measured on what it says, from small to large; and its command line."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib import image
from rich.console import Console

from benchmarks.speed import growth
from benchmarks.speed.__main__ import main
from benchmarks.speed.growth import SWEEPS, Machine, Point, Series, growth_table, panels, sized, without_expansion
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.train_step import build
from scale_cli.methods.cost import two_streams
from tests.benchmarks.test_speed import TINY

STEP_SWEEPS = ("expansion", "depth", "length", "batch")
GROWING = ["fft", "scale-preserve", "scale-adapt"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Every sweep in tiny."""
    monkeypatch.setitem(SHAPES, growth.SHAPE, dataclasses.replace(TINY, preserve_layers=2))
    monkeypatch.setattr(growth, "SHARES", (1 / 4, 1 / 2))
    monkeypatch.setattr(growth, "DEPTHS", (2, 4))
    monkeypatch.setattr(growth, "LENGTHS", (4, 8))
    monkeypatch.setattr(growth, "BATCHES", (1, 2))
    monkeypatch.setattr(growth, "STEP_SIZE", (1, 8))
    monkeypatch.setattr(growth, "SHORT", 4)
    monkeypatch.setattr(growth, "HIDDEN", (32, 64))
    return Machine(repetitions=1, device="cpu")


@pytest.mark.parametrize("sweep", STEP_SWEEPS)
def test_each_sweep_of_steps(sweep: str, tiny: Machine) -> None:
    series = growth.measure(sweep, tiny, threads=1, people=10_000)
    assert {one.sweep for one in series} == {sweep}
    assert [one.label for one in series] == GROWING[1:] if sweep == "expansion" else GROWING
    for one in series:
        places, counted = zip(*((point.x, point.counted) for point in one.points), strict=True)
        assert list(places) == sorted(places)
        assert list(counted) == sorted(counted)
        assert all(point.seconds > 0 for point in one.points)
        assert (one.at_zero is not None and one.at_zero > 0) == (sweep == "expansion")
    exponents = {one.label: one.exponents["model_exponent"] for one in series}
    if sweep in ("length", "batch"):
        assert all(exponent == pytest.approx(1) for exponent in exponents.values())
    else:  # the head does not grow with the depth, nor the base with the expansion
        assert all(exponent is not None and 0 < exponent < 1 for exponent in exponents.values())


def test_the_expansion_reaches_as_many_weights_as_the_base_has() -> None:
    shape = SHAPES[growth.SHAPE]
    with torch.device("meta"):
        counts = [two_streams(build("scale-preserve", sized(shape, share=share))) for share in growth.SHARES]
    shares = [cost.added / cost.base for cost in counts]
    assert shares == sorted(shares)
    assert shares[0] < 0.07
    assert shares[-1] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("method", "expected"), [("scale-preserve", []), ("scale-adapt", [3, 2])])
def test_without_an_expansion_the_base_alone_is_left(
    method: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preserve has no backward pass; Adapt's reaches the lowest layer that would collaborate, and no weight."""
    machine = Machine(repetitions=1, device="cpu")
    shape = growth.with_step(dataclasses.replace(TINY, preserve_layers=2), 1, 8)
    base = machine.prepare("fft", shape).model
    monkeypatch.setattr(machine, "prepare", lambda *given: SimpleNamespace(model=base))
    passed: list[int] = []
    for number, layer in enumerate(base.model.layers):
        layer.register_full_backward_hook(lambda module, given, asked, n=number: passed.append(n))
    without_expansion(machine, method, shape)()
    assert passed == expected
    assert all(parameter.grad is None for parameter in base.parameters())


def test_upscaling_grows_with_the_checkpoint(tiny: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "in_own_process", lambda function, *given, **named: function(*given, **named))
    series = growth.measure("upscale", tiny, threads=1, people=10_000)
    assert [one.label for one in series] == ["SVD of width", "rest of width", "depth"]
    small, large = (point.x for point in series[0].points)
    assert 2 * small < large  # twice as wide: nearly four times the weights
    assert all(one.exponents["model_exponent"] is None for one in series)


def test_people_grow_tenfold(tiny: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "in_own_process", lambda function, *given: function(*given))
    (series,) = growth.measure("gen-bios", tiny, threads=1, people=10_001)
    assert [point.x for point in series.points] == [1000, 10_000]


def series_of(sweep: str, label: str = "scale-preserve", *, counted: bool = True) -> Series:
    points = tuple(Point(10.0**n, 2 * 10.0**n, 3 * 10.0 ** (n / 2) if counted else None) for n in range(3))
    return Series(sweep, label, "scale-preserve", points, 0.5 if sweep == "expansion" else None)


def test_the_table_fits() -> None:
    series = [series_of("expansion"), series_of("expansion", "scale-adapt"), series_of("gen-bios", counted=False)]
    written = io.StringIO()
    Console(file=written, width=80).print(growth_table(series))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in written.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["expansion", "scale-preserve", "1", "100", "1.00", "1.00", "0.50"],
        ["", "scale-adapt", "1", "100", "1.00", "1.00", "0.50"],
        ["gen-bios", "scale-preserve", "1", "100", "1.00", "1.00", "-"],
    ]


def test_a_plot_for_each_sweep() -> None:
    drawn = panels([series_of(sweep) for sweep in SWEEPS], device="cpu")
    assert [panel.title for panel in drawn] == [title for title, _ in SWEEPS.values()]
    assert [panel.y for panel in drawn] == ["CPU seconds"] * 4 + ["seconds"] * 2
    assert [panel.series[0].level for panel in drawn] == [0.5, None, None, None, None, None]
    assert {panel.y for panel in panels([series_of("depth")], device="cuda")} == {"seconds"}


def test_the_command_line(tiny: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "expansion,batch", "--repetitions", "1", "--threads", "1"]
    assert main(["growth", *words, "--out", str(tmp_path / "record.json")]) == 0
    printed = capsys.readouterr()
    assert "Growth of seconds" in printed.out
    assert printed.err == "expansion ...\nbatch ...\n"
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("python -m benchmarks.speed growth --only expansion,batch ")
    assert [(one["sweep"], one["label"]) for one in record["series"]] == [
        ("expansion", "scale-preserve"),
        ("expansion", "scale-adapt"),
        *(("batch", method) for method in GROWING),
    ]
    assert record["series"][-1]["model_exponent"] == pytest.approx(1)
    assert record["targets"] == []
    assert image.imread(tmp_path / "record.png").shape[1] == 2 * 920


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--only", "depth,width"], f"--only depth,width: 'width' is not one of {', '.join(SWEEPS)}"),
        (["--people", "9999"], "--people 9999: at least 10000, as two numbers of people show a growth"),
    ],
)
def test_a_mistake_ends_with_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["growth", *words]) == 2
    assert capsys.readouterr().err == f"benchmarks.speed: {line}\n"
