"""Texts in files, read through `datasets`: streamed, so that nothing is copied into its cache.

A document is one field of a row. A .txt file is one document. Importing this does not import `datasets`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import importlib.util
import itertools
import json
import locale
import lzma
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scale_cli.core.errors import RequestError
from scale_cli.core.versions import install_extra

FIELD = "text"
"""The default field of a row."""
FORMATS = {
    ".txt": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""The formats by a file's ending."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
COMPRESSIBLE = ("text", "json", "csv")
"""The formats of files that may be compressed. The other formats compress their columns themselves."""
ENDINGS = FORMATS | {
    ending + compression: kind
    for ending, kind in FORMATS.items()
    if kind in COMPRESSIBLE
    for compression in COMPRESSIONS
}
PARSING_ERRORS = (ValueError, EOFError, ImportError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""The errors of the library's parsers and decompressors, besides those of the system."""
BATCH_ROWS = 256
BATCH_CHARACTERS = 2**20
"""Rows per table, and characters that are read at a time from a file of lines. The library's own 10 MB take longer."""


def ending_of(file: Path) -> str:
    """The last suffix of a file's name, with the one before a compression's, in lower case: `.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] and suffixes[-1] in COMPRESSIONS else suffixes[-1:])


def has_rows(file: Path) -> bool:
    """Whether a file holds rows with fields, and not one document."""
    return ENDINGS[ending_of(file)] != "text"


def read_texts(files: Sequence[Path], field: str = FIELD) -> Iterator[str]:
    """The documents of files in order, read as they are requested.

    files: their endings are in `ENDINGS`. field: of each row, ignored for .txt.
    Raises RequestError with the file and the row for anything that is not text.
    """
    for holds_rows, group in itertools.groupby(files, key=has_rows):
        if not holds_rows:
            yield from _read_documents(list(group))
            continue
        for file in group:
            for where, row in read_rows(file, (field,)):
                yield text_of(row, field, where)


def text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text in a field of a row. A field that no row has by its whole name may be nested, as in `message.content`.

    where: names the row in the RequestError for a row without the field, or with another value than text.
    """
    value: Any = row
    for name in [field] if field in row else field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            fields = ", ".join(value) if isinstance(value, Mapping) else ""
            raise RequestError(f"{where} has no field `{field}`; it has {fields or 'none'}{_instead(row)}")
        value = value[name]
    return checked_text(value, field, where)


def _instead(row: Mapping[str, Any]) -> str:
    """What to do about a row without the field, as the end of a message."""
    for name, value in row.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            return f"; `{name}` is a list of turns: write each chat as one text, by the tokenizer's chat template"
    texts = [name for name, value in row.items() if isinstance(value, str)]
    return f"; name the field in the source, as in SOURCE:{texts[0]}" if texts else ""


def checked_text(value: Any, field: str, where: str) -> str:
    """The value of a row's field if it is text. where: names the row in the RequestError for other values."""
    if not isinstance(value, str):
        raise RequestError(f"{where}: the field `{field}` is {json.dumps(value, default=str)[:40]}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{where}: the field `{field}` holds half a surrogate pair, which is not a character"
        ) from error
    return value


def read_rows(file: Path, fields: Sequence[str] | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file in order, each with its name for messages.

    file: its ending is in `ENDINGS` and not that of a text. fields: the fields that are needed, None for all; a row of
    JSON has all of its fields anyway. Blank lines of JSON are not rows.
    Raises RequestError with the file and the row for a file that cannot be read or lacks a field.
    """
    if ENDINGS[ending_of(file)] == "json":
        yield from _read_json(file)
        return
    number = 0
    for table in read_tables(file, fields):
        names = table.column_names
        for values in zip(*(table[name] for name in names), strict=True):
            number += 1
            where = f"{file}, row {number}"
            try:
                yield where, {name: value.as_py() for name, value in zip(names, values, strict=True)}
            except UnicodeDecodeError as error:
                raise RequestError(f"{where} is not UTF-8: {error}") from error


def read_tables(file: Path, fields: Sequence[str] | None = None, filters: Any = None) -> Iterator[pa.Table]:
    """The rows of a .parquet, .arrow or .csv file as tables of `BATCH_ROWS` rows at most.

    fields: the columns, None for all those of a .parquet or .arrow file. filters: of the rows of a .parquet file, as
    pyarrow takes them. Raises RequestError for a file that cannot be read or lacks a column.
    """
    return _tables(file, lambda: _columns(file, fields, filters))


def _columns(file: Path, fields: Sequence[str] | None, filters: Any) -> Any:
    """The stream of a file's columns."""
    kind = ENDINGS[ending_of(file)]
    if kind == "arrow":
        stream = _stream(kind, [file])
        return stream.select_columns(_checked_columns(file, fields, stream.column_names))
    if kind == "parquet":
        schema = pq.read_schema(file)
        names = _checked_columns(file, fields, schema.names)
        features = _features([schema.field(name) for name in names])
        return _stream(kind, [file], columns=names, features=features, batch_size=BATCH_ROWS, filters=filters)

    import pandas as pd

    header = pd.read_csv(file, nrows=0, encoding="utf-8-sig")
    names = _checked_columns(file, fields, list(header.columns))
    features = _features([pa.field(name, pa.string()) for name in names])
    # Without the filter an empty cell is an empty text, and "NA" and "null" are words. With an index, a row that is
    # longer than the header would be read from its second cell on.
    options = {"usecols": names, "features": features, "na_filter": False, "index_col": False}
    return _stream(kind, [file], encoding="utf-8-sig", **options)


def _checked_columns(file: Path, fields: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    columns = [field if field in names else field.partition(".")[0] for field in (names if fields is None else fields)]
    for field, column in zip(names if fields is None else fields, columns, strict=True):
        if column not in names:
            raise RequestError(f"{file} has no column `{field}`; it has {', '.join(names) or 'none'}")
    return columns


def _features(columns: Sequence[pa.Field]) -> Any:
    """The library's types of columns. All kinds of text become the one that has no limit to a batch's bytes.

    With these, the library ignores a file's other columns, which may have types that it does not support.
    """
    from datasets import Features

    texts = (pa.string(), pa.large_string(), pa.string_view())
    types = {column.name: pa.large_string() if column.type in texts else column.type for column in columns}
    return Features.from_arrow_schema(pa.schema(types))


def _read_documents(files: Sequence[Path]) -> Iterator[str]:
    """The whole of each file. All are one stream: opening one per file takes twenty times as long."""
    with _reading(files[0]):
        rows = iter(_stream("text", files, sample_by="document"))
    for file in files:
        with _reading(file):
            row = next(rows)
        yield row["text"].removeprefix("\ufeff")


def _read_json(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file that is an object per line, or one array of objects, or one object.

    The library reads the lines and the standard library decodes each. The library's own decoder turns texts that are
    dates into dates, and refuses files whose rows differ in other fields.
    """
    numbered = enumerate(_read_lines(file), 1)
    filled = ((number, line) for number, line in numbered if line.strip())
    first = next(filled, None)
    if first is None:
        return
    if _is_object(first[1]):
        for number, line in itertools.chain([first], filled):
            yield _checked_row(f"{file}, line {number}", _decoded(line, file, number))
        return
    text = "\n".join([first[1], *(line for _, line in numbered)])
    rows = _decoded(text, file, first[0])
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield _checked_row(f"{file}, row {number}", row)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _decoded(text: str, file: Path, line: int) -> Any:
    """The value of JSON that begins in this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{file}, line {line + error.lineno - 1}"
        raise RequestError(f"{where} is not JSON: {error.msg} in column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
        raise RequestError(f"{file}, line {line} is not JSON: {error}") from error


def _checked_row(where: str, row: Any) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(row, dict):
        raise RequestError(f"{where} is {json.dumps(row)[:40]}, not an object with fields")
    return where, row


def _read_lines(file: Path) -> Iterator[str]:
    mark = "\ufeff"
    for table in _tables(file, lambda: _stream("text", [file], sample_by="line", chunksize=BATCH_CHARACTERS)):
        for line in table["text"].to_pylist():
            yield line.removeprefix(mark)
            mark = ""


def _tables(file: Path, stream: Callable[[], Any]) -> Iterator[pa.Table]:
    """The rows of a file's stream. Errors of opening and reading it are raised with the file's name."""
    with _reading(file):
        tables = iter(stream().with_format("arrow").iter(BATCH_ROWS))
    while True:
        with _reading(file):
            table = next(tables, None)
        if table is None:
            return
        yield table


def _stream(kind: str, files: Sequence[Path], **options: Any) -> Any:
    """An `IterableDataset` of files of one format.

    The builder is called directly: `load_dataset` takes names for patterns, which a `[` breaks, and reports to the hub.
    """
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.arrow.arrow import Arrow
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.text.text import Text

    builders: dict[str, Any] = {"arrow": Arrow, "csv": Csv, "parquet": Parquet, "text": Text}
    paths = [os.path.abspath(file) for file in files]
    if any("::" in path for path in paths):
        raise ValueError("`datasets` gives :: in a path another meaning; rename the file or its folder")
    if kind == "text" and not _is_utf8_locale() and any(path.lower().endswith(COMPRESSIONS) for path in paths):
        raise ValueError("`datasets` reads compressed text in the locale's encoding; set PYTHONUTF8=1")
    with tempfile.TemporaryDirectory() as cache:  # a builder leaves a lock in its cache
        data_files = DataFilesDict({"train": DataFilesList(paths, [()] * len(paths))})
        return builders[kind](cache_dir=cache, data_files=data_files, **options).as_streaming_dataset("train")


def _is_utf8_locale() -> bool:
    return codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise the errors of the system and of `datasets` as RequestErrors that name the file."""
    if ending_of(file).endswith(".zst") and importlib.util.find_spec("zstandard") is None:
        raise RequestError(f"{file} needs the extra zstd; {install_extra('zstd')}")
    try:
        with quiet():
            yield
    except RequestError:
        raise
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from error
    except FileNotFoundError as error:
        raise RequestError(f"{file} cannot be read: {os.strerror(errno.ENOENT)}") from error
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        if not isinstance(error, PARSING_ERRORS) and type(error).__name__ != "ZstdError":  # from one of three packages
            raise
        raise RequestError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off the progress bars, logs and warnings of `datasets`. Its errors are still raised."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _not_utf8(file: Path, error: UnicodeDecodeError) -> RequestError:
    """The error with its line, which a second reading finds; not for some compressed files, whose encoding is fixed."""
    with contextlib.suppress(ValueError):
        for number, row in enumerate(_stream("text", [file], sample_by="line", encoding="latin-1"), 1):
            try:
                row["text"].encode("latin-1").decode()
            except UnicodeDecodeError as line_error:
                return RequestError(f"{file}, line {number} is not UTF-8: {line_error}")
    return RequestError(f"{file} is not UTF-8: {error}")
