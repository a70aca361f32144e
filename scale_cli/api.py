"""The public Python interface; `import scale_cli` gives the same names without loading torch.

    model, tokenizer = scale_cli.load("run")
    scale_cli.upscale("base", Path("wide"), by="width", hidden=64)
    scale_cli.train("wide", "run", method="scale-preserve", data=("korean.jsonl",), steps=100)
    results = scale_cli.evaluate(["base", "run"], texts=["old=english.jsonl", "new=korean.jsonl"])
    print(scale_cli.report(results))
    print(scale_cli.generate(["run"], ["The law"], routers=["none", "mixture:0"])[0].text)

Everything else in this package may change between releases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_cli.checkpoints.load import check, describe, load_model, load_tokenizer
from scale_cli.evaluation.evaluate import DEFAULT_SEED
from scale_cli.evaluation.evaluate import evaluate as run_jobs
from scale_cli.evaluation.generation import Continuation, Sampling, find_device, prepare
from scale_cli.evaluation.generation import generate as run_generation
from scale_cli.evaluation.request import request
from scale_cli.evaluation.subject import targets
from scale_cli.reporting.render import Format, rendered
from scale_cli.results.result import Result
from scale_cli.surgery import upscale
from scale_cli.training.result import TrainResult
from scale_cli.training.source import load_request
from scale_cli.training.train import train as run_training

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["evaluate", "generate", "load", "report", "train", "upscale"]


def load(
    checkpoint: str | Path, *, dtype: torch.dtype | None = None, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint's model, on the CPU in eval mode, and its tokenizer.

    checkpoint: a model folder, a run folder or a hub id; `revision` is the hub id's branch, tag or commit.
    dtype: of the floating-point weights; None keeps the stored dtype.
    Raises RequestError for a folder that holds no checkpoint or a damaged one.
    """
    described = describe(str(checkpoint), revision=revision)
    check(described)
    return load_model(described, dtype=dtype), load_tokenizer(described)


def train(
    checkpoint: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    resume: bool = False,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a checkpoint into the run folder `out`.

    recipe: a YAML file of options. options: those of `scale train --help`, with underscores; they override the recipe.
    resume: continue from the last checkpoint in `out`. progress: called with the number of steps done and of all steps.
    Raises RequestError for options that are unknown or do not fit, before anything is written.
    """
    begun: dict[str, Any] = {"resume": resume, "revision": revision}
    resolved = load_request(str(checkpoint), Path(out), None if recipe is None else Path(recipe), options, **begun)
    return run_training(str(checkpoint), Path(out), resolved, progress=progress, **begun)


def evaluate(
    checkpoints: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    routers: Sequence[str] = (),
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    seed: int = DEFAULT_SEED,
    **measurements: Any,
) -> list[Result]:
    """Measure checkpoints. Returns one result per checkpoint.

    checkpoints: of any kind, or LABEL=CHECKPOINT. measurements: the arguments of `evaluation.request.request`, such as
        `suites=["english"]`, `texts=["old=english.jsonl"]`, `bios=Path("bios")`, `drift=True`, `limit=10`.
    routers: "none", "cosine:TAU", "mixture:SHARE:PRIOR", "interpolate:WEIGHT", "weights:SHARE"; empty for the
        checkpoint's own.
    base: for drift, and for routers of checkpoints that are not widened; None for the one that each was trained from.
    revision: branch, tag or commit of the hub ids. out: folder for the results; measurements in it are not repeated.
    dtype: "float32", "bfloat16" or "float16"; None takes bfloat16 on a GPU and the stored dtype on a CPU.
    batch_size: sequences per forward pass; None for as many as fit. seed: of few-shot examples.
    Raises RequestError for missing or contradictory inputs.
    """
    return run_jobs(
        list(map(str, checkpoints)),
        request(**measurements, routers=routers, base=None if base is None else str(base)).jobs,
        out=None if out is None else Path(out),
        routers=routers,
        base=None if base is None else str(base),
        revision=revision,
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
        command="scale_cli.evaluate",
    )


def generate(
    checkpoints: Sequence[str | Path],
    prompts: Sequence[str],
    *,
    chat: bool = False,
    routers: Sequence[str] = (),
    base: str | Path | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
) -> list[Continuation]:
    """Continue prompts. Returns the continuations of all prompts by the first checkpoint and router, then the next.

    checkpoints, routers, base, dtype, revision: as in `evaluate`. device: as in "cuda:1"; None for the GPU, if any.
    chat: each prompt is a message, written by the tokenizer's chat template.
    temperature: 0 is greedy. top_p: sample among the most probable tokens with this total probability.
    Raises RequestError for prompts, options and checkpoints that do not fit, before weights are loaded.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    where = find_device(device)
    described = targets(
        list(map(str, checkpoints)),
        routers=routers,
        base=None if base is None else str(base),
        revision=revision,
        dtype=dtype,
        device=where,
    )
    return list(run_generation(described, prepare(described, prompts, sampling, chat=chat), sampling, device=where))


def report(
    results: Sequence[Result] | Sequence[str | Path],
    *,
    format: Format = "markdown",
    suites: Sequence[str] = (),
    stability: Sequence[str] = (),
    plasticity: Sequence[str] = (),
    base: str | None = None,
    seeds: bool = True,
    require: Sequence[str] = (),
    title: str = "Stability and plasticity",
) -> str:
    """The stability-plasticity table of results, as text in a format.

    results: of `evaluate`, or files and folders as for `scale report`: of evaluations, benchmarks and training runs.
    suites: names or YAML files. stability, plasticity: columns, TASK or TASK=METRIC. base: label of the base.
    seeds: one row for results that differ in the seed only.
    require: requirements as those of `scale report --require`; their verdicts follow the table.
    A `pandas.DataFrame` of all numbers: `results.frame.tidy(results)`.
    Raises RequestError for unknown columns and labels.
    """
    from scale_cli.reporting.columns import requested_groups
    from scale_cli.reporting.curves import panels_of
    from scale_cli.reporting.requirements import judge
    from scale_cli.reporting.runs import read_material, run_panels
    from scale_cli.reporting.table import build_table

    material = read_material([Path(path) for path in results if not isinstance(path, Result)])
    read = [*material.results, *(result for result in results if isinstance(result, Result))]
    groups = requested_groups(read, suites, stability, plasticity)
    table = build_table(read, groups, title=title, base=base, seeds=seeds, notes=material.notes)
    panels = [*panels_of(read, table), *run_panels(table, material.runs)]
    return rendered(table, format, panels=panels, verdicts=judge(table, require))
