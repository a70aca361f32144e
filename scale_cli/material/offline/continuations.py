"""Items in HellaSwag's form (arXiv 1905.07830): how does this text go on, with three endings that are nearly as likely.

An item is only as hard as its wrong endings. They are taken from the candidates that share most with the context, and
so that two shortcuts are worth nothing: ordered by their length, and by how much of them the context holds, the right
ending is first, second, third and last in a quarter of the items each.
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
"""Of a wrong ending's length to the right one's."""

NEAR_DUPLICATE = 0.5
"""Two endings of an item have at most this share of their character pairs in common."""

MOST = 50
"""Candidates of a kind that are kept: those that the context holds most of."""

PAIR_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Question:
    """A place in a document: the text before it, the one after it, and others that might stand there."""

    document: int
    context: str
    ending: str
    candidates: Sequence[str]


@dataclass(frozen=True)
class Item:
    """label: which of the endings is right, from 0."""

    context: str
    endings: tuple[str, ...]
    label: int


class Cell(NamedTuple):
    """Of an item's wrong endings, how many the context holds more of, and how many are longer, than the right one."""

    more: int
    longer: int


class Overlap:
    """How much of an ending a context holds: the share of its different character pairs, rare ones counting more.

    A pair lies within a word. Its weight is the logarithm of how rare it is among the documents, as an integer, so that
    sums do not depend on their order.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        documents = list(documents)
        found = Counter(pair for text in documents for pair in pairs(text))
        self._default = self._weight(len(documents) + 1)
        self._weights = {pair: self._weight((len(documents) + 1) / count) for pair, count in found.items()}
        self._known: dict[str, tuple[frozenset[str], int]] = {}

    @staticmethod
    def _weight(rarity: float) -> int:
        return round(1000 * math.log(rarity))

    def __call__(self, context: str, ending: str) -> float:
        """From 0 to 1."""
        found, total = self._weighed(ending)
        return self._sum(found & self._weighed(context)[0]) / total if total else 0.0

    def _weighed(self, text: str) -> tuple[frozenset[str], int]:
        """The pairs of a text and their weight: each is asked for thousands of times."""
        if text not in self._known:
            found = pairs(text)
            self._known[text] = (found, self._sum(found))
        return self._known[text]

    def _sum(self, found: Iterable[str]) -> int:
        return sum(self._weights.get(pair, self._default) for pair in found)


def pairs(text: str) -> frozenset[str]:
    """The character pairs within the words of a text."""
    return frozenset(word[at : at + 2] for word in PAIR_WORD.findall(text) for at in range(len(word) - 1))


def words(text: str) -> frozenset[str]:
    """The words of a text, short of what Korean hangs on to them: their first two letters."""
    return frozenset(word[:2] for word in PAIR_WORD.findall(text))


def near_length(candidate: str, ending: str) -> bool:
    """Whether a wrong ending is about as long as the right one."""
    low, high = NEAR_LENGTH
    return low <= len(candidate) / len(ending) <= high


def choose(questions: Sequence[Question], overlap: Overlap, *, most: int, per_document: int, seed: int) -> list[Item]:
    """As many items as can be had in equal numbers of every `Cell`, in random order.

    most: items at most. per_document: questions of one document at most. Every wrong ending is used once.
    """
    rng = random.Random(seed)
    order = [_Sorted(question, overlap) for question in rng.sample(questions, len(questions))]
    cells = [Cell(*numbers) for numbers in product(range(ENDINGS), repeat=2)]
    ways = {id(entry): [cell for cell in cells if entry.possible(cell)] for entry in order}
    order.sort(key=lambda entry: len(ways[id(entry)]))  # first those that can be little else
    waiting = {cell: [entry for entry in order if cell in ways[id(entry)]] for cell in cells}
    rarest_first = sorted(cells, key=lambda cell: len(waiting[cell]))
    taken = _Taken(per_document)
    items: list[Item] = []
    for _ in range(most // len(cells)):
        found = [taken.next(cell, waiting[cell]) for cell in rarest_first]
        whole = [entry for entry in found if entry is not None]
        if len(whole) < len(cells):
            break
        items += [_item(question, wrong, rng) for question, wrong in whole]
    rng.shuffle(items)
    return items


class _Taken:
    """What items have been made of so far."""

    def __init__(self, per_document: int) -> None:
        self._per_document = per_document
        self._questions: set[int] = set()
        self._documents: Counter[int] = Counter()
        self._endings: set[str] = set()

    def next(self, cell: Cell, waiting: list[_Sorted]) -> tuple[Question, list[str]] | None:
        """The first question that can still be asked, and its wrong endings; it and those before it wait no longer."""
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
    """A question's candidates: does the context hold more of them than of the ending, are they longer than it?"""

    def __init__(self, question: Question, overlap: Overlap) -> None:
        self.question = question
        wanted = overlap(question.context, question.ending)
        found: dict[tuple[bool, bool], list[tuple[float, str]]] = defaultdict(list)
        for candidate in question.candidates:
            share = overlap(question.context, candidate)
            if share != wanted and len(candidate) != len(question.ending):  # without ties there is one order
                found[share > wanted, len(candidate) > len(question.ending)].append((share, candidate))
        self._found = {kind: [text for _, text in heapq.nlargest(MOST, group)] for kind, group in found.items()}

    def possible(self, cell: Cell) -> bool:
        return any(True for _ in self._ways(cell))

    def take(self, cell: Cell, used: set[str]) -> list[str] | None:
        """Wrong endings for a cell, the context holding as much of them as can be; None where there are too few."""
        for needed in self._ways(cell):
            chosen: list[str] = []
            near = [pairs(self.question.ending)]
            for kind, number in needed.items():
                missing = number
                for text in self._found.get(kind, ()):
                    if not missing:
                        break
                    own = pairs(text)
                    if text not in used and all(_alike(own, other) <= NEAR_DUPLICATE for other in near):
                        chosen.append(text)
                        near.append(own)
                        missing -= 1
            if len(chosen) == ENDINGS - 1:
                return chosen
        return None

    def _ways(self, cell: Cell) -> Iterable[Mapping[tuple[bool, bool], int]]:
        """How many of each kind make the cell, where there are as many."""
        for both in range(ENDINGS):
            needed = {
                (True, True): both,
                (True, False): cell.more - both,
                (False, True): cell.longer - both,
                (False, False): ENDINGS - 1 - cell.more - cell.longer + both,
            }
            if all(0 <= number <= len(self._found.get(kind, ())) for kind, number in needed.items()):
                yield needed


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _item(question: Question, wrong: Sequence[str], rng: random.Random) -> Item:
    endings = [question.ending, *wrong]
    rng.shuffle(endings)
    return Item(question.context, tuple(endings), endings.index(question.ending))


def shortcuts(items: Sequence[Item], overlap: Overlap) -> dict[str, float]:
    """The accuracy of answering without reading: by an ending's length, and by what it shares with the context."""

    def score(of: Callable[[str, str], float]) -> float:
        """Where several endings are the most, one of them is guessed."""
        right = 0.0
        for item in items:
            values = [of(item.context, ending) for ending in item.endings]
            right += (values[item.label] == max(values)) / values.count(max(values))
        return right / len(items)

    def share(of: Callable[[str], frozenset[str]]) -> Callable[[str, str], float]:
        return lambda context, ending: len(of(context) & of(ending)) / max(1, len(of(ending)))

    return {
        "longest": score(lambda context, ending: len(ending)),
        "shortest": score(lambda context, ending: -len(ending)),
        "most_weighted_pairs": score(overlap),
        "most_pairs": score(share(pairs)),
        "most_words": score(share(words)),
    }
