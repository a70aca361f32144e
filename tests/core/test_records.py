"""Records hold the origin of a number and are read back as written."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scale_cli import __version__
from scale_cli.core.records import (
    SCHEMA,
    digest,
    environment,
    fingerprint_folder,
    git_state,
    peak_memory_bytes,
    read_record,
    sha256_file,
    write_record,
)


def test_record_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    broken = {"name": "perplexity", "value": float("inf")}
    write_record(path, command="scale eval x", metrics=(broken,), seeds=(0, 1), base=Path("folder"))
    record = read_record(path)
    assert record["metrics"] == [{"name": "perplexity", "value": None}]
    assert (record["seeds"], record["base"], record["schema"]) == ([0, 1], "folder", SCHEMA)
    assert record["environment"]["packages"]["scale-cli"] == __version__
    assert {"created", "git"} < set(record)


def test_record_bytes_do_not_depend_on_the_order_of_the_fields(tmp_path: Path) -> None:
    fixed = {"created": "2025-01-01", "environment": {}, "git": {}}
    write_record(tmp_path / "a", seconds=1.0, command="x", **fixed)
    write_record(tmp_path / "b", **fixed, command="x", seconds=1.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_records_of_known_schemas_are_read_and_no_others(tmp_path: Path) -> None:
    write_record(tmp_path / "old.json", schema=1)
    assert read_record(tmp_path / "old.json")["schema"] == 1
    write_record(tmp_path / "new.json", schema=3)
    (tmp_path / "list.json").write_text("[]")
    for name in ("new.json", "list.json"):
        with pytest.raises(ValueError, match=r"is not a record of schema 1 or 2$"):
            read_record(tmp_path / name)


def test_equal_values_have_one_digest() -> None:
    assert digest({"a": (1, 2), "b": Path("x")}) == digest({"b": "x", "a": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 2})


def test_environment_names_versions_and_hardware() -> None:
    state = environment()
    assert state["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert state["hardware"]["cores"] >= 1
    assert state["hardware"]["memory_bytes"] > 2**20
    assert state["hardware"]["cpu"]
    assert len(state["hardware"]["gpus"]) == torch.cuda.device_count()
    json.dumps(state)


def test_git_state_of_a_tracked_package(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    git("init", "--quiet")
    assert git_state(package) == {"commit": None, "clean": None}  # a wheel installed inside another repository
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert git_state(package) == {"commit": commit, "clean": True}
    (package / "new.py").touch()
    assert git_state(package) == {"commit": commit, "clean": False}
    shutil.rmtree(tmp_path / ".git")
    assert git_state(package) == {"commit": None, "clean": None}


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


def test_fingerprint_depends_on_weights_config_and_tokenizer(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name in ("b.safetensors", "a.safetensors", "config.json"):
        (first / name).write_text(name)
    shutil.copytree(first, second)
    (second / "README.md").write_text("not part of the identity")
    assert fingerprint_folder(first) == fingerprint_folder(second)
    lines = "".join(
        f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n"
        for name in ("a.safetensors", "b.safetensors", "config.json")
    )
    assert fingerprint_folder(first) == hashlib.sha256(lines.encode()).hexdigest()

    for name in ("a.safetensors", "config.json", "tokenizer.json"):
        (second / name).write_text("changed")
        assert fingerprint_folder(first) != fingerprint_folder(second)
        (second / name).unlink()
        if (first / name).exists():
            shutil.copy(first / name, second)
    assert fingerprint_folder(first) == fingerprint_folder(second)
    (second / "b.safetensors").rename(second / "c.safetensors")
    assert fingerprint_folder(first) != fingerprint_folder(second)


def test_fingerprint_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        fingerprint_folder(tmp_path)


def test_peak_memory_grows_with_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")  # count RAM on a machine with a GPU too
    before = peak_memory_bytes()
    held = bytearray(b"\1") * (before + 2**24)
    assert peak_memory_bytes() >= before + 2**24
    del held


def test_peak_memory_excludes_the_parent_process() -> None:
    held = bytearray(b"\1") * 2**28
    program = "from scale_cli.core.records import peak_memory_bytes; print(peak_memory_bytes())"
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(completed.stdout) < len(held)
