"""The examples of a run, token by token, and their order."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import parquet
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from scale_cli.core.errors import RequestError
from scale_cli.core.records import sha256_file
from scale_cli.data.biographies import Question, check_people, is_bios_folder, read_biographies, read_questions
from scale_cli.data.examples import (
    IGNORED,
    Examples,
    PackedTexts,
    PaddedQuestions,
    check_data,
    end_of_text,
    load_examples,
    tokenise_questions,
)
from scale_cli.data.options import Packing
from scale_cli.data.packing import Windows, interleave
from scale_cli.data.sources import READ
from scale_cli.data.tokens import tokenise
from scale_cli.evaluation.bios import BiographyJob
from scale_cli.training import TrainRecipe
from tests.data.chunks import group_of, packed_plainly, random_documents
from tests.helpers import refusal
from tests.runs import World

END = 9
PAIRS = [([1, 2, 3], [4, END]), ([5], [6, END]), ([7, 8], [1, 2, END])]
Make = Callable[..., Examples]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Thirteen windows of four tokens per epoch."""
    documents = random_documents(5, 8)
    group = group_of(tmp_path_factory.mktemp("packed") / "group", documents)
    assert sum(map(len, documents)) // 4 == 13

    def make(*, epochs: int = 1, seed: int = 0, packing: Packing = "concat") -> PackedTexts:
        return PackedTexts([Windows("x", group, 4, (seed, 0))], 4, 13 * epochs, packing=packing)

    return make


@pytest.fixture(scope="module")
def padded() -> Make:
    """Three questions per epoch."""

    def make(length: int | None = None, *, epochs: int = 1, seed: int = 0) -> PaddedQuestions:
        return PaddedQuestions(PAIRS, length, 0, len(PAIRS) * epochs, seed)

    return make


@pytest.fixture(params=["packed", "padded"])
def make(request: pytest.FixtureRequest) -> Make:
    """Both kinds of examples in turn."""
    found: Make = request.getfixturevalue(request.param)
    return found


def all_of(examples: Examples, name: str = "input_ids") -> torch.Tensor:
    return examples.__getitems__(range(len(examples)))[name]


def rows_of(examples: Examples, count: int) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of the first `count` examples."""
    batch = examples.__getitems__(range(count))
    return list(zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True))


def test_packed_texts_have_a_loss_on_every_token(packed: Make) -> None:
    examples = packed(epochs=3)
    assert torch.equal(all_of(examples, "labels"), all_of(examples))
    assert examples.predicted_tokens == 39 * 3  # the first token of a sequence is not predicted
    assert set(examples[0]) == {"input_ids", "labels"}


def test_texts_packed_apart_are_not_predicted_from_each_other(packed: Make) -> None:
    plain, examples = packed(epochs=3), packed(epochs=3, packing="documents")
    assert torch.equal(all_of(plain), all_of(examples))  # the same tokens in the same order
    positions, labels = all_of(examples, "position_ids"), all_of(examples, "labels")
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = all_of(plain)[:, :-1] == 0  # a zero closes a document
    assert torch.equal(positions == 0, begins)
    assert torch.equal(labels, all_of(plain).masked_fill(begins, IGNORED))
    assert examples.predicted_tokens == (labels[:, 1:] != IGNORED).sum() < plain.predicted_tokens


def test_questions_are_padded_and_only_answers_have_a_loss(padded: Make) -> None:
    wanted = {
        (1, 2, 3, 4, END): [IGNORED, IGNORED, IGNORED, 4, END],
        (5, 6, END, 0, 0): [IGNORED, 6, END, IGNORED, IGNORED],
        (7, 8, 1, 2, END): [IGNORED, IGNORED, 1, 2, END],
    }
    examples = padded(epochs=3)
    for inputs, labels in zip(all_of(examples).split(3), all_of(examples, "labels").split(3), strict=True):
        rows = list(map(tuple, inputs.tolist()))
        assert sorted(rows) == sorted(wanted)
        assert [wanted[row] for row in rows] == labels.tolist()
    assert all_of(padded(length=7)).shape == (3, 7)
    for total in (0, 3, 4, 8):
        examples = PaddedQuestions(PAIRS, None, 0, total, 0)
        labels = all_of(examples, "labels") if total else torch.empty(0, 5)
        assert examples.predicted_tokens == (labels[:, 1:] != IGNORED).sum()


def test_too_long_questions_are_refused(padded: Make) -> None:
    assert all_of(padded(length=5)).shape == (3, 5)
    with pytest.raises(RequestError, match=r"^--seq-length 4: the longest question with its answer has 5 tokens$"):
        padded(length=4)


def test_the_order_is_a_function_of_the_seed(make: Make) -> None:
    first = all_of(make(epochs=6)).split(len(make()))
    assert torch.equal(torch.cat(first), all_of(make(epochs=6)))
    assert torch.equal(torch.cat(first[:2]), all_of(make(epochs=2)))  # a longer run begins like a shorter one
    assert any(not torch.equal(a, b) for a, b in pairwise(first))
    assert not torch.equal(torch.cat(first), all_of(make(epochs=6, seed=1)))


def test_a_batch_is_its_examples(make: Make) -> None:
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
    assert (len(questions), questions.length) == (30, questions[0]["input_ids"].shape[0])
    assert questions.fingerprints == {str(world.data): sha256_file(world.data / "manifest.json")}
    pairs = tokenise_questions(read_questions(world.data, (20, 24)), world.tokenizer)
    rows = Counter(
        tuple(token for token, label in zip(*row, strict=True) if label != IGNORED) for row in rows_of(questions, 24)
    )
    assert rows == Counter(tuple(answer) for _, answer in pairs)

    recipe = world.recipe("fft", objective="lm", people="2:4", seq_length=16, steps=3)
    documents = [
        [*ids, world.tokenizer.eos_token_id] for ids in tokenise(read_biographies(world.data, (2, 4)), world.tokenizer)
    ]
    texts = load_examples(recipe, world.tokenizer)
    assert all_of(texts).tolist() == packed_plainly(documents, 16, [0, 0])[:12]
    assert (texts.fingerprints, texts.empty_texts) == (questions.fingerprints, 0)
    assert load_examples(world.recipe("fft", objective="lm"), world.tokenizer)[0]["input_ids"].shape == (512,)


def test_an_edited_file_of_a_gen_bios_folder_is_refused(world: World, tmp_path: Path) -> None:
    """In training, and where it is measured."""
    folder = shutil.copytree(world.data, tmp_path / "data")
    file = folder / "questions.parquet"
    parquet.write_table(parquet.read_table(file).slice(6), file)
    message = r"questions\.parquet is not the file that scale gen-bios wrote; make .* again"
    with pytest.raises(RequestError, match=message):
        load_examples(world.recipe("fft", data=(str(folder),)), world.tokenizer)
    with pytest.raises(RequestError, match=message):
        BiographyJob(folder)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    """Three files with their texts, every fifth of which is empty; `b.jsonl` has them in the field `body`."""
    made = {}
    for number, (name, field) in enumerate((("a.jsonl", "text"), ("b.jsonl", "body"), ("c.jsonl", "text"))):
        texts = [f"{name} has a line {index} of text" * (index % 5 > 0) for index in range(40 + 20 * number)]
        rows = "\n".join(json.dumps({field: text}) for text in texts)
        (tmp_path / name).write_text(rows, encoding="utf-8")
        made[str(tmp_path / name)] = [text for text in texts if text]
    return made


def documents_of(world: World, texts: list[str]) -> list[list[int]]:
    return [[*ids, world.tokenizer.eos_token_id] for ids in tokenise(texts, world.tokenizer)]


def text_recipe(world: World, *data: str, **changes: Any) -> TrainRecipe:
    return world.recipe("fft", objective="lm", people=None, data=data, **({"seq_length": 16, "steps": 30} | changes))


def test_sources_without_weights_are_one(world: World, files: dict[str, list[str]]) -> None:
    a, b, c = files
    examples = load_examples(text_recipe(world, c, f"{b}:body", a), world.tokenizer)
    documents = documents_of(world, files[c] + files[b] + files[a])
    windows = packed_plainly(documents, 16, [0, 0])
    assert len(windows) > 90
    assert all_of(examples).tolist() == (windows + packed_plainly(documents, 16, [0, 1]))[:120]
    assert examples.empty_texts == 36
    assert examples.fingerprints == {
        name: sha256_file(Path(name.removesuffix(":body"))) for name in (c, f"{b}:body", a)
    }


def test_sources_with_weights_are_mixed(world: World, files: dict[str, list[str]]) -> None:
    a, b, c = files
    recipe = text_recipe(world, f"{a}:3", f"{c}:0", f"{b}:body:1")
    found = all_of(load_examples(recipe, world.tokenizer)).tolist()
    first, second = (documents_of(world, files[name]) for name in (a, b))
    streams = {
        0: itertools.chain.from_iterable(packed_plainly(first, 16, [0, epoch]) for epoch in range(9)),
        1: itertools.chain.from_iterable(packed_plainly(second, 16, [0, epoch, 1]) for epoch in range(9)),
    }
    sources, _ = interleave([3, 1], 120)
    assert (sources == 1).sum() == 30
    assert found == [next(streams[source]) for source in sources]
    # a single source is the same with and without a weight
    alone = load_examples(text_recipe(world, f"{a}:3"), world.tokenizer)
    assert torch.equal(all_of(alone), all_of(load_examples(text_recipe(world, a), world.tokenizer)))


def test_folders_and_globs(world: World, files: dict[str, list[str]], tmp_path: Path) -> None:
    a, b, c = files
    wanted = all_of(load_examples(text_recipe(world, a, c), world.tokenizer))
    Path(b).rename(tmp_path / "b.md")
    for source in (tmp_path, f"{tmp_path}/*.jsonl"):
        lines: list[str] = []
        examples = load_examples(text_recipe(world, str(source)), world.tokenizer, say=lines.append)
        assert lines == ([f"--data {tmp_path}: not read: 1 .md"] if source == tmp_path else [])
        assert torch.equal(all_of(examples), wanted)
        assert examples.fingerprints == {
            str(source): hashlib.sha256(f"{sha256_file(Path(a))}\n{sha256_file(Path(c))}".encode()).hexdigest()
        }


def test_tokens_are_kept_where_the_recipe_says(
    world: World, files: dict[str, list[str]], tmp_path: Path, own_cache: Path
) -> None:
    a, *_ = files
    made: list[int] = []
    before = sorted(own_cache.rglob("*"))
    recipe = text_recipe(world, a, tokens_cache=tmp_path / "tokens")
    load_examples(recipe, world.tokenizer, progress=made.append)
    assert sum(made) == sum(map(len, documents_of(world, files[a])))
    assert sorted(own_cache.rglob("*")) == before
    kept = list((tmp_path / "tokens").glob("*/00000/tokens.bin"))
    assert len(kept) == 1
    load_examples(recipe, world.tokenizer, progress=made.append)
    assert len(made) == 1
    load_examples(dataclasses.replace(recipe, tokens_cache=None), world.tokenizer)
    assert len(list((own_cache / "tokens").glob(f"{kept[0].parent.parent.name}/00000"))) == 1


def test_a_tokenizer_without_end_of_text_is_refused(world: World) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=world.tokenizer.backend_tokenizer)
    with pytest.raises(RequestError, match="no end-of-text token"):
        end_of_text(bare)


def refused(recipe: TrainRecipe) -> str:
    """The message of `check_data`'s RequestError for a recipe's data."""
    return refusal(check_data, recipe)


def test_sources_are_checked_before_they_are_read(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / "a.txt").touch()
    (tmp_path / "folder.txt").mkdir()
    text, data = f"{tmp_path}/a.txt", str(world.data)
    for given in ((text, data), (f"{text}:0.5", "org/name:config:.5"), ("org/name",), (f"{tmp_path}/*.txt:1e-3",)):
        check_data(text_recipe(world, *given))
    check_data(world.recipe("fft"))
    check_data(world.recipe("fft", objective="lm", data=(f"{data}:1",)))
    qa, lm = {"objective": "qa"}, {"objective": "lm"}
    for changes, message in (
        (qa | {"data": (f"{tmp_path}/b.txt",)}, "--data TMP/b.txt: no such file or folder"),
        (qa | {"data": (text,)}, "--data TMP/a.txt: --objective qa needs a gen-bios folder (scale gen-bios)"),
        (qa | {"data": ("org/x",)}, "--data org/x: --objective qa needs a gen-bios folder (scale gen-bios)"),
        (qa | {"data": (f"{data}:1",)}, f"--data {data}:1: weights are for texts; --objective qa asks every question"),
        (qa | {"people": "20:25"}, f"people 20:25: {data} has the people 0:24"),
        (lm | {"people": "20:25", "data": (f"{data}:1",)}, f"people 20:25: {data} has the people 0:24"),
        (lm | {"data": (text,)}, "--people 0:4: TMP/a.txt is not a gen-bios folder and has no people"),
        (lm | {"data": ("org/x",)}, "--people 0:4: org/x is not a gen-bios folder and has no people"),
    ):
        assert refused(world.recipe("fft", **changes)) == message.replace("TMP", str(tmp_path))
    for given, message in (
        (
            (f"{tmp_path}/a.md",),
            f"--data TMP/a.md: a.md is not read, as its ending is none of {READ}; give a text the ending .txt",
        ),
        (
            (f"{tmp_path}/folder.txt",),
            f"--data TMP/folder.txt: a folder without texts (empty); files that are read end in {READ}",
        ),
        ((f"{tmp_path}/*.jsonl",), "--data TMP/*.jsonl: no such file or folder"),
        ((f"{tmp_path}/b.txt:0.5",), "--data TMP/b.txt:0.5: no such file or folder"),
        (
            (f"{text}:0.5x",),
            "--data TMP/a.txt:0.5x: '0.5x' is not a field, as .txt files have none; a weight of --data is a number",
        ),
        (
            (f"{text}:-1", data),
            "--data TMP/a.txt:-1,DATA: give every source a weight or none, as in a.txt:0.95,b.txt:0.05",
        ),
        ((f"{text}:-1",), "--data TMP/a.txt:-1: a weight is a share of the tokens, a number of at least 0"),
        ((f"{text}:1e999",), "--data TMP/a.txt:1e999: a weight is a share of the tokens, a number of at least 0"),
        (
            (f"{text}:0", f"{data}:0.0"),
            "--data TMP/a.txt:0,DATA:0.0: all weights are 0; give at least one source a share",
        ),
        (
            (text, "org/x"),
            "--data TMP/a.txt,org/x: the length of a dataset of the hub is not known; give every source a weight, as "
            "in a.txt:0.95,org/name:0.05",
        ),
    ):
        message = message.replace("TMP", str(tmp_path)).replace("DATA", data)
        assert refused(text_recipe(world, *given)) == message


def test_data_that_holds_too_little_is_refused(world: World, tmp_path: Path) -> None:
    blank, short = tmp_path / "blank.jsonl", tmp_path / "short.jsonl"
    blank.write_text('{"text": ""}\n\n{"text": ""}', encoding="utf-8")
    short.write_text('{"text": "a b"}\n', encoding="utf-8")
    count = len(world.tokenizer("a b")["input_ids"]) + 1
    for given, message in (
        ((f"{blank}",), f"--data {blank}: there is no text in it"),
        ((f"{blank}", f"{blank}"), f"--data {blank},{blank}: there is no text in it"),
        ((f"{short}:1", f"{blank}:1"), f"--seq-length 16: --data {short}:1 has {count} tokens, less than one sequence"),
        (
            (f"{short}", f"{blank}"),
            f"--seq-length 16: --data {short},{blank} has {count} tokens, less than one sequence",
        ),
    ):
        assert refusal(load_examples, text_recipe(world, *given), world.tokenizer) == message


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
