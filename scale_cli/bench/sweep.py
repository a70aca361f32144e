"""The sweep that finds each method's best learning rate: `scale sweep korean runs/sweep --preset demo`.

Every method is trained at the same rates, on a seed that the benchmark itself does not use. A method's best rate has
the highest stability among its rates with sufficient plasticity. In bios, sufficient is a Task 1 accuracy of 95%. In
korean, it is at least 90% of the method's largest gain, in bits per byte. If no rate suffices, the best one has the
highest plasticity. A korean sweep measures only the documents that are measured while training, and no suites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scale_cli.bench import bios, bios_results, continual, continual_recipe, continual_results
from scale_cli.bench.stages import BenchResult, Progress, processes
from scale_cli.core.files import write_text
from scale_cli.reporting.documents import BEST, markdown
from scale_cli.reporting.sheet import Sheet
from scale_cli.results.frame import tidy
from scale_cli.results.groups import GroupSpec
from scale_cli.results.result import Result, write_results

TASK1_NEEDED = 0.95
"""Sufficient Task 1 accuracy in a bios sweep."""
GAIN_NEEDED = 0.9
"""Sufficient gain in a korean sweep, as a share of the method's largest gain."""


@dataclass(frozen=True)
class Bench:
    """A benchmark whose rates are swept.

    load: reads the recipe of a preset. run: runs a recipe. sheet: (result, title) -> its table.
    learnt: (a method's plasticity by rate, the base's plasticity) -> whether each is sufficient.
    rates: default learning rates. cheaper: recipe -> fields to change for a sweep.
    """

    load: Callable[..., Any]
    run: Callable[..., BenchResult]
    sheet: Callable[[BenchResult, str], Sheet]
    learnt: Callable[[pd.Series, float], pd.Series]
    rates: tuple[float, ...]
    cheaper: Callable[[Any], Mapping[str, Any]]


def scores(results: Sequence[Result], groups: Sequence[GroupSpec]) -> pd.DataFrame:
    """One row per result: `method` (None for the base), `lr`, and the means `kept` and `learnt` over the columns of
    stability and of plasticity. Higher is better; metrics where lower is better are negated."""
    with_role = {(column.task, column.metric) for group in groups for column in group.columns if group.role is not None}
    table = tidy(results, groups)
    table = table[[column in with_role for column in zip(table["task"], table["metric"], strict=True)]]
    signs = table["higher_is_better"].map({True: 1.0, False: -1.0})
    means = table.assign(value=table["value"] * signs).pivot_table(index="result", columns="role", values="value")
    infos = [results[index].checkpoint for index in means.index]
    fields = {"method": [info.method for info in infos], "lr": [(info.recipe or {}).get("lr") for info in infos]}
    return means.rename(columns={"stability": "kept", "plasticity": "learnt"}).assign(**fields)


def best_rates(results: Sequence[Result], groups: Sequence[GroupSpec], bench: Bench) -> dict[str, float]:
    """Each method's best learning rate, by the rule in the module's docstring. Among equals, the lowest rate."""
    table = scores(results, groups)
    base = table["learnt"][table["method"].isna()].mean()
    best = {}
    for method, rows in table[table["method"].notna()].groupby("method", sort=False):
        rows = rows.sort_values("lr", kind="stable")
        sufficient = rows[bench.learnt(rows["learnt"], base)]
        candidates, score = (sufficient, "kept") if len(sufficient) else (rows, "learnt")
        best[str(method)] = float(candidates["lr"].iloc[candidates[score].argmax()])
    return best


BENCHES = {
    "bios": Bench(
        bios.load_preset,
        bios.run,
        lambda result, title: bios_results.sheet(result.results, title=title, best=BEST["markdown"]),
        lambda learnt, base: learnt >= TASK1_NEEDED,
        (3e-4, 1e-3, 3e-3, 1e-2),
        lambda recipe: {},
    ),
    "korean": Bench(
        continual_recipe.load_preset,
        continual.run,
        lambda result, title: continual_results.sheet(
            result.results, result.groups, title=title, best=BEST["markdown"]
        ),
        lambda learnt, base: (learnt - base >= GAIN_NEEDED * (learnt.max() - base)) & (learnt.max() > base),
        (1e-4, 3e-4, 1e-3, 3e-3),
        lambda recipe: {
            "suites": (),
            "texts": {name: {**text, "documents": recipe.held_out[name].fewer} for name, text in recipe.texts.items()},
        },
    ),
}


def rows_at(methods: Mapping[str, Mapping[str, Any]], rates: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Each row at each learning rate, labelled ROW@RATE. A row without `method` is labelled by its method."""
    return {
        f"{label}@{rate:g}": {"method": label} | dict(options) | {"lr": rate}
        for label, options in methods.items()
        for rate in rates
    }


def sweep(
    preset: str,
    out: Path,
    *,
    seed: int,
    bench: str = "bios",
    rates: Sequence[float] | None = None,
    say: Callable[[str], None],
    progress: Progress,
    **changes: Any,
) -> BenchResult:
    """Train every method of the preset at every rate, in the run folder `out`, and write sweep.json and sweep.md there.

    bench: a name in `BENCHES`. rates: learning rates, None for the benchmark's default ones.
    say, progress: as in the benchmark's `run`. changes: fields that override the preset's.
    Returns the benchmark's result. Raises RequestError as the benchmark does.
    """
    swept = BENCHES[bench]
    rates = swept.rates if rates is None else rates
    base = swept.load(preset, **changes)
    changes |= swept.cheaper(base)
    recipe = swept.load(preset, methods=rows_at(base.methods, rates), seeds=(seed,), **changes)
    result = swept.run(recipe, out, say=say, progress=progress)
    best = best_rates(result.results, result.groups, swept)
    options = f" --preset {preset} --seed {seed} --rates {','.join(f'{rate:g}' for rate in rates)}"
    options += f" --precision {changes['precision']}" if "precision" in changes else ""
    if processes().is_main_process:
        write_results(
            out / "sweep.json",
            result.results,
            command=f"scale sweep {bench} OUT{options}",
            recipe=result.recipe,
            groups=result.groups,
            best=best,
            seconds=result.seconds,
        )
        best_list = "\n".join(f"- {method}: {rate:g}" for method, rate in best.items())
        table = markdown(swept.sheet(result, f"Sweep of {bench}, {preset}"))
        write_text(out / "sweep.md", f"{table}\nEach method's own best rate:\n\n{best_list}\n")
    return result
