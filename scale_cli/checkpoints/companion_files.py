"""The files beside the weights of a Hugging Face folder: those of the tokenizer, and the generation config."""

from __future__ import annotations

import json
from pathlib import Path

from scale_cli.core.files import check_inside, read_json, reading, write_text

COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*",
    "generation_config.json",
)
"""Patterns of these files. A model that is made from another one takes them over."""


def companions(folder: Path) -> list[Path]:
    """The files of `folder` that match `COMPANIONS`, sorted. RequestError for a link out of the folder."""
    files = sorted({file for pattern in COMPANIONS for file in folder.glob(pattern) if file.is_file()})
    for file in files:
        check_inside(file, folder)
    return files


def check_companions(folder: Path) -> None:
    """Raise RequestError for a file of the folder that cannot be read, or is not the JSON that its name promises."""
    for file in companions(folder):
        if file.suffix == ".json":
            read_json(file)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy these files from the folder `source`, which is checked already. RequestError if one cannot be read."""
    for file in companions(source):
        with reading(file):
            content = file.read_bytes()
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)


def copy_config(source: Path, folder: Path, *, dtype: str | None) -> None:
    """Copy a config.json into `folder`, verbatim, or with another dtype of the weights if one is given."""
    if dtype is None:
        (folder / source.name).write_bytes(source.read_bytes())
        return
    config = read_json(source)
    config.pop("torch_dtype", None)  # the name of dtype before version 5 of the library
    write_text(folder / source.name, json.dumps(config | {"dtype": dtype}, indent=2, ensure_ascii=False) + "\n")
