"""The Korean benchmark of SCALE (arXiv 2511.03270): continual pre-training on Korean, and what English it costs.

A run is a folder of stages, each whole or not there, so an interrupted run goes on:

    OUT/fetched/<item>                      what `scale fetch` makes, where the recipe names it
    OUT/texts                               the held-out documents that are measured, English and Korean
    OUT/width, OUT/width-INIT, OUT/depth    the base, upscaled
    OUT/seed-S/<method>                     Korean with each method, from the same base in the same order
    OUT/evaluation, OUT/seed-S/evaluation   the base and every method measured at the end
    OUT/results.json, table.md, *.png       what came out
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scale_cli.bench import stages
from scale_cli.bench.stages import (
    BenchRecipe,
    Progress,
    claim,
    clocked,
    matching_size,
    metric_lines,
    processes,
    source_of,
    train_recipe,
    train_stage,
    upscale_stages,
)
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, plain, write_text
from scale_cli.core.recipe import changed
from scale_cli.core.records import read_record, write_record
from scale_cli.evaluation.suites import find_suite
from scale_cli.methods import METHODS
from scale_cli.model.families import MODULES
from scale_cli.reporting.build import GroupSpec
from scale_cli.reporting.groups import suite_group
from scale_cli.reporting.korean import TEXT_GROUPS
from scale_cli.reporting.statistics import mean_error, paired_error
from scale_cli.results.result import Measurement, Result, read_items, read_result
from scale_cli.training import TrainRecipe

LANGUAGES = ("english", "korean")
BASE = "base"
"""The label of the base."""
FETCH = "fetch:"
"""Before ITEM or ITEM/PATH: what `scale fetch ITEM` makes, made below the run folder."""
FETCHED, TEXTS, EVALUATION = "fetched", "texts", "evaluation"
FIXED = ("objective", "from_scratch", "people", "eval_people", "eval_bios", "eval_documents")
"""Training options that the benchmark leaves alone."""
DRIFT_TOKENS = 4096
"""Of each language, on which that is looked at; a single wrong weight shows on the first of them."""


@dataclass(frozen=True, kw_only=True)
class KoreanRecipe(BenchRecipe):
    """The resolved recipe of a Korean benchmark.

    base: a checkpoint's folder or hub id. train_data: sources of Korean as `scale train --data` takes them.
    english_data, korean_data: the held-out texts, sources as `scale eval --perplexity` takes them.
        Each of these may be `fetch:ITEM/PATH` as well, with what `scale fetch` makes.
    documents: how many documents are measured at the end, by language; documents_while_training: in between.
    training: options of training that the rows have in common.
    suites: measured at the end. limit: the first so many items of each of their tasks, None for all.
    drift: how far every row that is trained has moved from the base is measured as well.
    gpus: processes that share a training step, as torchrun starts them.
    tflops: 10^12 operations a second that `--dry-run` takes each of them to do.
    precision: of the arithmetic in all trainings, in place of the one under `training`.
    config: of the base, for a dry run where the base is not at hand.
    """

    reserved = (EVALUATION, *BenchRecipe.reserved)

    base: str
    train_data: tuple[str, ...]
    english_data: str
    korean_data: str
    documents: Mapping[str, int]
    documents_while_training: Mapping[str, int]
    training: Mapping[str, Any]
    suites: tuple[str, ...] = ()
    limit: int | None = None
    drift: bool = False
    gpus: int = 1
    tflops: float = 200.0
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("documents", "documents_while_training"):
            counts = getattr(self, name)
            if set(counts) != set(LANGUAGES) or min(counts.values()) < 2:
                raise RequestError(f"{name} {dict(counts)}: give english and korean, at least 2 documents of each")
        for name in ("limit", "gpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} {value}: at least 1")
        if not self.tflops > 0:
            raise RequestError(f"--tflops {self.tflops:g}: above 0")
        if not self.train_data:
            raise RequestError("train_data is empty; name Korean texts to train on")
        for place, label in enumerate(self.methods):
            self.train_recipe(label, seed=0)
            if (of := self.trained_by(label)) != label and of not in list(self.methods)[:place]:
                raise RequestError(f"{label}: there is no row {of} before it, whose training it shows")

    @property
    def words(self) -> str:
        """The words that start it: `scale bench` ..."""
        return f"korean --preset {self.preset}{self.options}"

    @property
    def options(self) -> str:
        """The words of the seeds and the precision, where they are not what a preset says that says nothing."""
        seeds = "" if self.seeds == (0,) else f" --seeds {','.join(map(str, self.seeds))}"
        return seeds + ("" if self.precision is None else f" --precision {self.precision}")

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

        data: sources of Korean, what is fetched being there. texts: the folder of the held-out ones.
        Raises RequestError for options that are unknown, or not the recipe's to decide.
        """
        own = {
            "method": self.method_of(label),
            "data": tuple(data),
            "seed": seed,
            "eval_text": tuple(f"{language}={_text_file(texts, language, whole=False)}" for language in LANGUAGES),
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
) -> KoreanRecipe:
    """The recipe of a preset; see `stages.load_preset`. changes: fields in place of the preset's, None for none."""
    if changes.get("base") is not None:
        changes["config"] = {}  # that of the preset's own base
    return stages.load_preset(KoreanRecipe, "korean", name, methods=methods, seeds=seeds, changes=changes)


@dataclass(frozen=True)
class Row:
    """The base, or one method on one seed, measured at the end.

    label: the method's name unless the recipe gives another; "base", of which method, seed and so on are None.
    bits, perplexity: by language, bits per byte and perplexity per token, and in bits_stderr the first one's standard
        error. change_stderr: by language, that of the change of bits against the base's, paired by document.
    routed: by language, the share of tokens that took the preserve branch; None without a router.
    suites: by title, the average of the values of a suite's tasks, from 0 to 1; suites_stderr: its standard error.
    cosine: by language, of the base's half of the last hidden state with what the base computes; norms: by module, the
        mean norm of what a map was given in addition. Empty where nobody has looked.
    hidden_states_equal: whether the base's half of every hidden state is bitwise what the base computes; None but under
        scale-preserve, which promises it.
    seconds: of training, measuring in between included. peak_memory_bytes: of training.
    """

    label: str
    method: str | None
    seed: int | None
    bits: Mapping[str, float]
    bits_stderr: Mapping[str, float | None]
    perplexity: Mapping[str, float]
    routed: Mapping[str, float | None]
    change_stderr: Mapping[str, float | None] = field(default_factory=dict)
    learning_rate: float | None = None
    trained_parameters: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    suites: Mapping[str, float] = field(default_factory=dict)
    suites_stderr: Mapping[str, float | None] = field(default_factory=dict)
    cosine: Mapping[str, float] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    hidden_states_equal: bool | None = None


@dataclass(frozen=True)
class KoreanResult:
    """A finished benchmark.

    rows: the base first. results: the same as `scale eval` has them. groups, curves: as `scale report` reads them.
    seconds: of all calls that worked on this run.
    """

    out: Path
    recipe: KoreanRecipe
    rows: tuple[Row, ...]
    results: tuple[Result, ...]
    groups: list[GroupSpec]
    curves: list[dict[str, Any]]
    seconds: float


def run(recipe: KoreanRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> KoreanResult:
    """Run the benchmark into `out`, or what is missing of it there.

    say: told what begins. progress: shows each training and each measurement.
    Raises RequestError for what does not fit together, and where `out` holds another recipe's run.
    """
    if processes().num_processes != recipe.gpus:
        raise RequestError(
            f"--preset {recipe.preset}: its batch is shared by {recipe.gpus} processes and there are "
            f"{processes().num_processes}; start it with: {launch_line(recipe)}"
        )
    if not processes().is_main_process:  # of several one speaks
        say, progress = _silent, _unseen
    with processes().main_process_first():
        claim(recipe, out, free=("gpus", "tflops"))
    with clocked(out) as seconds:
        found = _run_stages(recipe, out, say=say, progress=progress)
    result = KoreanResult(out, recipe, *found, seconds())
    if processes().is_main_process:
        _write_results(result)
    return result


def launch_line(recipe: KoreanRecipe) -> str:
    """The command that runs a preset with as many processes as it wants."""
    launch = "" if recipe.gpus == 1 else f"torchrun --nproc-per-node {recipe.gpus} --no-python "
    return f"{launch}scale bench {recipe.words}"


def _silent(message: str) -> None:
    """Says nothing."""


@contextlib.contextmanager
def _unseen(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
    """Shows nothing."""
    yield lambda **steps: None


def _run_stages(
    recipe: KoreanRecipe, out: Path, *, say: Callable[[str], None], progress: Progress
) -> tuple[tuple[Row, ...], tuple[Result, ...], list[GroupSpec], list[dict[str, Any]]]:
    """Rows, results, groups and curves, whatever of the stages was there already."""
    from scale_cli.training.train import RECORD

    with processes().main_process_first():
        recipe = _fetch(recipe, out / FETCHED, say=say)
        _write_texts(recipe, out / TEXTS, say=say)
        matched = any(map(recipe.matches_rank, recipe.methods))
        upscale_stages(recipe, recipe.base, out, seed=0, width_too=matched, say=say)
    results = [_measure(recipe, recipe.base, BASE, out, out / EVALUATION, progress=progress, drift=False)]
    rows = [_row(recipe, BASE, results[0], results[0], None)]
    lines: dict[str, dict[int, list[dict[str, Any]]]] = {recipe.trained_by(label): {} for label in recipe.methods}
    for seed in recipe.seeds:
        folder = out / f"seed-{seed}"
        for label in recipe.methods:
            trained = recipe.train_recipe(label, seed=seed, data=recipe.train_data, texts=out / TEXTS)
            if recipe.matches_rank(label):
                trained = changed(trained, **matching_size(trained.method, recipe.base, out / "width"))
            of = recipe.trained_by(label)
            if of == label:
                source, shown = source_of(recipe, label, recipe.base, out), f"{label} (seed {seed})"
                record = train_stage(source, folder / label, trained, label=shown, progress=progress)
                lines[label][seed] = metric_lines(folder / label)
            else:
                record = read_record(folder / of / RECORD)
                with processes().main_process_first():
                    _reroute(folder / of, folder / label, trained)
            result = _measure(
                recipe,
                str(folder / label),
                label,
                out,
                folder / EVALUATION,
                progress=progress,
                drift=of == label and (recipe.drift or METHODS[trained.method].keeps_base),
            )
            results.append(result)
            rows.append(_row(recipe, label, result, results[0], (trained, record)))
    groups = [*TEXT_GROUPS, *(suite_group(find_suite(word)) for word in recipe.suites)]
    return tuple(rows), tuple(results), groups, _curves(recipe, lines)


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


def _fetch(recipe: KoreanRecipe, folder: Path, *, say: Callable[[str], None]) -> KoreanRecipe:
    """The recipe with what it names as `fetch:` made below `folder`, each thing once."""
    from scale_cli.core.files import default_cache
    from scale_cli.material.fetch import make

    def found(word: str) -> str:
        if not word.startswith(FETCH):
            return word
        item, _, path = word.removeprefix(FETCH).partition("/")
        if not (folder / item).exists():
            say(f"fetch: {item}")
            make(item, folder / item, cache=default_cache())
        return str(folder / item / path)

    return dataclasses.replace(
        recipe,
        base=found(recipe.base),
        train_data=tuple(map(found, recipe.train_data)),
        english_data=found(recipe.english_data),
        korean_data=found(recipe.korean_data),
        suites=tuple(map(found, recipe.suites)),
    )


def _text_file(texts: Path, language: str, *, whole: bool) -> Path:
    return texts / f"{language}{'' if whole else '-while-training'}.jsonl"


def _write_texts(recipe: KoreanRecipe, texts: Path, *, say: Callable[[str], None]) -> None:
    """The documents that are measured, the first ones of each source, so that all methods see the same."""
    from scale_cli.data.corpora import read_corpora

    if texts.exists():
        return
    sources = {"english": recipe.english_data, "korean": recipe.korean_data}
    documents: dict[str, Sequence[str]] = {}
    for language, source in sources.items():
        (corpus,) = read_corpora(
            [f"{language}={source}"], limit=recipe.documents[language], option=f"--{language}-data", say=say
        )
        documents[language] = corpus.documents
    with new_folder(texts) as folder:
        for language, found in documents.items():
            for whole, count in ((True, None), (False, recipe.documents_while_training[language])):
                lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found[:count])
                write_text(_text_file(folder, language, whole=whole), "".join(lines))
    said = ", ".join(f"{len(found):,} {language}" for language, found in documents.items())
    say(f"texts: {said} documents are measured")


def _measure(
    recipe: KoreanRecipe, checkpoint: str, label: str, out: Path, results: Path, *, progress: Progress, drift: bool
) -> Result:
    """What a checkpoint is at the end: texts, suites and, if wanted, whether the base's half of it is the base."""
    from scale_cli.data.corpora import read_corpora
    from scale_cli.data.windows import WindowOptions
    from scale_cli.evaluation.drift import DriftJob
    from scale_cli.evaluation.evaluate import Job, evaluate
    from scale_cli.evaluation.perplexity import PerplexityJob

    windows = WindowOptions(recipe.seq_length)
    corpora = read_corpora([f"{language}={_text_file(out / TEXTS, language, whole=True)}" for language in LANGUAGES])
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
        command=launch_line(recipe),
        progress=lambda shown, total: progress(shown, total, done=0),
    )
    processes().wait_for_everyone()
    result = read_result(results / label)  # which the first process has written
    assert result is not None
    return result


def _row(
    recipe: KoreanRecipe,
    label: str,
    result: Result,
    base: Result,
    run: tuple[TrainRecipe, Mapping[str, Any]] | None,
) -> Row:
    """base: the base's result. run: the recipe and the record of the training, None of the base."""

    def of_language(metric: str) -> dict[str, Measurement]:
        return {language: result.find(f"perplexity:{language}", metric)[-1] for language in LANGUAGES}

    bits, perplexity = of_language("bits_per_byte"), of_language("perplexity")
    equal = [m.details["hidden_states_equal"] for language in LANGUAGES for m in result.find(f"drift:{language}")]
    averages, errors = {}, {}
    for suite in map(find_suite, recipe.suites):
        values = [
            next(m for m in result.find(entry.task, entry.metric, entry.filter) if m.limit == recipe.limit)
            for entry in suite.entries
        ]
        averages[suite.title] = sum(m.value for m in values) / len(values)
        errors[suite.title] = mean_error([m.stderr for m in values])
    row = Row(
        label=label,
        method=None,
        seed=None,
        bits={language: m.value for language, m in bits.items()},
        bits_stderr={language: m.stderr for language, m in bits.items()},
        perplexity={language: m.value for language, m in perplexity.items()},
        routed={language: m.routed for language, m in bits.items()},
        suites=averages,
        suites_stderr=errors,
        cosine={language: m.value for language in LANGUAGES for m in result.find(f"drift:{language}", "cosine")[-1:]},
        norms={module: m.value for module in MODULES for m in result.find("drift", f"expansion_norm/{module}")[-1:]},
    )
    if run is None:
        return row
    trained, record = run
    return dataclasses.replace(
        row,
        change_stderr={language: _change_error(base, result, f"perplexity:{language}") for language in LANGUAGES},
        method=trained.method,
        seed=trained.seed,
        hidden_states_equal=all(equal) if equal and METHODS[trained.method].keeps_base else None,
        learning_rate=trained.learning_rate,
        **{name: record[name] for name in ("trained_parameters", "tokens", "seconds", "peak_memory_bytes")},
    )


def _change_error(base: Result, result: Result, task: str) -> float | None:
    """The standard error of the change of a text's bits per byte, paired by document."""
    before, after = (read_items(one, one.find(task, "bits_per_byte")[-1]) for one in (base, result))
    if before is None or after is None:
        return None
    return paired_error(list(before.values()), [after[document] for document in before])


def _curves(
    recipe: KoreanRecipe, lines: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
) -> list[dict[str, Any]]:
    """What was measured while training, against the tokens seen: panels as in Fig. 9, as a record holds them."""
    titles = {"english": "English (stability)", "korean": "Korean (plasticity)"}
    return [
        {
            "title": title,
            "x": "training tokens",
            "unit": "bits per byte",
            "percent": False,
            "series": {
                label: {
                    str(seed): [[line["step"] * recipe.step_tokens, line[name]] for line in found if name in line]
                    for seed, found in runs.items()
                }
                for label, runs in lines.items()
            },
        }
        for language, title in titles.items()
        for name in [f"{language}/bits_per_byte"]
    ]


def _write_results(result: KoreanResult) -> None:
    from scale_cli.reporting.korean import draw, markdown_table

    several = len(result.recipe.seeds) > 1
    entries = []
    for row, measured in zip(result.rows, result.results, strict=True):
        label = f"{row.label} (seed {row.seed})" if several and row.seed is not None else row.label
        checkpoint = dataclasses.replace(measured.checkpoint, label=label)
        entries.append({"checkpoint": checkpoint, "measurements": measured.measurements})
    rows = [plain(row) for row in result.rows]
    write_record(
        result.out / "results.json",
        kind="evaluation",
        command=launch_line(result.recipe),
        recipe=result.recipe,
        rows=rows,
        results=entries,
        groups=result.groups,
        curves=result.curves,
        seconds=result.seconds,
    )
    write_text(result.out / "table.md", markdown_table(rows) + "\n")
    draw(result.out / "results.json", result.out)
