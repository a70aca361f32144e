"""The shipped suites use only tasks and metrics of the installed harness, and the paper's suites match the paper."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.evaluation.harness import suite_tasks
from scale_cli.evaluation.suites import find_suite, names
from tests.helpers import refusal

SUITES = ["english", "english-extended", "korean", "korean-extended"]
PAPER = {
    "english": {
        "arc_challenge": "acc_norm",
        "hellaswag": "acc_norm",
        "mmlu": "acc",
        "truthfulqa_mc2": "acc",
        "winogrande": "acc",
    },
    "korean": {"kobest_boolq": "acc", "kobest_copa": "acc", "kobest_hellaswag": "acc_norm"},
}
"""Table 1 of arXiv 2511.03270. Its cells are accuracies over so many items, which determines the metrics."""
OWN_SHOTS = {"gsm8k": 5}


def test_the_shipped_suites() -> None:
    assert names() == SUITES
    for name in names():
        suite = find_suite(name)
        assert suite.name == name
        assert (suite.language, suite.role) == (("en", "stability") if "english" in name else ("ko", "plasticity"))


@pytest.mark.parametrize("name", SUITES)
def test_every_name_is_the_harness_own(name: str) -> None:
    """`suite_tasks` refuses a task, metric, filter or aggregation that the harness does not have."""
    suite = find_suite(name)
    tasks = suite_tasks(suite)
    assert [task.name for task in tasks] == [entry.task for entry in suite.entries]
    for task, entry in zip(tasks, suite.entries, strict=True):
        assert task.defined.metrics is not None
        assert entry.metric in task.defined.metrics
        assert task.shots == OWN_SHOTS.get(task.name, 0)
        assert task.defined.version is not None
        assert (task.defined.weights is None) == (entry.aggregation is None)
        assert all(leaf.data is not None for leaf in task.defined.leaves)
    read = {entry.task: entry.metric for entry in suite.entries}
    assert read.items() >= PAPER[name.removesuffix("-extended")].items()
    assert name not in PAPER or read == PAPER[name]


def test_groups_are_whole() -> None:
    leaves = {task.name: len(task.defined.leaves) for name in SUITES for task in suite_tasks(find_suite(name))}
    assert {name: count for name, count in leaves.items() if count > 1} == {
        "mmlu": 57,
        "kmmlu": 45,
        "haerae": 5,
        "click": 11,
    }


@pytest.mark.parametrize("change", [{"metric": "acc_nrom"}, {"task": "arc_challange"}, {"filter": "strict"}])
def test_a_wrong_name_is_detected(change: dict[str, str]) -> None:
    suite = find_suite("english")
    wrong = dataclasses.replace(suite, tasks=(dict(suite.tasks[0]) | change, *suite.tasks[1:]))
    with pytest.raises(RequestError, match=r"^(suite english: )?arc_chall[ae]nge"):
        suite_tasks(wrong)


@pytest.mark.slow
def test_the_harness_itself_finds_the_same() -> None:
    """By the harness's complete index, which takes half a minute."""
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    for name in SUITES:
        for task in suite_tasks(find_suite(name)):
            assert task.file == index[task.name].yaml_path
            assert [leaf.task for leaf in task.defined.leaves if leaf.task not in index] == []


def test_a_suite_that_is_none(tmp_path: Path) -> None:
    assert refusal(find_suite, "englsh") == "--suite englsh: neither a shipped suite nor a file; did you mean english?"
    assert refusal(find_suite, "/no/such.yaml") == (
        "--suite /no/such.yaml: neither a shipped suite nor a file; choose english, english-extended, korean, "
        "korean-extended, or give a YAML file of your own"
    )
    own = tmp_path / "own.yaml"
    tasks = [{"task": "arc_easy", "metric": "acc"}]
    values = {"name": "own", "language": "other", "role": "plasticity", "title": "Own", "tasks": tasks}
    own.write_text(json.dumps(values))
    assert find_suite(str(own)).title == "Own"
