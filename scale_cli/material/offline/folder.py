"""A suite and its data in one folder, as `scale eval --suite FOLDER` takes it, and the harness's own command too.

    suite.yaml              which metric of which task is read
    tasks/*.yaml            what the harness runs: a definition of its own, or of ours, with the data beside it
    data/                   the items
    text/*.jsonl            held-out text for `scale eval --perplexity`, a document a line
    manifest.json           what it was made from; items, chance level, licence and sha256 of everything
    README.md               the same for a reader

Paths in tasks/ are absolute, as the harness wants them: a folder that has moved is built again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scale_cli.core.files import to_json, write_text
from scale_cli.core.records import sha256_file
from scale_cli.core.versions import package_version
from scale_cli.material.packages import Package

SPLITS = {
    "train": "training_split",
    "validation": "validation_split",
    "test": "test_split",
    "dev": "fewshot_split",
}
"""The splits of a data set by their names in the harness's definitions, and its word for what each is for."""

README = """\
# {title}

{about}

| task or text | items | chance | licence | source |
| --- | ---: | ---: | --- | --- |
{rows}

Chance is what guessing gets, in percent. `manifest.json` holds these numbers and the sha256 of every file. Made from
{packages} by

    scale fetch {item} {out}

To measure a checkpoint, by `scale` or by the harness's own command:

    scale eval CHECKPOINT --suite {out}{perplexity}
    lm_eval --model hf --model_args pretrained=CHECKPOINT --include_path {out}/tasks --tasks {tasks}

The files in `tasks/` name those in `data/` by their full paths: where the folder has moved, make it again.
"""


@dataclass(frozen=True)
class DataSet:
    """Items of one task, or documents of one held-out text.

    name: the task's, or the file's below text/, short of its suffix. chance: accuracy of guessing, None for text.
    source: what it is and where it comes from. numbers: what else is known of the items.
    """

    name: str
    items: int
    chance: float | None
    licence: str
    source: str
    numbers: Mapping[str, float | int] | None = None


def write_task(folder: Path, out: Path, name: str, definition: Path, data: Mapping[str, Path]) -> None:
    """Write `folder`/tasks/<name>.yaml: a definition, reading our data and nothing else.

    out: what `folder` will be when it is finished.
    definition: a task file of the harness; prompts, metrics, filters and version are its.
    data: file below `folder` of each split that is there, all .arrow or all .jsonl; the others are taken away.
    """
    (kind,) = {{".arrow": "arrow", ".jsonl": "json"}[file.suffix] for file in data.values()}
    there = os.path.realpath(out)
    task = {
        "include": str(definition),
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(Path(there, file)) for split, file in data.items()}},
        **{use: None for split, use in SPLITS.items() if split not in data},
    }
    _write_yaml(folder, name, task)


def write_group(folder: Path, name: str, definition: Path) -> None:
    """Write `folder`/tasks/<name>.yaml: a group of the harness as it is."""
    _write_yaml(folder, name, {"include": str(definition)})


def _write_yaml(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    file = folder / "tasks" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    write_text(file, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=1000))


def write_text_file(folder: Path, name: str, documents: Sequence[str]) -> None:
    """Write `folder`/text/<name>.jsonl: documents in random order, so that the first so many are a fair sample."""
    shuffled = random.Random(0).sample(documents, len(documents))
    write_lines(folder / "text" / f"{name}.jsonl", ({"text": text} for text in shuffled))


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL: an object a line, Korean left readable."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def finish(
    folder: Path,
    out: Path,
    *,
    item: str,
    suite: Path,
    about: str,
    packages: Sequence[Package],
    tasks: Sequence[DataSet],
    texts: Sequence[DataSet],
) -> None:
    """Add suite.yaml, manifest.json and README.md to a folder that holds tasks and data.

    item: the suite's word for `scale fetch`. suite: the file that becomes suite.yaml. about: for the README.
    """
    shutil.copyfile(suite, folder / "suite.yaml")
    title = yaml.safe_load(suite.read_text(encoding="utf-8"))["title"]
    sources = [{"name": p.name, "version": p.version, "file": p.file, "sha256": p.sha256} for p in packages]
    files = sorted(path for part in ("data", "text") for path in (folder / part).rglob("*") if path.is_file())
    manifest = {
        "suite": item,
        "packages": sources,
        "harness": package_version("lm_eval"),
        "tasks": tasks,
        "texts": texts,
        "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
    }
    write_text(folder / "manifest.json", to_json(manifest) + "\n")
    readme = README.format(
        title=title,
        about=about,
        rows="\n".join(f"| {' | '.join(_row(entry))} |" for entry in (*tasks, *texts)),
        item=item,
        out=out,
        packages=" and ".join(f"{p.name} {p.version}" for p in packages),
        perplexity="".join(f" --perplexity {entry.name}={out}/text/{entry.name}.jsonl" for entry in texts),
        tasks=",".join(entry.name for entry in tasks),
    )
    write_text(folder / "README.md", readme)


def _row(entry: DataSet) -> tuple[str, ...]:
    chance = "-" if entry.chance is None else f"{100 * entry.chance:.1f}"
    return (entry.name, f"{entry.items:,}", chance, entry.licence, entry.source)
