"""Greedy generation with a cache by a widened model, against its base."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, interleave, over_first
from benchmarks.speed.shapes import SHAPES, Shape, ShapeName
from benchmarks.speed.train_step import WIDENED, build
from scale_cli.methods import DEFAULT_METHOD
from scale_cli.methods.cost import by_model

BASE = "base"
MIXTURES = {"scale-preserve mixture": "scale-preserve", "scale-adapt mixture": "scale-adapt"}
"""Methods under `--router mixture:0.01`. SCALE-Route would be SCALE-Adapt there."""
KINDS = (BASE, *WIDENED, *MIXTURES)
LIMIT = 1.1
"""The largest `over_floor` that is a target."""
COLUMNS = "spread ratio model_ratio over_floor"
HEADINGS = {"ratio": "/ base", "model_ratio": "weights", "over_floor": "over", "ms": "ms/token"}


def build_kind(kind: str, shape: Shape) -> Any:
    """A model of `KINDS` of this shape with random weights."""
    model = build(DEFAULT_METHOD if kind == BASE else MIXTURES.get(kind, kind), shape)
    if kind in MIXTURES:
        model.set_router({"kind": "mixture", "share": 0.01})
    return model


def prepare(kind: str, shape: Shape, *, device: str) -> Any:
    """A model of this shape with random weights, in eval mode, in bfloat16 on a GPU."""
    torch.manual_seed(0)
    return build_kind(kind, shape).eval().to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def generation(model: Any, prompt: torch.Tensor, new_tokens: int) -> Callable[[], torch.Tensor]:
    """Greedy generation of exactly `new_tokens` tokens after the prompt, (batch_size, prompt_tokens)."""
    options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return functools.partial(model.generate, prompt, attention_mask=torch.ones_like(prompt), **options)


def mixture_targets(lines: pd.DataFrame) -> list[Target]:
    """The targets of the mixture: nearly free without a fork, and with a fork as dear as SCALE-Route's."""
    seconds = lines.set_index("kind").compared_seconds
    limits = {"scale-preserve mixture": ("scale-preserve", 1.05), "scale-adapt mixture": ("scale-route", LIMIT)}
    return [Target(f"{kind} / {other}", seconds[kind] / seconds[other], most) for kind, (other, most) in limits.items()]


def add_ratios(lines: pd.DataFrame, models: dict[str, Any]) -> None:
    """Add the columns weights, ratio, model_ratio and over_floor, against the base, which is the first kind.

    weights: multiply-adds of weights per token: 1 + E/N times the base's, for N weights of the base and E of the
    expansion; for SCALE-Route, everything above the fork counts twice.
    ratio: of the compared seconds to the base's in the same work, if there is a column work. model_ratio: of the
    weights. over_floor: ratio / model_ratio; 1 is the floor that the arithmetic sets.
    """
    groups = lines.get("work")
    weights = {kind: by_model(model).generation for kind, model in models.items()}
    lines["weights"] = lines.kind.map(weights)
    lines["ratio"] = over_first(lines.compared_seconds, groups)
    lines["model_ratio"] = over_first(lines.weights, groups)
    lines["over_floor"] = lines.ratio / lines.model_ratio


def measure(
    shape: Shape, *, repetitions: int, warmup: int, device: str, batch_size: int, prompt_tokens: int, new_tokens: int
) -> pd.DataFrame:
    """One row per kind of model, with the columns of `add_ratios`.

    seconds_per_token: wall seconds, those of the prompt included, per new token.
    """
    models = {kind: prepare(kind, shape, device=device) for kind in KINDS}
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(shape.config["vocab_size"], (batch_size, prompt_tokens), generator=draw).to(device)
    works = {kind: generation(model, prompt, new_tokens) for kind, model in models.items()}
    lines = interleave(works, "kind", repetitions=repetitions, warmup=warmup, device=device)
    lines["seconds_per_token"] = lines.wall_seconds / new_tokens
    add_ratios(lines, models)
    return lines


def main(
    shape: ShapeName = "llama-small",
    repetitions: frame.Repetitions = 9,
    warmup: frame.Warmup = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per call.")] = 1,
    prompt_tokens: frame.Count = 16,
    new_tokens: frame.Count = 64,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Time greedy generation with a cache by the base, the three SCALE methods and two of them under a mixture router.

    The library's `generate` continues a prompt of random tokens by a fixed number. Every repetition runs all of them in
    turn, so that other load slows all of them alike. Printed are medians: milliseconds per token
    (wall), the ratio of the CPU seconds (on a GPU, the device's) to the base's, the ratio of the weights that a token
    is multiplied with, and the first ratio over the second. 1 is the arithmetic's floor. The result may be below it,
    because a weight is read once even if it is multiplied with twice.
    """
    torch.set_num_threads(threads)
    device = frame.device()
    lines = measure(
        SHAPES[shape],
        repetitions=repetitions,
        warmup=warmup,
        device=device,
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
    )
    title = f"Generating {new_tokens} tokens, {shape}, {device}, batch {batch_size}"
    printed, widened = lines.assign(ms=1e3 * lines.seconds_per_token), lines[lines.kind != BASE]
    targets = [
        Target(f"{kind} / base over its weights'", over_floor, LIMIT).record
        for kind, over_floor in zip(widened.kind, widened.over_floor, strict=True)
    ]
    targets += [target.record for target in mixture_targets(lines)]
    return Result(
        [frame.table(printed, f"kind ms {COLUMNS}", title=title, headings=HEADINGS)],
        {
            "shape": SHAPES[shape],
            "device": device,
            "threads": threads,
            "repetitions": repetitions,
            "targets": targets,
            "lines": frame.rows(lines),
        },
    )
