"""Seconds to start the command line, and from it to the end of a first training step and of a first measurement."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, in_own_process
from benchmarks.speed.shapes import SHAPES, base_config

COMMAND = "import sys, tempfile; from scale_cli.cli import main; sys.argv[1:] = {words}; sys.exit(main())"
PROGRAMS = {
    "python": "pass",
    "import scale_cli": "import scale_cli",
    "import scale_cli.model": "import scale_cli.model",
    "scale --help": COMMAND.format(words=["--help"]),
    "scale train --help": COMMAND.format(words=["train", "--help"]),
    "scale doctor": COMMAND.format(words=["doctor"]),
}
"""The code of each program that is started."""
NEW_FOLDER = "OUT"
"""A word of a command that is a new folder in each start."""
WORKS = {
    "train": ("train", "BASE", NEW_FOLDER, "--data", "TEXT", "--steps", "1", "--seq-length", "8", "--batch-size", "1"),
    "eval": ("eval", "BASE", "--perplexity", "text=TEXT", "--out", NEW_FOLDER),
}
"""The words of the commands that are started on a tiny model."""
LIBRARIES = {
    "train": "import torch, datasets, transformers; transformers.Trainer, transformers.LlamaForCausalLM",
    "eval": "import torch, datasets, transformers; transformers.LlamaForCausalLM",
}
"""The libraries without which a command's work is not done."""
LIMIT = 1.0
"""The largest ratio of a command on a tiny model to the import of its libraries that is a target."""


def start(code: str, threads: int) -> None:
    """Run Python code in a new process. Raises CalledProcessError if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


def programs(folder: Path) -> dict[str, str]:
    """`PROGRAMS`, and each of `WORKS` with the import of its libraries. folder: for model, text and results."""
    in_own_process(make_base, folder / "base")
    (folder / "text.txt").write_text("Ann Lee was born in Lima.\n" * 4, encoding="utf-8")
    given = {"BASE": f"{folder}/base", "TEXT": f"{folder}/text.txt", "text=TEXT": f"text={folder}/text.txt"}
    code = dict(PROGRAMS)
    for name, words in WORKS.items():
        new = f"tempfile.mkdtemp(dir={str(folder)!r})"
        listed = ", ".join(new if word == NEW_FOLDER else repr(given.get(word, word)) for word in words)
        code[f"libraries of scale {name}"] = LIBRARIES[name]
        code[f"scale {name}"] = COMMAND.format(words=f"[{listed}]")
    return code


def make_base(folder: Path) -> None:
    """Write a tiny model with random weights and a tokenizer of bytes."""
    from transformers import AutoModelForCausalLM

    from benchmarks.speed.eval import byte_tokenizer

    AutoModelForCausalLM.from_config(base_config(SHAPES["tiny"])).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def main(repetitions: frame.Repetitions = 5, threads: frame.Threads = frame.CORES) -> Result:
    """Time the start of several programs, and of a training step and a measurement on a tiny model.

    Every repetition starts each program in a new process, in turn. Printed are medians of wall and CPU seconds. All
    include the start of Python, which the first line gives alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = programs(Path(folder))
        works = {program: functools.partial(start, each, threads) for program, each in code.items()}
        lines = frame.interleave(works, "program", repetitions=repetitions, warmup=1, children=True)
    seconds = lines.set_index("program").cpu_seconds
    targets = [
        Target(f"scale {name} on a tiny model / its libraries", seconds[f"scale {name}"] / seconds[libraries], LIMIT)
        for name in WORKS
        if (libraries := f"libraries of scale {name}") in seconds.index
    ]
    return Result(
        [frame.table(lines, "program wall_seconds cpu_seconds spread", title="Starting")],
        {
            "threads": threads,
            "repetitions": repetitions,
            "targets": [target.record for target in targets],
            "lines": frame.rows(lines),
        },
    )
