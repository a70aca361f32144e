"""Tiny packages as on an index: a wheel or an sdist of given files, and its entry for the table."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from scale_cli.core.records import sha256_file
from scale_cli.material.packages import Package

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny-data"
version = "1.0"
[tool.setuptools]
packages = []
"""


def wheel(folder: Path, files: dict[str, bytes], *, members: tuple[str, ...] = ("tiny_data/*",)) -> Package:
    """Write tiny-data 1.0 as a wheel with these files into a folder."""
    file = folder / "tiny_data-1.0-py3-none-any.whl"
    metadata = {
        "METADATA": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
        "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": b"",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (files | {f"tiny_data-1.0.dist-info/{k}": v for k, v in metadata.items()}).items():
            archive.writestr(name, content)
    return _entry(file, members)


def sdist(folder: Path, files: dict[str, bytes], *, members: tuple[str, ...] = ("*/data/*",)) -> Package:
    """Write tiny-data 1.0 as an sdist with these files into a folder."""
    file = folder / "tiny_data-1.0.tar.gz"
    metadata = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
        "pyproject.toml": PROJECT.encode(),
    }
    with tarfile.open(file, "w:gz") as archive:
        for name, content in (metadata | files).items():
            about = tarfile.TarInfo(f"tiny_data-1.0/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return _entry(file, members)


def _entry(file: Path, members: tuple[str, ...]) -> Package:
    return Package("tiny-data", "1.0", file.name, sha256_file(file), "none", members)
