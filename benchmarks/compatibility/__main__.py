"""Generation of widened checkpoints on several releases of transformers: `python -m benchmarks.compatibility BASE`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks.command import Result, run
from benchmarks.compatibility.probe import WAYS
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.errors import RequestError
from scale_cli.surgery import upscale

ROOT = Path(__file__).parents[2]
METHODS: dict[str, float | None] = {"preserve": None, "adapt": None, "route": 0.5}
"""The SCALE methods with the router's threshold."""
PRESERVED = 2
"""Number of bottom layers that do not collaborate."""
INSTALLED = {package: version(package).partition("+")[0] for package in ("transformers", "torch")}


def main(
    base: Annotated[Path, typer.Argument(help="Folder of a model.", metavar="BASE")],
    transformers: Annotated[str, typer.Option(help="Releases, separated by commas.")] = INSTALLED["transformers"],
    torch_release: Annotated[str, typer.Option("--torch", help="Release of torch.")] = INSTALLED["torch"],
    old_code: Annotated[
        str | None, typer.Option(help="Commit whose model code is put beside the weights of one more folder.")
    ] = None,
) -> Result:
    """Check that widened checkpoints generate correctly on releases of transformers, with this package and without.

    BASE is a folder of a model, such as `scale fetch smollm2` writes. Each release gets a virtual environment with
    torch, that transformers and accelerate, first without this package and then with it. In each environment the base,
    the freshly widened base under the three SCALE methods, and the same with random values in the expansion generate
    greedily: with a cache, without one, from left-padded prompts, with beams, with a static cache, and with the base as
    assistant. A fresh model must generate the base's own text; the others must generate their own text without a cache.
    The exit code is 1 if any does not.

    "old code" is the folder of random SCALE-Route with the model code of --old-code, loaded with this package.
    """
    if not base.is_dir():
        raise RequestError(f"{base}: no such folder; `scale fetch smollm2 {base}` writes one")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = make_folders(base.resolve(), work / "folders")
        old = with_old_code(folders["route, random"], work / "old", old_code) if old_code else None
        for release in transformers.split(","):
            python = make_environment(work / f"transformers-{release}", torch=torch_release, transformers=release)
            without = probe(python, base, folders.values(), work)
            rows += judged(release, "without", base, folders, without, "transformers_modules.")
            pip(python, "--no-deps", "--no-build-isolation", str(ROOT))
            installed = probe(python, base, folders.values(), work)
            rows += judged(release, "with", base, folders, installed, "scale_cli.model.")
            if old is not None:
                loaded = probe(python, base, [old], work, module="scale_cli.model")
                rows += judged(release, "with", base, {"route, old code": old}, loaded, "scale_cli.model.")[1:]
    table = Table("transformers", "our package", "model", "class", "tokenizer", *WAYS)
    for row in rows:
        ways = ("right" if row[way] is True else str(row[way]) for way in WAYS)
        table.add_row(row["transformers"], row["package"], row["model"], row["class"], row["tokenizer"], *ways)
    failed = not all(row[way] is True for row in rows for way in WAYS)
    return Result([table], {"torch": torch_release, "rows": rows}, width=200, exit_code=int(failed))


def make_folders(base: Path, out: Path) -> dict[str, Path]:
    """The widened base under each method, fresh and with random values in the expansion, by name."""
    out.mkdir()
    fresh = out / "fresh-preserve"
    upscale(str(base), fresh, by="width", hidden=64)
    folders = {"preserve, fresh": fresh}
    model = load_model(describe(str(fresh)))
    for name in ("adapt", "route"):
        set_method(model, name)
        folders[f"{name}, fresh"] = save(model, fresh, out / f"fresh-{name}")
    generator = torch.Generator().manual_seed(0)
    for name in METHODS:
        set_method(model, name)
        with torch.no_grad():
            for parameter in model.expansion.parameters():
                values = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.1 * values if parameter.ndim == 1 else 0.02 * values)
        folders[f"{name}, random"] = save(model, fresh, out / f"random-{name}")
    return folders


def set_method(model: Any, name: str) -> None:
    """Configure the model for one of `METHODS`."""
    layers = [] if name == "preserve" else range(PRESERVED, model.config.num_hidden_layers)
    model.set_collaboration(layers, ("attention", "ffn") if layers else (), threshold=METHODS[name])


def save(model: Any, companions: Path, out: Path) -> Path:
    """Save the model by the library, with the tokenizer of the folder `companions`."""
    model.save_pretrained(out)
    for file in companions.glob("*token*"):
        shutil.copy(file, out)
    return out


def with_old_code(folder: Path, out: Path, commit: str) -> Path:
    """A copy of the folder with the model code of another commit; the weights are links."""
    out.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".py":
            continue
        (out / file.name).symlink_to(file)
    for path in git("ls-tree", "--name-only", commit, "scale_cli/model/").split():
        (out / Path(path).name).write_text(git("show", f"{commit}:{path}"), encoding="utf-8")
    (out / "__init__.py").unlink()
    return out


def git(*arguments: str) -> str:
    """The output of git in this repository. Raises RequestError if it fails, as for an unknown commit."""
    completed = subprocess.run(["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True)
    if completed.returncode:
        raise RequestError(f"git {' '.join(arguments)} failed: {completed.stderr.strip()}")
    return completed.stdout


def make_environment(folder: Path, **pins: str) -> str:
    """Create a virtual environment with these releases and accelerate. Returns the path of its interpreter."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip(python, *(f"{name}=={release}" for name, release in pins.items()), "accelerate", "setuptools")
    return python


def pip(python: str, *arguments: str) -> None:
    """Run `pip install`. Raises CalledProcessError if it fails."""
    command = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())


def probe(
    python: str, base: Path, folders: Iterable[Path], work: Path, *, module: str | None = None
) -> dict[str, dict[str, Any]]:
    """The result of `probe.py` in that environment, by folder. Only that environment's packages can be imported."""
    out = work / "probed.json"
    script = shutil.copy(Path(__file__).with_name("probe.py"), work)
    arguments = [*map(str, folders), *(("--import", module) if module else ())]
    command = [python, "-I", str(script), str(out), str(base.resolve()), *arguments]
    subprocess.run(command, check=True, cwd=work)
    probed: dict[str, dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return probed


def judged(
    release: str, package: str, base: Path, folders: dict[str, Path], probed: dict[str, dict[str, Any]], module: str
) -> list[dict[str, Any]]:
    """One row per model: for each way True, or what is wrong. module: the required beginning of the class's module."""
    expected = probed[str(base.resolve())]
    rows = []
    for name, folder in {"base": base.resolve(), **folders}.items():
        actual = probed[str(folder)]
        row: dict[str, Any] = {"transformers": release, "package": package, "model": name}
        row["class"] = actual["class"].partition(".")[0]
        row["tokenizer"] = actual["tokenizer"]
        for way, text in actual["texts"].items():
            alike = "beams, uncached" if way.startswith("beams") else "uncached"
            right = text == (expected["texts"][way] if name.endswith("fresh") else actual["texts"][alike])
            row[way] = True if right else f"wrong: {text}"
        if name != "base" and not actual["class"].startswith(module):
            row["cached"] = f"wrong class: {actual['class']}"
        if actual["tokenizer"] != expected["tokenizer"]:
            row["cached"] = f"wrong tokenizer: {actual['tokenizer']}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.compatibility", sys.argv[1:]))
