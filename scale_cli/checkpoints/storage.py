"""Safetensors files as files: reading what they hold, copying them under other names, writing tensors in shards.

Copies move bytes and never tensors, so what a base holds arrives as it was, whatever its dtype. All is read and written
piece by piece, nothing mapped: memory holds one piece, and a fault of a disk is an OSError and not the end of the
process.
"""

from __future__ import annotations

import contextlib
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

from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json, write_text

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 1 << 28
"""A shard of new tensors is written as soon as it holds this much."""
PIECE_BYTES = 1 << 21
"""What a copy holds at a time; it stays in the processor's cache, where it is hashed and written."""
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
"""The dtypes by safetensors' spelling."""


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """What the system has to say while `file` of a base is read, as a RequestError."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror or error}; mend that, or fetch it again") from error


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, read when it is asked for: `tensor[a:b]` are its rows a to b, `tensor.read()` is all of it.

    dtype: in safetensors' spelling ("BF16"). start: the byte of the file at which it begins.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self) -> Tensor:
        """The tensor, on the CPU. Raises RequestError where its file cannot be read."""
        return self._read(self.start, self.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        """Consecutive rows of it, on the CPU; nothing else is read. Raises RequestError as `read`."""
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1
        row_bytes = self.nbytes // max(self.shape[0], 1)
        return self._read(self.start + start * row_bytes, (max(stop - start, 0), *self.shape[1:]))

    def _read(self, start: int, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape, dtype=DTYPES[self.dtype])
        with reading(self.file), self.file.open("rb") as file:
            file.seek(start)
            if file.readinto(_bytes_of(tensor)) < tensor.nbytes:
                raise RequestError(f"{self.file} ends too early: it was changed meanwhile; fetch it again")
        return tensor


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a Hugging Face folder, and of each the tensors that the index finds in it.

    The one file goes before the index, as in the library, and has no entry in any; empty without both.
    Raises RequestError where the index cannot be read or names files that are not there.
    """
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: None}
    index = folder / INDEX
    if not index.is_file():
        return {}
    with reading(index):
        text = index.read_text(encoding="utf-8")
    listed: dict[str, set[str]] = {}
    try:
        for name, file in json.loads(text)["weight_map"].items():
            listed.setdefault(str(file), set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{index} is no index of safetensors files: {error!r}; fetch it again") from error
    absent = [file for file in listed if not (folder / file).is_file()]
    if absent:
        raise RequestError(f"{folder} lacks {', '.join(absent)}, which {INDEX} names; fetch the missing files")
    return {folder / file: listed[file] for file in sorted(listed)}


def stored_tensors(files: dict[Path, set[str] | None]) -> dict[str, StoredTensor]:
    """What safetensors files hold, by name; reads headers only.

    Raises RequestError for a damaged file, a tensor that two files hold, and files that are not as the index says.
    """
    tensors: dict[str, StoredTensor] = {}
    for file, listed in files.items():
        found = _stored_in(file)
        if twice := sorted(tensors.keys() & found):
            first = tensors[twice[0]].file
            raise RequestError(f"{first} and {file.name} both hold {twice[0]}; fetch the checkpoint again")
        if listed is not None and (wrong := sorted(listed ^ found.keys())):
            name = wrong[0]
            held = (
                f"holds {name} and {INDEX} does not say so" if name in found else f"lacks {name}, which {INDEX} names"
            )
            raise RequestError(f"{file} {held}; fetch both again")
        tensors |= found
    return tensors


def _stored_in(file: Path) -> dict[str, StoredTensor]:
    with reading(file):
        try:
            with safe_open(file, framework="pt"):  # checks the header against itself and the file's size
                pass
        except SafetensorError as error:
            raise RequestError(f"{file} is damaged or no safetensors file ({error}); fetch it again") from error
        header, data_start = _read_header(file)
    return {
        name: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data_start + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


@dataclass(frozen=True)
class Copied:
    """What a copy of files made: the new file of every tensor by its new name, and the sha256 of each file copied."""

    weight_map: dict[str, str]
    sha256: dict[str, str]


def copy_files(files: Iterable[Path], folder: Path, rename: Callable[[str], str]) -> Copied:
    """Copy safetensors files as `base-<name>` into `folder`, their tensors under new names."""
    copied = Copied({}, {})
    for file in files:
        target = folder / f"base-{file.name}"
        names, copied.sha256[file.name] = copy_renamed(file, target, rename)
        copied.weight_map.update(dict.fromkeys(names, target.name))
    return copied


def copy_renamed(source: Path, target: Path, rename: Callable[[str], str]) -> tuple[list[str], str]:
    """Copy a safetensors file with every tensor under a new name and its bytes unchanged.

    Returns the new names and the sha256 of `source`, hashed on the way: one pass is cheaper than two.
    """
    with reading(source):
        header, data_start = _read_header(source)
    renamed = {name if name == "__metadata__" else rename(name): entry for name, entry in header.items()}
    digest = hashlib.sha256()
    with target.open("wb") as write, ThreadPoolExecutor(1) as other_thread:
        _write_header(write, renamed)
        done = 0
        for piece in _pieces(source):
            hashed = other_thread.submit(digest.update, piece)
            write.write(piece[max(0, data_start - done) :])  # what comes before the data is the old header
            done += len(piece)
            hashed.result()
    return [name for name in renamed if name != "__metadata__"], digest.hexdigest()


def _pieces(file: Path) -> Iterator[memoryview]:
    """The bytes of a file, each piece valid until the next is asked for."""
    buffer = memoryview(bytearray(PIECE_BYTES))
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
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    write.write(struct.pack("<Q", len(text)) + text)


def _bytes_of(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor, as an array of bytes."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


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
        self.weight_map[name] = self._file_name()
        self.parameters += tensor.numel()
        self._held_bytes += tensor.nbytes
        if self._held_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._shard:
            return
        names = {dtype: name for name, dtype in DTYPES.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        tensors = sorted(self._shard.items(), key=lambda item: -item[1].itemsize)  # so each is aligned to its own size
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
    """Write the index by which the library finds the tensors of several files."""
    files = [folder / name for name in set(weight_map.values())]
    total_bytes = sum(file.stat().st_size - _read_header(file)[1] for file in files)
    write_text(folder / INDEX, to_json({"metadata": {"total_size": total_bytes}, "weight_map": weight_map}) + "\n")
