"""`scale run`: the texts, sizes and tokens that follow from a base and a corpus, the run, and its verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from scale_cli.bench import own
from scale_cli.bench.own import make_plan, prepare
from scale_cli.bench.own_recipe import OwnRecipe
from scale_cli.bench.own_verdict import best_kept, change, judged
from scale_cli.checkpoints.load import describe, load_tokenizer
from scale_cli.core.recipe import load_recipe
from tests.helpers import refusal, tiny_base
from tests.runs import KOREAN, World, save, silent, tree

RunCli = Callable[..., Any]
LENGTH, ROWS = 32, 4


def quiet(message: str) -> None:
    """Print nothing."""


def written(file: Path, documents: Sequence[str]) -> str:
    file.write_text("".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents), encoding="utf-8")
    return str(file)


def documents(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


NEW = [f"{text} {number}" for number in range(20) for text in KOREAN]
OLD = [f"Ann Lee was born in Lima and works for bank {number}." for number in range(30)]


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """Sources of the new and the old text; two of the new documents are there twice."""
    return {
        "new": written(tmp_path / "new.jsonl", [*NEW, *NEW[:2], "  "]),
        "old": written(tmp_path / "old.jsonl", OLD),
    }


def recipe_of(texts: dict[str, str], **options: Any) -> OwnRecipe:
    return load_recipe(OwnRecipe, None, {"batch_size": ROWS, "seq_length": LENGTH, **texts, **options})


def test_documents_are_held_out_by_their_content(world: World, texts: dict[str, str], tmp_path: Path) -> None:
    base, out = str(world.checkpoint("llama")), tmp_path / "out"
    resolved = prepare(base, out, recipe_of(texts, epochs=2, held_out=9), say=quiet)
    train, new, old = (documents(out / "texts" / f"{name}.jsonl") for name in ("train", "new", "old"))
    assert sorted(train + new) == sorted(NEW)  # each once, the repeated ones too
    assert (len(new), len(old)) == (9, 9)
    assert set(old) < set(OLD)
    assert resolved.held_out["old"].documents == 9
    reordered = recipe_of({**texts, "new": written(tmp_path / "other.jsonl", NEW[::-1])}, held_out=9)
    prepare(base, tmp_path / "other", reordered, say=quiet)
    assert sorted(documents(tmp_path / "other" / "texts" / "new.jsonl")) == sorted(new)


def test_no_more_text_is_written_than_is_read(world: World, texts: dict[str, str], tmp_path: Path) -> None:
    base, out = str(world.checkpoint("llama")), tmp_path / "out"
    resolved = prepare(base, out, recipe_of(texts, tokens="0.5k", held_out=9), say=quiet)
    train = documents(out / "texts" / "train.jsonl")
    tokenizer = load_tokenizer(describe(base))
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in train)
    assert resolved.training["steps"] == 4  # of 4 x 32 tokens
    assert tokens >= 4 * ROWS * LENGTH
    assert len(train) < len(NEW) - 9


def test_the_number_of_tokens(world: World, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(world.checkpoint("llama"))
    tokenizer = load_tokenizer(describe(base))
    said: list[str] = []
    plan, (new, _) = make_plan(base, recipe_of(texts, epochs=6, held_out=9), say=said.append)
    kept = [text for text in NEW if own._key(text) in set(map(int, new.keys[9:]))]
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in kept)
    assert plan.new_tokens == pytest.approx(tokens, rel=0.02)  # estimated from all documents
    assert plan.tokens == plan.steps * ROWS * LENGTH
    assert plan.documents_while_training == 9  # of 9
    assert make_plan(base, recipe_of(texts, tokens="1k", held_out=9), say=quiet)[0].documents_while_training == 2
    assert 6 * plan.new_tokens <= plan.tokens < 6 * plan.new_tokens + ROWS * LENGTH
    assert [line.partition(";")[0] for line in said] == [
        f"warning: --new is read {plan.epochs:.1f} times",
        "note: 2 documents of --new repeat another one",
    ]
    monkeypatch.setattr(own, "matrix_tflops", lambda: 1e-3)
    hour, half = (make_plan(base, recipe_of(texts, hours=h), say=quiet)[0].tokens for h in (1, 0.5))
    assert hour == pytest.approx(2 * half, rel=0.01)
    two = make_plan(base, recipe_of(texts, hours=1, seeds="0,1"), say=quiet)[0].tokens
    assert two == pytest.approx(half, rel=0.01)


def test_sizes_follow_from_the_base(world: World, texts: dict[str, str], tmp_path: Path) -> None:
    """Seven query heads per key-value head, as in Qwen2.5-0.5B: added heads are a multiple of seven."""
    shape: dict[str, Any] = {
        "hidden_size": 112,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
    }
    base = save(tiny_base("qwen2", vocab_size=len(world.tokenizer), **shape), tmp_path / "base", world.tokenizer)
    plan, _ = make_plan(str(base), recipe_of(texts, methods="scale-adapt,llama-pro"), say=quiet)
    assert plan.width["heads"] % 7 == 0
    assert plan.width["hidden"] % 8 == 0
    assert 4 < plan.depth["layers"] <= 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new": ()}, "--new is missing: the texts to learn, as in --new corpus.jsonl"),
        (
            {"tokens": "5", "epochs": 1},
            "--tokens 5 and --epochs 1.0 each set the amount of training",
        ),
        ({"tokens": "many"}, "--tokens many: write a number above 0, as in 500k, 20M or 1.5B"),
        ({"hours": 0}, "--hours 0: a number above 0"),
        ({"methods": "fft,fft"}, "--methods fft,fft: name at least one, each once"),
        ({"held_out": 1}, "--held-out 1: at least 2"),
        ({"rates": "1e-3,0"}, "--rates 0.001,0.0: numbers above 0, each once, as in 1e-4,1e-3"),
    ],
)
def test_a_wrong_request(options: dict[str, Any], message: str, texts: dict[str, str]) -> None:
    assert refusal(recipe_of, texts, **options).startswith(message)


def test_texts_and_bases_that_do_not_fit(world: World, texts: dict[str, str], tmp_path: Path) -> None:
    def refused(base: Path, **options: Any) -> str:
        return refusal(prepare, str(base), tmp_path / "out", recipe_of(texts, **options), say=quiet)

    base = world.checkpoint("llama")
    assert refused(base, held_out=60).startswith("--held-out 60: the texts have 60 new and 30 old documents, and some")
    wide = world.checkpoint("llama", "width")
    assert refused(wide) == f"{wide} is width-upscaled; give the model that it was made from"
    assert refused(base, new=written(tmp_path / "empty.jsonl", [" "])).endswith(
        "no document with text; give other texts"
    )
    assert not (tmp_path / "out").exists()


def test_from_a_corpus_to_a_verdict(world: World, texts: dict[str, str], tmp_path: Path, run_cli: RunCli) -> None:
    base, out = world.checkpoint("llama"), tmp_path / "out"
    words = ["run", base, out, "--new", texts["new"], "--seq-length", LENGTH, "--batch-size", ROWS, "--tokens", "1k"]
    words += ["--methods", "scale-preserve,fft,lora", "--held-out", 8, "--allow", 0.5]
    planned = run_cli(*words, "--dry-run")
    assert planned.code == 0
    assert "8 steps, 1,024 tokens" in planned.stdout
    assert not out.exists()
    ended = run_cli(*words)
    assert ended.code == 0
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:5] for line in ended.stdout.splitlines() if line.startswith("│")
    }
    assert rows.keys() >= {"scale-preserve", "scale-preserve, mixture:0", "fft", "fft, mixture:0", "lora"}
    assert all(cells[2].strip() in ("yes", "no", "not decided") for cells in rows.values())
    assert f"scale bench korean --preset {out / 'recipe.yaml'}" in ended.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "old.forgetting&lt;=" in page
    assert documents(out / "texts" / "old.jsonl")  # the base's own
    before = tree(out)
    again = run_cli(*words)
    assert again.stdout == ended.stdout
    unfinished = ("run/results.json", "run/seconds.json")  # they count the seconds of all calls
    after = tree(out)
    assert [name for name in after if after[name] != before[name] and name not in unfinished] == []
    other = run_cli(*words, "--epochs", 1)
    assert other.code == 2
    repeated = run_cli(
        "bench", "korean", "--preset", out / "recipe.yaml", "--out", tmp_path / "bench", "--methods", "fft"
    )
    assert repeated.code == 0


def test_rates_side_by_side(world: World, texts: dict[str, str], tmp_path: Path, run_cli: RunCli) -> None:
    base, out = world.checkpoint("llama"), tmp_path / "out"
    words = ["run", base, out, "--new", texts["new"], "--old", texts["old"], "--seq-length", LENGTH, "--held-out", 8]
    words += ["--batch-size", ROWS, "--tokens", "4k", "--methods", "fft,scale-adapt", "--rates", "1e-5,1e-3,1e-1"]
    ended = run_cli(*words, "--allow", 0.02)
    assert ended.code == 0, ended.stderr
    shown = [[c.strip() for c in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if line.startswith("│")]
    changes = {row[0]: [float(cell.rstrip("%")) for cell in row[1:3]] for row in shown if len(row) == 4}
    kept = [row[0] for row in shown if len(row) == 4 and row[3] == "yes"]
    names = {f"{method}@{{}}{router}" for method in ("fft", "scale-adapt") for router in ("", ", mixture:0")}
    assert changes.keys() == {name.format(rate) for name in names for rate in ("1e-05", "0.001", "0.1")}
    saved = json.loads((out / "best.json").read_text(encoding="utf-8"))
    assert len(saved["best_of"]) == len(names)
    for name, best in saved["best_of"].items():
        method, comma, router = name.partition(", ")
        own = [name.format(rate) for rate in ("1e-05", "0.001", "0.1") for name in [f"{method}@{{}}{comma}{router}"]]
        own_kept = [row for row in own if row in kept]
        assert best["row"] == min(own_kept or own, key=lambda row: changes[row][1 if own_kept else 0])
        assert best["lr"] == float(best["row"].partition("@")[2].partition(",")[0])
        assert Path(best["checkpoint"]).is_dir()
        assert [name, f"{best['lr']:g}"] in [row[:2] for row in shown]
    assert saved["best"] == (min(kept, key=lambda row: changes[row][1]) if kept else None)
    assert (out / "run" / "frontier.svg").is_file()


def test_the_best_row_is_the_one_that_learnt_most_among_those_that_kept_the_old(
    world: World, texts: dict[str, str], tmp_path: Path
) -> None:
    base, out = str(world.checkpoint("llama")), tmp_path / "out"
    recipe = recipe_of(texts, epochs=4, methods="fft,scale-preserve", allow=1000.0)
    result, table, verdicts = own.run(base, out, recipe, say=quiet, progress=silent)
    gains = {row.label: change(table, row, "new") for row in table.rows if row.section != "base"}
    best = best_kept(table, verdicts)
    assert best is not None
    assert {verdict.outcome for verdict in verdicts} == {"met"}
    assert gains[best.label] == min(gains.values())
    fields = {m.task: m.value for m in result.results[1].measurements if m.metric == "bits_per_byte"}
    whole = {m.task: m.value for m in result.results[0].measurements if m.metric == "bits_per_byte"}
    label = result.results[1].checkpoint.label
    assert gains[label] == pytest.approx(fields["perplexity:new"] / whole["perplexity:new"] - 1)
    strict, outcomes = judged(result, 1e-9)
    lost = {verdict.row for verdict in outcomes if verdict.outcome != "met"}
    assert lost == {row.label for row in table.rows if row.section != "base" and change(table, row, "old") > 0}
    assert (kept := best_kept(strict, outcomes)) is None or kept.label not in lost
    rates = {"fft": {"lr": 1e-4}, "scale-preserve": {"lr": 3e-3}}
    assert yaml.safe_load((out / "recipe.yaml").read_text())["methods"] == rates
