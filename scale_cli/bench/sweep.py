"""The small sweep behind a preset's rates: `scale sweep korean runs/sweep --preset demo`.

Every method gets the same rates, on a seed that the benchmark itself does not use. A method's own best is the rate that
keeps most of what was known among those at which it learns: of bios, most of Task 0 where Task 1 reaches 95%; of
korean, most of English where the gain in Korean is at least 90% of the method's largest, both in bits per byte. Where
none learns, it is the rate that comes nearest to it. Of korean only the documents are measured that are measured while
training, and no suites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scale_cli.bench import bios, bios_results, continual, continual_results
from scale_cli.bench.stages import BenchResult, Progress, processes
from scale_cli.core.files import write_text
from scale_cli.reporting.documents import BEST, markdown
from scale_cli.reporting.sheet import Sheet
from scale_cli.results.frame import tidy
from scale_cli.results.groups import GroupSpec
from scale_cli.results.result import Result, write_results

TASK1_NEEDED = 0.95
GAIN_NEEDED = 0.9


@dataclass(frozen=True)
class Bench:
    """A benchmark whose rates are swept. load: the recipe of a preset. sheet: its table.

    learnt: which of a method's values of what is learnt suffice, given the base's.
    rates: the default ones. cheaper: what the preset's recipe has otherwise for a sweep.
    """

    load: Callable[..., Any]
    run: Callable[..., BenchResult]
    sheet: Callable[[BenchResult, str], Sheet]
    learnt: Callable[[pd.Series, float], pd.Series]
    rates: tuple[float, ...]
    cheaper: Callable[[Any], Mapping[str, Any]]


def scores(results: Sequence[Result], groups: Sequence[GroupSpec]) -> pd.DataFrame:
    """Of each result `method`, None for the base, `lr`, and its means over the columns of both roles, `kept` and
    `learnt`; more is better."""
    asked = {(column.task, column.metric) for group in groups for column in group.columns if group.role is not None}
    table = tidy(results, groups)
    table = table[[place in asked for place in zip(table["task"], table["metric"], strict=True)]]
    signs = table["higher_is_better"].map({True: 1.0, False: -1.0})
    found = table.assign(value=table["value"] * signs).pivot_table(index="result", columns="role", values="value")
    infos = [results[index].checkpoint for index in found.index]
    known = {"method": [info.method for info in infos], "lr": [(info.recipe or {}).get("lr") for info in infos]}
    return found.rename(columns={"stability": "kept", "plasticity": "learnt"}).assign(**known)


def best_rates(results: Sequence[Result], groups: Sequence[GroupSpec], bench: Bench) -> dict[str, float]:
    """Each method's own best learning rate; see the module's text for the rule. Of equals, the lowest rate."""
    found = scores(results, groups)
    base = found["learnt"][found["method"].isna()].mean()
    best = {}
    for method, rows in found[found["method"].notna()].groupby("method", sort=False):
        rows = rows.sort_values("lr", kind="stable")
        learnt = rows[bench.learnt(rows["learnt"], base)]
        chosen = learnt["kept"].argmax() if len(learnt) else rows["learnt"].argmax()
        best[str(method)] = float((learnt if len(learnt) else rows)["lr"].iloc[chosen])
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
        continual.load_preset,
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
    """Every method of the preset at every rate, in one run folder, with `sweep.json` and `sweep.md`.

    rates: None for the benchmark's. changes: fields in place of the preset's. Returns the benchmark's result.
    """
    chosen = BENCHES[bench]
    rates = chosen.rates if rates is None else rates
    base = chosen.load(preset, **changes)
    changes |= chosen.cheaper(base)
    labels = {
        f"{label}@{rate:g}": dict(options) | {"method": base.method_of(label), "lr": rate}
        for label, options in base.methods.items()
        for rate in rates
    }
    recipe = chosen.load(preset, methods=labels, seeds=(seed,), **changes)
    result = chosen.run(recipe, out, say=say, progress=progress)
    best = best_rates(result.results, result.groups, chosen)
    words = f" --preset {preset} --seed {seed} --rates {_words(rates)}"
    words += f" --precision {changes['precision']}" if "precision" in changes else ""
    if processes().is_main_process:
        write_results(
            out / "sweep.json",
            result.results,
            command=f"scale sweep {bench} OUT{words}",
            recipe=result.recipe,
            groups=result.groups,
            best=best,
            seconds=result.seconds,
        )
        rates_found = "\n".join(f"- {method}: {rate:g}" for method, rate in best.items())
        table = markdown(chosen.sheet(result, f"Sweep of {bench}, {preset}"))
        write_text(out / "sweep.md", f"{table}\nEach method's own best rate:\n\n{rates_found}\n")
    return result


def _words(rates: Sequence[float]) -> str:
    return ",".join(f"{rate:g}" for rate in rates)
