"""Training data: texts packed into windows, questions with masked prompts, and the order in which both are seen.

The order is part of the data: example i of a run is a function of the seed and i alone, so a resumed run goes on where
it stopped and every method that shares a seed sees the same examples.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from scale_cli.errors import RequestError
from scale_cli.texts import read_file
from scale_cli.training.bios import Question, is_bios_folder, read_biographies, read_questions
from scale_cli.training.recipe import TrainRecipe, parse_people

IGNORED = -100
"""The label of a position without a loss."""


class Examples(Dataset[dict[str, torch.Tensor]], ABC):
    """`total` examples, epoch after epoch, each epoch in an own order drawn from the seed.

    Asked for a list of indices it gives the whole batch, so the data loader collates nothing.
    """

    def __init__(self, total: int, seed: int) -> None:
        self.total = total
        self.seed = seed
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    @abstractmethod
    def per_epoch(self) -> int:
        """Examples an epoch holds."""

    @abstractmethod
    def epoch(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of one epoch in order, (per_epoch, length) each; all randomness from `generator`."""

    def __len__(self) -> int:
        return self.total

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these examples: `input_ids` and `labels`, int64 (len(indices), length) each."""
        rows = [self._row(index) for index in indices]
        inputs, labels = (np.stack(column) for column in zip(*rows, strict=True))
        return {"input_ids": torch.from_numpy(inputs).long(), "labels": torch.from_numpy(labels).long()}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: batch[0] for name, batch in self.__getitems__([index]).items()}

    def _row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number, row = divmod(index, self.per_epoch)
        if self._epoch is None or self._epoch[0] != number:
            self._epoch = (number, *self.epoch(np.random.default_rng([self.seed, number])))
        return self._epoch[1][row], self._epoch[2][row]


class PackedTexts(Examples):
    """Texts, each closed by end-of-text, shuffled every epoch, laid end to end and cut into windows.

    What is left behind the last whole window of an epoch is dropped; another epoch's shuffle drops something else.
    Attention crosses the borders of texts inside a window.
    """

    def __init__(self, documents: Sequence[Sequence[int]], length: int, total: int, seed: int) -> None:
        """documents: token ids of each text, end-of-text included. RequestError where all together fill no window."""
        super().__init__(total, seed)
        self.length = length
        self.tokens = np.fromiter(itertools.chain.from_iterable(documents), dtype=np.int32)
        self.lengths = np.array([len(document) for document in documents], dtype=np.int64)
        if len(self.tokens) < length:
            raise RequestError(f"--seq-length {length}: the data has {len(self.tokens)} tokens, less than one sequence")

    @property
    def per_epoch(self) -> int:
        return len(self.tokens) // self.length

    def epoch(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = generator.permutation(len(self.lengths))
        lengths = self.lengths[order]
        starts = (np.cumsum(self.lengths) - self.lengths)[order]
        shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        shuffled = self.tokens[np.arange(len(self.tokens)) + shifts]
        windows = shuffled[: self.per_epoch * self.length].reshape(self.per_epoch, self.length)
        return windows, windows


class PaddedQuestions(Examples):
    """Questions with their answers, padded on the right; only answer and end-of-text have a label."""

    def __init__(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], length: int | None, pad: int, total: int, seed: int
    ) -> None:
        """pairs: token ids of prompt and of answer with end-of-text. RequestError where one is longer than `length`."""
        super().__init__(total, seed)
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        if length is not None and longest > length:
            raise RequestError(f"--seq-length {length}: the longest question with its answer has {longest} tokens")
        self.inputs = np.full((len(pairs), length or longest), pad, dtype=np.int32)
        self.labels = np.full_like(self.inputs, IGNORED)
        for row, (prompt, answer) in enumerate(pairs):
            end = len(prompt) + len(answer)
            self.inputs[row, :end] = [*prompt, *answer]
            self.labels[row, len(prompt) : end] = answer

    @property
    def per_epoch(self) -> int:
        return len(self.inputs)

    def epoch(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = generator.permutation(len(self.inputs))
        return self.inputs[order], self.labels[order]


def load_examples(recipe: TrainRecipe, tokenizer: Any, *, processes: int = 1) -> Examples:
    """The examples of a training run of so many processes, which share them out batch by batch.

    Raises RequestError for data that is missing or of the wrong kind.
    """
    total = recipe.steps * recipe.batch_size * recipe.gradient_accumulation_steps * processes
    people = None if recipe.people is None else parse_people(recipe.people)
    end = end_of_text(tokenizer)
    if recipe.objective == "qa":
        questions = [question for source in recipe.data for question in read_questions(Path(source), people)]
        pairs = tokenise_questions(questions, tokenizer)
        return PaddedQuestions(pairs, recipe.seq_length, end, total, recipe.seed)
    texts = [text for source in recipe.data for text in read_texts(Path(source), people)]
    documents = [[*ids, end] for ids in tokenise(texts, tokenizer)]
    return PackedTexts(documents, recipe.seq_length or 512, total, recipe.seed)


def check_data(recipe: TrainRecipe) -> None:
    """Raise RequestError for sources that are missing or of the wrong kind, without reading them whole."""
    for source in map(Path, recipe.data):
        if not source.exists():
            raise RequestError(f"--data {source}: no such file or folder")
        if not is_bios_folder(source):
            if recipe.objective == "qa":
                raise RequestError(f"--data {source}: --objective qa needs a gen-bios folder (scale gen-bios)")
            if recipe.people is not None:
                raise RequestError(f"--people {recipe.people}: {source} is not a gen-bios folder and has no people")
            if not source.is_file() or source.suffix not in (".txt", ".jsonl", ".parquet"):
                raise RequestError(f"--data {source}: give a gen-bios folder or a .txt, .jsonl or .parquet file")


def read_texts(source: Path, people: tuple[int, int] | None) -> list[str]:
    """The texts of a gen-bios folder or of a .txt (one text), .jsonl or .parquet file (one a row, field `text`).

    Raises RequestError for a file that is damaged, or has something else than a text somewhere.
    """
    if is_bios_folder(source):
        return read_biographies(source, people)
    return list(read_file(source))


def end_of_text(tokenizer: Any) -> int:
    """The id that closes a text. Raises RequestError where the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise RequestError("the checkpoint's tokenizer has no end-of-text token (eos_token); give it one")
    return int(tokenizer.eos_token_id)


def tokenise(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text, nothing added to them."""
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []


def tokenise_questions(questions: Sequence[Question], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt, and of its answer with end-of-text. The two are tokenised apart, so that the answer's
    first token is what accuracy looks at whatever precedes it."""
    end = end_of_text(tokenizer)
    prompts = tokenise([question.prompt for question in questions], tokenizer)
    answers = tokenise([question.answer for question in questions], tokenizer)
    return [(prompt, [*answer, end]) for prompt, answer in zip(prompts, answers, strict=True)]
