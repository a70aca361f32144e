"""Korean tasks for the harness: which sentence comes next, in speeches of presidents and in reasons for bills.

No Korean benchmark is on the package indexes, so these are made here, from documents that are in no `text.jsonl` of
`scale fetch`. Speeches are long, so the wrong sentences are from elsewhere in the same speech. Reasons for bills are
short and alike in structure, so the wrong sentences are from the same position in other bills.
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
"""Largest number of characters of a context, unless one sentence is longer."""

LENGTHS = range(30, 141)
"""Allowed lengths of a right ending, in characters."""

ABOUT = """\
Two tasks in Korean, made for this project: which of four sentences comes next. The wrong sentences are from elsewhere
in the same speech, or from the same position in other bills, and about as long as the right one. Ordered by length, or
by overlap with the context, the right sentence is first, second, third and last in a quarter of the items each. Human
accuracy was not measured. The documents are in no text.jsonl of `scale fetch`, and
no document there shares {run} consecutive words with one of them.

Accuracy in percent of shortcuts that choose the longest ending, the shortest ending, or the ending with the largest
overlap with the context (weighted character pairs within words; unweighted pairs; beginnings of words):

| task | longest | shortest | most pairs, weighted | most pairs | most words |
| --- | ---: | ---: | ---: | ---: | ---: |
{shortcuts}"""

SENTENCE_END = re.compile(r"(?:(?<=[가-힣]{2}[.!?])|(?<=[)\]」』”’%][.!?]))(?:\s+|(?=[가-힣\d“‘「]))")
HEADING = re.compile(r"[^\w\s]*\s*(?:대안의\s*)?(?:제안\s*이유|주요\s*내용|참고\s*사항)")
ENUMERATED = re.compile(r"\(?(?:[가나다라마바사아자차카타파하]|\d{1,2})[.)]|[①-⑳]|[^\w\s「『“‘\"'(]")
ARTICLE = re.compile(r"\s*\((?:안|법)?\s*제\d[^()]*\)")


def speech_sentences(text: str) -> list[str]:
    """The sentences of a speech, split also where the web page lost the blank between two."""
    return [sentence for line in text.split("\n") for sentence in map(str.strip, SENTENCE_END.split(line)) if sentence]


def bill_sentences(text: str) -> list[str]:
    """The sentences of the running text of a bill's reason, without article numbers.

    Headings, and the list of contents after the running text, are left out.
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
    """A task. corpus: its texts. sentences: splits a text. questions: finds the positions of questions."""

    corpus: str
    sentences: Callable[[str], list[str]]
    questions: Callable[[Sequence[Sequence[str]], Callable[[str], bool]], Iterator[Question]]
    per_document: int


def speech_questions(documents: Sequence[Sequence[str]], fits: Callable[[str], bool]) -> Iterator[Question]:
    """Every fifth sentence of a speech. Candidates are its other sentences, without the context and the next two."""
    for number, sentences in enumerate(documents):
        for at in range(3, len(sentences), 5):
            ending = sentences[at]
            if len(ending) in LENGTHS and fits(ending):
                start = _context_start(sentences, at)
                others = [*sentences[:start], *sentences[at + 3 :]]
                candidates = [text for text in dict.fromkeys(others) if near_length(text, ending) and fits(text)]
                yield Question(number, " ".join(sentences[start:at]), ending, candidates)


def bill_questions(documents: Sequence[Sequence[str]], fits: Callable[[str], bool]) -> Iterator[Question]:
    """Every sentence of a bill but the first. Candidates are other bills' sentences; last ones for a last one."""
    by_last: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
    for number, sentences in enumerate(documents):
        for at, text in enumerate(sentences[1:], start=1):
            if fits(text):
                by_last[at == len(sentences) - 1].append((number, text))
    for texts in by_last.values():
        for number, ending in texts:
            if len(ending) in LENGTHS:
                at = documents[number].index(ending)
                start = _context_start(documents[number], at)
                candidates = [text for other, text in texts if other != number and near_length(text, ending)]
                yield Question(number, " ".join(documents[number][start:at]), ending, candidates)


def _context_start(sentences: Sequence[str], at: int) -> int:
    """The start of sentence `at`'s context: as many sentences as fit into CONTEXT characters, at least one."""
    start = at - 1
    while start > 0 and len(" ".join(sentences[start - 1 : at])) <= CONTEXT:
        start -= 1
    return start


TASKS = {
    "korean_speeches": Task("korean", speech_sentences, speech_questions, per_document=8),
    "korean_bills": Task("korean-bills", bill_sentences, bill_questions, per_document=1),
}
"""Tasks by the names of their definitions in tasks/."""


def build(task: Task, documents: Sequence[str]) -> tuple[list[Item], dict[str, float], list[str]]:
    """A task's items, the accuracy of shortcuts, and the held-out documents of the items.

    documents: the whole corpus. A sentence that occurs twice in it appears in items only as context.
    """
    test = split(documents).test
    counts = Counter(sentence for text in documents for sentence in task.sentences(text))
    parts = [task.sentences(text) for text in test]
    overlap = Overlap(" ".join(sentences) for sentences in parts)
    questions = list(task.questions(parts, lambda sentence: counts[sentence] == 1))
    items = choose(questions, overlap, most=ITEMS, per_document=task.per_document, seed=SEED)
    return items, shortcuts(items, overlap), test


def write_korean(out: Path, *, cache: Path) -> None:
    """Write the suite `korean-offline` with its data into the new folder `out`.

    Raises RequestError if a package cannot be fetched, and if `new_folder` refuses `out`.
    """
    package_folder = Path(__file__).parent
    with new_folder(out) as folder:
        tasks, texts = [], []
        for name, task in TASKS.items():
            corpus = CORPORA[task.corpus]
            items, shortcut_accuracy, test = build(task, read_corpus(task.corpus, cache=cache))
            data = Path("data", f"{name}.jsonl")
            write_lines(folder / data, map(asdict, items))
            write_task(folder, out, name, package_folder / "tasks" / f"{name}.yaml", {"test": data})
            licence = corpus.package.licence
            tasks.append(DataSet(name, len(items), CHANCE, licence, f"from {corpus.about}", shortcut_accuracy))
            write_text_file(folder, task.corpus, test)
            texts.append(DataSet(task.corpus, len(test), None, licence, corpus.about))
        finish(
            folder,
            out,
            item=ITEM,
            suite=package_folder / "korean.yaml",
            about=ABOUT.format(run=RUN_WORDS, shortcuts="\n".join(map(_shortcuts_row, tasks))),
            packages=[CORPORA[task.corpus].package for task in TASKS.values()],
            tasks=tasks,
            texts=texts,
        )


def _shortcuts_row(entry: DataSet) -> str:
    assert entry.numbers is not None
    return f"| {' | '.join([entry.name, *(f'{100 * value:.1f}' for value in entry.numbers.values())])} |"
