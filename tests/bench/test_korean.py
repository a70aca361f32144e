"""The Korean benchmark: its recipes, and a tiny run of it from end to end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from matplotlib import image

from scale_cli.bench import korean
from scale_cli.bench.korean import KoreanResult, load_preset, run
from scale_cli.bench.stages import PRESETS, matching_size
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.records import read_record
from scale_cli.data.corpora import read_corpora
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.perplexity import PerplexityJob
from scale_cli.methods import METHODS
from scale_cli.reporting.korean import markdown_table
from scale_cli.results.result import read_results
from tests.runs import World, korean_bench, korean_texts, lines, tree
from tests.tasks import Tasks

FILES = sorted((Path(korean.__file__).parent / "presets" / "korean").glob("*.yaml"))


def test_there_is_a_recipe_for_every_preset() -> None:
    assert {file.stem for file in FILES} == set(PRESETS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_presets(file: Path) -> None:
    recipe = load_preset(file.stem)
    assert sorted(recipe.methods) == sorted(METHODS)
    fft = recipe.train_recipe("fft", seed=3)
    for method in METHODS:
        trained = recipe.train_recipe(method, seed=3)
        assert (trained.method, trained.objective, trained.seed) == (method, "lm", 3)
        assert [text.partition("=")[0] for text in trained.eval_text] == ["english", "korean"]
        same = set(dataclasses.asdict(trained)) - {"method", *recipe.methods[method]}
        assert all(getattr(trained, name) == getattr(fft, name) for name in same)  # the same tokens in the same order


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_for_all_trainings(precision: str) -> None:
    recipe = load_preset("demo", precision=precision, seeds=(0, 2))
    assert {recipe.train_recipe(label, seed=0).precision for label in recipe.methods} == {precision}
    assert korean.launch_line(recipe) == f"scale bench korean --preset demo --seeds 0,2 --precision {precision}"
    assert load_preset("demo").train_recipe("fft", seed=0).precision == "float32"
    assert korean.launch_line(load_preset("demo")) == "scale bench korean --preset demo"


def test_the_papers_numbers() -> None:
    """Of arXiv 2511.03270: 60 billion tokens in steps of 512 x 8,192, and what each method is."""
    recipe = load_preset("paper")
    assert recipe.step_tokens == 512 * 8192
    fft = recipe.train_recipe("fft", seed=0)
    assert fft.steps * recipe.step_tokens == pytest.approx(60e9, rel=1e-4)
    assert (fft.schedule, fft.warmup) == ("linear", 0.06)
    assert recipe.width == {"hidden": 256, "heads": 4, "ffn": 1024}
    assert recipe.depth == {"layers": 20}
    rates = {method: recipe.train_recipe(method, seed=0).learning_rate for method in METHODS}
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


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"bse": 5}, "korean.yaml: unknown key 'bse'; did you mean 'base'?"),
    "missing key": ({"base": None}, "korean.yaml: the key 'base' is missing"),
    "unknown method": ({"methods": {"ftt": {}}}, "methods ftt: choose from fft, lora, llama-pro, freeze, "),
    "a label that is a folder": ({"methods": {"evaluation": {"method": "fft"}}}, "methods: the label 'evaluation' is "),
    "no data": ({"train_data": []}, "train_data is empty; name Korean texts to train on"),
    "one language": ({"documents": {"english": 5}}, "documents {'english': 5}: give english and korean, at least 2"),
    "one document": (
        {"documents_while_training": {"english": 1, "korean": 2}},
        "documents_while_training {'english': 1, 'korean': 2}: give english and korean, at least 2 documents of each",
    ),
    "limit": ({"limit": 0}, "limit 0: at least 1"),
    "processes": ({"gpus": 0}, "gpus 0: at least 1"),
    "rate": ({"tflops": 0.0}, "--tflops 0: above 0"),
    "an unknown option": ({"training": {"stepps": 5}}, "fft: unknown key 'stepps'; did you mean 'steps'?"),
    "an option of a method": ({"methods": {"fft": {"lr": 0}}}, "fft: --lr 0.0: above 0"),
    "a decided option": ({"training": {"people": "0:2"}}, "fft: people is decided by the benchmark; leave it out"),
    "another decided one": ({"training": {"data": "x"}}, "fft: data is decided by the benchmark; leave it out"),
    "width": ({"width": {"heads": 1}}, "width {'heads': 1}: give hidden, and heads, ffn, init as wanted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_that_does_not_fit_is_refused(case: str, world: World, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RequestError) as caught:
        load_preset(korean_bench(tmp_path, world.checkpoint("llama"), **changes))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gpus": 2},
            r"its batch is shared by 2 processes and there are 1; start it with: torchrun --nproc-per-node 2 ",
        ),
        ({"english_data": "none.jsonl"}, r"^--english-data english=none\.jsonl: no such file"),
        ({"base": "none"}, r"^none: no such folder"),
        ({"train_data": ["none.jsonl"]}, r"^--data none\.jsonl: no such file"),
        ({"base": "fetch:nothing"}, r"^nothing: there is no such thing to fetch; choose from smollm2, english, "),
        ({"suites": ["englsh"]}, r"^--suite englsh: neither a shipped suite nor a file"),
    ],
)
def test_what_is_not_there_is_said(changes: dict[str, Any], message: str, world: World, tmp_path: Path) -> None:
    recipe = load_preset(korean_bench(tmp_path, world.checkpoint("llama"), **changes))
    with pytest.raises(RequestError, match=message) as caught:
        run(recipe, tmp_path / "out", say=print, progress=silent)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "seed-0").exists()


@contextlib.contextmanager
def silent(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
    yield lambda **steps: None


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> KoreanResult:
    """The tiny recipe, run."""
    folder = tmp_path_factory.mktemp("korean")
    recipe = load_preset(korean_bench(folder, world.checkpoint("llama")))
    return run(recipe, folder / "out", say=print, progress=silent)


def test_a_run_from_end_to_end(done: KoreanResult) -> None:
    base, *rows = done.rows
    assert [(row.label, row.method, row.seed) for row in done.rows] == [
        ("base", None, None),
        *((method, method, 0) for method in ("fft", "lora", "scale-preserve", "scale-route")),
    ]
    for row in rows:
        folder = done.out / "seed-0" / row.label
        record = read_record(folder / "record.json")
        assert (row.tokens, row.seconds) == (4 * 2 * 32, record["seconds"])
        assert row.trained_parameters == record["trained_parameters"]
        assert row.peak_memory_bytes == record["peak_memory_bytes"]
        assert row.learning_rate == (2e-2 if row.label == "fft" else 1e-2)
        assert row.bits != base.bits
        curve = [line for line in lines(folder) if "korean/bits_per_byte" in line]
        assert [line["step"] for line in curve] == [0, 2, 4]
        for panel, language in zip(done.curves, ("english", "korean"), strict=True):
            points = [[64 * line["step"], line[f"{language}/bits_per_byte"]] for line in curve]
            assert panel["series"][row.label] == {"0": points}
            assert curve[0][f"{language}/bits_per_byte"] == pytest.approx(
                done.curves[0 if language == "english" else 1]["series"]["fft"]["0"][0][1], rel=1e-5
            )  # every method starts from what computes the same
        assert (row.routed["korean"] is None) == (row.label != "scale-route")
        assert row.hidden_states_equal is (True if row.label == "scale-preserve" else None)
    lora, preserve = rows[1], rows[2]
    rank = matching_size("lora", done.recipe.base, done.out / "width")["lora_r"]
    assert read_record(done.out / "seed-0" / "lora" / "record.json")["recipe"]["lora_r"] == rank
    assert lora.trained_parameters == pytest.approx(preserve.trained_parameters, rel=0.1)
    assert not (done.out / "depth").exists()  # no method needs it


def test_the_numbers_are_those_of_scale_eval(done: KoreanResult) -> None:
    texts = done.out / "texts"
    assert [len((texts / f"{name}.jsonl").read_text().splitlines()) for name in ("english", "korean")] == [5, 6]
    corpora = read_corpora([f"{name}={texts}/{name}.jsonl" for name in ("english", "korean")])
    windows = WindowOptions(32)
    folders = [done.recipe.base, str(done.out / "seed-0" / "fft")]
    for folder, row in zip(folders, done.rows, strict=False):
        (result,) = evaluate([f"x={folder}"], [PerplexityJob(corpus, windows) for corpus in corpora])
        for language in ("english", "korean"):
            (bits,) = result.find(f"perplexity:{language}", "bits_per_byte")
            (perplexity,) = result.find(f"perplexity:{language}", "perplexity")
            assert row.bits[language] == pytest.approx(bits.value, rel=1e-9)
            assert row.bits_stderr[language] == pytest.approx(bits.stderr, rel=1e-9)
            assert row.perplexity[language] == pytest.approx(perplexity.value, rel=1e-9)


def test_what_is_written(done: KoreanResult) -> None:
    record = read_record(done.out / "results.json")
    assert record["rows"] == [plain(row) for row in done.rows]
    assert record["curves"] == done.curves
    assert record["recipe"] == json.loads((done.out / "recipe.json").read_text(encoding="utf-8"))
    assert 0 < record["seconds"] == done.seconds
    found = read_results([done.out / "results.json"])
    assert [result.checkpoint.label for result in found] == [row.label for row in done.rows]
    assert [result.measurements for result in found] == [result.measurements for result in done.results]
    assert (done.out / "table.md").read_text(encoding="utf-8") == markdown_table(record["rows"]) + "\n"
    for name in ("frontier", "curves"):
        assert image.imread(done.out / f"{name}.png").ndim == 3
        assert (done.out / f"{name}.svg").is_file()
    assert not (done.out / "frontier-suites.png").exists()


def test_the_report_shows_table_trade_off_and_curves(done: KoreanResult, run_cli: Callable[..., Any]) -> None:
    page = done.out / "report.html"
    ended = run_cli("report", done.out / "results.json", "--format", "html", "--out", page)
    assert ended.code == 0
    text = page.read_text(encoding="utf-8")
    assert '<section id="trade-off">' in text
    assert '<section id="curves">' in text
    for word in ("stability: English text", "plasticity: Korean text", "English (stability)", "scale-route"):
        assert word in text
    page.unlink()


def test_what_is_finished_is_not_run_again(done: KoreanResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.training.train.train", None)
    monkeypatch.setattr("scale_cli.surgery.upscale", None)
    monkeypatch.setattr("scale_cli.evaluation.evaluate.load", None)
    before = {name: content for name, content in tree(done.out).items() if "/" in name}
    again = run(done.recipe, done.out, say=print, progress=silent)
    assert (again.rows, again.curves) == (done.rows, done.curves)
    assert again.seconds > done.seconds
    assert {name: content for name, content in tree(done.out).items() if "/" in name} == before
    fewer = load_preset(done.recipe.preset, methods=["fft"])
    assert run(fewer, done.out, say=print, progress=silent).rows == done.rows[:2]
    for changes in ({"methods": {"fft": {"lr": 1.0}}}, {"documents": {"english": 4, "korean": 6}}, {"base": "other"}):
        with pytest.raises(RequestError, match="holds a run of another recipe"):
            run(dataclasses.replace(done.recipe, **changes), done.out, say=print, progress=silent)


def test_an_interrupted_run_goes_on_to_the_same_numbers(done: KoreanResult, tmp_path: Path) -> None:
    recipe, out = load_preset(done.recipe.preset, methods=["fft", "scale-preserve"]), tmp_path / "out"
    begun: list[tuple[str, int]] = []

    def interrupting(stage: str, step: int | None) -> Any:
        @contextlib.contextmanager
        def progress(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
            begun.append((label, done))

            def advance(done: int, total: int | None = None) -> None:
                if label.startswith(stage) and step in (None, done):
                    os.kill(os.getpid(), signal.SIGINT)

            yield advance

        return progress

    for stage, step in (("fft (seed", 3), ("scale-preserve: perplexity", None), ("scale-preserve: drift", None)):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, say=print, progress=interrupting(stage, step))
        assert begun[-1][0].startswith(stage)
        assert not (out / "results.json").exists()
    result = run(recipe, out, say=print, progress=interrupting("nothing", 0))
    assert ("fft (seed 0)", 3) in begun
    assert begun[-1][0].startswith("scale-preserve: drift")
    wanted = [row for row in done.rows if row.label in ("base", "fft", "scale-preserve")]

    def numbers(rows: Any) -> list[Any]:
        return [dataclasses.replace(row, seconds=0.0, peak_memory_bytes=0) for row in rows]

    assert numbers(result.rows) == numbers(wanted)


def test_seeds_are_repetitions_from_the_same_checkpoints(done: KoreanResult) -> None:
    both = run(load_preset(done.recipe.preset, methods=["fft"], seeds=(0, 1)), done.out, say=print, progress=silent)
    assert [(row.label, row.seed) for row in both.rows] == [("base", None), ("fft", 0), ("fft", 1)]
    assert both.rows[1] == done.rows[1]
    assert both.rows[2].bits != both.rows[1].bits
    labels = [result.checkpoint.label for result in read_results([done.out / "results.json"])]
    assert labels == ["base", "fft (seed 0)", "fft (seed 1)"]
    assert set(both.curves[0]["series"]["fft"]) == {"0", "1"}


def test_suites_are_measured_at_the_end(world: World, tasks: Tasks, tmp_path: Path) -> None:
    file = korean_bench(
        tmp_path, world.checkpoint("llama"), methods={"scale-route": {}}, suites=[str(tasks.suite)], limit=4
    )
    result = run(load_preset(file), tmp_path / "out", say=print, progress=silent)
    for row in result.rows:
        assert row.suites.keys() == row.suites_stderr.keys() == {"Tiny"}
        assert 0 <= row.suites["Tiny"] <= 1
    of_task = result.results[1].find("tiny_choice", "acc_norm")
    assert [(m.limit, m.samples) for m in of_task] == [(4, 4)]
    assert [group.name for group in result.groups] == ["english-text", "korean-text", "tiny"]
    assert "| Tiny |" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_what_a_recipe_names_is_fetched_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, Path]] = []

    def make(item: str, out: Path, *, cache: Path) -> None:
        made.append((item, cache))
        out.mkdir(parents=True)
        texts = korean_bench(out, world.checkpoint("llama"))
        assert Path(texts).is_file()

    monkeypatch.setattr("scale_cli.material.fetch.make", make)
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    names = {name: f"fetch:some/{name}.jsonl" for name in ("train", "english", "korean")}
    file = korean_bench(
        tmp_path,
        world.checkpoint("llama"),
        train_data=[names["train"]],
        english_data=names["english"],
        korean_data=names["korean"],
        methods={"scale-adapt": {}},
    )
    result = run(load_preset(file), tmp_path / "out", say=print, progress=silent)
    assert made == [("some", tmp_path / "cache")]
    assert result.recipe.english_data == names["english"]  # the record has no path of this machine
    run(load_preset(file), tmp_path / "out", say=print, progress=silent)
    assert len(made) == 1


def test_the_papers_recipe_in_two_steps(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the preset says but for sizes: its streams come from files, its model is a tiny one of the family."""
    texts = korean_texts(tmp_path)
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
        "suites": [str(tasks.suite)],
        "training": recipe["training"] | small,
    }
    file.write_text(yaml.safe_dump(recipe | changes, sort_keys=False), encoding="utf-8")
    result = run(load_preset(str(file)), tmp_path / "out", say=print, progress=silent)
    assert sorted(row.label for row in result.rows) == sorted(["base", *METHODS])
    assert {row.tokens for row in result.rows[1:]} == {2 * 2 * 32}
    assert opened == {("HuggingFaceFW/fineweb-2", "kor_Hang"), ("HuggingFaceFW/fineweb-edu", "sample-10BT")}
    preserve = next(row for row in result.rows if row.label == "scale-preserve")
    assert preserve.hidden_states_equal


def test_a_changed_base_would_be_seen(done: KoreanResult, tmp_path: Path) -> None:
    """What says that the base's half is the base's: it does not where a weight of that half has moved."""
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    shutil.rmtree(out / "seed-0" / "evaluation")
    file = out / "width" / "base-model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("mlp.up_proj.weight"))
    tensors[name][0, 0] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    recipe = load_preset(done.recipe.preset, methods=["scale-preserve"])
    (row,) = run(recipe, out, say=print, progress=silent).rows[1:]
    assert row.hidden_states_equal is False
    assert "DIFFERS" in (out / "table.md").read_text(encoding="utf-8")


def test_two_processes_share_a_run(world: World, tmp_path: Path) -> None:
    """As torchrun starts them: the files are written once, and the numbers are those of one process."""
    ended = {}
    for gpus, launcher in ((1, []), (2, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"])):
        folder = tmp_path / str(gpus)
        folder.mkdir()
        training = {"steps": 2, "batch_size": 4 // gpus, "seq_length": 32, "lr": 1e-2, "preserve_layers": 1}
        file = korean_bench(
            folder, world.checkpoint("llama"), gpus=gpus, training=training, methods={"scale-preserve": {}}
        )
        program = folder / "program.py"
        program.write_text("import sys; from scale_cli.cli import main; sys.exit(main())", encoding="utf-8")
        environment = os.environ | {
            "PYTHONPATH": str(Path(korean.__file__).parents[2]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "SCALE_CACHE": str(folder / "cache"),
        }
        words = ["bench", "korean", "--preset", file, "--out", str(folder / "out"), "--json"]
        command = [sys.executable, *launcher, str(program), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        ended[gpus] = json.loads(done.stdout)
    for alone, shared in zip(ended[1]["rows"], ended[2]["rows"], strict=True):
        assert shared["tokens"] == alone["tokens"]
        for language in ("english", "korean"):
            assert shared["bits"][language] == pytest.approx(alone["bits"][language], rel=1e-4)
    assert ended[2]["rows"][1]["hidden_states_equal"]
