"""Atomic writing of folders and text files, JSON conversion of values, and the location of the cache."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from filelock import FileLock, Timeout

from scale_cli.core.errors import RequestError

CACHE_VARIABLE = "SCALE_CACHE"
LOCK = ".lock"
"""The file by which a process holds a folder that it writes to."""
Fields = TypeVar("Fields")
INLINE = "inline"
"""In a dataclass field's metadata: the field holds a dataclass whose fields stand beside the others when written."""


def expand_home(words: str) -> str:
    """The text with the home folder for `~` at the beginning of a path: at its start, behind `=` and behind a comma."""
    return re.sub(r"(^|[=,])(~[^/,]*)", lambda found: found[1] + os.path.expanduser(found[2]), words)


def shortest_ends(paths: Sequence[Sequence[str]], separator: str) -> list[str] | None:
    """The ends of paths that tell all of them apart, with as few parts as possible; None if two are equal.

    paths: the parts of each, as in `Path.parts`. separator: between two parts of an end.
    """
    for depth in range(1, max(map(len, paths)) + 1):
        ends = [separator.join(parts[-depth:]) for parts in paths]
        if len(set(ends)) == len(ends):
            return ends
    return None


def default_cache() -> Path:
    """The default folder for data that can be recomputed: $SCALE_CACHE if set, else ~/.cache/scale."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "scale").expanduser()


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` to write into. It is renamed to `out` when the block ends without an exception.

    On any exception, Ctrl-C included, the temporary folder is removed. The leftovers of a killed process are removed by
    the next call for the same `out`. An empty folder at `out` is replaced. There is no fsync: the rename protects
    against a killed process, not against a power cut.
    Raises RequestError if `out` is a file, a folder with content or a mount point, or cannot be created or written.
    Every OSError of the operating system inside the block, such as a full disk, becomes a RequestError.
    """
    target = Path(os.path.realpath(out))
    temporary = _temporary(target)
    with _system_errors_as_request_errors(out, target, temporary):
        if target.is_mount():  # a rename onto a mount point fails
            raise RequestError(f"{out} is a mount point; choose a folder inside it")
        if contents(target):
            raise RequestError(f"{out} already holds files; choose a new or an empty folder")
        if os.path.lexists(target) and not target.is_dir():  # a link to itself is neither file nor folder
            raise RequestError(f"{out} is a file; choose a new or an empty folder")
        new_parents = [parent for parent in target.parents if not parent.exists()]
        _remove_abandoned(target)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in new_parents:
                with contextlib.suppress(OSError):
                    parent.rmdir()
            raise


def contents(folder: Path) -> list[Path]:
    """The files and folders in `folder`, except the lock of a process that writes there. Empty if it does not exist."""
    return [path for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []


def check_inside(file: Path, folder: Path) -> None:
    """Raise RequestError if a file of a model folder is a link that leads out of it.

    What it leads to would be copied and published. The hub's cache, whose snapshots are links to its blobs, is allowed.
    """
    real, root = file.resolve(), folder.resolve()
    blobs = root.parent.parent / "blobs"
    if not (real.is_relative_to(root) or (root.parent.name == "snapshots" and real.is_relative_to(blobs))):
        raise RequestError(f"{file} is a link to a file outside of {folder}; replace it by the file, or remove it")


@contextlib.contextmanager
def only_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder`, which is created, as the only process that writes there; the system frees it if the process ends.

    wait: for another process that holds it. If nothing was written, `folder` is removed again.
    Raises RequestError if another process holds it and `wait` is False, and if it cannot be written.
    """
    existed = folder.exists()
    with _system_errors_as_request_errors(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=wait)
        except Timeout as error:
            raise RequestError(
                f"{folder} is being written by another process; wait for it, or choose another folder"
            ) from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


def require_room(folder: Path, needed_bytes: int, *, name: Path) -> None:
    """Raise RequestError if the disk of `folder` has less than `needed_bytes` free. name: the message's subject."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise RequestError(
            f"{name}: {needed_bytes / 1e9:.3g} GB are needed and {free_bytes / 1e9:.3g} GB are free there; make room "
            "or choose another folder"
        )


@contextlib.contextmanager
def _system_errors_as_request_errors(out: Path, *own_paths: Path) -> Iterator[None]:
    """Turn the operating system's errors into RequestErrors that also name the file, if it is outside `own_paths`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the operating system
            raise
        file = "" if error.filename is None else str(error.filename)
        suffix = f" ({file})" if file and not any(Path(file).is_relative_to(path) for path in own_paths) else ""
        raise RequestError(
            f"{out} cannot be written: {error.strerror}{suffix}; mend that or choose another folder"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically: a reader gets the old file or the new one, never a part."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def as_a_new_file(file: Path) -> None:
    """Give a file the permissions that new files have here. safetensors gives its files to their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise a RequestError that names `file` for an OSError inside the context."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror or error}; mend that, or fetch it again") from error


@overload
def read_json(file: Path) -> dict[str, Any]: ...
@overload
def read_json(file: Path, schema: type[Fields]) -> Fields: ...
def read_json(file: Path, schema: Any = dict[str, Any]) -> Any:
    """The object in a JSON file that a command was given, or that lies in a folder that it was given.

    schema: a TypedDict with the types of those fields that are read; others may be there and are kept.
    Raises RequestError, which names the file, if it cannot be read, does not hold one object, or a field has another
    type.
    """
    try:
        with reading(file):
            value = json.loads(file.read_text(encoding="utf-8"))
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} is damaged: it is not JSON ({error}); fetch or make it again") from error
    if not isinstance(value, dict):
        raise RequestError(f"{file} is damaged: it does not hold an object of JSON; fetch or make it again")
    try:
        check_fields(value, schema)
    except ValueError as error:
        raise RequestError(f"{file} is damaged: {error}; restore it, or make it again") from error
    return value


def check_fields(value: Any, schema: Any) -> None:
    """Raise ValueError unless a JSON object has the types of a TypedDict. Fields that it does not have are allowed."""
    _validated(schema, value, strict=True)


def parsed(cls: type[Fields], value: Any) -> Fields:
    """The object of a dataclass in a JSON value. Raises ValueError if a field is missing, unknown or of another type.

    The dataclass forbids unknown fields by `__pydantic_config__`.
    """
    read: Fields = _validated(cls, value, strict=False)
    return read


def _validated(schema: Any, value: Any, *, strict: bool) -> Any:
    """The value as pydantic reads it. The message of a ValueError names the first wrong field."""
    from pydantic import ValidationError

    try:
        return _adapter(schema).validate_python(value, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = "the field is missing" if first["type"] == "missing" else first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"{field}: {reason}" if field else reason) from None


@functools.cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial"


def _remove_abandoned(target: Path) -> None:
    """Remove temporary folders for `target` whose process on this machine has ended."""
    pattern = re.compile(rf"{re.escape(f'.{target.name}.{socket.gethostname()}.')}(\d{{1,9}})\.partial")
    for folder in target.parent.iterdir() if target.parent.is_dir() else ():
        match = pattern.fullmatch(folder.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process_id: int) -> bool:
    """Whether another process has this id. An earlier process with this process's own id has ended."""
    if process_id == os.getpid():
        return False
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        pass
    return True


def plain(value: Any) -> Any:
    """The value as builtins, for JSON and YAML: dataclasses become dicts, tuples become lists, paths become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = plain(getattr(value, field.name))
            fields |= item if field.metadata.get(INLINE) else {field.name: item}
        return fields
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def to_json(value: Any, *, sort_keys: bool = True) -> str:
    """`value` as indented JSON. NaN and infinite numbers become null."""
    finite = json.loads(json.dumps(plain(value)), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, sort_keys=sort_keys, ensure_ascii=False)
