"""The ablations: their rows, and a tiny run of each from end to end."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import judge, numbers_of
from scale_cli.bench import ablations
from scale_cli.bench.ablations import ROWS, load_preset, paper_values, run
from scale_cli.bench.stages import BenchResult, presets_of
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import values_of
from scale_cli.core.records import read_record
from tests.runs import World, continual_bench, silent, tree, values

pytestmark = pytest.mark.usefixtures("quick_figures")
Ran = Callable[[str], tuple[ablations.AblationRecipe, BenchResult]]
ROWS_RUN = {"threshold": ["tau -2", "tau 0.5", "tau 2"]}
"""The rows of tiny runs, where not all."""
PRESET = {"fft": {"lr": 2e-2}, "llama-pro": {}, "scale-adapt": {"lr": 1e-2}, "scale-preserve": {}, "scale-route": {}}


def tiny(folder: Path, world: World, ablation: str, **changes: Any) -> ablations.AblationRecipe:
    training = {"steps": 2, "batch_size": 2, "seq_length": 32, "lr": 1e-2, "eval_steps": 2, "preserve_layers": 1}
    file = continual_bench(folder, world.checkpoint("llama"), methods=PRESET, training=training)
    return load_preset(ablation, file, **changes)


@pytest.fixture(scope="module")
def ran(world: World, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`ran("init")`: the recipe of a tiny ablation and its result, made once; read its folder only."""

    @functools.cache
    def run_once(ablation: str) -> tuple[ablations.AblationRecipe, BenchResult]:
        folder = tmp_path_factory.mktemp(ablation)
        recipe = tiny(folder, world, ablation, methods=ROWS_RUN.get(ablation))
        return recipe, run(recipe, folder / "out", say=print, progress=silent)

    return run_once


@pytest.mark.parametrize("preset", presets_of("ablations"))
@pytest.mark.parametrize("ablation", ROWS)
def test_presets(ablation: str, preset: str) -> None:
    """Rows differ only in the options that the ablation varies. The methods of "drift" have their own rates."""
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
    names = {name for options in trained for name in options}
    assert {n for n in names if len({str(options[n]) for options in trained if n in options}) > 1} == varied


def perplexities(english: float, korean: float) -> dict[str, float]:
    return {"perplexity:english/perplexity": english, "perplexity:korean/perplexity": korean}


def test_the_paper_preserves_all_layers_half_of_them_and_none() -> None:
    recipe = load_preset("layers", "paper")
    rows = {label: recipe.train_recipe(label, seed=0) for label in recipe.methods}
    assert [row.method for row in rows.values()] == ["scale-preserve", "scale-adapt", "scale-adapt"]
    assert [row.options.preserve_layers for label, row in rows.items() if label != "l_fp-100"] == [8, 0]
    modules = load_preset("modules", "paper")
    assert {modules.train_recipe(label, seed=0).options.preserve_layers for label in modules.methods} == {8}
    assert paper_values("layers")["base"] == perplexities(10.42, 16.8)
    assert paper_values("layers")["l_fp-0"] == perplexities(12.4, 11.0)
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
def test_wrong_requests_are_refused(ablation: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_preset(ablation, "demo", **changes)
    assert str(caught.value) == message


def test_a_row_needs_the_row_whose_training_it_shows(world: World, tmp_path: Path) -> None:
    recipe = tiny(tmp_path, world, "threshold")
    with pytest.raises(
        RequestError, match=r"^tau 0: it shows the training of scale-route; put the row scale-route before it$"
    ):
        dataclasses.replace(recipe, methods={"tau 0": recipe.methods["tau 0"]})


@pytest.mark.parametrize("ablation", ROWS)
def test_an_ablation_from_end_to_end(ablation: str, ran: Ran) -> None:
    recipe, done = ran(ablation)
    rows = done.results[1:]
    assert [row.checkpoint.label for row in rows] == list(recipe.methods)
    record = read_record(done.out / "results.json")
    assert record["command"] == f"scale bench ablations {ablation} --preset {recipe.preset}"
    for row in rows:
        label, method = row.checkpoint.label, row.checkpoint.method
        trained = recipe.trained_by(label) == label
        names = {m.name for m in row.measurements}
        cosines = {"drift:english/cosine", "drift:korean/cosine"}
        norms = {"drift/expansion_norm/attention", "drift/expansion_norm/ffn"}
        assert names & cosines == (cosines if trained else set())
        assert names & norms == (norms if trained and method != "fft" else set())
        half = [m.details["hidden_states_equal"] for m in row.measurements if "hidden_states_equal" in m.details]
        assert (True in half) == (method == "scale-preserve")
        (korean,) = row.find("perplexity:korean", "perplexity")
        assert (korean.routed is not None) == (method == "scale-route")
        assert method not in ("fft", "llama-pro") or ablation == "drift"
    written = (done.out / "table.md").read_text(encoding="utf-8")
    assert all(f"\n| {label}" in written.replace("**", "").replace("\\_", "_") for label in recipe.methods)
    assert ("paper: English perplexity" in written) == (ablation in ("layers", "modules"))
    for suffix in (".png", ".svg"):
        assert (done.out / f"ablation{suffix}").is_file()


def test_finished_rows_are_not_run_again(ran: Ran) -> None:
    """Those of a threshold have no training of their own."""
    recipe, done = ran("threshold")
    before = {path.name: tree(path) for path in (done.out / "seed-0", done.out / "evaluation")}
    again = run(recipe, done.out, say=print, progress=silent)
    assert again.results == done.results
    assert before == {path.name: tree(path) for path in (done.out / "seed-0", done.out / "evaluation")}


def test_every_claim_of_the_paper_finds_its_rows(ran: Ran) -> None:
    """`benchmarks.reproduction` can judge every claim on the records of these ablations."""
    figures = json.loads(ablations.FIGURES.read_text(encoding="utf-8"))["figures"]
    judged = 0
    for ablation in ("init", "layers", "modules", "drift"):
        numbers = numbers_of(read_record(ran(ablation)[1].out / "results.json"))
        for figure in figures:
            for claim in figure["claims"] if figure["experiment"] == f"ablations-{ablation}" else []:
                assert judge(claim, numbers).status != "not run", claim["says"]
                judged += 1
    assert judged == 9


def test_thresholds_are_of_one_training(ran: Ran) -> None:
    """A tau of 2 preserves no token, one of -2 preserves all."""
    _, done = ran("threshold")
    by_label = values(done)
    texts = ("english", "korean")
    routed = {
        result.checkpoint.label: [result.find(f"perplexity:{text}", "perplexity")[0].routed for text in texts]
        for result in done.results
    }
    assert (routed["tau -2"], routed["tau 2"]) == ([1.0, 1.0], [0.0, 0.0])
    whole = {name: value for name, value in by_label["scale-route"].items() if not name.startswith("drift")}
    assert by_label["tau 0.5"] == whole
    assert by_label["tau -2"] != by_label["tau 2"]
    tokens = {result.checkpoint.label: (result.checkpoint.training or {}).get("tokens") for result in done.results}
    assert tokens["tau 2"] == tokens["scale-route"] is not None
    recipes = {result.checkpoint.label: result.checkpoint.recipe or {} for result in done.results}
    assert [recipes[label]["threshold"] for label in ("tau -2", "tau 0.5", "tau 2")] == [-2, 0.5, 2]
    assert len({result.checkpoint.identity for result in done.results[2:]}) == 3
    folder = done.out / "seed-0"
    assert not (folder / "tau 2" / "record.json").exists()  # it would have another threshold
    weights = [dict(load_model(describe(str(folder / name))).named_parameters()) for name in ("scale-route", "tau 2")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_rows_begin_from_their_own_initialisation(ran: Ran) -> None:
    _, done = ran("init")
    pairs = ("svd,zero", "zero,svd", "random,zero", "zero,random")
    for pair in pairs:
        upscaled = json.loads((done.out / f"width-{pair}" / "upscale.json").read_text(encoding="utf-8"))
        assert list(upscaled["initialisation"].values()) == pair.split(",")
        base = describe(str(done.out / "seed-0" / pair)).base
        assert base is not None
        assert Path(base.source).resolve().name == f"width-{pair}"
    assert not (done.out / "width").exists()
    assert len({row["perplexity:korean/bits_per_byte"] for row in values(done).values()}) == 5
