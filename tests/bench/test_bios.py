"""The biography benchmark: its recipes, and a tiny run of it from end to end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image

from scale_cli.bench import bios
from scale_cli.bench.bios import load_preset, run
from scale_cli.bench.stages import BenchResult, matching_size, parse_seeds, presets_of
from scale_cli.bench.tokenizer import END_OF_TEXT, TOKENIZERS, UNKNOWN, train_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import values_of
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS, method_options, paper_methods
from scale_cli.model import LayerShape, ScaleConfig, ScaleForCausalLM, family_of
from scale_cli.model.families import lora_parameters
from scale_cli.results.measurement import share_error
from scale_cli.results.result import read_results
from scale_cli.surgery.width import expansion_sizes, plan_width
from tests.helpers import BASES, tiny_base
from tests.runs import TINY_BENCH, bench_file, interrupting, lines, silent, tree, values

pytestmark = pytest.mark.usefixtures("quick_figures")  # but for the module's own run, `done`
FILES = sorted((Path(bios.__file__).parent / "presets" / "bios").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_presets(file: Path) -> None:
    recipe = load_preset(file.stem)
    assert file.stem in presets_of("bios")
    rows = [label for label in recipe.methods if recipe.method_of(label) == label]
    assert tuple(rows[: len(paper_methods())]) == paper_methods() or file.stem == "controls"
    if recipe.tokenizer in TOKENIZERS:  # other tokenizers come from the hub
        bios._check_model(recipe)
    half = recipe.pretrain_people // 2
    pretrain, task0 = (recipe.train_recipe(stage, seed=3) for stage in ("pretrain", "task0"))
    assert task0.warmup == 0.0  # no recorded preset gives one for it, and the default of scale train is another
    assert (pretrain.method, pretrain.objective, pretrain.from_scratch) == ("fft", "lm", True)
    assert (pretrain.people, pretrain.seed) == (f"0:{recipe.pretrain_people}", 3)
    assert (task0.objective, task0.people) == ("qa", f"0:{half}")
    for method in rows:
        task1 = recipe.train_recipe(method, seed=3)
        assert task1.people == f"{recipe.pretrain_people}:{recipe.pretrain_people + recipe.task1_people}"
        assert (task1.method, task1.objective, task1.from_scratch) == (method, "qa", False)
        names, ranges = zip(*(text.split("=") for text in task1.eval_people), strict=True)
        assert names == ("task0", "task1")
        assert [int(people.split(":")[0]) for people in ranges] == [half, recipe.pretrain_people]
        assert task0.eval_people == task1.eval_people[:1]  # not the people that Task 0 trains on
        if method != "fft":
            own, fft = values_of(task1), values_of(recipe.train_recipe("fft", seed=3))
            same = set(fft) - {"method", "lr", "seed"} - set(recipe.methods[method])
            assert all(own[name] == fft[name] for name in same)


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
    base = tiny_base(name, num_hidden_layers=2)
    config = base.config
    model = METHODS["lora"].apply(base, method_options({"lora_r": 5})["lora"], ())
    counted = lora_parameters(family_of(config.model_type), LayerShape.of(config), config.num_hidden_layers)
    assert 5 * counted == model.get_nb_trainable_parameters()[0]


TEXTS = ["Ann Lee was born on May 1, 2001.", "Where was Ann Lee born?\nAnswer: Lima"]


@pytest.mark.parametrize(("kind", "size"), [("bpe", 300), ("word", 50)])
def test_a_tokenizer_decodes_its_training_texts(kind: str, size: int) -> None:
    tokenizer = train_tokenizer(TEXTS, kind, size)
    assert tokenizer.get_vocab_size() <= size
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_words_are_tokens_and_the_most_frequent_are_kept() -> None:
    tokenizer = train_tokenizer(TEXTS, "word", 5)
    assert set(tokenizer.get_vocab()) == {END_OF_TEXT, UNKNOWN, "Ġwas", "ĠLee", "Ġborn"}  # twice each
    assert train_tokenizer(TEXTS, "word", 99).encode(" Ann Lee was").tokens == ["ĠAnn", "ĠLee", "Ġwas"]
    assert tokenizer.encode(" Oslo").tokens == [UNKNOWN]


def test_a_recipe_file_and_changes_to_it(tmp_path: Path) -> None:
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
    "a label that is a folder": (
        {"methods": {"width": {"method": "fft"}}},
        "methods: the label 'width' is a path or the name of another folder",
    ),
    "a label that is a path": ({"methods": {"../x": {"method": "fft"}}}, "methods: the label '../x' is a path or "),
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
    "width": ({"width": {"heads": 1}}, "width {'heads': 1}: give hidden, and optionally heads, ffn, init"),
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
        ({"tokenizer": "wrod"}, r"^tokenizer 'wrod' does not load \(.*\); give word, bpe, a folder or a hub id"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_made(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recipe = load_preset(bench_file(tmp_path, **changes))
    with pytest.raises(RequestError, match=message):
        run(recipe, tmp_path / "out", say=print, progress=silent)
    assert not (tmp_path / "out").exists()


def test_unknown_presets_methods_and_seeds(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"^--preset dmo: choose demo, controls, small, medium, paper, or give a YAML file$"
    ):
        load_preset("dmo")
    with pytest.raises(RequestError, match=r"^--methods x,y: choose from fft, scale-route$"):
        load_preset(bench_file(tmp_path), methods=["x", "fft", "y"])
    for text in ("", "a", "1,,2", "-1", "1.5"):
        with pytest.raises(RequestError, match=f"^--seeds {text}: write whole numbers separated by commas"):
            parse_seeds(text)
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(RequestError, match="a recipe is a list of `key: value` lines"):
        load_preset(str(tmp_path / "list.yaml"))


@pytest.fixture
def done(bios_run: BenchResult) -> BenchResult:
    return bios_run


@pytest.fixture
def copied(done: BenchResult, tmp_path: Path) -> Path:
    """A copy of that run's folder, to be continued."""
    return shutil.copytree(done.out, tmp_path / "copied")


def recipe_of(done: BenchResult) -> bios.BiosRecipe:
    assert isinstance(done.recipe, bios.BiosRecipe)
    return done.recipe


def test_a_run_from_end_to_end(done: BenchResult) -> None:
    labels = ["before Task 1", "fft", "scale-route"]
    assert [result.checkpoint.label for result in done.results] == labels
    seed = done.out / "seed-0"
    before, *rows = done.results
    held_out = read_record(seed / "task0" / "record.json")["metrics"][0]
    measured = before.find("bios:task0", "hard")[0]
    assert (held_out["name"], held_out["value"]) == ("task0/hard", measured.value)
    assert (measured.samples, measured.stderr) == (24, held_out["stderr"])  # six questions on each of four people
    assert measured.stderr == pytest.approx(share_error(measured.value, 24))
    assert before.checkpoint.method is None
    for row in rows:
        label, record = row.checkpoint.label, read_record(seed / row.checkpoint.label / "record.json")
        metrics = {metric["name"]: metric for metric in record["metrics"]}
        for m in row.measurements:
            if m.metric.startswith("kept"):  # of the whole course
                continue
            metric = metrics[m.name.removeprefix("bios:")]
            assert (m.value, m.stderr, m.samples) == (metric["value"], metric["stderr"], metric["samples"])
        assert row.checkpoint.parameters["trained"] == record["trained_parameters"]
        assert row.checkpoint.recipe == record["recipe"]
        assert record["recipe"]["lr"] == (2e-2 if label == "fft" else 1e-2)
        assert bool(row.find("bios:task1", "routed")) == (label == "scale-route")
        (kept,), (learnt,) = (row.find(f"bios:{task}", "hard") for task in ("task0", "task1"))
        assert learnt.value > 0
        assert kept.value != measured.value
        assert (learnt.routed is None) == (label == "fft")

        curve = [line for line in lines(seed / label) if "task0/hard" in line]
        assert [line["step"] for line in curve] == [0, 30, 60]
        assert curve[0]["task0/hard"] == measured.value  # every method starts from the same checkpoint
        for panel, task in zip(done.panels[:2], ("task0", "task1"), strict=True):
            assert list(panel.series[label]["0"]) == [(line["step"], line[f"{task}/hard"]) for line in curve]
        assert before.find("bios:task1", "hard")[0].value == curve[0]["task1/hard"]
    assert not (seed / "depth").exists()  # no method needs it


def test_the_files_of_a_run(done: BenchResult) -> None:
    record = read_record(done.out / "results.json")
    assert record["recipe"]["stages"] == TINY_BENCH["stages"]
    assert 0 < record["seconds"] == done.seconds
    stored = read_results([done.out])
    assert [(r.checkpoint, r.measurements) for r in stored] == [(r.checkpoint, r.measurements) for r in done.results]
    assert image.imread(done.out / "curves.png").ndim == 3
    header, _, *rows = [
        dict(enumerate(cell.strip() for cell in line.strip("|").split("|")))
        for line in (done.out / "table.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    names = {name: index for index, name in header.items()}
    before, fft = done.results[:2]
    (kept,), (base,) = (result.find("bios:task0", "hard") for result in (fft, before))
    assert rows[0][names["Task 0 after"]] == f"{100 * kept.value:.1f} ± {100 * (kept.stderr or 0):.1f}"
    error = 100 * ((kept.stderr or 0) ** 2 + (base.stderr or 0) ** 2) ** 0.5
    forgotten = f"{100 * (base.value - kept.value):.1f} ± {error:.1f}".replace("-", "−")
    assert rows[0][names["forgetting"]] == forgotten


def test_a_seed_can_be_added_and_is_another_run(done: BenchResult, copied: Path) -> None:
    both = run(load_preset(done.recipe.preset, methods=["fft"], seeds=(0, 1)), copied, say=print, progress=silent)
    first = [f"{label} (seed 0)" for label in values(done)]
    assert list(values(both)) == [*first, "before Task 1 (seed 1)", "fft (seed 1)"]
    assert [values(both)[label] for label in first] == list(values(done).values())
    assert outcome(copied / "seed-1").keys() < outcome(copied / "seed-0").keys()
    assert all(content != outcome(copied / "seed-0")[name] for name, content in outcome(copied / "seed-1").items())
    identities = {result.checkpoint.stem: set[str | None]() for result in both.results}
    for result in both.results:
        identities[result.checkpoint.stem].add(result.checkpoint.identity)
    assert all(len(known) == 1 and None not in known for known in identities.values())
    assert len(set.union(*identities.values())) == len(identities)


def outcome(seed: Path) -> dict[str, bytes]:
    """The weights and metrics of the trained stages of a seed."""
    return {
        name: content
        for name, content in tree(seed).items()
        if name.endswith(("model.safetensors", "trained.safetensors", "metrics.jsonl"))
    }


def test_finished_stages_are_not_run_again(done: BenchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later call for one method keeps the other rows in record and table."""
    monkeypatch.setattr("scale_cli.training.train.train", None)
    monkeypatch.setattr("scale_cli.surgery.upscale", None)
    before = {name: content for name, content in tree(done.out).items() if "/" in name or name == "table.md"}
    for recipe in (recipe_of(done), load_preset(done.recipe.preset, methods=["fft"])):
        again = run(recipe, done.out, say=print, progress=silent)
        assert (again.results, again.panels) == (done.results, done.panels)
        assert again.seconds > done.seconds
        after = {name: content for name, content in tree(done.out).items() if "/" in name or name == "table.md"}
        assert after == before
    changed = dataclasses.replace(recipe_of(done), methods={"scale-route": {"lr": 1.0}})
    with pytest.raises(RequestError, match="holds a run of another recipe"):
        run(changed, done.out, say=print, progress=silent)


def test_an_interrupted_run_continues_to_the_same_numbers(done: BenchResult, tmp_path: Path) -> None:
    """Interrupted in the middle of a stage and after its last step. The same seed gives the same numbers."""
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
    assert values(result) == values(done)
    assert result.panels == done.panels
    assert outcome(out / "seed-0") == outcome(done.out / "seed-0")


def test_a_method_can_be_added_and_lora_is_matched(done: BenchResult, copied: Path) -> None:
    recipe = dataclasses.replace(recipe_of(done), methods={"lora": {}, "half": {"method": "lora", "lora_r": 1}})
    results = run(recipe, copied, say=print, progress=silent).results
    assert [result.checkpoint.label for result in results[1:]] == ["fft", "scale-route", "lora", "half"]
    folder = copied / "seed-0"
    record = read_record(folder / "lora" / "record.json")
    matched = matching_size("lora", str(folder / "task0"), folder / "width")
    assert record["recipe"]["lora_r"] == record["recipe"]["lora_alpha"] == matched["lora_r"] > 1
    lora, half = (result.checkpoint.parameters["trained"] for result in results[3:])
    assert lora == record["recipe"]["lora_r"] * (half or 0)
    added = json.loads((folder / "width" / "upscale.json").read_text(encoding="utf-8"))["parameters"]["added"]
    assert lora == pytest.approx(added, rel=0.1)


def test_lora_alone_is_matched_to_the_same_expansion(done: BenchResult, tmp_path: Path) -> None:
    """LoRA is matched to the width expansion even if no row is widened, and not to the deepened checkpoint."""
    recipe = dataclasses.replace(recipe_of(done), methods={"lora": {}, "llama-pro": {}})
    out, seed = tmp_path / "out", tmp_path / "out" / "seed-0"
    left_out = {"width", "fft", "scale-route", "recipe.json"}
    shutil.copytree(done.out, out, ignore=lambda folder, names: left_out & set(names))
    (out / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)), encoding="utf-8")
    results = run(recipe, out, say=print, progress=silent).results
    assert {path.name for path in seed.iterdir()} >= {"width", "depth", "lora", "llama-pro"}
    per_rank = lora_parameters(family_of("gpt_neox"), LayerShape.of(bios._model_config(recipe)), 2)
    matched = matching_size("lora", str(done.out / "seed-0" / "task0"), done.out / "seed-0" / "width")
    assert results[1].checkpoint.parameters["trained"] == per_rank * matched["lora_r"]


def test_another_recipe_needs_another_folder(done: BenchResult, tmp_path: Path) -> None:
    before = tree(done.out)
    for changes in ({"bios": 3}, {"stages": STAGES | {"task0": {"steps": 5}}}, {"methods": {"fft": {"lr": 0.5}}}):
        recipe = dataclasses.replace(recipe_of(done), **changes)
        with pytest.raises(RequestError, match=r"holds a run of another recipe; choose another --out, or remove it$"):
            run(recipe, done.out, say=print, progress=silent)
    (tmp_path / "mine").touch()
    with pytest.raises(RequestError, match=r"exists and is not a run folder; choose a new or an empty folder$"):
        run(recipe_of(done), tmp_path, say=print, progress=silent)
    assert tree(done.out) == before
    assert tree(tmp_path) == {"mine": b""}


def test_task_1_needs_task_0(done: BenchResult) -> None:
    value = values(done)["before Task 1"]["bios:task0/hard"]
    assert value < 0.95
    message = rf"^Task 0 reached {value:.3f} on its held-out people and 0\.95 is needed before Task 1, .* --seeds$"
    with pytest.raises(RequestError, match=message):
        run(dataclasses.replace(recipe_of(done), task0_needed=0.95), done.out, say=print, progress=silent)
