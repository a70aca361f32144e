"""The files beside the weights of a widened model: current model code and the base's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedConfig

from scale_cli.checkpoints.companions import TOKENIZER_CONFIG
from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe, load_model, load_tokenizer
from scale_cli.checkpoints.restore import export_base
from scale_cli.surgery import upscale
from tests.helpers import probe, tiny_base

TEXTS = ["She slept 3700 hours in 1984, and 12345 more.", "Do not ask: 1234567 people know."]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A Qwen2 base whose tokenizer class follows from the model_type; tokenizer_config.json names another class."""
    folder = tmp_path / "base"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 50, trainers.BpeTrainer(vocab_size=340, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    tiny_base("qwen2", vocab_size=tokenizer.get_vocab_size()).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    stated = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "model_max_length": 64}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(stated), encoding="utf-8")
    return folder


def by_library(folder: Path) -> Any:
    """The tokenizer as loaded without this package, with a config of an unknown model_type."""
    config = PreTrainedConfig.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)


def widen(base: Path, out: Path) -> Path:
    upscale(str(base), out, by="width", hidden=8, verify=False)
    return out


@pytest.mark.parametrize("stated", ["Qwen2Tokenizer", "PreTrainedTokenizerFast", "GPT2Tokenizer", None])
def test_base_and_widened_model_turn_a_text_into_the_same_tokens(
    base: Path, stated: str | None, tmp_path: Path
) -> None:
    config = json.loads((base / TOKENIZER_CONFIG).read_text(encoding="utf-8")) | {"tokenizer_class": stated}
    config = {name: value for name, value in config.items() if value is not None}
    (base / TOKENIZER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    wide = widen(base, tmp_path / "wide")
    export(str(wide), tmp_path / "export")
    of_base = AutoTokenizer.from_pretrained(base)
    for folder in (wide, tmp_path / "export"):
        for tokenizer in (by_library(folder), load_tokenizer(describe(str(folder)))):
            assert type(tokenizer) is type(of_base)
            assert [tokenizer.tokenize(text) for text in TEXTS] == [of_base.tokenize(text) for text in TEXTS]
    export_base(str(tmp_path / "export"), tmp_path / "again")
    assert (tmp_path / "again" / TOKENIZER_CONFIG).read_bytes() == (base / TOKENIZER_CONFIG).read_bytes()


def test_without_the_class_named_the_tokens_would_differ(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (base / TOKENIZER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    wide = widen(base, tmp_path / "wide")
    assert json.loads((wide / TOKENIZER_CONFIG).read_text(encoding="utf-8"))["tokenizer_class"] == "Qwen2Tokenizer"
    (wide / TOKENIZER_CONFIG).write_bytes((base / TOKENIZER_CONFIG).read_bytes())
    of_base = AutoTokenizer.from_pretrained(base)
    assert by_library(wide).tokenize(TEXTS[0]) != of_base.tokenize(TEXTS[0])
    assert load_tokenizer(describe(str(wide))).tokenize(TEXTS[0]) == of_base.tokenize(TEXTS[0])


@torch.no_grad()
def test_a_folder_of_older_code_is_loaded_by_ours_and_exported_with_ours(base: Path, tmp_path: Path) -> None:
    wide = widen(base, tmp_path / "wide")
    expected = load_model(describe(str(wide)))(probe()).logits
    code = sorted(file.name for file in wide.glob("*.py"))
    for name in code:
        (wide / name).write_text("raise AssertionError('the code of the folder was run')\n", encoding="utf-8")
    assert torch.equal(load_model(describe(str(wide)))(probe()).logits, expected)
    export(str(wide), tmp_path / "export")
    assert sorted(file.name for file in (tmp_path / "export").glob("*.py")) == code
    for name in code:
        assert (tmp_path / "export" / name).read_bytes() == (ROOT / "scale_cli" / "model" / name).read_bytes()
