"""Any checkpoint as an ordinary Hugging Face folder: the tensors of its runs put together with those of their base."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

from scale_cli import __version__
from scale_cli.checkpoints.card import EXPORT, UPSCALE, Form, write_card
from scale_cli.checkpoints.companions import copy_companions, keep_tokenizer_class, save_with_code
from scale_cli.checkpoints.load import (
    TRAINED_TENSORS,
    Checkpoint,
    describe,
    lineage,
    load_model,
    skeleton,
    trained_dtype,
    weights_folder,
)
from scale_cli.checkpoints.storage import INDEX, WEIGHTS, StoredTensor, stored_tensors, weight_files
from scale_cli.checkpoints.weights import Place, Progress, write_weights
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, require_room, to_json, write_text

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes to which an export casts, by name."""


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    form: upscaled by width or by depth, or a plain Hugging Face model.
    dtype: in which it loads, None if its config names none. parameters: a tied head counted once.
    size_bytes: of all its files. seconds: wall time.
    weights_sha256: of a base taken back, by weight file: "equal" to what was upscaled, "not recorded", or "written
        anew" if it was read from a file that held more than the base; None for any other export.
    """

    out: Path
    form: Form
    dtype: str | None
    parameters: int
    size_bytes: int
    seconds: float
    weights_sha256: dict[str, str] | None = None


def export(
    source: str,
    out: Path,
    *,
    dtype: str | None = None,
    name: str | None = None,
    progress: Progress = lambda done, total: None,
) -> ExportResult:
    """Write the checkpoint `source` as a whole Hugging Face folder that computes what it computes.

    source: a folder of any kind, a run or a checkpoint of an unfinished one, a hub id.
    dtype: "float32", "bfloat16" or "float16" for all weights; None keeps each as it is stored, and the folder loads in
        the dtype in which the run was evaluated.
    name: of the model in its card; None: the name of `out`.
    progress: called with tensors done and tensors in all.
    Tensors pass one at a time; only a model that a method merges, as LoRA's, is loaded as a whole.
    Raises RequestError for a checkpoint that cannot be exported; `out` does not exist then.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    start = time.perf_counter()
    checkpoint = describe(source)
    root, *runs = checkpoint.chain
    root_folder = weights_folder(root)
    model = skeleton(checkpoint)
    form: Form = checkpoint.kind
    with new_folder(out) as folder:
        merged = any(run.trained_by[0].merged for run in runs)
        tensors = None if merged else _places(checkpoint, root_folder, model)
        cast = None if dtype is None else DTYPES[dtype]
        if tensors is None:
            needed = model.num_parameters() * trained_dtype(checkpoint).itemsize
        else:
            needed = sum(place.stored.nbytes for place in tensors.values())
        require_room(folder, needed, name=out)
        others = _merged(checkpoint) if tensors is None else ()
        write_weights(folder, tensors or {}, dtype=cast, others=others, progress=progress)
        loads_in = dtype or (_name(trained_dtype(checkpoint)) if runs else None)
        stated = _write_config(folder, root_folder, form, model.config, loads_in)
        copy_companions(root_folder, folder)
        tokenizer_config = None
        if form == "width":
            tokenizer_config = keep_tokenizer_class(folder, model.config.build_base_config())
        _write_upscale(root_folder, folder, tokenizer_config)
        inherited, steps = lineage(checkpoint)
        record = {"history": steps, "dtype": dtype, "version": __version__}
        write_text(folder / EXPORT, to_json(record) + "\n")
        write_card(folder, name=name or out.resolve().name, form=form, source=inherited, steps=steps)
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return ExportResult(out, form, stated, model.num_parameters(), size_bytes, time.perf_counter() - start)


def _places(checkpoint: Checkpoint, root_folder: Path, model: Any) -> dict[str, Place] | None:
    """The place of each stored tensor of a checkpoint: in the last run that trained it, or else at the root.

    model: its skeleton.
    None if the root's files name tensors otherwise than the library writes them now, so that only the library can load
    them. Raises RequestError if a weight file is damaged or missing.
    """
    root, *runs = checkpoint.chain
    stored: dict[str, StoredTensor] = {}
    at_root: set[str] = set()
    if not any(run.from_scratch for run in runs):
        files = weight_files(root_folder)
        if not files:
            raise RequestError(f"{root.source} holds neither {WEIGHTS} nor {INDEX}: no weights to export")
        stored = stored_tensors(files)
        at_root = {name for name, _ in skeleton(root).named_parameters()}
    places = {name: Place(name, tensor) for name, tensor in stored.items()}
    if not runs:
        return places
    in_files = _names_in_files(model)
    trained: dict[str, StoredTensor] = {}
    for run in runs:
        trained |= stored_tensors({run.folder / TRAINED_TENSORS: None})
    for tied in _tied_names(model):
        files_say = {in_files[name] for name in tied}
        if None in files_say or (at_root & tied and not stored.keys() & files_say):
            return None
        for name in trained.keys() & tied:
            for other in files_say:  # what the root has under another name is as it was before training
                places.pop(str(other), None)
            places[str(in_files[name])] = Place(name, trained[name])
    return places


def _names_in_files(model: Any) -> dict[str, str | None]:
    """The name under which the library writes each parameter; None if it does not write it as it is."""
    once = dict(model.named_parameters())
    every = dict(model.named_parameters(remove_duplicate=False))
    names: dict[str, str | None] = {}
    for parameters in (once, *({name: every[name]} for name in every.keys() - once.keys())):  # never one twice
        written = {id(tensor): name for name, tensor in revert_weight_conversion(model, parameters).items()}
        names |= {name: written.get(id(parameter)) for name, parameter in parameters.items()}
    return names


def _tied_names(model: Any) -> list[set[str]]:
    """The names of every parameter of a model: several where tensors are tied."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return list(names.values())


def _merged(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the loaded model, tied ones once, under the names that the library writes."""
    model = load_model(checkpoint)
    tied = {name for names in _tied_names(model) for name in names} - {name for name, _ in model.named_parameters()}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    yield from revert_weight_conversion(model, state).items()


def _write_config(folder: Path, root_folder: Path, form: Form, config: Any, dtype: str | None) -> str | None:
    """Write config.json, for a widened model with the code beside it. Returns the dtype that it states."""
    if form == "width":
        own = AutoConfig.from_pretrained(root_folder)
        own.collaborative, own.router = config.collaborative, config.router
        own.dtype = dtype or own.dtype
        save_with_code(own, folder)
        return None if own.dtype is None else _name(own.dtype)
    file = root_folder / "config.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    if dtype is None:
        shutil.copyfile(file, folder / "config.json")
        return raw.get("dtype") or raw.get("torch_dtype")
    raw.pop("torch_dtype", None)  # its name before version 5 of the library
    write_text(folder / "config.json", json.dumps(raw | {"dtype": dtype}, indent=2, ensure_ascii=False) + "\n")
    return dtype


def _write_upscale(root_folder: Path, folder: Path, tokenizer_config: str | None) -> None:
    """Write upscale.json, if the root has one, with the names of the tensors that training added.

    tokenizer_config: the text of tokenizer_config.json, if the export has changed it.
    """
    file = root_folder / UPSCALE
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        pretrained = set(record["pretrained"])
        record["added"] = [name for name in stored_tensors(weight_files(folder)) if name not in pretrained]
        if tokenizer_config is not None:
            record["base"].setdefault("tokenizer_config", tokenizer_config)
        write_text(folder / UPSCALE, to_json(record) + "\n")


def _name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
