"""The command line of the speed measurements: `python -m benchmarks.speed MEASUREMENT [options]`."""

import importlib
import sys

from scale_cli.core.errors import RequestError

MEASUREMENTS = {
    "train-step": "one training step of every method against full fine-tuning",
    "memory": "the most memory of training with every method, measured and foreseen",
    "trainer": "a whole training run against its bare forward, backward and optimiser steps",
    "generate": "greedy generation by a widened model against its base",
    "eval": "perplexity and multiple choice by a widened model against its base",
    "upscale": "seconds and memory of upscaling a checkpoint against copying its folder",
    "gen-bios": "people a second and memory of generating biographies",
    "tokenise": "tokenising and packing texts against the tokenizers library alone",
    "startup": "seconds until the tool answers",
    "growth": "how the time grows with the expansion, depth, length, batch and data",
    "all": "all of these, a record each and one table of the targets",
}
"""What can be measured, and in a word what it is. A measurement is the module of its name and that module's `main`, to
which the words that follow are given; it is imported when it is asked for, so that none pays for another's imports."""


def main(words: list[str]) -> int:
    """Run a measurement and give the exit code: 0 done, 2 a mistake in the request."""
    if not words or words[0] not in MEASUREMENTS:
        listed = "\n".join(f"  {name:<12}{what}" for name, what in MEASUREMENTS.items())
        asked_for_help = words[:1] in ([], ["-h"], ["--help"])
        if asked_for_help:
            print(f"python -m benchmarks.speed MEASUREMENT [--help]\n\n{listed}")
            return 0
        print(f"benchmarks.speed: {words[0]}: choose one of {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.speed.{words[0].replace('-', '_')}")
    try:
        module.main(words[1:])
    except RequestError as error:
        print(f"benchmarks.speed: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
