"""Several processes share a run out: two with half the batch each take the steps that one takes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import World, lines

PROGRAM = "import sys; from scale_cli.cli import main; sys.exit(main())"
ROOT = Path(__file__).parents[2]


def train(world: World, out: Path, launcher: list[str], batch_size: int) -> tuple[list[dict[str, Any]], str]:
    """The logged lines of a run of scale-route and what it printed."""
    options = {
        "--method": "scale-route",
        "--data": str(world.data),
        "--objective": "qa",
        "--people": "0:8",
        "--steps": "3",
        "--batch-size": str(batch_size),
        "--lr": "1e-2",
        "--preserve-layers": "1",
        "--logging-steps": "1",
    }
    words = [world.source("scale-route"), str(out), *(word for option in options.items() for word in option)]
    program = out.with_suffix(".py")
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(program), "train", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    return lines(out), ended.stdout


def test_two_processes_train_as_one_does(world: World, tmp_path: Path) -> None:
    alone, _ = train(world, tmp_path / "alone", [], batch_size=8)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    shared, printed = train(world, tmp_path / "shared", launcher, batch_size=4)
    assert [line["loss"] for line in shared] == pytest.approx([line["loss"] for line in alone], rel=1e-4)
    assert len({line["loss"] for line in alone}) == 3
    assert printed.count("written to") == 1
