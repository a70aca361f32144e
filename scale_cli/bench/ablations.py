"""The ablations of SCALE (arXiv 2511.03270, Figs. 4 to 7), and what the paper leaves open: continual pre-training with
other rows.

    init        W21 and W22 of SCALE-Preserve from the base's singular directions, random, or zero (Fig. 5)
    layers      L_fp, the share of layers from below in which no W12 trains (Fig. 6)
    modules     W12 in attention or in the feed-forward, half of the layers preserved, at two rates (Fig. 7)
    drift       how far the base's half of the last hidden state moves (Fig. 4)
    threshold   SCALE-Route's tau, which the paper fixes at 0.5: one training, measured under several
    where       W12 in attention, which is our default, or everywhere, which the paper leaves open

Figs. 4 and 6 have no numbers in the text: what stands beside ours was read off them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.bench import continual
from scale_cli.bench.ablation_drawing import drawing
from scale_cli.bench.continual import ContinualRecipe
from scale_cli.bench.continual_results import BASE, Reported, sheet
from scale_cli.bench.stages import BenchResult, Progress, processes
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text

Rows = dict[str, dict[str, Any]]

LAYERS = ("l_fp-100", "l_fp-50", "l_fp-0")
THRESHOLDS = ("tau -1", "tau 0", "tau 0.25", "tau 0.5", "tau 0.75", "tau 0.9", "tau 0.95", "tau 0.99", "tau 1")
"""Closest below 1, where the cosine of the two paths' logits is for most tokens."""
ROUTE = "scale-route"
WEAK = 1 / 3
"""Of the rate, in the rows of `modules` that train less strongly: the paper varies the strength, and not how."""
FIGURES = Path(__file__).with_name("paper-figures.json")
"""What the paper's figures say."""


@dataclass(frozen=True, kw_only=True)
class AblationRecipe(ContinualRecipe):
    """The resolved recipe of an ablation: `ablation` is its name, `methods` its rows."""

    ablation: str

    @property
    def words(self) -> str:
        """The words behind `scale bench` that start it."""
        return f"ablations {self.ablation} --preset {self.preset}{self.options}"


def load_preset(
    ablation: str,
    preset: str,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    **changes: Any,
) -> AblationRecipe:
    """The recipe of an ablation.

    preset: a word of `stages.PRESETS`, or a YAML file of the fields of `ContinualRecipe`, whose `methods` hold the
        options that rows of these methods have in common.
    methods: the rows that are wanted; of layers and threshold any, as l_fp-25 or "tau 0.6".
    seeds, changes: in place of the preset's; a change of None is none.
    Raises RequestError for what does not fit.
    """
    if ablation not in ROWS:
        raise RequestError(f"{ablation}: there is no such ablation; choose from {', '.join(ROWS)}")
    changes |= {"ablation": ablation, "drift": True}
    recipe = continual.load_changed(AblationRecipe, "ablations", preset, seeds=seeds, **changes)
    return dataclasses.replace(recipe, methods=ROWS[ablation](recipe, None if methods is None else list(methods)))


def run(recipe: AblationRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> BenchResult:
    """Run the ablation into `out`, or what is missing of it there, as `continual.run`, with a figure of its own."""
    from scale_cli.reporting.documents import BEST, markdown
    from scale_cli.reporting.figures import ablation_figure

    result = continual.run(recipe, out, say=say, progress=progress)
    if processes().is_main_process:
        reported, title = paper_values(recipe.ablation), f"Ablation {recipe.ablation}, {recipe.preset}"
        made = sheet(result.results, result.groups, title=title, best=BEST["markdown"], reported=reported)
        write_text(out / "table.md", markdown(made))
        drawn = drawing(recipe.ablation, result, recipe.roles, layer_count(recipe), reported)
        ablation_figure(drawn, out / "ablation.png", out / "ablation.svg")
    return result


def paper_values(ablation: str) -> Reported:
    """What the paper's figures say of the rows, by label and measurement, that of the base among them."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))["figures"]
    found: dict[str, dict[str, float]] = {}
    for figure in figures:
        labels = figure["values"] if figure["experiment"] == f"ablations-{ablation}" else {}
        for label, values in labels.items():
            fields = (column["field"] for column in figure["columns"])
            known = {name: value for name, value in zip(fields, values, strict=True) if value is not None}
            found.setdefault(label, {}).update(known)
    (curves,) = (figure for figure in figures if figure["name"] == "Figure 9")
    fields = (column["field"] for column in curves["columns"])
    base = dict(zip(fields, curves["values"][BASE], strict=True))
    named = {name for values in found.values() for name in values}
    return {BASE: {name: base[name] for name in base if name in named}} | found if named else {}


# The rows of each ablation


def _init(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    pairs = ("svd,zero", "zero,svd", "random,zero", "zero,random")
    if wanted is not None:  # words with commas between, and so are the pairs
        wanted = [",".join(pair) for pair in zip(wanted[::2], wanted[1::2], strict=False)] + wanted[len(wanted) & ~1 :]
    return _chosen({pair: _row(recipe, "scale-preserve", init=pair) for pair in pairs}, wanted)


def _layers(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    count, rows = layer_count(recipe), {}
    for label in wanted or LAYERS:
        share = _number(label, "l_fp-", "l_fp-25 preserves a quarter of the layers", lowest=0, highest=100)
        preserved = round(count * share / 100)
        if preserved == count:
            rows[label] = _row(recipe, "scale-preserve")
        else:
            rows[label] = _row(recipe, "scale-adapt", preserve_layers=preserved)
    return rows


def _modules(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    rows: Rows = {}
    for module in ("attention", "ffn"):
        row = _row(recipe, "scale-adapt", preserve_layers=layer_count(recipe) // 2, adapt_modules=module)
        rate = row.get("lr", recipe.training.get("lr"))
        if rate is None:
            raise RequestError("modules: give the recipe a rate, `lr`, under training or scale-adapt")
        rows |= {module: row, f"{module}-weak": row | {"lr": WEAK * rate}}
    return _chosen(rows, wanted)


def _drift(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    methods = ("scale-preserve", "scale-adapt", "llama-pro", "fft")
    return _chosen({method: _row(recipe, method) for method in methods}, wanted)


def _threshold(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    rows = {ROUTE: _row(recipe, ROUTE)}
    for label in wanted or THRESHOLDS:
        tau = _number(label, "tau ", '"tau 0.6" routes by a threshold of 0.6', lowest=-math.inf, highest=math.inf)
        rows[label] = rows[ROUTE] | {"of": ROUTE, "threshold": tau}
    return rows


def _where(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    places = {"attention": "attention", "everywhere": "attention,ffn"}
    return _chosen({label: _row(recipe, "scale-adapt", adapt_modules=place) for label, place in places.items()}, wanted)


ROWS: Mapping[str, Callable[[AblationRecipe, list[str] | None], Rows]] = {
    "init": _init,
    "layers": _layers,
    "modules": _modules,
    "drift": _drift,
    "threshold": _threshold,
    "where": _where,
}
"""By name what gives the rows: the recipe, and the labels that are wanted, None for the usual ones."""


def _row(recipe: AblationRecipe, method: str, **options: Any) -> dict[str, Any]:
    """A row: what the recipe says of its method, the method, and what the ablation varies."""
    return {**recipe.methods.get(method, {}), "method": method, **options}


def layer_count(recipe: AblationRecipe) -> int:
    """The layers of the base, from its config where that is in the recipe."""
    from scale_cli.surgery.source import open_config

    if recipe.config:
        return int(recipe.config["num_hidden_layers"])
    return int(open_config(recipe.base).config.num_hidden_layers)


def _chosen(rows: Rows, wanted: list[str] | None) -> Rows:
    if absent := [label for label in wanted or () if label not in rows]:
        raise RequestError(f"--methods {','.join(absent)}: choose from {'; '.join(rows)}")
    return {label: rows[label] for label in rows if wanted is None or label in wanted}


def _number(label: str, start: str, example: str, *, lowest: float, highest: float) -> float:
    """The number in a label that begins so. Raises RequestError for another label."""
    try:
        number = float(label.removeprefix(start))
    except ValueError:
        number = math.nan
    if not label.startswith(start) or not lowest <= number <= highest or math.isinf(number):
        between = "" if math.isinf(lowest) else f" from {lowest:g} to {highest:g}"
        raise RequestError(f"--methods {label}: write {start}NUMBER{between}; {example}")
    return number
