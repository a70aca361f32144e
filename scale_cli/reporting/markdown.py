"""A sheet as GitHub Markdown."""

from __future__ import annotations

import re

from scale_cli.reporting.sheet import Entry, Sheet

BEST = "**bold**"


def markdown(sheet: Sheet) -> str:
    """The table with one line of headings, its title above and its legend below."""
    lines = [
        [escape(heading.flat_label) for heading in sheet.headings],
        ["---:" if heading.numeric else "---" for heading in sheet.headings],
        *([_entry(entry) for entry in row] for rows in sheet.sections for row in rows),
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    legend = "\n".join(f"- {_term(term)}: {escape(meaning)}" for term, meaning in sheet.legend)
    return f"**{escape(sheet.title)}**\n\n{table}\n\n{legend}\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table's cell too."""
    return re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", text)


def _term(term: str) -> str:
    return term if term == BEST else f"*{escape(term)}*"


def _entry(entry: Entry) -> str:
    text = f"**{escape(entry.text)}**" if entry.best else escape(entry.text)
    return f"{text} ± {entry.error}" if entry.error else text
