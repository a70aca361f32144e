"""Files that are either whole or not there: new folders and small text files, and values in their JSON form."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scale_cli.errors import RequestError


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` to write into; it becomes `out` when the block ends well.

    On any exception, Ctrl-C included, nothing stays behind. An empty folder at `out` is taken over.
    Raises RequestError if `out` is a file, a folder that holds something, or cannot be created.
    """
    target = out.resolve()
    if target.is_dir() and any(target.iterdir()):
        raise RequestError(f"{out} already holds files; choose a new or an empty folder")
    if target.exists() and not target.is_dir():
        raise RequestError(f"{out} is a file; choose a new or an empty folder")
    new_parents = [parent for parent in target.parents if not parent.exists()]
    temporary = _temporary(target)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise RequestError(f"{out} cannot be created: {error.strerror}; choose another folder") from error
    try:
        yield temporary
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in new_parents:
                parent.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file at once: a reader sees the old file or the new one, never a part."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def plain(value: Any) -> Any:
    """A value in builtins, as JSON and YAML know them: dataclasses become dicts, tuples lists, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def to_json(value: Any) -> str:
    """`value` as indented JSON with sorted keys. A number that is not finite, which JSON lacks, becomes null."""
    finite = json.loads(json.dumps(plain(value)), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, sort_keys=True, ensure_ascii=False)
