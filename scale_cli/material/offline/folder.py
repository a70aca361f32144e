"""A suite and its data in one folder, for `scale eval --suite FOLDER` and for the harness's own command.

    suite.yaml              the tasks and the metric to read of each
    tasks/*.yaml            task definitions, the harness's own or ours, that read the data in this folder
    data/                   the items
    text/*.jsonl            held-out text for `scale eval --perplexity`, one document per line
    manifest.json           sources; items, chance level, licence and sha256 of everything
    README.md               the same for readers

Paths in tasks/ are absolute, as the harness requires. A folder that has moved must be made again.
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
"""The names of a dataset's splits, and the key for each in the harness's definitions."""

README = """\
# {title}

{about}

| task or text | items | chance | licence | source |
| --- | ---: | ---: | --- | --- |
{rows}

Chance is the accuracy of guessing, in percent. `manifest.json` holds these numbers and the sha256 of every file. Made
from {packages} by

    scale fetch {item} {out}

To measure a checkpoint, by `scale` or by the harness's own command:

    scale eval CHECKPOINT --suite {out}{perplexity}
    lm_eval --model hf --model_args pretrained=CHECKPOINT --include_path {out}/tasks --tasks {tasks}

The files in `tasks/` contain the absolute paths of those in `data/`: if the folder has moved, make it again.
"""


@dataclass(frozen=True)
class DataSet:
    """Items of one task, or documents of one held-out text.

    name: of the task, or of the file below text/ without its suffix. chance: accuracy of guessing, None for text.
    source: description and origin. numbers: further statistics of the items.
    """

    name: str
    items: int
    chance: float | None
    licence: str
    source: str
    numbers: Mapping[str, float | int] | None = None


def write_task(folder: Path, out: Path, name: str, definition: Path, data: Mapping[str, Path]) -> None:
    """Write `folder`/tasks/<name>.yaml: a definition that reads only the data in this folder.

    out: the final path of `folder`.
    definition: a task file of the harness, which gives prompts, metrics, filters and version.
    data: the file below `folder` of each split, all .arrow or all .jsonl. Other splits of the definition are removed.
    """
    (kind,) = {{".arrow": "arrow", ".jsonl": "json"}[file.suffix] for file in data.values()}
    root = os.path.realpath(out)
    task = {
        "include": str(definition),
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(Path(root, file)) for split, file in data.items()}},
        **{use: None for split, use in SPLITS.items() if split not in data},
    }
    _write_yaml(folder, name, task)


def write_group(folder: Path, name: str, definition: Path) -> None:
    """Write `folder`/tasks/<name>.yaml: a group of the harness, unchanged."""
    _write_yaml(folder, name, {"include": str(definition)})


def _write_yaml(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    file = folder / "tasks" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    write_text(file, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=1000))


def write_text_file(folder: Path, name: str, documents: Sequence[str]) -> None:
    """Write `folder`/text/<name>.jsonl: documents in random order, so that the first ones are a fair sample."""
    shuffled = random.Random(0).sample(documents, len(documents))
    write_lines(folder / "text" / f"{name}.jsonl", ({"text": text} for text in shuffled))


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL: one object per line, without escaping Korean."""
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
    """Add suite.yaml, manifest.json and README.md to a folder with tasks and data.

    item: the suite's name in `scale fetch`. suite: the file that becomes suite.yaml. about: text for the README.
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
