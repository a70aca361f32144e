"""What the tests share: an offline, single-threaded process, a tolerance per dtype, the command line as a call."""

import os

# Before torch and the Hugging Face libraries are imported: they read these once.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "200",
    "NO_COLOR": "1",
    "_TYPER_FORCE_DISABLE_TERMINAL": "1",
}

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from scale_cli.cli import main

torch.set_num_threads(1)

TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


@pytest.fixture
def tolerance() -> Callable[[torch.dtype], dict[str, float]]:
    """How near two values are that differ in rounding only: `assert_close(a, b, **tolerance(a.dtype))`."""
    return TOLERANCE.__getitem__


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`run_cli("doctor", "--json")` in this process; an exception that the command line lets through is raised here."""

    def run(*words: object) -> Finished:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Finished(code, *capsys.readouterr())

    return run


@pytest.fixture
def run_cli_process() -> Callable[..., Finished]:
    """The same in a process of its own, as from a shell."""

    def run(*words: object) -> Finished:
        program = "import sys; from scale_cli.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return Finished(ended.returncode, ended.stdout, ended.stderr)

    return run
