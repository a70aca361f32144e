"""A report as one HTML file that needs nothing else: no network, no other file, and no script to be read.

The script only adds sorting, the switch between values and changes, and the switch between light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

from scale_cli.core.files import to_json
from scale_cli.reporting.colours import BASE, OTHER, STYLES, Style
from scale_cli.reporting.compare import Comparison, comparison_sheet
from scale_cli.reporting.curves import Panel, drawn_rows
from scale_cli.reporting.data import call_of, record_of
from scale_cli.reporting.frontier import frontier
from scale_cli.reporting.sheet import (
    DAGGER,
    MISSING,
    TRAINING_COLUMNS,
    Entry,
    Sheet,
    change_entry,
    compact,
    group_title,
    has_change,
    row_label,
    summary_change,
    summary_change_entry,
    table_legend,
    value_entry,
)
from scale_cli.reporting.svg import frontier_svg, key_svg, panel_svg
from scale_cli.reporting.table import Cell, Column, Row, StabilityPlasticityTable
from scale_cli.results.result import Measurement, Result

BEST = "shaded"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What a browser lets the page do: nothing from anywhere but the page itself."""


def html_page(
    table: StabilityPlasticityTable, *, panels: Sequence[Panel] = (), comparison: Comparison | None = None
) -> str:
    """The page: trade-off, table, curves and a comparison where there are any, legend, and the records."""
    sections = [
        _frontier_section(table),
        _table_section(table),
        _curves_section(table, panels),
        "" if comparison is None else _comparison_section(comparison),
        _records_section(table),
    ]
    page = files("scale_cli.reporting") / "page"
    style = _colours() + (page / "style.css").read_text(encoding="utf-8")
    script = (page / "script.js").read_text(encoding="utf-8")
    title = escape(table.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{_subtitle(table)}</p>
<button type="button" id="theme" hidden>dark</button>
</header>
<main>
{_joined(sections)}
</main>
<footer>Made by <code>scale report</code>. Every number links to its record.</footer>
<script>
{script}</script>
</body>
</html>
"""


def _subtitle(table: StabilityPlasticityTable) -> str:
    sources = dict.fromkeys(table.results[row.results[0]].record["reported"] for row in table.rows if row.reported)
    if all(row.reported for row in table.rows):
        return f"As reported by {escape('; '.join(map(str, sources)))}; not measured here."
    checkpoints = f"{len(table.results)} checkpoint{'s' if len(table.results) > 1 else ''}"
    measured = sum(len(result.measurements) for result in table.results)
    return f"{checkpoints}, {measured:,} measurements."


def _colours() -> str:
    """The methods' colours, as classes that set the colour of what is drawn in them."""
    styles = {f"m-{method}": style for method, style in STYLES.items()} | {"m-base": BASE, "m-other": OTHER}

    def rule(name: str, style: Style) -> str:
        return f".{name} {{ --method: light-dark({style.colour}, {style.dark}); }}\n"

    return "".join(rule(name, style) for name, style in styles.items())


def _frontier_section(table: StabilityPlasticityTable) -> str:
    found = frontier(table)
    if found is None:
        return ""
    return f"""<section id="trade-off">
<h2>Trade-off</h2>
<div class="beside">
<figure>
{frontier_svg(found, lambda row: f"#{_record_id(table.rows[row].results[0])}")}
<figcaption>Up and right is better. Bars: {_bars_words(table)}. Dashed: the Pareto front; what lies in the shaded region
is beaten in both by a checkpoint on it. Dotted: the base. Hollow: baselines; filled: the methods of SCALE.</figcaption>
</figure>
{_legend(_terms(table)[0])}
</div>
</section>"""


MAIN_TERMS = ("stability", "plasticity", "forgetting", "gain", "change")


def _terms(table: StabilityPlasticityTable) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The legend, what the two sides of the trade-off mean apart from the rest."""
    legend = table_legend(table, changes=False, best=BEST)
    return [entry for entry in legend if entry[0] in MAIN_TERMS], [e for e in legend if e[0] not in MAIN_TERMS]


def _bars_words(table: StabilityPlasticityTable) -> str:
    return "one standard deviation over the seeds, or one standard error" if table.aggregated else "one standard error"


def _table_section(table: StabilityPlasticityTable) -> str:
    has_changes = any(cell.change is not None for row in table.rows for cell in row.cells.values())
    switch = (
        '<p class="switch" hidden><button type="button" id="changes" aria-pressed="false">'
        "show each number as its change against the base</button>"
        "<span>in colour where it is larger than its standard error</span></p>"
    )
    extra = [(name, of) for name, of in TRAINING_COLUMNS if any(of(row) is not None for row in table.rows)]
    top = ['<th rowspan="2" scope="col" class="name"><button type="button">checkpoint</button></th>']
    top += [f'<th rowspan="2" scope="col"><button type="button">{name}</button></th>' for name, _ in extra]
    below = []
    for group in table.groups:
        summary = has_change(table, group)
        span = len(group.columns) + summary
        role = f' class="{group.role}"' if group.role else ""
        top.append(f'<th colspan="{span}" scope="colgroup"{role}>{escape(group_title(group))}</th>')
        for place, column in enumerate(group.columns):
            arrow = "" if column.higher_is_better else ' <span title="lower is better">\N{DOWNWARDS ARROW}</span>'
            names = _classes(first=place == 0, average=column.average)
            hint = escape(f"{column.task} {column.metric}")
            button = f'<button type="button">{escape(column.label)}{arrow}</button>'
            below.append(f'<th scope="col"{names} title="{hint}">{button}</th>')
        if summary:
            below.append(f'<th scope="col"><button type="button">{group.change_heading}</button></th>')
    body = "\n".join(
        _table_row(table, row, [(name, of(row)) for name, of in extra], first=place > 0 and number == 0)
        for place, (_, rows) in enumerate(groupby(table.rows, key=lambda row: row.section))
        for number, row in enumerate(rows)
    )
    main, rest = _terms(table)
    legend = rest if frontier(table) else [*main, *rest]
    return f"""<section id="table">
<h2>Table</h2>
{switch if has_changes else ""}
<div class="scroll" tabindex="0" role="region" aria-label="table">
<table class="numbers">
<thead>
<tr>{"".join(top)}</tr>
<tr>{"".join(below)}</tr>
</thead>
<tbody>
{body}
</tbody>
</table>
</div>
{_legend(legend)}
</section>"""


def _table_row(
    table: StabilityPlasticityTable, row: Row, extra: Sequence[tuple[str, float | None]], *, first: bool
) -> str:
    record = f"#{_record_id(row.results[0])}"
    front = f'<span class="pareto" title="Pareto-optimal">{DAGGER}</span>' if row.pareto else ""
    label = escape(row_label(table, row).removesuffix(DAGGER))
    key = key_svg((row.method, row.section))
    cells = [f'<th scope="row" class="name" data-sort="{label}">{key}<a href="{record}">{label}</a>{front}</th>']
    for name, value in extra:
        shown = f"{value:,.0f}" if name == "seconds" and value is not None else compact(value)
        cells.append(f"<td{_sort(value)}>{escape(shown)}</td>")
    for group in table.groups:
        for place, column in enumerate(group.columns):
            cells.append(_table_cell(column, row.cells.get(column.key), record, first=place == 0))
        if has_change(table, group):
            column = next(column for column in group.columns if column.key == group.summary)
            cell = row.cells.get(column.key)
            entry = summary_change_entry(group, column, cell)
            value = None if cell is None else summary_change(group, column, cell)
            cells.append(f'<td class="summary"{_sort(value)}>{_linked(entry, record)}</td>')
    return f"<tr{_classes(section=first)}>{''.join(cells)}</tr>"


def _table_cell(column: Column, cell: Cell | None, record: str, *, first: bool) -> str:
    """A number and its change against the base, of which one is shown, linked to the number's record."""
    if cell is None:
        return f"<td{_classes(first=first, average=column.average)}>{MISSING}</td>"
    link = record
    for index, measurement in cell.measurements.items():
        link = f"#{_measurement_id(index, measurement)}"
        break
    change = ""
    if cell.change is not None:
        clear = cell.change_error is not None and abs(cell.change) > cell.change_error
        better = (cell.change > 0) == column.higher_is_better
        said = (" better" if better else " worse") if clear else ""
        change = f'<span class="change{said}">{_linked(change_entry(column, cell), link)}</span>'
    names = _classes(first=first, average=column.average, best=cell.best)
    changes = "" if cell.change is None else f' data-change="{cell.change!r}"'
    value = f'<span class="value">{_linked(value_entry(column, cell), link)}</span>'
    return f"<td{names}{_sort(cell.value)}{changes}>{value}{change}</td>"


def _classes(**named: bool) -> str:
    names = " ".join(name for name, holds in named.items() if holds)
    return f' class="{names}"' if names else ""


def _sort(value: float | None) -> str:
    return "" if value is None else f' data-sort="{value!r}"'


def _linked(entry: Entry, link: str) -> str:
    """A number with its error below it, linked."""
    if entry.text == MISSING:
        return MISSING
    error = f'<span class="error">\N{PLUS-MINUS SIGN}{entry.error}</span>' if entry.error else ""
    return f'<a href="{link}">{entry.text}{error}</a>'


def _legend(legend: Iterable[tuple[str, str]]) -> str:
    items = "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in legend)
    return f'<dl class="legend">\n{items}\n</dl>'


def _curves_section(table: StabilityPlasticityTable, panels: Sequence[Panel]) -> str:
    if not panels:
        return ""
    rows = drawn_rows(table, panels)
    panels = [panel.in_order(list(rows)) for panel in panels]
    key = " ".join(
        f"<li>{key_svg(drawn)}{escape(label)}</li>"
        for label, drawn in rows.items()
        if any(label in panel.series for panel in panels)
    )
    figures = "\n".join(
        f"<figure>\n<h3>{escape(panel.title)}</h3>\n{panel_svg(panel, rows)}\n</figure>"
        for panel in panels
        if panel.lines
    )
    banded = any(len(runs) > 1 for panel in panels for runs in panel.series.values())
    band = " Bands: one standard deviation over the seeds." if banded else ""
    return f"""<section id="curves">
<h2>Curves</h2>
<div class="panels">
{figures}
</div>
<ul class="keys">{key}</ul>
<p class="caption">Dashed: baselines; solid: the methods of SCALE.{band}</p>
</section>"""


def _comparison_section(comparison: Comparison) -> str:
    sheet = comparison_sheet(comparison)
    return f"""<section id="comparison">
<h2>{escape(sheet.title)}</h2>
<div class="scroll" tabindex="0" role="region" aria-label="comparison">
{_sheet_table(sheet)}
</div>
{_legend(sheet.legend)}
</section>"""


def _sheet_table(sheet: Sheet) -> str:
    heads = "".join(f'<th scope="col">{escape(heading.flat_label)}</th>' for heading in sheet.headings)
    rows = []
    for place, section in enumerate(sheet.sections):
        for number, entries in enumerate(section):
            cells = "".join(
                f"<td>{escape(entry.text)}"
                + (f'<span class="error">\N{PLUS-MINUS SIGN}{entry.error}</span>' if entry.error else "")
                + "</td>"
                for entry in entries[1:]
            )
            name = f'<th scope="row" class="name">{escape(entries[0].text)}</th>'
            rows.append(f"<tr{_classes(section=place > 0 and number == 0)}>{name}{cells}</tr>")
    body = "\n".join(rows)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _records_section(table: StabilityPlasticityTable) -> str:
    records = "\n".join(_record(index, table.results[index]) for row in table.rows for index in row.results)
    return f'<section id="records">\n<h2>Records</h2>\n{records}\n</section>'


def _record(index: int, result: Result) -> str:
    """A result: what was measured, by which command and code, each measurement in a line, and all of it as JSON."""
    checkpoint = result.checkpoint
    facts = {
        "checkpoint": checkpoint.source,
        "fingerprint": checkpoint.fingerprint,
        "kind": checkpoint.kind,
        "method": checkpoint.method,
        "parameters": ", ".join(
            f"{count:,} {name}" for name, count in checkpoint.parameters.items() if count is not None
        ),
        "options": ", ".join(f"{name} {value}" for name, value in (checkpoint.options or {}).items()),
        "reported by": result.record.get("reported"),
        "command": result.command,
        "commit": _commit(result.record.get("git")),
        "made": result.record.get("created"),
    }
    facts_list = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items() if value)
    rows = "\n".join(_measurement(index, result, measurement) for measurement in result.measurements)
    heads = "".join(f'<th scope="col">{name}</th>' for name in MEASUREMENT_HEADINGS)
    return f"""<details id="{_record_id(index)}" class="record">
<summary>{escape(checkpoint.label)}</summary>
<dl class="facts">{facts_list}</dl>
<div class="scroll" tabindex="0" role="region" aria-label="measurements of {escape(checkpoint.label)}">
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<details><summary>as JSON</summary><pre>{escape(to_json(record_of(result)), quote=False)}</pre></details>
</details>"""


MEASUREMENT_HEADINGS = (
    *("task", "metric", "value", "standard error", "n", "shots", "version", "filter", "limit", "seed"),
    *("precision", "batch", "seconds", "routed", "commit", "made"),
)


def _measurement(index: int, result: Result, measurement: Measurement) -> str:
    values: tuple[Any, ...] = (
        measurement.metric,
        _plain(measurement.value),
        _plain(measurement.stderr),
        f"{measurement.samples:,}",
        measurement.num_fewshot,
        measurement.task_version,
        None if measurement.filter == "none" else measurement.filter,
        measurement.limit,
        measurement.seed,
        measurement.dtype,
        measurement.batch_size,
        _plain(measurement.seconds, digits=4),
        _plain(measurement.routed, digits=4),
        _commit(call_of(result, measurement).get("git"), digits=8),
        measurement.created,
    )
    cells = "".join(f"<td>{MISSING if value in (None, '') else escape(str(value))}</td>" for value in values)
    name = f'<th scope="row" class="name">{escape(measurement.task)}</th>'
    return f'<tr id="{_measurement_id(index, measurement)}">{name}{cells}</tr>'


def _plain(value: float | None, *, digits: int = 6) -> str | None:
    """A number without its noise; None where there is none, or none that is finite."""
    return None if value is None or value != value else f"{value:.{digits}g}"


def _commit(git: Any, *, digits: int = 40) -> str | None:
    """A commit, and whether the tree had changes that are in none."""
    commit = (git or {}).get("commit")
    return None if commit is None else f"{commit[:digits]}{'' if git.get('clean') else ' with changes'}"


def _record_id(index: int) -> str:
    return f"r{index}"


def _measurement_id(index: int, measurement: Measurement) -> str:
    words = "-".join(str(part) for part in measurement.key if part is not None)
    return f"r{index}-{''.join(character if character.isalnum() else '-' for character in words)}"


def _joined(sections: Iterable[str]) -> str:
    return "\n".join(section for section in sections if section)
