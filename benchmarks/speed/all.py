"""Every measurement of speed, one after the other: `python -m benchmarks.speed all FOLDER`.

Each runs in a process of its own with its defaults and writes its record to FOLDER/speed-MEASUREMENT.json; training
steps and generation once more for a real model's shape, and memory once more, estimated for the 1B shape, whose target
it is. At the end stands one table of every target: what it is, the number found, and the most that it is meant to be.
Upscaling, at the 1B shape, takes the longest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.speed.__main__ import MEASUREMENTS
from scale_cli.core.errors import RequestError

RUNS = {name: [name] for name in MEASUREMENTS if name != "all"} | {
    "train-step-smollm2": ["train-step", "--shape", "smollm2-135m", "--repetitions", "5"],
    "generate-smollm2": ["generate", "--shape", "smollm2-135m", "--repetitions", "5"],
    "memory-1b": ["memory", "--shape", "llama-1b", "--batch-size", "8", "--estimate"],
}
"""The words of each run, by the name of its record."""


def record_of(folder: Path, name: str) -> Path:
    """Where the record of a run goes."""
    return folder / f"speed-{name}.json"


def target_table(records: dict[str, dict[str, Any]]) -> Table:
    """Every target of every run, for a terminal of 80 columns."""
    table = Table("measurement", "what", title="Targets", title_justify="left")
    for heading in ("found", "at most", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, record in records.items():
        for i, target in enumerate(record["targets"]):
            verdict = "reached" if target["reached"] else "missed"
            numbers = (f"{target[key]:.3f}" for key in ("value", "limit"))
            table.add_row("" if i else name, target["what"], *numbers, verdict)
    return table


def main(words: list[str]) -> None:
    """The command line. Raises RequestError for a folder that cannot be written, or a measurement that fails."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the records go")
    parser.add_argument("--only", default=",".join(RUNS), help="these, with commas between")
    arguments = parser.parse_args(words)
    chosen = arguments.only.split(",")
    if unknown := [name for name in chosen if name not in RUNS]:
        raise RequestError(f"--only {arguments.only}: {unknown[0]!r} is not one of {', '.join(RUNS)}")
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{arguments.folder} cannot be written: {error.strerror}; mend that or choose another folder"
        ) from error
    records = {}
    for name in chosen:
        out = record_of(arguments.folder, name)
        ended = subprocess.run([sys.executable, "-m", "benchmarks.speed", *RUNS[name], "--out", str(out)], check=False)
        if ended.returncode:
            raise RequestError(f"{name} failed; what it said stands above")
        records[name] = json.loads(out.read_text(encoding="utf-8"))
    Console().print(target_table(records))
