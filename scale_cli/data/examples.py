"""Training data: texts packed into windows, questions with masked prompts, and the order of both.

The order is part of the data: example i of a run is a function of the seed and i alone. So a resumed run continues
exactly, and methods that share a seed see the same examples.
"""

from __future__ import annotations

import copy
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
from scale_cli.data.sources import FileSource, HubSource, find_source, split_weight
from scale_cli.data.tokens import Chunk, TokenCache, tokenise

IGNORED = -100
"""The label of a position without a loss."""
DEFAULT_LENGTH = 512
"""The default number of tokens in a sequence of text."""


class Examples(Dataset[dict[str, torch.Tensor]], ABC):
    """`count` examples of `length` tokens. Each epoch is reshuffled from the seed.

    A list of indices returns the whole batch, so the data loader collates nothing.
    """

    fingerprints: Mapping[str, str]
    """A sha256, or the commit of a dataset of the hub, by the values of `--data`."""
    sizes: Mapping[str, int]
    """The bytes of the files, by the values of `--data` that name files."""

    def __init__(self, length: int, count: int) -> None:
        self.length = length
        self.count = count
        self.fingerprints = {}
        self.sizes = {}

    @abstractmethod
    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples of these indices: `input_ids`, `labels` and further inputs, (len(indices), length) each."""

    @property
    def empty_texts(self) -> int:
        """The number of texts so far that were left out because they have no token."""
        return 0

    @property
    @abstractmethod
    def predicted_tokens(self) -> int:
        """The number of tokens with a loss in all examples: without padding and without first tokens."""

    @property
    @abstractmethod
    def epochs(self) -> dict[str, float | None]:
        """How often each source is read, by the values of `--data`; None for a stream that was not read to its end."""

    @property
    def predicts(self) -> bool:
        """Whether any token has a loss. Unlike `predicted_tokens` it reads nothing ahead of the training."""
        return True  # a text and its end are two tokens at least

    def first(self, count: int) -> Examples:
        """The first `count` of the examples, those of a run that ends early."""
        examples = copy.copy(self)
        examples.count = count
        return examples

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these examples, int64."""
        return {name: torch.from_numpy(rows).long() for name, rows in self.batch(np.asarray(indices)).items()}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: batch[0] for name, batch in self.__getitems__([index]).items()}


class PackedTexts(Examples):
    """Texts, each closed by end-of-text, reshuffled per epoch, laid end to end and cut into windows.

    The remainder after the last whole window of an epoch is dropped; each epoch drops other tokens.
    Packing "concat": attention crosses the borders of texts in a window. "documents": `position_ids` restart with each
    text, which keeps the library's attention inside it, and the first token of a text is not predicted.
    """

    def __init__(
        self,
        sources: Sequence[Windows],
        length: int,
        count: int,
        *,
        weights: Sequence[float] = (1.0,),
        packing: Packing = "concat",
    ) -> None:
        """weights: of the sources, as shares of tokens. Raises RequestError if a source fills no window."""
        super().__init__(length, count)
        self.sources = sources
        self.packing = packing
        self._mixed = interleave(weights, count) if len(sources) > 1 else None
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
                rows = sources == number
                tokens[rows], positions[rows] = self.sources[number].windows(numbers[rows])
        if self.packing == "concat":
            return {"input_ids": tokens, "labels": tokens.copy()}
        labels = np.where(positions == 0, IGNORED, tokens)
        return {"input_ids": tokens, "labels": labels, "position_ids": positions}

    @property
    def empty_texts(self) -> int:
        return sum(source.empty for source in self.sources)

    @property
    def predicted_tokens(self) -> int:
        inside = self.count * (self.length - 1)
        if self.packing == "concat":
            return inside
        return inside - sum(source.borders(count) for source, count in zip(self.sources, self._counts, strict=True))

    @property
    def epochs(self) -> dict[str, float | None]:
        epochs = [source.epochs(count) for source, count in zip(self.sources, self._counts, strict=True)]
        each = epochs if self._mixed is not None else epochs * len(self.fingerprints)  # without weights cut together
        return dict(zip(self.fingerprints, each, strict=False))

    def shared(self, documents: Sequence[Sequence[int]]) -> int:
        """How many of these documents are in the sources too, token by token; of a stream, in what is read so far.

        documents: token ids, with those that begin and end each text.
        """
        chunks = [chunk for source in self.sources for chunk in source.known_chunks()]
        found = {document for chunk in chunks for document in chunk.shared(documents)}
        return sum(tuple(document) in found for document in documents)

    @property
    def _counts(self) -> list[int]:
        """The number of windows of each source."""
        if self._mixed is None:
            return [self.count]
        return [int(count) for count in np.bincount(self._mixed[0][: self.count], minlength=len(self.sources))]


class EpochOrder:
    """The order of `count` rows over several epochs. Each epoch is reshuffled from the seed."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epoch: tuple[int, np.ndarray] | None = None

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of the examples with these indices."""
        return np.array([self._row(int(index)) for index in indices], dtype=np.int64)

    def _row(self, index: int) -> int:
        epoch, position = divmod(index, self._count)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._count))
        return int(self._epoch[1][position])


class PaddedQuestions(Examples):
    """Questions with their answers, padded on the right. Only the answer and end-of-text have labels."""

    def __init__(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], length: int | None, pad: int, count: int, seed: int
    ) -> None:
        """pairs: token ids of prompt and of answer with end-of-text. Raises RequestError if one exceeds `length`."""
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        if length is not None and longest > length:
            raise RequestError(f"--seq-length {length}: the longest question with its answer has {longest} tokens")
        super().__init__(length or longest, count)
        self._order = EpochOrder(len(pairs), seed)
        self.inputs = np.full((len(pairs), self.length), pad, dtype=np.int32)
        self.labels = np.full_like(self.inputs, IGNORED)
        for row, (prompt, answer) in enumerate(pairs):
            end = len(prompt) + len(answer)
            self.inputs[row, :end] = [*prompt, *answer]
            self.labels[row, len(prompt) : end] = answer

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = self._order.rows(indices)
        return {"input_ids": self.inputs[rows], "labels": self.labels[rows]}

    @property
    def predicts(self) -> bool:
        return bool((self.labels[:, 1:] != IGNORED).any())

    @property
    def predicted_tokens(self) -> int:
        each = (self.labels[:, 1:] != IGNORED).sum(axis=1)
        epochs, rest = divmod(self.count, len(each))
        last = self._order.rows(np.arange(rest) + epochs * len(each))
        return int(epochs * each.sum() + each[last].sum())

    @property
    def epochs(self) -> dict[str, float | None]:
        return dict.fromkeys(self.fingerprints, self.count / len(self.inputs))


class RowExamples(Examples):
    """Given rows of tokens, reshuffled per epoch. Every token has a label."""

    def __init__(self, tokens: np.ndarray, count: int, seed: int) -> None:
        """tokens: (rows, length)."""
        super().__init__(tokens.shape[1], count)
        self._tokens, self._order = tokens, EpochOrder(len(tokens), seed)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        tokens = self._tokens[self._order.rows(indices)]
        return {"input_ids": tokens, "labels": tokens}

    @property
    def predicted_tokens(self) -> int:
        return self.count * (self.length - 1)

    @property
    def epochs(self) -> dict[str, float | None]:
        return dict.fromkeys(self.fingerprints, self.count / len(self._tokens))


@dataclass(frozen=True)
class Given:
    """One value of `--data`: its text, its source, and its share of the tokens if the sources have weights."""

    text: str
    source: FileSource | HubSource
    weight: float | None

    @property
    def option(self) -> str:
        """The beginning of messages."""
        return f"--data {self.text}"


def load_examples(
    recipe: DataOptions,
    tokenizer: Any,
    *,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Examples:
    """The examples of a training run. Its processes share them out batch by batch.

    recipe: without `amount` it has its steps; else their number is that of the examples by those of a step.
    progress: called with the number of tokens of each batch of texts that is tokenised, during training too if a
        stream is read. Tokens in the cache are not made again.
    say: called with a line about the files of a folder that are not read.
    Raises RequestError for data that does not exist or is of the wrong kind.
    """
    given = resolve_data(recipe)
    for item in given:
        if isinstance(item.source, FileSource) and item.source.unread:
            say(f"{item.option}: {item.source.unread}")
    end = end_of_text(tokenizer)
    sizes = {item.text: item.source.size_bytes for item in given if isinstance(item.source, FileSource)}
    if recipe.objective == "qa":
        sources = [item.source for item in given if isinstance(item.source, FileSource)]
        questions = [question for source in sources for question in read_questions(source.place, source.people)]
        pairs = tokenise_questions(questions, tokenizer)
        padded = PaddedQuestions(pairs, recipe.seq_length, end, 0, recipe.seed)
        padded.count = _count(recipe, processes, padded.length, len(pairs))
        padded.fingerprints = {item.text: source.fingerprint() for item, source in zip(given, sources, strict=True)}
        padded.sizes = sizes
        return padded

    length = recipe.seq_length or DEFAULT_LENGTH
    begin = begin_of_text(tokenizer) if recipe.bos else None
    folder = recipe.tokens_cache or default_cache() / "tokens"
    groups: list[Group] = []
    fingerprints = {}
    for item in given:
        texts = item.source if isinstance(item.source, FileSource) else item.source.open(item.option, "train")
        cache = TokenCache(texts, tokenizer, end, folder, progress, begin=begin)
        groups.append(_all_chunks(cache) if isinstance(texts, FileSource) else _each_chunk(cache))
        fingerprints[item.text] = texts.fingerprint()
    weights = [item.weight for item in given if item.weight is not None]
    if not weights:
        whole = 1 if all(isinstance(item.source, FileSource) for item in given) else None
        windows = [Windows(_option(recipe), _together(groups), length, (recipe.seed, 0), groups=whole)]
    else:
        windows = [
            Windows(
                item.option,
                group,
                length,
                (recipe.seed, number),
                groups=1 if isinstance(item.source, FileSource) else None,
            )
            for number, (item, group) in enumerate(zip(given, groups, strict=True))
        ]
    epochs = [source.per_epoch for source in windows]
    rows = None if None in epochs else sum(epoch or 0 for epoch in epochs)
    count = _count(recipe, processes, length, rows)
    packed = PackedTexts(windows, length, count, weights=weights or [1.0], packing=recipe.packing)
    packed.fingerprints, packed.sizes = fingerprints, sizes
    return packed


def _count(recipe: DataOptions, processes: int, length: int, rows: int | None) -> int:
    """The number of examples of a run of whole steps. rows: examples of an epoch, None if unknown."""
    step = recipe.batch_size * recipe.gradient_accumulation_steps * processes
    return step * recipe.steps_of(step * length, None if rows is None else rows * length)


def check_data(recipe: DataOptions) -> None:
    """Raise RequestError for sources that do not exist or are of the wrong kind.

    No text is read, and the hub is not accessed.
    """
    resolve_data(recipe)


def resolve_data(recipe: DataOptions) -> list[Given]:
    """The sources of `--data`, without those whose weight is 0. Raises as `check_data` does."""
    people = None if recipe.people is None else parse_people(recipe.people)
    given = []
    for text in recipe.data:
        name, weight = split_weight(text)
        source = find_source(f"--data {text}", name)
        if recipe.epochs is not None and isinstance(source, HubSource):
            raise RequestError(
                f"{recipe.amount}: the length of {name}, a dataset of the hub, is not known; give --tokens or --steps"
            )
        given.append(Given(text, _checked(text, source, recipe, people), weight))
    weights = [item.weight for item in given]
    if any(weight is None for weight in weights):
        if any(weight is not None for weight in weights):
            raise RequestError(f"{_option(recipe)}: give every source a weight or none, as in a.txt:0.95,b.txt:0.05")
        if len(given) > 1 and any(isinstance(item.source, HubSource) for item in given):
            raise RequestError(
                f"{_option(recipe)}: the length of a dataset of the hub is not known; give every source a weight, as "
                "in a.txt:0.95,org/name:0.05"
            )
        return given
    if recipe.objective == "qa":
        raise RequestError(f"{_option(recipe)}: weights are for texts; --objective qa asks every question")
    for item in given:
        if not 0 <= (item.weight or 0) < np.inf:
            raise RequestError(f"{item.option}: a weight is a share of the tokens, a number of at least 0")
    if not any(weights):
        raise RequestError(f"{_option(recipe)}: all weights are 0; give at least one source a share")
    return [item for item in given if item.weight]


def _option(recipe: DataOptions) -> str:
    """The beginning of messages about all sources together."""
    return f"--data {','.join(recipe.data)}"


def _checked(
    text: str, source: FileSource | HubSource, recipe: DataOptions, people: tuple[int, int] | None
) -> FileSource | HubSource:
    """The source with the range of people. Raises RequestError if it is not of the kind that the recipe needs."""
    if isinstance(source, FileSource) and source.is_bios:
        if recipe.objective == "qa" or people is not None:
            check_people(source.place, people)
        return replace(source, people=people)
    if recipe.objective == "qa":
        raise RequestError(f"--data {text}: --objective qa needs a gen-bios folder (scale gen-bios)")
    if people is not None:
        raise RequestError(f"--people {recipe.people}: {text} is not a gen-bios folder and has no people")
    return source


def _all_chunks(cache: TokenCache) -> Group:
    """One group of all chunks: files are shuffled as a whole."""
    chunks = cache.chunks()
    return lambda number: chunks if number == 0 else None


def _each_chunk(cache: TokenCache) -> Group:
    """One group per chunk, tokenised when training reaches it: a stream is shuffled chunk by chunk."""

    def group(number: int) -> list[Chunk] | None:
        chunk = cache.chunk(number)
        return None if chunk is None else [chunk]

    return group


def _together(groups: Sequence[Group]) -> Group:
    """The groups of several sources as one group."""
    if len(groups) == 1:
        return groups[0]
    chunks = [chunk for group in groups for chunk in group(0) or ()]
    return lambda number: chunks if number == 0 else None


def end_of_text(tokenizer: Any) -> int:
    """The id of the token that closes a text. Raises RequestError if the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise RequestError("the checkpoint's tokenizer has no end-of-text token (eos_token); give it one")
    return int(tokenizer.eos_token_id)


def begin_of_text(tokenizer: Any) -> int:
    """The id of the token that begins a text. Raises RequestError if the tokenizer has none."""
    if tokenizer.bos_token_id is None:
        raise RequestError("--bos: the checkpoint's tokenizer has no begin-of-text token (bos_token)")
    return int(tokenizer.bos_token_id)


def tokenise_questions(questions: Sequence[Question], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt, and of its answer with end-of-text.

    Prompt and answer are tokenised separately, so the answer's first token, which accuracy is measured on, does not
    depend on the prompt.
    """
    end = end_of_text(tokenizer)
    prompts = tokenise([question.prompt for question in questions], tokenizer)
    answers = tokenise([question.answer for question in questions], tokenizer)
    return [(prompt, [*answer, end]) for prompt, answer in zip(prompts, answers, strict=True)]
