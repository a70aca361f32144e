"""The checkpoints of an unfinished run: which of them is whole, and from which a run is resumed."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from scale_cli.core.errors import RequestError
from scale_cli.core.files import check_fields, read_json, reading, to_json, write_text
from scale_cli.core.records import sha256_file

METRICS, RECIPE = "metrics.jsonl", "recipe.yaml"
"""The files of a run with a line per logged step or measurement, and with its resolved recipe."""
SEAL = "files.json"
"""The file of a checkpoint with the sha256 of all others, written last."""


def seal(checkpoint: Path) -> None:
    """Write the sha256 of every file of a checkpoint into it, once all processes have written theirs."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != SEAL]
    digests = {path.relative_to(checkpoint).as_posix(): sha256_file(path) for path in files}
    write_text(checkpoint / SEAL, to_json(digests) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None if there is none."""
    return next((path for path in _newest_first(folder) if damaged_file(path) is None), None)


def damaged_checkpoints(folder: Path) -> dict[Path, str]:
    """The checkpoints that are newer than the newest whole one, with the name of a damaged or missing file of each."""
    last = step_of(last_checkpoint(folder))
    newer = [path for path in _newest_first(folder) if step_of(path) > last]
    return {path: damaged_file(path) or "" for path in newer}


def damaged_file(checkpoint: Path) -> str | None:
    """The name of a file that is missing or differs from what was written; None if the checkpoint is whole.

    A checkpoint without a seal, of an earlier version or a killed process, counts as whole if the file that the library
    writes last is.
    """
    files = [(str(path), path.stat()) for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    return _damaged_file(checkpoint, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))


@functools.lru_cache(maxsize=8)
def _damaged_file(checkpoint: Path, stamp: object) -> str | None:
    """The same, computed once. stamp: sizes and times of the files, which change with them."""
    try:
        if not (checkpoint / SEAL).exists():
            read_json(checkpoint / "trainer_state.json")
            return None
        digests = read_json(checkpoint / SEAL)
    except RequestError:
        return SEAL if (checkpoint / SEAL).exists() else "trainer_state.json"
    for name, digest in digests.items():
        file = checkpoint / name
        if not file.is_file() or sha256_file(file) != digest:
            return str(name)
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of an unfinished run, also damaged ones."""
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]


def step_of(checkpoint: Path | None) -> int:
    """The step at which a checkpoint was written, 0 for none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])


def drop_lines_after(file: Path, step: int) -> None:
    """Keep the lines of `metrics.jsonl` up to `step`. A run that resumes there writes the later ones again."""
    if not file.exists():
        return
    lines = zip(complete_lines(file), metric_lines(file), strict=True)
    write_text(file, "".join(line for line, values in lines if values["step"] <= step))


def metric_lines(file: Path) -> list[dict[str, float]]:
    """The objects in `metrics.jsonl`, as `complete_lines`. Raises RequestError for a damaged line, which it names."""
    lines = []
    for number, line in enumerate(complete_lines(file), start=1):
        try:
            lines.append(json.loads(line))
            check_fields(lines[-1], dict[str, float])
            lines[-1]["step"]
        except (ValueError, KeyError, RecursionError) as error:
            raise RequestError(f"{file}: line {number} is damaged; restore it, or train anew") from error
    return lines


def complete_lines(file: Path) -> list[str]:
    """The lines of `metrics.jsonl`, without a last one that a killed process has not finished."""
    try:
        with reading(file):
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is damaged: it is not UTF-8; restore it, or train anew") from error
    return [line for line in lines if line.endswith("\n")]


def _newest_first(folder: Path) -> list[Path]:
    return sorted(checkpoints(folder), key=step_of, reverse=True)
