"""The checkpoint that a run starts from, and the recipe of a request, with the method for its kind by default.

Importing this does not import torch, so a mistake in the options is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scale_cli.checkpoints.load import Checkpoint, describe
from scale_cli.checkpoints.schemas import POINTER, read_pointer
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe
from scale_cli.methods import DEFAULT_METHOD, default_method
from scale_cli.training.recipe import TrainRecipe
from scale_cli.training.resume import last_checkpoint

KIND_NAMES = {"plain": "not upscaled", "width": "width-upscaled", "depth": "depth-upscaled"}


def load_request(
    source: str,
    out: Path,
    file: Path | None,
    given: Mapping[str, Any],
    *,
    resume: bool = False,
    revision: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainRecipe:
    """The recipe of a run, as `load_recipe` reads it. Without a method it has the default one for `source`.

    say: called with a line on the default method. Raises RequestError as `load_recipe` and `check_request`.
    """
    chosen = []

    def complete(values: dict[str, Any]) -> dict[str, Any]:
        if "method" in values:
            return values
        method, reason = DEFAULT_METHOD, "for --from-scratch"
        if not values.get("from_scratch"):
            kind = find_checkpoint(source, out, from_scratch=False, resume=resume, revision=revision).kind
            method, reason = default_method(kind), f"as {source} is {KIND_NAMES[kind]}"
        chosen.append(f"--method {method}, {reason}")
        return values | {"method": method}

    recipe = load_recipe(TrainRecipe, file, given, complete=complete)
    for line in chosen:
        say(line)
    return recipe


def find_checkpoint(source: str, out: Path, *, from_scratch: bool, resume: bool, revision: str | None) -> Checkpoint:
    """The checkpoint to train; of a hub id the commit on which a resumed run was started."""
    commit = _commit_of(last_checkpoint(out)) if resume and not Path(source).exists() else None
    checkpoint = describe(source, from_scratch=from_scratch, revision=revision or commit)
    if commit is not None and checkpoint.revision != commit:
        raise RequestError(
            f"--revision {revision}: {out} was started on commit {commit} of {source}; leave --revision out"
        )
    return checkpoint


def _commit_of(run: Path | None) -> str | None:
    """The commit of the hub id that a run's checkpoint points to, None if it points to a folder."""
    return read_pointer(run).get("revision") if run is not None and (run / POINTER).is_file() else None
