"""Writes docs/commands from the command line itself: `python -m docs.generate`."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import typer
from typer.core import TyperGroup

from scale_cli.cli.app import app
from scale_cli.cli.options import GroupedCommand

COMMANDS = Path(__file__).parent / "commands"
WIDTH = 120
GUIDES = {
    "run": ("own-model", "From my model and my corpus"),
    "gen-bios": ("benchmarks", "Benchmarks"),
    "data": ("own-model", "From my model and my corpus"),
    "plan": ("own-model", "From my model and my corpus"),
    "upscale": ("own-model", "From my model and my corpus"),
    "train": ("own-model", "From my model and my corpus"),
    "eval": ("evaluation", "Evaluation"),
    "generate": ("own-model", "From my model and my corpus"),
    "chat": ("own-model", "From my model and my corpus"),
    "export": ("elsewhere", "Use elsewhere"),
    "push": ("elsewhere", "Use elsewhere"),
    "bench": ("benchmarks", "Benchmarks"),
    "sweep": ("benchmarks", "Benchmarks"),
    "report": ("reports", "Reports"),
    "fetch": ("real-base", "A real base"),
    "doctor": ("gpu", "On a GPU"),
}
"""The page and its title that shows each command in use."""
EXITS = """Exit codes: 0 done, 1 a failure with its traceback, 2 a mistake in the request, 3 a requirement of
`scale report` that is not met or not decided, 130 interrupted, 143 terminated. Results are printed on stdout, progress
and messages on stderr. `--json` prints the result for programs."""


def pages() -> dict[str, str]:
    """The text of every page of docs/commands, by file name."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    written = {f"{name}.md": page(name, command) for name, command in commands_of(group).items()}
    return {"index.md": index(group)} | written


def commands_of(group: TyperGroup) -> dict[str, GroupedCommand]:
    """The commands by name, in the order of `scale --help`."""
    return {name: command for name, command in group.commands.items() if isinstance(command, GroupedCommand)}


def page(name: str, command: GroupedCommand) -> str:
    """The page of one command: its purpose, usage, arguments and options in their groups."""
    context = typer.Context(command, info_name=f"scale {name}", terminal_width=10_000, max_content_width=10_000)
    usage = " ".join(command.collect_usage_pieces(context))
    guide, title = GUIDES[name]
    parts = [f"# scale {name}", *paragraphs(command), f"```\nscale {name} {usage}\n```"]
    parts.append(f"Guide: [{title}](../{guide}.md).")
    for heading, records in command.groups(context).items():
        parts.append(f"## {heading}")
        parts.append("\n".join(item(f"`{names}`", text) for names, text in records))
    return "\n\n".join(parts) + "\n"


def index(group: TyperGroup) -> str:
    """The page that lists all commands."""
    rows = [
        item(f"[scale {name}]({name}.md)", paragraphs(command)[0].replace("\n", " "))
        for name, command in commands_of(group).items()
    ]
    parts = [
        "# Commands",
        *paragraphs(group),
        "\n".join(rows),
        "\n".join(wrapped(EXITS)),
        "`python -m docs.generate` writes these pages from the command line's own help.",
    ]
    return "\n\n".join(parts) + "\n"


def paragraphs(command: GroupedCommand | TyperGroup) -> list[str]:
    """The paragraphs of a command's help, wrapped."""
    return ["\n".join(wrapped(escaped(text))) for text in re.split(r"\n\s*\n", command.help or "")]


def item(head: str, text: str) -> str:
    """An item of a list. `head` is Markdown and is never broken across lines."""
    hanging = head.replace(" ", "\N{NO-BREAK SPACE}")
    lines = wrapped(f"- {hanging}: {escaped(text)}", following="  ")
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def wrapped(text: str, following: str = "") -> list[str]:
    """Lines of at most `WIDTH` characters. following: the indentation of all but the first."""
    words = " ".join(part for part in text.replace("\n", " ").split(" ") if part)
    return textwrap.wrap(words, WIDTH, subsequent_indent=following, break_long_words=False, break_on_hyphens=False)


def escaped(text: str) -> str:
    """Text in which no character is Markdown or HTML."""
    return re.sub(r"([*<>_|\\`])", r"\\\1", text)


def main() -> None:
    """Write every page, and remove pages of commands that no longer exist."""
    COMMANDS.mkdir(exist_ok=True)
    texts = pages()
    for path in COMMANDS.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (COMMANDS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
