"""A whole training run against its bare steps: `python -m benchmarks.speed trainer`.

The biography benchmark's demo: its pre-training, and its Task 1 with some methods, each by the function behind `scale
train`. After every ten of its steps the clock stops, and a bare loop takes the same ten: forward, backward, clipping
and AdamW on a model that is the same, on batches that lie ready. What the run takes on top is all that is around the
model: the data loader, the library's trainer, the schedule, a line of losses every ten steps. Loading, the first ten
steps and what is saved at the end are left out; the weights are random.

Then biography accuracy while training: answering the questions of Task 1 by their first token, against the forward
passes alone that this makes, which are to compute logits only where an answer begins.

Of all the medians: tokens a second, milliseconds a step (of accuracy: for all questions), and the ratio to the bare
part by the wall's clock and by the processor's.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.speed import common
from benchmarks.speed.common import Clocked, Target, interleave, summarised
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.train_step import one_path_methods
from scale_cli.bench import stages
from scale_cli.bench.bios import BiosRecipe, load_preset, make_data, make_init
from scale_cli.checkpoints.load import describe, load_model, load_tokenizer, random_model
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import changed
from scale_cli.data.biographies import read_questions
from scale_cli.data.examples import load_examples
from scale_cli.data.options import parse_people
from scale_cli.evaluation.bios import BiographyAccuracy
from scale_cli.evaluation.evaluate import evaluating
from scale_cli.methods import METHODS
from scale_cli.methods.step import halve_frozen, labelled_positions, step_arguments
from scale_cli.training import TrainRecipe
from scale_cli.training.train import resolve, train, training_arguments

PRETRAIN, TASK1, ACCURACY = "pretrain", "task1", "accuracy"
BLOCK = 10
"""Steps at a time: as many as a line of losses comes after, so that every block has one."""
LIMIT = 1.15


@dataclass(frozen=True)
class Case:
    """A training run to measure: of a stage of the benchmark, from a checkpoint."""

    stage: str
    source: str
    recipe: TrainRecipe


@dataclass(frozen=True)
class Line:
    """What a piece of work took, a training step or one measurement of accuracy, and its bare part: medians.

    tokens: that it puts through the model, padding included.
    spread: half the distance of the quartiles over the median, of the wall's seconds.
    """

    work: str
    method: str
    tokens: int
    wall_seconds: float
    cpu_seconds: float
    bare_wall_seconds: float
    bare_cpu_seconds: float
    spread: float

    @property
    def wall_ratio(self) -> float:
        return self.wall_seconds / self.bare_wall_seconds

    @property
    def cpu_ratio(self) -> float:
        return self.cpu_seconds / self.bare_cpu_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_seconds


class BareLoop:
    """The steps of a training run and nothing else: forward, backward, clipping and AdamW, at a constant rate."""

    def __init__(self, source: str, recipe: TrainRecipe, device: str) -> None:
        """The model and the batches that `train` would have. A step is one batch."""
        assert recipe.gradient_accumulation_steps == 1
        torch.manual_seed(recipe.seed)
        checkpoint = describe(source, from_scratch=recipe.from_scratch)
        recipe = resolve(recipe, checkpoint)
        model = random_model(checkpoint) if recipe.from_scratch else load_model(checkpoint, dtype=torch.float32)
        model = METHODS[recipe.method].apply(model, recipe.options, checkpoint.new_layers)
        self.bfloat16 = training_arguments(recipe, Path()).bf16
        if self.bfloat16:
            halve_frozen(model)
        self.model = model.train().to(device)
        self.arguments = step_arguments(model)
        self.max_grad_norm = recipe.max_grad_norm
        self.trained = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.trained if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            eps=recipe.adam_epsilon,
            fused=True,
        )
        examples = load_examples(recipe, load_tokenizer(checkpoint))
        self.tokens = recipe.batch_size * examples.length
        self.batches = []
        for start in range(0, len(examples), recipe.batch_size):
            batch = labelled_positions(examples.__getitems__(range(start, start + recipe.batch_size)))
            self.batches.append({name: values.to(device) for name, values in batch.items()})
        self.step = 0

    def take(self, steps: int) -> None:
        """The next so many steps."""
        for batch in self.batches[self.step : self.step + steps]:
            with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=self.bfloat16):
                loss = self.model(**batch, **self.arguments).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.step += steps


def make_cases(recipe: BiosRecipe, folder: Path, methods: tuple[str, ...], *, steps: int) -> list[Case]:
    """The runs of the benchmark's pre-training and of Task 1 with these rows, so many steps each, in `folder`.

    Data, tokenizer and sizes are the recipe's; the checkpoint that Task 1 begins with has random weights.
    """
    data, init, base = folder / "data", folder / "init", folder / "task0"
    make_data(recipe, data)
    make_init(recipe, data, init)
    checkpoint = describe(str(init), from_scratch=True)
    torch.manual_seed(0)
    random_model(checkpoint).save_pretrained(base)
    load_tokenizer(checkpoint).save_pretrained(base)
    chosen = dataclasses.replace(recipe, methods={label: recipe.methods[label] for label in methods})
    matched = any(map(recipe.matches_rank, methods))
    stages.upscale_stages(chosen, str(base), folder, seed=0, width_too=matched, say=lambda line: None)
    changes: dict[str, Any] = {"steps": steps, "eval_people": (), "eval_steps": None, "tokens_cache": folder / "tokens"}
    pretrain = dataclasses.replace(recipe.train_recipe(PRETRAIN, seed=0, data=data), **changes)
    cases = [Case(PRETRAIN, str(init), pretrain)]
    for label in methods:
        trained = dataclasses.replace(recipe.train_recipe(label, seed=0, data=data), **changes)
        if recipe.matches_rank(label):
            trained = changed(trained, **stages.matching_size(trained.method, str(base), folder / "width"))
        cases.append(Case(TASK1, stages.source_of(recipe, label, str(base), folder), trained))
    return cases


def measure_training(case: Case, out: Path, *, device: str) -> tuple[Line, BareLoop]:
    """One run into `out`, and the bare loop beside it, block by block; both have then taken all the steps."""
    bare = BareLoop(case.source, case.recipe, device)
    whole: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    begun: tuple[float, float] | None = None

    def after_step(done: int, steps: int) -> None:
        nonlocal begun
        if done % BLOCK:
            return
        ended = _now(device)
        if begun is not None:
            whole.append((ended[0] - begun[0], ended[1] - begun[1]))
        bare.take(BLOCK)
        begun = _now(device)
        alone.append((begun[0] - ended[0], begun[1] - ended[1]))

    train(case.source, out, case.recipe, progress=after_step)
    clocks = [summarised(runs, by_wall=True) for runs in (whole, alone[1:])]
    return _line(case.stage, case.recipe.method, bare.tokens, *clocks, times=BLOCK), bare


def measure_accuracy(
    case: Case, model: Any, people: tuple[int, int], *, repetitions: int, warmup: int, device: str
) -> Line:
    """Biography accuracy of these people by a model, as it is measured while training, and its forward passes alone."""
    questions = read_questions(Path(case.recipe.data[0]), people)
    accuracy = BiographyAccuracy(questions, load_tokenizer(describe(case.source)))
    passes: list[dict[str, Any]] = []
    hook = model.register_forward_pre_hook(lambda module, args, given: passes.append(dict(given)), with_kwargs=True)
    accuracy.first_token(model)
    hook.remove()

    def forward() -> None:
        with evaluating(model):
            for given in passes:
                model(**given)

    works: dict[str, Callable[[], Any]] = {
        "whole": functools.partial(accuracy.first_token, model),
        "bare": forward,
    }
    clocks = interleave(works, repetitions=repetitions, warmup=warmup, device=device)
    tokens = sum(given["input_ids"].numel() for given in passes)
    return _line(ACCURACY, case.recipe.method, tokens, clocks["whole"], clocks["bare"], times=1)


def _now(device: str) -> tuple[float, float]:
    """The seconds of the processor (user and system, all threads) and of the wall's clock, once the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def _line(work: str, method: str, tokens: int, whole: Clocked, bare: Clocked, *, times: int) -> Line:
    """A line of clocks that have seen the work so many times."""
    return Line(
        work=work,
        method=method,
        tokens=tokens,
        wall_seconds=whole.wall_seconds / times,
        cpu_seconds=whole.cpu_seconds / times,
        bare_wall_seconds=bare.wall_seconds / times,
        bare_cpu_seconds=bare.cpu_seconds / times,
        spread=whole.spread,
    )


def measure(recipe: BiosRecipe, folder: Path, methods: tuple[str, ...], *, repetitions: int, device: str) -> list[Line]:
    """A line for each training run, then for accuracy by each of Task 1's models. `folder` is a new one."""
    cases = make_cases(recipe, folder, methods, steps=BLOCK * (repetitions + 1))
    people = parse_people(recipe.task1)
    training, accuracy = [], []
    for number, case in enumerate(cases):
        line, bare = measure_training(case, folder / f"run-{number}", device=device)
        training.append(line)
        if case.stage == TASK1:
            timed = measure_accuracy(case, bare.model, people, repetitions=repetitions, warmup=1, device=device)
            accuracy.append(timed)
    return training + accuracy


def speed_table(lines: list[Line], *, title: str) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    table.add_column("work", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for heading in ("tokens/s", "ms", "spread", "/ bare", "CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for i, line in enumerate(lines):
        table.add_row(
            line.work if not i or lines[i - 1].work != line.work else "",
            line.method,
            f"{line.tokens_per_second:,.0f}",
            f"{1e3 * line.wall_seconds:.1f}",
            *(f"{number:.3f}" for number in (line.spread, line.wall_ratio, line.cpu_ratio)),
        )
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement. Raises RequestError for a method that the demo does not have."""
    parser = common.parser("trainer", __doc__, repetitions=20)
    parser.add_argument("--preset", default="demo", help="of the biography benchmark, or a YAML file")
    parser.add_argument(
        "--methods", default=",".join(one_path_methods(SHAPES["llama-small"])), help="of Task 1, with commas between"
    )
    arguments = parser.parse_args(words)
    recipe = load_preset(arguments.preset)
    methods = tuple(arguments.methods.split(","))
    if unknown := [method for method in methods if method not in recipe.methods]:
        raise RequestError(f"--methods {arguments.methods}: {unknown[0]!r} is not one of {', '.join(recipe.methods)}")
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(recipe, Path(folder), methods, repetitions=arguments.repetitions, device=device)
    Console().print(speed_table(lines, title=f"Training runs against their bare steps, {arguments.preset}, {device}"))
    common.write_speed_record(
        arguments.out,
        "trainer",
        words,
        targets=[Target(f"{line.work} by {line.method} over its bare part", line.wall_ratio, LIMIT) for line in lines],
        recipe=recipe,
        device=device,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        lines=[
            vars(line) | {name: getattr(line, name) for name in ("wall_ratio", "cpu_ratio", "tokens_per_second")}
            for line in lines
        ],
    )
