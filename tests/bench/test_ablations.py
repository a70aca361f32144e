"""The ablations: their rows, and tiny runs of each from end to end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

from benchmarks.reproduction import judge, read_rows
from scale_cli.bench import ablations
from scale_cli.bench.ablations import ROWS, load_preset, paper_values, run
from scale_cli.bench.stages import PRESETS
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.recipe import values_of
from scale_cli.core.records import read_record
from scale_cli.reporting.ablation import row_ablation
from tests.runs import World, korean_bench, tree

PRESET = {"fft": {"lr": 2e-2}, "llama-pro": {}, "scale-adapt": {"lr": 1e-2}, "scale-preserve": {}, "scale-route": {}}


@contextlib.contextmanager
def silent(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
    yield lambda **steps: None


def tiny(folder: Path, world: World, ablation: str, **changes: Any) -> ablations.AblationRecipe:
    return load_preset(ablation, korean_bench(folder, world.checkpoint("llama"), methods=PRESET), **changes)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ablation", ROWS)
def test_presets(ablation: str, preset: str) -> None:
    """Rows differ in what the ablation varies and in nothing else; the drift's methods have rates of their own."""
    recipe = load_preset(ablation, preset)
    seeds = " --seeds 0,1,2" if preset == "small" else ""
    assert recipe.words == f"ablations {ablation} --preset {preset}{seeds}"
    varied = {
        "init": set(),
        "layers": {"method", "preserve_layers"},
        "modules": {"adapt_modules", "lr"},
        "drift": {"method", "lr"},
        "threshold": {"threshold"},
        "where": {"adapt_modules"},
    }[ablation]
    trained = [values_of(recipe.train_recipe(label, seed=0)) for label in recipe.methods]
    names = {name for one in trained for name in one}
    assert {name for name in names if len({str(one[name]) for one in trained if name in one}) > 1} == varied


def test_the_paper_preserves_all_layers_half_of_them_and_none() -> None:
    recipe = load_preset("layers", "paper")
    rows = {label: recipe.train_recipe(label, seed=0) for label in recipe.methods}
    assert [row.method for row in rows.values()] == ["scale-preserve", "scale-adapt", "scale-adapt"]
    assert [row.options.preserve_layers for label, row in rows.items() if label != "l_fp-100"] == [8, 0]
    modules = load_preset("modules", "paper")
    assert {modules.train_recipe(label, seed=0).options.preserve_layers for label in modules.methods} == {8}
    assert paper_values("layers")["base"] == {"perplexity/english": 10.42, "perplexity/korean": 16.8}
    assert paper_values("layers")["l_fp-0"] == {"perplexity/english": 12.4, "perplexity/korean": 11.0}
    assert paper_values("drift")["scale-preserve"] == {"drift:english/cosine": 1.0}
    assert paper_values("init") == paper_values("where") == {}


@pytest.mark.parametrize(
    ("ablation", "methods", "labels"),
    [
        ("layers", ["l_fp-25", "l_fp-0"], ["l_fp-25", "l_fp-0"]),
        ("threshold", ["tau 0.6"], ["scale-route", "tau 0.6"]),
        ("init", ["zero", "svd", "svd", "zero"], ["svd,zero", "zero,svd"]),
        ("modules", ["ffn"], ["ffn"]),
    ],
)
def test_rows_can_be_chosen(ablation: str, methods: list[str], labels: list[str]) -> None:
    assert list(load_preset(ablation, "demo", methods=methods).methods) == labels


@pytest.mark.parametrize(
    ("ablation", "changes", "message"),
    [
        ("inits", {}, "inits: there is no such ablation; choose from init, layers, modules, drift, threshold, where"),
        ("where", {"methods": ["here"]}, "--methods here: choose from attention; everywhere"),
        ("init", {"methods": ["svd"]}, "--methods svd: choose from svd,zero; zero,svd; random,zero; zero,random"),
        (
            "layers",
            {"methods": ["l_fp-101"]},
            "--methods l_fp-101: write l_fp-NUMBER from 0 to 100; l_fp-25 preserves a quarter of the layers",
        ),
        (
            "threshold",
            {"methods": ["0.5"]},
            '--methods 0.5: write tau NUMBER; "tau 0.6" routes by a threshold of 0.6',
        ),
        ("layers", {"seeds": (1, 1)}, "--seeds 1,1: name at least one, each once"),
    ],
)
def test_what_does_not_fit_is_refused(ablation: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_preset(ablation, "demo", **changes)
    assert str(caught.value) == message


def test_a_row_shows_a_training_that_is_there(world: World, tmp_path: Path) -> None:
    recipe = tiny(tmp_path, world, "threshold")
    with pytest.raises(RequestError, match=r"^tau 0: there is no row scale-route before it, whose training it shows$"):
        dataclasses.replace(recipe, methods={"tau 0": recipe.methods["tau 0"]})


@pytest.mark.parametrize("ablation", ROWS)
def test_an_ablation_from_end_to_end(ablation: str, world: World, tmp_path: Path) -> None:
    recipe = tiny(tmp_path, world, ablation)
    done = run(recipe, tmp_path / "out", say=print, progress=silent)
    rows = done.rows[1:]
    assert [row.label for row in rows] == list(recipe.methods)
    record = read_record(done.out / "results.json")
    assert record["command"] == f"scale bench ablations {ablation} --preset {recipe.preset}"
    for row in rows:
        widened, trained = row.method not in ("fft", "llama-pro"), recipe.trained_by(row.label) == row.label
        assert set(row.cosine) == ({"english", "korean"} if trained else set())
        assert set(row.norms) == ({"attention", "ffn"} if trained and row.method != "fft" else set())
        assert (row.hidden_states_equal is True) == (row.method == "scale-preserve")
        assert (row.routed["korean"] is not None) == (row.method == "scale-route")
        assert widened or ablation == "drift"
    written = (done.out / "table.md").read_text(encoding="utf-8")
    assert all(f"\n| {label} | " in written for label in recipe.methods)
    assert ("paper: English perplexity" in written) == (ablation in ("layers", "modules"))
    for suffix in (".png", ".svg"):
        assert (done.out / f"ablation{suffix}").is_file()
    assert image.imread(done.out / "ablation.png").shape[1] > 500

    before = {path.name: tree(path) for path in (done.out / "seed-0", done.out / "evaluation")}
    again = run(recipe, tmp_path / "out", say=print, progress=silent)
    assert plain(again.rows) == plain(done.rows)
    assert before == {path.name: tree(path) for path in (done.out / "seed-0", done.out / "evaluation")}


def test_every_claim_of_the_paper_finds_its_rows(world: World, tmp_path: Path) -> None:
    """What `benchmarks.reproduction` reads in the records of these ablations."""
    figures = json.loads(ablations.FIGURES.read_text(encoding="utf-8"))["figures"]
    judged = 0
    for ablation in ("init", "layers", "modules", "drift"):
        (tmp_path / ablation).mkdir()
        done = run(tiny(tmp_path / ablation, world, ablation), tmp_path / ablation / "out", say=print, progress=silent)
        rows = read_rows(read_record(done.out / "results.json"))
        for figure in figures:
            for claim in figure["claims"] if figure["experiment"] == f"ablations-{ablation}" else []:
                assert judge(claim, rows).status != "not run", claim["says"]
                judged += 1
    assert judged == 9


def test_thresholds_are_of_one_training(world: World, tmp_path: Path) -> None:
    """tau at or above 1 preserves nothing and below -1 everything."""
    recipe = tiny(tmp_path, world, "threshold", methods=["tau -2", "tau 0.5", "tau 2"])
    done = run(recipe, tmp_path / "out", say=print, progress=silent)
    rows = {row.label: row for row in done.rows}
    assert rows["tau -2"].routed == {"english": 1.0, "korean": 1.0}
    assert rows["tau 2"].routed == {"english": 0.0, "korean": 0.0}
    assert rows["tau 0.5"].bits == rows["scale-route"].bits
    assert rows["tau -2"].bits != rows["tau 2"].bits
    assert rows["tau 2"].tokens == rows["scale-route"].tokens
    folder = done.out / "seed-0"
    assert not (folder / "tau 2" / "record.json").exists()  # which would speak of another threshold
    weights = [dict(load_model(describe(str(folder / name))).named_parameters()) for name in ("scale-route", "tau 2")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_rows_begin_from_their_own_initialisation(world: World, tmp_path: Path) -> None:
    done = run(tiny(tmp_path, world, "init"), tmp_path / "out", say=print, progress=silent)
    pairs = ("svd,zero", "zero,svd", "random,zero", "zero,random")
    for pair in pairs:
        upscaled = json.loads((done.out / f"width-{pair}" / "upscale.json").read_text(encoding="utf-8"))
        assert list(upscaled["initialisation"].values()) == pair.split(",")
        base = describe(str(done.out / "seed-0" / pair)).base
        assert base is not None
        assert Path(base.source).resolve().name == f"width-{pair}"
    assert not (done.out / "width").exists()
    assert len({row.bits["korean"] for row in done.rows}) == 5


def test_the_figure_has_our_values_and_the_papers() -> None:
    rows: list[dict[str, Any]] = [
        {"label": "base", "perplexity": {"english": 20.0, "korean": 8.0}},
        *(
            {"label": label, "method": "scale-adapt", "perplexity": {"english": english, "korean": 4.0}}
            for label, english in (("l_fp-100", 21.0), ("l_fp-0", 22.0), ("l_fp-0", 24.0))
        ),
    ]
    found = row_ablation("layers", rows, paper_values("layers"))
    english, korean = found.panels
    assert (found.option, found.ticks) == ("layers preserved, %", {})
    ours, theirs = english.series
    assert list(map(list, ours.points)) == [pytest.approx([0, 15, 50**0.5]), pytest.approx([100, 5, 0])]
    assert theirs.reported
    forgotten = [100 * (perplexity / 10.42 - 1) for perplexity in (12.4, 10.6)]
    assert list(map(list, theirs.points)) == [
        pytest.approx([0, forgotten[0], 0]),
        pytest.approx([100, forgotten[1], 0]),
    ]
    assert korean.series[0].points[0][1] == -50.0
    assert (english.base, korean.base) == (0.0, 0.0)
