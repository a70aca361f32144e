"""Results are written atomically, read back equal, and record the origin of each number."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.metrics import mean_stderr

from scale_cli.core.files import plain
from scale_cli.core.records import read_record
from scale_cli.results.frame import tidy
from scale_cli.results.groups import ColumnSpec, GroupSpec
from scale_cli.results.measurement import Items, Measurement, share_error
from scale_cli.results.result import (
    CheckpointInfo,
    Result,
    read_items,
    read_result,
    read_results,
    repetitions,
    write_results,
)
from tests.helpers import refusal
from tests.results.made import result

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
    """The origin of a number stays known if a later call uses other versions."""
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


def test_what_two_processes_measured_is_kept_together(tmp_path: Path) -> None:
    start = Result("before", INFO).called_again("before").adding([measured(task="old")])
    ours = start.called_again("ours").adding([measured(task="a", value=0.1), measured(task="old", value=0.9)])
    theirs = start.called_again("theirs").adding([measured(task="a", value=0.2), measured(task="b")])
    both = ours.together_with(theirs)
    assert {m.task: m.value for m in both.measurements} == {"a": 0.1, "b": 0.5, "old": 0.9}
    assert (both.command, [call["command"] for call in both.record["earlier"]]) == ("ours", ["before", "theirs"])
    assert ours.together_with(ours) == ours


def test_a_value_that_is_no_number(tmp_path: Path) -> None:
    Result("", INFO).adding([measured(value=math.nan)]).save(tmp_path)
    read = read_result(tmp_path)
    assert read is not None
    assert math.isnan(read.measurements[0].value)


def test_results_are_found_in_files_folders_and_records(tmp_path: Path) -> None:
    for label in ("b", "a"):
        Result(label, dataclasses.replace(INFO, label=label)).adding([measured()]).save(tmp_path / "deep" / label)
    (read,) = read_results([tmp_path / "deep" / "b" / "result.json"])
    assert read.checkpoint.label == "b"
    both = read_results([tmp_path])
    (tmp_path / "run").mkdir()
    assert [result.checkpoint.label for result in both] == ["a", "b"]
    unsaved = Result("", INFO).adding([measured()])
    write_results(tmp_path / "run" / "results.json", [unsaved, unsaved], command="scale bench", title="Table 1")
    table = read_results([tmp_path / "run", tmp_path / "run" / "results.json", tmp_path / "deep" / "a"])
    assert [result.checkpoint.label for result in table] == [*["wide"] * 4, "a"]
    assert (table[0].record["title"], table[0].command) == ("Table 1", "scale bench")
    assert table[0].path == tmp_path / "run" / "results.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "PATH: no such file or folder; give results of: scale eval CHECKPOINT --out DIR"),
        ("folder", "PATH holds no result.json; make one with: scale eval CHECKPOINT --out PATH"),
        ("", "PATH is not a result of scale eval: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "PATH is not a result of scale eval: PATH is not a record of schema 1 or 2"),
        ({"schema": 9}, "PATH is not a result of scale eval: PATH is not a record of schema 1 or 2"),
        ({"schema": 2, "command": "train"}, "PATH is not a result of scale eval: its kind is None, not 'evaluation'"),
        (
            {"schema": 2, "kind": "evaluation"},
            "PATH is not a result of scale eval: command: the field is missing",
        ),
        (
            {"schema": 2, "kind": "evaluation", "command": "", "checkpoint": {"x": 1}, "measurements": []},
            "PATH is not a result of scale eval: label: the field is missing",
        ),
        (
            {"schema": 2, "kind": "evaluation", "command": "", "measurements": []}
            | {"checkpoint": {"label": "x", "source": "x", "fingerprint": None, "kind": "plain", "method": None}
            | {"parameters": {}, "recipe": {"lr": [[]]}}},
            "PATH is not a result of scale eval: lr: input should be a valid number",
        ),
    ],
)  # fmt: skip
def test_what_is_no_result(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert refusal(read_results, [path]) == message.replace("PATH", str(path))


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


def test_a_training_s_metrics_are_measurements() -> None:
    metric = Measurement("task0", "hard/birthday", 0.5, 0.1, 10, True).as_metric()
    assert metric == {
        "name": "task0/hard/birthday",
        "value": 0.5,
        "stderr": 0.1,
        "samples": 10,
        "higher_is_better": True,
        "task_version": None,
        "num_fewshot": None,
    }
    read = Measurement.read(metric)
    assert (read.task, read.metric, read.value, read.stderr, read.samples) == ("task0", "hard/birthday", 0.5, 0.1, 10)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 7), (429, 1172), (10, 10)])
def test_the_error_of_a_share_is_the_harness_s(right: int, count: int) -> None:
    scores = [1.0] * right + [0.0] * (count - right)
    assert share_error(right / count, count) == pytest.approx(mean_stderr(scores), abs=1e-15)
    assert share_error(1.0, 1) is None


def test_routed_shares_are_measurements_once_per_task() -> None:
    numbers = [measured(routed=0.25), measured(metric="f1", routed=0.25), measured(task="b", routed=None)]
    extended = Result("", INFO).adding(numbers).with_routed()
    assert [(m.task, m.metric, m.value, m.stderr) for m in extended.measurements[3:]] == [
        ("arc_easy", "routed", 0.25, None)
    ]
    assert extended.with_routed() == extended


# Repetitions


class TestRepetitions:
    def pair(self, **changes: Any) -> list[list[int]]:
        """Two seeds of a recipe. changes: fields of the second that differ."""
        first = result("seed-0-fft", "fft", [], seed=0, options={"weight_decay": 0.1})
        second = result("seed-1-fft", "fft", [], **{"seed": 1, "options": {"weight_decay": 0.1}, **changes})
        return repetitions([first, second])

    def test_they_differ_in_the_seed_only(self) -> None:
        assert self.pair() == [[0, 1]]

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 0},
            {"options": {"weight_decay": 0.2}},
            {"options": {"weight_decay": 0.1, "warmup": 0.06}},
            {"base": "c" * 64},
            {"data": {"text.jsonl": "e" * 64}},
        ],
        ids=str,
    )
    def test_what_differs_in_more_stays_apart(self, changes: dict[str, Any]) -> None:
        assert self.pair(**changes) == [[0], [1]]

    @pytest.mark.parametrize("changes", [{"base": None}, {"data": None}], ids=str)
    def test_what_is_not_known_whole_is_no_repetition(self, changes: dict[str, Any]) -> None:
        results = [result(f"seed-{seed}-fft", "fft", [], seed=seed, **changes) for seed in (0, 1)]
        assert results[0].checkpoint.identity is None
        assert repetitions(results) == [[0], [1]]

    def test_data_is_known_by_its_content_wherever_it_lies(self) -> None:
        def run_of(seed: int, folder: str, digest: str = "d") -> Result:
            places = {"eval_text": [f"en={folder}/b.jsonl"], "tokens_cache": folder}
            options = {"data": [f"{folder}/a.jsonl:0.95"], **places}
            data = {f"{folder}/a.jsonl": digest, f"{folder}/b.jsonl": "e"}
            return result(f"run{seed}", "fft", [], seed=seed, options=options, data=data)

        assert repetitions([run_of(0, "here"), run_of(1, "there")]) == [[0, 1]]
        assert repetitions([run_of(0, "here"), run_of(1, "there", "f")]) == [[0], [1]]
        weighted = run_of(1, "there")
        recipe = {**(weighted.checkpoint.recipe or {}), "data": ["there/a.jsonl:0.5"]}
        other = dataclasses.replace(weighted, checkpoint=dataclasses.replace(weighted.checkpoint, recipe=recipe))
        assert repetitions([run_of(0, "here"), other]) == [[0], [1]]

    def test_labels_tell_apart_only_where_a_seed_stands_twice(self) -> None:
        names = [result(name, "fft", [], seed=seed) for seed, name in enumerate(("first", "second"))]
        assert repetitions(names) == [[0, 1]]
        twice = [result(f"{name} (seed {seed})", "fft", [], seed=seed) for name in ("a", "b") for seed in (0, 1)]
        assert repetitions(twice) == [[0, 1], [2, 3]]
        same = [result("fft", "fft", [], seed=0) for _ in range(2)]
        assert repetitions(same) == [[0], [1]]


def test_text_that_the_base_sampled_does_not_part_repetitions() -> None:
    """It differs between seeds as the base does. Old text of the user's does."""

    def identity(seed: int, rehearse: str) -> str | None:
        data = {"text.jsonl": "d" * 64, rehearse: f"{seed}" * 64}
        made = result("run", "fft", [], seed=seed, data=data, options={"rehearse": f"{rehearse}:0.1"})
        return made.checkpoint.identity

    assert identity(0, "self") == identity(1, "self") is not None
    assert identity(0, "old.jsonl") != identity(1, "old.jsonl")


def test_the_seed_of_a_label_is_not_part_of_its_name() -> None:
    labels = {"seed-0-fft": ("fft", 0), "fft (seed 12)": ("fft", 12), "seed_3": ("seed_3", 3), "fft": ("fft", None)}
    for label, wanted in labels.items():
        info = dataclasses.replace(INFO, label=label, recipe=None)
        assert (info.stem, info.seed) == wanted
    assert dataclasses.replace(INFO, label="seed-9", recipe={"seed": 4}).seed == 4


def test_a_measurement_belongs_to_the_call_that_made_it() -> None:
    calls = [{"command": f"call {hour}", "created": f"2026-01-01T0{hour}:00:00+00:00", "git": None} for hour in (1, 2)]
    latest = Result("call 3", INFO, record={"earlier": calls, "created": "2026-01-01T03:00:00+00:00"})
    for hour, command in ((0, "call 3"), (1, "call 1"), (2, "call 2"), (5, "call 3")):
        assert latest.call_of(measured(created=f"2026-01-01T0{hour}:30:00+00:00"))["command"] == command


def test_the_tidy_table_has_a_row_per_measurement() -> None:
    group = GroupSpec("en", "English", "stability", (ColumnSpec("arc_easy", "acc", "ARC"),))
    numbers = [measured(), measured(metric="f1", stderr=None, seed=None, limit=3)]
    first = dataclasses.replace(result("base", None, numbers), command="scale eval x")
    second = result("fft", "fft", [measured(value=math.nan)], seed=3, git={"commit": "c", "clean": True})
    table = tidy([first, second], [group])
    shown = table[["result", "label", "method", "seed", "task", "metric", "role", "limit", "draw", "samples", "commit"]]
    assert shown.to_numpy().tolist() == [
        [0, "base", None, None, "arc_easy", "acc", "stability", None, 1234, 4, None],
        [0, "base", None, None, "arc_easy", "f1", None, 3, None, 4, None],
        [1, "fft", "fft", 3, "arc_easy", "acc", "stability", None, 1234, 4, "c"],
    ]
    assert table["value"].tolist()[:2] == [0.5, 0.5]
    assert table["stderr"].isna().tolist() == [False, True, False]
    assert table["column"].tolist() == ["arc_easy:acc:none:1.0:0:1234", "arc_easy:f1:none:1.0:0:3", table["column"][0]]
    assert table["identity"].notna().tolist() == [False, False, True]
    assert list(tidy([], [])) == list(table)
