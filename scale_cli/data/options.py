"""The options of a training run's examples: a part of its recipe. Importing this does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from scale_cli.core.recipe import option, parse_count

Packing = Literal["concat", "documents"]
Lead = Literal["auto", "bos", "eos"]
PACKINGS: tuple[Packing, ...] = ("concat", "documents")


@dataclass(frozen=True)
class DataOptions:
    """Everything that determines the examples of a training run, except the tokenizer and the number of processes.

    With `tokens` or `epochs` the number of steps is known once the data is read, and `steps` has no meaning before.
    """

    one_of: ClassVar[tuple[str, ...]] = ("steps", "tokens", "epochs")

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
    tokens: str | None = option(None, help="Training tokens in place of --steps, as in 500k or 20M.")
    epochs: float | None = option(None, help="Passes over all of --data in place of --steps; not for hub datasets.")
    batch_size: int = option(8, help="Sequences per forward pass and process.")
    gradient_accumulation_steps: int = option(1, help="Forward passes per step, each with --batch-size sequences.")
    seq_length: int | None = option(None, help="Tokens per sequence.  [lm: 512; qa: the longest question]")
    seed: int = option(0, help="Seed of the initial weights and the data order.")

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "batch_size", "gradient_accumulation_steps", "seq_length")
        check_amount(self.tokens, self.epochs)
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

    @property
    def amount(self) -> str | None:
        """The option from which `steps` is still to be counted, as given; None if `steps` is the number."""
        if self.tokens is not None:
            return f"--tokens {self.tokens}"
        return None if self.epochs is None else f"--epochs {self.epochs:g}"

    def steps_of(self, step_tokens: int, epoch_tokens: int | None) -> int:
        """The number of steps. step_tokens: of a step. epoch_tokens: of a pass over the data, None if unknown."""
        if self.tokens is not None:
            return steps_for(parse_count("--tokens", self.tokens), step_tokens)
        if self.epochs is not None:
            assert epoch_tokens is not None  # `resolve_data` refuses data without a length
            return steps_for(self.epochs * epoch_tokens, step_tokens)
        return self.steps


def steps_for(tokens: float, step_tokens: int) -> int:
    """The number of steps that read at least this number of tokens, at least 1."""
    return max(1, math.ceil(tokens / step_tokens))


def check_amount(tokens: str | None, epochs: float | None) -> None:
    """Raise ValueError for tokens or epochs that are not a number above 0."""
    if tokens is not None:
        parse_count("--tokens", tokens)
    if epochs is not None and not 0 < epochs < math.inf:
        raise ValueError(f"--epochs {epochs:g}: a number above 0")


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
