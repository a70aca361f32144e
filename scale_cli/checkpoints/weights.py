"""Writing a folder's weight files from stored tensors: whole files are copied, other tensors one by one."""

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
    """The source of a tensor of the new folder: its name in a file, and the stored tensor."""

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
    """Write the tensors into `folder`, with an index if there are several files.

    tensors: the place of each tensor, by its new name. A file is copied as a whole if all its tensors are in `tensors`
        and none is cast; its new name is `file_name(name)`, and its header has the tensors' new names.
    dtype: floating-point tensors are cast to it; None: no cast.
    others: more tensors, in memory.
    progress: called with the number of written tensors and of all tensors, without `others`.
    Returns the source files of copied files, by the new name.
    """
    by_file: dict[Path, dict[str, str]] = {}
    for new, place in tensors.items():
        by_file.setdefault(place.stored.file, {})[place.name] = new
    weight_map: dict[str, str] = {}
    copied: dict[str, Path] = {}
    done = 0
    for file, names in by_file.items():
        in_file = stored_tensors({file: None})
        target = file_name(file.name)
        unchanged = all(_cast_dtype(stored, dtype) is None for stored in in_file.values())
        if names.keys() == in_file.keys() and unchanged and target not in copied:
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
            tensor, cast_dtype = place.stored.read(), _cast_dtype(place.stored, dtype)
            writer.add(new, tensor if cast_dtype is None else tensor.to(cast_dtype))
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
    """The dtype that a stored tensor must be cast to, None for no cast."""
    stored_dtype = DTYPES[stored.dtype]
    return None if dtype is None or stored_dtype == dtype or not stored_dtype.is_floating_point else dtype
