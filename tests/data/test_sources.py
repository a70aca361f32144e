"""The source and the weight in a value of `--data`, and streams that continue from a saved state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from scale_cli.core.errors import RequestError
from scale_cli.data import sources
from scale_cli.data.sources import FileSource, HubSource, HubTexts, find_source, split_weight
from tests.data.hub_data import stand_in
from tests.helpers import refusal

TEXTS = [[f"shard {shard}, text {number}" for number in range(7)] for shard in range(3)]
ALL = [text for shard in TEXTS for text in shard]


@pytest.mark.parametrize(
    ("words", "place", "weight"),
    [
        ("a.jsonl", "a.jsonl", None),
        ("a.jsonl:0.95", "a.jsonl", 0.95),
        ("a.jsonl:body:.5", "a.jsonl:body", 0.5),
        ("*.txt:2", "*.txt", 2.0),
        ("a.txt:-1e-3", "a.txt", -1e-3),
        ("a.txt:1.", "a.txt", 1.0),
        ("a.txt:0.5x", "a.txt:0.5x", None),
        ("a.txt:nan", "a.txt:nan", None),
        ("a.txt:inf", "a.txt:inf", None),
        ("a.txt:", "a.txt:", None),
        (":0.5", ":0.5", None),
        ("org/name:config:train:body:1", "org/name:config:train:body", 1.0),
        ("org/wiki:20231101.ko:0.3", "org/wiki:20231101.ko", 0.3),
        ("org/wiki:20231101.ko", "org/wiki:20231101.ko", None),
    ],
)
def test_the_weight_behind_a_source(words: str, place: str, weight: float | None) -> None:
    assert split_weight(words) == (place, weight)


def test_a_file_whose_name_ends_in_a_number(tmp_path: Path) -> None:
    file = tmp_path / "a.txt:5"
    file.write_text("text", encoding="utf-8")
    assert split_weight(str(file)) == (str(file), None)
    assert split_weight(f"{file}:0.5") == (str(file), 0.5)


def test_what_a_source_is(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a", "body": "b"}', encoding="utf-8")
    assert find_source("--data", str(file)) == FileSource(file, (file,))
    assert find_source("--data", f"{tmp_path}:body") == FileSource(tmp_path, (file,), "body")
    assert find_source("--data", "org/name") == HubSource("org/name", "", "", "")
    assert find_source("--data", "HuggingFaceFW/fineweb-2:kor_Hang::body") == HubSource(
        "HuggingFaceFW/fineweb-2", "kor_Hang", "", "body"
    )


def test_the_texts_of_a_folder(tmp_path: Path) -> None:
    """Each visible file once, whatever links point to it, in the order of paths without links."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "b" / "deep", root / ".hidden", elsewhere):
        folder.mkdir(parents=True)
    read = ["a.jsonl", "b/E.JSONL", "b/deep/c.ndjson.gz", "b/deep/d.parquet", "b.arrow", "e.txt"]
    unread = ["b/README.md", "f.csv", "g.json.gz", "a.jsonl~", "e.txt.bak", ".a.txt.swp", "LICENSE", "h.parquet.gz"]
    for name in [*read, *unread, ".hidden/x.txt", "b/.x.txt", "b/._e.txt"]:
        (root / name).touch()
    (elsewhere / "z.txt").touch()
    (elsewhere / "y.md").touch()
    (root / "a").symlink_to(root / "b")  # before the folder itself
    (root / "b" / "up").symlink_to("..")
    (root / "0.txt").symlink_to("e.txt")
    (root / "c").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    source = find_source("--data", str(root))
    assert isinstance(source, FileSource)
    assert source.files == tuple(sorted(root / name for name in [*read, "c/z.txt"]))
    assert source.unread == (
        "not read: 2 .md, 1 .bak, 1 .csv, 1 .json.gz, 1 .jsonl~, 1 .parquet.gz, 1 without an ending; "
        "a glob reads .json and .csv"
    )
    for number in range(9):
        (root / f"part.{number}").touch()
    more = find_source("--data", str(root))
    assert isinstance(more, FileSource)
    assert more.unread.startswith("not read: 2 .md, 1 .0, 1 .1, 1 .2, 1 .3, 1 .4, 1 .5, 1 .6, 8 others; a glob")
    tables = find_source("--data", f"{root}/*.csv")
    assert isinstance(tables, FileSource)
    assert (tables.files, tables.unread) == ((root / "f.csv",), "")
    for name in [*read, "0.txt"]:
        (root / name).unlink()
    (elsewhere / "z.txt").unlink()
    with pytest.raises(RequestError, match=r"^--data: a folder without texts \(not read: 2 .md, .*\); files"):
        find_source("--data", str(root))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").touch()
    for value in ("~/a.jsonl", "~/a.jsonl:body", "~/*.jsonl", "~"):
        source = find_source("--data", value)
        assert isinstance(source, FileSource)
        assert source.files == (tmp_path / "a.jsonl",)
        assert source.place.is_relative_to(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubTexts:
    """A dataset `org/name` in three files. Memory holds one of them at a time."""
    stand_in(monkeypatch, tmp_path / "hub", train=TEXTS, test=[["only"]])
    return HubSource("org/name", "", "", "").open("--data org/name", "train")


def test_a_stream_goes_on_behind_each_batch(hub: HubTexts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(hub.texts()) == ALL
    monkeypatch.setattr(sources, "BATCH_CHARACTERS", 40)
    batches = list(hub.batches())
    assert [text for batch, _ in batches for text in batch] == ALL
    assert [len(batch) for batch, _ in batches] == [3] * 7  # over the borders of files too
    for number, (_, state) in enumerate(batches, 1):
        rest = hub.batches(json.loads(json.dumps(state)))
        assert [text for batch, _ in rest for text in batch] == ALL[3 * number :]


def test_a_stream_reads_no_file_that_lies_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads a thousand rows at a time, across files, and resumes at the beginning of such a batch."""
    shards = [[f"shard {shard}, text {number}" for number in range(1500)] for shard in range(4)]
    stand_in(monkeypatch, tmp_path / "hub", train=shards)
    monkeypatch.setattr(sources, "BATCH_CHARACTERS", 2000)
    source = opened("org/name")
    begun = source.batches()
    seen: list[str] = []
    while len(seen) < 4000:
        batch, state = next(begun)
        seen += batch
    (tmp_path / "hub" / "train-0.jsonl").write_text("broken", encoding="utf-8")
    seen += [text for batch, _ in source.batches(state) for text in batch]
    assert seen == [text for shard in shards for text in shard]


def test_the_identity_of_a_stream(hub: HubTexts) -> None:
    assert hub.identity() == {
        "hub": "org/name",
        "config": "default",
        "split": "train",
        "field": "text",
        "revision": hub.fingerprint(),
    }
    assert len(hub.fingerprint()) > 10


def opened(source: str) -> HubTexts:
    found = find_source(f"--data {source}", source)
    assert isinstance(found, HubSource)
    return found.open(f"--data {source}", "train")


def read(source: str) -> list[str]:
    return list(opened(source).texts())


def refused(act: Callable[[], Any]) -> str:
    return refusal(act)


def test_the_split_that_is_meant(hub: HubTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("org/name") == read("org/name::train") == ALL
    assert read("org/name::test") == ["only"]
    bad = "--data org/name::dev: Bad split: dev. Available splits: ['train', 'test']"
    assert refused(lambda: opened("org/name::dev")) == bad
    stand_in(monkeypatch, tmp_path / "one", validation=[["v"]])
    assert read("org/name") == ["v"]
    stand_in(monkeypatch, tmp_path / "two", validation=[["v"]], test=[["t"]])
    asked = "--data org/name: name a split, org/name::SPLIT, of validation, test"
    assert refused(lambda: opened("org/name")) == asked


def test_rows_without_a_text(hub: HubTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "--data org/name:::title, document 1 has no field `title`; it has text"
    assert refused(lambda: read("org/name:::title")).startswith(message)
    broken: list[list[Any]] = [["a" * 30, "b" * 30], ["c" * 30, None]]
    stand_in(monkeypatch, tmp_path / "broken", train=broken)
    source = opened("org/name")
    message = "--data org/name, document 4: the field `text` is null, not text"
    assert refused(lambda: list(source.texts())) == message
    monkeypatch.setattr(sources, "BATCH_CHARACTERS", 10)
    states: list[Any] = []
    assert refused(lambda: states.extend(state for _, state in source.batches())) == message
    state = next(source.batches())[1]
    assert refused(lambda: list(source.batches(state))) == message  # the row is counted from the beginning


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("down"), "no such file, and as a dataset of the hub it is not in the cache and the hub "
         "cannot be reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"),
        (FileNotFoundError("no such\n  file"), "no such file"),
        (ValueError("Bad shard"), "Bad shard"),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_off(
    error: Exception, message: str, hub: HubTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> Any:
        yield {"text": "a"}
        raise error

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", broken)
    assert refused(lambda: list(hub.texts())) == f"--data org/name: {message}"


def test_a_hub_that_cannot_be_reached() -> None:
    assert refused(lambda: opened("org/no-such-set:config")) == (
        "--data org/no-such-set:config: no such file, and as a dataset of the hub it is not in the cache and the hub "
        "cannot be reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"
    )
