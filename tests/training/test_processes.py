"""Several processes share a run: two with half the batch each take the same steps as one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import World, lines

PROGRAM = "import sys; from scale_cli.cli import main; sys.exit(main())"
ROOT = Path(__file__).parents[2]


QUESTIONS = {"--objective": "qa", "--people": "0:8"}


def train(
    world: World, out: Path, launcher: list[str], batch_size: int, data: dict[str, str]
) -> tuple[list[dict[str, Any]], str]:
    """The logged lines of a scale-route run, and its output."""
    options = {
        "--method": "scale-route",
        **({"--data": str(world.data)} | data),
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


def texts(folder: Path) -> dict[str, str]:
    """A mixture of two files, with packing "documents"."""
    for name in ("a", "b"):
        rows = [json.dumps({"text": f"{name}{number} is a short text"}) for number in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    data = f"{folder}/a.jsonl:0.7,{folder}/b.jsonl:0.3"
    return {"--data": data, "--packing": "documents", "--seq-length": "40", "--tokens-cache": str(folder / "tokens")}


@pytest.mark.parametrize("objective", ["qa", "lm"])
def test_two_processes_train_as_one_does(objective: str, world: World, tmp_path: Path) -> None:
    data = QUESTIONS if objective == "qa" else texts(tmp_path)
    alone, _ = train(world, tmp_path / "alone", [], 8, data)
    shutil.rmtree(tmp_path / "tokens", ignore_errors=True)  # both processes need the tokens at once
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    shared, printed = train(world, tmp_path / "shared", launcher, 4, data)
    assert [line["loss"] for line in shared] == pytest.approx([line["loss"] for line in alone], rel=1e-4)
    assert len({line["loss"] for line in alone}) == 3
    assert printed.count("written to") == 1
