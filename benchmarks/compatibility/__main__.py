"""Does a widened checkpoint generate what it should on every release of transformers, with our package and without?

    $ python -m benchmarks.compatibility BASE --transformers 5.17.0,5.24.0

BASE: a folder of a model (SmolLM2: `scale fetch smollm2 FOLDER`). For each release a virtual environment
is made with torch, that transformers and accelerate, once without our package and once with it. In each, the base, the
freshly widened base under the three SCALE methods, and the same with random values in all that was added, generate
greedily: with a cache, without one, from left-padded prompts, with beams, with a static cache, with the base as
assistant. Right is, for a fresh model, the base's own text, and for the others their own text without a cache.

"old code" is the last of these folders with the model code of another commit (`--old-code COMMIT`), loaded with
our package.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.compatibility.probe import WAYS
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.records import write_record
from scale_cli.surgery import upscale

ROOT = Path(__file__).parents[2]
METHODS: dict[str, float | None] = {"preserve": None, "adapt": None, "route": 0.5}
"""The SCALE methods with the router's threshold."""
PRESERVED = 2
"""The bottom layers that do not collaborate."""


def main() -> None:
    """Read the command line, make folders and environments, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--transformers", default=version("transformers"), help="releases, separated by commas")
    parser.add_argument("--torch", default=version("torch").partition("+")[0])
    parser.add_argument("--old-code", help="a commit whose model code lies beside the weights of one more folder")
    parser.add_argument("--record", type=Path, help="write a record there")
    words = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = make_folders(words.base.resolve(), work / "folders")
        old = with_old_code(folders["route, random"], work / "old", words.old_code) if words.old_code else None
        for release in words.transformers.split(","):
            python = make_environment(work / f"transformers-{release}", torch=words.torch, transformers=release)
            bare = probe(python, words.base, folders.values(), work)
            rows += judged(release, "without", words.base, folders, bare, "transformers_modules.")
            pip(python, "--no-deps", "--no-build-isolation", str(ROOT))
            ours = probe(python, words.base, folders.values(), work)
            rows += judged(release, "with", words.base, folders, ours, "scale_cli.model.")
            if old is not None:
                loaded = probe(python, words.base, [old], work, module="scale_cli.model")
                rows += judged(release, "with", words.base, {"route, old code": old}, loaded, "scale_cli.model.")[1:]
    table = Table("transformers", "our package", "model", "class", "tokenizer", *WAYS)
    for row in rows:
        ways = ("right" if row[way] is True else str(row[way]) for way in WAYS)
        table.add_row(row["transformers"], row["package"], row["model"], row["class"], row["tokenizer"], *ways)
    Console(width=200).print(table)
    if words.record:
        command = f"python -m benchmarks.compatibility BASE --transformers {words.transformers}"
        command += f" --old-code {words.old_code}" if words.old_code else ""
        write_record(words.record, command=command, torch=words.torch, rows=rows)
    sys.exit(not all(row[way] is True for row in rows for way in WAYS))


def make_folders(base: Path, out: Path) -> dict[str, Path]:
    """The widened base under each method, fresh and with random values in all that was added, by name."""
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
    """Let the model compute by one of `METHODS`."""
    layers = [] if name == "preserve" else range(PRESERVED, model.config.num_hidden_layers)
    model.set_collaboration(layers, ("attention", "ffn") if layers else (), threshold=METHODS[name])


def save(model: Any, companions: Path, out: Path) -> Path:
    """Write the model by the library, and beside it the tokenizer of another folder."""
    model.save_pretrained(out)
    for file in companions.glob("*token*"):
        shutil.copy(file, out)
    return out


def with_old_code(folder: Path, out: Path, commit: str) -> Path:
    """The folder with the model code of another commit beside the weights, which are links."""
    out.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".py":
            continue
        (out / file.name).symlink_to(file)
    listed = git("ls-tree", "--name-only", commit, "scale_cli/model/").split()
    for path in listed:
        (out / Path(path).name).write_text(git("show", f"{commit}:{path}"), encoding="utf-8")
    (out / "__init__.py").unlink()
    return out


def git(*words: str) -> str:
    """What git prints, in this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def make_environment(folder: Path, **pins: str) -> str:
    """A virtual environment with these releases and accelerate. Returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip(python, *(f"{name}=={release}" for name, release in pins.items()), "accelerate", "setuptools")
    return python


def pip(python: str, *words: str) -> None:
    """`pip install`, silent unless it fails."""
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())


def probe(python: str, base: Path, folders: Any, work: Path, *, module: str | None = None) -> dict[str, Any]:
    """What `probe.py` finds in that environment, from a folder in which nothing of ours lies."""
    out = work / "found.json"
    script = shutil.copy(Path(__file__).with_name("probe.py"), work)
    words = [*map(str, folders), *(("--import", module) if module else ())]
    command = [python, str(script), str(out), str(base.resolve()), *words]
    subprocess.run(command, check=True, cwd=work)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def judged(
    release: str, package: str, base: Path, folders: dict[str, Path], seen: dict[str, Any], module: str
) -> list[dict[str, Any]]:
    """One row per model: for each way True, or what is wrong. module: what the class's module must start with."""
    found = seen["found"]
    of_base = found[str(base.resolve())]
    rows = []
    for name, folder in {"base": base.resolve(), **folders}.items():
        one = found[str(folder)]
        row: dict[str, Any] = {"transformers": release, "package": package, "model": name}
        row["class"] = one["class"].partition(".")[0]
        row["tokenizer"] = one["tokenizer"]
        for way, text in one["texts"].items():
            alike = "beams, uncached" if way.startswith("beams") else "uncached"
            right = text == (of_base["texts"][way] if name.endswith("fresh") else one["texts"][alike])
            row[way] = True if right else f"wrong: {text}"
        if name != "base" and not one["class"].startswith(module):
            row["cached"] = f"wrong class: {one['class']}"
        if one["tokenizer"] != of_base["tokenizer"]:
            row["cached"] = f"wrong tokenizer: {one['tokenizer']}"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
