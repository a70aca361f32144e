"""`scale doctor`: checks hardware, packages and hub access, with advice for missing parts."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from scale_cli.cli.output import AsJson, say, show
from scale_cli.core.records import hardware
from scale_cli.core.versions import EXTRAS, TESTED, install_extra, package_version, untested

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of one check. advice: what to do if something is missing or could be better."""

    name: str
    found: str
    status: Literal["ok", "note", "missing"] = "ok"
    advice: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: hardware, packages and hub access, with advice for missing parts."""
    checks = [
        Check("Python", platform.python_version()),
        *_packages(_requirements()),
        *_devices(),
        *_machine(),
        *_hub(),
    ]
    from rich.table import Table

    table = Table("", "found", "", "what to do")
    for check in checks:
        table.add_row(check.name, check.found, check.status, check.advice)
    show({"checks": checks}, table, as_json=as_json)
    missing = [check.name for check in checks if check.status == "missing"]
    say(f"missing: {', '.join(missing)}" if missing else "nothing is missing")


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
        yield _cpu_bfloat16(getattr(torch.cpu, "get_capabilities", dict)())  # missing in torch 2.8
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


def _cpu_bfloat16(capabilities: Mapping[str, Any]) -> Check:
    """Whether the processor has bfloat16 instructions. Without them bfloat16 is slower than float32."""
    instructions = [name for name in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(name)]
    if not instructions:
        return Check("bfloat16", "not on this CPU", "note", "train in float32, which is the default")
    advice = "--precision bfloat16 trains large models faster"
    return Check("bfloat16", f"on this CPU ({instructions[0]})", "note", advice)


def _machine() -> Iterator[Check]:
    machine = hardware()
    yield Check("CPU", f"{machine['cpu']}, {machine['cores']} cores")
    yield Check("memory", f"{machine['memory_bytes'] / GIB:.0f} GiB")
    yield Check("disk", f"{shutil.disk_usage(Path.cwd()).free / GIB:.0f} GiB free here")


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
