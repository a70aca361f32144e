"""A table in every format of `scale report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from scale_cli.reporting.compare import Comparison
    from scale_cli.reporting.curves import Panel
    from scale_cli.reporting.requirements import Verdict
    from scale_cli.reporting.sheet import Sheet
    from scale_cli.reporting.table import Table

Format = Literal["text", "markdown", "latex", "csv", "json", "html"]


def rendered(
    table: Table,
    format: Format,
    *,
    panels: Sequence[Panel] = (),
    comparison: Comparison | None = None,
    verdicts: Sequence[Verdict] = (),
    changes: bool = False,
    width: int = 160,
) -> str:
    """The text of a report.

    panels: training curves, in html and json.
    comparison, verdicts: of two checkpoints and on requirements, below the table; csv holds one of the three.
    changes: show changes against the base instead of values; csv, json and html always hold both.
    width: characters per line of the format text.
    """
    from scale_cli.reporting import documents

    if format == "html":
        from scale_cli.reporting.html import html_page

        return html_page(table, panels=panels, comparison=comparison, verdicts=verdicts)
    if format == "json":
        return documents.json_text(table, panels=panels, comparison=comparison, verdicts=verdicts)
    if format == "csv":
        return documents.csv_text(table, comparison=comparison, verdicts=verdicts)
    sheets = report_sheets(table, format, comparison=comparison, verdicts=verdicts, changes=changes)
    if format == "text":
        return documents.text(sheets, width=width)
    return "\n".join(map(documents.markdown if format == "markdown" else documents.latex, sheets))


def report_sheets(
    table: Table,
    format: Literal["text", "markdown", "latex"],
    *,
    comparison: Comparison | None = None,
    verdicts: Sequence[Verdict] = (),
    changes: bool = False,
) -> list[Sheet]:
    """The sheets of a report, from top to bottom. Arguments: as those of `rendered`."""
    from scale_cli.reporting.compare import comparison_sheet
    from scale_cli.reporting.documents import BEST
    from scale_cli.reporting.requirements import requirements_sheet
    from scale_cli.reporting.sheet import table_sheets

    sheets = table_sheets(table, changes=changes, best=BEST[format])
    sheets += [] if comparison is None else [comparison_sheet(comparison)]
    return [*sheets, requirements_sheet(verdicts)] if verdicts else sheets
