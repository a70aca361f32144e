"""What a training run is asked to do. Importing this loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scale_cli.core.recipe import option
from scale_cli.data.options import DataOptions, at_least_one, parse_people
from scale_cli.methods import METHODS, MethodOptions


@dataclass(frozen=True)
class TrainRecipe(DataOptions, MethodOptions):
    """The resolved recipe of one training run; checked on construction."""

    method: str = option("fft", help="What is trained.", choices=tuple(METHODS))
    from_scratch: bool = option(False, help="Random weights from CHECKPOINT's config: the pre-training stage.")
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
        MethodOptions.__post_init__(self)
        DataOptions.__post_init__(self)
        at_least_one(self, "eval_documents", "eval_steps", "logging_steps", "save_steps")
        for name in ("lr", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} {value}: above 0")
        for name in ("warmup", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 0")
        if not 0 <= self.min_lr_rate <= 1:
            raise ValueError(f"--min-lr-rate {self.min_lr_rate}: a share of --lr, 0 to 1")
        if self.from_scratch and self.method != "fft":
            raise ValueError(f"--from-scratch: random weights are trained whole, by --method fft, not {self.method}")
        names = [name for name, _ in map(parse_eval_people, self.eval_people)]
        if len(set(names)) != len(names):
            raise ValueError(f"--eval-people {','.join(self.eval_people)}: a name stands twice")
        if self.eval_text:
            from scale_cli.data.corpora import parse_corpora  # here, as it loads what reads texts

            if twice := set(names) & set(parse_corpora(self.eval_text, option="--eval-text")):
                raise ValueError(f"--eval-text: {min(twice)} is a name of --eval-people already; names differ")

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: the one given, or the paper's for the method."""
        return METHODS[self.method].lr if self.lr is None else self.lr


def parse_eval_people(text: str) -> tuple[str, tuple[int, int]]:
    """The name and range of people in "NAME=A:B"."""
    name, equals, people = text.partition("=")
    if not equals or not name:
        raise ValueError(f"eval people {text!r}: write NAME=A:B, as in task0=50:100")
    return name, parse_people(people)
