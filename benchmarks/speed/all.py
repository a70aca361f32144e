"""Every speed measurement, one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.__main__ import MEASUREMENTS
from scale_cli.core.errors import RequestError

RUNS = {name: [name] for name in MEASUREMENTS if name != "all"} | {
    "train-step-smollm2": ["train-step", "--shape", "smollm2-135m", "--repetitions", "5"],
    "generate-smollm2": ["generate", "--shape", "smollm2-135m", "--repetitions", "5"],
    "memory-1b": ["memory", "--shape", "llama-1b", "--batch-size", "8", "--estimate"],
}
"""The arguments of each run, by the name of its record."""


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the records.", metavar="FOLDER")],
    only: Annotated[str, typer.Option(help="Names of runs, separated by commas.")] = ",".join(RUNS),
) -> Result:
    """Run every speed measurement.

    Each runs in a new process with its defaults and writes its record to FOLDER/speed-MEASUREMENT.json. Training steps
    and generation run once more for a real model's shape, and memory is estimated once more for the 1B shape that its
    target is for. At the end, one table lists every target: the measured number and its limit. Upscaling, at the 1B
    shape, takes the longest.
    """
    names = frame.chosen("--only", only, RUNS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{folder} cannot be written: {error.strerror}; mend that or choose another folder"
        ) from error
    targets = []
    for name in names:
        out = folder / f"speed-{name}.json"
        command = [sys.executable, "-m", "benchmarks.speed", *RUNS[name], "--out", str(out)]
        if subprocess.run(command, check=False).returncode:
            raise RequestError(f"{name} failed; its output is above")
        for target in json.loads(out.read_text(encoding="utf-8"))["targets"]:
            targets.append(target | {"name": name, "verdict": "reached" if target["reached"] else "missed"})
    printed = frame.table(
        targets,
        "name what value limit verdict",
        title="Targets",
        headings={"name": "measurement", "what": "target", "value": "measured", "limit": "at most", "verdict": ""},
    )
    return Result([printed], {"targets": targets})
