"""The request of a run on one's own model and texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from scale_cli.core.recipe import option
from scale_cli.data.options import check_amount
from scale_cli.methods import METHODS
from scale_cli.training.recipe import SELF


@dataclass(frozen=True, kw_only=True)
class OwnRecipe:
    """The request of a run on one's own model and texts."""

    one_of: ClassVar[tuple[str, ...]] = ("tokens", "epochs", "hours")

    new: tuple[str, ...] = option((), help="Texts to learn, as in scale train --data; separated by commas.")
    old: str = option(SELF, help="Texts of what the base knows, only measured; self: texts that the base samples.")
    methods: tuple[str, ...] = option(
        ("scale-preserve", "fft"), help="Methods to compare.", choices=lambda: tuple(METHODS)
    )
    rates: tuple[float, ...] = option(
        (), help="Learning rates: each method is trained at each of them, to find its best. [the method's own]"
    )
    tokens: str | None = option(None, help="Training tokens per training, as in 500k or 20M.")
    epochs: float | None = option(None, help="Training tokens as passes over the new texts. [1]")
    hours: float | None = option(None, help="Training tokens as an estimate of the hours of all trainings together.")
    held_out: int | None = option(None, help="Documents of each text that are measured. [a twentieth, 8 to 200]")
    batch_size: int = option(8, help="Sequences per step.")
    seq_length: int | None = option(None, help="Tokens per sequence. [the model's context, at most 512]")
    allow: float = option(0.01, help="Forgetting that counts as kept: a share of the base's bits per byte on OLD.")
    router: tuple[str, ...] = option(("mixture:0",), help="Routers under which each model is measured too; none: ''.")
    suite: tuple[str, ...] = option((), help="Suites to measure at the end, as in scale eval --suite.")
    suite_limit: int | None = option(None, help="Items of each task of the suites. [all]")
    seeds: tuple[int, ...] = option((0,), help="One repetition per seed.")
    jobs: int = option(1, help="Trainings that run at once, as in scale bench.")
    precision: Literal["auto", "float32", "bfloat16"] = option("auto", help="Precision of training.")

    def __post_init__(self) -> None:
        if not self.new:
            raise ValueError("--new is missing: the texts to learn, as in --new corpus.jsonl")
        check_amount(self.tokens, self.epochs)
        for flag, value in (("--hours", self.hours), ("--allow", self.allow)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{flag} {value:g}: a number above 0")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError(f"--methods {','.join(self.methods)}: name at least one, each once")
        if not all(0 < rate < math.inf for rate in self.rates) or len(set(self.rates)) != len(self.rates):
            raise ValueError(f"--rates {','.join(map(str, self.rates))}: numbers above 0, each once, as in 1e-4,1e-3")
        for flag, count, least in (("--held-out", self.held_out, 2), ("--batch-size", self.batch_size, 1)):
            if count is not None and count < least:
                raise ValueError(f"{flag} {count}: at least {least}")
