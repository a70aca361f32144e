"""The fault matrix: every command on every file of its input, damaged in every way.

`python -m tests.faults [SHARE] [SEED] [FROM]` runs a share of all cells, in the order of the seed and from the one of
this number on, prints the wrong ones, and exits with 1 if there are any. A cell is right if the command ends with 0, or
with 2, one printable line on stderr and nothing written.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.cli import main
from tests.runs import World, make_world, run

Fault = Callable[[Path], None]
"""Damages a file in place."""
MOST_CHARACTERS = 1000
"""Length of the longest message that counts as one line."""
MANY = 200
"""Cells between two lines of progress."""


def writing(content: bytes | Callable[[bytes], bytes]) -> Fault:
    """A fault that replaces the content of a file. content: the new bytes, or a function of the old ones."""

    def damage(file: Path) -> None:
        file.write_bytes(content if isinstance(content, bytes) else content(file.read_bytes()))

    return damage


def replacing(make: Callable[[Path], None] | None = None) -> Fault:
    """A fault that removes a file and puts something else in its place."""

    def damage(file: Path) -> None:
        file.unlink()
        if make is not None:
            make(file)

    return damage


NONE = "undamaged"
FAULTS: dict[str, Fault] = {
    "missing": replacing(),
    "a folder": replacing(Path.mkdir),
    "a link to itself": replacing(lambda file: file.symlink_to(file)),
    "empty": writing(b""),
    "cut": writing(lambda content: content[: len(content) // 2]),
    "binary": writing(bytes(range(256)) * 8),
    "byte order mark": writing(lambda content: b"\xef\xbb\xbf" + content),
    "a list": writing(b"[1, 2]"),
    "a number": writing(b"7"),
    "an empty object": writing(b"{}"),
    "nested": writing(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
}
"""Faults of any file, by name."""
VALUES: tuple[Any, ...] = (None, -1, 10**30, 1.5, "x\x1b[31m", [], {}, [[]], True)
"""What replaces a value in a JSON file."""


def values_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of the values in a JSON value; of a list the first two."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from values_in(item, (*path, key))


def changing(path: Sequence[Any], new: Any) -> Fault:
    """A fault that changes the value at a path in a JSON file. new: `...` removes it."""

    def changed(content: bytes) -> bytes:
        whole = inner = json.loads(content)
        for key in path[:-1]:
            inner = inner[key]
        if new is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = new
        return json.dumps(whole).encode()

    return writing(changed)


def changes_of(file: Path) -> dict[str, Fault]:
    """Each value of a JSON file removed, or replaced by another, often of another type."""
    return {
        f"{'.'.join(map(str, path))} {'removed' if new is ... else f'= {new!r}'}": changing(path, new)
        for path in values_in(json.loads(file.read_text(encoding="utf-8")))
        for new in (..., *VALUES)
    }


@dataclass(frozen=True)
class Input:
    """A folder and the commands that read it: words with {input} and {out}. changed: files with a schema."""

    folder: Path
    commands: Sequence[tuple[str, ...]]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One command on one damaged file."""

    input: Input
    command: tuple[str, ...]
    file: str
    fault: str
    damage: Fault

    def __str__(self) -> str:
        return f"{self.command[0]} of {self.input.folder.name}, {self.file}: {self.fault}"


def make_inputs(world: World, folder: Path) -> list[Input]:
    """A model folder of every kind, runs with and without a pointer, an export, a result, a benchmark."""
    text = folder / "text.txt"
    text.write_text("Ann Lee was born in Lima.\nShe studied music.\n" * 4, encoding="utf-8")
    export, push = ("export", "{input}", "{out}"), ("push", "{input}", "o/n", "--dry-run")
    measured = ("eval", "{input}", "--out", "{out}", "--perplexity", f"en={text}")
    planned = ("plan", "{input}")
    small = ("--data", str(text), "--steps", "1", "--batch-size", "2", "--seq-length", "8")
    upscaled = ("upscale", "{input}", "{out}", "--by", "width", "--hidden", "8", "--ffn", "8")

    def trained(method: str) -> tuple[str, ...]:
        return ("train", "{input}", "{out}", "--method", method, *small)

    runs = {}
    for method in ("scale-route", "lora", "fft"):
        runs[method] = run(world.source(method), folder / f"run-{method}", world.recipe(method)).folder
    assert main(["export", str(runs["scale-route"]), str(folder / "exported")]) == 0
    for number, kind in enumerate(("plain", "width")):
        words = [
            "eval",
            f"{kind}={world.checkpoint('llama', kind)}",
            "--out",
            str(folder / "results"),
            "--perplexity",
            f"en={text}",
        ]
        assert main(words) == 0, number
    reported = ("report", "{input}", "--stability", "perplexity:en=perplexity", "--plasticity")
    reports = [(*reported, "perplexity:en=bits_per_byte", "--format", each) for each in ("text", "html", "json", "csv")]
    record = folder / "bench" / "results.json"
    record.parent.mkdir()
    shutil.copy(Path(__file__).parents[1] / "benchmarks" / "records" / "bios-demo.json", record)
    _shorten(record)
    return [
        Input(world.checkpoint("llama"), [planned, upscaled, trained("fft"), measured, export], ("config.json",)),
        Input(
            world.checkpoint("llama", "width"),
            [trained("scale-preserve"), measured, export, push],
            ("config.json", "upscale.json"),
        ),
        Input(world.checkpoint("llama", "depth"), [trained("llama-pro"), export], ("upscale.json",)),
        Input(runs["scale-route"], [trained("scale-route"), measured, export, push], ("trained.json", "record.json")),
        Input(runs["lora"], [trained("lora"), export], ("trained.json", "record.json")),
        Input(runs["fft"], [export, push], ("record.json",)),
        Input(folder / "exported", [export, push], ("export.json", "upscale.json")),
        Input(folder / "results" / "plain", reports, ("result.json",)),
        Input(record.parent, [("report", "{input}", "--format", each) for each in ("text", "html")], ("results.json",)),
    ]


def _shorten(record: Path) -> None:
    """Keep two results and one panel of a benchmark's record, with two curves of two points."""
    fields = json.loads(record.read_text(encoding="utf-8"))
    fields["results"], fields["curves"] = fields["results"][:2], fields["curves"][:1]
    for panel in fields["curves"]:
        panel["series"] = {
            label: {seed: points[:2] for seed, points in runs.items()}
            for label, runs in list(panel["series"].items())[:2]
        }
    record.write_text(json.dumps(fields), encoding="utf-8")


def cells_of(inputs: Sequence[Input]) -> list[Cell]:
    """All cells of the matrix."""
    cells = []
    for each in inputs:
        files = sorted(path.name for path in each.folder.iterdir() if path.is_file())
        cells += [Cell(each, command, files[0], NONE, lambda file: None) for command in each.commands]
        for file in files:
            faults = FAULTS | (changes_of(each.folder / file) if file in each.changed else {})
            cells += [Cell(each, c, file, name, fault) for name, fault in faults.items() for c in each.commands]
    return cells


def wrong(cell: Cell, folder: Path) -> str | None:
    """Why the end of a cell's command is wrong, None if it is right. folder: an empty one for its input and output."""
    damaged, out = folder / "input", folder / "out"
    shutil.copytree(cell.input.folder, damaged, symlinks=True)
    cell.damage(damaged / cell.file)
    if cell.input.folder.name.startswith("run-"):  # the pointer to the base is relative
        _point_to_base(cell.input.folder, damaged)
    words = [word.format(input=damaged, out=out) for word in cell.command]
    printed, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = main(words)
    except Exception as error:  # a traceback
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "scale_cli" in frame.filename]
        return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {type(error).__name__}: {str(error)[:200]}"
    message = errors.getvalue().strip().rpartition("\n")[2]
    if code == 0:
        return "escapes on stdout" if "\x1b" in printed.getvalue() else None
    if cell.fault == NONE:
        return f"exit {code}: {message}"
    if code != 2 or not message.startswith("scale: ") or not message.isprintable() or len(message) > MOST_CHARACTERS:
        return f"exit {code}, {len(message)} characters: {message[:200]!r}"
    return f"{out} was written" if out.exists() else None


def _point_to_base(run: Path, damaged: Path) -> None:
    """Let a copy's pointer name the base of the run, unless the fault is in the pointer's base."""
    pointers = [run / "trained.json", damaged / "trained.json"]
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        original, copied = (json.loads(pointer.read_text(encoding="utf-8")) for pointer in pointers)
        if copied.get("base") == original["base"]:
            base = str((run / original["base"]).resolve())
            pointers[1].write_text(json.dumps(copied | {"base": base}), encoding="utf-8")


def _run(share: float = 1.0, seed: float = 0, start_at: float = 0) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "world").mkdir()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cells = cells_of(make_inputs(make_world(root / "world"), root))
        chosen = random.Random(int(seed)).sample(cells, round(share * len(cells)))[int(start_at) :]
        start, faulty = time.monotonic(), []
        for number, cell in enumerate(chosen, int(start_at)):
            if number % MANY == 0:
                print(f"{number} cells, {time.process_time():.0f} CPU s", file=sys.stderr, flush=True)
            (folder := root / f"cell-{number}").mkdir()
            if (reason := wrong(cell, folder)) is not None:
                faulty.append(cell)
                print(f"{cell}\n    {reason.replace(str(folder), '')}", flush=True)
            shutil.rmtree(folder)
    counts = Counter(f"{cell.command[0]}" for cell in chosen)
    print(f"{len(chosen)} of {len(cells)} cells, {len(faulty)} wrong, {time.monotonic() - start:.0f} s; {dict(counts)}")
    return int(bool(faulty))


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  (an offline process)

    sys.exit(_run(*map(float, sys.argv[1:])))
