"""Evaluation of a widened model against its base: `python -m benchmarks.speed eval`.

Perplexity and multiple choice run as `scale eval` runs them, on random text and one token a byte: windows as long as
the shape says, and questions of some 64 tokens with four answers of 4 to 12 through the harness's own model class.
Every repetition measures the base and the three methods in turn, so that a busy machine slows all alike. Of each the
medians: tokens a second of the wall's clock, and the ratio of its seconds to the base's, by CPU seconds (on a GPU by
the wall's), beside the ratio that counting weights gives: 1 + E/N for N weights of the base and E of the expansion, and
for SCALE-Route all above its fork twice. The one over the other is 1 at the arithmetic's floor.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import interleave
from benchmarks.speed.shapes import SHAPES, Shape
from benchmarks.speed.train_step import WIDENED, build
from scale_cli.checkpoints.load import Checkpoint
from scale_cli.data.windows import Windows
from scale_cli.evaluation.harness import harness_model
from scale_cli.evaluation.perplexity import document_sums
from scale_cli.evaluation.subject import DTYPES, Subject, Target
from scale_cli.methods import DEFAULT_METHOD
from scale_cli.methods.cost import by_model

BASE = "base"
KINDS = (BASE, *WIDENED)
WORK = ("perplexity", "choice")
CHOICE_ROWS = 16
"""Requests a forward pass of multiple choice."""
QUESTIONS, ANSWERS = 8, 4
END = "</s>"


@dataclass(frozen=True)
class Line:
    """What one model took for one kind of work: medians over repetitions.

    work: of `WORK`. tokens: that a repetition has put through the model. weights: multiply-adds of a token.
    spread: half the distance of the quartiles over the median, of the seconds compared.
    ratio: of the seconds to the base's; model_ratio: of the weights.
    """

    kind: str
    work: str
    tokens: int
    weights: int
    cpu_seconds: float
    wall_seconds: float
    spread: float
    ratio: float
    model_ratio: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_seconds

    @property
    def over_floor(self) -> float:
        """The measured ratio over that of the weights: 1 is the arithmetic's floor."""
        return self.ratio / self.model_ratio


def prepare(kind: str, shape: Shape, *, device: str) -> Subject:
    """A model of this shape with random weights, as loading a checkpoint of this kind would give it."""
    torch.manual_seed(0)
    dtype = "bfloat16" if device == "cuda" else "float32"
    model = build(DEFAULT_METHOD if kind == BASE else kind, shape).to(device, DTYPES[dtype]).eval()
    target = Target(kind, Checkpoint(kind, Path(), "plain" if kind == BASE else "width"), "", dtype)
    return Subject(target, model, byte_tokenizer(), torch.device(device), CHOICE_ROWS, 0)


def byte_tokenizer() -> Any:
    """A tokenizer of one token a byte, and an end-of-text."""
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
    """Scoring a batch of windows as `--perplexity` does, and the tokens that this puts through the model."""
    draw = random.Random(0)
    size = shape.batch_size * shape.seq_length
    windows = Windows([text(draw, size)], subject.tokenizer, length=shape.seq_length, stride=shape.seq_length,
                      packing="concat")  # fmt: skip
    return functools.partial(document_sums, subject.model, windows, shape.batch_size), size


def choice_work(subject: Subject) -> tuple[Callable[[], Any], int]:
    """Scoring the answers to some questions by the harness, and the tokens that this puts through the model."""
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


def measure(shape: Shape, *, repetitions: int, warmup: int, device: str) -> list[Line]:
    """A line for each kind and work, work by work."""
    subjects = {kind: prepare(kind, shape, device=device) for kind in KINDS}
    works: dict[tuple[str, str], tuple[Callable[[], Any], int]] = {}
    for kind, subject in subjects.items():
        works["perplexity", kind] = perplexity_work(subject, shape)
        works["choice", kind] = choice_work(subject)
    clocks = interleave(
        {key: work for key, (work, _) in works.items()}, repetitions=repetitions, warmup=warmup, device=device
    )
    weights = {kind: by_model(subject.model).generation for kind, subject in subjects.items()}
    lines = []
    for name, kind in sorted(works, key=lambda key: WORK.index(key[0])):
        clock, base = clocks[name, kind], clocks[name, BASE]
        lines.append(
            Line(
                kind=kind,
                work=name,
                tokens=works[name, kind][1],
                weights=weights[kind],
                cpu_seconds=clock.cpu_seconds,
                wall_seconds=clock.wall_seconds,
                spread=clock.spread,
                ratio=clock.compared_seconds / base.compared_seconds,
                model_ratio=weights[kind] / weights[BASE],
            )
        )
    return lines


def speed_table(lines: list[Line], *, title: str) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    table.add_column("work", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for heading in ("tokens/s", "spread", "/ base", "weights", "over"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        numbers = [line.spread, line.ratio, line.model_ratio, line.over_floor]
        table.add_row(
            line.work if line.kind == BASE else "",
            line.kind,
            f"{line.tokens_per_second:,.0f}",
            *(f"{number:.3f}" for number in numbers),
        )
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement."""
    parser = common.parser("eval", __doc__, shape="llama-small", repetitions=15)
    parser.add_argument("--warmup", type=int, default=2, help="repetitions before those that count")
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES[arguments.shape]
    lines = measure(shape, repetitions=arguments.repetitions, warmup=arguments.warmup, device=device)
    title = f"Evaluation, {arguments.shape}, {device}, windows of {shape.batch_size} x {shape.seq_length} tokens"
    Console().print(speed_table(lines, title=title))
    common.write_speed_record(
        arguments.out,
        "eval",
        words,
        shape=shape,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        targets=[
            common.Target(f"{line.work} by {line.kind} over its weights'", line.over_floor, 1.1) for line in lines
        ],
        lines=[
            vars(line) | {name: getattr(line, name) for name in ("tokens_per_second", "over_floor")} for line in lines
        ],
    )
