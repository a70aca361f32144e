"""Continual pre-training: its recipes, and tiny runs of it from end to end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from matplotlib import image
from transformers import AutoTokenizer

from scale_cli.bench import continual
from scale_cli.bench.continual import run
from scale_cli.bench.continual_recipe import ContinualRecipe, load_preset
from scale_cli.bench.stages import BenchResult, matching_size, presets_of
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import values_of
from scale_cli.core.records import read_record
from scale_cli.data.corpora import read_corpora
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.perplexity import PerplexityJob
from scale_cli.methods import paper_methods
from scale_cli.reporting.curves import panels_of
from scale_cli.reporting.table import build_table
from scale_cli.results.result import read_results
from tests.helpers import refusal
from tests.runs import (
    World,
    continual_bench,
    held_out,
    interrupting,
    korean_texts,
    lines,
    silent,
    tree,
    values,
)
from tests.tasks import Tasks

pytestmark = pytest.mark.usefixtures("quick_figures")  # but for the module's own run, `done`
FILES = sorted((Path(continual.__file__).parent / "presets" / "korean").glob("*.yaml"))


def test_there_is_a_recipe_for_every_preset() -> None:
    assert {file.stem for file in FILES} == set(presets_of("korean"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_presets(file: Path) -> None:
    recipe = load_preset(file.stem)
    assert tuple(recipe.methods) == paper_methods()
    fft = recipe.train_recipe("fft", seed=3)
    for method in paper_methods():
        trained = recipe.train_recipe(method, seed=3)
        assert (trained.method, trained.objective, trained.seed) == (method, "lm", 3)
        assert [text.partition("=")[0] for text in trained.eval_text] == ["english", "korean"]
        same = set(values_of(fft)) - {"method", *recipe.methods[method]}
        own, others = values_of(trained), values_of(fft)
        assert all(own[name] == others[name] for name in same)  # so the same tokens in the same order


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_for_all_trainings(precision: str) -> None:
    recipe = load_preset("demo", precision=precision, seeds=(0, 2))
    assert {recipe.train_recipe(label, seed=0).precision for label in recipe.methods} == {precision}
    assert recipe.command == f"scale bench korean --preset demo --seeds 0,2 --precision {precision}"
    assert load_preset("demo").train_recipe("fft", seed=0).precision == "float32"
    assert load_preset("demo").command == "scale bench korean --preset demo"


def test_the_paper_s_numbers() -> None:
    """arXiv 2511.03270: 60 billion tokens in steps of 512 x 8,192, and the options of each method."""
    recipe = load_preset("paper")
    assert recipe.step_tokens == 512 * 8192
    fft = recipe.train_recipe("fft", seed=0)
    assert fft.steps * recipe.step_tokens == pytest.approx(60e9, rel=1e-4)
    assert (fft.schedule, fft.warmup) == ("linear", 0.06)
    assert recipe.width == {"hidden": 256, "heads": 4, "ffn": 1024}
    assert recipe.depth == {"layers": 20}
    rates = {method: recipe.train_recipe(method, seed=0).learning_rate for method in paper_methods()}
    assert rates == {
        "fft": 1e-5,
        "lora": 1e-5,
        "freeze": 1e-5,
        "llama-pro": 2e-4,
        "scale-preserve": 1e-3,
        "scale-adapt": 1e-3,
        "scale-route": 1e-3,
    }
    assert recipe.train_recipe("scale-route", seed=0).options.preserve_layers == 3
    assert recipe.train_recipe("lora", seed=0).options.lora_r == 256
    assert recipe.suites == ("english", "korean")


STABLE, PLASTIC = (held_out("x.jsonl", role, documents=5) for role in ("stability", "plasticity"))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a label that is a folder": ({"methods": {"evaluation": {"method": "fft"}}}, "methods: the label 'evaluation' is "),
    "no data": ({"train_data": []}, "train_data is empty; name texts to train on"),
    "no text": ({"texts": {}}, "texts (none): add a text with the role stability"),
    "one role": ({"texts": {"old": STABLE}}, "texts old: add a text with the role plasticity"),
    "another role": ({"texts": {"old": STABLE | {"role": "both"}, "new": PLASTIC}}, "texts: old: role: 'both' is "),
    "a text's unknown key": (
        {"texts": {"old": STABLE | {"rolle": "x"}, "new": PLASTIC}},
        "texts: old: unknown key 'rolle'; did you mean 'role'?",
    ),
    "a text without a source": ({"texts": {"old": {"role": "stability", "documents": 5}}}, "texts: old: the key 'sour"),
    "one document": (
        {"texts": {"old": STABLE, "new": PLASTIC | {"documents_while_training": 1}}},
        "texts: new: documents and documents_while_training are at least 2",
    ),
    "limit": ({"limit": 0}, "limit 0: at least 1"),
    "processes": ({"gpus": 0}, "gpus 0: at least 1"),
    "rate": ({"tflops": 0.0}, "--tflops 0: above 0"),
    "a decided option": ({"training": {"data": "x"}}, "fft: data is decided by the benchmark; leave it out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_that_does_not_fit_is_refused(case: str, world: World, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RequestError) as caught:
        load_preset(continual_bench(tmp_path, world.checkpoint("llama"), **changes))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)
    assert "\n" not in str(caught.value)


def test_a_text_can_come_from_elsewhere(world: World, tmp_path: Path) -> None:
    preset = continual_bench(tmp_path, world.checkpoint("llama"))
    recipe = load_preset(preset, sources={"korean": "other.jsonl"})
    assert recipe.held_out["korean"].source == "other.jsonl"
    assert (recipe.held_out["korean"].documents, recipe.held_out["korean"].fewer) == (6, 2)
    assert recipe.held_out["english"] == load_preset(preset).held_out["english"]
    with pytest.raises(RequestError, match=r"^--text finnish=\.\.\.: the preset has no such text; choose"):
        load_preset(preset, sources={"finnish": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gpus": 2},
            r"the recipe's number of processes is 2, not 1; start it with: torchrun --nproc-per-node 2 ",
        ),
        (
            {"texts": {"old": STABLE | {"source": "none.jsonl"}, "new": PLASTIC}},
            r"^--text old=none\.jsonl: no such file",
        ),
        ({"base": "fetch:nothing"}, r"^nothing: not an item of fetch; choose from smollm2, english, "),
        ({"suites": ["englsh"]}, r"^--suite englsh: neither a shipped suite nor a file"),
    ],
)
def test_missing_inputs_are_named(changes: dict[str, Any], message: str, world: World, tmp_path: Path) -> None:
    recipe = load_preset(continual_bench(tmp_path, world.checkpoint("llama"), **changes))
    with pytest.raises(RequestError, match=message) as caught:
        run(recipe, tmp_path / "out", say=print, progress=silent)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "seed-0").exists()


@pytest.fixture
def done(korean_run: BenchResult) -> BenchResult:
    return korean_run


def test_a_run_from_end_to_end(done: BenchResult) -> None:
    base, *rows = done.results
    assert [(result.checkpoint.label, result.checkpoint.method) for result in done.results] == [
        ("base", None),
        *((method, method) for method in ("fft", "lora", "scale-preserve", "scale-route")),
    ]
    for row in rows:
        info, label = row.checkpoint, row.checkpoint.label
        record = read_record(done.out / "seed-0" / label / "record.json")
        assert info.training == {name: record[name] for name in ("tokens", "seconds", "peak_memory_bytes")}
        assert info.training["tokens"] == 4 * 2 * 32
        assert (info.recipe, info.base) == (record["recipe"], record["base"]["fingerprint"])
        assert info.parameters["trained"] == record["trained_parameters"]
        assert (info.seed, info.compared) == (0, base.checkpoint.fingerprint)
        assert record["recipe"]["lr"] == (2e-2 if label == "fft" else 1e-2)
        curve = [line for line in lines(done.out / "seed-0" / label) if "korean/bits_per_byte" in line]
        assert [line["step"] for line in curve] == [0, 2, 4]
        for panel, name in zip(done.panels, ("english", "korean"), strict=True):
            key = f"{name}/bits_per_byte"
            assert list(panel.series[label]["0"]) == [(64 * line["step"], line[key]) for line in curve]
            assert curve[0][key] == pytest.approx(
                panel.series["fft"]["0"][0][1], rel=1e-5
            )  # all start from the base's function
            (bits,), (before,) = (result.find(f"perplexity:{name}", "bits_per_byte") for result in (row, base))
            assert bits.value != before.value
            assert (bits.routed is None) == (label != "scale-route")
            assert bits.paired_stderr is not None
            assert 0 < bits.paired_stderr < bits.stderr + before.stderr  # type: ignore[operator]
        checked = [m.details["hidden_states_equal"] for m in row.measurements if "hidden_states_equal" in m.details]
        assert (set(checked) == {True}) == (label == "scale-preserve")
    lora, preserve = (read_record(done.out / "seed-0" / name / "record.json") for name in ("lora", "scale-preserve"))
    assert lora["recipe"]["lora_r"] == matching_size("lora", recipe_of(done).base, done.out / "width")["lora_r"]
    assert lora["trained_parameters"] == pytest.approx(preserve["trained_parameters"], rel=0.1)
    assert not (done.out / "depth").exists()  # no method needs it


def recipe_of(done: BenchResult) -> ContinualRecipe:
    assert isinstance(done.recipe, ContinualRecipe)
    return done.recipe


def test_the_numbers_are_those_of_scale_eval(done: BenchResult) -> None:
    texts = done.out / "texts"
    assert [len((texts / f"{name}.jsonl").read_text().splitlines()) for name in ("english", "korean")] == [5, 6]
    corpora = read_corpora([f"{name}={texts}/{name}.jsonl" for name in ("english", "korean")])
    folders = [recipe_of(done).base, str(done.out / "seed-0" / "fft")]
    for folder, ours in zip(folders, done.results, strict=False):
        (result,) = evaluate([f"x={folder}"], [PerplexityJob(corpus, WindowOptions(32)) for corpus in corpora])
        for measured in result.measurements:
            (same,) = ours.find(measured.task, measured.metric)
            assert same.value == pytest.approx(measured.value, rel=1e-9)
            assert same.stderr == pytest.approx(measured.stderr, rel=1e-9)
            assert same.samples == measured.samples


def test_the_files_of_a_run(done: BenchResult, run_cli: Callable[..., Any]) -> None:
    record = read_record(done.out / "results.json")
    assert record["schema"] == 2
    assert record["recipe"] == json.loads((done.out / "recipe.json").read_text(encoding="utf-8"))
    assert 0 < record["seconds"] == done.seconds
    for path in (done.out, done.out / "results.json"):
        stored = read_results([path])
        assert [(r.checkpoint, r.measurements) for r in stored] == [
            (r.checkpoint, r.measurements) for r in done.results
        ]
        assert panels_of(stored, build_table(stored, ())) == list(done.panels)
    for name in ("frontier", "curves"):
        assert image.imread(done.out / f"{name}.png").ndim == 3
        assert (done.out / f"{name}.txt").read_text(encoding="utf-8").endswith("the methods of SCALE.\n")
        assert (done.out / f"{name}.svg").is_file()
    assert not (done.out / "frontier-suites.png").exists()

    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (done.out / "table.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    assert [row[0].strip("*†") for row in rows] == ["base", "fft", "lora", "scale-preserve", "scale-route"]
    at = {name: index for index, name in enumerate(header)}
    assert rows[3][at["base half"]] == "equal"
    assert rows[2][at["base half"]] == "-"
    assert rows[1][at["lr"]] == "0.02"

    page = done.out / "report.html"
    assert run_cli("report", done.out / "results.json", "--out", page).code == 0
    text = page.read_text(encoding="utf-8")
    page.unlink()
    for word in ("stability: English text", "plasticity: Korean text", "English (stability)", '<section id="curves">'):
        assert word in text


def test_finished_stages_are_not_run_again(done: BenchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later call for one method keeps the other rows in record and table."""
    monkeypatch.setattr("scale_cli.training.train.train", None)
    monkeypatch.setattr("scale_cli.surgery.upscale", None)
    monkeypatch.setattr("scale_cli.evaluation.evaluate.load", None)
    before = {name: content for name, content in tree(done.out).items() if "/" in name}
    table = (done.out / "table.md").read_bytes()
    for recipe in (recipe_of(done), load_preset(done.recipe.preset, methods=["fft"])):
        again = run(recipe, done.out, say=print, progress=silent)
        assert (again.results, again.panels, again.recipe) == (done.results, done.panels, done.recipe)
        assert again.seconds > done.seconds
        assert {name: content for name, content in tree(done.out).items() if "/" in name} == before
        assert (done.out / "table.md").read_bytes() == table
    texts = recipe_of(done).texts
    fewer = {**texts, "english": {**texts["english"], "documents": 4}}
    for changes in ({"methods": {"fft": {"lr": 1.0}}}, {"texts": fewer}, {"base": "other"}):
        with pytest.raises(RequestError, match="holds a run of another recipe"):
            run(dataclasses.replace(recipe_of(done), **changes), done.out, say=print, progress=silent)


def test_a_run_folder_of_older_code_is_continued(done: BenchResult, tmp_path: Path) -> None:
    """Its recipe has a field per language instead of `texts`."""
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    stored = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    texts = stored.pop("texts")
    stored |= {f"{name}_data": text["source"] for name, text in texts.items()}
    for field in ("documents", "documents_while_training"):
        stored[field] = {name: text[field] for name, text in texts.items()}
    (out / "recipe.json").write_text(json.dumps(stored), encoding="utf-8")
    again = run(load_preset(done.recipe.preset, methods=["fft"]), out, say=print, progress=silent)
    assert values(again) == values(done)
    assert json.loads((out / "recipe.json").read_text(encoding="utf-8"))["texts"] == texts


def test_an_interrupted_run_continues_to_the_same_numbers(done: BenchResult, tmp_path: Path) -> None:
    recipe, out = load_preset(done.recipe.preset, methods=["fft", "scale-preserve"]), tmp_path / "out"
    for stage, step in (("fft (seed", 3), ("scale-preserve: perplexity", None), ("scale-preserve: drift", None)):
        progress = interrupting(stage, step)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, say=print, progress=progress)
        assert progress.begun[-1][0].startswith(stage)
        assert not (out / "results.json").exists()
    progress = interrupting("nothing", 0)
    result = run(recipe, out, say=print, progress=progress)
    assert progress.begun[-1][0].startswith("scale-preserve: drift")
    assert values(result) == {label: values(done)[label] for label in ("base", "fft", "scale-preserve")}


def test_seeds_are_repetitions_from_the_same_checkpoints(done: BenchResult, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    both = run(load_preset(done.recipe.preset, methods=["fft"], seeds=(0, 1)), out, say=print, progress=silent)
    labels = [result.checkpoint.label for result in read_results([out / "results.json"])]
    once = ["fft (seed 0)", "lora (seed 0)", "scale-preserve (seed 0)", "scale-route (seed 0)"]
    assert labels == ["base", *once, "fft (seed 1)"]
    assert values(both)["fft (seed 0)"] == values(done)["fft"]
    assert values(both)["fft (seed 1)"] != values(done)["fft"]
    assert both.results[1].checkpoint.identity == both.results[5].checkpoint.identity is not None
    assert set(both.panels[0].series["fft"]) == {"0", "1"}
    assert "| fft (2 seeds)" in (out / "table.md").read_text(encoding="utf-8")


def test_suites_are_measured_at_the_end(world: World, tasks: Tasks, tmp_path: Path) -> None:
    file = continual_bench(
        tmp_path, world.checkpoint("llama"), methods={"scale-route": {}}, suites=[str(tasks.suite)], limit=4
    )
    result = run(load_preset(file), tmp_path / "out", say=print, progress=silent)
    for row in result.results:
        assert [(m.limit, m.samples) for m in row.find("tiny_choice", "acc_norm")] == [(4, 4)]
    assert [group.name for group in result.groups] == ["english-text", "korean-text", "tiny"]
    assert "| Tiny (first 4) |" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_another_language_is_another_recipe_file(
    world: World, tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several texts with one role are several columns."""
    monkeypatch.chdir(tmp_path)
    files = korean_texts(tmp_path)
    texts = {
        "code": held_out(files["english"], "stability", documents=3),
        "english": held_out(files["english"], "stability", documents=4),
        "finnish": held_out(files["korean"], "plasticity", documents=3),
    }
    preset = continual_bench(tmp_path, world.checkpoint("llama"), methods={"scale-adapt": {}}, texts=texts)
    ended = run_cli("bench", "korean", "--preset", preset, "--out", "out")
    assert ended.code == 0
    for heading in ("Code bits/byte", "English bits/byte", "Finnish bits/byte", "Finnish perplexity"):
        assert heading.split()[0] in ended.stdout
        assert f"| {heading}\N{NO-BREAK SPACE}↓ |" in Path("out/table.md").read_text(encoding="utf-8")
    assert "Korean" not in Path("out/table.md").read_text(encoding="utf-8")
    record = read_record(Path("out/results.json"))
    assert [(group["title"], group["role"]) for group in record["groups"]] == [
        ("Code text", "stability"),
        ("English text", "stability"),
        ("Finnish text", "plasticity"),
    ]
    assert [curve["title"] for curve in record["curves"]] == [
        "Code (stability)",
        "English (stability)",
        "Finnish (plasticity)",
    ]


def test_inputs_of_a_recipe_are_fetched_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, Path]] = []

    def make(item: str, out: Path, *, cache: Path) -> None:
        fetched.append((item, cache))
        out.mkdir(parents=True)
        korean_texts(out)

    monkeypatch.setattr("scale_cli.material.fetch.make", make)
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    texts = {
        "english": held_out("fetch:some/english.jsonl", "stability", documents=5),
        "korean": held_out("fetch:some/korean.jsonl", "plasticity", documents=6),
    }
    file = continual_bench(
        tmp_path,
        world.checkpoint("llama"),
        train_data=["fetch:some/train.jsonl"],
        texts=texts,
        methods={"scale-adapt": {}},
    )
    result = run(load_preset(file), tmp_path / "out", say=print, progress=silent)
    assert fetched == [("some", tmp_path / "cache")]
    assert recipe_of(result).texts == texts  # the record has no path of this machine
    run(load_preset(file), tmp_path / "out", say=print, progress=silent)
    assert len(fetched) == 1


def test_the_paper_s_recipe_in_two_steps(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset with small sizes: a tiny model of the same family, and files in place of the streamed datasets."""
    texts, methods = korean_texts(tmp_path), ("fft", "lora", "llama-pro", "scale-preserve")
    real = datasets.load_dataset_builder
    opened: set[tuple[str, str | None]] = set()

    def builder(name: str, config: str | None) -> Any:
        opened.add((name, config))
        language = "korean" if name.endswith("fineweb-2") else "english"
        train = texts["train"] if language == "korean" else texts["english"]
        files = {"train": str(train), "test": str(texts[language])}
        return real("json", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    recipe = yaml.safe_load(next(file for file in FILES if file.stem == "paper").read_text(encoding="utf-8"))
    small = {"steps": 2, "batch_size": 1, "gradient_accumulation_steps": 2, "seq_length": 32, "lora_r": 4}
    small |= {"preserve_layers": 1, "freeze_layers": 1, "eval_steps": 1, "save_steps": 1}
    file = tmp_path / "paper.yaml"
    changes = {
        "base": str(world.checkpoint("llama")),
        "gpus": 1,
        "width": {"hidden": 8, "heads": 2, "ffn": 8},
        "depth": {"layers": 3},
        "suites": [],  # measured in the test above
        "training": recipe["training"] | small,
        "methods": {method: recipe["methods"][method] for method in methods},
    }
    file.write_text(yaml.safe_dump(recipe | changes, sort_keys=False), encoding="utf-8")
    result = run(load_preset(str(file)), tmp_path / "out", say=print, progress=silent)
    assert [result.checkpoint.label for result in result.results] == ["base", *methods]
    assert {result.checkpoint.training["tokens"] for result in result.results[1:]} == {2 * 2 * 32}  # type: ignore[index]
    assert opened == {("HuggingFaceFW/fineweb-2", "kor_Hang"), ("HuggingFaceFW/fineweb-edu", "sample-10BT")}
    assert "equal" in (result.out / "table.md").read_text(encoding="utf-8")


def test_a_changed_base_is_detected(done: BenchResult, tmp_path: Path) -> None:
    """The column "base half" shows DIFFERS if a weight of the base's half has changed."""
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    shutil.rmtree(out / "seed-0" / "evaluation")
    file = out / "width" / "base-model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
    tensors[name][0, 0] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    pointer = out / "seed-0" / "scale-preserve" / "trained.json"  # without its base's fingerprint, as an old run
    without = {k: v for k, v in json.loads(pointer.read_text(encoding="utf-8")).items() if k != "base_fingerprint"}
    pointer.write_text(json.dumps(without), encoding="utf-8")
    result = run(load_preset(done.recipe.preset, methods=["scale-preserve"]), out, say=print, progress=silent)
    (preserve,) = (result for result in result.results if result.checkpoint.method == "scale-preserve")
    checked = [m.details["hidden_states_equal"] for m in preserve.measurements if "hidden_states_equal" in m.details]
    assert not any(checked)
    assert "DIFFERS" in (out / "table.md").read_text(encoding="utf-8")


def test_a_base_that_is_pre_trained_from_scratch(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    texts = [str(tmp_path / f"{name}.jsonl") for name in ("english", "korean")]
    pretrain: dict[str, Any] = {"data": texts[:1], "tokenizer_data": texts[1:], "vocab_size": 300}
    pretrain["training"] = {"steps": 2, "batch_size": 2, "seq_length": 32, "lr": 1e-2}
    made: dict[str, Any] = {"config": config, "pretrain": pretrain, "methods": {"fft": {}}, "depth": {"layers": 3}}
    preset = continual_bench(tmp_path, Path("scratch"), **made)
    result = run(load_preset(preset), tmp_path / "out", say=print, progress=silent)
    assert [each.checkpoint.label for each in result.results] == ["base", "fft"]
    record = read_record(tmp_path / "out" / "base" / "record.json")
    assert (record["recipe"]["from_scratch"], record["recipe"]["data"]) == (True, texts[:1])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "base")
    assert len(tokenizer) == json.loads((tmp_path / "out" / "base" / "config.json").read_text())["vocab_size"] <= 300
    wrong: tuple[dict[str, Any], ...] = (
        {"pretrain": None},
        {"config": None},
        {"base": "x"},
        {"pretrain": pretrain | {"vocabulary": 3}},
    )
    messages = (
        "base scratch: the base scratch needs",
        "base scratch: give its",
        "base x: the base",
        "pretrain: unknown key",
    )
    for changes, message in zip(wrong, messages, strict=True):
        assert refusal(load_preset, continual_bench(tmp_path, Path("scratch"), **made | changes)).startswith(message)


def test_items_that_were_fetched_before(world: World, tmp_path: Path) -> None:
    preset = continual_bench(tmp_path, world.checkpoint("llama"), train_data=["fetch:korean-bills/text.jsonl"])
    recipe = load_preset(preset, fetched=tmp_path / "items")
    expected = (
        f"--fetched {tmp_path / 'items'}: it has no korean-bills; run: scale fetch korean-bills {tmp_path}/items/"
    )
    assert refusal(run, recipe, tmp_path / "out", say=print, progress=silent).startswith(expected)
