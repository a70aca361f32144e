"""New folders are whole or not there; values keep their meaning in JSON."""

import dataclasses
import json
from pathlib import Path

import pytest

from scale_cli.errors import RequestError
from scale_cli.files import new_folder, plain, to_json, write_text


def test_new_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "weights").write_text("1")
        assert folder.parent == out.parent
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "weights").read_text() == "1"


def test_new_folder_takes_over_an_empty_one_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").exists()


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_new_folder_leaves_nothing_behind(tmp_path: Path, exception: type[BaseException]) -> None:
    def write_half() -> None:
        with new_folder(tmp_path / "made" / "too" / "out") as folder:
            (folder / "half").touch()
            raise exception

    with pytest.raises(exception):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_refuses_what_is_there(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("kept")
    with pytest.raises(RequestError, match="full already holds files; choose"), new_folder(full):
        pass
    with pytest.raises(RequestError, match="file is a file"), new_folder(full / "file"):
        pass
    with pytest.raises(RequestError, match="cannot be created: Not a directory"), new_folder(full / "file" / "out"):
        pass
    assert (full / "file").read_text() == "kept"
    assert [path.name for path in full.iterdir()] == ["file"]


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
        where: Path
        values: tuple[float, ...]

    point = Point(Path("a/b"), (1.5, float("inf"), float("nan")))
    assert plain({"point": point}) == {"point": {"where": "a/b", "values": [1.5, float("inf"), point.values[2]]}}
    assert json.loads(to_json({"z": point, "a": "가"})) == {
        "a": "가",
        "z": {"where": "a/b", "values": [1.5, None, None]},
    }
    assert to_json({"b": 1, "a": "가"}) == '{\n  "a": "가",\n  "b": 1\n}'
