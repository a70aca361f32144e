"""The biography benchmark of SCALE (after arXiv 2501.13453): pre-train, learn Task 0, learn Task 1, see what is left.

A run is a folder of stages, each a folder of its own that is whole or not there, so an interrupted run goes on:

    OUT/data, OUT/init                          biographies; config and tokenizer
    OUT/seed-S/pretrain, task0                  from random weights; questions on half of the pre-training people
    OUT/seed-S/width, depth                     the Task 0 checkpoint, upscaled
    OUT/seed-S/<method>                         Task 1 with each method, from the same Task 0 checkpoint
    OUT/results.json, table.md, curves.png      what came out
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.bench import stages
from scale_cli.bench.bios_results import TASK0, measured, panels_of, results_of, write
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
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder
from scale_cli.core.recipe import changed
from scale_cli.data.options import parse_people
from scale_cli.methods import DEFAULT_METHOD
from scale_cli.results.groups import BIOGRAPHIES
from scale_cli.training import TrainRecipe

STAGES = ("pretrain", "task0", "task1")
FIXED = ("people", "from_scratch", "eval_people", "eval_bios")
"""Training options that the benchmark decides in every stage, if only to leave them out."""
TASK0_NEEDED = 0.95
"""Held-out Task 0 accuracy below which forgetting would mean nothing, so Task 1 is not begun."""


@dataclass(frozen=True, kw_only=True)
class BiosRecipe(BenchRecipe):
    """The resolved recipe of a biography benchmark.

    people, bios: of the data. pretrain_people: those whose biographies are learnt; Task 0 trains on
        the first half of them and is scored on the other. task1_people: those after them, whose biographies are never
        seen.
    tokenizer: "word" or "bpe", trained on the data and at most `vocab_size` tokens, or a hub id or folder to take one
        from. model: arguments of GPTNeoXConfig.
    eval_people: of each task only the first so many people are asked, None is all.
    stages: training options by stage: pretrain, task0, task1; rows of the table differ from task1.
    """

    reserved = (*STAGES, *BenchRecipe.reserved)

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.stages) != set(STAGES):
            raise RequestError(f"stages {', '.join(self.stages) or '(none)'}: give {', '.join(STAGES)}, each once")
        vocabulary = 257 if self.tokenizer == "bpe" else 3  # all bytes, or a word, and what every tokenizer has
        for name, least in (("bios", 1), ("eval_people", 1), ("vocab_size", vocabulary), ("data_seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RequestError(f"{name} {value}: at least {least}")
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
        """The words behind `scale bench` that start it."""
        return f"bios --preset {self.preset}{self.options}"

    @property
    def task0(self) -> str:
        """The people that Task 0 trains on."""
        return f"0:{self.pretrain_people // 2}"

    @property
    def task0_held_out(self) -> str:
        """The people that Task 0 is scored on: their biographies were learnt, their questions never seen."""
        return f"{self.pretrain_people // 2}:{self.pretrain_people}"

    @property
    def task1(self) -> str:
        """The people of Task 1."""
        return f"{self.pretrain_people}:{self.pretrain_people + self.task1_people}"

    def _first(self, people: str) -> str:
        first, last = parse_people(people)
        return f"{first}:{last if self.eval_people is None else min(last, first + self.eval_people)}"

    def matches_rank(self, label: str) -> bool:
        """Whether the recipe leaves the size of a row's method open: then it is matched to the width expansion."""
        return self.size_is_open(label, self.stages["task1"])

    def train_recipe(self, stage: str, *, seed: int, data: Path = Path("data")) -> TrainRecipe:
        """The training recipe of a stage: "pretrain", "task0" or a row of the table.

        Raises RequestError for options that are unknown, or not a stage's to decide.
        """
        evaluated = (f"task0={self._first(self.task0_held_out)}", f"task1={self._first(self.task1)}")
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


def load_preset(
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> BiosRecipe:
    """The recipe of a preset; see `stages.load_preset`."""
    return stages.load_preset(BiosRecipe, "bios", name, methods=methods, seeds=seeds)


def run(recipe: BiosRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> BenchResult:
    """Run the benchmark into `out`, or what is missing of it there.

    say: told what begins. progress: shows each training stage.
    Raises RequestError for a model that does not fit, where `out` holds another recipe's run, where there are not as
    many processes as the recipe wants, and where Task 0 is not learnt well enough.
    """
    _check_model(recipe)
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
    """All stages, whatever of them was there already."""
    data, init = out / "data", out / "init"
    with processes().main_process_first():
        if not data.exists():
            say(f"data: {recipe.people:,} people, {recipe.bios} biographies each")
            make_data(recipe, data)
        if not init.exists():
            say(f"tokenizer: {recipe.tokenizer}")
            make_init(recipe, data, init)
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        _train_task0(recipe, seed, data, init, folder, say=say, progress=progress)
        task0 = str(folder / "task0")
        matched = any(map(recipe.matches_rank, recipe.methods))
        with processes().main_process_first():
            upscale_stages(recipe, task0, folder, seed=seed, width_too=matched, say=say)
        for label in recipe.methods:
            trained = recipe.train_recipe(label, seed=seed, data=data)
            if recipe.matches_rank(label):
                trained = changed(trained, **matching_size(trained.method, task0, folder / "width"))
            source = source_of(recipe, label, task0, folder)
            train_stage(source, folder / label, trained, label=f"{label} (seed {seed})", progress=progress)


def _check_model(recipe: BiosRecipe) -> None:
    """Raise RequestError, before anything is made, for a model or tokenizer that cannot be, or cannot be upscaled."""
    from scale_cli.model import LayerShape
    from scale_cli.surgery.depth import plan_depth
    from scale_cli.surgery.upscale import DEFAULT_INIT
    from scale_cli.surgery.width import parse_init, plan_width

    config = _model_config(recipe)
    init = parse_init(recipe.width.get("init", DEFAULT_INIT))
    sizes = {name: value for name, value in recipe.width.items() if name != "init"}
    plan_width(LayerShape.of(config), vocab_size=config.vocab_size, init=init, name="the model", **sizes)
    plan_depth(config.num_hidden_layers, layers=recipe.depth["layers"], name="the model")
    if recipe.tokenizer not in TOKENIZERS:
        _load_tokenizer(recipe.tokenizer)


def _load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or hub id, which must have an end-of-text token."""
    from transformers import AutoTokenizer

    from scale_cli.data.examples import end_of_text

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"tokenizer {source!r} does not load ({str(error).splitlines()[0]}); give {', '.join(TOKENIZERS)}, a "
            "folder or a hub id that can be reached"
        ) from error
    end_of_text(tokenizer)
    return tokenizer


def base_config(recipe: BiosRecipe) -> dict[str, Any]:
    """The config of the model that is pre-trained, its vocabulary as large as the recipe allows."""
    return dict(_model_config(recipe, vocab_size=recipe.vocab_size).to_dict())


def _model_config(recipe: BiosRecipe, **defaults: Any) -> Any:
    """The GPTNeoXConfig of the recipe's `model`. Raises RequestError for arguments that it does not take."""
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
    """The biographies and questions."""
    import data_gen

    data_gen.generate(data, people=recipe.people, bios=recipe.bios, seed=recipe.data_seed)


def make_init(recipe: BiosRecipe, data: Path, init: Path) -> None:
    """The tokenizer and the model's config."""
    from transformers import PreTrainedTokenizerFast

    from scale_cli.data.biographies import read_biographies, read_questions

    if recipe.tokenizer in TOKENIZERS:
        texts = read_biographies(data) + [question.prompt + question.answer for question in read_questions(data)]
        trained = train_tokenizer(texts, recipe.tokenizer, recipe.vocab_size)
        tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_object=trained, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, unk_token=trained.model.unk_token
        )
    else:
        tokenizer = _load_tokenizer(recipe.tokenizer)
    end = tokenizer.eos_token_id
    config = _model_config(recipe, vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end)
    with new_folder(init) as folder:
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)


TOKENIZERS = ("word", "bpe")
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"


def train_tokenizer(texts: Sequence[str], kind: str, vocab_size: int) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocab_size` tokens, end-of-text the first of them.

    kind: "bpe", byte-level BPE; "word", one token for each of the commonest words and marks (the same pieces that BPE
        starts from), which keeps the vocabulary, and so the head, small where the texts have few words.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "bpe":
        trainer: Any = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=[END_OF_TEXT, UNKNOWN], show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


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
    """Pre-train and learn Task 0. Raises RequestError where its held-out accuracy is too low."""
    pretrain = recipe.train_recipe("pretrain", seed=seed, data=data)
    train_stage(str(init), folder / "pretrain", pretrain, label=f"pretrain (seed {seed})", progress=progress)
    task0 = recipe.train_recipe("task0", seed=seed, data=data)
    shown = f"task0 (seed {seed})"
    record = train_stage(str(folder / "pretrain"), folder / "task0", task0, label=shown, progress=progress)
    held_out = next(m.value for m in measured(record) if (m.task, m.metric) == TASK0)
    say(f"Task 0, held-out people, hard first-token accuracy: {held_out:.3f}")
    if held_out < TASK0_NEEDED:
        raise RequestError(
            f"Task 0 reached {held_out:.3f} on its held-out people and {TASK0_NEEDED} is needed before Task 1, else "
            "forgetting would mean nothing; give the stages pretrain or task0 more steps, or another --seeds"
        )
