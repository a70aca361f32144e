"""Safetensors files: copies, partial reads and written files agree with the safetensors library."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scale_cli.checkpoints import storage
from scale_cli.checkpoints.storage import ShardWriter, copy_files, copy_renamed, stored_tensors, write_index
from scale_cli.surgery.stopwatch import Stopwatch

TENSORS = {name: torch.arange(12).reshape(4, 3).to(dtype) for name, dtype in storage.DTYPES.items()} | {
    "scalar": torch.tensor(-1e9),
    "vector": torch.arange(5.0),
    "nothing": torch.zeros(0, 3),
    "odd": torch.arange(3, dtype=torch.uint8),
}


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Compares bytes, because some dtypes have no comparison."""
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (found, expected)]
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(*bits)


def test_tensors_and_their_rows_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(TENSORS, file)
    stored = stored_tensors({file: None})
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same(stored[name].read(), tensor)
        assert stored[name].nbytes == tensor.nbytes
        if tensor.ndim:
            for rows in (slice(0, 2), slice(1, None), slice(3, 99), slice(2, 2)):
                assert same(stored[name][rows], tensor[rows])


@pytest.mark.parametrize("chunk_bytes", [7, 64, 1 << 21])
def test_a_copy_in_chunks_of_any_size(chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end before, at and after the end of the old header; the new names make the header longer."""
    monkeypatch.setattr(storage, "CHUNK_BYTES", chunk_bytes)
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(TENSORS, source, metadata={"format": "pt"})
    names, sha256 = copy_renamed(source, target, lambda name: f"somewhere.else.{name}")
    assert sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    found = load_file(target)
    assert set(names) == found.keys() == {f"somewhere.else.{name}" for name in TENSORS}
    assert all(same(found[f"somewhere.else.{name}"], tensor) for name, tensor in TENSORS.items())


def test_files_are_copied_under_their_own_names(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        save_file({file.stem: torch.ones(2)}, file)
    (tmp_path / "new").mkdir()
    copied = copy_files(files, tmp_path / "new", str.upper)
    assert copied.weight_map == {"A": "base-a.safetensors", "B": "base-b.safetensors"}
    assert copied.sha256 == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_shards_hold_what_was_given_each_tensor_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SHARD_BYTES", 120)
    writer = ShardWriter(tmp_path, "added")
    for name, tensor in reversed(TENSORS.items()):  # three bytes first, which would misalign the others
        writer.add(name, tensor if tensor.ndim != 2 else tensor.T.contiguous().T)  # also a non-contiguous tensor
    writer.flush()
    writer.flush()  # with nothing to write
    assert writer.parameters == sum(tensor.numel() for tensor in TENSORS.values())
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"added-{i + 1:05d}.safetensors" for i in range(len(files))]
    assert len(files) > 2
    found = {file.name: load_file(file) for file in files}
    assert writer.weight_map == {name: file for file, tensors in found.items() for name in tensors}
    assert all(same(found[file][name], TENSORS[name]) for name, file in writer.weight_map.items())
    for file in files:
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        for name, entry in json.loads(content[8 : 8 + length]).items():
            if name != "__metadata__":
                assert (8 + length + entry["data_offsets"][0]) % TENSORS[name].itemsize == 0
    write_index(tmp_path, writer.weight_map)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"] == writer.weight_map
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in TENSORS.values())}


def test_a_stopwatch_counts_an_inner_stage_for_itself_alone() -> None:
    clock = Stopwatch()
    with clock("outer"):
        time.sleep(0.01)
        for _ in range(2):
            with clock("inner"):
                time.sleep(0.03)
    assert list(clock.seconds) == list(clock.cpu_seconds) == ["inner", "outer"]
    assert clock.seconds["inner"] >= 0.06
    assert clock.seconds["outer"] >= 0.01
    before = clock.seconds["inner"]
    with pytest.raises(ValueError, match="no"), clock("inner"):
        raise ValueError("no")
    assert clock.seconds["inner"] > before
