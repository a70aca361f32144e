"""The command line of the speed measurements: `python -m benchmarks.speed MEASUREMENT [options]`."""

import importlib
import sys
from collections.abc import Sequence

from benchmarks.command import run

PROGRAM = "python -m benchmarks.speed"
MEASUREMENTS = {
    "train-step": "one training step of every method, against full fine-tuning",
    "memory": "peak memory of training with every method, measured and estimated",
    "trainer": "a whole training run, against its bare forward, backward and optimiser steps",
    "generate": "greedy generation by a widened model, against its base",
    "eval": "perplexity and multiple choice by a widened model, against its base",
    "upscale": "seconds and memory of upscaling a checkpoint, against copying its folder",
    "gen-bios": "people per second and memory of generating biographies",
    "tokenise": "tokenising and packing texts, against the tokenizers library alone",
    "startup": "seconds to start the command line",
    "growth": "growth of time with the expansion, depth, length, batch and data",
    "all": "all of these, with one record each and one table of the targets",
}
"""Every measurement and its description. A measurement is the function `main` in the module of its name. Only the
requested module is imported, so that no measurement loads the libraries of another."""


def main(words: Sequence[str]) -> int:
    """Run a measurement and return the exit code: 0 done, 2 a mistake in the request."""
    name = words[0] if words else "--help"
    if name in MEASUREMENTS:
        module = importlib.import_module(f"benchmarks.speed.{name.replace('-', '_')}")
        return run(module.main, f"{PROGRAM} {name}", words[1:])
    if name in ("-h", "--help"):
        listed = "\n".join(f"  {measurement:<12}{text}" for measurement, text in MEASUREMENTS.items())
        print(f"{PROGRAM} MEASUREMENT [--help]\n\n{listed}")
        return 0
    print(f"{PROGRAM}: {name}: choose one of {', '.join(MEASUREMENTS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
