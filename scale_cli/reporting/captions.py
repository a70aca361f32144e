"""Figures in a folder, and their captions: what is drawn, and what bars, bands, lines and numbers mean."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from scale_cli.core.files import write_text
from scale_cli.reporting.ablation import Ablation
from scale_cli.reporting.curves import Panel, styles_of
from scale_cli.reporting.drawing import is_far
from scale_cli.reporting.figures import (
    LABELLED,
    ablation_figure,
    curve_figure,
    frontier_figure,
    frontier_texts,
    router_curves,
    trade_off,
)
from scale_cli.reporting.table import Table
from scale_cli.reporting.words import joined

FILL = "Hollow: baselines; filled: the methods of SCALE."


def draw_frontier(table: Table, folder: Path, name: str = "frontier") -> list[str]:
    """Draw a table's trade-off as NAME.png and NAME.svg, with its caption in NAME.txt. Returns the names of the files:
    none without two checkpoints that have stability and plasticity."""
    if not trade_off(table):
        return []
    return _draw(functools.partial(frontier_figure, table), frontier_caption(table), folder, name)


def draw_curves(table: Table, panels: Sequence[Panel], folder: Path, name: str = "curves") -> list[str]:
    """The same of panels of training curves, in the styles of a table's rows; none without panels."""
    if not panels:
        return []
    draw = functools.partial(curve_figure, panels, styles_of(table, panels))
    return _draw(draw, curves_caption(panels), folder, name)


def draw_ablation(effect: Ablation, folder: Path, name: str) -> list[str]:
    """The same of an ablation."""
    return _draw(functools.partial(ablation_figure, effect), ablation_caption(effect), folder, name)


def _draw(draw: Callable[..., None], caption: str, folder: Path, name: str) -> list[str]:
    names = [f"{name}{suffix}" for suffix in (".png", ".svg", ".txt")]
    *drawn, text = (folder / each for each in names)
    draw(*drawn)
    write_text(text, f"{caption}\n")
    return names


def frontier_caption(table: Table) -> str:
    """The caption of a table's trade-off; its `trade_off` is not empty."""
    points = trade_off(table)
    axes = frontier_texts(table)[:2]
    parts = ["Plasticity against stability; up and right is better.", bars(table)]
    parts.append(
        "Dashed: the Pareto front; a checkpoint in the shaded region is dominated in both by one on the front."
    )
    if any(point.row.section == "base" for point in points):
        parts.append("Dotted: the base.")
    if router_curves(table, points):
        parts.append("Curves: one checkpoint under routers with several values of their parameter.")
    far = [name for name, own in zip(axes, zip(*((p.x, p.y) for p in points), strict=True), strict=True) if is_far(own)]
    parts += [f"Logarithmic: {joined(far)}."] if far else []
    parts += ["Numbers: the rows in the legend."] if len(points) > LABELLED else []
    return " ".join([*parts, FILL])


def bars(table: Table) -> str:
    """What error bars of a table's rows mean."""
    counts = sorted({len(row.results) for row in table.rows if len(row.results) > 1})
    single = "one standard error over the items or documents"
    if not counts:
        return f"Bars: {single}."
    seeds = f"one standard deviation over {joined(map(str, counts))} seeds"
    rest = [row.label for row in table.rows if len(row.results) == 1]
    return f"Bars: {seeds}{f'; of {joined(rest)}, {single}' if rest else ''}."


def curves_caption(panels: Sequence[Panel]) -> str:
    """The caption of training curves."""
    seeds = sorted({len(runs) for panel in panels for runs in panel.series.values() if len(runs) > 1})
    lines = f"Lines: {f'means over {joined(map(str, seeds))} seeds' if seeds else 'one run each'}."
    titles = "; ".join(panel.title for panel in panels)
    parts = [f"{titles[0].upper()}{titles[1:]}.", lines]
    if seeds:
        parts.append("Bands: one standard deviation over the seeds.")
    return " ".join([*parts, FILL])


def ablation_caption(effect: Ablation) -> str:
    """The caption of an ablation."""
    parts = [f"Effect of {effect.option}.", "Bars: one standard error, or one standard deviation over several seeds."]
    if any(panel.base is not None for panel in effect.panels):
        parts.append("Dotted: the base.")
    if any(series.reported for panel in effect.panels for series in panel.series):
        parts.append("Pale and dashed: values of a paper.")
    return " ".join(parts)
