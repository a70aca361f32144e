"""Training data: texts packed into windows, questions with masked prompts, and the order in which both are seen.

The order is part of the data: example i of a run is a function of the seed and i alone, so a resumed run goes on where
it stopped and every method that shares a seed sees the same examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from scale_cli.core.errors import RequestError
from scale_cli.core.files import default_cache
from scale_cli.data.biographies import Question, check_people, read_questions
from scale_cli.data.options import DataOptions, Packing, parse_people
from scale_cli.data.packing import Group, Windows, interleave
from scale_cli.data.sources import SUFFIXES, FileSource, HubSource, find_source, split_weight
from scale_cli.data.texts import FIELD
from scale_cli.data.tokens import Chunk, TokenCache, tokenise

IGNORED = -100
"""The label of a position without a loss."""
DEFAULT_LENGTH = 512
"""Tokens of a sequence of text where nobody says how many."""


class Examples(Dataset[dict[str, torch.Tensor]], ABC):
    """`total` examples of `length` tokens, epoch after epoch, each epoch in an own order drawn from the seed.

    Asked for a list of indices it gives the whole batch, so the data loader collates nothing.
    """

    fingerprints: Mapping[str, str]
    """What the data was, by its words in `--data`: a sha256, or the commit of a data set of the hub."""

    def __init__(self, length: int, total: int) -> None:
        self.length = length
        self.total = total
        self.fingerprints = {}

    @abstractmethod
    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """These examples: `input_ids`, `labels` and whatever else the model is given, (len(indices), length) each."""

    @property
    def empty_texts(self) -> int:
        """The texts met so far that were left out, as they hold no token."""
        return 0

    @property
    @abstractmethod
    def predicted_tokens(self) -> int:
        """The tokens of all examples that have a loss: neither padding nor without one to predict them from."""

    def __len__(self) -> int:
        return self.total

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these examples, int64."""
        return {name: torch.from_numpy(rows).long() for name, rows in self.batch(np.asarray(indices)).items()}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: batch[0] for name, batch in self.__getitems__([index]).items()}


class PackedTexts(Examples):
    """Texts, each closed by end-of-text, shuffled every epoch, laid end to end and cut into windows.

    What is left behind the last whole window of an epoch is dropped; another epoch's shuffle drops something else.
    Packing "concat": attention crosses the borders of texts inside a window. "documents": `position_ids` begin anew
    with each text, by which the library's attention keeps to it, and no text's first token is predicted.
    """

    def __init__(
        self,
        sources: Sequence[Windows],
        length: int,
        total: int,
        *,
        weights: Sequence[float] = (1.0,),
        packing: Packing = "concat",
    ) -> None:
        """weights: of the sources, as shares of tokens. RequestError where a source fills no window."""
        super().__init__(length, total)
        self.sources = sources
        self.packing = packing
        self._mixed = interleave(weights, total) if len(sources) > 1 else None
        for source in sources:
            source.locate(0)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        if self._mixed is None:
            tokens, positions = self.sources[0].windows(indices)
        else:
            sources, numbers = (column[indices] for column in self._mixed)
            tokens = np.empty((len(indices), self.length), np.int64)
            positions = np.empty_like(tokens)
            for number in np.unique(sources):
                here = sources == number
                tokens[here], positions[here] = self.sources[number].windows(numbers[here])
        if self.packing == "concat":
            return {"input_ids": tokens, "labels": tokens.copy()}
        labels = np.where(positions == 0, IGNORED, tokens)
        return {"input_ids": tokens, "labels": labels, "position_ids": positions}

    @property
    def empty_texts(self) -> int:
        return sum(source.empty for source in self.sources)

    @property
    def predicted_tokens(self) -> int:
        inside = self.total * (self.length - 1)
        if self.packing == "concat":
            return inside
        counts = [self.total] if self._mixed is None else np.bincount(self._mixed[0], minlength=len(self.sources))
        return inside - sum(source.borders(int(count)) for source, count in zip(self.sources, counts, strict=True))


class PaddedQuestions(Examples):
    """Questions with their answers, padded on the right; only answer and end-of-text have a label."""

    def __init__(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], length: int | None, pad: int, total: int, seed: int
    ) -> None:
        """pairs: token ids of prompt and of answer with end-of-text. RequestError where one is longer than `length`."""
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        if length is not None and longest > length:
            raise RequestError(f"--seq-length {length}: the longest question with its answer has {longest} tokens")
        super().__init__(length or longest, total)
        self.seed = seed
        self.inputs = np.full((len(pairs), self.length), pad, dtype=np.int32)
        self.labels = np.full_like(self.inputs, IGNORED)
        for row, (prompt, answer) in enumerate(pairs):
            end = len(prompt) + len(answer)
            self.inputs[row, :end] = [*prompt, *answer]
            self.labels[row, len(prompt) : end] = answer
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.array([self._row(int(index)) for index in indices])
        return {"input_ids": self.inputs[rows], "labels": self.labels[rows]}

    @property
    def predicted_tokens(self) -> int:
        each = (self.labels[:, 1:] != IGNORED).sum(axis=1)
        epochs, rest = divmod(self.total, len(each))
        return int(epochs * each.sum() + sum(each[self._row(epochs * len(each) + index)] for index in range(rest)))

    def _row(self, index: int) -> int:
        epoch, place = divmod(index, len(self.inputs))
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.inputs)))
        return int(self._order[1][place])


@dataclass(frozen=True)
class Given:
    """A source of `--data` as it was given, what it means, and its share of the tokens, None where none has one."""

    words: str
    source: FileSource | HubSource
    weight: float | None


def load_examples(
    recipe: DataOptions, tokenizer: Any, *, processes: int = 1, progress: Callable[[int], None] | None = None
) -> Examples:
    """The examples of a training run of so many processes, which share them out batch by batch.

    progress: called with the tokens of each batch of texts that is tokenised, while training too if a stream is read;
        what lies in the cache of tokens is not tokenised again.
    Raises RequestError for data that is missing or of the wrong kind.
    """
    total = recipe.steps * recipe.batch_size * recipe.gradient_accumulation_steps * processes
    given = resolve_data(recipe)
    end = end_of_text(tokenizer)
    if recipe.objective == "qa":
        sources = [one.source for one in given if isinstance(one.source, FileSource)]
        questions = [question for source in sources for question in read_questions(source.place, source.people)]
        pairs = tokenise_questions(questions, tokenizer)
        asked = PaddedQuestions(pairs, recipe.seq_length, end, total, recipe.seed)
        asked.fingerprints = {one.words: source.fingerprint() for one, source in zip(given, sources, strict=True)}
        return asked

    length = recipe.seq_length or DEFAULT_LENGTH
    folder = recipe.tokens_cache or default_cache() / "tokens"
    groups: list[Group] = []
    fingerprints = {}
    for one in given:
        option = f"--data {one.words}"
        texts = one.source if isinstance(one.source, FileSource) else one.source.open(option, "train")
        cache = TokenCache(texts, tokenizer, end, folder, progress)
        groups.append(_all_chunks(cache) if isinstance(texts, FileSource) else _each_chunk(cache))
        fingerprints[one.words] = texts.fingerprint()
    weights = [one.weight for one in given if one.weight is not None]
    if not weights:
        words = ",".join(one.words for one in given)
        windows = [Windows(f"--data {words}", _together(groups), length, (recipe.seed, 0))]
    else:
        windows = [
            Windows(f"--data {one.words}", group, length, (recipe.seed, number))
            for number, (one, group) in enumerate(zip(given, groups, strict=True))
        ]
    packed = PackedTexts(windows, length, total, weights=weights or [1.0], packing=recipe.packing)
    packed.fingerprints = fingerprints
    return packed


def check_data(recipe: DataOptions) -> None:
    """Raise RequestError for sources that are missing or of the wrong kind; nothing is read, and no hub asked."""
    resolve_data(recipe)


def resolve_data(recipe: DataOptions) -> list[Given]:
    """What `--data` means, without the sources that have no share. RequestError as `check_data`."""
    people = None if recipe.people is None else parse_people(recipe.people)
    given = []
    for words in recipe.data:
        place, weight = split_weight(words)
        source = find_source(f"--data {words}", place)
        given.append(Given(words, _checked(words, source, recipe, people), weight))
    weights = [one.weight for one in given]
    if any(weight is None for weight in weights):
        if any(weight is not None for weight in weights):
            raise RequestError(
                f"--data {','.join(recipe.data)}: give every source a weight or none, as in a.txt:0.95,b.txt:0.05"
            )
        if len(given) > 1 and any(isinstance(one.source, HubSource) for one in given):
            raise RequestError(
                f"--data {','.join(recipe.data)}: how long a data set of the hub is, is not known; give every source a "
                "weight, as in a.txt:0.95,org/name:0.05"
            )
        return given
    if recipe.objective == "qa":
        raise RequestError(f"--data {','.join(recipe.data)}: weights are for texts; --objective qa asks every question")
    for one in given:
        if not 0 <= (one.weight or 0) < np.inf:
            raise RequestError(f"--data {one.words}: a weight is a number, 0 at least; it is a share of the tokens")
    if not any(weights):
        raise RequestError(f"--data {','.join(recipe.data)}: all weights are 0; give one source at least a share")
    return [one for one in given if one.weight]


def _checked(
    words: str, source: FileSource | HubSource, recipe: DataOptions, people: tuple[int, int] | None
) -> FileSource | HubSource:
    """The source, with the people that are asked for, if it is of the kind that the recipe needs."""
    if isinstance(source, FileSource) and source.is_bios:
        if recipe.objective == "qa" or people is not None:
            check_people(source.place, people)
        return replace(source, people=people)
    if recipe.objective == "qa":
        raise RequestError(f"--data {words}: --objective qa needs a gen-bios folder (scale gen-bios)")
    if people is not None:
        raise RequestError(f"--people {recipe.people}: {words} is not a gen-bios folder and has no people")
    if isinstance(source, FileSource):
        if any(file.suffix not in SUFFIXES for file in source.files):
            raise RequestError(
                f"--data {words}: give a gen-bios folder or a .txt, .jsonl or .parquet file, a folder or glob of such "
                "files, or a data set of the hub"
            )
        if source.field != FIELD and all(file.suffix == ".txt" for file in source.files):
            raise RequestError(
                f"--data {words}: {source.field!r} is neither a weight, which is a number, nor a field: .txt has none"
            )
    return source


def _all_chunks(cache: TokenCache) -> Group:
    """One group of everything: files are shuffled as a whole."""
    chunks = cache.chunks()
    return lambda number: chunks if number == 0 else None


def _each_chunk(cache: TokenCache) -> Group:
    """A group a chunk, made when training reaches it: a stream is shuffled chunk by chunk."""

    def group(number: int) -> list[Chunk] | None:
        chunk = cache.chunk(number)
        return None if chunk is None else [chunk]

    return group


def _together(groups: Sequence[Group]) -> Group:
    """The groups of several sources as those of one."""
    if len(groups) == 1:
        return groups[0]
    chunks = [chunk for group in groups for chunk in group(0) or ()]
    return lambda number: chunks if number == 0 else None


def end_of_text(tokenizer: Any) -> int:
    """The id that closes a text. Raises RequestError where the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise RequestError("the checkpoint's tokenizer has no end-of-text token (eos_token); give it one")
    return int(tokenizer.eos_token_id)


def tokenise_questions(questions: Sequence[Question], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt, and of its answer with end-of-text. The two are tokenised apart, so that the answer's
    first token is what accuracy looks at whatever precedes it."""
    end = end_of_text(tokenizer)
    prompts = tokenise([question.prompt for question in questions], tokenizer)
    answers = tokenise([question.answer for question in questions], tokenizer)
    return [(prompt, [*answer, end]) for prompt, answer in zip(prompts, answers, strict=True)]
