"""Export of any checkpoint to an ordinary Hugging Face folder: the tensors of its runs combined with the base's."""

from __future__ import annotations

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
from scale_cli.checkpoints.card import Form, check_stated, write_card
from scale_cli.checkpoints.companion_files import copy_companions, copy_config
from scale_cli.checkpoints.companions import keep_tokenizer_class, save_with_code
from scale_cli.checkpoints.load import (
    TRAINED_TENSORS,
    Checkpoint,
    check,
    describe,
    lineage,
    load_model,
    skeleton,
    trained_dtype,
    weights_folder,
)
from scale_cli.checkpoints.router import set_router
from scale_cli.checkpoints.schemas import EXPORT, UPSCALE, read_upscale
from scale_cli.checkpoints.storage import INDEX, WEIGHTS, StoredTensor, stored_tensors, weight_files
from scale_cli.checkpoints.weights import Place, Progress, write_weights
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, read_json, require_room, to_json, write_text

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes of an export, by name."""


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    form: "width" or "depth" if the model was upscaled by it, else "plain".
    dtype: the dtype in the config, in which the folder loads; None if the config has none.
    parameters: a tied head counts once. size_bytes: of all files. seconds: wall time.
    weights_sha256: for a restored base, the comparison of each weight file with the one that was upscaled: "equal",
        "not recorded", or "written anew" if its tensors came from a file with other tensors too. None for every other
        export.
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
    router: str | None = None,
    name: str | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    progress: Progress = lambda done, total: None,
) -> ExportResult:
    """Write the checkpoint `source` as a complete Hugging Face folder with the same function.

    source: a folder of any kind, a finished or unfinished run, or a hub id.
    dtype: "float32", "bfloat16" or "float16" for all weights; None keeps the stored dtypes. The folder of a run then
        loads in the dtype of the trained tensors.
    router: the router of a widened checkpoint's export, as on the command line; None keeps the checkpoint's own.
    name: the model's name in its card; None: the name of `out`.
    base_model, licence: the base's hub id and licence in the card; None for those in the checkpoint's own card.
    progress: called with the number of written tensors and of all tensors.
    Tensors are copied one at a time. A model is loaded as a whole only if its method merges it, as LoRA does.
    Raises RequestError for a checkpoint that cannot be exported; `out` is then not written.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    start = time.perf_counter()
    check_stated(base_model, licence)
    checkpoint = describe(source)
    check(checkpoint)
    root, *runs = checkpoint.chain
    root_folder = weights_folder(root)
    model = skeleton(checkpoint)
    if router is not None:
        set_router(model, router, source)
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
        config_dtype = _write_config(folder, root_folder, form, model.config, loads_in)
        copy_companions(root_folder, folder)
        tokenizer_config = None
        if form == "width":
            tokenizer_config = keep_tokenizer_class(folder, model.config.build_base_config())
        _write_upscale(root_folder, folder, tokenizer_config)
        inherited, steps = lineage(checkpoint)
        inherited = inherited.stating(base_model, licence)
        record = {"history": steps, "dtype": dtype, "version": __version__}
        write_text(folder / EXPORT, to_json(record) + "\n")
        write_card(folder, name=name or out.resolve().name, form=form, source=inherited, steps=steps)
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return ExportResult(out, form, config_dtype, model.num_parameters(), size_bytes, time.perf_counter() - start)


def _places(checkpoint: Checkpoint, root_folder: Path, model: Any) -> dict[str, Place] | None:
    """The place of each tensor of a checkpoint: in the last run that trained it, else in the root's files.

    model: the checkpoint's skeleton.
    Returns None if the root's files use other tensor names than the library writes now; then the model must be loaded.
    Raises RequestError if a weight file is damaged or missing.
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
        file_names = {in_files[name] for name in tied}
        if None in file_names or (at_root & tied and not stored.keys() & file_names):
            return None
        for name in trained.keys() & tied:
            for other in file_names:  # a tensor of the root under another name has its values before training
                places.pop(str(other), None)
            places[str(in_files[name])] = Place(name, trained[name])
    return places


def _names_in_files(model: Any) -> dict[str, str | None]:
    """The name under which the library writes each parameter; None if it writes the parameter in another form."""
    once = dict(model.named_parameters())
    every = dict(model.named_parameters(remove_duplicate=False))
    names: dict[str, str | None] = {}
    for parameters in (once, *({name: every[name]} for name in every.keys() - once.keys())):  # each tensor only once
        written = {id(tensor): name for name, tensor in revert_weight_conversion(model, parameters).items()}
        names |= {name: written.get(id(parameter)) for name, parameter in parameters.items()}
    return names


def _tied_names(model: Any) -> list[set[str]]:
    """The names of each parameter of a model; tied tensors have several."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return list(names.values())


def _merged(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the loaded model under the names that the library writes; tied tensors once."""
    model = load_model(checkpoint)
    tied = {name for names in _tied_names(model) for name in names} - {name for name, _ in model.named_parameters()}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    yield from revert_weight_conversion(model, state).items()


def _write_config(folder: Path, root_folder: Path, form: Form, config: Any, dtype: str | None) -> str | None:
    """Write config.json, and for a widened model its code. dtype: None for the root's. Returns the config's dtype."""
    if form == "width":
        exported = AutoConfig.from_pretrained(root_folder, trust_remote_code=False)
        exported.collaborative, exported.router = config.collaborative, config.router
        exported.dtype = dtype or exported.dtype
        save_with_code(exported, folder)
        return None if exported.dtype is None else _name(exported.dtype)
    copy_config(root_folder / "config.json", folder, dtype=dtype)
    written = read_json(folder / "config.json")
    return written.get("dtype") or written.get("torch_dtype")


def _write_upscale(root_folder: Path, folder: Path, tokenizer_config: str | None) -> None:
    """Write the root's upscale.json, if it has one, with the names of the tensors that training added.

    tokenizer_config: the text of tokenizer_config.json before the export changed it; None if it did not.
    """
    record = read_upscale(root_folder)
    if record is not None:
        pretrained = set(record.get("pretrained", ()))
        record["added"] = [name for name in stored_tensors(weight_files(folder)) if name not in pretrained]
        if tokenizer_config is not None:
            record["base"].setdefault("tokenizer_config", tokenizer_config)
        write_text(folder / UPSCALE, to_json(record) + "\n")


def _name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
