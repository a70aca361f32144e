"""Several processes share a run and take the same steps as one, with a copy of the model each or a part of it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from scale_cli.cli import main
from scale_cli.training.trainer import StopAtStep
from tests.processes import scale, start, together
from tests.runs import World, lines, reload


def words(world: World, out: Path, batch_size: int, data: dict[str, Any], method: str = "scale-route") -> list[str]:
    """The command of a run."""
    return world.command(method, out, **data, steps=3, batch_size=batch_size, lr=1e-2, logging_steps=1)


def questions(folder: Path) -> dict[str, Any]:
    """Questions, and text that the base samples beside them."""
    rehearsed = {"rehearse": "self", "rehearse_tokens": 512, "tokens_cache": folder / "tokens"}
    return {"objective": "qa", "people": "0:8", **rehearsed}


def texts(folder: Path) -> dict[str, Any]:
    """A mixture of two files, with packing "documents"."""
    for name in ("a", "b"):
        rows = [json.dumps({"text": f"{name}{number} is a short text"}) for number in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    data = f"{folder}/a.jsonl:0.7,{folder}/b.jsonl:0.3"
    return {"data": data, "packing": "documents", "seq_length": 40, "tokens_cache": folder / "tokens"}


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


def test_a_signal_to_one_process_stops_all_at_one_step(world: World, tmp_path: Path) -> None:
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
    (tmp_path / "three").mkdir()
    together(3, tmp_path / "three", [*command, "--resume"], code=2)
    refused = (tmp_path / "three" / "process-0" / "stderr").read_text(encoding="utf-8")
    assert "a step of this run has 2 batches of 4, which 3 processes cannot share evenly" in refused
    file = out / "checkpoint-1" / "carried.json"
    carried = json.loads(file.read_text(encoding="utf-8"))
    assert carried.pop("batches") == 2
    file.write_text(json.dumps(carried | {"processes": 2}), encoding="utf-8")  # as earlier versions wrote it
    (out / "checkpoint-1" / "files.json").unlink()
    assert main([*command, "--resume"]) == 0  # one process, two batches per step
    assert main(words(world, tmp_path / "alone", 8, questions(tmp_path))) == 0
    for name in ("loss", "rehearsal_loss"):
        resumed, alone = ([line[name] for line in lines(run)] for run in (out, tmp_path / "alone"))
        assert resumed == pytest.approx(alone, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", ["scale-route", "lora", "fft"])
def test_sharded_processes_train_as_one_does(method: str, world: World, tmp_path: Path) -> None:
    """Begun in two processes and resumed in three, with a text whose windows they cannot share evenly."""
    (tmp_path / "text.txt").write_text("Zoe was born in Rome and works for Acme.\n" * 9, encoding="utf-8")
    measured = {"eval_text": f"text={tmp_path / 'text.txt'}", "eval_steps": 1, "keep_best": "text"}
    options: dict[str, Any] = {"objective": "qa", "people": "0:8", "seq_length": 48, "save_minutes": 1e-9, **measured}

    def command(out: Path, passes: int) -> list[str]:
        return words(world, out, 2, options | {"gradient_accumulation_steps": passes}, method)

    assert main(command(tmp_path / "alone", 6)) == 0
    out = tmp_path / "sharded"
    patches = {"scale_cli.training.trainer.StopAtStep.__enter__": asked_in_the_first_process}
    together(2, tmp_path, [*command(out, 3), "--shard"], patches=patches, code=130)
    (tmp_path / "three").mkdir()
    together(3, tmp_path / "three", [*command(out, 3), "--shard", "--resume"])
    for alone, sharded in zip(lines(tmp_path / "alone"), lines(out), strict=True):
        assert sharded == pytest.approx(alone, rel=1e-3, abs=1e-6)
    one, other = (reload(run).state_dict() for run in (tmp_path / "alone", out))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-5) for name in one)
