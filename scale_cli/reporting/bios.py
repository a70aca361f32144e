"""The stability-plasticity table of the biography benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

LEGEND = (
    "Accuracy: hard first token, in percent of the questions, teacher forced. Stability: Task 0 on held-out people, "
    "before and after Task 1; forgetting is before minus after, in points. Plasticity: Task 1 after its training. "
    "Exact: whole answers by greedy generation. Routed: answers' first tokens that took the preserve branch. Of "
    "several seeds: mean ± standard deviation."
)

COLUMNS = (
    ("method", None),
    ("trained params", "trained_parameters"),
    ("lr", "learning_rate"),
    ("Task 0 before", "task0_before"),
    ("Task 0 after", "task0"),
    ("forgetting", "forgetting"),
    ("Task 1", "task1"),
    ("exact 0", "exact_task0"),
    ("exact 1", "exact_task1"),
    ("routed 0", "routed_task0"),
    ("routed 1", "routed_task1"),
    ("seconds", "seconds"),
)


def table_rows(rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The cells of the table, one row a label in order of first appearance, its seeds summed up.

    rows: with the fields of `scale_cli.bench.bios.Row`.
    """
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(dict(row) | {"forgetting": row["task0_before"] - row["task0"]})
    return [
        [label, *(_cell(name, [run[name] for run in runs]) for _, name in COLUMNS if name is not None)]
        for label, runs in by_label.items()
    ]


def rich_table(rows: Iterable[Mapping[str, Any]], *, title: str) -> Table:
    """The table for a terminal."""
    table = Table(title=title, caption=LEGEND, caption_justify="left", title_justify="left")
    for heading, name in COLUMNS:
        table.add_column(heading, justify="left" if name is None else "right", no_wrap=name is None)
    for cells in table_rows(rows):
        table.add_row(*cells)
    return table


def markdown_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table as GitHub Markdown, its legend below."""
    lines = [
        [heading for heading, _ in COLUMNS],
        ["---" if name is None else "---:" for _, name in COLUMNS],
        *table_rows(rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\n{LEGEND}"


def _cell(name: str, values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    if not present:
        return "-"
    mean = statistics.fmean(present)
    if name == "trained_parameters":
        return f"{mean:,.0f}"
    if name == "learning_rate":
        return f"{mean:.3g}"
    scale, digits = (1.0, 0) if name == "seconds" else (100.0, 1)
    spread = f" ± {scale * statistics.stdev(present):.{digits}f}" if len(present) > 1 else ""
    return f"{scale * mean:.{digits}f}{spread}"


def metrics_table(results: Mapping[str, Sequence[Any]], *, title: str) -> Table:
    """Biography accuracy of checkpoints, in percent ± standard error: a row a checkpoint and attribute, the mean first.

    results: by checkpoint the measurements of its biographies.
    """
    table = Table(title=title, title_justify="left")
    for heading in ("checkpoint", "attribute"):
        table.add_column(heading, no_wrap=True)
    kinds = ("hard", "soft", "exact", "routed")
    for kind in (*kinds, "questions"):
        table.add_column(kind, justify="right")
    for source, measurements in results.items():
        values = {measurement.metric: measurement for measurement in measurements}
        attributes = [name.partition("/")[2] for name in values if name.startswith("hard")]
        for attribute in attributes:
            found = [values.get(f"{kind}/{attribute}" if attribute else kind) for kind in kinds]
            cells = ["-" if metric is None else _percent(metric.value, metric.stderr) for metric in found]
            samples = next(metric.samples for metric in found if metric is not None)
            table.add_row("" if attribute else source, attribute or "mean", *cells, f"{samples:,}")
        table.add_section()
    return table


def _percent(value: float, stderr: float | None) -> str:
    return f"{100 * value:.1f}" + ("" if stderr is None else f" ± {100 * stderr:.1f}")
