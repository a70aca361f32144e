"""The documents of a `--perplexity` source, and the errors for values that are not sources."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scale_cli.core.errors import RequestError
from scale_cli.data.biographies import read_biographies
from scale_cli.data.corpora import read_corpora
from scale_cli.data.sources import READ
from tests.helpers import refusal
from tests.runs import World

TEXTS = ["one\n\n\ntwo", "셋", " ", "four\u2028lines"]


def write(folder: Path) -> None:
    """The texts in every format, in a field `text` and in a field `body`, with an empty one among the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"text": text, "body": text.upper()} for text in [*TEXTS[:2], "", *TEXTS[2:]]]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    for number, text in enumerate(TEXTS):
        (folder / f"c{number}.txt").write_text(text, encoding="utf-8", newline="")
    (folder / "d.csv").write_text("text\nfrom a table\n", encoding="utf-8")


def documents(source: object, **options: Any) -> list[str]:
    (corpus,) = read_corpora([f"x={source}"], **options)
    assert (corpus.name, corpus.source) == ("x", str(source))
    return list(corpus.documents)


def test_files_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    upper = [text.upper() for text in TEXTS]
    assert documents(tmp_path / "a.jsonl") == documents(tmp_path / "b.parquet") == TEXTS
    assert documents(f"{tmp_path}/a.jsonl:body") == documents(f"{tmp_path}/b.parquet:body") == upper
    assert documents(tmp_path / "c0.txt") == TEXTS[:1]  # blank lines do not split a text
    assert documents(tmp_path / "d.csv") == documents(f"{tmp_path}/*.csv") == ["from a table"]
    assert documents(f"{tmp_path}/c*.txt") == TEXTS
    assert documents(f"{tmp_path}/*.jsonl:body") == upper
    write(tmp_path / "deep" / "er")
    assert documents(f"{tmp_path}/**/c1.txt") == [TEXTS[1]] * 2
    lines: list[str] = []
    assert documents(tmp_path, say=lines.append) == TEXTS * 3 + TEXTS * 3
    assert lines == [f"--perplexity x={tmp_path}: not read: 2 .csv; a glob reads .json and .csv"]
    shutil.move(tmp_path / "a.jsonl", tmp_path / "a:body.jsonl")
    assert documents(tmp_path / "a:body.jsonl") == TEXTS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert documents("~/c1.txt") == [TEXTS[1]]


def test_a_gen_bios_folder(world: World) -> None:
    assert documents(world.data) == read_biographies(world.data)


def test_a_limit_and_empty_documents(tmp_path: Path) -> None:
    write(tmp_path)
    for limit, empty in ((1, 0), (2, 0), (3, 1), (4, 1), (9, 1)):
        (corpus,) = read_corpora([f"x={tmp_path}/a.jsonl"], limit=limit)
        assert list(corpus.documents) == TEXTS[:limit]
        assert (corpus.limit, corpus.empty) == (limit, empty)
    with (tmp_path / "a.jsonl").open("a", encoding="utf-8") as file:
        file.write("\nbroken")
    assert documents(tmp_path / "a.jsonl", limit=4) == TEXTS  # nothing after the last document is read


def test_the_sha256_is_that_of_the_texts(tmp_path: Path) -> None:
    write(tmp_path)
    digests = {}
    for name in ("a.jsonl", "b.parquet", "a.jsonl:body", "c1.txt"):
        (corpus,) = read_corpora([f"x={tmp_path}/{name}"])
        digests[name] = corpus.sha256
    assert digests["a.jsonl"] == digests["b.parquet"] == hashlib.sha256("\0".join(TEXTS).encode()).hexdigest()
    assert digests["c1.txt"] == hashlib.sha256((tmp_path / "c1.txt").read_bytes()).hexdigest()
    assert len(set(digests.values())) == 3


@pytest.fixture
def cached_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset `org/set` of the hub in the cache of `datasets`, with two splits; this process is offline."""
    rows = {"train": [{"text": "no"}], "test": [{"text": text, "body": text.upper()} for text in TEXTS]}
    for split, values in rows.items():
        with (tmp_path / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"body": ""} | value) + "\n" for value in values)
    files = {split: str(tmp_path / f"{split}.jsonl") for split in rows}
    datasets.disable_progress_bars()
    datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "made"))
    (made,) = (tmp_path / "made" / "json").iterdir()
    shutil.copytree(made, tmp_path / "cache" / "org___set" / "default")
    for arrow in (tmp_path / "cache").rglob("json-*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("json-", "set-")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("cached_data_set")
def test_a_data_set_of_the_hub() -> None:
    assert documents("org/set", limit=9) == TEXTS
    assert documents("org/set:default:test", limit=2) == TEXTS[:2]
    assert documents("org/set::train", limit=9) == ["no"]
    assert documents("org/set:::body", limit=1) == [TEXTS[0].upper()]
    for source, message in (
        ("org/set:other", ": Couldn't find cache for org/set for config 'other' Available configs in the cache: ['def"),
        ("org/set::validation", ": Bad split: validation. Available splits: ['train', 'test']"),
        ("org/set:::title", ", document 1 has no field `title`; it has "),
    ):
        assert refusal(documents, source, limit=1).startswith(f"--perplexity x={source}{message}")


def test_the_splits_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[str] = []

    class Builder:
        def __init__(self, name: str, config: str | None) -> None:
            assert (name, config) == ("org/set", None)

        def as_streaming_dataset(self, split: str | None = None) -> Any:
            found = {name: [{"text": name}] for name in splits}
            return found if split is None else found[split]

    monkeypatch.setattr(datasets, "load_dataset_builder", Builder)
    splits = ["other"]
    assert documents("org/set", limit=1) == ["other"]
    splits = ["train", "validation"]
    with pytest.raises(RequestError, match=r"org/set: name a split, org/set::SPLIT, of train, validation$"):
        documents("org/set", limit=1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("TMP/none.jsonl", "no such file or folder"),
        ("TMP/none*.txt", "no such file or folder"),
        ("none.txt", "no such file or folder"),
        ("folder/none.txt", "no such file"),
        ("TMP/empty", f"a folder without texts (empty); files that are read end in {READ}"),
        ("TMP/blank.txt", "there is no text in it"),
        ("TMP/blank.jsonl", "there is no text in it"),
        ("org/set", "no such file; for a dataset of the hub give the number of documents: --perplexity-documents N"),
    ],
)
def test_sources_that_are_none(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").touch()
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n\n', encoding="utf-8")
    source = source.replace("TMP", str(tmp_path))
    assert refusal(documents, source) == f"--perplexity x={source}: {message}"


def test_a_hub_that_cannot_be_reached() -> None:
    assert refusal(documents, "org/no-such-set:config", limit=3) == (
        "--perplexity x=org/no-such-set:config: no such file, and as a dataset of the hub it is not in the cache and "
        "the hub cannot be reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"
    )


@pytest.mark.parametrize(
    ("given", "limit", "message"),
    [
        (["test.txt"], None, "--perplexity 'test.txt': write NAME=SOURCE, as in english=test.jsonl"),
        (["=a.txt"], None, "--perplexity '=a.txt': write NAME=SOURCE, as in english=test.jsonl"),
        (["a="], None, "--perplexity 'a=': write NAME=SOURCE, as in english=test.jsonl"),
        (["a/b=c"], None, "--perplexity 'a/b=c': write NAME=SOURCE, as in english=test.jsonl"),
        (["a=b", "a=c"], None, "--perplexity a=c: a is already b; choose another name"),
        (["a=b"], 0, "--perplexity-documents 0: at least 1"),
    ],
)
def test_words_that_name_no_source(given: list[str], limit: int | None, message: str) -> None:
    assert refusal(read_corpora, given, limit=limit) == message
