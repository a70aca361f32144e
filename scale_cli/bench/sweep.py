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

from scale_cli.bench import bios, korean
from scale_cli.bench.stages import Progress
from scale_cli.core.files import plain, write_text
from scale_cli.core.records import write_record
from scale_cli.reporting.bios import markdown_table as bios_table
from scale_cli.reporting.korean import markdown_table as korean_table

TASK1_NEEDED = 0.95
GAIN_NEEDED = 0.9


@dataclass(frozen=True)
class Bench:
    """A benchmark that rates are looked for in. load: the recipe of a preset. best: each method's own best rate.

    rates: tried where nobody says others. cheaper: what the preset's recipe has otherwise for it.
    """

    load: Callable[..., Any]
    run: Callable[..., Any]
    table: Callable[..., str]
    best: Callable[[Sequence[Any]], dict[str, float]]
    rates: tuple[float, ...]
    cheaper: Callable[[Any], Mapping[str, Any]]


def best_rates(rows: Sequence[bios.Row]) -> dict[str, float]:
    """Each method's own best learning rate; see the module's text for the rule. Of equals, the lowest rate."""
    best: dict[str, float] = {}
    for method, mine in _by_method(rows).items():
        learnt = [row for row in mine if row.task1 >= TASK1_NEEDED]
        chosen = max(learnt, key=lambda row: row.task0) if learnt else max(mine, key=lambda row: row.task1)
        best[method] = chosen.learning_rate
    return best


def best_text_rates(rows: Sequence[korean.Row]) -> dict[str, float]:
    """The same of the Korean benchmark, whose first row is the base."""
    base, *others = rows
    best: dict[str, float] = {}
    for method, mine in _by_method(others).items():
        gains = {row.label: base.bits["korean"] - row.bits["korean"] for row in mine}
        largest = max(gains.values())
        learnt = [row for row in mine if gains[row.label] >= GAIN_NEEDED * largest > 0]
        chosen = min(learnt, key=lambda row: row.bits["english"]) if learnt else max(mine, key=lambda r: gains[r.label])
        assert chosen.learning_rate is not None
        best[method] = chosen.learning_rate
    return best


def _by_method(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """The rows of each method, the lowest rate first."""
    ordered = sorted(rows, key=lambda row: row.learning_rate)
    return {
        method: [row for row in ordered if row.method == method] for method in dict.fromkeys(row.method for row in rows)
    }


BENCHES = {
    "bios": Bench(bios.load_preset, bios.run, bios_table, best_rates, (3e-4, 1e-3, 3e-3, 1e-2), lambda recipe: {}),
    "korean": Bench(
        korean.load_preset,
        korean.run,
        korean_table,
        best_text_rates,
        (1e-4, 3e-4, 1e-3, 3e-3),
        lambda recipe: {"suites": (), "documents": recipe.documents_while_training},
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
) -> Any:
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
    best = chosen.best(result.rows)
    words = f" --preset {preset} --seed {seed} --rates {_words(rates)}"
    words += f" --precision {changes['precision']}" if "precision" in changes else ""
    write_record(
        out / "sweep.json",
        command=f"scale sweep {bench} OUT{words}",
        recipe=result.recipe,
        rows=result.rows,
        best=best,
        seconds=result.seconds,
    )
    said = "\n".join(f"- {method}: {rate:g}" for method, rate in best.items())
    table = chosen.table([plain(row) for row in result.rows])
    write_text(out / "sweep.md", f"{table}\n\nEach method's own best rate:\n\n{said}\n")
    return result


def _words(rates: Sequence[float]) -> str:
    return ",".join(f"{rate:g}" for rate in rates)
