"""A table in every format of `scale report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from scale_cli.reporting.compare import Comparison
    from scale_cli.reporting.curves import Panel
    from scale_cli.reporting.table import Table

Format = Literal["text", "markdown", "latex", "csv", "json", "html"]


def rendered(
    table: Table,
    format: Format,
    *,
    panels: Sequence[Panel] = (),
    comparison: Comparison | None = None,
    changes: bool = False,
    width: int = 160,
) -> str:
    """The text of a report.

    panels: training curves, in html and json. comparison: of two checkpoints, below the table; csv holds it alone.
    changes: show changes against the base instead of values; csv, json and html always hold both.
    width: characters per line of the format text.
    """
    from scale_cli.reporting import documents
    from scale_cli.reporting.compare import comparison_sheet
    from scale_cli.reporting.sheet import table_sheet

    if format == "html":
        from scale_cli.reporting.html import html_page

        return html_page(table, panels=panels, comparison=comparison)
    if format == "json":
        return documents.json_text(table, panels=panels, comparison=comparison)
    if format == "csv":
        return documents.csv_text(table) if comparison is None else documents.comparison_csv(comparison)
    sheets = [table_sheet(table, changes=changes, best=documents.BEST[format])]
    sheets += [] if comparison is None else [comparison_sheet(comparison)]
    if format == "text":
        return documents.text(sheets, width=width)
    return "\n".join(map(documents.markdown if format == "markdown" else documents.latex, sheets))
