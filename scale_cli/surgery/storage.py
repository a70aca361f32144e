"""Safetensors files as files: reading what they hold, copying them under other names, writing tensors in shards.

Copies move bytes and never tensors, so what a base holds arrives as it was, whatever its dtype.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scale_cli.errors import RequestError
from scale_cli.files import to_json, write_text

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 1 << 30
"""A shard of new tensors is written as soon as it holds this much."""
COPY_BYTES = 1 << 24


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: which file, its dtype in safetensors' spelling ("BF16"), its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder: the one, or those that the index names; empty without any.

    Raises RequestError where the index cannot be read or names files that are not there.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{index} is no index of safetensors files: {error!r}; fetch it again") from error
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise RequestError(f"{folder} lacks {', '.join(absent)}, which {INDEX} names; fetch the missing files")
        return [folder / name for name in names]
    return [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """What safetensors files hold, by name; reads headers only. Raises RequestError for a damaged file."""
    tensors = {}
    for file in files:
        try:
            with safe_open(file, framework="pt"):  # checks the header against the file's size
                pass
        except (SafetensorError, OSError) as error:
            raise RequestError(f"{file} is damaged or no safetensors file ({error}); fetch it again") from error
        header, _ = _read_header(file)
        for name, entry in header.items():
            if name != "__metadata__":
                tensors[name] = StoredTensor(file, entry["dtype"], tuple(entry["shape"]))
    return tensors


def read_tensor(name: str, stored: StoredTensor) -> Tensor:
    """One tensor of a file, on the CPU; nothing else of the file is read."""
    with safe_open(stored.file, framework="pt") as file:
        return file.get_tensor(name)


def copy_renamed(source: Path, target: Path, rename: Callable[[str], str]) -> list[str]:
    """Copy a safetensors file with every tensor under a new name and its bytes unchanged. Returns the new names."""
    header, data_start = _read_header(source)
    renamed = {name if name == "__metadata__" else rename(name): entry for name, entry in header.items()}
    text = json.dumps(renamed, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    with source.open("rb") as read, target.open("wb") as write:
        write.write(struct.pack("<Q", len(text)) + text)
        read.seek(data_start)
        shutil.copyfileobj(read, write, COPY_BYTES)
    return [name for name in renamed if name != "__metadata__"]


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and the byte at which its data starts."""
    with file.open("rb") as read:
        (length,) = struct.unpack("<Q", read.read(8))
        return json.loads(read.read(length)), 8 + length


@dataclass(frozen=True)
class Written:
    """The tensors of a checkpoint as written: names in the files, those of the base and those added apart.

    added_parameters: numbers in the added tensors.
    """

    pretrained: list[str]
    added: list[str]
    added_parameters: int


class ShardWriter:
    """Writes tensors one after another into files `<stem>-00001.safetensors`, ...; holds one shard at most.

    weight_map: the file of every tensor taken so far, for the index. parameters: the numbers in them.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder = folder
        self.stem = stem
        self.weight_map: dict[str, str] = {}
        self.parameters = 0
        self._shard: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._shards = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor to write. `flush` after the last one."""
        assert name not in self.weight_map
        self._shard[name] = tensor.contiguous()
        self.weight_map[name] = f"{self.stem}-{self._shards + 1:05d}.safetensors"
        self.parameters += tensor.numel()
        self._held_bytes += tensor.nbytes
        if self._held_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._shard:
            self._shards += 1
            file = self.folder / f"{self.stem}-{self._shards:05d}.safetensors"
            save_file(self._shard, file, metadata={"format": "pt"})
            self._shard, self._held_bytes = {}, 0


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    """Write the index by which the library finds the tensors of several files."""
    files = [folder / name for name in set(weight_map.values())]
    total_bytes = sum(file.stat().st_size - _read_header(file)[1] for file in files)
    write_text(folder / INDEX, to_json({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}) + "\n")
