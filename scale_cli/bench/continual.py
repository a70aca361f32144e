"""Continual pre-training as in SCALE (arXiv 2511.03270): train on a new text, measure gain and forgetting.

The presets of "korean" are the paper's: trained on Korean, forgetting measured on English. A recipe file of your own
can name other texts. A run is a folder of stages. A stage's folder is complete or does not exist, so an interrupted run
can continue:

    OUT/fetched/<item>                      outputs of `scale fetch` that the recipe names
    OUT/texts                               the held-out documents that are measured
    OUT/width, OUT/width-INIT, OUT/depth    the base, upscaled
    OUT/seed-S/<method>                     trained with each method, on the same tokens in the same order
    OUT/evaluation, OUT/seed-S/evaluation   final measurements of the base and of every row
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
from scale_cli.bench.routers import check_routers, measure_rows
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
"""Prefix of "fetch:ITEM" and "fetch:ITEM/PATH": the output of `scale fetch ITEM`, written into the run folder."""
FETCHED, TEXTS = "fetched", "texts"
FIXED = ("objective", "from_scratch", "people", "eval_people", "eval_bios", "eval_documents")
"""Training options that a recipe must not set."""
DRIFT_TOKENS = 4096
"""Tokens of each text on which drift is measured. Few suffice, because almost every weight affects every token."""


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
class ContinualRecipe(BenchRecipe):
    """The resolved recipe of a continual pre-training benchmark.

    base: folder or hub id of a checkpoint. train_data: sources of the new text, as in `scale train --data`.
    texts: the held-out texts by name, each with the fields of `Text`; at least one per role.
        Base, sources and suites may also be "fetch:ITEM/PATH", files that `scale fetch ITEM` writes.
    training: training options shared by all rows.
    suites: suites measured at the end, as in `scale eval --suite`. limit: number of items of each of their tasks, from
        the first; None for all.
    drift: whether drift from the base is measured for every trained row. It is always measured for methods that keep
        the base.
    precision: precision of all trainings, overrides the one in `training`.
    config: config of the base, for a dry run without the base itself.
    A row with `of` has no training of its own: it is the row named there, with the router's threshold changed.
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
            raise RequestError(f"texts {', '.join(self.texts) or '(none)'}: add a text with the role {missing[0]}")
        for name, text in self.held_out.items():
            if min(text.documents, text.fewer) < 2:
                raise RequestError(f"texts: {name}: documents and documents_while_training are at least 2")
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
            "eval_text": tuple(f"{name}={_text_file(texts, name, whole=False)}" for name in self.texts),
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
    sources: Mapping[str, str] | None = None,
    **changes: Any,
) -> stages.Recipe:
    """The recipe of a preset of continual pre-training.

    cls, bench, name, methods, seeds: as in `stages.load_preset`.
    sources: sources of held-out texts by name, override the preset's.
    changes: other fields, override the preset's; None keeps the preset's.
    Raises RequestError for an unknown preset, row, text or field, and for values that do not fit.
    """
    if changes.get("base") is not None:
        changes["config"] = {}  # the preset's is the config of its own base
    recipe: Any = stages.load_preset(cls, bench, name, methods=methods, seeds=seeds, changes=changes)
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


def run(recipe: ContinualRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> BenchResult:
    """Run the benchmark into `out`; finished stages there are kept.

    say: called with messages on data and checkpoints. progress: displays each training and each measurement.
    Returns the results of all calls on `out`.
    Raises RequestError if a base, text or suite is missing or does not fit, if `out` holds a run of another recipe, and
    if the number of processes is not the recipe's.
    """
    check_routers(recipe)
    say, progress = of_first_process(recipe, say, progress)
    whole = claim(recipe, out, read=from_older)
    with clocked(out) as seconds:
        _run_stages(recipe, out, say=say, progress=progress)
    groups = [text_group(name, role) for name, role in recipe.roles.items()]
    groups += [suite_group(find_suite(_at(suite, out / FETCHED))) for suite in recipe.suites]
    results, panels = results_of(whole, out), panels_of(whole, out)
    result = BenchResult(out, whole, recipe.command, results, tuple(groups), panels, seconds())
    if processes().is_main_process:
        write(result)
    return result


def _run_stages(recipe: ContinualRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> None:
    """Run all stages that are not complete."""
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
            row = recipe.trained_by(label)
            if row == label:
                source = source_of(recipe, label, recipe.base, out)
                train_stage(source, folder / label, trained, label=f"{label} (seed {seed})", progress=progress)
            else:
                with processes().main_process_first():
                    _reroute(folder / row, folder / label, trained)
            _measure(
                recipe,
                str(folder / label),
                label,
                out,
                folder / EVALUATION,
                progress=progress,
                drift=row == label and (recipe.drift or METHODS[trained.method].keeps_base),
            )
        runs = {label: folder / label for label in recipe.methods if recipe.trained_by(label) == label}
        measure_rows(
            recipe,
            runs,
            recipe.base,
            folder,
            jobs=lambda: _text_jobs(recipe, out) + _suite_jobs(recipe),
            frontier_jobs=lambda: _text_jobs(recipe, out),
            progress=progress,
        )


def _reroute(run: Path, out: Path, recipe: TrainRecipe) -> None:
    """Copy the trained model of a run to `out`, with the method's options from `recipe`."""
    from scale_cli.checkpoints.load import describe, save_pointer
    from scale_cli.training.request import RECIPE, RECORD

    if out.exists():
        return
    trained = describe(str(run))
    assert trained.base is not None
    with new_folder(out) as folder:
        shutil.copytree(run, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD, RECIPE, "metrics.jsonl"))
        save_pointer(trained.base, folder, recipe.method, recipe.options, pin=trained.base_fingerprint)


def _at(source: str, folder: Path) -> str:
    """The path of "fetch:ITEM/PATH" in `folder`; any other source unchanged."""
    return str(folder / source.removeprefix(FETCH)) if source.startswith(FETCH) else source


def _fetch(recipe: ContinualRecipe, folder: Path, *, say: Callable[[str], None]) -> ContinualRecipe:
    """Fetch the recipe's "fetch:" items into `folder`, each once. Returns the recipe with their paths."""
    from scale_cli.core.files import default_cache
    from scale_cli.material.fetch import make

    def fetched(source: str) -> str:
        item = source.removeprefix(FETCH).partition("/")[0]
        if source.startswith(FETCH) and not (folder / item).exists():
            say(f"fetch: {item}")
            make(item, folder / item, cache=default_cache())
        return _at(source, folder)

    return dataclasses.replace(
        recipe,
        base=fetched(recipe.base),
        train_data=tuple(map(fetched, recipe.train_data)),
        texts={name: {**text, "source": fetched(text["source"])} for name, text in recipe.texts.items()},
        suites=tuple(map(fetched, recipe.suites)),
    )


def _text_file(texts: Path, name: str, *, whole: bool) -> Path:
    """The file of a text's documents: all that are measured at the end, or those measured while training."""
    return texts / f"{name}{'' if whole else '-while-training'}.jsonl"


def _write_texts(recipe: ContinualRecipe, texts: Path, *, say: Callable[[str], None]) -> None:
    """Write the first documents of each held-out text into the folder `texts`. All rows are measured on these files."""
    from scale_cli.data.corpora import read_corpora

    if texts.exists():
        return
    by_name: dict[str, Sequence[str]] = {}
    for name, text in recipe.held_out.items():
        (corpus,) = read_corpora([f"{name}={text.source}"], limit=text.documents, option="--text")
        by_name[name] = corpus.documents
    with new_folder(texts) as folder:
        for name, documents in by_name.items():
            for whole, count in ((True, None), (False, recipe.held_out[name].fewer)):
                lines = (json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents[:count])
                write_text(_text_file(folder, name, whole=whole), "".join(lines))
    counts = ", ".join(f"{len(documents):,} {name}" for name, documents in by_name.items())
    say(f"texts: {counts} documents are measured")


def _measure(
    recipe: ContinualRecipe, checkpoint: str, label: str, out: Path, results: Path, *, progress: Progress, drift: bool
) -> None:
    """Measure a checkpoint on texts and suites into the folder `results`. drift: also measure drift from the base."""
    from scale_cli.evaluation.evaluate import evaluate

    evaluate(
        [f"{label}={checkpoint}"],
        _text_jobs(recipe, out, drift=drift) + _suite_jobs(recipe),
        out=results,
        command=recipe.command,
        progress=lambda job, total: progress(job, total, done=0),
    )
    processes().wait_for_everyone()


def _text_jobs(recipe: ContinualRecipe, out: Path, *, drift: bool = False) -> tuple[Any, ...]:
    """The jobs that measure the held-out texts. drift: also the drift from the base."""
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.request import request

    return request(
        texts=[f"{name}={_text_file(out / TEXTS, name, whole=True)}" for name in recipe.texts],
        windows=WindowOptions(recipe.seq_length),
        drift=drift,
        base=recipe.base if drift else None,
        drift_tokens=DRIFT_TOKENS,
    ).jobs


def _suite_jobs(recipe: ContinualRecipe) -> tuple[Any, ...]:
    """The jobs that run the suites."""
    from scale_cli.evaluation.request import request

    return request(suites=recipe.suites, limit=recipe.limit).jobs if recipe.suites else ()
