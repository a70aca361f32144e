"""Tables of the statistics of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from scale_cli.data.statistics import TOGETHER, DataReport
from scale_cli.reporting.columns import compact
from scale_cli.reporting.sheet import Entry, Heading, Sheet


def data_sheets(report: DataReport) -> list[Sheet]:
    """Tables of sizes and tokens, of the mix, and of documents that are in two sources; those without rows left out."""
    return [_texts(report), *([_mix(report)] if report.mix else []), *([_overlaps(report)] if report.overlaps else [])]


def _texts(report: DataReport) -> Sheet:
    frame = report.frame
    columns = [
        ("", "documents", frame["documents"].map(_count)),
        ("", "repeated", frame["repeated"].map(_count)),
        ("", "bytes", frame["bytes"].map(compact)),
        ("", "words", frame["words"].map(compact)),
    ]
    legend = [("repeated", "documents that are, up to whitespace, an earlier one of the same source")]
    if frame["empty"].any():
        columns.insert(1, ("", "empty", frame["empty"].map(_count)))
        legend.append(("empty", "left out; not among the documents"))
    if report.length is not None:
        over = f">{report.length:,}"
        columns += [
            ("tokens", "all", frame["tokens_total"].map(compact)),
            ("tokens", "per byte", frame["tokens_per_byte"].map("{:.3f}".format)),
            ("tokens", "per word", frame["tokens_per_word"].map(_ratio)),
            ("tokens of a document", "median", frame["tokens_median"].map("{:,.0f}".format)),
            ("tokens of a document", "longest", frame["tokens_longest"].map(_count)),
            ("tokens of a document", over, frame["tokens_longer"].map(_count)),
            ("tokens of a document", "beyond", frame["tokens_continued"].map(compact)),
        ]
        legend += [
            ("tokens", "with end-of-text after each document, as scale train counts; per byte and per word without it"),
            ("words", "runs of characters between whitespace"),
            (
                f"{over}, beyond",
                "documents that are longer than a sequence, and their tokens beyond the first sequence; training "
                "truncates nothing: a document continues in the next sequence, which does not see the one before",
            ),
        ]
    names = [text.name if text.complete else f"{text.name} (first {text.documents:,})" for text in report.texts]
    sections = [frame["role"] == role for role in ("data", "held out")]
    return _sheet("Texts", "source", names, columns, legend, sections)


def _mix(report: DataReport) -> Sheet:
    frame = pd.DataFrame(map(vars, report.mix))
    columns = [("", "share", frame["share"].map("{:.1%}".format))]
    title = f"Mix, in sequences of {report.length:,} tokens"
    if report.run_tokens is not None:
        tokens = frame["share"] * report.run_tokens
        columns += [("", "tokens", tokens.map(compact)), ("", "epochs", frame["epochs"].map(_ratio))]
        title = f"Mix of {report.run_tokens:,} training tokens, in sequences of {report.length:,}"
    columns += [
        ("one epoch", "sequences", frame["sequences"].map(_count)),
        ("one epoch", "left over", frame["dropped_tokens"].map(_count)),
    ]
    legend = [("left over", "tokens after the last whole sequence, which an epoch drops; others in each epoch")]
    sections = [frame["name"] != TOGETHER, frame["name"] == TOGETHER]
    return _sheet(title, "source", list(frame["name"]), columns, legend, sections)


def _overlaps(report: DataReport) -> Sheet:
    frame = pd.DataFrame(map(vars, report.overlaps))
    sizes = {text.name: text.documents for text in report.texts}
    columns = []
    for side in ("first", "second"):
        counts = frame[f"of_{side}"]
        columns += [
            (f"of the {side}", "documents", counts.map(_count)),
            (f"of the {side}", "share", (counts / frame[side].map(sizes)).map("{:.1%}".format)),
        ]
    names = list(frame["first"] + ", " + frame["second"])
    legend = [("documents", "those whose text, up to whitespace, is in the other source too")]
    return _sheet("Documents that are in two sources", "first, second", names, columns, legend)


def _sheet(
    title: str,
    name: str,
    names: Sequence[str],
    columns: Sequence[tuple[str, str, pd.Series[Any]]],
    legend: Sequence[tuple[str, str]],
    sections: Iterable[pd.Series[bool]] = (),
) -> Sheet:
    """A sheet from columns of text: group, label, cells. sections: which rows are in each; none: all in one."""
    headings = (
        Heading("", name, name, numeric=False),
        *(Heading(group, label, f"{group} {label}".strip()) for group, label, _ in columns),
    )
    rows = [tuple(map(Entry, cells)) for cells in zip(names, *(cells for _, _, cells in columns), strict=True)]
    parts = [tuple(row for row, inside in zip(rows, section, strict=True) if inside) for section in sections]
    return Sheet(title, headings, tuple(filter(None, parts)) or (tuple(rows),), tuple(legend))


def _count(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.0f}"


def _ratio(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:,.2f}" if value >= 0.1 else f"{value:.1g}"
