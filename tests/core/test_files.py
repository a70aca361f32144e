"""New folders appear complete or not at all; values convert to JSON."""

import dataclasses
import errno
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.core.files import default_cache, new_folder, plain, require_room, to_json, write_text
from tests.helpers import refusal


def test_new_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "weights").write_text("1")
        assert folder.parent == out.parent
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "weights").read_text() == "1"


def test_new_folder_replaces_an_empty_one_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").exists()


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_new_folder_leaves_nothing_behind(tmp_path: Path, exception: type[BaseException]) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "new" / "parent" / "out") as folder:
            (folder / "half").touch()
            raise exception

    with pytest.raises(exception):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_refuses_existing_files(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("kept")
    with pytest.raises(RequestError, match="full already holds files; choose"), new_folder(full):
        pass
    with pytest.raises(RequestError, match="file is a file"), new_folder(full / "file"):
        pass
    with pytest.raises(RequestError, match="cannot be written: Not a directory; mend"), new_folder(full / "file/out"):
        pass
    (full / "loop").symlink_to("loop")
    with pytest.raises(RequestError, match="loop is a file"), new_folder(full / "loop"):
        pass
    (full / "loop").unlink()
    for mounted in ("/", "/proc"):
        with pytest.raises(RequestError, match=f"^{mounted} is a mount point"), new_folder(Path(mounted)):
            pass
    assert (full / "file").read_text() == "kept"
    assert [path.name for path in full.iterdir()] == ["file"]


def test_errors_of_the_operating_system_are_request_errors(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"

    def fail(error: Exception) -> None:
        with new_folder(out) as folder:
            (folder / "half").touch()
            raise error

    for error, reason in (
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/other/file"), "Permission denied (/other/file)"),
    ):
        assert refusal(fail, error) == f"{out} cannot be written: {reason}; mend that or choose another folder"
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r"^raised by a library$"):  # without an errno: a bug, not a request
        fail(OSError("raised by a library"))
    assert list(tmp_path.iterdir()) == []


def test_new_folder_removes_leftovers_of_ended_processes(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    names = {
        f".out.{host}.{ended.pid}.partial": False,
        f".out.{host}.{os.getpid()}.partial": False,  # left by an earlier process with this id
        f".out.{host}.{os.getppid()}.partial": True,
        f".out.another-{host}.{ended.pid}.partial": True,
        f".other.{host}.{ended.pid}.partial": True,
        f".out.{host}.{ended.pid}.partial.mine": True,
        f".out.{host}.{10**12}.partial": True,  # not a process id
    }
    for name in names:
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").touch()
    with new_folder(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(name for name, stays in names.items() if stays)}


def test_room(tmp_path: Path) -> None:
    require_room(tmp_path, 1, name=Path("out"))
    with pytest.raises(RequestError, match=r"^out: 1e\+06 GB are needed and \S+ GB are free there; make room or"):
        require_room(tmp_path, 10**15, name=Path("out"))


def test_write_text_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "한국어")
    assert path.read_text(encoding="utf-8") == "한국어"
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "한국어"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_plain_and_json() -> None:
    @dataclasses.dataclass
    class Point:
        path: Path
        values: tuple[float, ...]

    point = Point(Path("a/b"), (1.5, float("inf"), float("nan")))
    assert plain({"point": point}) == {"point": {"path": "a/b", "values": [1.5, float("inf"), point.values[2]]}}
    assert json.loads(to_json({"z": point, "a": "가"})) == {
        "a": "가",
        "z": {"path": "a/b", "values": [1.5, None, None]},
    }
    assert to_json({"b": 1, "a": "가"}) == '{\n  "a": "가",\n  "b": 1\n}'


def test_the_default_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("SCALE_CACHE", raising=False)
    assert default_cache() == Path("/home/someone/.cache/scale")
    monkeypatch.setenv("SCALE_CACHE", "~/data")
    assert default_cache() == Path("/home/someone/data")
