"""The biography benchmark: its recipes, and a tiny run of it from end to end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image

from scale_cli.bench import bios
from scale_cli.bench.bios import (
    END_OF_TEXT,
    UNKNOWN,
    BiosResult,
    Row,
    load_preset,
    run,
    train_tokenizer,
)
from scale_cli.bench.stages import PRESETS, matching_size, parse_seeds
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS, method_options
from scale_cli.model import LayerShape, ScaleConfig, ScaleForCausalLM, family_of
from scale_cli.model.families import lora_parameters
from scale_cli.reporting.bios import markdown_table
from scale_cli.surgery.width import expansion_sizes, plan_width
from tests.helpers import BASES, tiny_base
from tests.runs import TINY_BENCH, bench_file, lines, tree

FILES = sorted((Path(bios.__file__).parent / "presets" / "bios").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_presets(file: Path) -> None:
    recipe = load_preset(file.stem)
    assert file.stem in PRESETS
    assert sorted(recipe.methods) == sorted(METHODS)
    if recipe.tokenizer in bios.TOKENIZERS:  # else it comes from the hub
        bios._check_model(recipe)
    half = recipe.pretrain_people // 2
    pretrain, task0 = (recipe.train_recipe(stage, seed=3) for stage in ("pretrain", "task0"))
    assert (pretrain.method, pretrain.objective, pretrain.from_scratch) == ("fft", "lm", True)
    assert (pretrain.people, pretrain.seed) == (f"0:{recipe.pretrain_people}", 3)
    assert (task0.objective, task0.people) == ("qa", f"0:{half}")
    for method in METHODS:
        task1 = recipe.train_recipe(method, seed=3)
        assert task1.people == f"{recipe.pretrain_people}:{recipe.pretrain_people + recipe.task1_people}"
        assert (task1.method, task1.objective, task1.from_scratch) == (method, "qa", False)
        names, ranges = zip(*(text.split("=") for text in task1.eval_people), strict=True)
        assert names == ("task0", "task1")
        assert [int(people.split(":")[0]) for people in ranges] == [half, recipe.pretrain_people]
        assert task0.eval_people == task1.eval_people[:1]  # never those it trained on
        if method != "fft":
            same = set(dataclasses.asdict(task1)) - {"method", "lr", "seed"} - set(recipe.methods[method])
            fft = recipe.train_recipe("fft", seed=3)
            assert all(getattr(task1, name) == getattr(fft, name) for name in same)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_rank_of_lora_is_matched_to_the_expansion(file: Path, tmp_path: Path) -> None:
    recipe = load_preset(file.stem)
    config = bios._model_config(recipe)
    sizes = expansion_sizes(plan_width(LayerShape.of(config), vocab_size=config.vocab_size, **recipe.width))
    with torch.device("meta"):
        wide = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=sizes))
    added = sum(parameter.numel() for parameter in wide.expansion.parameters())
    config.save_pretrained(tmp_path / "task0")
    (tmp_path / "width").mkdir()
    (tmp_path / "width" / "upscale.json").write_text(json.dumps({"parameters": {"added": added}}), encoding="utf-8")
    rank = matching_size("lora", str(tmp_path / "task0"), tmp_path / "width")["lora_r"]
    per_rank = lora_parameters(family_of("gpt_neox"), LayerShape.of(config), config.num_hidden_layers)
    assert rank * per_rank == pytest.approx(added, rel=0.1)


@pytest.mark.parametrize("name", BASES)
def test_the_parameters_of_lora_are_counted_as_peft_counts(name: str) -> None:
    for rank in (1, 5):
        base = tiny_base(name)
        config = base.config
        model = METHODS["lora"].apply(base, method_options({"lora_r": rank})["lora"], ())
        counted = lora_parameters(family_of(config.model_type), LayerShape.of(config), config.num_hidden_layers)
        assert rank * counted == model.get_nb_trainable_parameters()[0]


TEXTS = ["Ann Lee was born on May 1, 2001.", "Where was Ann Lee born?\nAnswer: Lima"]


@pytest.mark.parametrize(("kind", "size"), [("bpe", 300), ("word", 50)])
def test_a_tokenizer_says_back_what_it_was_trained_on(kind: str, size: int) -> None:
    tokenizer = train_tokenizer(TEXTS, kind, size)
    assert tokenizer.get_vocab_size() <= size
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_words_are_tokens_and_the_commonest_are_kept() -> None:
    tokenizer = train_tokenizer(TEXTS, "word", 5)
    assert set(tokenizer.get_vocab()) == {END_OF_TEXT, UNKNOWN, "Ġwas", "ĠLee", "Ġborn"}  # twice each
    assert train_tokenizer(TEXTS, "word", 99).encode(" Ann Lee was").tokens == ["ĠAnn", "ĠLee", "Ġwas"]
    assert tokenizer.encode(" Oslo").tokens == [UNKNOWN]


def test_a_recipe_file_and_what_is_asked_besides(tmp_path: Path) -> None:
    recipe = load_preset(bench_file(tmp_path))
    assert recipe.preset == str(tmp_path / "tiny.yaml")
    assert (recipe.seeds, list(recipe.methods)) == ((0,), ["fft", "scale-route"])
    assert load_preset(bench_file(tmp_path, seeds=[1, 2])).seeds == (1, 2)
    changed = load_preset(bench_file(tmp_path), methods=["scale-route"], seeds=(3, 4))
    assert (changed.methods, changed.seeds) == ({"scale-route": {}}, (3, 4))
    assert parse_seeds(" 0, 12") == (0, 12)
    labelled = load_preset(bench_file(tmp_path, methods={"slow": {"method": "fft", "lr": 1e-5}}))
    assert (labelled.method_of("slow"), labelled.train_recipe("slow", seed=0).method) == ("fft", "fft")
    assert labelled.train_recipe("slow", seed=0).learning_rate == 1e-5
    few = load_preset(bench_file(tmp_path, eval_people=3))
    assert few.train_recipe("fft", seed=0).eval_people == ("task0=4:7", "task1=8:11")
    assert few.train_recipe("task0", seed=0).eval_people == ("task0=4:7",)


STAGES: dict[str, Any] = TINY_BENCH["stages"]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"peple": 5}, "tiny.yaml: unknown key 'peple'; did you mean 'people'?"),
    "missing key": ({"people": None}, "tiny.yaml: the key 'people' is missing"),
    "wrong type": ({"people": "many"}, "tiny.yaml: people: 'many' is not a whole number"),
    "no list": ({"stages": 5}, "tiny.yaml: stages: 5 is not a list of `key: value` lines"),
    "unknown method": ({"methods": {"ftt": {}}}, "methods ftt: choose from fft, lora, llama-pro, freeze, "),
    "unknown method of a label": ({"methods": {"slow": {"method": "ftt"}}}, "methods ftt: choose from fft, "),
    "no method": ({"methods": {}}, "methods (none): choose from fft, "),
    "a label that is a folder": ({"methods": {"width": {"method": "fft"}}}, "methods: the label 'width' is also "),
    "a label that is a path": ({"methods": {"../x": {"method": "fft"}}}, "methods: the label '../x' is also "),
    "people": ({"people": 11}, "8 + 4 people of 11: pre-training and Task 1 need at least 2 people each"),
    "one person": ({"task1_people": 1}, "8 + 1 people of 16: "),
    "same seeds": ({"seeds": [1, 1]}, "--seeds 1,1: name at least one, each once"),
    "no seeds": ({"seeds": []}, "--seeds : name at least one, each once"),
    "biographies": ({"bios": 0}, "bios 0: at least 1"),
    "vocabulary": ({"vocab_size": 256, "tokenizer": "bpe"}, "vocab_size 256: at least 257"),
    "a missing stage": (
        {"stages": {"pretrain": {}, "task0": {}}},
        "stages pretrain, task0: give pretrain, task0, task1, each once",
    ),
    "an unknown option": (
        {"stages": STAGES | {"task0": {"stepps": 5}}},
        "task0: unknown key 'stepps'; did you mean 'steps'?",
    ),
    "an option of a method": ({"methods": {"fft": {"lr": 0}}}, "fft: --lr 0.0: above 0"),
    "a decided option": (
        {"stages": STAGES | {"pretrain": {"people": "0:2"}}},
        "pretrain: people is decided by the benchmark; leave it out",
    ),
    "width": ({"width": {"heads": 1}}, "width {'heads': 1}: give hidden, and heads, ffn, init as wanted"),
    "depth": ({"depth": {"layer": 3}}, "depth {'layer': 3}: give layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RequestError) as caught:
        load_preset(bench_file(tmp_path, **changes))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": TINY_BENCH["model"] | {"hiden_size": 32}},
            "^model: GPTNeoXConfig has no 'hiden_size'; choose from ",
        ),
        (
            {"model": TINY_BENCH["model"] | {"hidden_size": 30}},
            "^model: .*not divisible by the number of attention heads",
        ),
        ({"width": {"hidden": 64}}, "^--hidden 64: svd takes at most 32 from the maps of the model; "),
        ({"width": {"hidden": 8, "init": "best"}}, "^--init best: "),
        ({"tokenizer": "wrod"}, r"^tokenizer 'wrod' does not load \(.*\); give word, bpe, a folder or a hub id"),
        ({"depth": {"layers": 2}}, "^--layers 2: the model has 2 layers and block expansion only adds; choose 3 to 4"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_made(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recipe = load_preset(bench_file(tmp_path, **changes))
    with pytest.raises(RequestError, match=message):
        run(recipe, tmp_path / "out", say=print, progress=silent)
    assert not (tmp_path / "out").exists()


def test_presets_methods_and_seeds_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^--preset dmo: choose demo, small, paper, or give a YAML file$"):
        load_preset("dmo")
    with pytest.raises(RequestError, match=r"^--methods x,y: choose from fft, scale-route$"):
        load_preset(bench_file(tmp_path), methods=["x", "fft", "y"])
    for text in ("", "a", "1,,2", "-1", "1.5"):
        with pytest.raises(RequestError, match=f"^--seeds {text}: write whole numbers with commas between"):
            parse_seeds(text)
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(RequestError, match="a recipe is a list of `key: value` lines"):
        load_preset(str(tmp_path / "list.yaml"))


@contextlib.contextmanager
def silent(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
    yield lambda **steps: None


def interrupting(stage: str, step: int) -> Any:
    """A progress display that presses Ctrl-C at a step of a stage, and keeps what it was told of each stage's start."""
    begun: list[tuple[str, int | None, int]] = []

    @contextlib.contextmanager
    def progress(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
        begun.append((label, total, done))

        def advance(done: int) -> None:
            if label.startswith(stage) and done == step:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance

    progress.begun = begun  # type: ignore[attr-defined]
    return progress


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> BiosResult:
    """The tiny recipe, run."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bios, "TASK0_NEEDED", 0.0)
        return run(load_preset(bench_file(folder)), folder / "out", say=print, progress=silent)


@pytest.fixture
def no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bios, "TASK0_NEEDED", 0.0)


def numbers(rows: tuple[Row, ...]) -> list[Row]:
    return [dataclasses.replace(row, seconds=0.0) for row in rows]


def test_a_run_from_end_to_end(done: BiosResult) -> None:
    assert [(row.label, row.seed) for row in done.rows] == [("fft", 0), ("scale-route", 0)]
    for row in done.rows:
        folder = done.out / f"seed-{row.seed}" / row.label
        record = read_record(folder / "record.json")
        metrics = {metric["name"]: metric["value"] for metric in record["metrics"]}
        before = read_record(done.out / f"seed-{row.seed}" / "task0" / "record.json")["metrics"][0]
        assert (before["name"], before["value"], before["samples"]) == ("task0/hard", row.task0_before, 4 * 6)
        curve = [line for line in lines(folder) if "task0/hard" in line]
        assert [line["step"] for line in curve] == [0, 30, 60]
        assert curve[0]["task0/hard"] == row.task0_before  # every method starts from the same checkpoint
        points = [(line["step"], line["task0/hard"], line["task1/hard"]) for line in curve]
        assert done.curves[row.label][row.seed] == points
        assert row == Row(
            label=row.label,
            method=row.label,
            seed=row.seed,
            learning_rate=2e-2 if row.label == "fft" else 1e-2,
            trained_parameters=record["trained_parameters"],
            task0_before=before["value"],
            task0=metrics["task0/hard"],
            task1=metrics["task1/hard"],
            exact_task0=metrics["task0/exact"],
            exact_task1=metrics["task1/exact"],
            seconds=record["seconds"],
            routed_task0=metrics.get("task0/routed"),
            routed_task1=metrics.get("task1/routed"),
        )
        assert row.task1 > 0
        assert row.task0 != row.task0_before
        assert (row.routed_task1 is None) == (row.label == "fft")
    results = read_record(done.out / "results.json")
    assert results["rows"] == [plain(row) for row in done.rows]
    assert results["recipe"]["stages"] == TINY_BENCH["stages"]
    assert 0 < results["seconds"] == done.seconds
    assert (done.out / "table.md").read_text(encoding="utf-8") == markdown_table(map(vars, done.rows)) + "\n"
    assert image.imread(done.out / "curves.png").ndim == 3
    assert not (done.out / "seed-0" / "depth").exists()  # no method needs it


def test_a_seed_can_be_added_and_is_another_run(done: BiosResult, no_gate: None) -> None:
    both = run(load_preset(done.recipe.preset, methods=["fft"], seeds=(0, 1)), done.out, say=print, progress=silent)
    assert [row.seed for row in both.rows] == [0, 1]
    assert both.rows[0] == done.rows[0]
    assert outcome(done.out / "seed-1").keys() < outcome(done.out / "seed-0").keys()
    assert all(content != outcome(done.out / "seed-0")[name] for name, content in outcome(done.out / "seed-1").items())


def outcome(seed: Path) -> dict[str, bytes]:
    """The weights and metrics of the trained stages of a seed."""
    return {
        name: content
        for name, content in tree(seed).items()
        if name.endswith(("model.safetensors", "trained.safetensors", "metrics.jsonl"))
    }


def test_what_is_finished_is_not_run_again(done: BiosResult, no_gate: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.training.train.train", None)
    monkeypatch.setattr("scale_cli.surgery.upscale", None)
    before = {name: content for name, content in tree(done.out).items() if "/" in name}
    again = run(done.recipe, done.out, say=print, progress=silent)
    assert (again.rows, again.curves) == (done.rows, done.curves)
    assert again.seconds > done.seconds
    assert {name: content for name, content in tree(done.out).items() if "/" in name} == before
    fewer = load_preset(done.recipe.preset, methods=["fft"])
    assert run(fewer, done.out, say=print, progress=silent).rows == done.rows[:1]
    changed = dataclasses.replace(done.recipe, methods={"scale-route": {"lr": 1.0}})  # known though not run last
    with pytest.raises(RequestError, match="holds a run of another recipe"):
        run(changed, done.out, say=print, progress=silent)


def test_an_interrupted_run_goes_on_to_the_same_numbers(done: BiosResult, no_gate: None, tmp_path: Path) -> None:
    """In the middle of a stage, and after its last step; so the same seed gives the same numbers twice."""
    recipe, out = load_preset(done.recipe.preset), tmp_path / "out"
    label, resumed = "pretrain (seed 0)", 0
    for stage, step in (("pretrain", 3), ("pretrain", 5), ("scale-route", 7), ("scale-route", 60)):
        progress = interrupting(stage, step)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, say=print, progress=progress)
        assert progress.begun[0] == (label, 60 if "route" in label else 6, resumed)
        assert progress.begun[-1][0] == f"{stage} (seed 0)"
        label, resumed = progress.begun[-1][0], step
        assert not (out / "results.json").exists()
    progress = interrupting("nothing", 0)
    result = run(recipe, out, say=print, progress=progress)
    assert progress.begun == []
    assert numbers(result.rows) == numbers(done.rows)
    assert result.curves == done.curves
    assert outcome(out / "seed-0") == {
        name: content
        for name, content in outcome(done.out / "seed-0").items()
        if name.split("/")[0] in ("pretrain", "task0", "width", *recipe.methods)
    }
    assert result.seconds > 0


def test_a_method_can_be_added_and_lora_is_matched(done: BiosResult, no_gate: None) -> None:
    recipe = dataclasses.replace(done.recipe, methods={"lora": {}, "half": {"method": "lora", "lora_r": 1}}, seeds=(0,))
    rows = run(recipe, done.out, say=print, progress=silent).rows
    assert [(row.label, row.method) for row in rows] == [("lora", "lora"), ("half", "lora")]
    folder = done.out / "seed-0"
    record = read_record(folder / "lora" / "record.json")
    matched = matching_size("lora", str(folder / "task0"), folder / "width")
    assert record["recipe"]["lora_r"] == record["recipe"]["lora_alpha"] == matched["lora_r"] > 1
    assert rows[0].trained_parameters == record["recipe"]["lora_r"] * rows[1].trained_parameters
    added = json.loads((folder / "width" / "upscale.json").read_text(encoding="utf-8"))["parameters"]["added"]
    assert rows[0].trained_parameters == pytest.approx(added, rel=0.1)


def test_lora_alone_is_matched_to_the_same_expansion(done: BiosResult, no_gate: None, tmp_path: Path) -> None:
    """Whatever other methods are run; in particular not to the deeper checkpoint of llama-pro."""
    recipe = dataclasses.replace(done.recipe, methods={"lora": {}, "llama-pro": {}}, seeds=(0,))
    run_out, seed = tmp_path / "out", tmp_path / "out" / "seed-0"
    shutil.copytree(done.out, run_out, ignore=lambda folder, names: {"width", "fft", "lora", "half"} & set(names))
    rows = run(recipe, run_out, say=print, progress=silent).rows
    assert {path.name for path in seed.iterdir()} >= {"width", "depth", "lora", "llama-pro"}
    per_rank = lora_parameters(family_of("gpt_neox"), LayerShape.of(bios._model_config(recipe)), 2)
    matched = matching_size("lora", str(done.out / "seed-0" / "task0"), done.out / "seed-0" / "width")
    assert rows[0].trained_parameters == per_rank * matched["lora_r"]


def test_another_recipe_needs_another_folder(done: BiosResult, no_gate: None, tmp_path: Path) -> None:
    before = tree(done.out)
    for changes in ({"bios": 3}, {"stages": STAGES | {"task0": {"steps": 5}}}, {"methods": {"fft": {"lr": 0.5}}}):
        recipe = dataclasses.replace(done.recipe, **changes)
        with pytest.raises(RequestError, match=r"holds a run of another recipe; choose another --out, or remove it$"):
            run(recipe, done.out, say=print, progress=silent)
    (tmp_path / "mine").touch()
    with pytest.raises(RequestError, match="already holds files of something else"):
        run(done.recipe, tmp_path, say=print, progress=silent)
    assert tree(done.out) == before
    assert tree(tmp_path) == {"mine": b""}


def test_task_1_is_not_begun_before_task_0_is_learnt(done: BiosResult) -> None:
    reached = f"{done.rows[0].task0_before:.3f}"
    assert float(reached) < 0.95
    message = rf"^Task 0 reached {reached} on its held-out people and 0\.95 is needed before Task 1, .* --seeds$"
    with pytest.raises(RequestError, match=message):
        run(done.recipe, done.out, say=print, progress=silent)
