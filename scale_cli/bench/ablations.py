"""Ablations of SCALE (arXiv 2511.03270, Figs. 4 to 7) and two of our own: other rows of continual pre-training.

    init        W21 and W22 of SCALE-Preserve start from the base's singular directions, random values or zeros (Fig. 5)
    layers      L_fp, the share of lower layers in which no W12 trains (Fig. 6)
    modules     W12 in attention or in the feed-forward, half of the layers preserved, at two learning rates (Fig. 7)
    drift       distance of the base's half of the last hidden state from the base (Fig. 4)
    threshold   SCALE-Route's tau, 0.5 in the paper: one training, measured with several thresholds, and as a mixture
                with several shares
    where       W12 in attention (our default) or in attention and feed-forward; the paper leaves this open

The paper's text has no numbers for Figs. 4 and 6. The paper's values beside ours are read off the figures.
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
from scale_cli.bench.continual_recipe import ContinualRecipe, load_changed
from scale_cli.bench.continual_results import BASE, Reported, sheet
from scale_cli.bench.stages import BenchResult, Progress, processes
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text

Rows = dict[str, dict[str, Any]]

LAYERS = ("l_fp-100", "l_fp-50", "l_fp-0")
THRESHOLDS = ("tau -1", "tau 0", "tau 0.25", "tau 0.5", "tau 0.75", "tau 0.9", "tau 0.95", "tau 0.99", "tau 1")
"""Densest just below 1, because that is the cosine of the two paths' logits for most tokens."""
SHARES = ("mixture:0", "mixture:0.001", "mixture:0.01", "mixture:0.1", "mixture:1")
ROUTE = "scale-route"
WEAK = 1 / 3
"""Factor of the learning rate in the weak rows of `modules`. The paper varies the strength of training without saying
how."""
FIGURES = Path(__file__).with_name("paper-figures.json")
"""The values read off the paper's figures, and the paper's claims."""


@dataclass(frozen=True, kw_only=True)
class AblationRecipe(ContinualRecipe):
    """The resolved recipe of an ablation. ablation: its name. methods: its rows."""

    ablation: str

    @property
    def words(self) -> str:
        """The arguments of `scale bench` that run this recipe."""
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

    preset: a name in `stages.presets_of`, or a YAML file with the fields of `ContinualRecipe`. Its `methods` hold the
        options shared by all rows of a method.
    methods: labels of the rows to run, None for all. "layers" and "threshold" accept any value, as l_fp-25 or
        "tau 0.6".
    seeds, changes: override the preset's; None keeps the preset's.
    Raises RequestError for an unknown ablation, row or field, and for values that do not fit.
    """
    if ablation not in ROWS:
        raise RequestError(f"{ablation}: there is no such ablation; choose from {', '.join(ROWS)}")
    changes |= {"ablation": ablation, "drift": True}
    if ablation == "threshold" and methods is None:
        changes["routers"] = SHARES
    recipe = load_changed(AblationRecipe, "ablations", preset, seeds=seeds, **changes)
    return dataclasses.replace(recipe, methods=ROWS[ablation](recipe, None if methods is None else list(methods)))


def run(recipe: AblationRecipe, out: Path, *, say: Callable[[str], None], progress: Progress) -> BenchResult:
    """Run the ablation into `out` as `continual.run` does. The table has the paper's values; the figure is the
    ablation's own."""
    from scale_cli.reporting.captions import draw_ablation
    from scale_cli.reporting.documents import BEST, markdown

    result = continual.run(recipe, out, say=say, progress=progress)
    if processes().is_main_process:
        reported, title = paper_values(recipe.ablation), f"Ablation {recipe.ablation}, {recipe.preset}"
        table = sheet(result.results, result.groups, title=title, best=BEST["markdown"], reported=reported)
        write_text(out / "table.md", markdown(table))
        figure = drawing(recipe.ablation, result, recipe.roles, layer_count(recipe), reported)
        draw_ablation(figure, out, "ablation")
    return result


def paper_values(ablation: str) -> Reported:
    """The values of an ablation's rows in the paper's figures, by label and measurement, with the base's values.

    Empty if no values are read off.
    """
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))["figures"]
    by_label: dict[str, dict[str, float]] = {}
    for figure in figures:
        labels = figure["values"] if figure["experiment"] == f"ablations-{ablation}" else {}
        for label, values in labels.items():
            fields = (column["field"] for column in figure["columns"])
            known = {name: value for name, value in zip(fields, values, strict=True) if value is not None}
            by_label.setdefault(label, {}).update(known)
    (curves,) = (figure for figure in figures if figure["name"] == "Figure 9")
    fields = (column["field"] for column in curves["columns"])
    base = dict(zip(fields, curves["values"][BASE], strict=True))
    names = {name for values in by_label.values() for name in values}
    return {BASE: {name: base[name] for name in base if name in names}} | by_label if names else {}


# The rows of each ablation


def _init(recipe: AblationRecipe, wanted: list[str] | None) -> Rows:
    pairs = ("svd,zero", "zero,svd", "random,zero", "zero,random")
    if wanted is not None:  # --methods is split at commas; a label is a pair with a comma
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
    rows = {"attention": "attention", "everywhere": "attention,ffn"}
    return _chosen({label: _row(recipe, "scale-adapt", adapt_modules=names) for label, names in rows.items()}, wanted)


ROWS: Mapping[str, Callable[[AblationRecipe, list[str] | None], Rows]] = {
    "init": _init,
    "layers": _layers,
    "modules": _modules,
    "drift": _drift,
    "threshold": _threshold,
    "where": _where,
}
"""The function that makes an ablation's rows, by name. Arguments: the recipe and the labels, None for the default."""


def _row(recipe: AblationRecipe, method: str, **options: Any) -> dict[str, Any]:
    """A row of `method`: the recipe's options for the method, and `options`, which the ablation varies."""
    return {**recipe.methods.get(method, {}), "method": method, **options}


def layer_count(recipe: AblationRecipe) -> int:
    """The number of layers of the base, by the recipe's `config` if it has one, else by the checkpoint's."""
    from scale_cli.surgery.source import open_config

    if recipe.config:
        return int(recipe.config["num_hidden_layers"])
    return int(open_config(recipe.base).config.num_hidden_layers)


def _chosen(rows: Rows, wanted: list[str] | None) -> Rows:
    if absent := [label for label in wanted or () if label not in rows]:
        raise RequestError(f"--methods {','.join(absent)}: choose from {'; '.join(rows)}")
    return {label: rows[label] for label in rows if wanted is None or label in wanted}


def _number(label: str, start: str, example: str, *, lowest: float, highest: float) -> float:
    """The number after `start` in a label. Raises RequestError for another start or a number out of range.

    example: a valid label and its meaning, for the message.
    """
    try:
        number = float(label.removeprefix(start))
    except ValueError:
        number = math.nan
    if not label.startswith(start) or not lowest <= number <= highest or math.isinf(number):
        limits = "" if math.isinf(lowest) else f" from {lowest:g} to {highest:g}"
        raise RequestError(f"--methods {label}: write {start}NUMBER{limits}; {example}")
    return number
