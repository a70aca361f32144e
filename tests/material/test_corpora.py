"""Real text, read from tiny packages like the real ones, and its held-out part."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scale_cli.data.texts import read_texts
from scale_cli.material import fetch
from scale_cli.material.corpora import CORPORA, HELD_OUT_EVERY, RUN_WORDS, leave_out, read_corpus, split
from tests.material.packaged import wheel

PASSAGES = ["Ice floats.", "Water flows.", "Ice floats.", "Steam rises."]
SPEECHES = {
    "president": ["박정희", "노태우", "문재인", "문재인"],
    "speech_text": ["옛 맞춤법", "\n\n\n친애하는 국민 여러분\n  \n 감사합니다. \n", "\n \n", '따옴표 "와" \u2028 줄'],
}
BILLS = {"propose_reason": ["현행법은 낡았음.\n\n 이에 고침.", None, "", "현행법은 낡았음.\n이에 고침.", "법을 만듦."]}


def passages(texts: list[str]) -> bytes:
    file = io.BytesIO()
    table = pa.table({"question": ["?"] * len(texts), "passage": texts})
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return file.getvalue()


def parquet(columns: dict[str, list[str]] | dict[str, list[str | None]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def put(name: str, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of one file in place of a corpus's."""
    (cache / name).mkdir(parents=True, exist_ok=True)
    (pattern,) = CORPORA[name].package.members
    package = wheel(cache / name, {pattern.replace("*", "data"): content}, members=(pattern,))
    monkeypatch.setitem(CORPORA, name, dataclasses.replace(CORPORA[name], package=package))


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with tiny packages in place of the real ones."""
    cache = tmp_path / "cache"
    put("english", passages(PASSAGES), cache, monkeypatch)
    put("korean", parquet(SPEECHES), cache, monkeypatch)
    put("korean-bills", parquet(BILLS), cache, monkeypatch)
    return cache


def test_each_passage_once(tiny: Path) -> None:
    assert read_corpus("english", cache=tiny / "english") == ["Ice floats.", "Water flows.", "Steam rises."]


def test_speeches_in_the_spelling_of_today(tiny: Path) -> None:
    assert read_corpus("korean", cache=tiny / "korean") == ["친애하는 국민 여러분\n감사합니다.", '따옴표 "와"\n줄']


def test_each_bill_once(tiny: Path) -> None:
    assert read_corpus("korean-bills", cache=tiny / "korean-bills") == ["현행법은 낡았음.\n이에 고침.", "법을 만듦."]


def texts_of(words: int, count: int, *, seed: int = 0) -> list[str]:
    """Texts of random words that no two texts share."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.getrandbits(60)}" for _ in range(words)) + "." for _ in range(count)]


def test_training_reads_the_folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(15, 60)
    put("english", passages(texts), tiny, monkeypatch)
    out = tmp_path / "out"
    fetch.write_corpus("english", out, cache=tiny / "english")
    parts = split(texts)
    assert 0 < len(parts.test) < 10
    assert list(read_texts([out / "text.jsonl"])) == parts.train
    assert json.loads((out / "text.jsonl").read_text(encoding="utf-8").splitlines()[1]) == {"text": parts.train[1]}
    train, test = len(parts.train), len(parts.test)
    assert (out / "README.md").read_text(encoding="utf-8") == (
        f"`text.jsonl` holds the passages of BoolQ's validation questions, from Wikipedia: {train} documents, "
        f"{sum(map(len, parts.train)):,} characters, from the package tiny-data 1.0.\n\n"
        f"It excludes {test} documents that are held out for measuring, and 0 that share 13 consecutive words\n"
        "with a held-out document.\n\nLicence: none.\n"
    )


def test_one_document_in_twenty_is_held_out_whatever_stands_beside_it() -> None:
    texts = texts_of(RUN_WORDS, 4000)
    parts = split(texts)
    assert sorted(parts.train + parts.test) == sorted(texts)
    assert len(parts.test) == pytest.approx(len(texts) / HELD_OUT_EVERY, rel=0.25)
    assert split(texts[::-2]).test == [text for text in texts[::-2] if text in set(parts.test)]
    assert split([text.upper().replace(" ", "\n - ") for text in texts[:200]]).test == [
        text.upper().replace(" ", "\n - ") for text in texts[:200] if text in set(parts.test)
    ]


def test_a_short_document_is_never_held_out() -> None:
    """Another text could contain it without sharing a run with it."""
    texts = texts_of(RUN_WORDS - 1, 400)
    assert split(texts).train == texts


def test_a_document_that_shares_a_run_with_a_held_out_one_is_in_neither_part() -> None:
    texts = texts_of(40, 400)
    kept = split(texts)
    held_out = kept.test[0].split()
    new = texts_of(30, 400, seed=1)
    runs = " ".join(held_out[10 : 10 + RUN_WORDS])
    less = " ".join(held_out[10 : 9 + RUN_WORDS])
    near = [f"{text} {runs.upper()}! {text}" for text in new]
    parts = split(texts + near)
    assert parts == kept
    far = [f"{text} {less} {text}" for text in new]
    assert not set(split(texts + far).train).isdisjoint(far)
    assert leave_out([*near[:3], *far[:3]], kept.test) == far[:3]


def test_of_held_out_documents_that_share_a_run_the_first_stays() -> None:
    common = " ".join(texts_of(RUN_WORDS, 1))
    texts = [f"{text} {common}" for text in texts_of(30, 400, seed=1)]
    parts = split(texts)
    assert len(parts.test) == 1
    assert parts.train == []
