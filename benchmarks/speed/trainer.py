"""A whole training run, against its bare forward, backward and optimiser steps."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers.utils import logging

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, interleave, medians
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.train_step import one_path_methods
from scale_cli.bench import stages
from scale_cli.bench.bios import BiosRecipe, load_preset, make_data, make_init
from scale_cli.checkpoints.load import describe, load_model, load_tokenizer, random_model
from scale_cli.core.recipe import changed
from scale_cli.data.biographies import read_questions
from scale_cli.data.examples import load_examples
from scale_cli.data.options import parse_people
from scale_cli.evaluation.bios import BiographyAccuracy
from scale_cli.evaluation.evaluate import evaluating
from scale_cli.methods import METHODS
from scale_cli.methods.step import halve_frozen, labelled_positions, step_arguments
from scale_cli.training import TrainRecipe
from scale_cli.training.request import resolve
from scale_cli.training.train import train, training_arguments

PRETRAIN, TASK1, ACCURACY = "pretrain", "task1", "accuracy"
BLOCK = 10
"""Steps per timed block. Losses are logged every ten steps, so every block logs once."""
LIMIT = 1.15
"""The largest ratio to the bare part that is a target."""


@dataclass(frozen=True)
class Case:
    """A training run to measure: the benchmark's stage, the checkpoint it starts from, and its recipe."""

    stage: str
    source: str
    recipe: TrainRecipe


class BareLoop:
    """The steps of a training run and nothing else: forward, backward, clipping and AdamW, at a constant rate."""

    def __init__(self, source: str, recipe: TrainRecipe, device: str) -> None:
        """The model and batches that `train` would have. Each step is one batch, already on the device."""
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
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, eps=recipe.adam_epsilon, fused=True)
        examples = load_examples(recipe, load_tokenizer(checkpoint))
        self.tokens = recipe.batch_size * examples.length
        self.batches = []
        for start in range(0, len(examples), recipe.batch_size):
            batch = labelled_positions(examples.__getitems__(range(start, start + recipe.batch_size)))
            self.batches.append({name: values.to(device) for name, values in batch.items()})
        self.step = 0

    def take(self, steps: int) -> None:
        """Take the next steps."""
        for batch in self.batches[self.step : self.step + steps]:
            with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=self.bfloat16):
                loss = self.model(**batch, **self.arguments).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.step += steps


def make_cases(recipe: BiosRecipe, folder: Path, methods: tuple[str, ...], *, steps: int) -> list[Case]:
    """The benchmark's pre-training and its Task 1 with these methods, each of `steps` steps, prepared in `folder`.

    Data, tokenizer and sizes are the recipe's. The checkpoint that Task 1 starts from has random weights.
    """
    data, init, base = folder / "data", folder / "init", folder / "task0"
    make_data(recipe, data)
    make_init(recipe, data, init)
    checkpoint = describe(str(init), from_scratch=True)
    torch.manual_seed(0)
    random_model(checkpoint).save_pretrained(base)
    load_tokenizer(checkpoint).save_pretrained(base)
    selected = dataclasses.replace(recipe, methods={label: recipe.methods[label] for label in methods})
    matched = any(map(recipe.matches_rank, methods))
    stages.upscale_stages(selected, str(base), folder, seed=0, width_too=matched, say=lambda line: None)
    changes: dict[str, Any] = {"steps": steps, "eval_people": (), "eval_steps": None, "tokens_cache": folder / "tokens"}
    pretrain = dataclasses.replace(recipe.train_recipe(PRETRAIN, seed=0, data=data), **changes)
    cases = [Case(PRETRAIN, str(init), pretrain)]
    for label in methods:
        trained = dataclasses.replace(recipe.train_recipe(label, seed=0, data=data), **changes)
        if recipe.matches_rank(label):
            trained = changed(trained, **stages.matching_size(trained.method, str(base), folder / "width"))
        cases.append(Case(TASK1, stages.source_of(recipe, label, str(base), folder), trained))
    return cases


def measure_training(case: Case, out: Path, *, device: str) -> tuple[dict[str, Any], BareLoop]:
    """Train into `out`, with the bare loop's steps between the run's, block by block. Returns a row and the bare loop.

    The first block is not counted. At the end both have taken all steps.
    """
    bare = BareLoop(case.source, case.recipe, device)
    run_seconds: list[tuple[float, float]] = []
    bare_seconds: list[tuple[float, float]] = []
    resumed: tuple[float, float] | None = None

    def after_step(done: int, steps: int) -> None:
        nonlocal resumed
        if done % BLOCK:
            return
        paused = _now(device)
        if resumed is not None:
            run_seconds.append((paused[0] - resumed[0], paused[1] - resumed[1]))
        bare.take(BLOCK)
        resumed = _now(device)
        bare_seconds.append((resumed[0] - paused[0], resumed[1] - paused[1]))

    train(case.source, out, case.recipe, progress=after_step)
    whole, alone = (medians(seconds, by_wall=True) for seconds in (run_seconds, bare_seconds[1:]))
    return _row(case.stage, case.recipe.method, bare.tokens, whole, alone, steps=BLOCK), bare


def measure_accuracy(
    case: Case, model: Any, people: tuple[int, int], *, repetitions: int, warmup: int, device: str
) -> dict[str, Any]:
    """Biography accuracy of these people as it is measured while training, against its forward passes alone."""
    questions = read_questions(Path(case.recipe.data[0]), people)
    accuracy = BiographyAccuracy(questions, load_tokenizer(describe(case.source)))
    passes: list[dict[str, Any]] = []
    hook = model.register_forward_pre_hook(lambda module, args, inputs: passes.append(dict(inputs)), with_kwargs=True)
    accuracy.first_token(model)
    hook.remove()

    def forward() -> None:
        with evaluating(model):
            for inputs in passes:
                model(**inputs)

    works: dict[str, Callable[[], Any]] = {"whole": functools.partial(accuracy.first_token, model), "bare": forward}
    whole, bare = frame.rows(interleave(works, "part", repetitions=repetitions, warmup=warmup, device=device))
    tokens = sum(inputs["input_ids"].numel() for inputs in passes)
    return _row(ACCURACY, case.recipe.method, tokens, whole, bare, steps=1)


def _now(device: str) -> tuple[float, float]:
    """CPU seconds (user and system, all threads) and wall seconds of this moment, once the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def _row(
    work: str, method: str, tokens: int, whole: Mapping[str, float], bare: Mapping[str, float], *, steps: int
) -> dict[str, Any]:
    """A row per step: of the medians of a work with its surroundings and of its bare part, each of so many steps."""
    return {
        "work": work,
        "method": method,
        "tokens": tokens,
        "wall_seconds": whole["wall_seconds"] / steps,
        "cpu_seconds": whole["cpu_seconds"] / steps,
        "bare_wall_seconds": bare["wall_seconds"] / steps,
        "bare_cpu_seconds": bare["cpu_seconds"] / steps,
        "spread": whole["spread"],
        "wall_ratio": whole["wall_seconds"] / bare["wall_seconds"],
        "cpu_ratio": whole["cpu_seconds"] / bare["cpu_seconds"],
        "tokens_per_second": tokens * steps / whole["wall_seconds"],
    }


def measure(
    recipe: BiosRecipe, folder: Path, methods: tuple[str, ...], *, repetitions: int, device: str
) -> list[dict[str, Any]]:
    """One row per training run, then one per method for accuracy by its Task 1 model. folder: a new one.

    A row is of one training step, or of one measurement of accuracy. tokens: read by the model, padding included.
    bare_*: of the bare part. wall_ratio, cpu_ratio: to the bare part. spread: of the wall seconds in training.
    """
    cases = make_cases(recipe, folder, methods, steps=BLOCK * (repetitions + 1))
    people = parse_people(recipe.task1)
    training, accuracy = [], []
    for number, case in enumerate(cases):
        row, bare = measure_training(case, folder / f"run-{number}", device=device)
        training.append(row)
        if case.stage == TASK1:
            options: dict[str, Any] = {"repetitions": repetitions, "warmup": 1, "device": device}
            accuracy.append(measure_accuracy(case, bare.model, people, **options))
    return training + accuracy


def main(
    preset: Annotated[str, typer.Option(help="Preset of the biography benchmark, or a YAML file.")] = "demo",
    methods: Annotated[str, typer.Option(help="Methods of Task 1, separated by commas.")] = ",".join(
        one_path_methods(SHAPES["llama-small"])
    ),
    repetitions: frame.Repetitions = 20,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Time whole training runs, against their bare steps.

    The runs are the biography benchmark's pre-training and its Task 1 with some methods, by the function behind `scale
    train`. After every ten of a run's steps its clock stops, and a bare loop takes the same ten: forward, backward,
    clipping and AdamW on an equal model, on batches that are already in memory. The difference is everything around the
    model: the data loader, the library's trainer, the schedule, a log line every ten steps. Loading, the first ten
    steps and saving at the end are left out. The weights are random.

    Then biography accuracy while training: answering the questions of Task 1 by their first token, against its forward
    passes alone, which compute logits only where an answer begins.

    Printed are medians: tokens per second, milliseconds per step (for accuracy: for all questions), and the ratios of
    wall and CPU seconds to the bare part.
    """
    recipe = load_preset(preset)
    names = frame.chosen("--methods", methods, recipe.methods)
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    device = frame.device()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(recipe, Path(folder), names, repetitions=repetitions, device=device)
    columns = "work method tokens_per_second ms spread wall_ratio cpu_ratio"
    title = f"Training runs against their bare steps, {preset}, {device}"
    printed = [row | {"ms": 1e3 * row["wall_seconds"]} for row in rows]
    targets = [Target(f"{row['work']} by {row['method']} over its bare part", row["wall_ratio"], LIMIT) for row in rows]
    return Result(
        [frame.table(printed, columns, title=title, headings={"wall_ratio": "/ bare", "cpu_ratio": "CPU"})],
        {
            "recipe": recipe,
            "device": device,
            "threads": threads,
            "repetitions": repetitions,
            "targets": [target.record for target in targets],
            "lines": rows,
        },
    )
