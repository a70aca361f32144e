"""The recipe of continual pre-training, and its presets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scale_cli.bench import stages
from scale_cli.bench.continual_results import EVALUATION
from scale_cli.bench.stages import BenchRecipe, train_recipe
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe
from scale_cli.methods import DEFAULT_METHOD
from scale_cli.results.groups import ROLES, Role
from scale_cli.training import TrainRecipe

FETCH = "fetch:"
"""Prefix of "fetch:ITEM" and "fetch:ITEM/PATH": the output of `scale fetch ITEM`, written into the run folder."""
TEXTS = "texts"
"""The folder of the held-out documents that are measured."""
SCRATCH = "scratch"
"""The `base` of a recipe that pre-trains one from random weights."""
PRETRAIN_TEXTS = ("data", "tokenizer_data")
"""Fields of `Pretraining` with sources."""
FIXED = ("objective", "from_scratch", "people", "eval_people", "eval_bios", "eval_documents")
"""Training options that a recipe must not set."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A held-out text that is measured.

    source: a source of `scale eval --perplexity`. role: the side of the trade-off that it measures.
    documents: number of documents measured at the end, from the first. documents_while_training: number measured while
        training, None for the same number.
    """

    source: str
    role: Literal["stability", "plasticity"]
    documents: int
    documents_while_training: int | None = None

    @property
    def fewer(self) -> int:
        """The number of documents measured while training."""
        return self.documents if self.documents_while_training is None else self.documents_while_training


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How the base is made from random weights.

    data: sources of the text. tokenizer_data: sources of further text on which the tokenizer is trained too, so that
        its tokens also fit the language to come. vocab_size: number of tokens, byte-level BPE.
    training: training options.
    """

    data: tuple[str, ...]
    tokenizer_data: tuple[str, ...] = ()
    vocab_size: int = 4096
    training: Mapping[str, Any] = field(default_factory=dict)

    def train_recipe(self, data: Sequence[str]) -> TrainRecipe:
        """The training recipe. data: sources of the text, without "fetch:". Raises RequestError."""
        own = {"method": DEFAULT_METHOD, "objective": "lm", "from_scratch": True, "data": tuple(data)}
        return train_recipe("pretrain", self.training, own)


@dataclass(frozen=True, kw_only=True)
class ContinualRecipe(BenchRecipe):
    """The resolved recipe of a continual pre-training benchmark.

    base: folder or hub id of a checkpoint, or "scratch" for one that is pre-trained from random weights, with `config`
        as its config, once for all seeds.
    pretrain: how the base is pre-trained, with the fields of `Pretraining`.
    train_data: sources of the new text, as in `scale train --data`.
    texts: the held-out texts by name, each with the fields of `Text`; at least one per role.
        Base, sources and suites may also be "fetch:ITEM/PATH", files that `scale fetch ITEM` writes.
    training: training options shared by all rows.
    suites: suites measured at the end, as in `scale eval --suite`. limit: number of items of each of their tasks, from
        the first; None for all.
    fetched: folder with outputs of `scale fetch` by item, which are then not fetched; None: the run's own.
    drift: whether drift from the base is measured for every trained row. It is always measured for methods that keep
        the base.
    precision: precision of all trainings, overrides the one in `training`.
    config: config of the base, for a dry run without the base itself, and of the one that is pre-trained.
    A row with `of` has no training of its own: it is the row named there, with the router's threshold changed.
    """

    reserved = (EVALUATION, *BenchRecipe.reserved)

    base: str
    train_data: tuple[str, ...]
    texts: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any]
    suites: tuple[str, ...] = ()
    limit: int | None = None
    fetched: Path | None = None
    drift: bool = False
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    config: Mapping[str, Any] | None = field(default=None)
    pretrain: Mapping[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if missing := [role for role in ROLES if role not in {text.role for text in self.held_out.values()}]:
            raise RequestError(f"texts {', '.join(self.texts) or '(none)'}: add a text with the role {missing[0]}")
        for name, text in self.held_out.items():
            if min(text.documents, text.fewer) < 2:
                raise RequestError(f"texts: {name}: documents and documents_while_training are at least 2")
        if (self.base == SCRATCH) != (self.pretrain is not None):
            raise RequestError(f"base {self.base}: the base {SCRATCH} needs `pretrain`, and no other base has it")
        if self.pretraining is not None:
            if not self.config:
                raise RequestError(f"base {SCRATCH}: give its `config`")
            self.pretraining.train_recipe(("data",))
        if self.limit is not None and self.limit < 1:
            raise RequestError(f"limit {self.limit}: at least 1")
        if not self.train_data:
            raise RequestError("train_data is empty; name texts to train on")
        for index, label in enumerate(self.methods):
            self.train_recipe(label, seed=0)
            if (source := self.trained_by(label)) != label and source not in list(self.methods)[:index]:
                raise RequestError(f"{label}: it shows the training of {source}; put the row {source} before it")

    @property
    def words(self) -> str:
        """The arguments of `scale bench` that run this recipe."""
        return f"korean --preset {self.preset}{self.options}"

    @property
    def options(self) -> str:
        """The options --seeds and --precision with a leading space each; empty for their defaults."""
        return super().options + ("" if self.precision is None else f" --precision {self.precision}")

    @property
    def held_out(self) -> dict[str, Text]:
        """The held-out texts by name. Raises RequestError for unknown, missing or wrong fields."""
        texts = {}
        for name, fields in self.texts.items():
            try:
                texts[name] = load_recipe(Text, None, fields)
            except RequestError as error:
                raise RequestError(f"texts: {name}: {error}") from error
        return texts

    @property
    def pretraining(self) -> Pretraining | None:
        """How the base is made, None if it exists. Raises RequestError for unknown, missing or wrong fields."""
        if self.pretrain is None:
            return None
        try:
            return load_recipe(Pretraining, None, self.pretrain)
        except RequestError as error:
            raise RequestError(f"pretrain: {error}") from error

    @property
    def roles(self) -> dict[str, Role]:
        """The role of each held-out text."""
        return {name: text.role for name, text in self.held_out.items()}

    def trained_by(self, label: str) -> str:
        """The row whose training a row shows: its own, or the one named under `of`."""
        return str(self.methods[label].get("of", label))

    def matches_rank(self, label: str) -> bool:
        """Whether the recipe leaves the size of a row's method open, so that it is matched to the width expansion."""
        return self.size_is_open(label, self.training)

    def train_recipe(
        self, label: str, *, seed: int, data: Sequence[str] = ("data",), texts: Path = Path(TEXTS)
    ) -> TrainRecipe:
        """The training recipe of a row.

        data: sources of the new text, without "fetch:". texts: the folder of the held-out texts.
        Raises RequestError for options that are unknown or that the benchmark decides.
        """
        own = {
            "method": self.method_of(label),
            "data": tuple(data),
            "seed": seed,
            "eval_text": tuple(f"{name}={text_file(texts, name, whole=False)}" for name in self.texts),
        }
        given = dict(self.training) | self.differing(label)
        if self.precision is not None:
            given["precision"] = self.precision
        return train_recipe(label, given, own, fixed=FIXED)

    @property
    def step_tokens(self) -> int:
        """Tokens per training step, over all processes."""
        recipe = self.train_recipe(next(iter(self.methods)), seed=0)
        return self.gpus * recipe.batch_size * recipe.gradient_accumulation_steps * self.seq_length

    @property
    def seq_length(self) -> int:
        """Tokens per sequence, in training and in measuring."""
        return int(self.training.get("seq_length") or 512)


def load_preset(
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    **changes: Any,
) -> ContinualRecipe:
    """The recipe of a preset, as `load_changed` reads it."""
    return load_changed(ContinualRecipe, "korean", name, methods=methods, seeds=seeds, **changes)


def load_changed(
    cls: type[stages.Recipe],
    bench: str,
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
    sources: Mapping[str, str] | None = None,
    **changes: Any,
) -> stages.Recipe:
    """The recipe of a preset of continual pre-training.

    cls, bench, name, methods, seeds, jobs: as in `stages.load_preset`.
    sources: sources of held-out texts by name, override the preset's.
    changes: other fields, override the preset's; None keeps the preset's.
    Raises RequestError for an unknown preset, row, text or field, and for values that do not fit.
    """
    if changes.get("base") is not None:
        changes |= {"config": {}, "pretrain": None}  # the preset's is the config of its own base
    recipe: Any = stages.load_preset(cls, bench, name, methods=methods, seeds=seeds, jobs=jobs, changes=changes)
    if absent := [text for text in sources or () if text not in recipe.texts]:
        raise RequestError(
            f"--text {absent[0]}=...: the preset has no such text; choose from {', '.join(recipe.texts)}"
        )
    texts = {text: {**recipe.texts[text], "source": source} for text, source in (sources or {}).items()}
    return dataclasses.replace(recipe, texts={**recipe.texts, **texts})


def from_older(recipe: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stored recipe in today's format. Older recipes have a field per language instead of `texts`."""
    if "texts" in recipe:
        return recipe
    while_training = recipe.pop("documents_while_training")
    documents = recipe.pop("documents")
    recipe["texts"] = {
        name: {
            "source": recipe.pop(f"{name}_data"),
            "role": role,
            "documents": documents[name],
            "documents_while_training": while_training[name],
        }
        for name, role in (("english", "stability"), ("korean", "plasticity"))
    }
    return recipe


def text_line(document: str) -> str:
    """A document as a line of a file of texts."""
    return json.dumps({"text": document}, ensure_ascii=False) + "\n"


def text_file(texts: Path, name: str, *, whole: bool) -> Path:
    """The file of a text's documents: all that are measured at the end, or those measured while training."""
    return texts / f"{name}{'' if whole else '-while-training'}.jsonl"
