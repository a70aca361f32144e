"""Every file format gives the same documents; errors name the file or row that has no text."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from scale_cli.core.errors import RequestError
from scale_cli.data import texts
from scale_cli.data.texts import ENDINGS, ending_of, read_rows, read_texts
from tests.helpers import refusal
from tests.runs import ROOT

TEXTS = [
    "one\n\ntwo",
    "셋",
    " ",
    "NA",
    "",
    "null",
    "12",
    "2020-01-01",
    'four\u2028lines\x85and "quotes", \u0085😀',
    "\ttab",
]
MARK = b"\xef\xbb\xbf"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}

CUT_SHORT = gzip.compress(bytes(range(200)), mtime=0)[:-20]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches per file."""
    monkeypatch.setattr(texts, "BATCH_ROWS", 3)


def rows_of(values: list[str]) -> list[dict[str, Any]]:
    """Rows with the texts in `text` and in `body`. Other fields differ in type and are missing in some rows."""
    other: list[Any] = [1, "x", [1], {"a": None}, None]
    return [
        {"text": text, "body": text.upper(), "n": other[number % 5]} | ({"late": 1} if number > 5 else {})
        for number, text in enumerate(values)
    ]


def contents(values: list[str]) -> dict[str, bytes]:
    """The same texts in every format with rows."""
    rows = rows_of(values)
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    columns = [{"body": row["body"], "text": row["text"]} for row in rows]
    comma = io.StringIO()
    writer = csv.DictWriter(comma, ["body", "text"])
    writer.writeheader()
    writer.writerows(columns)
    table = pa.Table.from_pylist(columns)
    parquet, stream, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=4)
    with pa.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table)
    with pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    return {
        "a.jsonl": lines,
        "a.ndjson": lines.replace(b"\n", b"\r\n \n") + b"\n",
        "A.JSONL": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(),
        "lines.json": lines,
        "array.json": json.dumps(rows).encode(),
        "pretty.json": json.dumps(rows, indent=1).encode(),
        "a.csv": comma.getvalue().encode(),
        "a.parquet": parquet.getvalue(),
        "stream.arrow": stream.getvalue(),
        "file.arrow": file.getvalue(),
    }


def read(*files: Path, field: str = "text") -> list[str]:
    return list(read_texts(files, field))


def reads_zstd_by_zstandard() -> bool:
    """Whether this release of fsspec, an old one, reads zstd with the package zstandard."""
    return bool(pytest.importorskip("fsspec.compression").compr["zstd"].__module__ == "fsspec.compression")


def refused(file: Path, field: str = "text") -> str:
    """The message of a file's RequestError, without the folder."""
    return refusal(read, file, field=field).replace(f"{file.parent}/", "")


@pytest.mark.parametrize("name", contents(TEXTS))
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    content = contents(TEXTS)[name]
    for compression, compress in COMPRESS.items():
        file = tmp_path / (name + compression)
        if ending_of(file) in ENDINGS:
            for mark in (b"", MARK) if ENDINGS[ending_of(file)] in ("json", "csv") else (b"",):
                file.write_bytes(compress(mark + content))
                if file.name == "a.csv.zst" and reads_zstd_by_zstandard():
                    assert refused(file) == "a.csv.zst cannot be read: not readable"  # pandas needs more of a file
                    continue
                assert read(file) == TEXTS
                assert read(file, field="body") == [text.upper() for text in TEXTS]
    assert len(list(tmp_path.iterdir())) == (1 if name.endswith(("arrow", "parquet")) else len(COMPRESS))


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "arrow"])
def test_a_field_may_be_nested(ending: str, tmp_path: Path) -> None:
    rows = [{"message": {"role": "user", "content": text}} for text in TEXTS]
    file = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == "json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with pa.ipc.new_stream(file, (table := pa.Table.from_pylist(rows)).schema) as writer:
            writer.write_table(table)
    assert read(file, field="message.content") == TEXTS
    message = refused(file, "message.body")
    assert " has no field `message.body`; it has " in message
    assert set(message.rpartition(" it has ")[2].split(", ")) == {"role", "content"}


def test_a_txt_file_is_one_document_and_files_keep_their_order(tmp_path: Path) -> None:
    text = "one\ntwo\n\n셋\u2028"
    for compression, compress in COMPRESS.items():
        for mark in (b"", MARK):
            (tmp_path / f"a.txt{compression}").write_bytes(compress(mark + text.replace("\n", "\r\n", 1).encode()))
            assert read(tmp_path / f"a.txt{compression}") == [text]
    (tmp_path / "b.TXT").touch()
    (tmp_path / "c.jsonl").write_text('{"text": "c"}', encoding="utf-8")
    names = ("c.jsonl", "a.txt", "b.TXT", "a.txt.gz", "c.jsonl", "a.txt")
    assert read(*(tmp_path / name for name in names)) == ["c", text, "", text, "c", text]


def test_an_own_decoder_of_json_is_needed(tmp_path: Path) -> None:
    """The library's decoder turns texts into dates and refuses differing rows; ours is needed as long as it does."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "2020-01-01"}', encoding="utf-8")
    options = {"data_files": str(file), "split": "train", "streaming": True, "cache_dir": str(tmp_path)}
    assert [row["text"] for row in datasets.load_dataset("json", **options)] == [datetime.datetime(2020, 1, 1)]
    rows = [{"text": "a" * 2**20, "n": 1} for _ in range(11)] + [{"text": "b", "n": "x"}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises((pa.ArrowInvalid, datasets.exceptions.DatasetsError, ValueError)):
        list(datasets.load_dataset("json", **options))
    assert [len(text) for text in read(file)] == [2**20] * 11 + [1]


def test_names_that_mean_something_to_the_library(tmp_path: Path) -> None:
    for name in (
        "[a].jsonl",
        "a*?.jsonl",
        "a b#%20.jsonl",
        "a:body.jsonl",
        ".hidden.jsonl",
        "__a.jsonl",
        "a.jsonl.jsonl",
    ):
        (tmp_path / name).write_text(json.dumps({"text": name}), encoding="utf-8")
        assert read(tmp_path / name) == [name]
    (tmp_path / "a::b.txt").touch()
    assert refused(tmp_path / "a::b.txt") == (
        "a::b.txt cannot be read: `datasets` gives :: in a path another meaning; rename the file or its folder"
    )


def test_columns_of_other_types_do_not_matter(tmp_path: Path) -> None:
    values = pa.array(["a", "b"])
    others = {
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "category": values.dictionary_encode(),
        "time": pa.array([1, 2], pa.timestamp("ns")),
    }
    for column in (values, values.cast(pa.large_string()), values.cast(pa.string_view()), values.dictionary_encode()):
        pq.write_table(pa.table(others | {"text": column}), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == ["a", "b"]
    pq.write_table(pa.table({"text": values[:0]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == []


def test_all_fields_of_rows(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": [1, 2], "c": {"d": None, "e": 1.5}}, {"a": None, "b": [], "c": {"d": "y", "e": 2.0}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    for name in ("a.parquet", "a.json"):
        where = [f"{tmp_path / name}, row {number}" for number in (1, 2)]
        assert list(read_rows(tmp_path / name)) == list(zip(where, rows, strict=True))


def parquet(column: pa.Array) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": column}), file)
    return file.getvalue()


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # rows that hold no text
        ("a.jsonl", b'\n{"text": "a"}\n{"txt": "b", "n": 1}', "a.jsonl, line 3 has no field `text`; it has txt, n"),
        ("a.jsonl", b'{"text": "a"}\n{}', "a.jsonl, line 2 has no field `text`; it has none"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": null}', "a.jsonl, line 3: the field `text` is null, not text"),
        ("a.jsonl", b'{"text": "a"}\n5', "a.jsonl, line 2 is 5, not an object with fields"),
        (
            "a.jsonl",
            b'{"text": "\\ud800"}',
            "a.jsonl, line 1: the field `text` holds half a surrogate pair, which is not",
        ),
        ("a.json", b'[{"text": "a"}, {"text": ["b"]}]', 'a.json, row 2: the field `text` is ["b"], not text'),
        ("a.json", b'{"data": [{"text": "a"}]}', "a.json, line 1 has no field `text`; it has data"),
        ("a.json", b'["a"]', 'a.json, row 1 is "a", not an object with fields'),
        ("a.csv", b"id,body\n1,a\n", "a.csv has no column `text`; it has id, body"),
        ("a.parquet", parquet(pa.array([1])), "a.parquet, row 1: the field `text` is 1, not text"),
        ("a.parquet", parquet(pa.array(["a"] * 4 + [None])), "a.parquet, row 5: the field `text` is null, not text"),
        ("a.parquet", parquet(NOT_UTF8), "a.parquet, row 2 is not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        # files that are damaged
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', "a.jsonl, line 3 is not JSON: Expecting value in column 10"),
        ("a.json", b'[{"text": "a"},\n{"text": }]', "a.json, line 2 is not JSON: Expecting value in column 10"),
        ("a.json", b"[" * 10**5, "a.json, line 1 is not JSON: maximum recursion depth exceeded"),
        ("a.txt", b"one\r\ntwo\ncaf\xe9\n", "a.txt, line 3 is not UTF-8: 'utf-8' codec can't decode byte 0xe9"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}',
            "a.jsonl, line 2 is not UTF-8: 'utf-8' codec can't decode byte",
        ),
        ("a.csv", b"text\na\n\xff\n", "a.csv, line 3 is not UTF-8: 'utf-8' codec can't decode byte 0xff"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "\xff"}', mtime=0),
            "a.jsonl.gz",
        ),  # some releases do not count its lines
        ("a.csv", b"", "a.csv cannot be read: No columns to parse from file"),
        ("a.csv", b'text\n"a\n', "a.csv cannot be read: Error tokenizing data. C error: EOF inside string"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read: Parquet file size is 4 bytes"),
        ("a.arrow", b"no arrow" * 9, "a.arrow cannot be read: Not an Arrow file"),
        ("a.txt.gz", b"no gzip", "a.txt.gz cannot be read: Not a gzipped file (b'no')"),
        (
            "a.txt.gz",
            gzip.compress(bytes(range(200)), mtime=0)[:-20],
            "a.txt.gz cannot be read: Compressed file ended before",
        ),
        ("a.csv.xz", b"no xz", "a.csv.xz cannot be read: Input format not supported by decoder"),
        ("a.jsonl.bz2", b"no bz2", "a.jsonl.bz2 cannot be read: Invalid data stream"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that old releases leave open
def test_the_file_and_the_row_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good", encoding="utf-8")
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(message)
    with pytest.raises(RequestError, match=f"/{name}"):  # among other files, too
        read(tmp_path / "good.txt", tmp_path / name, tmp_path / "good.txt")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_link_to_nothing(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a{ending}").symlink_to(tmp_path / "nowhere")
    assert refused(tmp_path / f"a{ending}") == f"a{ending} cannot be read: No such file or directory"


def test_zstd_that_is_cut_short(tmp_path: Path) -> None:
    if reads_zstd_by_zstandard():
        pytest.skip("this release of fsspec reads zstd with zstandard, which does not detect the missing end")
    noise = random.Random(0).randbytes(400_000).hex().encode()
    (tmp_path / "a.txt.zst").write_bytes(COMPRESS[".zst"](noise)[:-100_000])
    assert refused(tmp_path / "a.txt.zst").startswith("a.txt.zst cannot be read: Compressed file ended before")


def test_without_zstandard_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("a.csv.zst", "a.jsonl.zst", "a.txt.zst"):
        assert refused(tmp_path / name) == f"{name} needs the extra zstd; pip install 'scale-cli[zstd]'"


def test_a_row_longer_than_the_header(tmp_path: Path) -> None:
    """The names belong to the first cells; pandas by default treats surplus first cells as an index."""
    (tmp_path / "a.csv").write_text("text,id\na,1,\nb,2,\n", encoding="utf-8")
    assert read(tmp_path / "a.csv") == ["a", "b"]


def test_what_lies_behind_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\nbroken', encoding="utf-8")
    documents = read_texts([file, tmp_path / "none.txt"])
    assert [next(documents), next(documents)] == ["a", "b"]
    with pytest.raises(RequestError, match=r"line 3 is not JSON"):
        next(documents)


PROGRAM = """
import sys
from pathlib import Path
from scale_cli.core.errors import RequestError
from scale_cli.data.texts import read_texts
for name in sys.argv[1:]:
    try:
        print(ascii(list(read_texts([Path(name)]))))
    except RequestError as error:
        print(error)
"""


def test_nothing_is_cached_and_nothing_is_printed_in_another_encoding_of_the_system(tmp_path: Path) -> None:
    """The library reads compressed text in the locale's encoding."""
    made = contents(TEXTS) | {"a.txt": TEXTS[1].encode(), "a.txt.gz": gzip.compress(TEXTS[1].encode())}
    made |= {"broken.csv": b'text\n"a\n', "broken.parquet": b"PAR1"}
    files = [tmp_path / name for name in made]
    for file, content in zip(files, made.values(), strict=True):
        file.write_bytes(content)
    system = {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    caches = {"HF_HOME": str(tmp_path / "home"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", PROGRAM, *map(str, files)]
    environment = os.environ | system | caches
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[:-3] == [ascii(TEXTS)] * (len(files) - 4) + [ascii(TEXTS[1:2])]
    message = "cannot be read: `datasets` reads compressed text in the locale's encoding; set PYTHONUTF8=1"
    assert lines[-3] == f"{tmp_path}/a.txt.gz {message}"
    assert ["broken" in line for line in lines[-2:]] == [True, True]
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "cache").exists()
