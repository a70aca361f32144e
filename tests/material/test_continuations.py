"""Items in HellaSwag's form: their difficulty, and that shortcuts fail."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from scale_cli.material.offline.continuations import (
    CHANCE,
    NEAR_DUPLICATE,
    Item,
    Overlap,
    Question,
    choose,
    near_length,
    pairs,
    shortcuts,
    words,
)

CELLS = 16


def invented(count: int, rng: random.Random) -> list[str]:
    """Sentences of words of a small vocabulary, of about one length."""
    vocabulary = [chr(0xAC00 + 7 * a) + chr(0xAC00 + 11 * b) + "는" for a in range(20) for b in range(20)]
    return [" ".join(rng.sample(vocabulary, rng.randint(7, 9))) + "." for _ in range(count)]


def asked(documents: int, *, candidates: int = 60, seed: int = 0) -> list[Question]:
    """Two questions per document."""
    rng = random.Random(seed)
    pool = invented(1500, rng)
    return [
        Question(number // 2, " ".join(invented(4, rng)), invented(1, rng)[0], rng.sample(pool, candidates))
        for number in range(2 * documents)
    ]


def overlap_of(questions: list[Question]) -> Overlap:
    return Overlap(question.context for question in questions)


def test_pairs_and_words() -> None:
    assert pairs("현행법은 a12 낡았음(제3조).") == {"현행", "행법", "법은", "낡았", "았음"}
    assert words("현행법은 현행법을 새 법이라 함") == {"현행", "법이"}


def test_overlap_by_hand() -> None:
    overlap = Overlap(["가나 다라", "가나 마바", "가나"])
    common, rare, unknown = (round(1000 * math.log(4 / times)) for times in (3, 1, 1))
    assert overlap("가나 다라", "가나 다라") == 1.0
    assert overlap("가나다라", "가나 다라 마바 사아") == (common + rare) / (common + 2 * rare + unknown)
    assert overlap("", "가나") == 0.0
    assert overlap("가나", "?") == 0.0


def test_near_length() -> None:
    assert [near_length("x" * length, "x" * 100) for length in (74, 75, 133, 134)] == [False, True, True, False]


def test_the_right_ending_has_every_rank_equally_often() -> None:
    questions = asked(150)
    overlap = overlap_of(questions)
    items = choose(questions, overlap, most=96, per_document=1, seed=0)
    assert len(items) == 96
    places: Counter[tuple[int, int]] = Counter()
    for item in items:
        right = item.endings[item.label]
        longer = sum(len(ending) > len(right) for ending in item.endings)
        more = sum(overlap(item.context, ending) > overlap(item.context, right) for ending in item.endings)
        places[more, longer] += 1
    assert len(places) == CELLS
    assert set(places.values()) == {6}
    found = shortcuts(items, overlap)
    assert (found["longest"], found["shortest"], found["most_weighted_pairs"]) == (CHANCE, CHANCE, CHANCE)


def test_without_balance_the_same_shortcuts_work() -> None:
    """The suite's numbers detect an existing shortcut."""
    items = [
        Item("가나다라 마바사", ("가나다라 마바사아", "자차 카타", "파하"), 0),
        Item("가나다라 마바사", ("자차", "파하 가까", "가나다라 마바"), 2),
    ]
    overlap = Overlap(item.context for item in items)
    assert shortcuts(items, overlap) == {
        "longest": 1.0,
        "shortest": 0.0,
        "most_weighted_pairs": 1.0,
        "most_pairs": 1.0,
        "most_words": 1.0,
    }
    even = Item("가나", ("다라", "마바", "사아", "자차"), 2)
    assert set(shortcuts([even], overlap).values()) == {0.25}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), per_document=st.integers(1, 2))
def test_every_item_is_whole(seed: int, per_document: int) -> None:
    questions = asked(60, seed=seed)
    by_context = {question.context: question for question in questions}
    items = choose(questions, overlap_of(questions), most=64, per_document=per_document, seed=seed)
    assert items
    assert len(items) % CELLS == 0
    documents = Counter(by_context[item.context].document for item in items)
    assert max(documents.values()) <= per_document
    wrong: list[str] = []
    for item in items:
        question = by_context[item.context]
        assert item.endings[item.label] == question.ending
        others = [ending for ending in item.endings if ending != question.ending]
        assert len(others) == 3
        assert set(others) <= set(question.candidates)
        wrong += others
        for at, one in enumerate(item.endings):
            for other in item.endings[:at]:
                assert len(pairs(one) & pairs(other)) / len(pairs(one) | pairs(other)) <= NEAR_DUPLICATE
    assert len(set(wrong)) == len(wrong)
    assert len({item.context for item in items}) == len(items)


def test_candidates_that_are_nearly_the_ending_are_never_taken() -> None:
    questions = [
        Question(q.document, q.context, q.ending, [*q.candidates, q.ending[:-1] + "요.", q.ending[:-1] + " 또."])
        for q in asked(100)
    ]
    items = choose(questions, overlap_of(questions), most=64, per_document=1, seed=0)
    assert len(items) == 64
    endings = [ending for item in items for ending in item.endings]
    assert not [ending for ending in endings if ending.endswith(("요.", " 또."))]


def test_the_candidates_that_share_most_are_taken() -> None:
    questions = asked(100)
    overlap = overlap_of(questions)
    by_context = {question.context: question for question in questions}
    items = choose(questions, overlap, most=64, per_document=1, seed=0)
    taken = [overlap(item.context, e) for item in items for e in item.endings if e != item.endings[item.label]]
    offered = [overlap(item.context, e) for item in items for e in by_context[item.context].candidates]
    assert sum(taken) / len(taken) > 1.5 * sum(offered) / len(offered)


def test_the_same_items_in_every_process() -> None:
    seed = 1
    program = (
        "from tests.material.test_continuations import asked, choose, overlap_of\n"
        "questions = asked(60)\n"
        f"print(choose(questions, overlap_of(questions), most=64, per_document=1, seed={seed}))"
    )
    root = Path(__file__).parents[2]
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    questions = asked(60)
    items = choose(questions, overlap_of(questions), most=64, per_document=1, seed=seed)
    assert said == [f"{items}\n"] * 2
    assert items != choose(questions, overlap_of(questions), most=64, per_document=1, seed=2)
