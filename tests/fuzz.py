"""Fuzzing of every file that is read: `python -m tests.fuzz [EXECUTIONS]` prints target, executions and findings.

Hypothesis damages a valid file in random places, or replaces it. Reading it may succeed or raise RequestError; any
other exception is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import data_gen
from scale_cli.bench.bios import BiosRecipe
from scale_cli.bench.continual_recipe import ContinualRecipe
from scale_cli.checkpoints.load import config_of, describe
from scale_cli.checkpoints.schemas import read_export, read_pointer, read_run, read_upscale
from scale_cli.checkpoints.storage import stored_tensors, weight_files
from scale_cli.cli import main as scale
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe
from scale_cli.data.biographies import manifest_digest, read_biographies, read_questions
from scale_cli.data.texts import read_texts
from scale_cli.evaluation.suites import load_suite
from scale_cli.results.result import read_results
from scale_cli.training import TrainRecipe
from scale_cli.training.resume import metric_lines
from tests.runs import World, make_world, run

PIECES = [b"null", b"-1", b"[]", b"{}", b"1e999", b"NaN", b'"', b"\n", b": ", b"- ", b"\x00", b"\xff", b"\xef\xbb\xbf"]
PIECES += [
    b"9" * 40,
    b"&a [*a]",
    b"!!python/object:os.system x",
    b"!function x.y",
    b"\x1b[31m",
    b"../",
    b"\xe2\x80\xa8",
]
"""What is put into files: values, brackets, and bytes that mean something in one of the formats."""


@dataclass(frozen=True)
class Target:
    """A file of a folder, and the function that reads it from there."""

    folder: Path
    file: str
    read: Callable[[Path], object]

    @property
    def name(self) -> str:
        return f"{self.folder.name}/{self.file}"


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with one to four spans replaced by pieces, or anything else."""
    place = st.integers(0, len(content))
    piece = st.sampled_from(PIECES) | st.binary(max_size=8)
    edits = st.lists(st.tuples(place, st.integers(0, 40), piece), min_size=1, max_size=4)

    def edited(spans: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for start, length, new in spans:
            changed = changed[:start] + new + changed[start + length :]
        return changed

    return edits.map(edited) | st.binary(max_size=64)


def targets(folder: Path, model: Path, run: Path, exported: Path, result: Path) -> list[Target]:
    """Every kind of file that is read. model: a widened checkpoint. run: a finished run of one."""
    texts, recipes, bios = folder / "texts", folder / "recipes", folder / "bios"
    texts.mkdir()
    recipes.mkdir()
    rows = [{"text": f"text {number}", "id": number} for number in range(4)]
    (texts / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    (texts / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (texts / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (texts / "a.csv").write_text('text,id\n"one, two",1\nthree,2\n', encoding="utf-8")
    pa.parquet.write_table(pa.Table.from_pylist(rows), texts / "a.parquet")
    data_gen.generate(bios, people=2, bios=1, seed=0, workers=1)
    recipe = "method: lora\nlora_r: 4\ndata: [a.txt:0.5, b.txt:0.5]\nsteps: 3\nlr: 1.0e-3\neval_text: [en=a.txt]\n"
    (recipes / "train.yaml").write_text(recipe, encoding="utf-8")
    presets = Path(sys.modules["scale_cli.bench"].__path__[0]) / "presets"
    for bench in ("bios", "korean"):
        (recipes / f"{bench}.yaml").write_bytes((presets / bench / "demo.yaml").read_bytes())
    suite = "title: t\ntasks:\n- {task: arc_challenge, metric: acc_norm}\nnum_fewshot: 0\n"
    (recipes / "suite.yaml").write_text(suite, encoding="utf-8")
    reads: list[tuple[Path, str, Callable[[Path], object]]] = [
        *((texts, file.name, lambda path: list(read_texts([path]))) for file in sorted(texts.iterdir())),
        (bios, "biographies.parquet", lambda path: read_biographies(path.parent)),
        (bios, "questions.parquet", lambda path: read_questions(path.parent)),
        (bios, "manifest.json", lambda path: read_questions(path.parent)),
        (bios, "manifest.json", lambda path: manifest_digest(path.parent)),
        (recipes, "train.yaml", lambda path: load_recipe(TrainRecipe, path, {})),
        (recipes, "bios.yaml", lambda path: load_recipe(BiosRecipe, path, {})),
        (recipes, "korean.yaml", lambda path: load_recipe(ContinualRecipe, path, {})),
        (recipes, "suite.yaml", load_suite),
        (model, "config.json", lambda path: config_of(describe(str(path.parent)))),
        (model, "upscale.json", lambda path: read_upscale(path.parent)),
        (model, "base-model.safetensors", lambda path: stored_tensors({path: None})),
        (model, "model.safetensors.index.json", lambda path: weight_files(path.parent)),
        (run, "trained.json", lambda path: read_pointer(path.parent)),
        (run, "record.json", lambda path: read_run(path.parent)),
        (run, "recipe.yaml", lambda path: load_recipe(TrainRecipe, path, {})),
        (run, "metrics.jsonl", metric_lines),
        (exported, "export.json", lambda path: read_export(path.parent)),
        (result, "result.json", lambda path: read_results([path.parent])),
    ]
    return [Target(*each) for each in reads]


def fuzz(target: Target, executions: int, folder: Path) -> list[str]:
    """The findings: exceptions that are no RequestError, with a smallest file that raises each."""
    content = (target.folder / target.file).read_bytes()
    copy = folder / "copy"
    copy.mkdir()
    for file in target.folder.iterdir():
        if file.is_file() and file.name != target.file:
            (copy / file.name).symlink_to(file)
    findings: dict[str, str] = {}

    @settings(
        max_examples=executions,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(damaged(content))
    def attempt(changed: bytes) -> None:
        (copy / target.file).write_bytes(changed)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                target.read(copy / target.file)
        except RequestError:
            pass
        except Exception as error:
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "tests" not in frame.filename]
            own = next(frame for frame in reversed(ours) if "site-packages" not in frame.filename)
            where = f"{Path(own.filename).name}:{own.lineno} {type(error).__name__}"
            findings.setdefault(where, f"{str(error)[:100]}; {changed[:300]!r}")

    attempt()
    return [f"{error}\n    {example}" for error, example in findings.items()]


def inputs(world: World, root: Path) -> list[Target]:
    """The targets, of a tiny world and of files that are made in `root`."""
    done = run(world.source("scale-route"), root / "run", world.recipe("scale-route")).folder
    assert scale(["export", str(done), str(root / "exported")]) == 0
    (root / "text.txt").write_text("Ann Lee was born in Lima.\n", encoding="utf-8")
    words = ["eval", f"m={done}", "--out", str(root / "results"), "--perplexity", f"en={root / 'text.txt'}"]
    assert scale(words) == 0
    return targets(root, world.checkpoint("llama", "width"), done, root / "exported", root / "results" / "m")


def main() -> int:
    import tests.conftest  # noqa: F401  (an offline process)

    executions = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rows, found = [], False
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            (Path(name) / "world").mkdir()
            chosen = inputs(make_world(Path(name) / "world"), Path(name))
        for number, target in enumerate(chosen):
            (folder := Path(name) / f"fuzz-{number}").mkdir()
            findings = fuzz(target, executions, folder)
            rows.append({"target": target.name, "executions": executions, "findings": len(findings)})
            for finding in findings:
                found = True
                print(f"{target.name}: {finding}", file=sys.stderr, flush=True)
    print(pd.DataFrame(rows).to_string(index=False))
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
