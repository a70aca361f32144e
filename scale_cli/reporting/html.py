"""A report as one self-contained HTML file: no network, no other file, and readable without its script.

The script adds sorting, a switch between values and changes, and a switch between light and dark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from scale_cli.core.files import to_json
from scale_cli.reporting.captions import curves_caption, frontier_caption
from scale_cli.reporting.columns import Column
from scale_cli.reporting.compare import Comparison, comparison_sheet
from scale_cli.reporting.curves import Panel, styles_of
from scale_cli.reporting.documents import BEST
from scale_cli.reporting.drawing import PAGE, PHONE
from scale_cli.reporting.figures import curve_figure, frontier_figure, trade_off
from scale_cli.reporting.inline import inline_svg
from scale_cli.reporting.requirements import Verdict, requirements_sheet
from scale_cli.reporting.sheet import cell_entry, row_label, shown_columns
from scale_cli.reporting.style import BASE, OTHER, STYLES
from scale_cli.reporting.table import FACTS, Cell, Row, Table
from scale_cli.reporting.words import PLUS_MINUS, table_legend
from scale_cli.results.result import Result

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Content security policy: the page loads nothing from elsewhere."""
FEW = 3
"""The most models and commands that the head of a page lists."""
MAIN_TERMS = ("stability", "plasticity", "forgetting", "gain", "change")
MEASUREMENT = {
    "task": "task",
    "metric": "metric",
    "value": "value",
    "standard error": "stderr",
    "n": "samples",
    "shots": "num_fewshot",
    "version": "task_version",
    "filter": "filter",
    "limit": "limit",
    "seed": "draw",
    "precision": "dtype",
    "batch": "batch_size",
    "seconds": "seconds",
    "routed": "routed",
    "commit": "commit",
    "created": "created",
}
"""Headings of a record's measurements, with their columns of the tidy table."""


def html_page(
    table: Table,
    *,
    panels: Sequence[Panel] = (),
    comparison: Comparison | None = None,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """The page: trade-off, table with legend, and records; curves, a comparison and verdicts if given.

    The trade-off is left out for fewer than two rows with a summary of both roles.
    """
    environment = Environment(
        loader=PackageLoader("scale_cli.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    legend = table_legend(table.without_drift, changes=False, best=BEST["html"])
    frontier = curves = None
    if trade_off(table):
        draw = functools.partial(frontier_figure, table, link=lambda row: f"#{_record_id(row.results[0])}")
        frontier = _drawings(draw, "f", "plasticity against stability"), frontier_caption(table)
    if panels:
        draw = functools.partial(curve_figure, panels, styles_of(table, panels))
        curves = _drawings(draw, "c", ", ".join(panel.title for panel in panels)), curves_caption(panels)
    return environment.get_template("report.html").render(
        table=table,
        policy=POLICY,
        styles={f"m-{method}": style for method, style in STYLES.items()} | {"m-base": BASE, "m-other": OTHER},
        style_name=_style_name,
        plus_minus=PLUS_MINUS,
        sources=list(dict.fromkeys(table.results[row.results[0]].record.get("reported") for row in table.rows)),
        frontier=frontier,
        main_terms=[entry for entry in legend if frontier and entry[0] in MAIN_TERMS],
        other_terms={
            "table": [entry for entry in legend if not frontier or entry[0] not in MAIN_TERMS],
            "drift": table_legend(table.drift, changes=False, best=BEST["html"]) if table.drift else [],
        },
        tables={"table": table.without_drift} | ({"drift": table.drift} if table.drift else {}),
        columns=lambda table: [column for _, column in shown_columns(table)],
        head=_head(table),
        facts=FACTS,
        entry=functools.partial(cell_entry, table),
        link=functools.partial(_link, table),
        tone=_tone,
        label=functools.partial(row_label, table),
        has_changes=bool(table.cells["change"].notna().any()),
        curves=curves,
        sheets=({"comparison": comparison_sheet(comparison)} if comparison is not None else {})
        | ({"requirements": requirements_sheet(verdicts)} if verdicts else {}),
        record_id=_record_id,
        record_facts=_record_facts,
        measurements={index: rows.to_dict("records") for index, rows in table.tidy.groupby("result")},
        measurement_headings=MEASUREMENT,
        measurement_id=_measurement_id,
        shown=_shown,
        as_json=lambda result: to_json(result.as_record()),
    )


def _drawings(draw: Callable[..., None], name: str, label: str) -> dict[str, str]:
    """A figure for a wide and for a narrow screen, by class."""
    return {
        kind: inline_svg(functools.partial(draw, layout=layout), name=f"{name}{kind}", label=label)
        for kind, layout in (("wide", PAGE), ("narrow", PHONE))
    }


def _head(table: Table) -> dict[str, list[str]]:
    """The facts on the whole page: the model, the dates of the measurements, and the commands, if there are few."""
    if all(row.reported for row in table.rows):
        return {}
    rows = [table.base] if table.base is not None else list(table.rows)
    sources = [table.results[index].checkpoint.source for row in rows for index in row.results]
    dates = sorted({day for day in table.tidy["created"].dropna().astype(str).str.slice(0, 10) if day})
    commands = list(dict.fromkeys(table.tidy["command"].dropna()))
    facts = {
        "model": list(dict.fromkeys(_short(source) for source in sources)),
        "measured": list(dict.fromkeys([dates[0], dates[-1]])) if dates else [],
        "command": commands if len(commands) <= FEW else [f"{len(commands)} commands, each in its record"],
    }
    return {name: values for name, values in facts.items() if values and len(values) <= FEW}


def _short(source: str) -> str:
    """A checkpoint as named in the head of a page: a hub id, or the name of a folder."""
    return source if source.count("/") == 1 and not source.startswith((".", "/", "~")) else Path(source).name


def _style_name(row: Row) -> str:
    return f"m-{'base' if row.section == 'base' else row.method if row.method in STYLES else 'other'}"


def _link(table: Table, row: Row, column: Column) -> str:
    """The address of a number: its measurement, or its record if the number is an average or change."""
    measured = table.tidy[(table.tidy["result"] == row.results[0]) & (table.tidy["column"] == column.key)]
    return f"#{_measurement_id(measured.iloc[-1]) if len(measured) else _record_id(row.results[0])}"


def _tone(cell: Cell, column: Column) -> str:
    """The class of a change, "better" or "worse"; empty if the change does not exceed its error."""
    if cell.change is None or cell.change_error is None or abs(cell.change) <= cell.change_error:
        return ""
    return "better" if (cell.change > 0) == column.higher_is_better else "worse"


def _record_facts(result: Result) -> dict[str, str]:
    """The facts on a checkpoint and its latest call that a record shows, by name; unknown ones are left out."""
    checkpoint, git = result.checkpoint, result.record.get("git") or {}
    counts = (f"{count:,} {name}" for name, count in checkpoint.parameters.items() if count is not None)
    recipe = (f"{name} {value}" for name, value in (checkpoint.recipe or {}).items() if value not in (None, [], ()))
    facts = {
        "checkpoint": checkpoint.source,
        "fingerprint": checkpoint.fingerprint,
        "kind": checkpoint.kind,
        "method": checkpoint.method,
        "parameters": ", ".join(counts),
        "recipe": ", ".join(recipe),
        "base": checkpoint.base,
        "reported by": result.record.get("reported"),
        "command": result.command,
        "commit": _commit(git.get("commit"), git.get("clean")),
        "created": result.record.get("created"),
    }
    return {name: str(value) for name, value in facts.items() if value}


def _shown(measurement: dict[str, Any], name: str) -> str:
    """A field of a measurement as text: floats with six significant digits, "-" for unknown or NaN."""
    value = measurement[name]
    if name == "commit":
        value = _commit(value and value[:8], measurement["clean"])
    if isinstance(value, float):
        value = f"{value:.6g}" if value == value else None
    return "-" if value in (None, "", "none") else f"{value:,}" if isinstance(value, int) else str(value)


def _commit(commit: str | None, clean: bool | None) -> str | None:
    """A commit, with a remark if the work tree had uncommitted changes."""
    return commit and f"{commit}{'' if clean else ' with changes'}"


def _record_id(index: int) -> str:
    return f"r{index}"


def _measurement_id(measurement: pd.Series | dict[str, Any]) -> str:
    """The element id of a row of the tidy table."""
    name = "-".join(filter(None, (measurement["column"], measurement["dtype"])))
    return f"r{measurement['result']}-{''.join(character if character.isalnum() else '-' for character in name)}"
