"""Several processes share a run: two with half the batch each take the same steps as one."""

import json
import os
import shutil
from pathlib import Path

import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from scale_cli.cli import main
from scale_cli.training.trainer import StopAtStep
from tests.processes import scale, start, together
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


def launch(*commands: list[str]) -> None:
    """Run `scale` commands one after the other in two processes, as torchrun does."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="run",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        max_restarts=0,
        monitor_interval=0.1,
    )
    elastic_launch(config, scale)(*commands)


def test_two_processes_train_as_one_does(world: World, tmp_path: Path) -> None:
    """Started by the agent of torchrun, whose processes are forked here rather than spawned."""
    data = {"qa": questions(tmp_path), "lm": texts(tmp_path)}
    for objective, options in data.items():
        assert main(words(world, tmp_path / f"{objective}-alone", 8, options)) == 0
    shutil.rmtree(tmp_path / "tokens")  # both processes need the tokens at once
    commands = [words(world, tmp_path / f"{objective}-shared", 4, options) for objective, options in data.items()]
    code, printed, messages = start(launch, *commands, folder=tmp_path / "process").wait()
    assert (code, printed.count("written to")) == (0, 2), messages
    for objective in data:
        alone, shared = (lines(tmp_path / f"{objective}-{name}") for name in ("alone", "shared"))
        assert [line["loss"] for line in shared] == pytest.approx([line["loss"] for line in alone], rel=1e-4)
        assert len({line["loss"] for line in alone}) == 3
        if objective == "qa":
            rehearsed = [[line["rehearsal_loss"] for line in run] for run in (alone, shared)]
            assert rehearsed[1] == pytest.approx(rehearsed[0], rel=1e-3, abs=1e-6)
            assert rehearsed[0][-1] > 1e-5


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
