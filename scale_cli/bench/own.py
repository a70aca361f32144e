"""Continual pre-training of one's own model on one's own texts: from a base and a corpus to a recipe and a verdict.

A run folder holds the prepared texts, the recipe that repeats the run, the benchmark's own run folder, and the report:

    OUT/options.yaml            the request
    OUT/texts/train.jsonl       the new texts to train on; OUT/texts/new.jsonl, OUT/texts/old.jsonl: held-out documents
    OUT/recipe.yaml             the recipe, as for `scale bench korean --preset OUT/recipe.yaml`
    OUT/run                     the run folder of `scale_cli.bench.continual`
    OUT/report.html             the report
    OUT/best.json               the best row of each method

Nothing is taken from a preset: sizes, steps and batches follow from the base, the texts and the request.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scale_cli.bench.continual_recipe import ContinualRecipe, load_preset, text_line
from scale_cli.bench.own_recipe import OwnRecipe
from scale_cli.bench.own_verdict import NEW, OLD, judged, save_best
from scale_cli.bench.stages import processes
from scale_cli.bench.sweep import rows_at
from scale_cli.core.errors import RequestError
from scale_cli.core.files import contents, new_folder, plain, write_text
from scale_cli.core.recipe import parse_count
from scale_cli.data.doubts import repeated_often
from scale_cli.data.options import steps_for
from scale_cli.methods import METHODS
from scale_cli.training.recipe import SELF, WARMUP

if TYPE_CHECKING:
    from scale_cli.bench.stages import BenchResult, Progress
    from scale_cli.data.sources import FileSource, HubTexts
    from scale_cli.reporting.requirements import Verdict
    from scale_cli.reporting.table import Table

ESTIMATED_BYTES = 2_000_000
"""Bytes of the new texts from whose tokens those of all are estimated."""
MEASUREMENTS = 8
"""The number of measurements while training."""
MEASURED_SHARE = 0.25
"""The most that all measurements while training cost, as a share of the training's forward and backward passes."""
DOCUMENTS_WHILE_TRAINING = (2, 12)
"""The least and the most documents of each text that are measured while training."""
MATRIX_SHARE = 0.6
"""The assumed rate of a training step, as a share of the rate of a large matrix product on the same device."""
OPTIONS, RECIPE, TEXTS, RUN = "options.yaml", "recipe.yaml", "texts", "run"
REPORT, BEST = "report.html", "best.json"


@dataclass(frozen=True)
class Corpus:
    """The documents of the new or old texts, by the hash of their content.

    keys: the first eight bytes of the sha256 of each distinct document, ascending, so a random order. bytes: of UTF-8,
    in the same order. documents: number of documents, repeated ones included, empty ones not.
    tokens_per_byte: estimated from the first documents, with a token between documents; 0 if not estimated.
    """

    keys: Any
    bytes: Any
    documents: int
    tokens_per_byte: float

    @property
    def repeated(self) -> int:
        """The number of documents that repeat another one."""
        return self.documents - len(self.keys)


@dataclass(frozen=True)
class OwnPlan:
    """What a run will do.

    steps, tokens: of each training. new_tokens: estimated tokens of the new texts without the held-out documents.
    documents, held_out: numbers of the new texts' distinct documents to train on, and of each measured text.
    length: tokens per sequence. width, depth: sizes of the upscaled bases. tflops: measured rate of matrix products.
    """

    steps: int
    tokens: int
    new_tokens: int
    documents: int
    repeated: int
    held_out: int
    length: int
    width: dict[str, int]
    depth: dict[str, int]
    tflops: float

    @property
    def epochs(self) -> float:
        """The passes over the new texts."""
        return self.tokens / self.new_tokens

    @property
    def documents_while_training(self) -> int:
        """The number of documents of each text that are measured while training.

        A measured token costs a forward pass, a third of a trained token; two texts are measured.
        """
        document_tokens = self.new_tokens / self.documents
        affordable = MEASURED_SHARE * 3 * self.tokens / (2 * MEASUREMENTS * document_tokens)
        least, most = DOCUMENTS_WHILE_TRAINING
        return min(self.held_out, max(least, min(most, int(affordable))))


def prepare(base: str, out: Path, recipe: OwnRecipe, *, say: Callable[[str], None]) -> ContinualRecipe:
    """The recipe of a run in the folder `out`, whose texts and files are written unless they exist.

    base: folder or hub id of a model that is not upscaled.
    Raises RequestError if base or texts cannot be used, and if `out` holds a run of another request.
    """
    request = {"base": base, **plain(recipe)}
    if (out / OPTIONS).is_file():
        if yaml.safe_load((out / OPTIONS).read_text(encoding="utf-8")) != request:
            raise RequestError(f"{out} holds a run of another request; choose another OUT, or repeat that one")
    elif contents(out) or (out.exists() and not out.is_dir()):
        raise RequestError(f"{out} already holds files; choose a new or an empty folder")
    if not (out / RECIPE).is_file():
        plan, corpora = make_plan(base, recipe, say=say)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / OPTIONS, yaml.safe_dump(request, sort_keys=False, allow_unicode=True))
        if not (out / TEXTS).exists():
            _write_texts(base, out / TEXTS, recipe, plan, corpora, say=say)
        fields = bench_fields(base, out, recipe, plan)
        write_text(out / RECIPE, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))
    return load_preset(str(out / RECIPE))


def make_plan(
    base: str, recipe: OwnRecipe, *, say: Callable[[str], None]
) -> tuple[OwnPlan, tuple[Corpus, Corpus | None]]:
    """The plan of a run, and the new and the old texts; the old ones are None if the base samples them.

    Reads all texts once. Nothing is written. Raises RequestError as `prepare`.
    """
    from scale_cli.checkpoints.load import check, describe, load_tokenizer
    from scale_cli.planning.plan import plan
    from scale_cli.training.request import check_length, default_length

    checkpoint = describe(base)
    if checkpoint.kind != "plain":
        raise RequestError(f"{base} is {checkpoint.kind}-upscaled; give the model that it was made from")
    check(checkpoint)
    length = default_length(checkpoint) if recipe.seq_length is None else recipe.seq_length
    check_length(length, checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    new = _read("--new", recipe.new, tokenizer)
    old = None if recipe.old == SELF else _read("--old", (recipe.old,), None)
    smallest = min(len(corpus.keys) for corpus in (new, old) if corpus is not None)
    held_out = recipe.held_out or min(200, max(8, round(len(new.keys) / 20)), smallest)
    if held_out > smallest or held_out >= len(new.keys):
        raise RequestError(
            f"--held-out {held_out}: the texts have {len(new.keys)} new"
            + ("" if old is None else f" and {len(old.keys)} old")
            + " documents, and some new ones must remain to train on; give more texts, or a smaller number"
        )
    planned = plan(
        base,
        methods=recipe.methods,
        batch_size=recipe.batch_size,
        seq_length=length,
        precision="float32" if recipe.precision == "float32" else "bfloat16",
    )
    if planned.left_out:
        name, reason = next(iter(planned.left_out.items()))
        raise RequestError(f"--methods {name}: {reason}")
    new_tokens = max(1, round(new.tokens_per_byte * float(new.bytes[held_out:].sum())))
    tflops = matrix_tflops()
    if recipe.tokens is not None:
        tokens = parse_count("--tokens", recipe.tokens)
    elif recipe.hours is not None:
        repeated = len(recipe.seeds) * (len(recipe.rates) or 1)
        per_token = sum(method.multiply_adds for method in planned.methods) * repeated
        tokens = round(recipe.hours * 3600 * MATRIX_SHARE * tflops * 1e12 / per_token)
    else:
        tokens = round((recipe.epochs or 1) * new_tokens)
    steps = steps_for(tokens, recipe.batch_size * length)
    sizes = planned.choices["width"].sizes
    made = OwnPlan(
        steps=steps,
        tokens=steps * recipe.batch_size * length,
        new_tokens=new_tokens,
        documents=len(new.keys) - held_out,
        repeated=new.repeated,
        held_out=held_out,
        length=length,
        width={flag: sizes[name] for flag, name in _FLAGS.items()},
        depth={"layers": planned.choices["depth"].sizes["num_hidden_layers"]},
        tflops=tflops,
    )
    for line in warnings_of(made):
        say(line)
    return made, (new, old)


_FLAGS = {"hidden": "hidden_size", "heads": "num_attention_heads", "ffn": "intermediate_size"}


def warnings_of(plan: OwnPlan) -> Iterator[str]:
    """What a user should know before the run."""
    if line := repeated_often("--new", plan.epochs):
        yield f"warning: {line}"
    if plan.repeated:
        yield f"note: {plan.repeated:,} documents of --new repeat another one; each is read once"


def bench_fields(base: str, out: Path, recipe: OwnRecipe, plan: OwnPlan) -> dict[str, Any]:
    """The fields of the recipe for `scale bench korean`."""
    texts = (out / TEXTS).resolve()
    here = Path(base).expanduser()
    own_rates = {method: {"lr": METHODS[method].lr} for method in recipe.methods}
    measured = {"documents": plan.held_out, "documents_while_training": plan.documents_while_training}
    return {
        "base": str(here.resolve()) if here.exists() else base,
        "train_data": [str(texts / "train.jsonl")],
        "texts": {
            name: {"source": str(texts / f"{name}.jsonl"), "role": role, **measured}
            for name, role in ((OLD, "stability"), (NEW, "plasticity"))
        },
        "width": plan.width,
        "depth": plan.depth,
        "training": {
            "steps": plan.steps,
            "batch_size": recipe.batch_size,
            "seq_length": plan.length,
            "schedule": "cosine",
            "warmup": WARMUP,
            "eval_steps": max(1, plan.steps // MEASUREMENTS),
            "logging_steps": max(1, plan.steps // 100),
        },
        "precision": recipe.precision,
        "methods": rows_at(own_rates, recipe.rates) if recipe.rates else own_rates,
        "routers": [router for router in recipe.router if router],
        "suites": list(recipe.suite),
        "limit": recipe.suite_limit,
        "seeds": list(recipe.seeds),
        "jobs": recipe.jobs,
        "tflops": round(MATRIX_SHARE * plan.tflops, 4),
    }


def run(
    base: str, out: Path, recipe: OwnRecipe, *, say: Callable[[str], None], progress: Progress
) -> tuple[BenchResult, Table, list[Verdict]]:
    """Run everything into `out`; finished stages there are kept. Returns the results, and what `judged` returns.

    Raises RequestError as `prepare` and `continual.run`.
    """
    from scale_cli.bench import continual

    resolved = prepare(base, out, recipe, say=say)
    result = continual.run(resolved, out / RUN, say=say, progress=progress)
    table, verdicts = judged(result, recipe.allow)
    from scale_cli.reporting.html import html_page

    if processes().is_main_process:
        write_text(out / REPORT, html_page(table, panels=result.panels, verdicts=verdicts))
        save_best(table, verdicts, out / BEST, allow=recipe.allow)
    return result, table, verdicts


def matrix_tflops() -> float:
    """The measured rate of a matrix product on the training device, in 10^12 operations per second; takes a second."""
    import torch

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    size, dtype = (1024, torch.float32) if device.type == "cpu" else (8192, torch.bfloat16)
    matrix = torch.randn(size, size, dtype=dtype, device=device)
    matrix @ matrix
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < 0.5:
        product = matrix @ matrix
        count += 1
        product[0, 0].item()  # waits for the device
    return 2 * size**3 * count / (time.perf_counter() - begun) / 1e12


def _sources(flag: str, given: Iterable[str]) -> list[FileSource | HubTexts]:
    from scale_cli.data.sources import HubSource, find_source

    found = [find_source(f"{flag} {source}", source) for source in given]
    return [source.open(flag, "train") if isinstance(source, HubSource) else source for source in found]


def _documents(flag: str, given: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The documents that are not empty, each with its key."""
    for source in _sources(flag, given):
        for text in source.texts():
            if text.strip():
                yield _key(text), text


def _key(text: str) -> int:
    """The first eight bytes of a document's sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _read(flag: str, given: Iterable[str], tokenizer: Any) -> Corpus:
    """Read texts once. tokenizer: for the estimate of tokens, None for none."""
    import numpy as np

    from scale_cli.data.tokens import tokenise

    keys: list[int] = []
    sizes: list[int] = []
    first: list[str] = []
    total = 0
    for key, text in _documents(flag, given):
        keys.append(key)
        sizes.append(len(text.encode()))
        if total < ESTIMATED_BYTES:
            first.append(text)
        total += sizes[-1]
    if not keys:
        raise RequestError(f"{flag} {','.join(given)}: no document with text; give other texts")
    unique, index = np.unique(np.array(keys, dtype=np.uint64), return_index=True)
    rate = 0.0
    if tokenizer is not None:
        rate = sum(len(ids) + 1 for ids in tokenise(first, tokenizer)) / sum(sizes[: len(first)])
    return Corpus(unique, np.array(sizes)[index], len(keys), rate)


def _write_texts(
    base: str,
    texts: Path,
    recipe: OwnRecipe,
    plan: OwnPlan,
    corpora: tuple[Corpus, Corpus | None],
    *,
    say: Callable[[str], None],
) -> None:
    """Write the held-out documents and as much of the new text as the trainings read, in the order of the texts."""
    new, old = corpora
    held = [*map(int, new.keys[: plan.held_out])]
    needed = plan.tokens * 1.1 / new.tokens_per_byte + new.bytes.max()  # a little more than estimated
    count = int((new.bytes[plan.held_out :].cumsum() < needed).sum()) + 1
    trained = [*map(int, new.keys[plan.held_out : plan.held_out + count])]
    say(f"texts: {len(trained):,} new documents to train on, {len(held):,} held out of each text")
    with new_folder(texts) as folder:
        with (
            (folder / "train.jsonl").open("w", encoding="utf-8") as to_train,
            (folder / f"{NEW}.jsonl").open("w", encoding="utf-8") as to_measure,
        ):
            files = dict.fromkeys(trained, to_train) | dict.fromkeys(held, to_measure)
            for key, text in _documents("--new", recipe.new):
                if (file := files.pop(key, None)) is not None:  # a repeated document is written once
                    file.write(text_line(text))
        if old is None:
            lines = _sampled_texts(base, plan, say=say)
        else:
            by_key = dict(_documents("--old", [recipe.old]))
            lines = [by_key[key] for key in map(int, old.keys[: plan.held_out])]
        write_text(folder / f"{OLD}.jsonl", "".join(map(text_line, lines)))


def _sampled_texts(base: str, plan: OwnPlan, *, say: Callable[[str], None]) -> list[str]:
    """Texts that the base samples after its begin-of-text token; those that end at once are left out."""
    import torch

    from scale_cli.checkpoints.load import describe, load_model, load_tokenizer
    from scale_cli.training.rehearsal import lead_of, sampled_texts

    checkpoint = describe(base)
    tokenizer = load_tokenizer(checkpoint)
    lead = lead_of(tokenizer)
    if lead is None:
        raise RequestError(
            f"--old {SELF}: the tokenizer of {base} has no token to begin a text with; give texts of what the base "
            "knows, as in --old old.jsonl"
        )
    say(f"old: the base samples {plan.held_out:,} texts of {plan.length:,} tokens")
    rows = sampled_texts(
        load_model(checkpoint),
        lead=lead,
        size=(plan.held_out, plan.length),
        seed=0,
        device=torch.accelerator.current_accelerator() or torch.device("cpu"),
        bfloat16=False,
        sampling=lambda **tokens: None,
    )
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    return [text for text in texts if text.strip()]
