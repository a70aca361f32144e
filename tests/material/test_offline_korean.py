"""Korean tasks run by the harness, from tiny corpora like the real ones."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lm_eval.tasks import TaskManager

from scale_cli.evaluation.harness import suite_tasks
from scale_cli.evaluation.suites import load_suite
from scale_cli.material import fetch
from scale_cli.material.corpora import CORPORA, read_corpus, split
from scale_cli.material.offline import korean
from scale_cli.material.offline.korean import bill_questions, bill_sentences, speech_questions, speech_sentences
from tests.material.packaged import wheel

SYLLABLES = "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허"


def sentences(count: int, rng: random.Random, end: str) -> list[str]:
    """Distinct sentences of invented words, none of which is in a bill's list of contents."""
    return [
        " ".join(f"{''.join(rng.choices(SYLLABLES, k=2))}는" for _ in range(rng.randint(9, 12))) + f" 하{end}."
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tiny packages of 400 speeches and 2,000 bills, and their cache."""
    rng = random.Random(0)
    speeches = [" ".join(sentences(30, rng, "였습니다")) for _ in range(400)]
    bills = ["■ 제안이유\n" + " ".join(sentences(3, rng, "려는 것임")) + "\n주요내용\n가. 다." for _ in range(2000)]
    tables = {
        "korean": pa.table({"president": ["문재인"] * len(speeches), "speech_text": speeches}),
        "korean-bills": pa.table({"propose_reason": bills}),
    }
    found: dict[str, Any] = {}
    for name, table in tables.items():
        cache = tmp_path_factory.mktemp(name)
        file = io.BytesIO()
        pq.write_table(table, file)
        (pattern,) = CORPORA[name].package.members
        package = wheel(cache, {pattern.replace("*", "data"): file.getvalue()}, members=(pattern,))
        found[name] = dataclasses.replace(CORPORA[name], package=package), cache
    return found


@pytest.fixture(scope="module", autouse=True)
def tiny(packages: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both packages have the same name, so each has its own cache."""
    read = lambda name, cache: read_corpus(name, cache=packages[name][1])  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        for name, (corpus, _) in packages.items():
            patch.setitem(CORPORA, name, corpus)
        patch.setattr(korean, "read_corpus", read)
        patch.setattr(fetch, "read_corpus", read)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def built(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite; read it only."""
    out = tmp_path_factory.mktemp("korean") / "suite"
    korean.write_korean(out, cache=Path("unused"))
    return out


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("반갑습니다. 저는 왔습니다!\n어떻습니까? 네.", ["반갑습니다.", "저는 왔습니다!", "어떻습니까?", "네."]),
        ("축하합니다.나는 기대합니다.1997년입니다.", ["축하합니다.", "나는 기대합니다.", "1997년입니다."]),
        ("1988. 2. 25. 취임했습니다. 3.5%입니다.", ["1988. 2. 25. 취임했습니다.", "3.5%입니다."]),
        ("“갑니다.”라고 했습니다. '끝.'이라고요.", ["“갑니다.”라고 했습니다.", "'끝.'이라고요."]),
        ("가. 첫째입니다.", ["가. 첫째입니다."]),
        (" \n \n", []),
    ],
)
def test_the_sentences_of_a_speech(text: str, wanted: list[str]) -> None:
    assert speech_sentences(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("현행법은 낡았음. 이에 고침(안 제3조제1항 신설).", ["현행법은 낡았음.", "이에 고침."]),
        ("제안이유\n이 법은 낡았음.\n주요내용\n가. 고침(안 제3조).", ["이 법은 낡았음."]),
        ("■ 제안이유 및 주요내용\n이 법은 낡았음.\n이에 고침.", ["이 법은 낡았음.", "이에 고침."]),
        ("낡았음.\n1) 고침.\n다시 낡았음.", ["낡았음."]),
        ("낡았음.\n① 고침.", ["낡았음."]),
        ("낡았음.\n○ 고침.", ["낡았음."]),
        (
            "「민법」은 낡았음.\n“새 법”을 만듦.\n2016년에는 없음.",
            ["「민법」은 낡았음.", "“새 법”을 만듦.", "2016년에는 없음."],
        ),
        ("주요내용\n가. 고침.", []),
    ],
)
def test_the_sentences_of_a_bill(text: str, wanted: list[str]) -> None:
    assert bill_sentences(text) == wanted


def test_the_questions_on_a_speech() -> None:
    document = [f"{number:02d} " + "문장은 길어야 합니다 " * 4 + "." for number in range(19)]
    found = list(speech_questions([document], lambda sentence: not sentence.startswith(("02", "18"))))
    assert [question.ending[:2] for question in found] == ["03", "08", "13"]  # not 18
    assert found[1].context == " ".join(document[5:8])  # a fourth would be too much
    assert [text[:2] for text in found[1].candidates] == ["00", "01", "03", "04", *map(str, range(11, 18))]


def test_the_questions_on_a_bill() -> None:
    def text(name: str) -> str:
        return f"{name} " + "문장은 길어야 함 " * 4 + "."

    documents = [[text(f"{number}{place}") for place in "abc"] for number in range(3)]
    found = {question.ending[:2]: question for question in bill_questions(documents, lambda sentence: True)}
    assert sorted(found) == ["0b", "0c", "1b", "1c", "2b", "2c"]
    assert [candidate[:2] for candidate in found["1c"].candidates] == ["0c", "2c"]
    assert [candidate[:2] for candidate in found["0b"].candidates] == ["1b", "2b"]
    assert found["1c"].context == f"{text('1a')} {text('1b')}"
    assert found["1c"].document == 1


@pytest.mark.parametrize("name", korean.TASKS)
def test_the_harness_requests_continuations_of_held_out_documents(name: str, built: Path) -> None:
    (task,) = TaskManager(include_path=built / "tasks", include_defaults=False).load([name])["tasks"].values()
    task.set_config("num_fewshot", 0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    items = rows(built / "data" / f"{name}.jsonl")
    assert len(items) >= 16
    assert [request.args for request in task.instances] == [
        (item["context"], f" {ending}") for item in items for ending in item["endings"]
    ]
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == [item["label"] for item in items]
    texts = [row["text"].replace("\n", " ") for row in rows(built / "text" / f"{korean.TASKS[name].corpus}.jsonl")]
    for item in items:
        right = item["endings"][item["label"]]
        (document,) = [text for text in texts if f"{item['context']} {right}" in text]
        others = [ending for ending in item["endings"] if ending != right]
        assert [ending in document for ending in others] == [name == "korean_speeches"] * 3
        assert not any(ending in item["context"] for ending in item["endings"])
    assert (task.VERSION, task.config.metadata["version"]) == (1.0, 1.0)
    assert "chance is 25 percent" in task.config.metadata["description"]


@pytest.mark.parametrize("corpus", ["korean", "korean-bills"])
def test_nothing_that_is_asked_is_trained_on(
    corpus: str, built: Path, packages: dict[str, Any], tmp_path: Path
) -> None:
    fetch.write_corpus(corpus, tmp_path / "out", cache=Path("unused"))
    trained = {row["text"] for row in rows(tmp_path / "out" / "text.jsonl")}
    held_out = {row["text"] for row in rows(built / "text" / f"{corpus}.jsonl")}
    assert trained.isdisjoint(held_out)
    assert trained | held_out == set(read_corpus(corpus, cache=packages[corpus][1]))
    every = "\n".join(trained)
    for name, task in korean.TASKS.items():
        if task.corpus == corpus:
            for item in rows(built / "data" / f"{name}.jsonl"):
                assert not any(ending in every for ending in item["endings"])


def test_the_manifest_and_the_readme(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["tasks"]:
        assert entry["chance"] == 0.25
        assert entry["items"] == len(rows(built / "data" / f"{entry['name']}.jsonl"))
        found = entry["numbers"]
        assert [found[name] for name in ("longest", "shortest", "most_weighted_pairs")] == [0.25] * 3
    readme = (built / "README.md").read_text(encoding="utf-8")
    assert "| korean_bills | 25.0 | 25.0 | 25.0 | " in readme
    assert "no document there shares 13 consecutive words" in readme


def test_scale_eval_finds_both_tasks(built: Path) -> None:
    suite = load_suite(built)
    assert [task.name for task in suite_tasks(suite)] == ["korean_speeches", "korean_bills"]
    assert [entry.metric for entry in suite.entries] == ["acc_norm", "acc_norm"]
    assert (suite.role, suite.language) == ("plasticity", "ko")


def test_the_same_bytes_again(built: Path, tmp_path: Path) -> None:
    korean.write_korean(tmp_path / "again", cache=Path("unused"))
    assert (tmp_path / "again/manifest.json").read_bytes() == (built / "manifest.json").read_bytes()


def test_a_sentence_that_stands_twice_is_no_ending() -> None:
    rng = random.Random(1)
    texts = [" ".join(sentences(30, rng, "였습니다")) for _ in range(400)]
    held_out = split(texts).test
    trained = next(text for text in texts if text not in held_out)
    task = korean.TASKS["korean_speeches"]
    items, _, _ = korean.build(task, texts)
    ending = items[0].endings[items[0].label]
    again, _, _ = korean.build(task, [f"{text} {ending}" if text == trained else text for text in texts])
    assert again
    assert not any(ending in item.endings for item in again)
