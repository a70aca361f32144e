"""The figure of an ablation: each row at the value of the varied option, beside the values of the paper's figures."""

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
    "threshold": "threshold tau, or share of the mixture",
    "where": "W12 in",
}
"""The label of the x axis, by ablation."""


class Place(NamedTuple):
    """The position of a row in the figure.

    x: a number, or the label of a tick. method: determines the colour and marker.
    """

    series: str
    x: float | str
    method: str


def place_of(name: str, label: str, result: Result, layers: int) -> Place | None:
    """The position of a row in the figure of the ablation `name`, None for a row that is not drawn.

    layers: number of layers of the base.
    """
    recipe, method = result.checkpoint.recipe or {}, result.checkpoint.method or ""
    if (router := result.checkpoint.router) is not None:
        if name != "threshold":
            return None
        return Place("mixture, by its share", float(router.split(":")[1]), "scale-adapt")
    if name == "layers":
        preserved = layers if METHODS[method].keeps_base else recipe["preserve_layers"]
        return Place("L_fp", 100 * preserved / layers, "scale-adapt")
    if name == "modules":  # the norms of the paper's rows are unknown; its values are drawn at our norms
        (module,) = recipe["adapt_modules"]
        norm = value_of(result, f"drift/expansion_norm/{module}")
        return None if norm is None else Place(f"W12 in {module}", norm, method)
    if name == "threshold":
        return None if label == method else Place("SCALE-Route", recipe["threshold"], method)
    series = {"init": "SCALE-Preserve", "where": "SCALE-Adapt"}.get(name, label)
    return Place(series, label, method)


def drawing(name: str, result: BenchResult, roles: Mapping[str, Role], layers: int, reported: Reported) -> Ablation:
    """The figure of the ablation `name`: means over seeds with standard deviations.

    One panel per text shows the change of perplexity against the base in percent, because absolute perplexities depend
    on tokenizer and text, which differ between the paper and us. "drift" adds the cosine of hidden states on the first
    stability text. "threshold" adds the tokens routed to the preserve branch.
    roles: of the held-out texts, by name. layers: number of layers of the base. reported: the paper's values.
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
            values = [value for repetition in results if (value := measure(repetition)) is not None]
            if values:
                mean, deviation = mean_and_deviation(values)
                series.setdefault((place.series, place.method, False), []).append((x, mean, deviation or 0.0))
            if label in paper:
                series.setdefault((place.series, place.method, True), []).append((x, paper[label], 0.0))
        lines = (
            Series(f"{label}, paper" if is_paper else label, style_of(method), is_paper, tuple(sorted(points)))
            for (label, method, is_paper), points in series.items()
        )
        return AblationPanel(title, tuple(lines), base)

    panels = []
    for text in roles:
        field = f"perplexity:{text}/perplexity"
        our_base, paper_base = value_of(table.results[0], field), reported.get(BASE, {}).get(field)
        changes = {
            label: 100 * (values[field] / paper_base - 1)
            for label, values in reported.items()
            if paper_base and field in values
        }
        panels.append(panel(f"{text.title()} perplexity, % change", _change(field, our_base), changes, base=0.0))
    if name == "drift":
        stability_text = next(text for text, role in roles.items() if role == "stability")
        field = f"drift:{stability_text}/cosine"
        paper = {label: values[field] for label, values in reported.items() if field in values}
        panels.append(panel("cosine of the last hidden state", lambda result: value_of(result, field), paper))
    if name == "threshold":
        panels += [panel(f"{text.title()} tokens routed to preserve, %", _routed(text), {}) for text in roles]
    return Ablation(OPTIONS[name], dict(enumerate(map(str, ticks))), tuple(panels))


def value_of(result: Result, name: str) -> float | None:
    """The latest value of the measurement `name`, None if there is none."""
    return next((m.value for m in reversed(result.measurements) if m.name == name), None)


def _change(name: str, base: float | None) -> Callable[[Result], float | None]:
    """A function that measures a result's change against the base's value, in percent."""

    def change(result: Result) -> float | None:
        value = value_of(result, name)
        return None if value is None or base is None else 100 * (value / base - 1)

    return change


def _routed(text: str) -> Callable[[Result], float | None]:
    """A function that reads a result's share of tokens routed to preserve, in percent."""

    def share(result: Result) -> float | None:
        value = value_of(result, f"perplexity:{text}/routed")
        return None if value is None else 100 * value

    return share
