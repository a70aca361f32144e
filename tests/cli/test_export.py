"""`scale export` prints a summary of its result, and refuses in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import load
from tests.runs import World, reload, same_tensors

RunCli = Callable[..., Any]


def table_of(text: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return {row[0]: row[1] for row in rows}


def test_a_run(run_cli: RunCli, finished: Any, tmp_path: Path) -> None:
    run, out = finished("scale-adapt").folder, tmp_path / "out"
    ended = run_cli("export", run, out)
    assert ended.code == 0
    assert same_tensors(load(out).state_dict(), reload(run).state_dict())
    size_bytes = sum(file.stat().st_size for file in out.iterdir())
    table = table_of(ended.stdout)
    assert float(table.pop("seconds")) >= 0
    assert table == {
        "model": "width-upscaled",
        "loads in": "float32",
        "parameters": f"{reload(run).num_parameters():,}",
        "bytes": f"{size_bytes:,}",
    }


def test_cast_and_as_json(run_cli: RunCli, finished: Any, tmp_path: Path) -> None:
    ended = run_cli("export", finished("lora").folder, tmp_path / "out", "--dtype", "bfloat16", "--json")
    result = json.loads(ended.stdout)
    assert (ended.code, result["form"], result["dtype"]) == (0, "plain", "bfloat16")
    assert (result["out"], result["weights_sha256"]) == (str(tmp_path / "out"), None)


def test_the_base(run_cli: RunCli, finished: Any, world: World, tmp_path: Path) -> None:
    ended = run_cli("export", finished("llama-pro").folder, tmp_path / "out", "--base")
    assert ended.code == 0
    table = table_of(ended.stdout)
    assert (table["model"], table["sha256 of model.safetensors"]) == ("plain", "equal")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "out", world.checkpoint("llama"))]
    assert weights[0] == weights[1]


def test_a_mistake_ends_with_one_line(run_cli: RunCli, finished: Any, tmp_path: Path) -> None:
    ended = run_cli("export", finished("fft").folder, tmp_path / "out", "--base", "--dtype", "bfloat16")
    message = "--dtype bfloat16: --base writes the base bit for bit, without a cast; choose one of the two"
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", f"scale: {message}\n")
    assert [*tmp_path.iterdir()] == []
