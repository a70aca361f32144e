"""The statistics of texts, against texts that are counted by hand and against what a training reads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scale_cli.core.recipe import load_recipe
from scale_cli.data.examples import PackedTexts, load_examples
from scale_cli.data.options import DataOptions
from scale_cli.data.statistics import DataReport, Overlap, Part, Sample, TokenStatistics, describe_data, short_names
from tests.data.hub_data import stand_in
from tests.helpers import refusal
from tests.runs import World, korean_texts


@contextlib.contextmanager
def silent(label: str, total: None) -> Iterator[Callable[..., None]]:
    yield lambda steps=1: None


def report(sources: Sequence[object], *, recipe: dict[str, Any] | None = None, **options: Any) -> DataReport:
    made = load_recipe(DataOptions, None, {"data": list(map(str, sources)), **(recipe or {})})
    return describe_data(made, progress=silent, **options)


def write(file: Path, texts: Sequence[str]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file


class Letters:
    """A tokenizer with a token per character."""

    eos_token_id, bos_token_id, backend_tokenizer = 1, None, None

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[2] * len(text) for text in texts]}


def test_counted_by_hand(tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", ["ab c", "", "가나 다", "ab  c\n", "xyz", "가나 다", "lmnop qr"])
    old = write(tmp_path / "old.jsonl", ["xyz ", "ab c", "w"])
    found = report([new, old], tokenizer=Letters(), recipe={"seq_length": 5}, run_tokens=120, held_out=[f"h={old}"])
    first, second, held = found.texts
    assert (first.name, first.source, first.role, first.complete) == ("new.jsonl", str(new), "data", True)
    # 4 + 10 + 6 + 3 + 10 + 8 bytes: a Korean syllable has three.
    counts = (first.documents, first.empty, first.bytes, first.words, first.repeated)
    assert counts == (6, 1, 41, 2 + 2 + 2 + 1 + 2 + 2, 2)
    # 4, 4, 6, 3, 4 and 8 letters, each with end-of-text; two documents exceed 5 tokens, by 2 and 4.
    assert first.tokens == TokenStatistics(text=29, total=35, median=5, longest=9, longer=2, continued=6)
    assert (second.tokens and second.tokens.total, held.name, held.role) == (12, "h (held out)", "held out")
    row = found.frame.iloc[0]
    assert (row["tokens_per_byte"], row["tokens_per_word"]) == (29 / 41, 29 / 11)
    # 47 tokens are 9 sequences of 5 and a rest of 2; a training of 120 tokens reads 24 sequences.
    epochs = 24 / 9
    assert found.mix == (
        Part("new.jsonl", 35 / 47, None, None, epochs),
        Part("old.jsonl", 12 / 47, None, None, epochs),
        Part("together", 1.0, 9, 2, epochs),
    )
    assert found.overlaps == (
        Overlap("new.jsonl", "old.jsonl", 3, 2),
        Overlap("new.jsonl", "h (held out)", 3, 2),
        Overlap("old.jsonl", "h (held out)", 3, 3),
    )
    assert found.warnings == [
        f"{count} of 3 documents of h (held out) are also in {name}: results on it will be too good; remove them from "
        "one of the two"
        for name, count in (("new.jsonl", 2), ("old.jsonl", 3))
    ]


def test_weights(tmp_path: Path) -> None:
    new, old = write(tmp_path / "a" / "t.jsonl", ["abcd"] * 5), write(tmp_path / "b" / "t.jsonl", ["ab"])
    found = report([f"{new}:0.75", f"{old}:.25"], tokenizer=Letters(), recipe={"seq_length": 4}, run_tokens=400)
    assert [text.name for text in found.texts] == ["a/t.jsonl", "b/t.jsonl"]
    # 75 sequences from 25 tokens, which are 6 sequences and a rest; 3 tokens are less than one.
    assert found.mix == (Part("a/t.jsonl", 0.75, 6, 1, 75 / 6), Part("b/t.jsonl", 0.25, 0, 3, None))
    assert [line.partition(";")[0] for line in found.warnings] == [
        "a/t.jsonl is read 12.5 times",
        "b/t.jsonl has less than one sequence of 4 tokens",
    ]


@pytest.mark.parametrize("weights", [("", ""), (":3", ":1")])
def test_a_training_reads_what_is_stated(world: World, tmp_path: Path, weights: tuple[str, str]) -> None:
    files = korean_texts(tmp_path)
    data = [f"{files['train']}{weights[0]}", f"{files['english']}{weights[1]}"]
    options = {"seq_length": 16, "steps": 40, "batch_size": 8}
    found = report(data, tokenizer=world.tokenizer, recipe=options, run_tokens=40 * 8 * 16)
    examples = load_examples(load_recipe(DataOptions, None, {"data": data, **options}), world.tokenizer)
    assert isinstance(examples, PackedTexts)
    examples.batch(np.arange(320))
    parts = found.mix if weights[0] else found.mix[-1:]
    counts = [320] if examples._mixed is None else np.bincount(examples._mixed[0])
    assert len(parts) == len(examples.sources)
    for part, windows, count in zip(parts, examples.sources, counts, strict=True):
        assert part.sequences == windows._ends[-1]
        assert (part.sequences or 0) * 16 + (part.dropped_tokens or 0) == windows._tokens
        assert part.epochs == pytest.approx(count / windows._ends[-1], abs=1 / windows._ends[-1])


def test_samples_and_limits(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [f"text {number}" if number % 3 else "" for number in range(30)])
    (text,) = report([file], samples=50).texts
    assert text.samples == tuple(Sample(n + 1, f"text {n}") for n in range(30) if n % 3)
    few = [report([file], samples=4, recipe={"seed": seed}).texts[0].samples for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert len(set(few[0])) == 4
    assert set(few[0] + few[2]) <= set(text.samples)
    drawn = [
        sample.number
        for seed in range(300)
        for sample in report([file], samples=2, recipe={"seed": seed}).texts[0].samples
    ]
    assert min(np.unique(drawn, return_counts=True)[1]) > 10  # each of the 20 documents, 30 times on average
    limited = report([file], limit=5, tokenizer=Letters(), run_tokens=100)
    assert (limited.texts[0].documents, limited.texts[0].empty, limited.texts[0].complete) == (5, 3, False)
    assert limited.mix == ()
    assert report([file], limit=21).texts[0].complete
    assert report([file]).texts[0].tokens is None


def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path / "hub", train=[["a", "b"], ["a", "c"]], test=[["b", "d"]])
    assert "give the number of documents: --documents N" in refusal(report, ["org/name"])
    assert "give the number of documents: --eval-documents N" in refusal(
        report, ["org/name"], limit=9, held_out=["h=org/name"]
    )
    found = report(["org/name"], limit=9, held_out=["h=org/name"], held_out_limit=1)
    assert [(text.documents, text.repeated, text.complete) for text in found.texts] == [(4, 1, True), (1, 0, False)]
    assert found.overlaps == (Overlap("org/name", "h (held out)", 1, 1),)


def test_wrong_requests(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [""])
    assert refusal(report, [file]) == f"{file}: there is no text in it"
    assert refusal(report, [file], limit=0) == "--documents 0: at least 1"
    assert refusal(report, [file], samples=-1) == "--samples -1: at least 0"
    assert "has no begin-of-text token" in refusal(report, [file], tokenizer=Letters(), recipe={"bos": True})


def test_names() -> None:
    assert short_names([["x", "a.jsonl"]]) == ["a.jsonl"]
    assert short_names([["x", "a.jsonl"], ["y", "a.jsonl:body"]]) == ["a.jsonl", "a.jsonl:body"]
    assert short_names([["x", "a"], ["y", "a"], ["org/a"]]) == ["x/a", "y/a", "org/a"]
    assert short_names([["x", "a"], ["x", "a"]]) == ["x/a (1)", "x/a (2)"]
