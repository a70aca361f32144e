"""The cost of a benchmark before it runs: parameters, tokens, memory and hours. Needs only the base's config."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.bench.bios import BiosRecipe, base_config
from scale_cli.bench.continual_recipe import FETCH, ContinualRecipe
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.recipe import changed
from scale_cli.methods import METHODS
from scale_cli.reporting.sheet import Entry, Heading, Sheet
from scale_cli.training import TrainRecipe

QUESTION_TOKENS = 32
"""Assumed tokens of a question with its answer, if the recipe does not set the sequence length."""


@dataclass(frozen=True)
class Budget:
    """The cost of one training.

    recipe: resolved. Its data and texts need not exist. tokens: over all processes.
    peak_bytes: peak memory of a training step in each process; every process holds all weights.
    hours: of forward and backward passes, those of rehearsed text included, without measurements.
    """

    label: str
    recipe: TrainRecipe
    trained_parameters: int
    tokens: int
    peak_bytes: int
    hours: float


@dataclass(frozen=True)
class DryRun:
    """The cost of a benchmark. budgets: one per training; each training runs once per seed.

    base_parameters: of the model before upscaling. gpus: number of processes that share a training step.
    tflops: assumed 10^12 operations per second and process. command: runs the benchmark.
    knowledge: (bits of the attributes of the people whose biographies are pre-trained, weights of the model's layers);
        None without biographies.
    """

    base_parameters: int
    seeds: tuple[int, ...]
    gpus: int
    tflops: float
    command: str
    budgets: tuple[Budget, ...]
    knowledge: tuple[float, int] | None = None

    @property
    def hours(self) -> float:
        """Hours of all trainings in all seeds."""
        return len(self.seeds) * sum(budget.hours for budget in self.budgets)


def dry_run_continual(recipe: ContinualRecipe, *, tflops: float | None = None) -> DryRun:
    """The cost of continual pre-training. The base's sizes are those of the recipe's `config`, else of `base`.

    tflops: overrides the recipe's. Raises RequestError if the base is still to be fetched and the recipe has no config.
    """
    trained = {
        label: recipe.train_recipe(label, seed=recipe.seeds[0], data=recipe.train_data)
        for label in recipe.methods
        if recipe.trained_by(label) == label
    }
    matched = {label for label in trained if recipe.matches_rank(label)}
    if recipe.pretraining is not None:
        trained = {"pretrain": recipe.pretraining.train_recipe(recipe.pretraining.data)} | trained
    config = dict(recipe.config or {})
    if not config and recipe.base.startswith(FETCH):
        raise RequestError(
            f"{recipe.base} is fetched when the benchmark runs; add the base's `config` to the recipe, or give --base"
        )
    return _dry_run(recipe, trained, matched, config or recipe.base, tflops=tflops)


def dry_run_bios(recipe: BiosRecipe, *, tflops: float | None = None) -> DryRun:
    """The cost of a biography benchmark, with the recipe's largest vocabulary. tflops: overrides the recipe's."""
    labels = ("pretrain", "task0", *recipe.methods)
    trained = {label: recipe.train_recipe(label, seed=recipe.seeds[0]) for label in labels}
    matched = {label for label in recipe.methods if recipe.matches_rank(label)}
    made = _dry_run(recipe, trained, matched, base_config(recipe), tflops=tflops)
    return dataclasses.replace(made, knowledge=recipe.knowledge)


def _dry_run(
    recipe: BiosRecipe | ContinualRecipe,
    trained: Mapping[str, TrainRecipe],
    matched: set[str],
    base: dict[str, Any] | str,
    *,
    tflops: float | None,
) -> DryRun:
    """The cost of the trainings `trained`, by label.

    base: config of the base, or its folder or hub id. matched: labels whose size is matched to the width expansion.
    tflops: None for the recipe's. Raises RequestError unless tflops > 0, and if the base or the sizes do not fit.
    """
    from scale_cli.planning.plan import Plan, plan
    from scale_cli.surgery.source import open_config
    from scale_cli.training.rehearsal import SHORT_LENGTH, rehearsed_rows

    gpus, tflops = recipe.gpus, recipe.tflops if tflops is None else tflops
    if not tflops > 0:
        raise RequestError(f"--tflops {tflops:g}: above 0")
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(base, dict):
            (Path(folder) / "config.json").write_text(json.dumps(base), encoding="utf-8")
            base = folder
        plans: dict[str, Plan] = {}

        def planned(training: TrainRecipe) -> Plan:
            options: dict[str, Any] = plain(training.options) | {
                "methods": [training.method],
                "batch_size": training.batch_size,
                "seq_length": training.seq_length or (512 if training.objective == "lm" else QUESTION_TOKENS),
                "precision": "float32" if training.precision == "float32" else "bfloat16",
                "gradient_checkpointing": training.gradient_checkpointing,
            }
            key = json.dumps(options)
            if key not in plans:
                sizes = {name: value for name, value in recipe.width.items() if name != "init"}
                init = {"init": recipe.width["init"]} if "init" in recipe.width else {}
                plans[key] = plan(base, **sizes, **init, layers=recipe.depth["layers"], **options)
            return plans[key]

        budgets = []
        for label, training in trained.items():
            cost = planned(training)
            if label in matched:
                size = METHODS[training.method].size
                assert size is not None
                added = cost.choices["width"].added_parameters
                training = changed(training, **{size.option: size.nearest(open_config(base).config, added)})
                cost = planned(training)
            (method,) = cost.methods
            sequences = training.steps * training.batch_size * training.gradient_accumulation_steps
            tokens = gpus * sequences * cost.seq_length
            operations = tokens * method.multiply_adds
            if training.rehearse is not None:
                length = training.seq_length if training.objective == "lm" else SHORT_LENGTH
                rows = training.steps * training.gradient_accumulation_steps * rehearsed_rows(training)
                per_token = method.rehearsal_ratio * method.multiply_adds / method.cost_ratio
                operations += gpus * rows * (length or cost.seq_length) * per_token
            hours = operations / (tflops * 1e12 * gpus) / 3600
            budgets.append(Budget(label, training, method.trained_parameters, tokens, method.peak_bytes, hours))
        return DryRun(cost.base_parameters, recipe.seeds, gpus, tflops, recipe.command, tuple(budgets))


CAPTION = (
    "Tokens, memory and hours are those of one training. Memory is the peak of a training step in one process: all "
    "weights, activations, and in float32 the gradients and AdamW's moments of the trained tensors. Hours are those of "
    "forward and backward without attention scores and measurements, at {tflops:g} x 10^12 operations per second "
    "(--tflops: an assumption) in each of {gpus} process{plural}; {hours:,.3g} hours for all {count} trainings."
)


def sheet(result: DryRun, *, title: str) -> Sheet:
    """The budgets as a table, one row per training."""
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
    terms = [("estimate", caption)]
    if result.knowledge is not None:
        bits, weights = result.knowledge
        meaning = (
            f"the people whose biographies are pre-trained have attributes of {bits:,.0f} bits, {bits / weights:.3g} "
            "per weight of the layers. Models of this kind hold up to 2 (arXiv 2404.05405)."
        )
        terms.append(("knowledge", meaning))
    return Sheet(title, headings, (rows,), tuple(terms))
