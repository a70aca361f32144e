"""The request of a training run: its checks, before anything heavy is loaded, and its resolved recipe."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch
from transformers.integrations.integration_utils import get_available_reporting_integrations

from scale_cli.checkpoints.card import CARD
from scale_cli.checkpoints.companion_files import check_companions
from scale_cli.checkpoints.load import Checkpoint, check, config_of, tokenizer_folder
from scale_cli.checkpoints.schemas import RECORD, read_pointer
from scale_cli.core.errors import RequestError
from scale_cli.core.files import contents
from scale_cli.core.recipe import load_recipe, values_of
from scale_cli.core.versions import EXTRAS, install_extra
from scale_cli.data.biographies import check_people
from scale_cli.data.examples import DEFAULT_LENGTH, Examples, check_data
from scale_cli.data.sources import split_weight
from scale_cli.data.windows import context_of
from scale_cli.methods import METHODS
from scale_cli.training.choice import best_folders
from scale_cli.training.recipe import TrainRecipe, parse_eval_people
from scale_cli.training.resume import RECIPE, checkpoints, last_checkpoint
from scale_cli.training.source import KIND_NAMES, find_checkpoint

FREE_ON_RESUME = ("data", "tokens_cache", "eval_bios", "eval_text", "save_steps", "save_minutes", "keep", "report_to")
"""Keys that may change when a run is resumed: paths, because folders move, and keys without effect on the result."""


def check_request(
    source: str, out: Path, recipe: TrainRecipe, *, resume: bool, revision: str | None = None
) -> tuple[Checkpoint, TrainRecipe]:
    """The checkpoint and the resolved recipe. Nothing heavy is loaded.

    Raises RequestError for contradictory arguments.
    """
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true"):
            raise RequestError(
                f"launched with {name}: launch without it, as torchrun or accelerate launch --multi_gpu; --shard of "
                "scale train spreads the model over the processes (FSDP2)"
            )
    if recipe.shard and not METHODS[recipe.method].shards:
        able = ", ".join(name for name, method in METHODS.items() if method.shards)
        raise RequestError(f"--shard: --method {recipe.method} needs the whole model in every process; able are {able}")
    if recipe.shard and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise RequestError("--shard: there is one process; start several, as in torchrun --nproc_per_node 8")
    checkpoint = find_checkpoint(source, out, from_scratch=recipe.from_scratch, resume=resume, revision=revision)
    method = METHODS[recipe.method]
    if checkpoint.kind not in method.needs:
        needed = {
            "width": "a width-upscaled checkpoint; make one with: scale upscale BASE OUT --by width --hidden N",
            "depth": "a depth-upscaled checkpoint; make one with: scale upscale BASE OUT --by depth --layers N",
            "plain": "a checkpoint that is not upscaled",
        }[method.needs[0]]
        given = f"{source} is {KIND_NAMES[checkpoint.kind]}"
        others = ", ".join(name for name, other in METHODS.items() if checkpoint.kind in other.needs)
        raise RequestError(
            f"--method {recipe.method}: {given}; the method needs {needed}; methods for this one: {others}"
        )
    recipe = resolve(recipe, checkpoint)
    if recipe.seq_length is not None:
        check_length(recipe.seq_length, checkpoint)
    check_data(recipe)
    for text in recipe.eval_people:
        check_people(eval_folder(recipe), parse_eval_people(text)[1])
    trackers = get_available_reporting_integrations()
    if missing := [name for name in recipe.report_to if name not in trackers]:
        advice = install_extra(missing[0]) if missing[0] in EXTRAS else f"installed: {', '.join(trackers) or 'none'}"
        raise RequestError(f"--report-to {missing[0]}: not installed; {advice}")
    check_out(out, recipe, checkpoint, resume=resume)
    if recipe.from_scratch:
        check_companions(tokenizer_folder(checkpoint))
    else:
        check(checkpoint)
    return checkpoint, recipe


def check_out(out: Path, recipe: TrainRecipe, checkpoint: Checkpoint, *, resume: bool) -> None:
    """Raise RequestError for a folder that a run cannot be written to, or from which it cannot be resumed."""
    if resume:
        _check_resumable(out, recipe, checkpoint)
    elif contents(out) or (out.exists() and not out.is_dir()):
        raise RequestError(f"{out} already holds files; choose a new or an empty folder, or --resume")


def check_length(length: int, checkpoint: Checkpoint) -> None:
    """Raise RequestError for sequences that are longer than the model's context, or too short to predict anything."""
    most = context_of(config_of(checkpoint))
    if most is not None and length > most:
        raise RequestError(f"--seq-length {length}: {checkpoint.source} takes {most} tokens at most")
    if length < 2:
        raise RequestError(f"--seq-length {length}: at least 2, as the first token of a sequence is not predicted")


def check_same_inputs(resume_from: Path, out: Path, checkpoint: Checkpoint, base: str, examples: Examples) -> None:
    """Raise RequestError if a run is resumed from another base or on other data than it was started with.

    base: the fingerprint of the base. Checkpoints of earlier versions do not hold the fingerprints.
    """
    pointer = read_pointer(resume_from)
    if pointer.get("base_fingerprint") not in (None, base):
        raise RequestError(
            f"--resume: {out} was started from another checkpoint than {checkpoint.source} is now; give that one"
        )
    for (source, digest), before in zip(examples.fingerprints.items(), pointer.get("data") or (), strict=False):
        if digest != before:
            raise RequestError(
                f"--resume: {out} was started with other texts than --data {source} holds now; give those"
            )


def resolve(recipe: TrainRecipe, checkpoint: Checkpoint) -> TrainRecipe:
    """The recipe with those defaults filled in that depend on method, checkpoint and machine.

    None remains where it means "all" or "never", for the token cache's default folder, and for the length of questions,
    whose default is the longest question. Steps that follow from the data are filled in once it is read, by
    `TrainRecipe.with_steps`.
    """
    bfloat16 = recipe.precision == "bfloat16"
    if recipe.precision == "auto":
        bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    resolved = dataclasses.replace(
        recipe,
        lr=recipe.learning_rate,
        rehearse_weight=None if recipe.rehearse is None else recipe.rehearsal_weight,
        options=METHODS[recipe.method].resolve(recipe.options, config_of(checkpoint)),
        precision="bfloat16" if bfloat16 else "float32",
        seq_length=recipe.seq_length or (default_length(checkpoint) if recipe.objective == "lm" else None),
        eval_bios=eval_folder(recipe) if recipe.eval_people else recipe.eval_bios,
    )
    return resolved if recipe.amount else resolved.with_steps(recipe.steps)


def default_length(checkpoint: Checkpoint) -> int:
    """The default length of sequences of text: `DEFAULT_LENGTH`, or the model's context if that is shorter."""
    return min(DEFAULT_LENGTH, context_of(config_of(checkpoint)) or DEFAULT_LENGTH)


def _check_resumable(out: Path, recipe: TrainRecipe, checkpoint: Checkpoint) -> None:
    if out.is_dir() and all(path.name.endswith(".partial") for path in contents(out)):
        return  # killed before its recipe was written
    if (out / RECORD).is_file() and (out / CARD).is_file() and not passing_folders(out):
        raise RequestError(f"--resume: the run in {out} is finished; train from it, or choose another folder")
    if last_checkpoint(out) is None and not (out / RECIPE).is_file():
        raise RequestError(f"--resume: {out} holds no run that was begun; train without --resume")
    first = load_recipe(TrainRecipe, out / RECIPE, {})
    if first.method == recipe.method:
        first = resolve(first, checkpoint)
    before, now = values_of(first), values_of(recipe)
    free = FREE_ON_RESUME if recipe.amount is None else (*FREE_ON_RESUME, *TrainRecipe.one_of, "warmup")
    for name in ("method", *now):
        if name not in free and before[name] != now[name]:
            raise RequestError(
                f"--resume: {out} was started with {name} {before[name]}, not {now[name]}; give the same options"
            )
    weights, first_weights = ([split_weight(source)[1] for source in each.data] for each in (recipe, first))
    if weights != first_weights:
        raise RequestError(
            f"--resume: {out} was started with data {','.join(first.data)}, not {','.join(recipe.data)}; give the same "
            "number of sources with the same weights (their paths may change)"
        )


def passing_folders(out: Path) -> list[Path]:
    """The folders in a run folder that a finished run does not have: its checkpoints and best steps."""
    return [*checkpoints(out), *best_folders(out)]


def eval_folder(recipe: TrainRecipe) -> Path:
    """The gen-bios folder of `eval_people`: `eval_bios`, or the training data."""
    return recipe.eval_bios or Path(split_weight(recipe.data[0])[0]).expanduser()
