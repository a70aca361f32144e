"""Items in HellaSwag's form (arXiv 1905.07830): the continuation of a text, and three plausible wrong endings.

An item is only as hard as its wrong endings. They are the candidates that share most with the context, chosen so that
two shortcuts fail: if the endings are ordered by length, or by their overlap with the context, the right ending is
first, second, third and last in a quarter of the items each.
"""

from __future__ import annotations

import heapq
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

ENDINGS = 4
CHANCE = 1 / ENDINGS

NEAR_LENGTH = (0.75, 1.33)
"""Bounds of the ratio of a wrong ending's length to the right one's."""

NEAR_DUPLICATE = 0.5
"""Largest share of character pairs that two endings of an item have in common."""

MOST = 50
"""Number of candidates of a kind that are kept: those with the largest overlap with the context."""

PAIR_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Question:
    """A position in a document: the text before it, the right ending after it, and candidates for wrong endings."""

    document: int
    context: str
    ending: str
    candidates: Sequence[str]


@dataclass(frozen=True)
class Item:
    """One item. label: index of the right ending."""

    context: str
    endings: tuple[str, ...]
    label: int


class Cell(NamedTuple):
    """Numbers of wrong endings of an item with more overlap, and with more length, than the right ending."""

    more: int
    longer: int


class Overlap:
    """The overlap of an ending with a context: the share of the ending's distinct character pairs in it.

    A pair lies within a word. Rare pairs count more: a pair's weight is the logarithm of its rarity among the
    documents, as an integer, so that sums do not depend on their order.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        documents = list(documents)
        counts = Counter(pair for text in documents for pair in pairs(text))
        self._default = self._weight(len(documents) + 1)
        self._weights = {pair: self._weight((len(documents) + 1) / count) for pair, count in counts.items()}
        self._known: dict[str, tuple[frozenset[str], int]] = {}

    @staticmethod
    def _weight(rarity: float) -> int:
        return round(1000 * math.log(rarity))

    def __call__(self, context: str, ending: str) -> float:
        """A number from 0 to 1."""
        ending_pairs, weight = self._weighed(ending)
        return self._sum(ending_pairs & self._weighed(context)[0]) / weight if weight else 0.0

    def _weighed(self, text: str) -> tuple[frozenset[str], int]:
        """The pairs of a text and their total weight, cached because each is needed thousands of times."""
        if text not in self._known:
            text_pairs = pairs(text)
            self._known[text] = (text_pairs, self._sum(text_pairs))
        return self._known[text]

    def _sum(self, text_pairs: Iterable[str]) -> int:
        return sum(self._weights.get(pair, self._default) for pair in text_pairs)


def pairs(text: str) -> frozenset[str]:
    """The character pairs within the words of a text."""
    return frozenset(word[start : start + 2] for word in PAIR_WORD.findall(text) for start in range(len(word) - 1))


def words(text: str) -> frozenset[str]:
    """The beginnings of a text's words, two letters each, without the particles that Korean appends."""
    return frozenset(word[:2] for word in PAIR_WORD.findall(text))


def near_length(candidate: str, ending: str) -> bool:
    """Whether a wrong ending is about as long as the right one."""
    low, high = NEAR_LENGTH
    return low <= len(candidate) / len(ending) <= high


def choose(questions: Sequence[Question], overlap: Overlap, *, most: int, per_document: int, seed: int) -> list[Item]:
    """As many items as possible with equal numbers in every `Cell`, in random order. A wrong ending is used only once.

    most: largest number of items. per_document: largest number of questions from one document.
    """
    rng = random.Random(seed)
    order = [_Sorted(question, overlap) for question in rng.sample(questions, len(questions))]
    cells = [Cell(*numbers) for numbers in product(range(ENDINGS), repeat=2)]
    possible_cells = {id(entry): [cell for cell in cells if entry.possible(cell)] for entry in order}
    order.sort(key=lambda entry: len(possible_cells[id(entry)]))  # first those that fit fewest cells
    waiting = {cell: [entry for entry in order if cell in possible_cells[id(entry)]] for cell in cells}
    rarest_first = sorted(cells, key=lambda cell: len(waiting[cell]))
    taken = _Taken(per_document)
    items: list[Item] = []
    for _ in range(most // len(cells)):
        next_pairs = [taken.next(cell, waiting[cell]) for cell in rarest_first]
        chosen = [pair for pair in next_pairs if pair is not None]
        if len(chosen) < len(cells):
            break
        items += [_item(question, wrong, rng) for question, wrong in chosen]
    rng.shuffle(items)
    return items


class _Taken:
    """The questions, documents and endings that items have used so far."""

    def __init__(self, per_document: int) -> None:
        self._per_document = per_document
        self._questions: set[int] = set()
        self._documents: Counter[int] = Counter()
        self._endings: set[str] = set()

    def next(self, cell: Cell, waiting: list[_Sorted]) -> tuple[Question, list[str]] | None:
        """The first usable question and its wrong endings. It and those before it are removed from `waiting`."""
        while waiting:
            entry = waiting.pop(0)
            question = entry.question
            if id(entry) in self._questions or self._documents[question.document] == self._per_document:
                continue
            wrong = entry.take(cell, self._endings)
            if wrong is not None:
                self._questions.add(id(entry))
                self._documents[question.document] += 1
                self._endings.update(wrong)
                return question, wrong
        return None


class _Sorted:
    """A question's candidates, by whether they have more overlap and more length than the right ending."""

    def __init__(self, question: Question, overlap: Overlap) -> None:
        self.question = question
        right = overlap(question.context, question.ending)
        candidates: dict[tuple[bool, bool], list[tuple[float, str]]] = defaultdict(list)
        for candidate in question.candidates:
            share = overlap(question.context, candidate)
            if share != right and len(candidate) != len(question.ending):  # without ties the order is unique
                candidates[share > right, len(candidate) > len(question.ending)].append((share, candidate))
        self._texts = {kind: [text for _, text in heapq.nlargest(MOST, group)] for kind, group in candidates.items()}

    def possible(self, cell: Cell) -> bool:
        return any(True for _ in self._ways(cell))

    def take(self, cell: Cell, used: set[str]) -> list[str] | None:
        """Wrong endings for a cell, those with the largest overlap first. None if there are too few."""
        for needed in self._ways(cell):
            chosen: list[str] = []
            near = [pairs(self.question.ending)]
            for kind, number in needed.items():
                missing = number
                for text in self._texts.get(kind, ()):
                    if not missing:
                        break
                    text_pairs = pairs(text)
                    if text not in used and all(_alike(text_pairs, other) <= NEAR_DUPLICATE for other in near):
                        chosen.append(text)
                        near.append(text_pairs)
                        missing -= 1
            if len(chosen) == ENDINGS - 1:
                return chosen
        return None

    def _ways(self, cell: Cell) -> Iterable[Mapping[tuple[bool, bool], int]]:
        """The numbers of candidates of each kind that make up the cell, if there are enough of them."""
        for both in range(ENDINGS):
            needed = {
                (True, True): both,
                (True, False): cell.more - both,
                (False, True): cell.longer - both,
                (False, False): ENDINGS - 1 - cell.more - cell.longer + both,
            }
            if all(0 <= number <= len(self._texts.get(kind, ())) for kind, number in needed.items()):
                yield needed


def _alike(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))


def _item(question: Question, wrong: Sequence[str], rng: random.Random) -> Item:
    endings = [question.ending, *wrong]
    rng.shuffle(endings)
    return Item(question.context, tuple(endings), endings.index(question.ending))


def shortcuts(items: Sequence[Item], overlap: Overlap) -> dict[str, float]:
    """The accuracy of answers by shortcuts: by an ending's length, and by its overlap with the context."""

    def score(rate: Callable[[str, str], float]) -> float:
        """The accuracy of choosing the ending with the largest rate; ties are broken by guessing."""
        right = 0.0
        for item in items:
            values = [rate(item.context, ending) for ending in item.endings]
            right += (values[item.label] == max(values)) / values.count(max(values))
        return right / len(items)

    def share(parts: Callable[[str], frozenset[str]]) -> Callable[[str, str], float]:
        return lambda context, ending: len(parts(context) & parts(ending)) / max(1, len(parts(ending)))

    return {
        "longest": score(lambda context, ending: len(ending)),
        "shortest": score(lambda context, ending: -len(ending)),
        "most_weighted_pairs": score(overlap),
        "most_pairs": score(share(pairs)),
        "most_words": score(share(words)),
    }
