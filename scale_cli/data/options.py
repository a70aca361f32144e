"""The options of a training run's examples: a part of its recipe. Importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scale_cli.core.recipe import option

Packing = Literal["concat", "documents"]
Lead = Literal["auto", "bos", "eos"]
PACKINGS: tuple[Packing, ...] = ("concat", "documents")


@dataclass(frozen=True)
class DataOptions:
    """Everything that determines the examples of a training run, except the tokenizer and the number of processes."""

    data: tuple[str, ...] = option(
        (),
        help="Texts: .txt, .jsonl, .json, .csv, .parquet, .arrow or compressed files, folders or globs (with :FIELD if "
        "the field is not text), gen-bios folders, hub datasets ORG/NAME[:CONFIG[:SPLIT[:FIELD]]]. A share of the "
        "tokens, as in :0.95, is added at the end, for all sources or none.",
        group="Data",
    )
    packing: Packing = option(
        "concat",
        help="concat: attention crosses texts that share a sequence; documents: attention stays inside each text.",
    )
    bos: bool = option(
        False,
        flag="--bos/--no-bos",
        help="Begin every text with the tokenizer's begin-of-text token, which Gemma was trained with.",
    )
    tokens_cache: Path | None = option(
        None, help="Cache folder for the tokens of --data.  [$SCALE_CACHE/tokens or ~/.cache/scale/tokens]"
    )
    objective: Literal["lm", "qa"] = option(
        "lm", help="lm: packed text, loss on every token; qa: questions, loss only on the answer and end-of-text."
    )
    people: str | None = option(None, help="A:B, the range of people of a gen-bios folder.  [all]")
    steps: int = option(1000, help="Optimiser steps.", group="Steps and batches")
    batch_size: int = option(8, help="Sequences per forward pass and process.")
    gradient_accumulation_steps: int = option(1, help="Forward passes per step, each with --batch-size sequences.")
    seq_length: int | None = option(None, help="Tokens per sequence.  [lm: 512; qa: the longest question]")
    seed: int = option(0, help="Seed of the initial weights and the data order.")

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "batch_size", "gradient_accumulation_steps", "seq_length")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: 0 to 2^32 - 1")
        if not self.data:
            raise ValueError("--data is missing: name a gen-bios folder or text files")
        if self.packing != "concat" and self.objective == "qa":
            raise ValueError(f"--packing {self.packing}: packs texts; --objective qa has one sequence per question")
        if self.bos and self.objective == "qa":
            raise ValueError("--bos: begins texts; --objective qa has questions")
        if self.people is not None:
            parse_people(self.people)


def at_least_one(options: object, *names: str) -> None:
    """Raise ValueError if one of these fields is a number below 1."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1")


def parse_people(text: str) -> tuple[int, int]:
    """The half-open range of person ids in "A:B". Raises ValueError unless 0 <= A < B."""
    first, colon, last = text.partition(":")
    if colon and first.isdecimal() and last.isdecimal() and int(first) < int(last):
        return int(first), int(last)
    raise ValueError(f"people {text!r}: write A:B, the first person and the one after the last, as in 0:100")
