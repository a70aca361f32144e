"""The code blocks of README and docs run, and the commands and options that their text names exist.

A code block is indented by four spaces. A mark is a comment on a line of its own before a block, invisible to readers:

    <!-- not run: REASON -->    its commands are parsed and its Python is compiled, but neither runs
    <!-- file: NAME -->         the block is a file for later blocks of the page

The blocks of a page run in order in one folder, with a tiny base in place of every model.
"""

from __future__ import annotations

import copy
import importlib.util
import re
import shlex
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import data_gen
from docs import generate
from scale_cli.cli.app import app
from scale_cli.surgery import upscale
from scale_cli.training.train import train
from tests.helpers import tiny_base
from tests.runs import ROOT, Run, World, korean_texts, save
from tests.test_docs import DOORS, prose

PAGES = [*DOORS, *sorted((ROOT / "docs").glob("*.md"))]
SUBCOMMANDS = generate.commands_of(typer.main.get_command(app))  # type: ignore[arg-type]
OPTIONS = {
    name: {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    for name, command in SUBCOMMANDS.items()
}
BLOCK = re.compile(r"(?:^<!-- (not run|file): (.+) -->\n\n)?(?<=\n\n)((?: {4}.*\n|\n+(?= {4}))+)", re.MULTILINE)
PROGRAMS = ("scale", "make", "python", "torchrun", "accelerate", "lm_eval")
OTHERS_OPTIONS = {"--help", "--install-completion", "--loss-factor", "--new", "--no_python", "--old", "--tiny"}
"""Options in the text that are not those of `scale`."""
STAGES = {
    "README.md": ("old.jsonl", "new.jsonl"),
    "benchmarks.md": ("runs",),
    "elsewhere.md": ("wide", "out"),
    "evaluation.md": ("runs", "out", "run", "smollm2", "english-offline", "korean-offline"),
    "extending.md": ("smollm2",),
    "kept.md": ("smollm2", "old.jsonl", "new.jsonl"),
    "reports.md": ("benchmarks",),
}
"""What a page finds in its folder: the output of other pages, by file or folder of the fixture `stage`."""

SMALL = {
    "--steps": "2",
    "--tokens": "1k",
    "--held-out": "2",
    "--layers": "5",
    "--batch-size": "2",
    "--people": "100:104",
    "--rehearse-tokens": "1024",
    "--eval-people": "task0=50:51,task1=100:101",
}
"""Values that replace those of the page; the bases have four layers."""


class Block(NamedTuple):
    """A code block without its indentation. mark: "not run", "file" or "". note: the reason or the file's name."""

    mark: str
    note: str
    text: str

    @property
    def is_python(self) -> bool:
        return self.text.startswith(("import ", "from "))


class Command(NamedTuple):
    """The words of a command line, and the output that follows it in the block."""

    words: list[str]
    output: str


def blocks(text: str) -> list[Block]:
    """The code blocks of a page."""
    return [Block(mark, note, textwrap.dedent(code)) for mark, note, code in BLOCK.findall(text)]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block: after a `$`, or every line if the first begins with a program."""
    lines = block.text.replace("\\\n", " ")
    if lines.startswith("$ "):
        parts = [part.partition("\n") for part in re.split(r"^\$ ", lines, flags=re.MULTILINE)[1:]]
    elif lines.startswith(PROGRAMS):
        parts = [(line, "", "") for line in lines.splitlines() if line]
    else:
        return
    for line, _, output in parts:
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield Command(words[: words.index("&&")], "")
            words = words[words.index("&&") + 1 :]
        yield Command(words, output)


def problem(words: list[str]) -> str | None:
    """Why a command line cannot work, judged without running it; None if nothing is wrong."""
    match words:
        case ["make", *targets]:
            made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            return next((f"no target {target}" for target in targets if target not in made and "=" not in target), None)
        case ["python", "-m", module, *_]:
            return None if importlib.util.find_spec(module) else f"no module {module}"
        case ["python", script, *_]:
            return None if (ROOT / script).is_file() else f"no script {script}"
    names = [Path(word).name for word in words]
    if "scale" not in names:
        return None
    name, *arguments = words[names.index("scale") + 1 :]
    if name not in SUBCOMMANDS:
        return f"no command {name}"
    try:
        SUBCOMMANDS[name].make_context(name, arguments)
    except typer.TyperException as error:
        return error.format_message()
    return None


def rows(output: str) -> set[str]:
    """The first cells of the rows of a table in a box."""
    return set(re.findall(r"^│ +([^│]*[^│ ]) *│", output, re.MULTILINE))


@pytest.fixture(scope="module")
def stage(world: World, finished: Callable[[str, str], Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything in `STAGES`, and what `scale fetch` writes; read it only."""
    folder = tmp_path_factory.mktemp("stage")
    sizes: dict[str, Any] = {
        "vocab_size": len(world.tokenizer),
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 64,
    }
    tokenizer = copy.deepcopy(world.tokenizer)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    save(tiny_base("llama-grouped", **sizes), folder / "smollm2", tokenizer)
    upscale(str(folder / "smollm2"), folder / "widened", by="width", hidden=8, verify=False)
    train(str(folder / "widened"), folder / "run", world.recipe("scale-preserve", steps=1))
    data_gen.generate(folder / "runs" / "bios-demo" / "data", people=300, bios=1, workers=1)
    save(tiny_base("neox", **sizes), folder / "runs" / "bios-demo" / "seed-0" / "task0", tokenizer)
    (folder / "wide").symlink_to(world.checkpoint("neox", "width"))
    (folder / "out").symlink_to(finished("scale-preserve", "neox").folder)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    texts = korean_texts(folder)
    for name, text in {
        "old.jsonl": "english",
        "new.jsonl": "korean",
        "english/text.jsonl": "english",
        "english-passages/text.jsonl": "english",
        "korean-bills/text.jsonl": "train",
        "english-offline/text/english.jsonl": "english",
        "korean-offline/text/korean-bills.jsonl": "korean",
        "korean-offline/text/korean.jsonl": "korean",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(texts[text], folder / name)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_blocks_of_a_page_run(
    page: Path, stage: Path, run_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command exits with 0, and each row of a table that the page shows is in the real output.
    `scale fetch` copies from the stage."""
    monkeypatch.chdir(tmp_path)
    for name in STAGES.get(page.name, ()):
        Path(name).symlink_to(stage / name)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.mark == "file":
            Path(block.note).write_text(
                re.sub(r"layers: \d+", f"layers: {SMALL['--layers']}", block.text), encoding="utf-8"
            )
        elif block.is_python:
            code = compile(block.text, page.name, "exec")
            if not block.mark:
                exec(code, module.__dict__)
        for words, output in commands(block):
            assert problem(words) is None, words
            if block.mark or words[0] != "scale":
                continue
            if words[1] == "fetch":
                shutil.copytree(stage / words[2], words[3])
                continue
            small = SMALL if words[1] != "gen-bios" else {"--people": "110"}
            for flag in small.keys() & set(words):
                words[words.index(flag) + 1] = small[flag]
            ended = run_cli(*words[1:])
            assert ended.code == 0, (words, ended.stderr)
            assert rows(output) <= rows(ended.stdout), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for code in (" ".join(code.strip("`").split()) for code in re.findall(r"`(?:scale |--)[^`]+`", text)):
        name = code.split()[1] if re.match("scale [^-]", code) else None
        assert name is None or name in SUBCOMMANDS, code
        known = OPTIONS[name] if name else set().union(*OPTIONS.values())
        assert {word for word in code.split() if word.startswith("--")} <= known | OTHERS_OPTIONS, code


def test_a_wrong_block_is_found() -> None:
    page = "Text:\n\n    $ scale gen-bios data && make test\n    │ people │ 2 │\n\n    $ scale plan \\\n        base\n"
    page += "\n<!-- not run: hub -->\n\n    scale trains base run    # comment\n    scale train base run --stepz 3\n\n"
    page += "- an item\n\n    import os\n\n    print(os)\n"
    first, second, third = blocks(page)
    assert (first.mark, second.mark, third.is_python) == ("", "not run", True)
    assert [(*each.words, rows(each.output)) for each in commands(first)] == [
        ("scale", "gen-bios", "data", set()),
        ("make", "test", {"people"}),
        ("scale", "plan", "base", set()),
    ]
    assert [problem(each.words) for each in commands(first)] == [None] * 3
    unknown, option = (problem(each.words) or "" for each in commands(second))
    assert unknown == "no command trains"
    assert option.startswith("No such option: --stepz")
    for wrong in ("scale train base", "make tests", "python -m benchmarks.no", "python no.py", "torchrun scale no"):
        assert problem(wrong.split()), wrong
