"""Every method in one, two and three processes, copied (DDP) and sharded (FSDP2): `python -m tests.process_matrix`.

Each run takes the same sequences per step; the table gives the largest difference of a logged loss and of a trained
weight from those of one process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from scale_cli.methods import METHODS
from tests.processes import together
from tests.runs import World, lines, make_world

BATCHES = 6
"""Batches of a step, of two questions each."""
STEPS = 4
LAUNCHES = {"2 copies": (2, []), "3 copies": (3, []), "2 shards": (2, ["--shard"]), "3 shards": (3, ["--shard"])}
"""Processes, and more options."""


def command(world: World, method: str, out: Path, processes: int, *more: str) -> list[str]:
    """A run with `BATCHES` batches per step, in so many processes."""
    words = world.command(
        method,
        out,
        objective="qa",
        people="0:8",
        steps=STEPS,
        batch_size=2,
        gradient_accumulation_steps=BATCHES // processes,
        lr=1e-2,
        weight_decay=0.1,
        logging_steps=1,
    )
    return [*words, *more]


def differences(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference of two runs in a logged loss, and in a trained weight."""
    losses = (abs(a["loss"] - b["loss"]) for a, b in zip(lines(one), lines(other), strict=True))
    (first,), (second,) = (list(run.glob("*.safetensors")) for run in (one, other))
    before, after = load_file(first), load_file(second)
    assert before.keys() == after.keys()
    return max(losses), max((before[name] - after[name]).abs().max().item() for name in before)


def compare(world: World, method: str, folder: Path) -> dict[str, tuple[float, float]]:
    """The differences of each launch from one process."""
    (folder / "logs").mkdir(parents=True)
    together(1, folder / "logs", command(world, method, folder / "alone", 1))
    found = {}
    for number, (name, (processes, more)) in enumerate(LAUNCHES.items()):
        out = folder / f"run-{number}"
        (folder / f"logs-{number}").mkdir()
        together(processes, folder / f"logs-{number}", command(world, method, out, processes, *more))
        found[name] = differences(folder / "alone", out)
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "world").mkdir()
        world = make_world(Path(name) / "world")
        able = [name for name, method in METHODS.items() if method.shards]
        rows = {method: compare(world, method, Path(name) / method) for method in able}
    for index, what in enumerate(("loss", "weight")):
        frame = pd.DataFrame({m: {k: v[index] for k, v in row.items()} for m, row in rows.items()}).T
        print(f"largest difference of a {what} from one process")
        print(frame.map("{:.1e}".format).to_string(), "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
