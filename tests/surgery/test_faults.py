"""Faults during an upscaling: full or read-only disks, unreadable files, signals at any moment.

Each ends with at most one line, and leaves nothing or the complete result.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from scale_cli.checkpoints import storage
from scale_cli.surgery import depth, upscale, verify, width
from tests.helpers import base_folder
from tests.processes import start
from tests.surgery.interrupted import interrupt

RunCli = Callable[..., Any]
ENDING = "; mend that or choose another folder"
MOMENTS = ("copying", "adding", "shards", "proving")
WAYS = {"width": ("--by", "width", "--hidden", 8), "depth": ("--by", "depth", "--layers", 5)}


def mount(folder: Path, options: str) -> bool:
    """Mount an in-memory file system at `folder`, if this process is allowed to."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def disk_that_fills(folder: Path, *, small: bool) -> Iterator[Callable[[], None]]:
    """Makes a folder and gives a function after which it takes nothing more.

    small: it is a small file system of its own, where one may be mounted; otherwise no file may grow any more.
    """
    folder.mkdir()
    mounted = small and mount(folder, "size=4m")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        if mounted:
            with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))

    try:
        yield fill
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def after(module: Any, name: str, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `do` before every call of a module's function."""
    function = getattr(module, name)

    def first(*words: Any, **keywords: Any) -> Any:
        do()
        return function(*words, **keywords)

    monkeypatch.setattr(module, name, first)


@pytest.mark.parametrize(
    ("moment", "way", "small"),
    list(zip([*MOMENTS, *reversed(MOMENTS)], cycle(WAYS), [True, True, False, False] * 2, strict=False)),
)
def test_a_disk_that_fills(
    way: str, moment: str, small: bool, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, disk = base_folder(tmp_path / "base"), tmp_path / "disk"
    module: Any = width if way == "width" else depth
    with disk_that_fills(disk, small=small) as fill:
        if moment == "copying":
            after(module, "base_name", fill, monkeypatch)
        elif moment == "proving":
            after(verify, "compare", fill, monkeypatch)
        else:
            after(module, {"width": "write_expansion", "depth": "write_blocks"}[way], fill, monkeypatch)
            if moment == "shards":
                monkeypatch.setattr(storage, "SHARD_BYTES", 1000)
        ended = run_cli("upscale", base, disk / "new" / "out", *WAYS[way])
        left = [path.name for path in disk.iterdir()]
    assert (ended.code, ended.stdout) == (2, "")
    line = ended.stderr.splitlines()[-1]
    reason = line.removeprefix(f"scale: {disk}/new/out cannot be written: ").removesuffix(ENDING)
    assert reason in ("No space left on device", "File too large")
    assert left in ([], ["filler"])


def test_a_disk_too_small_is_refused_before_anything_is_written(run_cli: RunCli, tmp_path: Path) -> None:
    """With sizes that exceed every disk, so that no small disk is needed."""
    words = ("--by", "width", "--hidden", 30_000_000, "--init", "random")
    ended = run_cli("upscale", base_folder(tmp_path / "base"), tmp_path / "out", *words)
    assert (ended.code, ended.stdout) == (2, "")
    found = re.fullmatch(
        rf"scale: {tmp_path}/out: (\S+) GB are needed and (\S+) GB are free there; make room or choose another "
        r"folder\n",
        ended.stderr,
    )
    assert found
    assert float(found[1]) > 1e6
    assert float(found[2]) == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.2)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("way", WAYS)
def test_the_needed_bytes_are_the_written_ones(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, asked = base_folder(tmp_path / "base"), []
    module = importlib.import_module("scale_cli.surgery.upscale")  # the package's own word for it is the function
    monkeypatch.setattr(module, "require_room", lambda folder, needed, **_: asked.append(needed))
    arguments: dict[str, Any] = {"by": "width", "hidden": 8} if way == "width" else {"by": "depth", "layers": 5}
    upscale(str(base), tmp_path / "out", verify=False, **arguments)
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert asked[0] == pytest.approx(written, rel=0.1)  # but for the new headers, large beside so small a model


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that refuses files: on a read-only mount, or one that the system forbids if mounting is not allowed."""
    if mount(folder, "ro"):
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    elif os.geteuid() == 0:
        yield Path("/sys")
    else:
        folder.chmod(0o555)
        yield folder


def test_a_read_only_disk(run_cli: RunCli, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    with read_only(tmp_path / "disk") as disk:
        ended = run_cli("upscale", base, disk / "out", *WAYS["width"])
        assert not (disk / "out").exists()
    assert (ended.code, ended.stdout) == (2, "")
    reason = ended.stderr.removeprefix(f"scale: {disk}/out cannot be written: ").removesuffix(f"{ENDING}\n")
    assert reason in ("Read-only file system", "Permission denied", "Operation not permitted")


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("/proc/nothing/out", "No such file or directory (/proc/nothing)"),
        ("/dev/null/out", "Not a directory"),
        ("BASE/config.json/out", "Not a directory"),
        ("BASE/" + 300 * "x", "File name too long"),
        ("BASE/new/" + 250 * "x", "File name too long"),  # with the temporary folder's ending only
    ],
)
def test_a_parent_that_takes_nothing(out: str, reason: str, run_cli: RunCli, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    before = sorted(base.iterdir())
    out = out.replace("BASE", str(base))
    ended = run_cli("upscale", base, out, *WAYS["depth"])
    line = f"scale: {out} cannot be written: {reason}{ENDING}\n"
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", line)
    assert sorted(base.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "BASE/config.json cannot be read: Input/output error; mend that, or fetch it again"),
        (
            "model.safetensors",
            "BASE/model.safetensors cannot be read: No such device (os error 19); mend that, or fetch it again",
        ),
        (
            "model.safetensors.index.json",
            "BASE/model.safetensors.index.json cannot be read: Input/output error; mend that, or fetch it again",
        ),
    ],
)
def test_a_file_of_the_base_that_cannot_be_read(name: str, message: str, run_cli: RunCli, tmp_path: Path) -> None:
    """A file that opens, and fails on reading."""
    base, out = base_folder(tmp_path / "base", shard="20KB" if "index" in name else "1GB"), tmp_path / "out"
    (base / name).unlink()
    (base / name).symlink_to("/proc/self/mem")
    ended = run_cli("upscale", base, out, *WAYS["width"])
    assert (ended.code, ended.stdout) == (2, "")
    line = message.replace("BASE", str(base)).replace("OUT", str(out))
    assert ended.stderr.splitlines()[-1] == f"scale: {line}"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_base_that_is_changed_meanwhile(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(tmp_path / "base")
    file = base / "model.safetensors"
    after(width, "write_expansion", lambda: os.truncate(file, 5000), monkeypatch)
    ended = run_cli("upscale", base, tmp_path / "out", *WAYS["width"])
    line = f"scale: {file} ends too early: it has changed since it was opened; fetch it again\n"
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", line)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_signals_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL and SIGTERM before every step in the folder and at some times: whole or nothing; what a kill leaves goes
    with the next call. `tests.surgery.interrupted` checks each and counts."""
    (tmp_path / "work").mkdir()
    code, printed, messages = start(interrupt, tmp_path / "work", folder=tmp_path / "process").wait()
    assert code == 0, messages
    killed, terminated = json.loads(printed).values()
    assert killed["nothing"] > 20
    assert killed["abandoned"] > 20
    assert terminated["nothing"] > 20
    assert min(killed["whole"], terminated["whole"]) > 0
