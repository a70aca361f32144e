"""Restoring the base from an upscaled or trained checkpoint, bit for bit."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scale_cli.checkpoints.card import history, write_card
from scale_cli.checkpoints.companion_files import copy_companions
from scale_cli.checkpoints.companions import TOKENIZER_CONFIG
from scale_cli.checkpoints.export import ExportResult
from scale_cli.checkpoints.load import check, describe, lineage, skeleton, weights_folder
from scale_cli.checkpoints.schemas import read_export, read_upscale
from scale_cli.checkpoints.storage import CHUNK_BYTES, stored_tensors, weight_files
from scale_cli.checkpoints.weights import Place, Progress, write_weights
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, read_json, require_room, write_text
from scale_cli.core.records import sha256_file
from scale_cli.methods import METHODS
from scale_cli.model.families import family_of

PREFIX = "base-"
"""The prefix that upscaling gives to the names of the base's weight files."""


@dataclass(frozen=True)
class _Base:
    """The base inside the root checkpoint.

    config: the text of its config.json. tokenizer_config: the text of its tokenizer_config.json, None if the root's is
    the same. name: (name of a tensor of the root) -> its name in the base, None for an added tensor.
    """

    config: str
    tokenizer_config: str | None
    name: Callable[[str], str | None]


def export_base(source: str, out: Path, *, progress: Progress = lambda done, total: None) -> ExportResult:
    """Write the base of the checkpoint `source` as it was before upscaling and training.

    source: an upscaled folder, also one written by `export` or by the library's `save_pretrained`, or a run. The base
        of a run on a plain model is that model.
    Tensors are bitwise the base's. A weight file that upscaling copied is restored with its header and checked against
    the sha256 in upscale.json.
    Raises RequestError if `source` contains no base, or a changed one; `out` is then not written.
    """
    start = time.perf_counter()
    checkpoint = describe(source)
    check(checkpoint)
    root = checkpoint.chain[0]
    base = _find_base(source)
    root_folder = weights_folder(root)
    tensors = {
        new: Place(name, stored)
        for name, stored in stored_tensors(weight_files(root_folder)).items()
        if (new := base.name(name)) is not None
    }
    with new_folder(out) as folder:
        require_room(folder, sum(tensor.stored.nbytes for tensor in tensors.values()), name=out)
        copied = write_weights(folder, tensors, file_name=lambda name: name.removeprefix(PREFIX), progress=progress)
        write_text(folder / "config.json", base.config)
        copy_companions(root_folder, folder)
        if base.tokenizer_config is not None:
            write_text(folder / TOKENIZER_CONFIG, base.tokenizer_config)
        verdicts = _verdicts(source, root_folder, folder, copied)
        step = {"step": "base", "from": Path(source).name, "weights_sha256": verdicts}
        write_card(folder, name=out.resolve().name, form="plain", source=lineage(root)[0], steps=[step])
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
        parameters = skeleton(describe(str(folder))).num_parameters()
        config = read_json(folder / "config.json")
    dtype = config.get("dtype") or config.get("torch_dtype")
    return ExportResult(out, "plain", dtype, parameters, size_bytes, time.perf_counter() - start, verdicts)


def _find_base(source: str) -> _Base:
    """The base inside a checkpoint. Raises RequestError if there is none."""
    checkpoint = describe(source)
    root, *runs = checkpoint.chain
    methods = {str(run.method) for run in runs}
    if root.kind == "depth" or not runs:
        methods |= {step["recipe"]["method"] for step in history(root.folder) if step["step"] == "train"}
    if whole := [name for name in methods if name in METHODS and METHODS[name].trains_all]:
        raise RequestError(
            f"--base: {source} was trained by {whole[0]}, which changes every tensor, so it does not contain its base; "
            "give the checkpoint that it was trained from"
        )
    config_text = (root.folder / "config.json").read_bytes().decode()
    if root.kind == "plain":
        if not runs:
            raise RequestError(
                f"--base: {source} is neither upscaled nor a run, so it contains no base; export it without --base"
            )
        return _Base(config_text, None, lambda name: name)
    config = json.loads(config_text)
    record = read_upscale(root.folder)
    config_text = record["base"]["config"] if record else json.dumps(config["base_config"], indent=2) + "\n"
    tokenizer_config = record["base"].get("tokenizer_config") if record else None
    if root.kind == "width":
        return _Base(
            config_text, tokenizer_config, lambda name: name.removeprefix("base.") if name.startswith("base.") else None
        )
    family = family_of(config["model_type"])
    prefix = f"{family.decoder}.{family.layers}."
    return _Base(config_text, None, lambda name: renumbered(name, prefix, root.new_layers))


def renumbered(name: str, prefix: str, new_layers: tuple[int, ...]) -> str | None:
    """The name of a deepened model's tensor in its base, None for a tensor of a new layer.

    prefix: the beginning of the names of layers' tensors, before the layer's index and a dot.
    """
    if not name.startswith(prefix):
        return name
    index, _, rest = name.removeprefix(prefix).partition(".")
    if int(index) in new_layers:
        return None
    return f"{prefix}{int(index) - sum(layer < int(index) for layer in new_layers)}.{rest}"


def _verdicts(source: str, root_folder: Path, folder: Path, copied: dict[str, Path]) -> dict[str, str]:
    """The comparison of each weight file in `folder` with upscale.json. copied: files that were copied as a whole.

    Raises RequestError if a copied file differs from the one that was upscaled, or if an export has cast the base.
    """
    record = read_upscale(root_folder)
    recorded = record["base"]["weights_sha256"] if record else {}
    verdicts = {}
    for file in weight_files(folder):
        expected = recorded.get(file.name)
        if expected is not None and expected == sha256_file(file):
            verdicts[file.name] = "equal"
        elif file.name not in copied:
            verdicts[file.name] = "written anew"
        elif expected is None:
            verdicts[file.name] = "not recorded"
        else:
            _drop_padding(file)  # older versions of safetensors did not align the data
            if expected != sha256_file(file):
                raise RequestError(
                    f"--base: {copied[file.name]} does not contain the base that was upscaled: the sha256 of "
                    f"{file.name} is {sha256_file(file)}, not {expected}; use another copy of {source}"
                )
            verdicts[file.name] = "equal"
    exported = read_export(root_folder)
    cast = None if exported is None else exported["dtype"]
    if cast is not None and set(verdicts.values()) != {"equal"}:
        raise RequestError(
            f"--base: {source} was exported with --dtype {cast}, which has cast its base as well; give the checkpoint "
            "that was exported"
        )
    return verdicts


def _drop_padding(file: Path) -> None:
    """Rewrite a safetensors file without the spaces that pad its header to a multiple of eight bytes."""
    shorter = file.with_suffix(".shorter")
    with file.open("rb") as read, shorter.open("wb") as write:
        (length,) = struct.unpack("<Q", read.read(8))
        header = read.read(length).rstrip(b" ")
        write.write(struct.pack("<Q", len(header)) + header)
        shutil.copyfileobj(read, write, CHUNK_BYTES)
    shorter.replace(file)
