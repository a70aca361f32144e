"""Greedy generation with a cache by a widened model against its base: `python -m benchmarks.speed generate`.

The library's `generate` continues a prompt of random tokens by a fixed number. Every repetition does so with the base
and the three methods in turn, so that a busy machine slows all alike. Of each the medians: milliseconds a token of the
wall's clock, and the ratio of its seconds to the base's, by CPU seconds (on a GPU by the device's), beside the ratio of
the weights that a token is multiplied with: 1 + E/N for N weights of the base and E of the expansion, and for
SCALE-Route all above its fork twice. The one over the other is 1 at the arithmetic's floor, and may be below it: a
token reads every weight once, also where it is multiplied with it twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import Target, interleave
from benchmarks.speed.shapes import SHAPES, Shape
from benchmarks.speed.train_step import WIDENED, build
from scale_cli.methods import DEFAULT_METHOD
from scale_cli.methods.cost import by_model

BASE = "base"
KINDS = (BASE, *WIDENED)


@dataclass(frozen=True)
class Line:
    """What generating took with one model: medians over repetitions.

    seconds_per_token: of the wall's clock, the prompt's included. weights: multiply-adds of a token.
    spread: half the distance of the quartiles over the median, of the seconds compared.
    ratio: of the seconds to the base's; model_ratio: of the weights.
    """

    kind: str
    weights: int
    cpu_seconds: float
    wall_seconds: float
    seconds_per_token: float
    spread: float
    ratio: float
    model_ratio: float

    @property
    def over_floor(self) -> float:
        """The measured ratio over that of the weights: 1 is the arithmetic's floor."""
        return self.ratio / self.model_ratio


def prepare(kind: str, shape: Shape, *, device: str) -> Any:
    """A model of this shape with random weights, in eval mode, in bfloat16 on a GPU."""
    torch.manual_seed(0)
    model = build(DEFAULT_METHOD if kind == BASE else kind, shape).eval()
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def generation(model: Any, prompt: torch.Tensor, new_tokens: int) -> Callable[[], torch.Tensor]:
    """Continuing the prompt (B, T) greedily by so many tokens, none of which ends it."""
    options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return functools.partial(model.generate, prompt, attention_mask=torch.ones_like(prompt), **options)


def measure(
    shape: Shape, *, repetitions: int, warmup: int, device: str, batch_size: int, prompt_tokens: int, new_tokens: int
) -> list[Line]:
    """A line for each kind of model."""
    models = {kind: prepare(kind, shape, device=device) for kind in KINDS}
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(shape.config["vocab_size"], (batch_size, prompt_tokens), generator=draw).to(device)
    works = {kind: generation(model, prompt, new_tokens) for kind, model in models.items()}
    clocks = interleave(works, repetitions=repetitions, warmup=warmup, device=device)
    weights = {kind: by_model(model).generation for kind, model in models.items()}
    return [
        Line(
            kind=kind,
            weights=weights[kind],
            cpu_seconds=clock.cpu_seconds,
            wall_seconds=clock.wall_seconds,
            seconds_per_token=clock.wall_seconds / new_tokens,
            spread=clock.spread,
            ratio=clock.compared_seconds / clocks[BASE].compared_seconds,
            model_ratio=weights[kind] / weights[BASE],
        )
        for kind, clock in clocks.items()
    ]


def speed_table(lines: list[Line], *, title: str) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in ("ms/token", "spread", "/ base", "weights", "over"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        numbers = [line.spread, line.ratio, line.model_ratio, line.over_floor]
        table.add_row(line.kind, f"{1e3 * line.seconds_per_token:.2f}", *(f"{number:.3f}" for number in numbers))
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement."""
    parser = common.parser("generate", __doc__, shape="llama-small", repetitions=9)
    parser.add_argument("--warmup", type=int, default=1, help="repetitions before those that count")
    parser.add_argument("--batch-size", type=common.positive, default=1, help="sequences generated at a time")
    parser.add_argument("--prompt-tokens", type=common.positive, default=16)
    parser.add_argument("--new-tokens", type=common.positive, default=64)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines = measure(
        SHAPES[arguments.shape],
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        device=device,
        batch_size=arguments.batch_size,
        prompt_tokens=arguments.prompt_tokens,
        new_tokens=arguments.new_tokens,
    )
    title = f"Generating {arguments.new_tokens} tokens, {arguments.shape}, {device}, batch {arguments.batch_size}"
    Console().print(speed_table(lines, title=title))
    common.write_speed_record(
        arguments.out,
        "generate",
        words,
        targets=[Target(f"{line.kind} / base over its weights'", line.over_floor, 1.1) for line in lines[1:]],
        shape=SHAPES[arguments.shape],
        device=device,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        lines=[vars(line) | {"over_floor": line.over_floor} for line in lines],
    )
