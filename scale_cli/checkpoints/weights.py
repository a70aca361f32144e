"""The weight files of a folder made from those of others: whole files copied, the rest tensor by tensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scale_cli.checkpoints.storage import (
    DTYPES,
    WEIGHTS,
    ShardWriter,
    StoredTensor,
    copy_renamed,
    stored_tensors,
    write_index,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Place:
    """Where a tensor of the new folder comes from: its name in a file, and what is stored there."""

    name: str
    stored: StoredTensor


def write_weights(
    folder: Path,
    tensors: Mapping[str, Place],
    *,
    dtype: torch.dtype | None = None,
    file_name: Callable[[str], str] = str,
    others: Iterable[tuple[str, Tensor]] = (),
    progress: Progress = lambda done, total: None,
) -> dict[str, Path]:
    """Write the tensors into `folder`, with an index where they fill several files.

    tensors: where each comes from, by its new name. A file of which all tensors are wanted is copied as it is, under
        `file_name` of its name, with other names in its header where the tensors get others.
    dtype: what floating-point values are cast to; None leaves them.
    others: more tensors, in memory.
    progress: called with tensors done and tensors in all, `others` left out.
    Returns the copied files by their new name: the file each was copied from.
    """
    by_file: dict[Path, dict[str, str]] = {}
    for new, place in tensors.items():
        by_file.setdefault(place.stored.file, {})[place.name] = new
    weight_map: dict[str, str] = {}
    copied: dict[str, Path] = {}
    done = 0
    for file, names in by_file.items():
        held = stored_tensors({file: None})
        target = file_name(file.name)
        unchanged = all(_cast_dtype(stored, dtype) is None for stored in held.values())
        if names.keys() == held.keys() and unchanged and target not in copied:
            if all(old == new for old, new in names.items()):
                shutil.copyfile(file, folder / target)
            else:
                copy_renamed(file, folder / target, names.__getitem__)
            copied[target] = file
            weight_map |= dict.fromkeys(names.values(), target)
            done += len(names)
            progress(done, len(tensors))
    stem = "model"
    while any(name.startswith(f"{stem}-") for name in copied):
        stem += "-rest"
    writer = ShardWriter(folder, stem)
    for new, place in tensors.items():
        if new not in weight_map:
            tensor, wanted = place.stored.read(), _cast_dtype(place.stored, dtype)
            writer.add(new, tensor if wanted is None else tensor.to(wanted))
            done += 1
            progress(done, len(tensors))
    for new, tensor in others:
        writer.add(new, tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor)
    writer.flush()
    weight_map |= writer.weight_map
    if set(weight_map.values()) == {WEIGHTS}:
        return copied
    if len(set(writer.weight_map.values())) == 1 and not copied:
        (folder / weight_map.popitem()[1]).rename(folder / WEIGHTS)
    else:
        write_index(folder, weight_map)
    return copied


def _cast_dtype(stored: StoredTensor, dtype: torch.dtype | None) -> torch.dtype | None:
    """What a stored tensor has to be cast to, None where it stays as it is."""
    own = DTYPES[stored.dtype]
    return None if dtype is None or own == dtype or not own.is_floating_point else dtype
