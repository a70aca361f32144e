"""The stability-plasticity table and the figures of the Korean benchmark."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from scale_cli.reporting.build import ColumnSpec, GroupSpec, build_table
from scale_cli.reporting.sources import read_sources

TEXT_GROUPS = (
    GroupSpec(
        "english-text", "English text", "stability", (ColumnSpec("perplexity:english", "bits_per_byte", "bits/byte"),)
    ),
    GroupSpec(
        "korean-text", "Korean text", "plasticity", (ColumnSpec("perplexity:korean", "bits_per_byte", "bits/byte"),)
    ),
)
"""The two sides of the trade-off on held-out text, as `scale report` takes them."""

LEGEND = (
    "Bits per byte of held-out text, lower is better; the base's row is before training on Korean. Stability: "
    "forgetting is English after minus before. Plasticity: gain is Korean before minus after. Routed: the share of "
    "tokens that took the preserve branch, in percent. Suites: the average of their tasks, in percent. Base half: "
    "whether the base's half of every hidden state is, to the last bit, what the base computes. Cosine: of that half "
    "of the last hidden state with the base's. Norm: of what a linear map was given in addition, the mean over maps. "
    "Perplexity is per token. Seconds: of training, with the measurements in between; peak memory is its as well. Of "
    "one seed: ± standard error over documents (of a change: paired) or items; of several: mean ± standard deviation."
)

FIELDS = {
    "perplexity/english": "English perplexity",
    "perplexity/korean": "Korean perplexity",
    "drift:english/cosine": "cosine English",
}
"""What a field of a record is called."""

Row = Mapping[str, Any]
Runs = Sequence[Row]
Reported = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Column:
    """A column: its heading, and its cell for the base's row and the runs of a label."""

    heading: str
    cell: Callable[[Row, Runs], str]


def table_cells(rows: Iterable[Row], reported: Reported | None = None) -> tuple[list[str], list[list[str]]]:
    """The headings, and the cells of the base and of each label in order of first appearance, its seeds summed up.

    rows: with the fields of `scale_cli.bench.korean.Row`, the base first.
    reported: what a paper says of them, by label and field.
    """
    rows = list(rows)
    return _cells(rows, [*_trade_off(rows), *_moved(rows), *_reported(reported or {}), *_cost()])


def _cells(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    cells = [[label, *(column.cell(rows[0], runs) for column in columns)] for label, runs in by_label.items()]
    return ["method", *(column.heading for column in columns)], cells


def _trade_off(rows: Sequence[Row]) -> list[Column]:
    """What was kept and what was learnt; only columns that the rows have something for."""
    base, *others = rows
    columns = []
    for language, change, sign in (("english", "forgetting", 1.0), ("korean", "gain", -1.0)):
        columns += [Column(f"{language.title()} bits/byte", _bits(language)), Column(change, _change(language, sign))]
    if any(value is not None for row in others for value in row["routed"].values()):
        columns.append(Column(f"routed {' / '.join(language.title() for language in base['routed'])}", _routed))
    columns += [Column(title, _suite(title)) for title in base["suites"]]
    if any(row["hidden_states_equal"] is not None for row in others):
        columns.append(Column("base half", _equal))
    return columns


def _moved(rows: Sequence[Row]) -> list[Column]:
    """How far the base's half has moved, and how large what was added is; nothing where nobody has looked."""
    others, columns = rows[1:], []
    for name, prefix in (("cosine", "cosine"), ("norms", "norm")):
        parts = dict.fromkeys(part for row in others for part in row[name])
        columns += [
            Column(f"{prefix} {part.title() if name == 'cosine' else part}", _part(name, part)) for part in parts
        ]
    return columns


def _reported(reported: Reported) -> list[Column]:
    """What a paper says of the rows."""
    fields = dict.fromkeys(field for values in reported.values() for field in values)
    return [Column(f"paper: {FIELDS[field]}", _paper(reported, field)) for field in fields]


def _cost() -> list[Column]:
    """What it took, and perplexities, which only models with the same tokenizer share."""
    return [
        *(Column(f"{language.title()} perplexity", _perplexity(language)) for language in ("english", "korean")),
        Column("trained params", lambda base, runs: _mean(runs, "trained_parameters", "{:,.0f}")),
        Column("lr", lambda base, runs: _mean(runs, "learning_rate", "{:.3g}")),
        Column("tokens", lambda base, runs: _mean(runs, "tokens", "{:,.0f}")),
        Column("seconds", lambda base, runs: _mean(runs, "seconds", "{:,.0f}")),
        Column("peak GB", lambda base, runs: _mean(runs, "peak_memory_bytes", "{:.2f}", scale=1e-9)),
    ]


def _mean(runs: Runs, name: str, form: str, *, scale: float = 1.0) -> str:
    values = [scale * row[name] for row in runs if row[name] is not None]
    return form.format(statistics.fmean(values)) if values else "-"


def _spread(values: Sequence[float | None], errors: Sequence[float | None], form: str, *, scale: float = 1.0) -> str:
    """The mean and, of several, the standard deviation; of a single one its own error."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    error = statistics.stdev(known) if len(known) > 1 else errors[0] and scale * errors[0]
    return form.format(statistics.fmean(known)) + ("" if error is None else f" ± {form.format(error)}")


def _bits(language: str) -> Callable[[Row, Runs], str]:
    return lambda base, runs: _spread(
        [row["bits"][language] for row in runs], [row["bits_stderr"][language] for row in runs], "{:.3f}"
    )


def _change(language: str, sign: float) -> Callable[[Row, Runs], str]:
    def cell(base: Row, runs: Runs) -> str:
        if runs[0] is base:
            return "-"
        changes = [sign * (row["bits"][language] - base["bits"][language]) for row in runs]
        return _spread(changes, [row["change_stderr"][language] for row in runs], "{:.3f}")

    return cell


def _perplexity(language: str) -> Callable[[Row, Runs], str]:
    return lambda base, runs: _spread([row["perplexity"][language] for row in runs], [None], "{:.4g}")


def _routed(base: Row, runs: Runs) -> str:
    """By language, in the order of the base's."""
    shares = [
        _spread([row["routed"][language] for row in runs], [None], "{:.1f}", scale=100.0) for language in base["routed"]
    ]
    return " / ".join(shares) if set(shares) != {"-"} else "-"


def _suite(title: str) -> Callable[[Row, Runs], str]:
    return lambda base, runs: _spread(
        [row["suites"][title] for row in runs], [row["suites_stderr"][title] for row in runs], "{:.1f}", scale=100.0
    )


def _part(name: str, part: str) -> Callable[[Row, Runs], str]:
    return lambda base, runs: _spread([row[name].get(part) for row in runs], [None], "{:.4f}")


def _paper(reported: Reported, field: str) -> Callable[[Row, Runs], str]:
    def cell(base: Row, runs: Runs) -> str:
        value = reported.get(runs[0]["label"], {}).get(field)
        return "-" if value is None else f"{value:g}"

    return cell


def _equal(base: Row, runs: Runs) -> str:
    found = [row["hidden_states_equal"] for row in runs if row["hidden_states_equal"] is not None]
    return ("equal" if all(found) else "DIFFERS") if found else "-"


def rich_tables(rows: Iterable[Row], *, title: str, reported: Reported | None = None) -> Group:
    """The same cells for a terminal: the trade-off; what has moved and what a paper says, if there is any; the cost."""
    rows = list(rows)
    parts = [
        (title, _trade_off(rows)),
        ("What has moved" + (", and the paper" if reported else ""), [*_moved(rows), *_reported(reported or {})]),
        ("Perplexity, and what it took", _cost()),
    ]
    tables = []
    for name, columns in parts:
        if not columns:
            continue
        headings, lines = _cells(rows, columns)
        table = Table(title=name, title_justify="left")
        for place, heading in enumerate(headings):  # headings are broken, numbers not
            widest = max(map(len, [*heading.split(), *(cells[place] for cells in lines)]))
            broken = textwrap.fill(heading, widest, break_on_hyphens=False)
            table.add_column(broken, justify="right" if place else "left", no_wrap=True)
        for cells in lines:
            table.add_row(*cells)
        tables.append(table)
    return Group(*tables, Text(LEGEND))


def markdown_table(rows: Iterable[Row], reported: Reported | None = None) -> str:
    """The table as GitHub Markdown, its legend below."""
    headings, cells = table_cells(rows, reported)
    lines = [headings, ["---:" if place else "---" for place in range(len(headings))], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{LEGEND}"


def draw(record: Path, folder: Path) -> None:
    """The figures of a benchmark's record: the trade-off on texts and, where they were measured, in suites; the curves.

    Each as PNG and SVG: frontier, frontier-suites, curves.
    """
    from scale_cli.reporting.curves import drawn_rows
    from scale_cli.reporting.figures import curve_figure, frontier_figure
    from scale_cli.reporting.frontier import frontier

    sources = read_sources([record])
    texts = {group.name for group in TEXT_GROUPS}
    kinds = {
        "frontier": [group for group in sources.groups if group.name in texts],
        "frontier-suites": [group for group in sources.groups if group.name not in texts],
    }
    for name, groups in kinds.items():
        if groups:
            table = build_table(sources.results, groups, base="base", seeds=True)
            if (points := frontier(table)) is not None:
                frontier_figure(points, *_files(folder, name))
            if name == "frontier":
                curve_figure(sources.panels, drawn_rows(table, sources.panels), *_files(folder, "curves"))


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}{suffix}" for suffix in (".png", ".svg")]
