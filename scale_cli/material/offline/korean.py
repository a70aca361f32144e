"""Korean tasks for the harness: which sentence comes next, in speeches of presidents and in reasons for bills.

No Korean benchmark is on the package indexes, so these are made here, from documents that no `text.jsonl` of
`scale fetch` holds. A speech is long: the wrong sentences are its own, from elsewhere in it. A bill's reason is
short and they all are built alike: there the wrong sentences stand at the same place of other bills.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scale_cli.core.files import new_folder
from scale_cli.material.corpora import CORPORA, RUN_WORDS, read_corpus, split
from scale_cli.material.offline.continuations import CHANCE, Item, Overlap, Question, choose, near_length, shortcuts
from scale_cli.material.offline.folder import DataSet, finish, write_lines, write_task, write_text_file

ITEM = "korean-offline"
SEED = 0
ITEMS = 1024
CONTEXT = 200
"""Characters of a context at most, unless one sentence has more."""

LENGTHS = range(30, 141)
"""Characters of a right ending."""

ABOUT = """\
Two tasks in Korean, made for this project: which of four sentences comes next. The wrong ones are from elsewhere in
the same speech, or from the same place of other bills, of about the right one's length. Ordered by length, and by how
much of them the context holds, the right sentence is first, second, third and last in a quarter of the items each.
People have not been asked, so the best that can be reached is not known. The documents are in no text.jsonl of
`scale fetch`, and none there shares {run} words in a row with one of them.

Accuracy in percent of answering without reading, by the ending that is the longest, the shortest, or shares most with
the context (character pairs within words, rare ones counting more; all the same; beginnings of words):

| task | longest | shortest | most pairs, weighted | most pairs | most words |
| --- | ---: | ---: | ---: | ---: | ---: |
{shortcuts}"""

SENTENCE_END = re.compile(r"(?:(?<=[가-힣]{2}[.!?])|(?<=[)\]」』”’%][.!?]))(?:\s+|(?=[가-힣\d“‘「]))")
HEADING = re.compile(r"[^\w\s]*\s*(?:대안의\s*)?(?:제안\s*이유|주요\s*내용|참고\s*사항)")
ENUMERATED = re.compile(r"\(?(?:[가나다라마바사아자차카타파하]|\d{1,2})[.)]|[①-⑳]|[^\w\s「『“‘\"'(]")
ARTICLE = re.compile(r"\s*\((?:안|법)?\s*제\d[^()]*\)")


def speech_sentences(text: str) -> list[str]:
    """The sentences of a speech; also where the web page had lost the blank between two."""
    return [sentence for line in text.split("\n") for sentence in map(str.strip, SENTENCE_END.split(line)) if sentence]


def bill_sentences(text: str) -> list[str]:
    """The sentences of the running text that says why a bill is proposed, without the numbers of its articles.

    Its headings are left out, and what comes after it: the list of its contents.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if HEADING.match(line) or ENUMERATED.match(line):
            if lines:
                break
            continue
        lines.append(ARTICLE.sub("", line))
    return speech_sentences("\n".join(lines))


@dataclass(frozen=True)
class Task:
    """A task: of which corpus, how its texts fall into sentences, and where questions are asked in them."""

    corpus: str
    sentences: Callable[[str], list[str]]
    questions: Callable[[Sequence[Sequence[str]], Callable[[str], bool]], Iterator[Question]]
    per_document: int


def speech_questions(documents: Sequence[Sequence[str]], fits: Callable[[str], bool]) -> Iterator[Question]:
    """Every fifth sentence of a speech; the candidates are its others, less the context and what comes soon after."""
    for number, sentences in enumerate(documents):
        for at in range(3, len(sentences), 5):
            ending = sentences[at]
            if len(ending) in LENGTHS and fits(ending):
                start = _context_start(sentences, at)
                others = [*sentences[:start], *sentences[at + 3 :]]
                candidates = [text for text in dict.fromkeys(others) if near_length(text, ending) and fits(text)]
                yield Question(number, " ".join(sentences[start:at]), ending, candidates)


def bill_questions(documents: Sequence[Sequence[str]], fits: Callable[[str], bool]) -> Iterator[Question]:
    """Every sentence of a bill but the first; the candidates are those of other bills, last ones for a last one."""
    places: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
    for number, sentences in enumerate(documents):
        for at, text in enumerate(sentences[1:], start=1):
            if fits(text):
                places[at == len(sentences) - 1].append((number, text))
    for texts in places.values():
        for number, ending in texts:
            if len(ending) in LENGTHS:
                at = documents[number].index(ending)
                start = _context_start(documents[number], at)
                candidates = [text for other, text in texts if other != number and near_length(text, ending)]
                yield Question(number, " ".join(documents[number][start:at]), ending, candidates)


def _context_start(sentences: Sequence[str], at: int) -> int:
    """Where the context of sentence `at` begins: as many sentences as fit into CONTEXT characters, at least one."""
    start = at - 1
    while start > 0 and len(" ".join(sentences[start - 1 : at])) <= CONTEXT:
        start -= 1
    return start


TASKS = {
    "korean_speeches": Task("korean", speech_sentences, speech_questions, per_document=8),
    "korean_bills": Task("korean-bills", bill_sentences, bill_questions, per_document=1),
}
"""By the names of their definitions in tasks/."""


def build(task: Task, documents: Sequence[str]) -> tuple[list[Item], dict[str, float], list[str]]:
    """A task's items, the accuracy of shortcuts, and the held-out documents that the items are from.

    documents: the whole corpus; a sentence that it has twice is in no item but as context.
    """
    test = split(documents).test
    found = Counter(sentence for text in documents for sentence in task.sentences(text))
    parts = [task.sentences(text) for text in test]
    overlap = Overlap(" ".join(sentences) for sentences in parts)
    questions = list(task.questions(parts, lambda sentence: found[sentence] == 1))
    items = choose(questions, overlap, most=ITEMS, per_document=task.per_document, seed=SEED)
    return items, shortcuts(items, overlap), test


def write_korean(out: Path, *, cache: Path) -> None:
    """Write the suite `korean-offline` with its data into the new folder `out`.

    Raises RequestError where a package cannot be fetched, and for an `out` that `new_folder` refuses.
    """
    here = Path(__file__).parent
    with new_folder(out) as folder:
        tasks, texts = [], []
        for name, task in TASKS.items():
            corpus = CORPORA[task.corpus]
            items, without_reading, test = build(task, read_corpus(task.corpus, cache=cache))
            data = Path("data", f"{name}.jsonl")
            write_lines(folder / data, map(asdict, items))
            write_task(folder, out, name, here / "tasks" / f"{name}.yaml", {"test": data})
            licence = corpus.package.licence
            tasks.append(DataSet(name, len(items), CHANCE, licence, f"from {corpus.about}", without_reading))
            write_text_file(folder, task.corpus, test)
            texts.append(DataSet(task.corpus, len(test), None, licence, corpus.about))
        finish(
            folder,
            out,
            item=ITEM,
            suite=here / "korean.yaml",
            about=ABOUT.format(run=RUN_WORDS, shortcuts="\n".join(map(_shortcuts_row, tasks))),
            packages=[CORPORA[task.corpus].package for task in TASKS.values()],
            tasks=tasks,
            texts=texts,
        )


def _shortcuts_row(entry: DataSet) -> str:
    assert entry.numbers is not None
    return f"| {' | '.join([entry.name, *(f'{100 * value:.1f}' for value in entry.numbers.values())])} |"
