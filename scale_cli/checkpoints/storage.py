"""Safetensors files: reading tensors, copying files with renamed tensors, writing tensors in shards.

A copy transfers bytes, so the tensors of a base stay unchanged in any dtype. Files are read and written in chunks and
never memory-mapped: memory holds one chunk, and a disk fault raises OSError instead of ending the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scale_cli.checkpoints.schemas import WeightIndex
from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json, reading, to_json, write_text

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 1 << 28
"""A shard of new tensors is written as soon as it reaches this size."""
CHUNK_BYTES = 1 << 21
"""Chunk size of copies. A chunk stays in the processor's cache while it is hashed and written."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes by their names in safetensors files."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, read on request: `tensor[a:b]` reads its rows a to b - 1, `tensor.read()` all of it.

    dtype: its name in safetensors files ("BF16"). start: the byte of the file at which the tensor begins.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self) -> Tensor:
        """The tensor, on the CPU. Raises RequestError if its file cannot be read."""
        return self._read(self.start, self.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        """Consecutive rows, on the CPU; only these are read. Raises as `read` does."""
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1
        row_bytes = self.nbytes // max(self.shape[0], 1)
        return self._read(self.start + start * row_bytes, (max(stop - start, 0), *self.shape[1:]))

    def _read(self, start: int, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape, dtype=DTYPES[self.dtype])
        with reading(self.file), self.file.open("rb") as file:
            file.seek(start)
            if file.readinto(_bytes_of(tensor)) < tensor.nbytes:
                raise RequestError(f"{self.file} ends too early: it has changed since it was opened; fetch it again")
        return tensor


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a Hugging Face folder, each with its tensors' names in the index.

    model.safetensors has priority over an index, as in the library; its value is None. Without both the result is
    empty. Raises RequestError if the index cannot be read or names missing files.
    """
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: None}
    index = folder / INDEX
    if not index.is_file():
        return {}
    listed: dict[str, set[str]] = {}
    for name, file in read_json(index, WeightIndex)["weight_map"].items():
        listed.setdefault(file, set()).add(name)
    if outside := [file for file in listed if Path(file).name != file]:
        raise RequestError(f"{index} names {outside[0]!r}, which is not a file of the folder; fetch it again")
    absent = [file for file in listed if not (folder / file).is_file()]
    if absent:
        raise RequestError(f"{folder} lacks {', '.join(absent)}, which {INDEX} names; fetch the missing files")
    return {folder / file: listed[file] for file in sorted(listed)}


def stored_tensors(files: dict[Path, set[str] | None]) -> dict[str, StoredTensor]:
    """The tensors of safetensors files, by name. Only headers are read.

    files: as `weight_files` returns them.
    Raises RequestError for a damaged file, for a tensor in two files, and if files and index differ.
    """
    tensors: dict[str, StoredTensor] = {}
    for file, listed in files.items():
        in_file = _stored_in(file)
        if twice := sorted(tensors.keys() & in_file):
            first = tensors[twice[0]].file
            raise RequestError(f"{first} and {file.name} both hold {twice[0]}; fetch the checkpoint again")
        if listed is not None and (wrong := sorted(listed ^ in_file.keys())):
            name = wrong[0]
            fault = f"holds {name}, which {INDEX} lacks" if name in in_file else f"lacks {name}, which {INDEX} names"
            raise RequestError(f"{file} {fault}; fetch both again")
        tensors |= in_file
    return tensors


def _stored_in(file: Path) -> dict[str, StoredTensor]:
    with reading(file):
        try:
            with safe_open(file, framework="pt"):  # checks the header against itself and the file's size
                pass
        except SafetensorError as error:
            raise RequestError(f"{file} is damaged or not a safetensors file ({error}); fetch it again") from error
        header, data_start = _read_header(file)
    return {
        name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data_start + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


@dataclass(frozen=True)
class Copied:
    """The result of a copy.

    weight_map: the name of every tensor's new file, by the tensor's new name. sha256: of each source file, by name.
    """

    weight_map: dict[str, str]
    sha256: dict[str, str]


def copy_files(files: Iterable[Path], folder: Path, rename: Callable[[str], str]) -> Copied:
    """Copy safetensors files as `base-<name>` into `folder`. rename: (tensor's name) -> its new name."""
    copied = Copied({}, {})
    for file in files:
        target = folder / f"base-{file.name}"
        names, copied.sha256[file.name] = copy_renamed(file, target, rename)
        copied.weight_map.update(dict.fromkeys(names, target.name))
    return copied


def copy_renamed(source: Path, target: Path, rename: Callable[[str], str]) -> tuple[list[str], str]:
    """Copy a safetensors file; tensors get new names, their bytes stay unchanged.

    Returns the new names and the sha256 of `source`, which is computed in the same pass.
    """
    with reading(source):
        header, data_start = _read_header(source)
    renamed = {name if name == "__metadata__" else rename(name): entry for name, entry in header.items()}
    digest = hashlib.sha256()
    with target.open("wb") as write, ThreadPoolExecutor(1) as other_thread:
        _write_header(write, renamed)
        done = 0
        for chunk in _chunks(source):
            hashed = other_thread.submit(digest.update, chunk)
            write.write(chunk[max(0, data_start - done) :])  # without the old header, which precedes the data
            done += len(chunk)
            hashed.result()
    return [name for name in renamed if name != "__metadata__"], digest.hexdigest()


def _chunks(file: Path) -> Iterator[memoryview]:
    """The bytes of a file in chunks. A chunk is valid until the next one is requested."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with reading(file), file.open("rb", buffering=0) as read:
        while length := read.readinto(buffer):
            yield buffer[:length]


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and the byte at which its data starts."""
    with file.open("rb") as read:
        (length,) = struct.unpack("<Q", read.read(8))
        return json.loads(read.read(length)), 8 + length


def _write_header(write: BinaryIO, header: dict[str, Any]) -> None:
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format requires data aligned to 8 bytes
    write.write(struct.pack("<Q", len(text)) + text)


def _bytes_of(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor, as an array of bytes."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


class ShardWriter:
    """Writes tensors one after another into files `<stem>-00001.safetensors`, ...; memory holds at most one shard.

    weight_map: the file name of every added tensor, for the index. parameters: number of elements of these tensors.
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
        """Add a tensor. Call `flush` after the last one."""
        assert name not in self.weight_map
        self._shard[name] = tensor.contiguous()
        self.weight_map[name] = self._file_name()
        self.parameters += tensor.numel()
        self._held_bytes += tensor.nbytes
        if self._held_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the tensors that are in memory."""
        if not self._shard:
            return
        names = {dtype: name for name, dtype in DTYPES.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        tensors = sorted(self._shard.items(), key=lambda item: -item[1].itemsize)  # aligns each tensor to its itemsize
        end = 0
        for name, tensor in tensors:
            start, end = end, end + tensor.nbytes
            header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        with (self.folder / self._file_name()).open("wb") as write:
            _write_header(write, header)
            for _, tensor in tensors:
                write.write(_bytes_of(tensor))
        self._shards += 1
        self._shard, self._held_bytes = {}, 0

    def _file_name(self) -> str:
        return f"{self.stem}-{self._shards + 1:05d}.safetensors"


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    """Write the index of a folder with several weight files. weight_map: the file name of every tensor, by its name."""
    files = [folder / name for name in set(weight_map.values())]
    total_bytes = sum(file.stat().st_size - _read_header(file)[1] for file in files)
    write_text(folder / INDEX, to_json({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}) + "\n")
