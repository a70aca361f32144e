"""Perplexity and multiple choice by a widened model, against its base."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import interleave
from benchmarks.speed.generate import BASE, COLUMNS, HEADINGS, KINDS, LIMIT, add_ratios, build_kind, mixture_targets
from benchmarks.speed.shapes import SHAPES, Shape, ShapeName
from scale_cli.checkpoints.load import Checkpoint
from scale_cli.data.windows import Windows
from scale_cli.evaluation.harness import harness_model
from scale_cli.evaluation.perplexity import document_sums
from scale_cli.evaluation.readings import is_reading, sums_by_router
from scale_cli.evaluation.subject import DTYPES, Subject, Target

CHOICE_ROWS = 16
"""Requests per forward pass of multiple choice."""
QUESTIONS, ANSWERS = 8, 4
END = "</s>"


def prepare(kind: str, shape: Shape, *, device: str) -> Subject:
    """A model of this shape with random weights, in the form in which `scale eval` loads a checkpoint."""
    torch.manual_seed(0)
    dtype = "bfloat16" if device == "cuda" else "float32"
    model = build_kind(kind, shape).to(device, DTYPES[dtype]).eval()
    target = Target(kind, Checkpoint(kind, Path(), "plain" if kind == BASE else "width"), "", dtype)
    return Subject(target, model, byte_tokenizer(), torch.device(device), CHOICE_ROWS, 0)


def byte_tokenizer() -> Any:
    """A tokenizer with one token per byte and an end-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def text(draw: random.Random, size_bytes: int) -> str:
    """Random letters."""
    return "".join(draw.choices("abcdefghij", k=size_bytes))


def perplexity_work(subject: Subject, shape: Shape) -> tuple[Callable[[], Any], int]:
    """Scoring a batch of windows as `--perplexity` does, and the number of tokens that the model reads."""
    size, length = shape.batch_size * shape.seq_length, shape.seq_length
    texts = [text(random.Random(0), size)]
    windows = Windows(texts, subject.tokenizer, length=length, stride=length, packing="concat")
    if subject.has_both and subject.router is not None and is_reading(subject.router):
        routers = [subject.router]
        return lambda: sums_by_router(subject.model, windows, shape.batch_size, routers)[0], size
    return functools.partial(document_sums, subject.model, windows, shape.batch_size), size


def choice_work(subject: Subject, shape: Shape) -> tuple[Callable[[], Any], int]:
    """Scoring the answers to questions by the harness, and the number of tokens that the model reads."""
    from lm_eval.api.instance import Instance

    draw = random.Random(0)
    lm, _ = harness_model(subject)
    pairs = []
    for _ in range(QUESTIONS):
        question = text(draw, draw.randint(48, 80))
        pairs += [(question, " " + text(draw, draw.randint(3, 11))) for _ in range(ANSWERS)]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    tokens = sum(len(question) + len(answer) - 1 for question, answer in pairs)
    return functools.partial(lm.loglikelihood, requests, disable_tqdm=True), tokens


WORK = {"perplexity": perplexity_work, "choice": choice_work}


def measure(shape: Shape, *, repetitions: int, warmup: int, device: str) -> pd.DataFrame:
    """One row per work and kind of model, with the columns of `generate.add_ratios`.

    tokens: read by the model in one repetition. tokens_per_second: by wall seconds.
    """
    subjects = {kind: prepare(kind, shape, device=device) for kind in KINDS}
    works = {(work, kind): make(subjects[kind], shape) for work, make in WORK.items() for kind in KINDS}
    calls = {key: call for key, (call, _) in works.items()}
    lines = interleave(calls, "work", "kind", repetitions=repetitions, warmup=warmup, device=device)
    lines["tokens"] = [tokens for _, tokens in works.values()]
    lines["tokens_per_second"] = lines.tokens / lines.wall_seconds
    add_ratios(lines, {kind: subject.model for kind, subject in subjects.items()})
    return lines


def main(
    shape: ShapeName = "llama-small",
    repetitions: frame.Repetitions = 15,
    warmup: frame.Warmup = 2,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Time perplexity and multiple choice by the base, the three SCALE methods and two of them under a mixture router.

    Both run as `scale eval` runs them, on random text with one token per byte: windows of the shape's length, and
    questions of about 64 tokens with four answers of 4 to 12 through the harness's own model class. Every repetition
    measures all of them in turn, so that other load slows all of them alike. Printed are medians:
    tokens per second (wall), the ratio of the CPU seconds (on a GPU, the device's) to the base's, the ratio of the
    weights that a token is multiplied with, and the first ratio over the second: 1 is the arithmetic's floor.
    """
    torch.set_num_threads(threads)
    size, device = SHAPES[shape], frame.device()
    lines = measure(size, repetitions=repetitions, warmup=warmup, device=device)
    columns = f"work kind tokens_per_second {COLUMNS}"
    title = f"Evaluation, {shape}, {device}, windows of {size.batch_size} x {size.seq_length} tokens"
    targets = [
        frame.Target(f"{work} by {kind} over its weights'", over_floor, LIMIT).record
        for work, kind, over_floor in zip(lines.work, lines.kind, lines.over_floor, strict=True)
    ]
    for work, of_work in lines.groupby("work", sort=False):
        for target in mixture_targets(of_work):
            targets.append(dataclasses.replace(target, what=f"{work} by {target.what}").record)
    return Result(
        [frame.table(lines, columns, title=title, headings=HEADINGS)],
        {
            "shape": size,
            "threads": threads,
            "repetitions": repetitions,
            "targets": targets,
            "lines": frame.rows(lines),
        },
    )
