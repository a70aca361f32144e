"""Sheets as plain text, Markdown and LaTeX; tables as CSV and JSON."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from rich.console import Console

from scale_cli.core.files import plain, to_json
from scale_cli.reporting.columns import MINUS
from scale_cli.reporting.compare import Comparison
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.requirements import Verdict, requirements_frame
from scale_cli.reporting.sheet import Entry, Sheet
from scale_cli.reporting.table import FACTS, Row, Table
from scale_cli.reporting.terminal import SheetText
from scale_cli.reporting.words import DAGGER, PLUS_MINUS, table_legend

BEST = {"markdown": "**bold**", "latex": "bold", "text": "*", "html": "shaded"}
"""Per format, the legend's term for the mark on a best value."""


def text(sheets: Iterable[Sheet], *, width: int) -> str:
    """The sheets as plain text of a width in characters, without trailing spaces."""
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        for number, sheet in enumerate(sheets):
            console.print(*([""] if number else []), SheetText(sheet), sep="\n")
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


# Markdown


def markdown(sheet: Sheet) -> str:
    """The sheet in GitHub Markdown: title, table with one line of headings, legend."""
    names = [markdown_escape(heading.flat_label) for heading in sheet.headings]
    cells = sheet.texts(_markdown_entry).set_axis(names, axis="columns")
    lines = markdown_table(cells, numeric=[n for n, h in zip(names, sheet.headings, strict=True) if h.numeric])
    legend = "\n".join(f"- {_markdown_term(term)}: {markdown_escape(meaning)}" for term, meaning in sheet.legend)
    return f"**{markdown_escape(sheet.title)}**\n\n{lines}\n" + (f"\n{legend}\n" if legend else "")


def markdown_table(cells: pd.DataFrame, *, numeric: Sequence[str] = ()) -> str:
    """A Markdown table of cells that are Markdown already. numeric: names of the columns aligned to the right.

    It replaces `DataFrame.to_markdown`, which pads every cell to its column's width: one long cell makes every line as
    long, and a change of one cell changes every line.
    """
    rule = ["---:" if name in numeric else "---" for name in cells.columns]
    lines = [list(cells.columns), rule, *cells.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_escape(plain_text: str) -> str:
    """Plain text as Markdown, also within a table's cell."""
    return re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", plain_text)


def _markdown_term(term: str) -> str:
    return term if term == BEST["markdown"] else f"*{markdown_escape(term)}*"


def _markdown_entry(entry: Entry) -> str:
    shown = f"**{markdown_escape(entry.text)}**" if entry.best else markdown_escape(entry.text)
    return f"{shown} {PLUS_MINUS} {entry.error}" if entry.error else shown


# LaTeX

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{NO-BREAK SPACE}": "~",
    MINUS: "$-$",
    PLUS_MINUS: r"$\pm$",
    DAGGER: r"$^\dagger$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
} | {character: f"\\{character}" for character in "&%$#_{}"}


LATEX = r"""% \usepackage{{booktabs, graphicx}}; text in Hangul needs XeLaTeX or LuaLaTeX with a Korean font
\begin{{table*}}
\centering
\caption{{{title}}}
\setlength{{\tabcolsep}}{{3pt}}
\resizebox{{\ifdim\width>\textwidth\textwidth\else\width\fi}}{{!}}{{%
{tabular}}}
\par\medskip
\begin{{minipage}}{{\textwidth}}\footnotesize
{legend}
\end{{minipage}}
\end{{table*}}
"""


def latex(sheet: Sheet) -> str:
    """The sheet as a LaTeX table with booktabs rules: the title as caption, the legend below."""
    cells = sheet.texts(_latex_entry).rename(columns=latex_escape)
    columns = "".join("r" if heading.numeric else "l" for heading in sheet.headings)
    lines = cells.to_latex(index=False, escape=False, column_format=columns, multicolumn_format="c").splitlines()
    head = lines.index(r"\midrule")
    rows = iter(lines[head + 1 :])
    sections = [line for section in sheet.sections for line in (r"\midrule", *(next(rows) for _ in section))]
    if any(heading.group for heading in sheet.headings):
        lines.insert(head - 1, _group_rules(sheet))
        head += 1
    else:
        lines[2:3] = []
        head -= 1
    legend = [f"\\emph{{{latex_escape(term)}}}: {latex_escape(meaning)}" for term, meaning in sheet.legend]
    tabular = "\n".join([*lines[:head], *sections, r"\bottomrule", r"\end{tabular}"])
    return LATEX.format(title=latex_escape(sheet.title), tabular=tabular, legend="\n".join(legend))


def latex_escape(plain_text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(SPECIAL.get(character, character) for character in plain_text)


def _group_rules(sheet: Sheet) -> str:
    """The rules below the titles of groups."""
    rules, first = [], 1
    for title, headings in groupby(sheet.headings, key=lambda heading: heading.group):
        width = len(list(headings))
        if title:
            rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return " ".join(rules)


def _latex_entry(entry: Entry) -> str:
    shown = f"\\textbf{{{latex_escape(entry.text)}}}" if entry.best else latex_escape(entry.text)
    return f"{shown}\\,{{\\scriptsize$\\pm${latex_escape(entry.error)}}}" if entry.error else shown


# For programs: values are not rounded, and are in the metrics' own units (accuracies from 0 to 1)

FIELDS = (
    *("checkpoint", "method", "section", "seeds", "pareto", "reported"),
    *("suite", "role", "label", "task", "metric", "filter", "task_version", "num_fewshot", "limit", "aggregation"),
    *("value", "stderr", "deviation", "samples", "higher_is_better"),
    *("change", "change_stderr", "change_deviation", "paired", "best"),
    *("trained_parameters", "tokens", "training_seconds", "routed", "dtype", "batch_size", "seed", "seconds"),
    *("source", "fingerprint", "command", "commit", "clean", "created"),
)
"""The columns of the CSV. A row of one run has `stderr`; a row of several seeds has `deviation` over them instead.
Distinct texts of several runs are separated by spaces."""
COLUMN = ("task", "metric", "filter", "task_version", "num_fewshot", "limit", "aggregation", "seed")
FORMULA = ("=", "+", "-", "@")
"""The beginnings of formulas in spreadsheets."""
MEASURED = ("samples", "routed", "dtype", "batch_size", "seconds", "command", "commit", "clean", "created")


def csv_text(table: Table, *, comparison: Comparison | None = None, verdicts: Sequence[Verdict] = ()) -> str:
    """The table as CSV: one line per number, averages included, with the columns FIELDS.

    comparison, verdicts: written instead of the table if one of them is given, one line per compared column or verdict.
    """
    if comparison is not None or verdicts:
        frame = requirements_frame(verdicts) if comparison is None else comparison.frame
        return _csv(frame)
    rows = pd.DataFrame(map(functools.partial(_row_fields, table), table.rows), dtype=object)
    columns = pd.DataFrame(
        [
            {"column": column.key, "label": column.flat_label, "suite": group.name, "role": group.role}
            | {name: getattr(column, name) for name in (*COLUMN, "higher_is_better")}
            for group, column in table.numbers
        ],
        dtype=object,
    )
    labels = {index: row.label for row in table.rows for index in row.results}
    tidy = table.tidy.assign(row=table.tidy["result"].map(labels))
    tidy = tidy[tidy["value"].notna()].drop_duplicates(["result", "column"], keep="last")
    measured = tidy.groupby(["row", "column"], sort=False)[list(MEASURED)].agg(_joined).reset_index()
    lines = table.cells.merge(rows, on="row").merge(columns, on="column")
    lines = lines.merge(measured, on=["row", "column"], how="left")
    several = lines["seeds"].str.contains(" ", na=False)
    for name, before in (("error", ""), ("change_error", "change_")):
        lines[f"{before}stderr"], lines[f"{before}deviation"] = lines[name].where(~several), lines[name].where(several)
    lines["paired"] = lines["paired"].where(lines["change"].notna())
    for name in ("pareto", "higher_is_better", "paired", "best"):
        lines[name] = lines[name].map({True: "true", False: "false"})
    return _csv(lines.rename(columns={"row": "checkpoint"}).reindex(columns=list(FIELDS)))


def _csv(frame: pd.DataFrame) -> str:
    """A frame as CSV. Texts that a spreadsheet would run as a formula begin with an apostrophe."""

    def quoted(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell

    frame = pd.DataFrame({name: pd.Series(map(quoted, frame[name]), dtype=frame[name].dtype) for name in frame})
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _row_fields(table: Table, row: Row) -> dict[str, Any]:
    infos = [table.results[index].checkpoint for index in row.results]
    return {
        "row": row.label,
        "method": row.method,
        "section": row.section,
        "seeds": _joined(row.seeds),
        "pareto": row.pareto,
        "reported": _joined(table.results[index].record.get("reported") for index in row.results),
        "trained_parameters": fact(table, row, "trained"),
        "tokens": fact(table, row, "tokens"),
        "training_seconds": fact(table, row, "seconds"),
        "source": _joined(info.source for info in infos),
        "fingerprint": _joined(info.fingerprint for info in infos),
    }


def fact(table: Table, row: Row, name: str) -> float | None:
    """A row's number in the column FACTS[name], as an int if it is whole; None if unknown."""
    cell = table.cell(row, FACTS[name])
    return None if cell is None else int(cell.value) if cell.value.is_integer() else cell.value


def _joined(values: Iterable[Any]) -> str | None:
    """The distinct known values, separated by spaces; None without any."""
    known = dict.fromkeys(value for value in values if not pd.isna(value))
    return " ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in known) or None


def json_text(
    table: Table,
    *,
    panels: Sequence[Panel] = (),
    comparison: Comparison | None = None,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """The table as JSON, with the records of its results, and with panels, comparison and verdicts if given.

    The values of verdicts are in the unit of the requirement's number.
    """
    document: dict[str, Any] = {
        "title": table.title,
        "base": None if table.base is None else table.base.label,
        "legend": table_legend(table, changes=False, best="best"),
        "groups": [
            {
                **{name: getattr(group, name) for name in ("name", "title", "role")},
                "summary": None if group.summary is None else group.summary.key,
                "columns": [plain(c) | {"average": bool(c.parts)} for c in group.columns if not c.change],
            }
            for group in table.groups
        ],
        "rows": [
            plain(row)
            | {name: fact(table, row, name) for name in ("trained", "tokens", "seconds")}
            | {"cells": {c.key: cell._asdict() for c in table.columns if (cell := table.cell(row, c)) is not None}}
            for row in table.rows
        ],
        "notes": list(table.notes),
        "results": [result.as_record() for result in table.results],
    }
    if panels:
        document["curves"] = panels
    if comparison is not None:
        document["comparison"] = comparison.frame.to_dict("records")
    if verdicts:
        document["requirements"] = requirements_frame(verdicts).to_dict("records")
    return to_json(document) + "\n"
