"""The biography benchmark of SCALE (after arXiv 2501.13453): pre-train, learn Task 0, learn Task 1, measure forgetting.

A run is a folder of stages. A stage's folder is complete or does not exist, so an interrupted run can continue:

    OUT/data, OUT/init                          biographies and questions; tokenizer and config
    OUT/seed-S/pretrain                         biographies learnt from random weights
    OUT/seed-S/task0                            questions on half of the pre-training people learnt
    OUT/seed-S/width, depth                     the Task 0 checkpoint, upscaled
    OUT/seed-S/<method>                         Task 1 trained with each method, from the same Task 0 checkpoint
    OUT/seed-S/recovery/<method>                the questions of Task 0 trained again, if the recipe asks for it
    OUT/results.json, table.md, curves.png      the results
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scale_cli.bench import stages
from scale_cli.bench.bios_results import RECOVERY, TASK0, panels_of, results_of, write
from scale_cli.bench.proportions import with_proportions
from scale_cli.bench.routers import check_routers, measure_row
from scale_cli.bench.stages import (
    BenchRecipe,
    BenchResult,
    Progress,
    claim,
    clocked,
    matching_size,
    of_first_process,
    processes,
    source_of,
    train_recipe,
    train_stage,
    upscale_stages,
)
from scale_cli.bench.together import Call, run_together
from scale_cli.bench.tokenizer import TOKENIZERS, fast_tokenizer, train_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder
from scale_cli.core.recipe import changed
from scale_cli.data.options import parse_people
from scale_cli.methods import DEFAULT_METHOD, METHODS
from scale_cli.reporting import runs
from scale_cli.results.groups import BIOGRAPHIES
from scale_cli.training import TrainRecipe

STAGES = ("pretrain", "task0", "task1")
FIXED = ("people", "from_scratch", "eval_people", "eval_bios")
"""Training options that a recipe must not set."""


@dataclass(frozen=True, kw_only=True)
class BiosRecipe(BenchRecipe):
    """The resolved recipe of a biography benchmark. A file that gives `people` and no `model` is completed.

    people: number of people in the data. bios: biographies per person. data_seed: seed of the data.
    pretrain_people: people whose biographies are pre-trained. Task 0 trains on questions on the first half of them and
        is scored on the other half.
    task1_people: the people after them, for Task 1; their biographies are not trained.
    tokenizer: "word" or "bpe", which train a tokenizer of at most `vocab_size` tokens on the data, or the hub id or
        folder of a tokenizer.
    model: arguments of GPTNeoXConfig.
    eval_people: number of people whose questions are scored in each task, from the first; None for all.
    answers: "shared", or "split": the people of Task 1 have other attributes than those pre-trained.
    task0_needed: accuracy on the held-out people of Task 0 that Task 1 requires; below it, forgetting is meaningless.
    recovery_steps: number of steps for which every row is trained again, after Task 1, on the questions that Task 0
        trained; its held-out people then show what was only out of reach and what is lost. 0: none.
    stages: training options of the stages pretrain, task0 and task1. Those of task1 are shared by all rows.
    """

    reserved = (*STAGES, RECOVERY, *BenchRecipe.reserved)

    people: int
    bios: int
    pretrain_people: int
    task1_people: int
    tokenizer: str
    model: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    vocab_size: int = 50_000
    eval_people: int | None = None
    data_seed: int = 0
    answers: Literal["shared", "split"] = "shared"
    task0_needed: float = 0.95
    recovery_steps: int = 0

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return with_proportions(values)

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.stages) != set(STAGES):
            raise RequestError(f"stages {', '.join(self.stages) or '(none)'}: give {', '.join(STAGES)}, each once")
        vocabulary = 257 if self.tokenizer == "bpe" else 3  # all bytes, or one word, and the special tokens
        for name, lowest in (
            ("bios", 1),
            ("eval_people", 1),
            ("vocab_size", vocabulary),
            ("data_seed", 0),
            ("recovery_steps", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise RequestError(f"{name} {value}: at least {lowest}")
        if self.pretrain_people + self.task1_people > self.people or min(self.pretrain_people, self.task1_people) < 2:
            raise RequestError(
                f"{self.pretrain_people} + {self.task1_people} people of {self.people}: pre-training and Task 1 need "
                "at least 2 people each, and different ones"
            )
        for label in self.methods:
            self.train_recipe(label, seed=0)
        for stage in ("pretrain", "task0"):
            self.train_recipe(stage, seed=0)

    @property
    def words(self) -> str:
        """The arguments of `scale bench` that run this recipe."""
        return f"bios --preset {self.preset}{self.options}"

    @property
    def knowledge(self) -> tuple[float, int]:
        """The bits of the attributes of the people whose biographies are pre-trained, and the weights of the layers."""
        from data_gen.facts import FROZEN_LOCALE, load_pools

        config, parts = _model_config(self), 2 if self.answers == "split" else 1
        bits = self.pretrain_people * load_pools(FROZEN_LOCALE, seed=0).attribute_bits(parts=parts)
        per_layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
        return bits, config.num_hidden_layers * per_layer

    @property
    def task0(self) -> str:
        """The people that Task 0 trains on, "A:B"."""
        return f"0:{self.pretrain_people // 2}"

    @property
    def task0_held_out(self) -> str:
        """The people that Task 0 is scored on, "A:B": their biographies are trained, their questions are not."""
        return f"{self.pretrain_people // 2}:{self.pretrain_people}"

    @property
    def task1(self) -> str:
        """The people of Task 1, "A:B"."""
        return f"{self.pretrain_people}:{self.pretrain_people + self.task1_people}"

    def _first(self, people: str) -> str:
        """The first `eval_people` of a range "A:B"."""
        first, last = parse_people(people)
        return f"{first}:{last if self.eval_people is None else min(last, first + self.eval_people)}"

    @property
    def measured(self) -> dict[str, str]:
        """The people that are scored, "A:B", by their names in results: task0, held out, and task1."""
        return {"task0": self._first(self.task0_held_out), "task1": self._first(self.task1)}

    def jobs_of(self, data: Path, *, exact: bool = True) -> list[Any]:
        """The jobs that score the same people as training does. exact: whether whole answers are generated too."""
        from scale_cli.evaluation.bios import BiographyJob

        return [BiographyJob(data, people, exact=exact) for people in self.measured.values()]

    def matches_rank(self, label: str) -> bool:
        """Whether the recipe leaves the size of a row's method open, so that it is matched to the width expansion."""
        return self.size_is_open(label, self.stages["task1"])

    def train_recipe(self, stage: str, *, seed: int, data: Path = Path("data")) -> TrainRecipe:
        """The training recipe of a stage: "pretrain", "task0" or a row of the table.

        data: the gen-bios folder. Raises RequestError for options that are unknown or that the benchmark decides.
        """
        evaluated = tuple(f"{name}={people}" for name, people in self.measured.items())
        own: dict[str, Any] = {"data": (str(data),), "seed": seed}
        if stage == "pretrain":
            own |= {
                "method": DEFAULT_METHOD,
                "objective": "lm",
                "from_scratch": True,
                "people": f"0:{self.pretrain_people}",
            }
        elif stage == "task0":
            own |= {"method": DEFAULT_METHOD, "objective": "qa", "people": self.task0, "eval_people": evaluated[:1]}
        else:
            own |= {"method": self.method_of(stage), "objective": "qa", "people": self.task1, "eval_people": evaluated}
        given = dict(self.stages[stage if stage in STAGES else "task1"])
        return train_recipe(stage, given if stage in STAGES else given | self.differing(stage), own, fixed=FIXED)

    def recovery_of(self, trained: TrainRecipe) -> TrainRecipe:
        """The recipe that trains a row's result again on the questions of Task 0, as `trained` trained Task 1."""
        without = dict.fromkeys(("rehearse", "rehearse_people", "rehearse_weight"))
        return changed(trained, people=self.task0, steps=self.recovery_steps, **without)


def load_preset(
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
) -> BiosRecipe:
    """The recipe of a preset, as `stages.load_preset` reads it, completed by `with_proportions`."""
    return stages.load_preset(BiosRecipe, "bios", name, methods=methods, seeds=seeds, jobs=jobs)


def run(recipe: BiosRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> BenchResult:
    """Run the benchmark into `out`; finished stages there are kept.

    say: called with messages on data and checkpoints. progress: displays each training stage.
    Returns the results of all calls on `out`.
    Raises RequestError for a model that does not fit, if `out` holds a run of another recipe, if the number of
    processes is not the recipe's, and if Task 0 stays below `task0_needed`.
    """
    _check_model(recipe)
    check_routers(recipe)
    say, progress = of_first_process(recipe, say, progress)
    whole = claim(recipe, out)
    with clocked(out) as seconds:
        _run_stages(recipe, out, say=say, progress=progress)
    results, panels = results_of(whole, out), panels_of(whole, out)
    result = BenchResult(out, whole, recipe.command, results, BIOGRAPHIES, panels, seconds())
    if processes().is_main_process:
        write(result)
    return result


def _run_stages(recipe: BiosRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> None:
    """Run all stages that are not complete."""
    data, init = out / "data", out / "init"
    with processes().main_process_first():
        if not data.exists():
            say(f"data: {recipe.people:,} people, {recipe.bios} biographies each")
            make_data(recipe, data)
        if not init.exists():
            say(f"tokenizer: {recipe.tokenizer}")
            make_init(recipe, data, init)
    shown: dict[str, Any] = {"say": say, "progress": progress}
    steps = {stage: int(options["steps"]) for stage, options in recipe.stages.items()}
    prepared = [
        Call(functools.partial(_prepare, recipe, seed, out), steps["pretrain"] + steps["task0"])
        for seed in recipe.seeds
    ]
    run_together(prepared, recipe.jobs, **shown)
    rows = [
        Call(
            functools.partial(_run_row, recipe, seed, label, out),
            recipe.train_recipe(label, seed=seed).steps + recipe.recovery_steps,
        )
        for seed in recipe.seeds
        for label in recipe.methods
    ]
    run_together(rows, recipe.jobs, **shown)


def _prepare(recipe: BiosRecipe, seed: int, out: Path, *, say: Callable[[str], None], progress: Progress) -> None:
    """Make the checkpoints that the rows of a seed train."""
    folder = out / f"seed-{seed}"
    _train_task0(recipe, seed, out / "data", out / "init", folder, say=say, progress=progress)
    matched = any(map(recipe.matches_rank, recipe.methods))
    with processes().main_process_first():
        upscale_stages(recipe, str(folder / "task0"), folder, seed=seed, width_too=matched, say=say)


def _run_row(
    recipe: BiosRecipe, seed: int, label: str, out: Path, *, say: Callable[[str], None], progress: Progress
) -> None:
    """Train a row on Task 1 and measure it under the recipe's routers."""
    folder, data = out / f"seed-{seed}", out / "data"
    task0 = str(folder / "task0")
    trained = recipe.train_recipe(label, seed=seed, data=data)
    if recipe.matches_rank(label):
        trained = changed(trained, **matching_size(trained.method, task0, folder / "width"))
    source = source_of(recipe, label, task0, folder)
    train_stage(source, folder / label, trained, label=f"{label} (seed {seed})", progress=progress)
    if recipe.recovery_steps:
        again = recipe.recovery_of(trained)
        name = f"{label}, recovery (seed {seed})"
        train_stage(str(folder / label), folder / RECOVERY / label, again, label=name, progress=progress)
    exact, first_tokens = (functools.partial(recipe.jobs_of, data, exact=exact) for exact in (True, False))
    measure_row(recipe, label, folder / label, task0, folder, jobs=exact, frontier_jobs=first_tokens, progress=progress)


def _check_model(recipe: BiosRecipe) -> None:
    """Raise RequestError for a model that cannot be made or upscaled, or a tokenizer that does not load."""
    from scale_cli.model import LayerShape
    from scale_cli.surgery.depth import check_block_init, plan_depth
    from scale_cli.surgery.upscale import DEFAULT_INIT
    from scale_cli.surgery.width import parse_init, plan_width

    config = _model_config(recipe)
    init = parse_init(recipe.width.get("init", DEFAULT_INIT))
    sizes = {name: value for name, value in recipe.width.items() if name != "init"}
    plan_width(LayerShape.of(config), vocab_size=config.vocab_size, init=init, name="the model", **sizes)
    plan_depth(config.num_hidden_layers, layers=recipe.depth["layers"], name="the model")
    for label in recipe.methods:
        upscaling, trained = recipe.upscaling(label), recipe.train_recipe(label, seed=0)
        METHODS[trained.method].resolve(trained.options, config)
        if upscaling is not None and "init" in upscaling.options:
            (check_block_init if upscaling.by == "depth" else parse_init)(upscaling.options["init"])
    if recipe.tokenizer not in TOKENIZERS:
        _load_tokenizer(recipe.tokenizer)


def _load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or hub id. RequestError if it does not load or has no end-of-text token."""
    from transformers import AutoTokenizer

    from scale_cli.data.examples import end_of_text

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"tokenizer {source!r} does not load ({str(error).splitlines()[0]}); give {', '.join(TOKENIZERS)}, a "
            "folder or a hub id that can be reached"
        ) from error
    end_of_text(tokenizer)
    return tokenizer


def base_config(recipe: BiosRecipe) -> dict[str, Any]:
    """The config of the model that is pre-trained, with the recipe's largest vocabulary."""
    return dict(_model_config(recipe, vocab_size=recipe.vocab_size).to_dict())


def _model_config(recipe: BiosRecipe, **defaults: Any) -> Any:
    """The GPTNeoXConfig of the recipe's `model`, which overrides `defaults`. RequestError for unknown arguments."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import GPTNeoXConfig

    known = {field.name for field in dataclasses.fields(GPTNeoXConfig)}
    if unknown := [name for name in recipe.model if name not in known]:
        raise RequestError(f"model: GPTNeoXConfig has no {unknown[0]!r}; choose from {', '.join(sorted(known))}")
    try:
        return GPTNeoXConfig(**(defaults | dict(recipe.model)))
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise RequestError(f"model: {' '.join(str(error).split())}") from error


def make_data(recipe: BiosRecipe, data: Path) -> None:
    """Write the biographies and questions into the folder `data`."""
    import data_gen

    split = recipe.pretrain_people if recipe.answers == "split" else None
    data_gen.generate(data, people=recipe.people, bios=recipe.bios, seed=recipe.data_seed, split_answers=split)


def make_init(recipe: BiosRecipe, data: Path, init: Path) -> None:
    """Write the tokenizer and the model's config into the folder `init`. data: the folder of `make_data`."""
    from scale_cli.data.biographies import read_biographies, read_questions

    if recipe.tokenizer in TOKENIZERS:
        texts = read_biographies(data) + [question.prompt + question.answer for question in read_questions(data)]
        tokenizer = fast_tokenizer(train_tokenizer(texts, recipe.tokenizer, recipe.vocab_size))
    else:
        tokenizer = _load_tokenizer(recipe.tokenizer)
    end = tokenizer.eos_token_id
    config = _model_config(recipe, vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end)
    with new_folder(init) as folder:
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)


def _train_task0(
    recipe: BiosRecipe,
    seed: int,
    data: Path,
    init: Path,
    folder: Path,
    *,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """Train the stages pretrain and task0. Raises RequestError if held-out accuracy is below `task0_needed`."""
    pretrain = recipe.train_recipe("pretrain", seed=seed, data=data)
    train_stage(str(init), folder / "pretrain", pretrain, label=f"pretrain (seed {seed})", progress=progress)
    task0 = recipe.train_recipe("task0", seed=seed, data=data)
    label = f"task0 (seed {seed})"
    record = train_stage(str(folder / "pretrain"), folder / "task0", task0, label=label, progress=progress)
    held_out = next(m.value for m in runs.measured(record) if (m.task, m.metric) == TASK0)
    say(f"Task 0, held-out people, hard first-token accuracy: {held_out:.3f}")
    if held_out < recipe.task0_needed:
        raise RequestError(
            f"Task 0 reached {held_out:.3f} on its held-out people and {recipe.task0_needed:g} is needed before Task "
            "1, because below that forgetting is meaningless; give the stages pretrain or task0 more steps, or choose "
            "other --seeds"
        )
