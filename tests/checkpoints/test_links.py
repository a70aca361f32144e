"""Files of a model folder that lead out of it are neither copied nor published."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.push import push
from scale_cli.core.errors import RequestError
from scale_cli.surgery import upscale
from tests.helpers import base_folder

DOORS: dict[str, Callable[[Path, Path], object]] = {
    "upscale": lambda base, out: upscale(str(base), out, by="width", hidden=8),
    "export": lambda base, out: export(str(base), out),
    "push": lambda base, out: push(str(base), "a/b", dry_run=True),
}


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.model"])
@pytest.mark.parametrize("door", DOORS)
def test_a_link_out_of_the_folder_is_refused(door: str, name: str, tmp_path: Path) -> None:
    base, out = base_folder(tmp_path / "base"), tmp_path / "out"
    (base / "README.md").touch()
    (tmp_path / "secret").write_text("token", encoding="utf-8")
    (base / name).symlink_to("../secret")
    with pytest.raises(RequestError, match=rf"/base/{name} is a link to a file outside of .*; replace it by the file"):
        DOORS[door](base, out)
    assert not out.exists()


def test_the_links_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    (base / "LICENSE").write_text("free", encoding="utf-8")
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "1", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(base.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    export(str(snapshot), tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text(encoding="utf-8") == "free"


@pytest.mark.parametrize("file", ["../secret.safetensors", "/secret.safetensors", "a/b.safetensors"])
def test_an_index_names_files_of_its_folder_only(file: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", shard="100KB")
    index = base / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["weight_map"]["model.norm.weight"] = file
    index.write_text(json.dumps(content), encoding="utf-8")
    named = re.escape(f"index.json names '{file}', which is not a file of the folder; fetch it again")
    with pytest.raises(RequestError, match=named):
        export(str(base), tmp_path / "out")
