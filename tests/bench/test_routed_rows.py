"""Rows of a benchmark measured again under routers, each trained model together with its base."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scale_cli.bench import bios, continual
from scale_cli.bench.continual_recipe import ContinualRecipe
from scale_cli.bench.routers import PANELS
from scale_cli.bench.stages import BenchResult
from scale_cli.checkpoints.router import FRONTIER
from scale_cli.core.errors import RequestError
from scale_cli.evaluation.bios import BiographyJob
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.reporting.curves import ROUTER_CURVES, router_curve
from scale_cli.results.result import Result
from tests.runs import World, bench_file, silent, values

pytestmark = pytest.mark.usefixtures("quick_figures")
ROUTERS = ("mixture:1:0.4",)


def by_label(result: BenchResult) -> dict[str, Result]:
    return {each.checkpoint.label: each for each in result.results}


def test_biographies(bios_run: BenchResult, tmp_path: Path) -> None:
    out = shutil.copytree(bios_run.out, tmp_path / "run")
    recipe = dataclasses.replace(bios_run.recipe, routers=(*ROUTERS, "weights:0.5"), frontier=True)
    assert isinstance(recipe, bios.BiosRecipe)
    result = bios.run(recipe, out, say=print, progress=silent)
    rows = by_label(result)
    expected = [label for row in ("fft", "scale-route") for label in (row, *(f"{row}, {r}" for r in ROUTERS))]
    expected.insert(2, "fft, weights:0.5")  # a widened model has weights that its base lacks
    assert list(rows) == ["before Task 1", *expected]
    for label, before in values(bios_run).items():
        assert values(result)[label] == before
    task0 = str(out / "seed-0" / "task0")
    for label in ("fft", "scale-route"):
        jobs = [BiographyJob(out / "data", people) for people in recipe.measured.values()]
        folder = str(out / "seed-0" / label)
        (alone,) = evaluate([folder], jobs, routers=ROUTERS[:1], base=task0)
        row = rows[f"{label}, {ROUTERS[0]}"]
        assert {(m.task, m.metric) for m in row.measurements} >= {("bios:task0", "exact"), ("bios:task1", "hard")}
        for m in row.measurements:
            (own,) = (o for o in alone.measurements if (o.task, o.metric) == (_people(recipe, m.task), m.metric))
            assert m.value == pytest.approx(own.value, rel=1e-5)
        assert row.checkpoint.method == label
        assert row.checkpoint.identity != rows[label].checkpoint.identity
    table = (out / "table.md").read_text(encoding="utf-8")
    assert "| scale-route, mixture:1:0.4" in table
    assert (out / "frontier.png").is_file()
    panels = {panel.title: panel for panel in result.panels if panel.title in PANELS}
    assert list(panels) == [curve.title for curve in ROUTER_CURVES]
    trained = [rows["fft"].find(f"bios:{task}", "hard")[0].value for task in ("task0", "task1")]
    for curve, panel in zip(ROUTER_CURVES, panels.values(), strict=True):
        assert panel.series.keys() == ({"fft"} if curve.start == "weights:" else {"fft", "scale-route"})
        points = panel.series["fft"]["mean"]
        assert len(points) == sum(router_curve(text) is curve for text in FRONTIER) + (curve.trained_at is not None)
        if curve.trained_at is not None:
            assert points[0] == pytest.approx((100 * trained[0], trained[1]))
    again = bios.run(recipe, out, say=print, progress=silent)
    assert [r.measurements for r in again.results] == [r.measurements for r in result.results]


def _people(recipe: bios.BiosRecipe, task: str) -> str:
    return f"bios:{recipe.measured[task.removeprefix('bios:')]}"


def test_texts(korean_run: BenchResult, world: World, tmp_path: Path) -> None:
    out = shutil.copytree(korean_run.out, tmp_path / "run")
    recipe = dataclasses.replace(korean_run.recipe, routers=("mixture:0",), frontier=True)
    assert isinstance(recipe, ContinualRecipe)
    result = continual.run(recipe, out, say=print, progress=silent)
    rows = by_label(result)
    assert [label for label in rows if ", " in label] == [f"{row}, mixture:0" for row in recipe.methods]
    base = rows["base"]
    for label in recipe.methods:
        row = rows[f"{label}, mixture:0"]
        for task in ("perplexity:english", "perplexity:korean"):
            nats, of_base, own = (each.find(task)[0].details["nll"] for each in (row, base, rows[label]))
            windows = row.find(task)[0].details["windows"]
            assert nats <= min(of_base, own) + windows * math.log(2) + 1e-3
            assert row.find(task, "most_lost_nats")[0].value <= math.log(2) + 1e-9
            assert row.find(task, "bits_per_byte")[0].paired_stderr is not None
    assert (out / "frontier-routers.png").is_file()
    panel = next(panel for panel in result.panels if panel.title == ROUTER_CURVES[0].title)
    bits = [rows["fft"].find(f"perplexity:{name}", "bits_per_byte")[0].value for name in ("english", "korean")]
    assert panel.series["fft"]["mean"][0] == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("router", ["mixture:2", "average", "interpolate"])
def test_a_wrong_router_is_refused_before_anything_is_made(router: str, tmp_path: Path) -> None:
    recipe = bios.load_preset(bench_file(tmp_path, routers=[router]))
    run: Callable[..., BenchResult] = bios.run
    with pytest.raises(RequestError, match=f"--router {router}: "):
        run(recipe, tmp_path / "out", say=print, progress=silent)
    assert not (tmp_path / "out").exists()
