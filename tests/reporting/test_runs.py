"""Run folders of `scale train` in a report: their values, their curves, and their join with evaluations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.request import request
from scale_cli.reporting.columns import requested_groups
from scale_cli.reporting.runs import Material, read_material, run_panels
from scale_cli.reporting.table import Cell, Row, Table, build_table
from scale_cli.results.groups import Role
from scale_cli.training.train import train
from tests.helpers import refusal
from tests.runs import World, korean_texts, lines


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a method and one of another, with an old and a new text measured on the way."""
    folder = tmp_path_factory.mktemp("runs")
    texts = korean_texts(folder)
    shared: dict[str, Any] = {"data": (str(texts["train"]),), "objective": "lm", "people": None, "seq_length": 32}
    shared |= {"eval_text": (f"old={texts['english']}", f"new={texts['korean']}"), "eval_steps": 2, "steps": 4}
    for method, seed in (("fft", 0), ("fft", 1), ("scale-preserve", 0)):
        recipe = world.recipe(method, **shared, seed=seed)
        train(world.source(method), folder / "trained" / f"seed-{seed}" / method, recipe)
    return folder


def report(material: Material) -> Table:
    groups = requested_groups(material.results, [], [], [])
    return build_table(material.results, groups, seeds=True, notes=material.notes)


def cell(table: Table, row: Row, role: Role) -> Cell:
    column = table.summary(role)
    assert column is not None
    found = table.cell(row, column)
    assert found is not None
    return found


def values(run: Path, name: str) -> list[float]:
    return [line[name] for line in lines(run) if name in line]


def test_runs_are_compared_with_their_values_at_step_0(runs: Path) -> None:
    table = report(read_material([runs / "trained"]))
    assert [(row.label, row.section, len(row.results)) for row in table.rows] == [
        ("base", "base", 1),
        ("fft", "baselines", 2),
        ("scale-preserve", "SCALE", 1),
    ]
    assert [group.heading for group in table.groups] == ["stability: Old text", "plasticity: New text"]
    for name, role in (("old", "stability"), ("new", "plasticity")):
        base, fft, preserve = (cell(table, row, role) for row in table.rows)  # type: ignore[arg-type]
        both = [values(runs / "trained" / f"seed-{seed}" / "fft", f"{name}/bits_per_byte") for seed in (0, 1)]
        assert (base.value, base.error) == (both[0][0], None)
        assert fft.value == pytest.approx(sum(own[-1] for own in both) / 2)
        assert fft.change == pytest.approx(fft.value - base.value) != 0
        assert preserve.error is not None


def test_curves_are_the_lines_of_metrics_by_tokens(runs: Path) -> None:
    material = read_material([runs / "trained"])
    panels = run_panels(report(material), material.runs)
    assert [(panel.title, panel.x, panel.unit) for panel in panels] == [
        ("Old text (stability)", "training tokens", "bits per byte"),
        ("New text (plasticity)", "training tokens", "bits per byte"),
        ("Training loss", "training tokens", "nats per token"),
    ]
    own = values(runs / "trained" / "seed-1" / "fft", "new/bits_per_byte")
    tokens = [128 * step for step in (0, 2, 4)]  # four sequences of 32
    assert panels[1].series["fft"]["1"] == list(zip(tokens, own, strict=True))
    assert {label: len(seeds) for label, seeds in panels[2].series.items()} == {"fft": 2, "scale-preserve": 1}


def test_an_evaluated_run_is_one_row_with_its_curves(runs: Path, tmp_path: Path) -> None:
    fft, jobs = runs / "trained" / "seed-0" / "fft", request(texts=[f"old={runs / 'english.jsonl'}"]).jobs
    evaluate([f"mine={fft}"], jobs, out=tmp_path / "results", dtype="float32")
    shutil.copytree(runs / "trained", tmp_path / "results" / "runs")
    material = read_material([tmp_path / "results"])
    table = report(material)
    assert [row.label for row in table.rows] == ["mine"]
    assert [list(panel.series) for panel in run_panels(table, material.runs)] == [["mine"]] * 3
    (note,) = material.notes
    assert note.startswith("seed-0-scale-preserve and seed-1-fft: left out, as not evaluated")


def test_a_run_that_is_not_finished_shows_its_last_measured_step(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "trained" / "seed-0" / "fft", tmp_path / "run")
    (run / "record.json").unlink()
    whole = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    until = next(at for at, line in enumerate(whole) if json.loads(line)["step"] == 3)
    (run / "metrics.jsonl").write_text("".join(whole[:until]) + whole[until][:10], encoding="utf-8")  # killed
    table = report(read_material([run]))
    _, row = table.rows
    at_step_2 = values(runs / "trained" / "seed-0" / "fft", "new/bits_per_byte")[1]
    assert cell(table, row, "plasticity").value == at_step_2
    assert "run is unfinished: values of step 2 of 4." in table.notes


def test_runs_of_different_bases_have_no_common_one(runs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs / "trained" / "seed-0", tmp_path / "other")
    for run in other.iterdir():
        first, *rest = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        worse = {name: 1.01 * value for name, value in json.loads(first).items()}
        (run / "metrics.jsonl").write_text("\n".join([json.dumps(worse), *rest, ""]), encoding="utf-8")
    labels = [result.checkpoint.label for result in read_material([runs / "trained", other]).results]
    assert (len(labels), "base" in labels) == (5, False)


def test_a_folder_without_results_or_runs_is_refused(tmp_path: Path) -> None:
    assert refusal(read_material, [tmp_path]) == (
        f"{tmp_path} holds neither a result.json nor a run; make one with: scale eval CHECKPOINT --out {tmp_path}"
    )
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    (tmp_path / "record.json").write_text('{"schema": 2}', encoding="utf-8")
    assert refusal(read_material, [tmp_path]).startswith(f"{tmp_path} is not a run of scale train: ")
