"""Several processes share a run: two with half the batch each take the same steps as one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scale_cli.cli import main
from scale_cli.training.trainer import StopAtStep
from tests.processes import ON_THE_CPU, together
from tests.runs import World, lines


def words(world: World, out: Path, batch_size: int, data: dict[str, str]) -> list[str]:
    """The command of a scale-route run."""
    options = {
        "--method": "scale-route",
        **({"--data": str(world.data)} | data),
        "--steps": "3",
        "--batch-size": str(batch_size),
        "--lr": "1e-2",
        "--preserve-layers": "1",
        "--logging-steps": "1",
    }
    return ["train", world.source("scale-route"), str(out), *(word for option in options.items() for word in option)]


def questions(folder: Path) -> dict[str, str]:
    """Questions, and text that the base samples beside them."""
    rehearsed = {"--rehearse": "self", "--rehearse-tokens": "512", "--tokens-cache": str(folder / "tokens")}
    return {"--objective": "qa", "--people": "0:8", **rehearsed}


def texts(folder: Path) -> dict[str, str]:
    """A mixture of two files, with packing "documents"."""
    for name in ("a", "b"):
        rows = [json.dumps({"text": f"{name}{number} is a short text"}) for number in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    data = f"{folder}/a.jsonl:0.7,{folder}/b.jsonl:0.3"
    return {"--data": data, "--packing": "documents", "--seq-length": "40", "--tokens-cache": str(folder / "tokens")}


def under_torchrun(folder: Path, command: list[str]) -> str:
    """The output of a `scale` command in two processes."""
    program = folder / "program.py"
    program.write_text("import sys; from scale_cli.cli import main; sys.exit(main())", encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(program), *command]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ON_THE_CPU)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("objective", ["qa", "lm"])
def test_two_processes_train_as_one_does(objective: str, world: World, tmp_path: Path) -> None:
    """The real launcher starts one of the two runs."""
    data = questions(tmp_path) if objective == "qa" else texts(tmp_path)
    assert main(words(world, tmp_path / "alone", 8, data)) == 0
    shutil.rmtree(tmp_path / "tokens", ignore_errors=True)  # both processes need the tokens at once
    command = words(world, tmp_path / "shared", 4, data)
    printed = under_torchrun(tmp_path, command) if objective == "lm" else together(2, tmp_path, command)
    alone, shared = (lines(tmp_path / name) for name in ("alone", "shared"))
    assert [line["loss"] for line in shared] == pytest.approx([line["loss"] for line in alone], rel=1e-4)
    assert len({line["loss"] for line in alone}) == 3
    if objective == "qa":
        rehearsed = [[line["rehearsal_loss"] for line in run] for run in (alone, shared)]
        assert rehearsed[1] == pytest.approx(rehearsed[0], rel=1e-3, abs=1e-6)
        assert rehearsed[0][-1] > 1e-5
    assert printed.count("written to") == 1


def asked_in_the_first_process(stop: StopAtStep) -> StopAtStep:
    """As if only one process had received a signal."""
    stop._before = {}
    stop.asked = os.environ["RANK"] == "0"
    return stop


def test_a_signal_to_one_process_stops_all_at_one_step(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared"
    command = words(world, out, 4, questions(tmp_path))
    together(
        2,
        tmp_path,
        command,
        patches={"scale_cli.training.trainer.StopAtStep.__enter__": asked_in_the_first_process},
        code=130,
    )
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]
    assert main([*words(world, out, 4, questions(tmp_path)), "--resume"]) == 2
    assert "was started in 2 processes, not 1, which would change" in capsys.readouterr().err
    (tmp_path / "again").mkdir()
    together(2, tmp_path / "again", [*command, "--resume"])
    assert (out / "record.json").is_file()
