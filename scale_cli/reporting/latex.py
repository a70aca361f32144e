"""A sheet as LaTeX: a `table*` with booktabs' rules, as a paper has it."""

from __future__ import annotations

from itertools import groupby

from scale_cli.reporting.sheet import MINUS, Entry, Sheet

BEST = "bold"
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{NO-BREAK SPACE}": "~",
    MINUS: "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{DAGGER}": r"$^\dagger$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def latex(sheet: Sheet) -> str:
    """The table with its title as caption and its legend below. Needs the packages booktabs and graphicx."""
    columns = "".join("r" if heading.numeric else "l" for heading in sheet.headings)
    legend = [f"\\emph{{{escape(term)}}}: {escape(meaning)}" for term, meaning in sheet.legend]
    lines = [
        "% \\usepackage{booktabs, graphicx}; text in Hangul needs XeLaTeX or LuaLaTeX with a Korean font",
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{escape(sheet.title)}}}",
        r"\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_group_lines(sheet),
        _line([escape(heading.label) for heading in sheet.headings]),
    ]
    for rows in sheet.sections:
        lines += [r"\midrule", *(_line([_entry(entry) for entry in row]) for row in rows)]
    below = [r"\par\medskip", r"\begin{minipage}{\textwidth}\footnotesize", *legend, r"\end{minipage}"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", *below, r"\end{table*}"]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(SPECIAL.get(character, character) for character in text)


def _group_lines(sheet: Sheet) -> list[str]:
    """The groups' titles over their columns, and a rule below each."""
    cells, rules, place = [], [], 1
    for title, headings in groupby(sheet.headings, key=lambda heading: heading.group):
        width = len(list(headings))
        cells.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(title)}}}" if title else " & ".join([""] * width))
        if title:
            rules.append(f"\\cmidrule(lr){{{place}-{place + width - 1}}}")
        place += width
    return [_line(cells), " ".join(rules)] if rules else []


def _line(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _entry(entry: Entry) -> str:
    text = f"\\textbf{{{escape(entry.text)}}}" if entry.best else escape(entry.text)
    return f"{text}\\,{{\\scriptsize$\\pm${escape(entry.error)}}}" if entry.error else text
