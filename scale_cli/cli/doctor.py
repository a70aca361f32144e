"""`scale doctor`: checks hardware, packages and hub access, with advice for missing parts."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scale_cli.cli.output import AsJson, say, show
from scale_cli.core.errors import RequestError
from scale_cli.core.files import CACHE_VARIABLE, default_cache
from scale_cli.core.records import hardware
from scale_cli.core.versions import EXTRAS, TESTED, install_extra, package_version, untested

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of one check. advice: what to do if something is missing or could be better."""

    name: str
    found: str
    status: Literal["ok", "note", "missing", "broken"] = "ok"
    advice: str = ""


def doctor(
    self_test: Annotated[
        bool,
        typer.Option("--self-test/--no-self-test", help="Train a tiny widened model on each device."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check this machine for a bug report: hardware, packages, folders, hub access, and that a base is preserved."""
    packages = list(_packages(_requirements()))
    checks = [
        Check("Python", platform.python_version()),
        *packages,
        *_devices(),
        *_machine(),
        *_folders(),
        *_launch(),
        *_hub(),
    ]
    missing = [check.name for check in checks if check.status == "missing"]
    if self_test and not missing:
        checks += _preservation()
    from rich.table import Table

    table = Table("", "found", "", "what to do")
    as_required = [check for check in packages if check.status == "ok"]
    for check in [Check("packages", f"{len(as_required)} as required"), *(c for c in checks if c not in as_required)]:
        table.add_row(check.name, check.found, check.status, check.advice)
    show({"checks": checks}, table, as_json=as_json)
    say(f"missing: {', '.join(missing)}" if missing else "nothing is missing")
    if broken := [check.name for check in checks if check.status == "broken"]:
        raise RequestError(f"{', '.join(broken)}: training changed the base; report it")


def _requirements() -> list[str] | None:
    """The requirements of the installed package, as in pyproject.toml; None if it is not installed."""
    try:
        return importlib.metadata.requires("scale-cli")
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(requirements: list[str] | None) -> Iterator[Check]:
    if requirements is None:
        yield Check("scale-cli", "not installed", "missing", "make install")
    from packaging.requirements import Requirement

    outside = untested()
    for requirement in map(Requirement, requirements or ()):
        marker = requirement.marker
        extras = [] if marker is None else [extra for extra in EXTRAS if marker.evaluate({"extra": extra})]
        if marker and not extras and not marker.evaluate({"extra": ""}):
            continue
        name, version = requirement.name, package_version(requirement.name)
        if not version or not requirement.specifier.contains(version, prereleases=True):
            if extras:
                advice = f"optional, for {EXTRAS[extras[0]]}: {install_extra(extras[0])}"
                yield Check(name, version or "not installed", "note", advice)
            else:
                yield Check(name, version or "not installed", "missing", f"pip install '{requirement}'")
        elif name in outside:
            oldest, newest = TESTED[name]
            advice = f"tested with {oldest} to {newest}; if something fails: pip install '{name}=={newest}'"
            yield Check(name, version, "note", advice)
        else:
            yield Check(name, version)


def _devices() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch", f"cannot be imported: {error}", "missing", "make install")
        return
    if not torch.cuda.is_available():
        has_driver = shutil.which("nvidia-smi") is not None
        advice = "install a CUDA build of torch" if has_driver else "everything runs on the CPU, in float32"
        yield Check("GPU", "none usable by torch", "note", advice)
        yield _cpu_bfloat16()
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Check(f"GPU {index}", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        yield Check("bfloat16", "yes")
    else:
        yield Check("bfloat16", "not on this GPU", "note", "train in float32")
    if importlib.util.find_spec("flash_attn"):
        yield Check("flash-attn", package_version("flash-attn") or "yes")
    else:
        yield Check("flash-attn", "not installed", "note", "optional; without it torch's own attention is used")


def _cpu_bfloat16(capabilities: Mapping[str, Any] | None = None) -> Check:
    """Whether the processor has bfloat16 instructions. capabilities: as of `cpu_bfloat16`."""
    from scale_cli.training.guards import cpu_bfloat16

    instructions = cpu_bfloat16(capabilities)
    if instructions is None:
        return Check("bfloat16", "not on this CPU", "note", "train in float32, which is the default")
    advice = "--precision bfloat16 trains large models faster"
    return Check("bfloat16", f"on this CPU ({instructions})", "note", advice)


def _machine() -> Iterator[Check]:
    machine = hardware()
    yield Check("CPU", f"{machine['cpu']}, {machine['cores']} cores")
    yield Check("memory", f"{machine['memory_bytes'] / GIB:.0f} GiB")
    yield Check("disk", f"{shutil.disk_usage(Path.cwd()).free / GIB:.0f} GiB free here")


def _folders() -> Iterator[Check]:
    """Whether files can be written here and into the cache."""
    for name, folder in (("this folder", Path.cwd()), ("cache", default_cache())):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if os.access(there, os.W_OK | os.X_OK):
            yield Check(name, str(folder))
        else:
            advice = f"write elsewhere, or set {CACHE_VARIABLE}" if name == "cache" else "write elsewhere"
            yield Check(name, f"{folder} cannot be written", "note", advice)


def _launch() -> Iterator[Check]:
    """The variables by which a launcher or a shell sets processes and threads."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_ID")
    given = {name: os.environ[name] for name in names if name in os.environ}
    given |= {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_USE_")}
    yield Check("launch", ", ".join(f"{name}={value}" for name, value in given.items()) or "one process")


def _preservation() -> Iterator[Check]:
    """The self-test on the CPU and on every GPU, in float32 and in bfloat16 where the device computes in it."""
    import torch

    from scale_cli.checkpoints.libraries import quiet_libraries
    from scale_cli.training.self_test import STEPS, changed_logits

    quiet_libraries()
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        for dtype in (torch.float32, torch.bfloat16):
            base, whole = changed_logits(torch.device(device), dtype)
            name = f"base kept on {device}, {str(dtype).removeprefix('torch.')}"
            found = f"{base} of its logits and {whole:,} of the model's changed in {STEPS} steps"
            yield Check(name, found, "ok" if whole and not base else "broken")


def _hub() -> Iterator[Check]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Check("Hugging Face Hub", "HF_HUB_OFFLINE is set", "note", "give folders, or unset it to use hub ids")
    else:
        yield Check("Hugging Face Hub", "allowed")
    if os.environ.get("HF_TOKEN"):
        yield Check("hub token", "HF_TOKEN is set")
    else:
        yield Check(
            "hub token", "HF_TOKEN is not set", "note", "needed only for gated models; set it, or run: hf auth login"
        )
