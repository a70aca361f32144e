"""Cached tokens are the tokenizer's, made once, complete or absent, and keyed by texts and tokenizer."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from scale_cli.core.errors import RequestError
from scale_cli.data import sources, tokens
from scale_cli.data.biographies import read_biographies
from scale_cli.data.sources import FileSource, find_source
from scale_cli.data.tokens import Chunk, TokenCache, fingerprint, token_ids, tokenise
from tests.helpers import refusal
from tests.processes import start
from tests.runs import World, tree

END = 7
TEXTS = [f"text number {number}, " * (number % 5) for number in range(40)]
"""Eight of them are empty."""
KEPT = [text for text in TEXTS if text]


SMALL = {"sources.BATCH_CHARACTERS": 60, "tokens.FIRST_TOKENS": 64, "tokens.MOST_TOKENS": 200}
"""Batches of about two texts, and chunks of 64, 128 and then 200 tokens; names in `scale_cli.data`."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(f"scale_cli.data.{name}", value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The texts, one per row."""
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "body": text.upper()}) for text in TEXTS), encoding="utf-8")
    return file


def source_of(file: Path, **changes: Any) -> FileSource:
    return FileSource(file, (file,), **changes)


def cache_of(world: World, file: Path, folder: Path, **options: Any) -> TokenCache:
    return TokenCache(source_of(file), world.tokenizer, END, folder, **options)


def documents_of(chunks: list[Chunk]) -> list[list[int]]:
    found = []
    for chunk in chunks:
        if chunk.tokens:
            ids, lengths = chunk.load()
            found += [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
    return found


@pytest.mark.parametrize("split", [True, False])
def test_tokenised_as_by_the_tokenizer_itself_however_it_was_last_called(world: World, split: bool) -> None:
    tokenizer = copy.deepcopy(world.tokenizer)
    tokenizer.split_special_tokens = split
    texts = [*KEPT, f"one{tokenizer.eos_token}two", ""]
    wanted = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert (tokenizer.eos_token_id in wanted[-2]) == (not split)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(texts, truncation=True, max_length=2, padding=True)
    tokenizer.backend_tokenizer.encode_special_tokens = not split
    assert tokenise(texts, tokenizer) == wanted


@pytest.mark.usefixtures("small")
def test_the_tokens_are_the_tokenizers_own(world: World, file: Path, tmp_path: Path) -> None:
    told: list[int] = []
    chunks = cache_of(world, file, tmp_path / "cache", progress=told.append).chunks()
    wanted = [[*ids, END] for ids in tokenise(KEPT, world.tokenizer)]
    assert documents_of(chunks) == wanted
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert (sum(chunk.empty for chunk in chunks), sum(chunk.documents for chunk in chunks)) == (8, 32)
    assert sum(told) == sum(map(len, wanted)) == sum(chunk.tokens for chunk in chunks)
    for chunk, least in zip(chunks[:-1], (64, 128, 200, 200, 200), strict=False):
        assert least <= chunk.tokens < least + 100
    assert len(chunks) >= 4
    ids, lengths = chunks[0].load()
    assert (ids.dtype.name, lengths.dtype.name) == ("uint16", "int64")


def test_a_chunk_ends_where_texts_do(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source whose last text fills a chunk exactly ends in an empty chunk."""
    (tmp_path / "a.txt").write_text("some text", encoding="utf-8")
    monkeypatch.setattr(tokens, "FIRST_TOKENS", 1)
    monkeypatch.setattr(tokens, "MOST_TOKENS", 1)
    cache = cache_of(world, tmp_path / "a.txt", tmp_path / "cache")
    assert [(chunk.documents, chunk.last) for chunk in cache.chunks()] == [(1, False), (0, True)]
    assert cache.chunk(2) is None


def test_a_large_vocabulary_needs_wider_numbers(file: Path, world: World, tmp_path: Path) -> None:
    large = copy.deepcopy(world.tokenizer)
    large.add_tokens([f"<{number}>" for number in range(2**16)])
    file.write_text(json.dumps({"text": f"a<{2**16 - 1}>"}), encoding="utf-8")
    (chunk,) = TokenCache(source_of(file), large, END, tmp_path / "cache").chunks()
    ids, _ = chunk.load()
    assert ids.dtype == np.uint32
    assert ids[-2] == len(large) - 1 > 2**16


def test_ids_with_gaps_need_wider_numbers_too(file: Path, world: World, tmp_path: Path) -> None:
    """The number of tokens says nothing about the largest id."""
    rules = json.loads(world.tokenizer.backend_tokenizer.to_str())
    gap = 70_000
    rules["added_tokens"].append({**rules["added_tokens"][0], "id": gap, "content": "<far>"})
    rules["model"]["vocab"]["<far>"] = gap
    gapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(rules)), eos_token="<|endoftext|>")
    file.write_text(json.dumps({"text": "a<far>"}), encoding="utf-8")
    (chunk,) = TokenCache(source_of(file), gapped, END, tmp_path / "cache").chunks()
    assert chunk.load()[0].tolist()[-2] == gap == token_ids(gapped) - 1 > len(gapped)


def test_a_token_without_a_row_in_the_embedding_is_refused(file: Path, world: World, tmp_path: Path) -> None:
    larger = copy.deepcopy(world.tokenizer)
    larger.add_tokens(["<new>"])
    rows = len(world.tokenizer)
    larger.embedding_rows = rows
    cache = TokenCache(source_of(file), larger, END, tmp_path / "cache")
    assert cache.chunks()
    file.write_text(json.dumps({"text": "a<new>"}), encoding="utf-8")
    message = f"the tokenizer has {rows + 1} tokens and the model {rows}: the texts hold '<new>' \\(id {rows}\\)"
    with pytest.raises(RequestError, match=message):
        TokenCache(source_of(file), larger, END, tmp_path / "cache").chunks()


def test_texts_may_begin_with_begin_of_text(file: Path, world: World, tmp_path: Path) -> None:
    plain = documents_of(cache_of(world, file, tmp_path / "cache").chunks())
    begun = documents_of(cache_of(world, file, tmp_path / "cache", begin=3).chunks())
    assert begun == [[3, *document] for document in plain]
    assert len({cache_of(world, file, tmp_path / "cache", begin=begin).folder for begin in (None, 3, 4)}) == 3


class Counting:
    """A source that counts the texts that are read."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.read = 0

    def batches(self, state: Any = None) -> Iterator[tuple[list[str], Any]]:
        for batch, behind in self.source.batches(state):
            self.read += len(batch)
            yield batch, behind

    def identity(self) -> dict[str, Any]:
        return self.source.identity()


@pytest.mark.usefixtures("small")
def test_what_was_made_once_is_not_made_again(world: World, file: Path, tmp_path: Path) -> None:
    cache_of(world, file, tmp_path / "cache").chunks()
    before = tree(tmp_path / "cache")
    moved = file.rename(tmp_path / "elsewhere.jsonl")
    os.utime(moved, (0, 0))
    world.tokenizer.save_pretrained(tmp_path / "tokenizer")
    other: Any = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    other(["a", "b c"], padding=True, truncation=True, max_length=3)  # changes the tokenizer's state
    counting = Counting(source_of(moved))
    again = TokenCache(counting, other, END, tmp_path / "cache")
    assert len(documents_of(again.chunks())) == len(KEPT)
    assert counting.read == 0
    assert tree(tmp_path / "cache") == before


def test_what_differs_lies_apart(world: World, file: Path, tmp_path: Path) -> None:
    other = copy.deepcopy(world.tokenizer)
    other.add_tokens(["<more>"])
    split = copy.deepcopy(world.tokenizer)
    split.split_special_tokens = True
    longer = tmp_path / "longer.jsonl"
    longer.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    others = [tmp_path / f"texts{ending}" for ending in (".txt", ".csv", ".json", ".txt.gz", ".jsonl.gz")]
    for other_format in others:
        other_format.write_bytes(file.read_bytes())
    bios = world.data
    made = [
        (source_of(file), world.tokenizer, END),
        (source_of(file, field="body"), world.tokenizer, END),
        (source_of(longer), world.tokenizer, END),
        *((source_of(other_format), world.tokenizer, END) for other_format in others),
        (FileSource(tmp_path, (file, longer)), world.tokenizer, END),
        (FileSource(tmp_path, (longer, file)), world.tokenizer, END),
        (source_of(file), other, END),
        (source_of(file), split, END),
        (source_of(file), world.tokenizer, END + 1),
        (find_source("--data", str(bios)), world.tokenizer, END),
        (FileSource(bios, (bios / "biographies.parquet",), people=(0, 5)), world.tokenizer, END),
    ]
    folders = {TokenCache(texts, tokenizer, end, tmp_path / "c").folder for texts, tokenizer, end in made}  # type: ignore[arg-type]
    assert len(folders) == len(made)


def test_large_files_are_told_by_what_changes_with_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = source_of(file).identity()
    monkeypatch.setattr(sources, "HASHED_BYTES", 10)
    large = source_of(file).identity()
    assert large != small
    assert large == source_of(file).identity()
    os.utime(file, (0, 0))
    assert large != source_of(file).identity()


def test_people_of_a_gen_bios_folder(world: World, tmp_path: Path) -> None:
    source = FileSource(world.data, (world.data / "biographies.parquet",), people=(2, 4))
    chunks = TokenCache(source, world.tokenizer, END, tmp_path).chunks()
    texts = read_biographies(world.data, (2, 4))
    assert documents_of(chunks) == [[*ids, END] for ids in tokenise(texts, world.tokenizer)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("batches", "whole"), [(0, 0), (3, 1), (9, 3)])
def test_an_interruption_leaves_whole_chunks_and_is_gone_on_from(
    batches: int, whole: int, world: World, file: Path, tmp_path: Path
) -> None:
    seen = itertools.count()

    def interrupt(made: int) -> None:
        if next(seen) == batches:
            raise KeyboardInterrupt

    cache_of(world, file, tmp_path / "whole").chunks()
    cut = cache_of(world, file, tmp_path / "cut", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut.chunks()
    chunks = [path for path in cut.folder.iterdir() if path.is_dir()]
    for path in chunks:
        assert {file.name for file in path.iterdir()} == {"tokens.bin", "lengths.bin", "chunk.json"}
    assert len(chunks) == whole
    counting = Counting(source_of(file))
    resumed = TokenCache(counting, world.tokenizer, END, tmp_path / "cut")
    resumed.chunks()
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    kept = sum(json.loads((path / "chunk.json").read_text())["documents"] for path in chunks)
    assert counting.read <= len(TEXTS) - kept  # the empty ones in whole chunks are not read again either


@pytest.mark.usefixtures("small")
def test_the_interrupted_one_can_go_on_itself(world: World, file: Path, tmp_path: Path) -> None:
    def interrupt(made: int) -> None:
        cache.progress = None
        raise KeyboardInterrupt

    cache = cache_of(world, file, tmp_path / "cache", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.chunks()
    assert documents_of(cache.chunks()) == [[*ids, END] for ids in tokenise(KEPT, world.tokenizer)]


@pytest.mark.usefixtures("small")
def test_many_chunks_take_no_file_descriptors(world: World, file: Path, tmp_path: Path) -> None:
    held = len(list(Path("/proc/self/fd").iterdir()))
    loaded = [chunk.load() for chunk in cache_of(world, file, tmp_path / "cache").chunks()]
    assert len(list(Path("/proc/self/fd").iterdir())) - held < len(loaded) - 1 > 1


@pytest.mark.usefixtures("small")
def test_a_text_that_cannot_be_read_leaves_what_is_before_it(world: World, file: Path, tmp_path: Path) -> None:
    with file.open("a", encoding="utf-8") as more:
        more.write('\n{"txt": "x"}')
    cache = cache_of(world, file, tmp_path / "cache")
    assert refusal(cache.chunks).startswith(f"{file}, line 41 has no field `text`; it has txt")
    assert [path for path in cache.folder.rglob("*") if "partial" in path.name] == []


def count_tokens(file: Path, folder: Path, tokenizer: Path, log: Path) -> None:
    """Print the number of tokens of a text. log: gets a line per chunk that this process makes."""

    def made(count: int) -> None:
        with log.open("a") as lines:
            lines.write(f"{count}\n")

    cache = TokenCache(source_of(file), AutoTokenizer.from_pretrained(tokenizer), 7, folder, made)
    print(sum(chunk.tokens for chunk in cache.chunks()))


def test_processes_share_the_work_of_one(world: World, file: Path, tmp_path: Path) -> None:
    world.tokenizer.save_pretrained(tmp_path / "tokenizer")
    words = (file, tmp_path / "cache", tmp_path / "tokenizer", tmp_path / "log")
    small = {f"scale_cli.data.{name}": value for name, value in SMALL.items()}
    begun = [start(count_tokens, *words, folder=tmp_path / str(index), patches=small) for index in range(3)]
    wanted = sum(len(ids) + 1 for ids in tokenise(KEPT, world.tokenizer))
    assert [process.wait() for process in begun] == [(0, f"{wanted}\n", "")] * 3
    assert sum(map(int, (tmp_path / "log").read_text().split())) == wanted


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("tokens.bin", empty),
        ("tokens.bin", cut),
        ("tokens.bin", Path.unlink),
        ("lengths.bin", empty),
        ("lengths.bin", lambda path: path.write_bytes(path.read_bytes()[4:])),
        ("lengths.bin", lambda path: path.write_bytes(path.read_bytes()[::-1])),
        ("lengths.bin", Path.unlink),
        ("chunk.json", cut),
        ("chunk.json", Path.unlink),
        ("chunk.json", lambda path: path.write_text("{}")),
    ],
)
def test_a_damaged_chunk_is_named(
    name: str, spoil: Callable[[Path], Any], world: World, file: Path, tmp_path: Path
) -> None:
    cache = cache_of(world, file, tmp_path / "cache")
    cache.chunks()
    spoil(cache.folder / "00000" / name)
    refused = refusal(lambda: cache_of(world, file, tmp_path / "cache").chunks()[0].load())
    assert refused.startswith(f"{cache.folder}/00000 is damaged: ")
    assert refused.endswith("; remove it, and it is written again")


def test_a_folder_that_cannot_be_written(
    world: World, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, reason in ((file, "Not a directory"), (file / "cache", "Not a directory")):
        assert (
            refusal(cache_of, world, file, folder)
            == f"--tokens-cache {folder}: {reason}; name a folder that can be written"
        )

    class Refused:
        def __init__(self, path: Path) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    cache = cache_of(world, file, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "FileLock", Refused)
        with pytest.raises(
            RequestError, match=r"^--tokens-cache .*/cache: Permission denied; name a folder that can be"
        ):
            cache.chunks()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tokens, "write_text", full)  # of the files the last
        with pytest.raises(RequestError, match=r"00000 cannot be written: No space left on device"):
            cache.chunks()
    assert not [path for path in cache.folder.iterdir() if path.is_dir()]
    assert len(documents_of(cache.chunks())) == len(KEPT)  # once there is room


def test_a_tokenizer_written_in_python(file: Path, tmp_path: Path) -> None:
    slow, other = ByT5Tokenizer(), ByT5Tokenizer(extra_ids=3)
    assert fingerprint(slow) == fingerprint(ByT5Tokenizer()) != fingerprint(other)
    file.write_text('{"text": "ab"}', encoding="utf-8")
    assert documents_of(TokenCache(source_of(file), slow, 1, tmp_path / "cache").chunks()) == [[100, 101, 1]]


def test_rows_of_parquet(world: World, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=7)
    chunks = cache_of(world, tmp_path / "a.parquet", tmp_path / "cache").chunks()
    assert documents_of(chunks) == [[*ids, END] for ids in tokenise(KEPT, world.tokenizer)]
