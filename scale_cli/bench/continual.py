"""Continual pre-training as in SCALE (arXiv 2511.03270): learn a new text, and see what the old ones cost.

The presets of "korean" are the paper's: Korean is learnt and English kept; another language is another recipe file. A
run is a folder of stages, each whole or not there, so an interrupted run goes on:

    OUT/fetched/<item>                      what `scale fetch` makes, where the recipe names it
    OUT/texts                               the held-out documents that are measured
    OUT/width, OUT/width-INIT, OUT/depth    the base, upscaled
    OUT/seed-S/<method>                     trained with each method, from the same base in the same order
    OUT/evaluation, OUT/seed-S/evaluation   the base and every method measured at the end
    OUT/results.json, table.md, *.png       the results
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scale_cli.bench import stages
from scale_cli.bench.continual_results import BASE, EVALUATION, panels_of, results_of, write
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
from scale_cli.core.files import new_folder, write_text
from scale_cli.core.recipe import changed, load_recipe
from scale_cli.evaluation.suites import find_suite
from scale_cli.methods import METHODS
from scale_cli.reporting.columns import suite_group
from scale_cli.results.groups import ROLES, Role, text_group
from scale_cli.training import TrainRecipe

FETCH = "fetch:"
"""Before ITEM or ITEM/PATH: what `scale fetch ITEM` makes, made below the run folder."""
FETCHED, TEXTS = "fetched", "texts"
FIXED = ("objective", "from_scratch", "people", "eval_people", "eval_bios", "eval_documents")
"""Training options that the benchmark leaves alone."""
"""The method whose half of the base computes what the base did, to the last bit."""
DRIFT_TOKENS = 4096
"""Of each text, on which that is checked; a single wrong weight shows on the first of them."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A held-out text that is measured.

    source: as `scale eval --perplexity` takes it. role: which side of the trade-off it measures.
    documents: its first so many are measured at the end; documents_while_training: in between, None for as many.
    """

    source: str
    role: Literal["stability", "plasticity"]
    documents: int
    documents_while_training: int | None = None

    @property
    def fewer(self) -> int:
        return self.documents if self.documents_while_training is None else self.documents_while_training


@dataclass(frozen=True, kw_only=True)
class ContinualRecipe(BenchRecipe):
    """The resolved recipe of a continual pre-training benchmark.

    base: a checkpoint's folder or hub id. train_data: sources of the new text as `scale train --data` takes them.
    texts: by name the held-out texts, with the fields of `Text`; some of each role.
        Base and sources may be `fetch:ITEM/PATH` as well, with what `scale fetch` makes.
    training: options of training that the rows have in common.
    suites: measured at the end. limit: the first so many items of each of their tasks, None for all.
    drift: how far every row that is trained has moved from the base is measured as well.
    precision: of the arithmetic in all trainings, in place of the one under `training`.
    config: of the base, for a dry run where the base is not at hand.
    """

    reserved = (EVALUATION, *BenchRecipe.reserved)

    base: str
    train_data: tuple[str, ...]
    texts: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any]
    suites: tuple[str, ...] = ()
    limit: int | None = None
    drift: bool = False
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    config: Mapping[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if missing := [role for role in ROLES if role not in {text.role for text in self.held_out.values()}]:
            raise RequestError(f"texts {', '.join(self.texts) or '(none)'}: name one with the role {missing[0]} too")
        for name, text in self.held_out.items():
            if min(text.documents, text.fewer) < 2:
                raise RequestError(f"texts: {name}: at least 2 documents, and as many while training")
        if self.limit is not None and self.limit < 1:
            raise RequestError(f"limit {self.limit}: at least 1")
        if not self.train_data:
            raise RequestError("train_data is empty; name texts to train on")
        for place, label in enumerate(self.methods):
            self.train_recipe(label, seed=0)
            if (of := self.trained_by(label)) != label and of not in list(self.methods)[:place]:
                raise RequestError(f"{label}: there is no row {of} before it, whose training it shows")

    @property
    def words(self) -> str:
        """The words behind `scale bench` that start it."""
        return f"korean --preset {self.preset}{self.options}"

    @property
    def options(self) -> str:
        """The words of the seeds and the precision, where they are not those of a preset that names none."""
        return super().options + ("" if self.precision is None else f" --precision {self.precision}")

    @property
    def held_out(self) -> dict[str, Text]:
        """The held-out texts by name. Raises RequestError for fields that do not fit."""
        texts = {}
        for name, fields in self.texts.items():
            try:
                texts[name] = load_recipe(Text, None, fields)
            except RequestError as error:
                raise RequestError(f"texts: {name}: {error}") from error
        return texts

    @property
    def roles(self) -> dict[str, Role]:
        """The role of each held-out text."""
        return {name: text.role for name, text in self.held_out.items()}

    def trained_by(self, label: str) -> str:
        """The row whose training a row shows: itself, or that of `of`, whose router it gives another threshold."""
        return str(self.methods[label].get("of", label))

    def matches_rank(self, label: str) -> bool:
        """Whether the recipe leaves the size of a row's method open: then it is matched to the width expansion."""
        return self.size_is_open(label, self.training)

    def train_recipe(
        self, label: str, *, seed: int, data: Sequence[str] = ("data",), texts: Path = Path(TEXTS)
    ) -> TrainRecipe:
        """The training recipe of a row.

        data: sources of the new text, what is fetched being there. texts: the folder of the held-out ones.
        Raises RequestError for options that are unknown, or not the recipe's to decide.
        """
        own = {
            "method": self.method_of(label),
            "data": tuple(data),
            "seed": seed,
            "eval_text": tuple(f"{name}={_text_file(texts, name, whole=False)}" for name in self.texts),
        }
        given = dict(self.training) | self.differing(label)
        if self.precision is not None:
            given["precision"] = self.precision
        return train_recipe(label, given, own, fixed=FIXED)

    @property
    def step_tokens(self) -> int:
        """Tokens of a training step of all processes."""
        recipe = self.train_recipe(next(iter(self.methods)), seed=0)
        return self.gpus * recipe.batch_size * recipe.gradient_accumulation_steps * self.seq_length

    @property
    def seq_length(self) -> int:
        """Tokens of a sequence, in training and measuring."""
        return int(self.training.get("seq_length") or 512)


def load_preset(
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    **changes: Any,
) -> ContinualRecipe:
    """The recipe of a preset; see `stages.load_preset`. changes: fields in place of the preset's, None for none;
    `sources` are those of texts, by name."""
    return load_changed(ContinualRecipe, "korean", name, methods=methods, seeds=seeds, **changes)


def load_changed(
    cls: type[stages.Recipe],
    bench: str,
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    sources: Mapping[str, str] | None = None,
    **changes: Any,
) -> stages.Recipe:
    """The recipe of a preset of continual pre-training, of the class `cls`, with changes as of `load_preset`."""
    if changes.get("base") is not None:
        changes["config"] = {}  # that of the preset's own base
    recipe: Any = stages.load_preset(cls, bench, name, methods=methods, seeds=seeds, changes=changes)
    if absent := [text for text in sources or () if text not in recipe.texts]:
        raise RequestError(
            f"--text {absent[0]}=...: the preset has no such text; choose from {', '.join(recipe.texts)}"
        )
    texts = {text: {**recipe.texts[text], "source": source} for text, source in (sources or {}).items()}
    return dataclasses.replace(recipe, texts={**recipe.texts, **texts})


def from_older(recipe: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that named its texts by their languages, in today's shape."""
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


def run(recipe: ContinualRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> BenchResult:
    """Run the benchmark into `out`, or what is missing of it there.

    say: told what begins. progress: shows each training and each measurement.
    Raises RequestError for what does not fit together, and where `out` holds another recipe's run.
    """
    say, progress = of_first_process(recipe, say, progress)
    whole = claim(recipe, out, read=from_older)
    with clocked(out) as seconds:
        _run_stages(recipe, out, say=say, progress=progress)
    groups = [text_group(name, role) for name, role in recipe.roles.items()]
    groups += [suite_group(find_suite(_at(word, out / FETCHED))) for word in recipe.suites]
    results, panels = results_of(whole, out), panels_of(whole, out)
    result = BenchResult(out, whole, recipe.command, results, tuple(groups), panels, seconds())
    if processes().is_main_process:
        write(result)
    return result


def _run_stages(recipe: ContinualRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> None:
    """All stages, whatever of them was there already."""
    with processes().main_process_first():
        recipe = _fetch(recipe, out / FETCHED, say=say)
        _write_texts(recipe, out / TEXTS, say=say)
        matched = any(map(recipe.matches_rank, recipe.methods))
        upscale_stages(recipe, recipe.base, out, seed=0, width_too=matched, say=say)
    _measure(recipe, recipe.base, BASE, out, out / EVALUATION, progress=progress, drift=False)
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        for label in recipe.methods:
            trained = recipe.train_recipe(label, seed=seed, data=recipe.train_data, texts=out / TEXTS)
            if recipe.matches_rank(label):
                trained = changed(trained, **matching_size(trained.method, recipe.base, out / "width"))
            of = recipe.trained_by(label)
            if of == label:
                source, shown = source_of(recipe, label, recipe.base, out), f"{label} (seed {seed})"
                train_stage(source, folder / label, trained, label=shown, progress=progress)
            else:
                with processes().main_process_first():
                    _reroute(folder / of, folder / label, trained)
            _measure(
                recipe,
                str(folder / label),
                label,
                out,
                folder / EVALUATION,
                progress=progress,
                drift=of == label and (recipe.drift or METHODS[trained.method].keeps_base),
            )


def _reroute(run: Path, out: Path, recipe: TrainRecipe) -> None:
    """The model that a run has trained, in `out`, with the options of its method that this recipe has."""
    from scale_cli.checkpoints.load import describe, save_pointer
    from scale_cli.training.train import RECIPE, RECORD

    if out.exists():
        return
    trained = describe(str(run))
    assert trained.base is not None
    with new_folder(out) as folder:
        shutil.copytree(run, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD, RECIPE, "metrics.jsonl"))
        save_pointer(trained.base, folder, recipe.method, recipe.options)


def _at(word: str, folder: Path) -> str:
    """A base or source: what the word `fetch:ITEM/PATH` stands for below `folder`; another word as it is."""
    return str(folder / word.removeprefix(FETCH)) if word.startswith(FETCH) else word


def _fetch(recipe: ContinualRecipe, folder: Path, *, say: Callable[[str], None]) -> ContinualRecipe:
    """The recipe with what it names as `fetch:` made below `folder`, each thing once."""
    from scale_cli.core.files import default_cache
    from scale_cli.material.fetch import make

    def found(word: str) -> str:
        item = word.removeprefix(FETCH).partition("/")[0]
        if word.startswith(FETCH) and not (folder / item).exists():
            say(f"fetch: {item}")
            make(item, folder / item, cache=default_cache())
        return _at(word, folder)

    return dataclasses.replace(
        recipe,
        base=found(recipe.base),
        train_data=tuple(map(found, recipe.train_data)),
        texts={name: {**text, "source": found(text["source"])} for name, text in recipe.texts.items()},
        suites=tuple(map(found, recipe.suites)),
    )


def _text_file(texts: Path, name: str, *, whole: bool) -> Path:
    return texts / f"{name}{'' if whole else '-while-training'}.jsonl"


def _write_texts(recipe: ContinualRecipe, texts: Path, *, say: Callable[[str], None]) -> None:
    """The documents that are measured, the first ones of each source, so that all methods see the same."""
    from scale_cli.data.corpora import read_corpora

    if texts.exists():
        return
    documents: dict[str, Sequence[str]] = {}
    for name, text in recipe.held_out.items():
        (corpus,) = read_corpora([f"{name}={text.source}"], limit=text.documents, option="--text")
        documents[name] = corpus.documents
    with new_folder(texts) as folder:
        for name, found in documents.items():
            for whole, count in ((True, None), (False, recipe.held_out[name].fewer)):
                lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found[:count])
                write_text(_text_file(folder, name, whole=whole), "".join(lines))
    counts = ", ".join(f"{len(found):,} {name}" for name, found in documents.items())
    say(f"texts: {counts} documents are measured")


def _measure(
    recipe: ContinualRecipe, checkpoint: str, label: str, out: Path, results: Path, *, progress: Progress, drift: bool
) -> None:
    """Measure a checkpoint: texts, suites and, if wanted, whether the base's half of it is the base."""
    from scale_cli.data.corpora import read_corpora
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.drift import DriftJob
    from scale_cli.evaluation.evaluate import Job, evaluate
    from scale_cli.evaluation.perplexity import PerplexityJob

    windows = WindowOptions(recipe.seq_length)
    corpora = read_corpora([f"{name}={_text_file(out / TEXTS, name, whole=True)}" for name in recipe.texts])
    jobs: list[Job] = [PerplexityJob(corpus, windows) for corpus in corpora]
    if drift:
        jobs.append(DriftJob(corpora, windows, recipe.base, DRIFT_TOKENS))
    if recipe.suites:
        from scale_cli.evaluation.harness import suite_tasks, without_repetitions

        found = [suite_tasks(find_suite(word), limit=recipe.limit) for word in recipe.suites]
        jobs += without_repetitions([task for tasks in found for task in tasks])
    evaluate(
        [f"{label}={checkpoint}"],
        jobs,
        out=results,
        command=recipe.command,
        progress=lambda shown, total: progress(shown, total, done=0),
    )
    processes().wait_for_everyone()
