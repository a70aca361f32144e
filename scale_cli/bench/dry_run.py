"""What a benchmark would take, before anything is written or a weight is read: parameters, tokens, memory, hours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.bench.bios import BiosRecipe, base_config
from scale_cli.bench.continual import FETCH, ContinualRecipe
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.recipe import changed
from scale_cli.methods import METHODS
from scale_cli.reporting.sheet import Entry, Heading, Sheet
from scale_cli.training import TrainRecipe

QUESTION_TOKENS = 32
"""Of a question with its answer, where the recipe leaves the length to the data."""


@dataclass(frozen=True)
class Budget:
    """What one training takes.

    recipe: resolved; its data and texts are only named. tokens: of all processes.
    peak_bytes: of a training step in each process, which holds all weights.
    hours: of forward and backward, measuring left out.
    """

    label: str
    recipe: TrainRecipe
    trained_parameters: int
    tokens: int
    peak_bytes: int
    hours: float


@dataclass(frozen=True)
class DryRun:
    """A benchmark's trainings, each for every seed.

    base_parameters: of the model that they begin with. gpus: processes that share a step. tflops: of each of them.
    command: starts the benchmark.
    """

    base_parameters: int
    seeds: tuple[int, ...]
    gpus: int
    tflops: float
    command: str
    budgets: tuple[Budget, ...]

    @property
    def hours(self) -> float:
        """Of all trainings and seeds."""
        return len(self.seeds) * sum(budget.hours for budget in self.budgets)


def dry_run_continual(recipe: ContinualRecipe, *, tflops: float | None = None) -> DryRun:
    """The budget of continual pre-training; of a base that is not at hand by the recipe's `config`.

    Raises RequestError where there is neither.
    """
    trained = {
        label: recipe.train_recipe(label, seed=recipe.seeds[0], data=recipe.train_data)
        for label in recipe.methods
        if recipe.trained_by(label) == label
    }
    matched = {label for label in trained if recipe.matches_rank(label)}
    config = dict(recipe.config or {})
    if not config and recipe.base.startswith(FETCH):
        raise RequestError(f"{recipe.base} is made when the benchmark runs; give the recipe its `config`, or --base")
    return _dry_run(recipe, trained, matched, config or recipe.base, tflops=tflops)


def dry_run_bios(recipe: BiosRecipe, *, tflops: float | None = None) -> DryRun:
    """The budget of a biography benchmark, its vocabulary as large as the recipe allows."""
    labels = ("pretrain", "task0", *recipe.methods)
    trained = {label: recipe.train_recipe(label, seed=recipe.seeds[0]) for label in labels}
    matched = {label for label in recipe.methods if recipe.matches_rank(label)}
    return _dry_run(recipe, trained, matched, base_config(recipe), tflops=tflops)


def _dry_run(
    recipe: BiosRecipe | ContinualRecipe,
    trained: Mapping[str, TrainRecipe],
    matched: set[str],
    base: dict[str, Any] | str,
    *,
    tflops: float | None,
) -> DryRun:
    """The cost of each stage.

    base: the config of the model, or where it is. matched: the rows whose size is matched to the width.
    tflops: None for the recipe's.
    """
    from scale_cli.planning.plan import Plan, plan
    from scale_cli.surgery.source import open_config

    gpus, tflops = recipe.gpus, recipe.tflops if tflops is None else tflops
    if not tflops > 0:
        raise RequestError(f"--tflops {tflops:g}: above 0")
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(base, dict):
            (Path(folder) / "config.json").write_text(json.dumps(base), encoding="utf-8")
            base = folder
        plans: dict[str, Plan] = {}

        def planned(one: TrainRecipe) -> Plan:
            options: dict[str, Any] = plain(one.options) | {
                "methods": [one.method],
                "batch_size": one.batch_size,
                "seq_length": one.seq_length or (512 if one.objective == "lm" else QUESTION_TOKENS),
                "precision": "float32" if one.precision == "float32" else "bfloat16",
                "gradient_checkpointing": one.gradient_checkpointing,
            }
            key = json.dumps(options)
            if key not in plans:
                sizes = {name: value for name, value in recipe.width.items() if name != "init"}
                init = {"init": recipe.width["init"]} if "init" in recipe.width else {}
                plans[key] = plan(base, **sizes, **init, layers=recipe.depth["layers"], **options)
            return plans[key]

        budgets = []
        for label, one in trained.items():
            found = planned(one)
            if label in matched:
                size = METHODS[one.method].size
                assert size is not None
                added = found.choices["width"].added_parameters
                one = changed(one, **{size.option: size.nearest(open_config(base).config, added)})
                found = planned(one)
            (method,) = found.methods
            steps = one.steps * one.batch_size * one.gradient_accumulation_steps
            tokens = gpus * steps * found.seq_length
            seconds = tokens * method.multiply_adds / (tflops * 1e12 * gpus)
            budgets.append(Budget(label, one, method.trained_parameters, tokens, method.peak_bytes, seconds / 3600))
        return DryRun(found.base_parameters, recipe.seeds, gpus, tflops, recipe.command, tuple(budgets))


CAPTION = (
    "Tokens, memory and hours of one training. Memory: of a step in one process that holds all weights, in float32, "
    "with gradients and AdamW's moments of the trained tensors. Hours: multiply-adds of weights in forward and "
    "backward, attention scores and measuring left out, at {tflops:g} x 10^12 operations per second (--tflops: an "
    "assumption) in each of {gpus} process{plural}; {hours:,.3g} hours for all {count} trainings."
)


def sheet(result: DryRun, *, title: str) -> Sheet:
    """The budgets as a table, a row per training."""
    names = ("trained params", "lr", "steps", "tokens per step", "tokens", "GB per process", "hours")
    headings = (Heading("", "training", "training", numeric=False), *(Heading("", name, name) for name in names))
    rows = tuple(
        tuple(
            map(
                Entry,
                (
                    budget.label,
                    f"{budget.trained_parameters:,}",
                    f"{budget.recipe.learning_rate:.3g}",
                    f"{budget.recipe.steps:,}",
                    f"{budget.tokens // budget.recipe.steps:,}",
                    f"{budget.tokens:,}",
                    f"{budget.peak_bytes / 1e9:,.2f}",
                    f"{budget.hours:,.3g}",
                ),
            )
        )
        for budget in result.budgets
    )
    caption = CAPTION.format(
        tflops=result.tflops,
        gpus=result.gpus,
        plural="es" * (result.gpus > 1),
        hours=result.hours,
        count=len(result.seeds) * len(rows),
    )
    return Sheet(title, headings, (rows,), (("estimate", caption),))
