"""What `scale bench --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

CAPTION = (
    "Tokens, memory and hours of one training. Memory: of a step in one process that holds all weights, in float32, "
    "with gradients and AdamW's moments of what trains. Hours: multiply-adds of weights in forward and backward, "
    "attention scores and measuring left out, at {tflops:g} x 10^12 operations a second (--tflops: an assumption) in "
    "each of {gpus} process{plural}; {hours:,.3g} hours for all {count} trainings."
)


def rich_table(budgets: Iterable[Mapping[str, Any]], *, title: str, gpus: int, tflops: float, seeds: int) -> Table:
    """The table for a terminal. budgets: with the fields of a bench's `Budget`. seeds: repetitions of each."""
    budgets = list(budgets)
    hours = seeds * sum(budget["hours"] for budget in budgets)
    caption = CAPTION.format(
        tflops=tflops, gpus=gpus, plural="es" * (gpus > 1), hours=hours, count=seeds * len(budgets)
    )
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("training", no_wrap=True)
    for heading in ("trained params", "lr", "steps", "tokens a step", "tokens", "GB a process", "hours"):
        table.add_column(heading, justify="right", no_wrap=True)
    for budget in budgets:
        recipe = budget["recipe"]
        table.add_row(
            budget["label"],
            f"{budget['trained_parameters']:,}",
            f"{recipe.learning_rate:.3g}",
            f"{recipe.steps:,}",
            f"{budget['tokens'] // recipe.steps:,}",
            f"{budget['tokens']:,}",
            f"{budget['peak_bytes'] / 1e9:,.2f}",
            f"{budget['hours']:,.3g}",
        )
    return table
