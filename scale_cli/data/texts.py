"""Texts in files, one after the other: of a .jsonl or .parquet file one a row, any other file is one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scale_cli.core.errors import RequestError

FIELD = "text"
"""The field that holds the text of a row where nobody says another."""


def read_file(source: Path, field: str = FIELD) -> Iterator[str]:
    """The texts of a file, read as they are asked for; `field` is that of a row, and nothing to other files.

    Blank lines of a .jsonl file are no rows. Raises RequestError, naming the row, where something else than a text is.
    """
    try:
        if source.suffix == ".parquet":
            yield from _parquet_rows(source, field)
        elif source.suffix == ".jsonl":
            yield from _json_rows(source, field)
        else:
            yield source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{source}, line {line} is not UTF-8: {error}") from error
    except pa.ArrowException as error:
        raise RequestError(f"{source} is damaged or no Parquet file: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise RequestError(f"{source} cannot be read: {error.strerror or error}") from error


def checked_text(value: Any, field: str, where: str) -> str:
    """The value of a row's field, if it is text that UTF-8 can write. where: the row, for the RequestError."""
    if not isinstance(value, str):
        raise RequestError(f"{where}: the field `{field}` is {json.dumps(value, default=str)[:40]}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{where}: the field `{field}` holds half a surrogate pair, which is no character"
        ) from error
    return value


def _json_rows(source: Path, field: str) -> Iterator[str]:
    with source.open("rb") as file:  # lines by "\n" alone: JSON holds U+2028 and its like as they are
        for number, line in enumerate(file, 1):
            where = f"{source}, line {number}"
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode())[field]
            except UnicodeDecodeError as error:
                raise RequestError(f"{where} is not UTF-8: {error}") from error
            except (ValueError, KeyError, TypeError) as error:
                raise RequestError(f"{where}: not a JSON object with a field `{field}`") from error
            yield checked_text(value, field, where)


def _parquet_rows(source: Path, field: str) -> Iterator[str]:
    with pq.ParquetFile(source) as file:
        columns = file.schema_arrow.names
        if field not in columns:
            raise RequestError(f"{source} has no column `{field}`; it has {', '.join(columns)}")
        number = 0
        for batch in file.iter_batches(columns=[field]):
            for value in batch.column(0):
                number += 1
                where = f"{source}, row {number}"
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:
                    raise RequestError(f"{where} is not UTF-8: {error}") from error
                yield checked_text(text, field, where)
