"""The recipe of a training run. Importing this does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scale_cli.core.recipe import fill_variant, option, variant_options
from scale_cli.data.options import DataOptions, at_least_one, parse_people
from scale_cli.methods import DEFAULT_METHOD, find_method, method_names, option_classes
from scale_cli.results.result import SAMPLED
from scale_cli.training.choice import Rules

SELF = SAMPLED
"""The value of `rehearse` for text that the base samples."""
WARMUP = 0.06
"""The default warm-up, as a share of the steps: that of the sweep in which the methods' default rates are the best."""
FEW_STEPS = 50
"""Fewer steps have no warm-up by default: it would be 3 steps at most, of which the first has the rate 0."""


@dataclass(frozen=True)
class TrainRecipe(DataOptions):
    """The recipe of one training run; checked on construction.

    options: an object of the method's option class. In YAML, flags and records its keys are on the same level as the
        others.
    """

    method: str = option(
        DEFAULT_METHOD,
        help="The method; it determines the trained parameters.  [for a widened CHECKPOINT scale-preserve, for a "
        "deepened one llama-pro, else fft]",
        choices=method_names,
        group="Method",
        show_default=False,
    )
    options: Any = variant_options(chosen_by="method", classes=option_classes)
    from_scratch: bool = option(False, help="Pre-train from random weights; only CHECKPOINT's config is used.")
    lr: float | None = option(None, help="Peak learning rate.  [the method's best in our sweep]", group="Optimiser")
    schedule: Literal["cosine", "linear", "constant"] = option("cosine", help="Learning rate schedule after warm-up.")
    min_lr_rate: float = option(0.0, help="Final learning rate of the cosine schedule, as a share of --lr.")
    warmup: float | None = option(
        None,
        help="Warm-up: a share of the steps if below 1, else a number of steps.  "
        f"[{WARMUP}; none for fewer than {FEW_STEPS} steps]",
    )
    weight_decay: float = option(0.01, help="AdamW's weight decay; norms and biases have none.")
    adam_epsilon: float = option(1e-8, help="AdamW's epsilon.")
    max_grad_norm: float = option(1.0, help="Gradients are clipped to this norm; 0 turns clipping off.")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        help="Arithmetic; trained weights are float32 in all. auto: bfloat16 on a GPU that supports it, else float32.",
        group="Precision and memory",
    )
    gradient_checkpointing: bool = option(False, help="Recompute activations in the backward pass to save memory.")
    shard: bool = option(
        False,
        help="Spread weights, gradients and moments over the processes (FSDP2), for a model that one GPU cannot hold.",
    )
    rehearse: str | None = option(
        None,
        help="Keep predictions on old text close to the base's: self, text that the base samples, or a SOURCE as in "
        "--data. :SHARE at the end is the number of rehearsed sequences per training sequence.  [0.25]",
        group="Rehearsal of old text",
    )
    rehearse_people: str | None = option(None, help="A:B, the range of people of a gen-bios --rehearse.  [all]")
    rehearse_loss: Literal["kl", "ce"] = option(
        "kl", help="kl: KL(base || model) of the old text's predictions; ce: cross-entropy of its tokens."
    )
    rehearse_weight: float | None = option(None, help="Weight of the loss on old text.  [kl: 10; ce: 1]")
    rehearse_tokens: int = option(65_536, help="--rehearse self: number of tokens that the base samples, once.")
    eval_people: tuple[str, ...] = option(
        (),
        help="NAME=A:B: measure the biography accuracy of the people A to B-1 during training, under NAME.",
        group="Measurements during training",
    )
    eval_bios: Path | None = option(None, help="The gen-bios folder of --eval-people.  [--data]")
    eval_text: tuple[str, ...] = option(
        (), help="NAME=SOURCE: measure the perplexity of this text during training; sources as in eval --perplexity."
    )
    eval_documents: int | None = option(
        None, help="Number of documents of each --eval-text, from its beginning; required for hub datasets.  [all]"
    )
    eval_steps: int | None = option(None, help="Steps between measurements, besides those at step 0 and at the end.")
    eval_per_doubling: int | None = option(
        None, help="Also measure this many times each time the number of steps doubles: often early, seldom later."
    )
    keep_best: str | None = option(
        None,
        help="NAME[/METRIC] of --eval-text or --eval-people: keep the measured step that is best in it among those "
        "within every --limit, step 0 left out. METRIC is bits_per_byte for texts and hard for people unless given.  "
        "[the last step]",
        group="Choice of the result",
    )
    limit: tuple[str, ...] = option(
        (),
        help="'NAME[/METRIC]<=BOUND' or >=: a limit of --keep-best. BOUND is a number, base (the value at step 0), "
        "base+X, base-X or base*X. If no measured step is within all limits, the run fails without a result; the "
        "nearest step is in OUT/best-STEP.",
    )
    stop_when: tuple[str, ...] = option(
        (),
        help="Conditions as those of --limit: training ends at the first measured step after 0 at which all hold.",
    )
    logging_steps: int = option(
        10, help="Steps between log lines with loss and learning rate.", group="Logs and checkpoints"
    )
    save_steps: int | None = option(None, help="Steps between checkpoints for --resume.  [none]")
    save_minutes: float | None = option(
        None, help="Also write a checkpoint at the first step after this many minutes without one.  [never]"
    )
    keep: int = option(2, help="Number of newest checkpoints to keep.")
    report_to: tuple[str, ...] = option(
        (), help="Trackers: tensorboard (an extra), or others that are installed, such as wandb."
    )

    def __post_init__(self) -> None:
        method = find_method(self.method)
        fill_variant(self, "options")
        DataOptions.__post_init__(self)
        at_least_one(self, "eval_documents", "eval_steps", "eval_per_doubling")
        at_least_one(self, "logging_steps", "save_steps", "keep", "rehearse_tokens")
        for name in ("lr", "adam_epsilon", "save_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} {value}: above 0")
        for name in ("warmup", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"--{name.replace('_', '-')} {value}: at least 0")
        if not 0 <= self.min_lr_rate <= 1:
            raise ValueError(f"--min-lr-rate {self.min_lr_rate}: a share of --lr, 0 to 1")
        if self.from_scratch and not method.trains_all:
            raise ValueError(
                f"--from-scratch: {self.method} does not train every parameter; choose --method {DEFAULT_METHOD}"
            )
        if self.from_scratch and method.old_texts(self.options) is not None:
            raise ValueError(f"--from-scratch: {self.method} keeps a base, and there is none; choose {DEFAULT_METHOD}")
        self._check_rehearsal()
        names = [name for name, _ in map(parse_eval_people, self.eval_people)]
        if len(set(names)) != len(names):
            raise ValueError(f"--eval-people {','.join(self.eval_people)}: a name occurs twice; choose different names")
        if twice := set(names) & set(self._text_names()):
            raise ValueError(f"--eval-text: {min(twice)} is also a name in --eval-people; choose different names")
        self.rules()

    def _check_rehearsal(self) -> None:
        """Raise ValueError for options of rehearsal that do not fit together."""
        if self.rehearse is None:
            for name in ("rehearse_people", "rehearse_weight"):
                if getattr(self, name) is not None:
                    flag = f"--{name.replace('_', '-')} {getattr(self, name)}"
                    raise ValueError(f"{flag}: there is no old text; add --rehearse self, or --rehearse SOURCE")
            return
        from scale_cli.data.sources import split_weight  # imported here, because it imports pyarrow

        name, share = split_weight(self.rehearse)
        if share is not None and not 0 < share <= 10:
            raise ValueError(f"--rehearse {self.rehearse}: a share of the training sequences, above 0 and at most 10")
        if self.rehearse_weight is not None and not self.rehearse_weight > 0:
            raise ValueError(f"--rehearse-weight {self.rehearse_weight}: above 0")
        if self.rehearse_people is not None:
            parse_people(self.rehearse_people)
            if name == SELF:
                raise ValueError(f"--rehearse-people {self.rehearse_people}: --rehearse {SELF} has no people")
        if self.from_scratch:
            raise ValueError(f"--rehearse {self.rehearse}: --from-scratch has no base to keep")

    @property
    def rehearsal_weight(self) -> float:
        """The weight of the loss on old text: `rehearse_weight` or the default of the loss."""
        if self.rehearse_weight is not None:
            return self.rehearse_weight
        return 10.0 if self.rehearse_loss == "kl" else 1.0

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: `lr` or the method's default."""
        return find_method(self.method).lr if self.lr is None else self.lr

    @property
    def schedule_in_words(self) -> str:
        """The schedule and the warm-up of a resolved recipe."""
        if not self.warmup:
            return f"{self.schedule}, no warm-up"
        steps = f"{self.warmup:.0%} of the" if self.warmup < 1 else f"{self.warmup:.0f}"
        return f"{self.schedule}, a warm-up of {steps} steps"

    def with_steps(self, steps: int) -> TrainRecipe:
        """The recipe of this number of steps, with the default warm-up for it."""
        warmup = (0.0 if steps < FEW_STEPS else WARMUP) if self.warmup is None else self.warmup
        return replace(self, steps=steps, tokens=None, epochs=None, warmup=warmup)

    def rules(self) -> Rules:
        """The rules of `keep_best`, `limit` and `stop_when`. Raises ValueError if they do not fit the measurements."""
        people = [name for name, _ in map(parse_eval_people, self.eval_people)]
        return Rules.parse(
            self.keep_best,
            self.limit,
            self.stop_when,
            texts=self._text_names(),
            people=people,
            measured_between=(self.eval_steps, self.eval_per_doubling) != (None, None),
        )

    def measured_at(self, step: int) -> bool:
        """Whether measurements are made after this step, from 1 on, besides the last one."""
        if self.eval_steps is not None and step % self.eval_steps == 0:
            return True
        if self.eval_per_doubling is None:
            return False
        position = self.eval_per_doubling * math.log2(step)
        nearest = (math.floor(position), math.ceil(position))
        return any(round(2 ** (k / self.eval_per_doubling)) == step for k in nearest)

    def _text_names(self) -> list[str]:
        """The names in `eval_text`."""
        if not self.eval_text:
            return []
        from scale_cli.data.corpora import parse_corpora  # imported here, because it imports pyarrow

        return list(parse_corpora(self.eval_text, option="--eval-text"))


def parse_eval_people(text: str) -> tuple[str, tuple[int, int]]:
    """The name and range of people in "NAME=A:B"."""
    name, equals, people = text.partition("=")
    if not equals or not name:
        raise ValueError(f"eval people {text!r}: write NAME=A:B, as in task0=50:100")
    return name, parse_people(people)
