"""A suite is read from a file, and a wrong file is refused in one line with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scale_cli.core.errors import RequestError
from scale_cli.evaluation.suites import SuiteTask, load_suite
from tests.helpers import refusal
from tests.tasks import SUITE


def written(folder: Path, **changes: Any) -> Path:
    """The tiny suite with changes as a file; a change of None leaves the key out."""
    (folder / "tasks").mkdir()
    file = folder / "mine.yaml"
    values = {name: value for name, value in (SUITE | changes).items() if value is not None}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    file = written(tmp_path)
    suite = load_suite(file)
    assert suite.include_path == tmp_path / "tasks"
    assert suite.average == "macro"
    assert suite.entries == (
        SuiteTask("tiny_choice", "acc_norm", "Choice", num_fewshot=0),
        SuiteTask("tiny_words", "exact_match", "Words", filter="first", num_fewshot=2),
        SuiteTask("tiny_group", "acc", "Group", num_fewshot=0, aggregation="macro"),
    )
    file.rename(tmp_path / "suite.yaml")
    assert load_suite(tmp_path) == suite


def test_optional_keys(tmp_path: Path) -> None:
    tasks = [{"task": "arc_easy", "metric": "acc"}]
    suite = load_suite(written(tmp_path, tasks=tasks, num_fewshot=None, include_path=None))
    assert suite.include_path is None
    (entry,) = suite.entries
    assert (entry.heading, entry.num_fewshot, entry.filter, entry.aggregation) == ("arc_easy", None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "speed"}, "FILE: role: 'speed' is not one of stability, plasticity"),
        ({"title": None}, "FILE: the key 'title' is missing"),
        ({"tsaks": []}, "FILE: unknown key 'tsaks'; did you mean 'tasks'?"),
        ({"average": "micro"}, "FILE: average: 'micro' is not one of macro"),
        ({"tasks": []}, "suite tiny: it has no tasks"),
        ({"tasks": ["arc_easy"]}, "FILE: tasks: ['arc_easy'] is not a list of `key: value` lines"),
        ({"tasks": [{"task": "arc_easy"}]}, "suite tiny: the key 'metric' is missing"),
        (
            {"tasks": [{"task": "arc_easy", "metric": "acc", "shots": 5}]},
            "suite tiny: unknown key 'shots'; did you mean 'num_fewshot'?",
        ),
        ({"tasks": [{"task": "a", "metric": "acc"}] * 2}, "suite tiny: the task a occurs twice"),
        ({"num_fewshot": -1}, "suite tiny: num_fewshot is at least 0"),
        ({"include_path": "elsewhere"}, "FILE: include_path elsewhere: no such folder beside the file"),
    ],
)
def test_a_wrong_suite(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = written(tmp_path, **changes)
    assert refusal(load_suite, file) == message.replace("FILE", str(file))


def test_a_file_that_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^/no/such\.yaml: the recipe cannot be read"):
        load_suite(Path("/no/such.yaml"))
