"""What the examples share: their arguments, and a small base with two texts, made from nothing.

The base is a Llama of half a million parameters that knows English biographies of 50 people who do not exist. The new
text is German biographies of 50 others. This size shows the way, not a result; `--base`, `--old` and `--new` take
yours.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import data_gen
import scale_cli

PEOPLE = 50
STEPS = 300
"""Size of the small world: people per text, and training steps of the base."""
END_OF_TEXT = "<|endoftext|>"
GERMAN = (
    "{full_name} wurde am {birthday} in {birth_city} geboren.",
    "Das Studienfach von {full_name} war {major}.",
    "Die Hochschule, an der {full_name} studiert hat, heißt {university}.",
    "Heute arbeitet {full_name} bei der Firma {company}.",
    "Der Arbeitsplatz von {full_name} liegt in {company_city}.",
)


@dataclass(frozen=True)
class World:
    """out: the folder of an example. base: a model folder or hub id. old, new: files for training. old_held_out,
    new_held_out: files for measuring."""

    out: Path
    base: str
    old: Path
    new: Path
    old_held_out: Path
    new_held_out: Path
    steps: int
    hidden: int


def world(description: str | None = None, arguments: list[str] | None = None) -> World:
    """The world that the arguments ask for; None takes those of this process."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="your model folder or hub id; needs --old and --new  [a small one, made here]")
    parser.add_argument("--old", type=Path, help="text that the base knows: JSON lines with the field text")
    parser.add_argument("--new", type=Path, help="text to learn; the last tenth of both is held out")
    parser.add_argument("--out", type=Path, help="new folder for everything  [a temporary one]")
    parser.add_argument("--steps", type=int, default=100, help="training steps on the new text  [%(default)s]")
    parser.add_argument("--hidden", type=int, default=24, help="hidden features that are added  [%(default)s]")
    given = parser.parse_args(arguments)
    if len({value is None for value in (given.base, given.old, given.new)}) > 1:
        parser.error("--base, --old and --new belong together")
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's

    out: Path = given.out or Path(tempfile.mkdtemp(prefix="scale-"))
    out.mkdir(parents=True, exist_ok=True)
    old = read(given.old) if given.base else english(out / "bios")
    new = read(given.new) if given.base else german(out / "bios")
    files = [write(out / f"{name}.jsonl", texts) for name, texts in zip(("old", "new"), (old, new), strict=True)]
    base = given.base or str(make_base(out / "base", files[0][0], [*old, *new]))
    (old_train, old_held_out), (new_train, new_held_out) = files
    return World(out, base, old_train, new_train, old_held_out, new_held_out, given.steps, given.hidden)


def read(file: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def write(file: Path, texts: list[str]) -> tuple[Path, Path]:
    """Write the texts for training, and the last tenth into a file of its own. Returns both files."""
    kept = len(texts) - max(1, len(texts) // 10)
    held_out = file.with_stem(f"{file.stem}-held-out")
    for path, part in ((file, texts[:kept]), (held_out, texts[kept:])):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
    return file, held_out


def english(folder: Path) -> list[str]:
    """Ten biographies of each person in other words, by number: the last tenth has one of everybody."""
    data_gen.generate(folder, people=2 * PEOPLE, bios=10, seed=0)
    bios = sorted(pq.read_table(folder / "biographies.parquet").to_pylist(), key=lambda bio: bio["bio_index"])
    return [bio["text"] for bio in bios if bio["person_id"] < PEOPLE]


def german(folder: Path) -> list[str]:
    """Ten biographies of each other person, their sentences in other orders."""
    people = pq.read_table(folder / "people.parquet").to_pylist()[PEOPLE:]
    order = random.Random(0)
    return [" ".join(order.sample(GERMAN, len(GERMAN))).format(**person) for _ in range(10) for person in people]


def make_base(folder: Path, text: Path, tokenized: Iterable[str]) -> Path:
    """Train a tokenizer and a Llama from random weights. The tokenizer has seen both languages."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(tokenized, trainer)
    start = folder.with_name("start")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    ).save_pretrained(start)
    transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    ).save_pretrained(start)
    recipe: dict[str, Any] = {"steps": STEPS, "batch_size": 8, "seq_length": 128, "lr": 5e-3, "warmup": 0.05}
    scale_cli.train(start, folder, from_scratch=True, data=(str(text),), **recipe)
    return folder
