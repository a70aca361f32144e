"""What a run sees, token by token, and in which order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from scale_cli.errors import RequestError
from scale_cli.training.bios import Question, check_people, is_bios_folder, read_biographies, read_questions
from scale_cli.training.data import (
    IGNORED,
    Examples,
    PackedTexts,
    PaddedQuestions,
    check_data,
    end_of_text,
    load_examples,
    read_texts,
    tokenise_questions,
)
from tests.runs import World

END = 9
DOCUMENTS = [[1, END], [2, 2, END], [3, 3, 3, END], [4, END]]
PAIRS = [([1, 2, 3], [4, END]), ([5], [6, END]), ([7, 8], [1, 2, END])]


def packed(length: int = 4, *, epochs: int = 1, seed: int = 0) -> PackedTexts:
    """The documents, 11 tokens in all: two windows of four an epoch."""
    return PackedTexts(DOCUMENTS, length, (11 // length) * epochs, seed)


def padded(length: int | None = None, *, epochs: int = 1, seed: int = 0) -> PaddedQuestions:
    return PaddedQuestions(PAIRS, length, 0, len(PAIRS) * epochs, seed)


def all_of(examples: Examples, name: str = "input_ids") -> torch.Tensor:
    return examples.__getitems__(range(len(examples)))[name]


def epochs_of(examples: Examples, name: str = "input_ids") -> list[torch.Tensor]:
    return list(all_of(examples, name).split(examples.per_epoch))


def rows_of(examples: Examples) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of the first epoch."""
    batch = examples.__getitems__(range(examples.per_epoch))
    return list(zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True))


def test_texts_are_laid_end_to_end_in_the_order_drawn() -> None:
    examples = packed(length=4, epochs=5)
    assert examples.per_epoch == 2
    for number, windows in enumerate(epochs_of(examples)):
        order = np.random.default_rng([0, number]).permutation(4)
        stream = [token for index in order for token in DOCUMENTS[index]]
        assert windows.flatten().tolist() == stream[:8]
    assert torch.equal(all_of(examples, "labels"), all_of(examples))  # a loss on every token


def test_every_document_comes_once_an_epoch() -> None:
    for windows in epochs_of(packed(length=11, epochs=4)):
        assert windows.shape == (1, 11)
        row = windows[0].tolist()
        documents = [list(map(int, part.split())) for part in " ".join(map(str, row)).split(str(END))[:-1]]
        assert sorted(documents) == [document[:-1] for document in DOCUMENTS]


def test_documents_are_cut_where_a_window_ends() -> None:
    examples = PackedTexts([[1, 2, 3, 4, END]], 2, 4, 0)
    assert all_of(examples).tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]  # the rest of an epoch is left behind


def test_too_little_text_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^--seq-length 12: the data has 11 tokens, less than one sequence$"):
        packed(length=12)
    with pytest.raises(RequestError, match=r"^--seq-length 2: the data has 0 tokens"):
        PackedTexts([], 2, 1, 0)


def test_questions_are_padded_and_only_answers_have_a_loss() -> None:
    wanted = {
        (1, 2, 3, 4, END): [IGNORED, IGNORED, IGNORED, 4, END],
        (5, 6, END, 0, 0): [IGNORED, 6, END, IGNORED, IGNORED],
        (7, 8, 1, 2, END): [IGNORED, IGNORED, 1, 2, END],
    }
    examples = padded(epochs=3)
    for inputs, labels in zip(epochs_of(examples), epochs_of(examples, "labels"), strict=True):
        rows = list(map(tuple, inputs.tolist()))
        assert sorted(rows) == sorted(wanted)
        assert [wanted[row] for row in rows] == labels.tolist()
    assert all_of(padded(length=7)).shape == (3, 7)


def test_too_long_questions_are_refused() -> None:
    assert all_of(padded(length=5)).shape == (3, 5)
    with pytest.raises(RequestError, match=r"^--seq-length 4: the longest question with its answer has 5 tokens$"):
        padded(length=4)


@pytest.mark.parametrize("make", [packed, padded])
def test_the_order_is_a_function_of_the_seed(make: Callable[..., Examples]) -> None:
    first = epochs_of(make(epochs=6))
    assert torch.equal(torch.cat(first), all_of(make(epochs=6)))
    assert torch.equal(torch.cat(first[:2]), all_of(make(epochs=2)))  # a longer run begins like a shorter one
    assert any(not torch.equal(a, b) for a, b in pairwise(first))
    assert not torch.equal(torch.cat(first), all_of(make(epochs=6, seed=1)))


@pytest.mark.parametrize("make", [packed, padded])
def test_a_batch_is_its_examples(make: Callable[..., Examples]) -> None:
    examples = make(epochs=3)
    indices = [5, 0, 3, 1]  # over the borders of epochs, backwards too
    batch = examples.__getitems__(indices)
    assert {name: tensor.dtype for name, tensor in batch.items()} == {"input_ids": torch.long, "labels": torch.long}
    for row, index in enumerate(indices):
        for name, tensor in examples[index].items():
            assert torch.equal(batch[name][row], tensor)
            assert torch.equal(all_of(examples, name)[index], tensor)
    loader: Any = DataLoader(examples, batch_size=4, collate_fn=lambda batch: batch)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in loader]), all_of(examples))


def test_the_tokens_of_questions(world: World) -> None:
    questions = read_questions(world.data, (3, 5))
    assert [(q.person_id, q.attribute) for q in questions] == [
        (person, attribute)
        for person in (3, 4)
        for attribute in ("birthday", "birth_city", "university", "major", "company", "company_city")
    ]
    for question, (prompt, answer) in zip(questions, tokenise_questions(questions, world.tokenizer), strict=True):
        assert world.tokenizer.decode(prompt) == question.prompt
        assert question.prompt.endswith("?\nAnswer:")
        assert world.tokenizer.decode(answer[:-1]) == question.answer
        assert question.answer.startswith(" ")
        assert answer[-1] == world.tokenizer.eos_token_id
        alone = world.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        assert answer[:-1] == alone  # whatever the prompt is


def test_the_examples_of_a_recipe(world: World) -> None:
    recipe = world.recipe("fft", steps=5, batch_size=3, gradient_accumulation_steps=2, people="20:24")
    questions = load_examples(recipe, world.tokenizer)
    assert (len(questions), questions.per_epoch) == (30, 24)
    pairs = tokenise_questions(read_questions(world.data, (20, 24)), world.tokenizer)
    rows = Counter(
        tuple(token for token, label in zip(*row, strict=True) if label != IGNORED) for row in rows_of(questions)
    )
    assert rows == Counter(tuple(answer) for _, answer in pairs)

    recipe = world.recipe("fft", objective="lm", people="2:4", seq_length=16)
    texts = load_examples(recipe, world.tokenizer)
    assert isinstance(texts, PackedTexts)
    assert world.tokenizer.decode(texts.tokens.tolist()) == "".join(
        f"{text}<|endoftext|>" for text in read_biographies(world.data, (2, 4))
    )
    assert load_examples(world.recipe("fft", objective="lm"), world.tokenizer)[0]["input_ids"].shape == (512,)


def test_a_tokenizer_without_end_of_text_is_refused(world: World) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=world.tokenizer.backend_tokenizer)
    with pytest.raises(RequestError, match="no end-of-text token"):
        end_of_text(bare)


def test_texts_from_files(tmp_path: Path) -> None:
    texts = ["one\n", "두 번째", "three\u2028lines\x0cin\x85one"]
    (tmp_path / "a.txt").write_text("".join(texts), encoding="utf-8", newline="")
    assert read_texts(tmp_path / "a.txt", None) == ["".join(texts)]
    for escape in (True, False):
        rows = [json.dumps({"text": text, "more": 1}, ensure_ascii=escape) for text in texts]
        (tmp_path / "a.jsonl").write_text("\n".join([*rows, "", " "]), encoding="utf-8")
        assert read_texts(tmp_path / "a.jsonl", None) == texts
    for kind in (pa.string(), pa.large_string()):
        pq.write_table(pa.table({"id": [1, 2, 3], "text": pa.array(texts, kind)}), tmp_path / "a.parquet")
        assert read_texts(tmp_path / "a.parquet", None) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8: 'utf-8' codec can't decode byte 0xe9 in position 3"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}',
            "a.jsonl, line 2 is not UTF-8: 'utf-8' codec can't decode byte 0xff",
        ),
        (
            "a.jsonl",
            b'{"text": "\\ud800"}',
            "a.jsonl, line 1: the field `text` holds half a surrogate pair, which is no",
        ),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', "a.jsonl, line 2: not a JSON object with a field `text`"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', "a.jsonl, line 3: not a JSON object with a field `text`"),
        ("a.jsonl", b'["text"]', "a.jsonl, line 1: not a JSON object with a field `text`"),
        ("a.jsonl", b'{"text": null}', "a.jsonl, line 1: the field `text` is null, not text"),
        ("a.jsonl", b'{"text": 5}', "a.jsonl, line 1: the field `text` is 5, not text"),
        ("a.parquet", b"PAR1", "a.parquet is damaged or no Parquet file: "),
    ],
)
def test_files_with_something_else_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_texts(tmp_path / name, None)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_parquet_needs_a_column_of_text(tmp_path: Path) -> None:
    for columns, message in (
        ({"body": ["a"], "id": [1]}, "has no column `text`; it has body, id"),
        ({"text": [1]}, ", row 1: the field `text` is 1, not text"),
        ({"text": ["a", None]}, ", row 2: the field `text` is null, not text"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(RequestError, match=f"a.parquet ?{message}$"):
            read_texts(tmp_path / "a.parquet", None)


def test_sources_are_checked_before_they_are_read(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.txt").touch()
    (tmp_path / "folder.txt").mkdir()
    check_data(world.recipe("fft", objective="lm", people=None, data=(str(tmp_path / "a.txt"), str(world.data))))
    for changes, message in (
        ({"data": (str(tmp_path / "b.txt"),)}, r"--data .*b\.txt: no such file or folder"),
        ({"data": (str(tmp_path / "a.txt"),)}, r"--data .*a\.txt: --objective qa needs a gen-bios folder"),
        ({"data": (str(tmp_path / "a.txt"),), "objective": "lm"}, r"--people 0:4: .*a\.txt is not a gen-bios folder"),
        (
            {"data": (str(tmp_path / "a.csv"),), "objective": "lm", "people": None},
            r"--data .*a\.csv: give a gen-bios folder or a \.txt, \.jsonl or \.parquet file",
        ),
        ({"data": (str(tmp_path / "folder.txt"),), "objective": "lm", "people": None}, r"folder\.txt: give a gen-bios"),
    ):
        with pytest.raises(RequestError, match=message):
            check_data(world.recipe("fft", **changes))


def test_people_of_a_folder(world: World, tmp_path: Path) -> None:
    assert is_bios_folder(world.data)
    assert check_people(world.data, None) == (0, 24)
    assert check_people(world.data, (3, 24)) == (3, 24)
    for people in ((0, 25), (24, 25), (5, 5)):
        with pytest.raises(RequestError, match=f"^people {people[0]}:{people[1]}: .* has the people 0:24$"):
            check_people(world.data, people)
    with pytest.raises(RequestError, match="is not a gen-bios folder; make one with: scale gen-bios"):
        read_questions(tmp_path)
    everyone = read_questions(world.data)
    assert everyone == read_questions(world.data, (0, 10)) + read_questions(world.data, (10, 24))
    assert isinstance(everyone[0], Question)
    table = pq.read_table(world.data / "biographies.parquet").to_pylist()
    assert read_biographies(world.data, (7, 9)) == [row["text"] for row in table if row["person_id"] in (7, 8)]
