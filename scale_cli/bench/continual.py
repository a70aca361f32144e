"""Continual pre-training as in SCALE (arXiv 2511.03270): train on a new text, measure gain and forgetting.

The presets of "korean" are the paper's: trained on Korean, forgetting measured on English. A recipe file of your own
can name other texts. A run is a folder of stages. A stage's folder is complete or does not exist, so an interrupted run
can continue:

    OUT/fetched/<item>                      outputs of `scale fetch` that the recipe names
    OUT/init, OUT/base                      with base "scratch": tokenizer and config, and the base pre-trained
    OUT/texts                               the held-out documents that are measured
    OUT/width, OUT/width-INIT, OUT/depth    the base, upscaled
    OUT/seed-S/<method>                     trained with each method, on the same tokens in the same order
    OUT/evaluation, OUT/seed-S/evaluation   final measurements of the base and of every row
    OUT/results.json, table.md, *.png       the results
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scale_cli.bench.continual_recipe import (
    FETCH,
    PRETRAIN_TEXTS,
    TEXTS,
    ContinualRecipe,
    from_older,
    text_file,
    text_line,
)
from scale_cli.bench.continual_results import BASE, EVALUATION, panels_of, results_of, write
from scale_cli.bench.routers import check_routers, measure_row
from scale_cli.bench.stages import (
    BenchResult,
    Progress,
    claim,
    clocked,
    matching_size,
    of_first_process,
    processes,
    source_of,
    train_stage,
    upscale_stages,
)
from scale_cli.bench.together import Call, run_together
from scale_cli.bench.tokenizer import fast_tokenizer, train_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, write_text
from scale_cli.core.recipe import changed
from scale_cli.evaluation.suites import find_suite
from scale_cli.methods import METHODS
from scale_cli.reporting.columns import suite_group
from scale_cli.results.groups import text_group
from scale_cli.training import TrainRecipe

FETCHED = "fetched"
"""The folder of the fetched items."""
DRIFT_TOKENS = 4096
"""Tokens of each text on which drift is measured. Few suffice, because almost every weight affects every token."""


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
    groups += [suite_group(find_suite(_at(suite, recipe.fetched or out / FETCHED))) for suite in recipe.suites]
    results, panels = results_of(whole, out), panels_of(whole, out)
    result = BenchResult(out, whole, recipe.command, results, tuple(groups), panels, seconds())
    if processes().is_main_process:
        write(result)
    return result


def _run_stages(recipe: ContinualRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> None:
    """Run all stages that are not complete."""
    with processes().main_process_first():
        recipe = _fetch(recipe, recipe.fetched or out / FETCHED, say=say)
    if recipe.pretraining is not None:
        recipe = dataclasses.replace(recipe, base=_pretrain(recipe, out, say=say, progress=progress), pretrain=None)
    with processes().main_process_first():
        _write_texts(recipe, out / TEXTS, say=say)
        matched = any(map(recipe.matches_rank, recipe.methods))
        upscale_stages(recipe, recipe.base, out, seed=0, width_too=matched, say=say)
    _measure(recipe, recipe.base, BASE, out, out / EVALUATION, progress=progress, drift=False)
    calls = [
        Call(functools.partial(_run_row, recipe, seed, label, out), recipe.train_recipe(label, seed=seed).steps)
        for seed in recipe.seeds
        for label in recipe.methods
        if recipe.trained_by(label) == label
    ]
    run_together(calls, recipe.jobs, say=say, progress=progress)
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        for label in recipe.methods:
            if (row := recipe.trained_by(label)) != label:
                with processes().main_process_first():
                    _reroute(folder / row, folder / label, _training(recipe, seed, label, out))
                _measure(recipe, str(folder / label), label, out, folder / EVALUATION, progress=progress, drift=False)


def _training(recipe: ContinualRecipe, seed: int, label: str, out: Path) -> TrainRecipe:
    """The training recipe of a row, with the size of its method."""
    trained = recipe.train_recipe(label, seed=seed, data=recipe.train_data, texts=out / TEXTS)
    if recipe.matches_rank(label):
        trained = changed(trained, **matching_size(trained.method, recipe.base, out / "width"))
    return trained


def _run_row(
    recipe: ContinualRecipe, seed: int, label: str, out: Path, *, say: Callable[[str], None], progress: Progress
) -> None:
    """Train a row and measure it, also under the recipe's routers."""
    folder = out / f"seed-{seed}"
    trained = _training(recipe, seed, label, out)
    source = source_of(recipe, label, recipe.base, out)
    train_stage(source, folder / label, trained, label=f"{label} (seed {seed})", progress=progress, say=say)
    drift = recipe.drift or METHODS[trained.method].keeps_base
    _measure(recipe, str(folder / label), label, out, folder / EVALUATION, progress=progress, drift=drift)
    measure_row(
        recipe,
        label,
        folder / label,
        recipe.base,
        folder,
        jobs=lambda: _text_jobs(recipe, out) + _suite_jobs(recipe),
        frontier_jobs=lambda: _text_jobs(recipe, out),
        progress=progress,
    )


def _reroute(run: Path, out: Path, recipe: TrainRecipe) -> None:
    """Copy the trained model of a run to `out`, with the method's options from `recipe`."""
    from scale_cli.checkpoints.load import describe, save_pointer
    from scale_cli.checkpoints.schemas import RECORD
    from scale_cli.training.resume import RECIPE

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
    """Fetch the recipe's "fetch:" items into `folder`, each once. Returns the recipe with their paths.

    Raises RequestError if the recipe names a folder for them that lacks one.
    """
    from scale_cli.core.files import default_cache
    from scale_cli.material.fetch import make

    def fetched(source: str) -> str:
        item = source.removeprefix(FETCH).partition("/")[0]
        if source.startswith(FETCH) and not (folder / item).exists():
            if recipe.fetched is not None:
                raise RequestError(f"--fetched {folder}: it has no {item}; run: scale fetch {item} {folder / item}")
            say(f"fetch: {item}")
            make(item, folder / item, cache=default_cache())
        return _at(source, folder)

    return dataclasses.replace(
        recipe,
        base=fetched(recipe.base),
        train_data=tuple(map(fetched, recipe.train_data)),
        texts={name: {**text, "source": fetched(text["source"])} for name, text in recipe.texts.items()},
        suites=tuple(map(fetched, recipe.suites)),
        pretrain=recipe.pretrain
        and {**recipe.pretrain, **{name: [*map(fetched, recipe.pretrain.get(name, ()))] for name in PRETRAIN_TEXTS}},
    )


def _pretrain(recipe: ContinualRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> str:
    """The folder of the base in the run folder `out`, pre-trained there if it is not complete.

    Raises RequestError for a `config` of no known model.
    """
    from transformers import AutoConfig

    from scale_cli.data.corpora import read_corpora

    pretraining, init = recipe.pretraining, out / "init"
    assert pretraining is not None
    with processes().main_process_first():
        if not init.exists():
            say(f"tokenizer: {pretraining.vocab_size:,} tokens")
            sources = [f"text{n}={s}" for n, s in enumerate((*pretraining.data, *pretraining.tokenizer_data))]
            texts = (text for corpus in read_corpora(sources, option="pretrain") for text in corpus.documents)
            tokenizer = fast_tokenizer(train_tokenizer(texts, "bpe", pretraining.vocab_size))
            end = tokenizer.eos_token_id
            given = dict(recipe.config or {}) | {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end}
            try:
                config = AutoConfig.for_model(**given)
            except (ValueError, TypeError) as error:
                raise RequestError(f"config: {' '.join(str(error).split())}") from error
            with new_folder(init) as folder:
                tokenizer.save_pretrained(folder)
                config.save_pretrained(folder)
    base = out / "base"
    train_stage(str(init), base, pretraining.train_recipe(pretraining.data), label="pretrain", progress=progress)
    return str(base)


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
                write_text(text_file(folder, name, whole=whole), "".join(map(text_line, documents[:count])))
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
        texts=[f"{name}={text_file(out / TEXTS, name, whole=True)}" for name in recipe.texts],
        windows=WindowOptions(recipe.seq_length),
        drift=drift,
        base=recipe.base if drift else None,
        drift_tokens=DRIFT_TOKENS,
    ).jobs


def _suite_jobs(recipe: ContinualRecipe) -> tuple[Any, ...]:
    """The jobs that run the suites."""
    from scale_cli.evaluation.request import request

    return request(suites=recipe.suites, limit=recipe.limit).jobs if recipe.suites else ()
