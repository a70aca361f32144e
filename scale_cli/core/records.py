"""Records of runs: measurements with their errors, environment, git state, fingerprints and peak memory."""

import contextlib
import datetime
import gc
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from scale_cli import __version__
from scale_cli.core.errors import printable
from scale_cli.core.files import to_json, write_text
from scale_cli.core.versions import package_version, untested

SCHEMA = 2
"""The version of the record's layout. It changes if a field's name or meaning changes. `scale_cli.results.schema1`
upgrades records of the first."""
READ = (1, SCHEMA)

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "safetensors", "lm_eval")


def write_record(path: Path, **fields: Any) -> None:
    """Write a run's record as JSON with sorted keys, atomically.

    fields: command, recipe, metrics, seconds and others by name; dataclasses, tuples and paths are converted, NaN and
    infinite numbers are written as null. `schema`, `created`, `environment` and `git` are added unless given.
    """
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"schema": SCHEMA, "created": created, "environment": environment(), "git": git_state()} | fields
    write_text(path, to_json(record) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """The fields of a record, whose texts are printable. Raises ValueError if the file is not a record or has an
    unknown schema."""
    record = _printable(json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(record, dict) or record.get("schema") not in READ:
        raise ValueError(f"{path} is not a record of schema {' or '.join(map(str, READ))}")
    return record


def _printable(value: Any) -> Any:
    """A JSON value with control characters in its texts as escapes."""
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def digest(value: Any) -> str:
    """The sha256 of a value's JSON form, as hex: equal values have the same."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions of Python and packages (null if missing), untested versions, and hardware. Imports no package."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"scale-cli": __version__} | {name: package_version(name) for name in PACKAGES},
        "untested": untested(),
        "hardware": hardware(),
    }


def hardware() -> dict[str, Any]:
    """CPU model, cores available to this process, memory, and GPU names if torch is already imported."""
    torch = sys.modules.get("torch")
    gpus = range(torch.cuda.device_count()) if torch else ()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": [torch.cuda.get_device_name(index) for index in gpus] if torch else [],
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state(package: Path = Path(__file__).parent) -> dict[str, Any]:
    """The package's git commit and whether the tree is clean; both null if git does not track the package.

    package: a folder with an `__init__.py`. That file is checked because a wheel installed inside another repository
    must not report that repository's commit.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").strip()
        return {"commit": commit, "clean": not _git(package, "status", "--porcelain")}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as hex; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_folder(folder: Path) -> str:
    """The fingerprint of a checkpoint folder, as hex. It depends on weights, config and tokenizer, not on the path.

    It is the sha256 over the lines `name sha256` of `*.safetensors`, `config.json` and `tokenizer.json`, by name.
    Raises ValueError if the folder has no `*.safetensors`.
    """
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no *.safetensors: there is no checkpoint to identify")
    others = [path for path in (folder / "config.json", folder / "tokenizer.json") if path.is_file()]
    lines = [f"{path.name} {sha256_file(path)}\n" for path in sorted(weights + others)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def forget_peak_memory() -> None:
    """Reset the peak of `peak_memory_bytes`, so that memory freed before this call does not count.

    Outside Linux only the CUDA peak is reset; the peak in RAM still counts from the start of the process.
    """
    gc.collect()  # reference cycles keep a finished run's model alive
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM


def peak_memory_bytes() -> int:
    """Peak memory of this process since `forget_peak_memory`, or since its start.

    If torch uses CUDA: memory allocated for tensors, summed over the devices. Otherwise: resident memory.
    """
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss inherits the parent process's peak
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
