"""What `scale eval --perplexity` and `--drift` print: a row a checkpoint, so that any number of them fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from scale_cli.results.result import Measurement, Result

PERPLEXITY = (
    "Perplexity is per token; bits per byte of UTF-8 and per character compare whatever the tokenizers. The lower the "
    "better, ± standard error over n documents. Version: packing, tokens of a window, new ones in it, texts."
)
DRIFT = (
    "Cosine between the last hidden state (of a widened model its original half) and the base's; KL(base || model) of "
    "the next token, in nats; agreement, the share of tokens after which both find the same one most probable. ± "
    "standard error over n documents. Version: base, packing, tokens of a window and in all, texts."
)
ROUTED = "Routed: the share of scored tokens that took the preserve branch, in percent."
WEIGHTS = (
    "Mean Frobenius norm of a linear map, over n of them: of what was added (expansion: W12, W21 and W22 together, or "
    "the maps of new layers), and of the change against the base."
)
NORMS = {
    "expansion_norm": "expansion",
    "w12_norm": "W12",
    "w21_norm": "W21",
    "w22_norm": "W22",
    "weight_change": "change",
}


def text_tables(results: Sequence[Result], tasks: Sequence[str]) -> Iterator[Table]:
    """A table for each of the tasks `perplexity:NAME`, `drift:NAME` and `drift`, the last one of weights.

    Of tables of a kind that stand below each other the last one has the legend.
    """
    for task, following in itertools.pairwise([*tasks, ""]):
        if task == "drift":
            yield _weights_table(results)
        else:
            yield _text_table(results, task, has_legend=not following.startswith(f"{task.partition(':')[0]}:"))


def _text_table(results: Sequence[Result], task: str, *, has_legend: bool) -> Table:
    found = [m for result in results for m in result.find(task)]
    is_routed = any(m.routed is not None for m in found)
    legend = [PERPLEXITY if task.startswith("perplexity:") else DRIFT, *([ROUTED] if is_routed else [])]
    table = Table(
        title=f"{task}, {', '.join(dict.fromkeys(m.details['source'] for m in found))}",
        caption=" ".join(legend) if has_legend else None,
        title_justify="left",
        caption_justify="left",
    )
    metrics = list(dict.fromkeys(m.metric for m in found))
    table.add_column("checkpoint", overflow="fold")
    for heading in (*metrics, *(["routed"] if is_routed else []), "n"):
        table.add_column(heading.replace("_", " "), justify="right", overflow="fold")
    table.add_column("version", overflow="fold")
    for result in results:
        by_version: dict[str | None, dict[str, Measurement]] = {}
        for m in result.find(task):
            by_version.setdefault(m.task_version, {})[m.metric] = m
        for version, of in by_version.items():
            any_of = next(iter(of.values()))
            routed = ["-" if any_of.routed is None else f"{100 * any_of.routed:.1f}"] if is_routed else []
            values = [with_error(of[metric].value, of[metric].stderr) if metric in of else "-" for metric in metrics]
            table.add_row(result.checkpoint.label, *values, *routed, f"{any_of.samples:,}", version)
    return table


def _weights_table(results: Sequence[Result]) -> Table:
    table = Table(title="drift, weights", caption=WEIGHTS, title_justify="left", caption_justify="left")
    for heading in ("checkpoint", "module"):
        table.add_column(heading, overflow="fold")
    kinds = list(dict.fromkeys(m.metric.partition("/")[0] for result in results for m in result.find("drift")))
    for kind in kinds:
        table.add_column(NORMS[kind], justify="right", overflow="fold")
    table.add_column("n", justify="right", overflow="fold")
    table.add_column("version", overflow="fold")
    for result in results:
        rows: dict[tuple[str, str | None], dict[str, Measurement]] = {}
        for m in result.find("drift"):
            kind, _, module = m.metric.partition("/")
            rows.setdefault((module, m.task_version), {})[kind] = m
        for (module, version), of in rows.items():
            values = [with_error(of[kind].value, None) if kind in of else "-" for kind in kinds]
            counts = "/".join(dict.fromkeys(f"{m.samples:,}" for m in of.values()))
            table.add_row(result.checkpoint.label, module, *values, counts, version)
    return table


def with_error(value: float, stderr: float | None) -> str:
    """A number with its standard error to two digits, both to the same decimal; four digits where there is none."""
    if stderr is None or not (math.isfinite(value) and math.isfinite(stderr)):
        return f"{value:.4g}"
    if stderr == 0:
        return f"{value:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"
