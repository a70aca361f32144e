"""The small sweep behind a preset's rates: `python -m benchmarks.sweep --bench korean --preset demo --out runs/sweep`.

Every method gets the same rates, on a seed that the benchmark itself does not use. A method's own best is the rate that
keeps most of what was known among those at which it learns: of bios, most of Task 0 where Task 1 reaches 95%; of
korean, most of English where the gain in Korean is at least 90% of the method's largest, both in bits per byte. Where
none learns, it is the rate that comes nearest to it. Of korean only the documents are measured that are measured while
training, and no suites.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bios, korean
from scale_cli.files import plain, write_text
from scale_cli.records import write_record
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
    result = chosen.run(recipe, out, say=_say, progress=_no_progress)
    best = chosen.best(result.rows)
    words = "" if bench == "bios" else f" --bench {bench}"
    words += f" --preset {preset} --seed {seed} --rates {_words(rates)}"
    words += f" --precision {changes['precision']}" if "precision" in changes else ""
    write_record(
        out / "sweep.json",
        command=f"python -m benchmarks.sweep{words}",
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


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _no_progress(label: str, total: int | None, *, done: int) -> Iterator[Any]:
    _say(label if total is None else f"{label}: {total} steps")
    yield lambda **steps: None


def main() -> None:
    """The command line of the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", choices=list(BENCHES), default="bios")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rates", help="with commas between")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of training, korean only")
    arguments = parser.parse_args()
    if arguments.precision and arguments.bench != "korean":
        parser.error(f"--precision {arguments.precision}: only --bench korean has it; leave it out")
    changes = {"precision": arguments.precision} if arguments.precision else {}
    rates = None if arguments.rates is None else [float(word) for word in arguments.rates.split(",")]
    sweep(arguments.preset, arguments.out, seed=arguments.seed, bench=arguments.bench, rates=rates, **changes)
    print((arguments.out / "sweep.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
