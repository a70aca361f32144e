"""Atomic writing of folders and text files, JSON conversion of values, and the location of the cache."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError

CACHE_VARIABLE = "SCALE_CACHE"
INLINE = "inline"
"""In a dataclass field's metadata: the field holds a dataclass whose fields stand beside the others when written."""


def expand_home(words: str) -> str:
    """The text with the home folder for `~` at the beginning of a path: at its start, behind `=` and behind a comma."""
    return re.sub(r"(^|[=,])(~[^/,]*)", lambda found: found[1] + os.path.expanduser(found[2]), words)


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
        if target.is_dir() and any(target.iterdir()):
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
