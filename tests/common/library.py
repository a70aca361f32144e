"""The library's own tests for models, imported from its source distribution or from a checkout of its repository.

Nothing of them is copied into this repository. The source distribution contains `tests/test_modeling_common.py`, while
`tests/generation` and `tests/exporters` are in a checkout only; without them their mixins are empty.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import transformers

import tests

MIXINS = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}
"""The modules that `test_modeling_common` imports and the source distribution lacks, and the class taken from each."""
REQUIREMENT = "parameterized"
"""The package that the library's tests import beyond our own requirements."""
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def download(cache: Path) -> Path:
    """The unpacked source distribution of the installed release, in the folder `cache`; downloaded if missing."""
    version = transformers.__version__
    source = cache / f"transformers-{version}"
    if not source.is_dir():
        options = ["--no-deps", "--no-binary", "transformers", "--dest", str(cache)]
        subprocess.run([*PIP, "download", *options, f"transformers=={version}"], check=True)
        with tarfile.open(cache / f"transformers-{version}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return source


def install_requirement(cache: Path) -> Path:
    """The folder, in `cache`, in which `REQUIREMENT` is installed; installed if missing."""
    packages = cache / "packages"
    if not (packages / REQUIREMENT).is_dir():
        subprocess.run([*PIP, "install", "--target", str(packages), REQUIREMENT], check=True)
    return packages


def missing_modules(source: Path) -> list[str]:
    """The modules of `MIXINS` that the folder `source` lacks."""
    return [name for name in MIXINS if not (source / "tests" / f"{name.replace('.', '/')}.py").is_file()]


def load(source: Path, packages: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """The library's modules `tests.test_modeling_common` and `tests.generation.test_utils`.

    source: a folder with the library's package `tests`, whose files are found beside those of our package `tests`.
    packages: a folder with `REQUIREMENT`.
    """
    sys.path.append(str(packages))
    tests.__path__ = [*tests.__path__, str(source / "tests")]
    for name in missing_modules(source):
        for part in (name.partition(".")[0], name):
            stand_in = types.ModuleType(f"tests.{part}")
            stand_in.__path__ = []
            sys.modules.setdefault(stand_in.__name__, stand_in)
        setattr(sys.modules[f"tests.{name}"], MIXINS[name], type(MIXINS[name], (), {}))
    return importlib.import_module("tests.test_modeling_common"), importlib.import_module("tests.generation.test_utils")
