"""What a training run is asked to do. Importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scale_cli.methods import METHODS, MethodOptions
from scale_cli.recipe import option

Packing = Literal["concat", "documents"]


@dataclass(frozen=True)
class TrainRecipe(MethodOptions):
    """The resolved recipe of one training run; checked on construction."""

    method: str = option("fft", help="What is trained.", choices=tuple(METHODS))
    data: tuple[str, ...] = option(
        (),
        help="Texts: .txt, .jsonl or .parquet files, folders or globs (:FIELD behind, if not text), gen-bios folders, "
        "hub data sets ORG/NAME[:CONFIG[:SPLIT[:FIELD]]]; all with a share of the tokens behind, as in :0.95, or none.",
    )
    packing: Packing = option(
        "concat", help="concat: attention crosses texts that share a sequence; documents: each text sees only itself."
    )
    tokens_cache: Path | None = option(
        None, help="Where the tokens of --data are kept.  [$SCALE_CACHE/tokens or ~/.cache/scale/tokens]"
    )
    objective: Literal["lm", "qa"] = option(
        "lm", help="lm: packed text, loss on every token; qa: questions, loss on answer and end-of-text only."
    )
    people: str | None = option(None, help="A:B, the people of a gen-bios folder to train on.  [all]")
    from_scratch: bool = option(False, help="Random weights from CHECKPOINT's config: the pre-training stage.")
    steps: int = option(1000, help="Optimiser steps.")
    batch_size: int = option(8, help="Sequences a step and process.")
    gradient_accumulation_steps: int = option(1, help="Forward passes a step, each of --batch-size sequences.")
    seq_length: int | None = option(None, help="Tokens a sequence.  [lm: 512; qa: the longest question]")
    lr: float | None = option(None, help="Peak learning rate.  [the paper's for the method]")
    schedule: Literal["cosine", "linear", "constant"] = option("cosine", help="The learning rate after warmup.")
    min_lr_rate: float = option(0.0, help="Where cosine ends, as a share of --lr.")
    warmup: float = option(0.0, help="Warmup: below 1 a share of the steps, else steps.")
    weight_decay: float = option(0.01, help="AdamW's weight decay; norms and biases have none.")
    adam_epsilon: float = option(1e-8, help="AdamW's epsilon.")
    max_grad_norm: float = option(1.0, help="Gradients are clipped to this norm; 0 is never.")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", help="Arithmetic, weights stay float32; auto is bfloat16 on a GPU that has it, else float32."
    )
    gradient_checkpointing: bool = option(False, help="Recompute activations in the backward pass to save memory.")
    seed: int = option(0, help="Seed of initial weights and data order.")
    eval_people: tuple[str, ...] = option(
        (), help="NAME=A:B: measure biography accuracy of these people under this name while training."
    )
    eval_bios: Path | None = option(None, help="The gen-bios folder of --eval-people.  [--data]")
    eval_text: tuple[str, ...] = option(
        (), help="NAME=SOURCE: measure perplexity of this text, a source as of scale eval --perplexity, while training."
    )
    eval_documents: int | None = option(
        None, help="The first so many documents of each --eval-text; a hub data set needs it.  [all]"
    )
    eval_steps: int | None = option(None, help="Measure every so many steps, besides step 0 and the last.")
    logging_steps: int = option(10, help="A line of loss and learning rate every so many steps.")
    save_steps: int | None = option(None, help="A checkpoint to resume from every so many steps.")
    report_to: tuple[str, ...] = option((), help="Trackers: tensorboard, wandb, trackio, ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "gradient_accumulation_steps", "seq_length", "eval_documents", "eval_steps",
                     "logging_steps", "save_steps"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1")
        for name in ("lr", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} {value}: above 0")
        for name in ("warmup", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 0")
        if not 0 <= self.min_lr_rate <= 1:
            raise ValueError(f"--min-lr-rate {self.min_lr_rate}: a share of --lr, 0 to 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed}: 0 to 2^32 - 1")
        if self.from_scratch and self.method != "fft":
            raise ValueError(f"--from-scratch: random weights are trained whole, by --method fft, not {self.method}")
        if not self.data:
            raise ValueError("--data is missing: name a gen-bios folder or text files")
        if self.packing != "concat" and self.objective == "qa":
            raise ValueError(f"--packing {self.packing}: packs texts; --objective qa has a sequence for each question")
        if self.people is not None:
            parse_people(self.people)
        names = [name for name, _ in map(parse_eval_people, self.eval_people)]
        if len(set(names)) != len(names):
            raise ValueError(f"--eval-people {','.join(self.eval_people)}: a name stands twice")
        if self.eval_text:
            from scale_cli.evaluation.corpora import parse_corpora  # here, as it loads what reads texts

            if twice := set(names) & set(parse_corpora(self.eval_text, option="--eval-text")):
                raise ValueError(f"--eval-text: {min(twice)} is a name of --eval-people already; names differ")

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: the one given, or the paper's for the method."""
        return METHODS[self.method].lr if self.lr is None else self.lr


def parse_people(text: str) -> tuple[int, int]:
    """The half-open range of person ids in "A:B". Raises ValueError for anything but 0 <= A < B."""
    first, colon, last = text.partition(":")
    if colon and first.isdecimal() and last.isdecimal() and int(first) < int(last):
        return int(first), int(last)
    raise ValueError(f"people {text!r}: write A:B, the first person and the one after the last, as in 0:100")


def parse_eval_people(text: str) -> tuple[str, tuple[int, int]]:
    """The name and range of people in "NAME=A:B"."""
    name, equals, people = text.partition("=")
    if not equals or not name:
        raise ValueError(f"eval people {text!r}: write NAME=A:B, as in task0=50:100")
    return name, parse_people(people)
