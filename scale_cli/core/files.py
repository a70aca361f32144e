"""Files that are either whole or not there: new folders and small text files; values in their JSON form; the cache."""

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
    """The folder for files that can be made again: $SCALE_CACHE, or else ~/.cache/scale."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "scale").expanduser()


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` to write into; it becomes `out` when the block ends well.

    On any exception, Ctrl-C included, nothing stays behind; what a killed process has left is removed by the next call
    for the same `out`. An empty folder at `out` is taken over. Nothing is forced onto the disk: this guards against
    what may happen to a process, and after a power cut the work is done again, as after one during a plain copy.
    Raises RequestError if `out` is a file, a folder that holds something, or cannot be created or written to: what the
    system says to anything in the block, a full disk first of all, becomes one.
    """
    target = Path(os.path.realpath(out))
    temporary = _temporary(target)
    with _system_errors_told(out, target, temporary):
        if target.is_mount():  # nothing can be renamed to it
            raise RequestError(f"{out} is where a disk is mounted; choose a folder in it")
        if target.is_dir() and any(target.iterdir()):
            raise RequestError(f"{out} already holds files; choose a new or an empty folder")
        if os.path.lexists(target) and not target.is_dir():  # or a link to itself
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
    """Raise RequestError where the disk of `folder` has less room than needed. name: what to call the folder."""
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise RequestError(
            f"{name}: {needed_bytes / 1e9:.3g} GB are needed and {free_bytes / 1e9:.3g} GB are free there; make room "
            "or choose another folder"
        )


@contextlib.contextmanager
def _system_errors_told(out: Path, *its_paths: Path) -> Iterator[None]:
    """What the system says while `out` is written, as a RequestError that also names any file but `its_paths`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's but a library's own: no mistake in the request
            raise
        file = "" if error.filename is None else str(error.filename)
        about = f" ({file})" if file and not any(Path(file).is_relative_to(path) for path in its_paths) else ""
        raise RequestError(
            f"{out} cannot be written: {error.strerror}{about}; mend that or choose another folder"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file at once: a reader sees the old file or the new one, never a part."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial"


def _remove_abandoned(target: Path) -> None:
    """Remove the temporary folders for `target` of processes of this machine that are gone."""
    pattern = re.compile(rf"{re.escape(f'.{target.name}.{socket.gethostname()}.')}(\d{{1,9}})\.partial")
    for folder in target.parent.iterdir() if target.parent.is_dir() else ():
        found = pattern.fullmatch(folder.name)
        if found and not _is_running(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether another process has this id; one that had ours is gone."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        pass
    return True


def plain(value: Any) -> Any:
    """A value in builtins, as JSON and YAML have them: dataclasses become dicts, tuples lists, paths text."""
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


def to_json(value: Any) -> str:
    """`value` as indented JSON with sorted keys. A number that is not finite, which JSON lacks, becomes null."""
    finite = json.loads(json.dumps(plain(value)), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, sort_keys=True, ensure_ascii=False)
