"""Results are written whole, read back equal, and say where each number is from."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.records import read_record, write_record
from scale_cli.results.result import (
    CheckpointInfo,
    Items,
    Measurement,
    Result,
    read_items,
    read_result,
    read_results,
)

INFO = CheckpointInfo("wide", "runs/wide", "f" * 64, "width", "scale-adapt", {"total": 10, "trained": 3}, {"seed": 0})


def measured(**changes: Any) -> Measurement:
    known: dict[str, Any] = {
        "task": "arc_easy",
        "metric": "acc",
        "value": 0.5,
        "stderr": 0.1,
        "samples": 4,
        "higher_is_better": True,
        "dtype": "float32",
        "batch_size": 8,
        "seconds": 1.5,
        "task_version": "1.0",
        "num_fewshot": 0,
        "seed": 1234,
        "details": {"subtasks": {"a": 1}},
    }
    return Measurement(**(known | changes))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    numbers = (measured(), measured(metric="acc_norm", stderr=None, routed=0.25), measured(task="drift", limit=2))
    saved = (
        Result("scale eval wide", INFO).called_again("scale eval wide --out x").adding(numbers).save(tmp_path / "wide")
    )
    assert saved.path == tmp_path / "wide" / "result.json"
    assert read_result(tmp_path / "wide") == dataclasses.replace(saved, record=read_result(tmp_path / "wide").record)  # type: ignore[union-attr]
    record = read_record(saved.path)
    assert {"schema", "created", "environment", "git"} <= record.keys()
    assert record["kind"] == "evaluation"
    assert record["command"] == "scale eval wide --out x"
    assert record["checkpoint"] == plain(INFO)
    assert record["measurements"] == plain(numbers)
    assert "earlier" not in record
    assert read_result(tmp_path) is None


def test_a_measurement_takes_the_place_of_one_with_its_key() -> None:
    first, other = measured(), measured(num_fewshot=5)
    again = measured(value=0.75, batch_size=2, seconds=9.0)
    result = Result("", INFO).adding([first, other]).adding([again])
    assert result.measurements == (other, again)
    assert result.find("arc_easy", "acc") == [other, again]
    assert result.find("arc_easy", "f1") == result.find("arc") == result.find("arc_easy", filter="strict") == []
    for name in ("task", "metric", "filter", "task_version", "num_fewshot", "limit", "seed", "dtype"):
        assert measured(**{name: "9"}).key != first.key


def test_each_call_that_measured_something_is_kept(tmp_path: Path) -> None:
    """Who made a number can be told when the next call runs with other versions."""
    result = Result("", INFO)
    for number, command in enumerate(["first", "second", "third"]):
        result = result.called_again(command).adding([measured(task=command)]).save(tmp_path)
        assert len(result.record.get("earlier", ())) == number
    read = read_result(tmp_path)
    assert read is not None
    assert (read.command, [call["command"] for call in read.record["earlier"]]) == ("third", ["first", "second"])
    for call in read.record["earlier"]:
        assert call.keys() == {"command", "created", "environment", "git"}
    assert "earlier" not in Result("", INFO).called_again("nothing measured").called_again("again").record


def test_a_value_that_is_no_number(tmp_path: Path) -> None:
    Result("", INFO).adding([measured(value=math.nan)]).save(tmp_path)
    read = read_result(tmp_path)
    assert read is not None
    assert math.isnan(read.measurements[0].value)


def test_results_are_found_in_files_folders_and_records(tmp_path: Path) -> None:
    for label in ("b", "a"):
        Result(label, dataclasses.replace(INFO, label=label)).adding([measured()]).save(tmp_path / "deep" / label)
    (one,) = read_results([tmp_path / "deep" / "b" / "result.json"])
    assert one.checkpoint.label == "b"
    both = read_results([tmp_path])
    assert [result.checkpoint.label for result in both] == ["a", "b"]
    entries = [{"command": "", "checkpoint": plain(INFO), "measurements": plain([measured()])}] * 2
    write_record(tmp_path / "table.json", kind="evaluation", results=entries, title="Table 1")
    table = read_results([tmp_path / "table.json", tmp_path / "deep" / "a"])
    assert [result.checkpoint.label for result in table] == ["wide", "wide", "a"]
    assert table[0].record["title"] == "Table 1"
    assert table[0].path == tmp_path / "table.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "PATH: no such file or folder; give results of: scale eval CHECKPOINT --out DIR"),
        ("folder", "PATH holds no result.json; make one with: scale eval CHECKPOINT --out PATH"),
        ("", "PATH is no result of scale eval: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "PATH is no result of scale eval: PATH is not a record of schema 1"),
        ({"schema": 9}, "PATH is no result of scale eval: PATH is not a record of schema 1"),
        ({"schema": 1, "command": "train"}, "PATH is no result of scale eval: its kind is None and not 'evaluation'"),
        ({"schema": 1, "kind": "evaluation"}, "PATH is no result of scale eval: the field 'measurements' is missing"),
        (
            {"schema": 1, "kind": "evaluation", "command": "", "checkpoint": {"x": 1}, "measurements": []},
            "PATH is no result of scale eval: CheckpointInfo.__init__() got an unexpected keyword argument 'x'",
        ),
    ],
)  # fmt: skip
def test_what_is_no_result(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RequestError) as refused:
        read_results([path])
    assert str(refused.value) == message.replace("PATH", str(path))


def test_items_belong_to_their_measurement(tmp_path: Path) -> None:
    m = measured()
    result = Result("", INFO).adding([m]).save(tmp_path)
    assert read_items(result, m) is None
    scores = {"acc": [0.0, 1.0], "acc_norm,strict": [1.0, 1.0]}
    Items("arc_easy", "1.0", 0, None, 1234, "float32", [3, 7], scores).save(tmp_path)
    assert json.loads((tmp_path / "items" / "arc_easy.json").read_text()) == {
        "task": "arc_easy",
        "task_version": "1.0",
        "num_fewshot": 0,
        "limit": None,
        "seed": 1234,
        "dtype": "float32",
        "doc_ids": [3, 7],
        **scores,
    }
    assert read_items(result, m) == {3: 0.0, 7: 1.0}
    assert read_items(result, measured(metric="acc_norm", filter="strict")) == {3: 1.0, 7: 1.0}
    for other in (
        {"metric": "f1"},
        {"limit": 2},
        {"num_fewshot": 5},
        {"task_version": "2.0"},
        {"seed": 1},
        {"dtype": "x"},
    ):
        assert read_items(result, measured(**other)) is None
    assert read_items(Result("", INFO), m) is None  # read from no file
    Items("org/task", None, None, None, None, "float32", ["a/1"], {"acc": [1.0]}).save(tmp_path)
    assert (tmp_path / "items" / "org_task.json").is_file()
