"""The small sweep behind a preset's learning rates: `python -m benchmarks.sweep --preset demo --out runs/sweep`.

Every method gets the same rates, on a seed that the benchmark itself does not use. A method's own best is, among the
rates at which Task 1 reaches 95%, the one that keeps most of Task 0; where none does, the one with the highest Task 1.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bios import BiosResult, Row, load_preset, run
from scale_cli.files import plain, write_text
from scale_cli.records import write_record
from scale_cli.reporting.bios import markdown_table

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TASK1_NEEDED = 0.95


def best_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Each method's own best learning rate; see the module's text for the rule. Of equals, the lowest rate."""
    best: dict[str, float] = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = sorted((row for row in rows if row.method == method), key=lambda row: row.learning_rate)
        learnt = [row for row in mine if row.task1 >= TASK1_NEEDED]
        chosen = max(learnt, key=lambda row: row.task0) if learnt else max(mine, key=lambda row: row.task1)
        best[method] = chosen.learning_rate
    return best


def sweep(preset: str, out: Path, *, seed: int, rates: Sequence[float]) -> BiosResult:
    """Task 1 with every method of the preset at every rate, in one run folder, with `sweep.json` and `sweep.md`."""
    base = load_preset(preset)
    labels = {
        f"{label}@{rate:g}": dict(options) | {"method": base.method_of(label), "lr": rate}
        for label, options in base.methods.items()
        for rate in rates
    }
    result = run(load_preset(preset, methods=labels, seeds=(seed,)), out, say=_say, progress=_no_progress)
    best = best_rates(result.rows)
    write_record(
        out / "sweep.json",
        command=f"python -m benchmarks.sweep --preset {preset} --seed {seed} --rates {_words(rates)}",
        recipe=result.recipe,
        rows=result.rows,
        best=best,
        seconds=result.seconds,
    )
    chosen = "\n".join(f"- {method}: {rate:g}" for method, rate in best.items())
    table = markdown_table([plain(row) for row in result.rows])
    write_text(out / "sweep.md", f"{table}\n\nEach method's own best rate:\n\n{chosen}\n")
    return result


def _words(rates: Sequence[float]) -> str:
    return ",".join(f"{rate:g}" for rate in rates)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _no_progress(label: str, total: int, *, done: int) -> Iterator[Any]:
    _say(f"{label}: {total} steps")
    yield lambda done: None


def main() -> None:
    """The command line of the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rates", default=_words(RATES))
    arguments = parser.parse_args()
    rates = [float(word) for word in arguments.rates.split(",")]
    sweep(arguments.preset, arguments.out, seed=arguments.seed, rates=rates)
    print((arguments.out / "sweep.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
