"""The kill soak: `python -m tests.soak [KILLS] [SEED]`.

Trainings are killed by SIGKILL at random file operations below their run folder, each resumed run once more, and then
resumed to the end. The table counts runs that end with other bytes than one that was never killed, and dead ends.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tests.processes import scale, start
from tests.runs import World, make_world, tree

METHODS = ("fft", "lora", "llama-pro", "scale-preserve", "scale-route")
COMPARED = ("model.safetensors", "trained.safetensors", "trained.json", "metrics.jsonl", "recipe.yaml")
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Audit events of file operations. Writes between them are covered by the next: the kernel keeps what was written."""


@dataclass(frozen=True)
class Case:
    """A training: its method and objective."""

    method: str
    objective: str

    def command(self, world: World, out: Path) -> list[str]:
        options = {"people": "0:8"} if self.objective == "qa" else {"seq_length": 48}
        return world.command(
            self.method,
            out,
            objective=self.objective,
            steps=6,
            batch_size=2,
            lr=1e-2,
            logging_steps=1,
            save_steps=2,
            tokens_cache=world.folder / "tokens",
            **options,
        )


def counting(out: str, kill_at: int, log: str, words: list[str]) -> None:
    """Run a command; kill this process at its operation number `kill_at` below `out`. Writes the number to `log`."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        path = arguments[0] if event in OPERATIONS else None
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(out):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    scale(words)
    Path(log).write_text(str(seen), encoding="utf-8")


def run(command: list[str], folder: Path, *, kill_at: int = 0) -> tuple[int | None, str, int]:
    """The exit code, what stands on stderr, and the number of operations; 0 if the process was killed."""
    log = folder.with_suffix(".count")
    code, _, messages = start(counting, command[2], kill_at, str(log), command, folder=folder).wait()
    return code, messages, int(log.read_text(encoding="utf-8")) if log.exists() else 0


def bytes_of(out: Path) -> dict[str, bytes]:
    """The files of a run that do not depend on time."""
    return {name: content for name, content in tree(out).items() if name in COMPARED}


def soak(world: World, folder: Path, kills: int, seed: int, cases: list[Case]) -> Iterator[dict[str, object]]:
    """A row per killed run. Each is killed at two random operations, of the run and of the resumed run."""
    generator = random.Random(seed)
    for case in cases:
        (folder / str(case)).mkdir(parents=True)
    never_killed: dict[Case, tuple[dict[str, bytes], int]] = {}
    for number in range(kills):
        case = cases[number % len(cases)]
        own = folder / str(case)
        if case not in never_killed:
            code, messages, operations = run(case.command(world, own / "never"), own / "never-log")
            assert code == 0, messages
            never_killed[case] = bytes_of(own / "never"), operations
        expected, operations = never_killed[case]
        out = own / f"run-{number}"
        command = case.command(world, out)
        at = [generator.randint(1, operations), generator.randint(1, operations)]
        code, messages, _ = run(command, own / f"log-{number}-0", kill_at=at[0])
        row = {"method": case.method, "objective": case.objective, "killed at": at, "of": operations, "wrong": ""}
        if code == -signal.SIGKILL and out.exists():
            code, messages, _ = run([*command, "--resume"], own / f"log-{number}-1", kill_at=at[1])
        if code == -signal.SIGKILL:
            again = ["--resume"] if out.exists() else []
            code, messages, _ = run([*command, *again], own / f"log-{number}-2")
        if code != 0 and "is finished" not in messages:  # a kill may come after the last file
            row["wrong"] = f"dead end: {messages.strip().splitlines()[-1]}"
        elif bytes_of(out) != expected:
            row["wrong"] = "difference: " + ", ".join(n for n in expected if bytes_of(out).get(n) != expected[n])
        yield row


def all_cases() -> list[Case]:
    return [Case(method, objective) for objective in ("qa", "lm") for method in METHODS]


def main() -> int:
    kills, seed = (int(word) for word in (*sys.argv[1:], *("50", "0")[len(sys.argv) - 1 :]))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "world").mkdir()
        world = make_world(Path(name) / "world")
        rows = []
        for row in soak(world, Path(name) / "runs", kills, seed, all_cases()):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    frame = pd.DataFrame(rows)
    frame["kind"] = frame["wrong"].str.partition(":")[0].replace("", "right")
    print(frame.groupby(["method", "objective", "kind"]).size().unstack(fill_value=0).to_string())
    print(f"{kills} runs killed, seed {seed}, in {time.monotonic() - begun:.0f} s")
    return int((frame["wrong"] != "").any())


if __name__ == "__main__":
    sys.exit(main())
