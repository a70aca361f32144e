"""Tokenizers of all folders made from a base: `python -m benchmarks.tokenizers FOLDER... --out RECORD`.

FOLDER holds the files of a real tokenizer. For every family of models a tiny base with these files is widened,
deepened, exported and trained; each folder's tokenizer is compared with the base's, with our loader and with the
library's own without this package's config.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from faker import Faker
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from benchmarks.command import Result, run
from scale_cli.checkpoints.companion_files import copy_companions
from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.checkpoints.load import describe, load_tokenizer
from scale_cli.cli.output import say
from scale_cli.core.recipe import load_recipe
from scale_cli.data.tokens import token_ids
from scale_cli.model.families import FAMILIES
from scale_cli.surgery import upscale
from scale_cli.training import TrainRecipe
from scale_cli.training.train import train

ROOT = Path(__file__).parents[1]
LINES = 200
"""Lines of each kind of text."""
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
CHAT = [{"role": "user", "content": "Say 12345 in Korean."}, {"role": "assistant", "content": "만 이천삼백사십오 🙂"}]


@dataclass(frozen=True)
class Row:
    """The comparison of the folders made from one base.

    base_class: the class of the base's tokenizer. lines: number of texts. folders: number of folders compared.
    different: what differs, as FOLDER: class, FOLDER: tokens or FOLDER: chat template; empty if nothing does.
    """

    tokenizer: str
    model_type: str
    base_class: str
    lines: int
    folders: int
    different: list[str]


def texts() -> list[str]:
    """Lines of English, code, Korean, digits and emoji, `LINES` of each."""
    english = [line for file in sorted((ROOT / "docs").glob("*.md")) for line in file.read_text("utf-8").splitlines()]
    code = [
        line for file in sorted((ROOT / "scale_cli").rglob("*.py")) for line in file.read_text("utf-8").splitlines()
    ]
    korean, plain = Faker("ko_KR"), Faker("en_US")
    for fake in (korean, plain):
        fake.seed_instance(0)
    emoji = "🙂🚀👩‍🔬🇰🇷❤️✨🧪👍🏽"
    return [
        *[line for line in english if line.strip()][:LINES],
        *[line for line in code if line.strip()][:LINES],
        *[f"{korean.name()}은 {korean.city()}에서 {korean.catch_phrase()}." for _ in range(LINES)],
        *[f"{plain.random_number(12)} {plain.date()} {plain.pyfloat()}  1,234.5" for _ in range(LINES)],
        *[f"{plain.word()} {emoji[i % 9 :]}{plain.word()}\t{emoji[: i % 7]}" for i in range(LINES)],
    ]


def make_base(folder: Path, model_type: str, files: Path) -> Path:
    """A tiny base of a family with the tokenizer files of a folder."""
    folder.mkdir()
    copy_companions(files, folder)
    size = token_ids(AutoTokenizer.from_pretrained(folder, config=AutoConfig.for_model(model_type)))
    config = AutoConfig.for_model(model_type, **TINY, vocab_size=size, num_key_value_heads=2, tie_word_embeddings=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    copy_companions(files, folder)
    return folder


def make_all(base: Path, folder: Path) -> list[Path]:
    """Everything that is made from a base: widened, deepened, trained, and exports of these."""
    upscale(str(base), folder / "wide", by="width", hidden=8, init="random", verify=False)
    upscale(str(base), folder / "deep", by="depth", layers=3, verify=False)
    data = folder / "text.txt"
    data.write_text("A few words to train on. " * 40, encoding="utf-8")
    options = {"data": (str(data),), "steps": 1, "batch_size": 1, "seq_length": 8, "tokens_cache": folder / "tokens"}
    made = [folder / "wide", folder / "deep"]
    sources = {"fft": base, "lora": base, "llama-pro": folder / "deep", "scale-adapt": folder / "wide"}
    for method, source in sources.items():
        train(str(source), folder / method, load_recipe(TrainRecipe, None, {"method": method, **options}))
        made.append(folder / method)
    for name in ("wide", "fft", "lora", "scale-adapt"):
        export(str(folder / name), folder / f"{name}-exported")
        made.append(folder / f"{name}-exported")
    return made


def compare(base: Path, made: Sequence[Path], lines: Sequence[str]) -> tuple[str, list[str]]:
    """The class of the base's tokenizer, and what differs from it in the folders made from it."""
    expected = AutoTokenizer.from_pretrained(base)
    tokens = [expected.encode(line) for line in lines]
    chat = None if expected.chat_template is None else expected.apply_chat_template(CHAT, tokenize=False)
    different = []
    for folder in made:
        ways = {"": load_tokenizer(describe(str(folder)))}
        if (folder / "config.json").is_file():  # as where this package is not installed
            config = PreTrainedConfig.from_pretrained(folder)
            is_plain = config.model_type != "scale"
            ways[" by the library"] = AutoTokenizer.from_pretrained(
                folder, config=None if is_plain else config, trust_remote_code=False
            )
        for way, tokenizer in ways.items():
            if type(tokenizer) is not type(expected):
                different.append(f"{folder.name}{way}: class {type(tokenizer).__name__}")
            if [tokenizer.encode(line) for line in lines] != tokens:
                different.append(f"{folder.name}{way}: tokens")
            if chat is not None and tokenizer.apply_chat_template(CHAT, tokenize=False) != chat:
                different.append(f"{folder.name}{way}: chat template")
    return type(expected).__name__, different


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders with the files of a tokenizer.")],
    families: Annotated[str | None, typer.Option(help="Model types, separated by commas.  [all]")] = None,
) -> Result:
    """Compare the tokenizers of all folders that are made from a base with the base's."""
    quiet_libraries()
    lines, rows = texts(), []
    for files in folders:
        for model_type in families.split(",") if families else sorted(FAMILIES):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                base = make_base(folder / "base", model_type, files)
                made = make_all(base, folder)
                base_class, different = compare(base, made, lines)
            rows.append(Row(files.name, model_type, base_class, len(lines), len(made), different))
            say(f"{files.name}, {model_type}: {', '.join(different) or 'equal'}")
    table = Table("tokenizer", "family", "class", "lines", "folders", "different", title="Tokenizers of all folders")
    for row in rows:
        cells = (row.tokenizer, row.model_type, row.base_class, str(row.lines), str(row.folders))
        table.add_row(*cells, ", ".join(row.different) or "-")
    wrong = sum(bool(row.different) for row in rows)
    return Result([table, f"{len(rows) - wrong} of {len(rows)} equal"], {"rows": rows}, exit_code=int(wrong > 0))


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.tokenizers", sys.argv[1:]))
