"""The figure of an ablation: each row at the value of what is varied, with what the paper's figures say beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from scale_cli.bench.continual_results import BASE, Reported, results_table
from scale_cli.bench.stages import BenchResult
from scale_cli.methods import METHODS
from scale_cli.reporting.ablation import Ablation, AblationPanel, Series
from scale_cli.reporting.statistics import mean_and_deviation
from scale_cli.reporting.style import style_of
from scale_cli.results.groups import Role
from scale_cli.results.result import Result

OPTIONS = {
    "init": "W21, W22",
    "layers": "layers preserved, %",
    "modules": "mean norm of our expansion in that module",
    "drift": "method",
    "threshold": "threshold tau",
    "where": "W12 in",
}
"""By ablation the name of its x axis."""


class Place(NamedTuple):
    """Where a row is drawn: its series, its place on the x axis, a number or a tick, and the method of its colour."""

    series: str
    x: float | str
    method: str


def place_of(name: str, label: str, result: Result, layers: int) -> Place | None:
    """Where an ablation draws a row; None for a row that stands beside it. layers: of the base."""
    recipe, method = result.checkpoint.recipe or {}, result.checkpoint.method or ""
    if name == "layers":
        preserved = layers if METHODS[method].keeps_base else recipe["preserve_layers"]
        return Place("L_fp", 100 * preserved / layers, "scale-adapt")
    if name == "modules":  # the norms of the paper's rows were not read off; they stand at ours
        (module,) = recipe["adapt_modules"]
        norm = value_of(result, f"drift/expansion_norm/{module}")
        colour = "scale-adapt" if module == "attention" else "scale-route"
        return None if norm is None else Place(f"W12 in {module}", norm, colour)
    if name == "threshold":
        return None if label == method else Place("SCALE-Route", recipe["threshold"], method)
    series = {"init": "SCALE-Preserve", "where": "SCALE-Adapt"}.get(name, label)
    return Place(series, label, method)


def drawing(name: str, result: BenchResult, roles: Mapping[str, Role], layers: int, reported: Reported) -> Ablation:
    """The change of every text's perplexity against the base, in percent, as ours and the paper's differ in tokenizer
    and text, and what the ablation measures beside them; of several seeds mean and standard deviation.

    roles: of the held-out texts. layers: of the base. reported: what the paper says of the rows.
    """
    table = results_table(result.results, result.groups)
    rows = {row.label: [table.results[index] for index in row.results] for row in table.rows if row.section != "base"}
    places = {label: place_of(name, label, results[0], layers) for label, results in rows.items()}
    ticks = list(dict.fromkeys(place.x for place in places.values() if place and isinstance(place.x, str)))

    def panel(
        title: str, measure: Callable[[Result], float | None], paper: Mapping[str, float], base: float | None = None
    ) -> AblationPanel:
        series: dict[tuple[str, str, bool], list[tuple[float, float, float]]] = {}
        for label, results in rows.items():
            place = places[label]
            if place is None:
                continue
            x = float(ticks.index(place.x)) if isinstance(place.x, str) else place.x
            values = [value for found in results if (value := measure(found)) is not None]
            if values:
                mean, deviation = mean_and_deviation(values)
                series.setdefault((place.series, place.method, False), []).append((x, mean, deviation or 0.0))
            if label in paper:
                series.setdefault((place.series, place.method, True), []).append((x, paper[label], 0.0))
        made = (
            Series(f"{of}, paper" if is_paper else of, style_of(method), is_paper, tuple(sorted(points)))
            for (of, method, is_paper), points in series.items()
        )
        return AblationPanel(title, tuple(made), base)

    panels = []
    for text in roles:
        field = f"perplexity:{text}/perplexity"
        before, printed = value_of(table.results[0], field), reported.get(BASE, {}).get(field)
        changes = {
            label: 100 * (values[field] / printed - 1)
            for label, values in reported.items()
            if printed and field in values
        }
        panels.append(panel(f"{text.title()} perplexity, % change", _change(field, before), changes, base=0.0))
    if name == "drift":
        kept = next(text for text, role in roles.items() if role == "stability")
        field = f"drift:{kept}/cosine"
        paper = {label: values[field] for label, values in reported.items() if field in values}
        panels.append(panel("cosine of the last hidden state", lambda found: value_of(found, field), paper))
    if name == "threshold":
        panels += [panel(f"{text.title()} tokens routed to preserve, %", _routed(text), {}) for text in roles]
    return Ablation(OPTIONS[name], dict(enumerate(map(str, ticks))), tuple(panels))


def value_of(result: Result, name: str) -> float | None:
    """The latest value of a measurement, by its name."""
    return next((m.value for m in reversed(result.measurements) if m.name == name), None)


def _change(name: str, before: float | None) -> Callable[[Result], float | None]:
    def change(result: Result) -> float | None:
        value = value_of(result, name)
        return None if value is None or before is None else 100 * (value / before - 1)

    return change


def _routed(text: str) -> Callable[[Result], float | None]:
    def share(result: Result) -> float | None:
        value = value_of(result, f"perplexity:{text}/routed")
        return None if value is None else 100 * value

    return share
