"""`scale report`: results as the stability-plasticity table, in the formats that people and programs read."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scale_cli.cli.output import PIPED_WIDTH, say
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

    from scale_cli.reporting.ablation import Ablation
    from scale_cli.reporting.build import GroupSpec
    from scale_cli.reporting.compare import Comparison
    from scale_cli.reporting.curves import Panel
    from scale_cli.reporting.sources import Sources
    from scale_cli.reporting.table import StabilityPlasticityTable

Format = Literal["text", "markdown", "latex", "csv", "json", "html"]
SUFFIXES: dict[str, Format] = {
    ".txt": "text",
    ".md": "markdown",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
}


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Folders or files of scale eval, records of them, records and run folders of scale bench bios.",
            show_default=False,
        ),
    ],
    format: Annotated[Format | None, typer.Option(help="Of the report.  [by the name of --out, else text]")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write it to, over what is there.  [stdout]")] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns: a shipped suite, a YAML file, or a folder with one. Several: --suite twice.  [the largest "
            "shipped ones that were measured]",
            metavar="NAME|FILE",
        ),
    ] = None,
    stability: Annotated[
        list[str] | None,
        typer.Option(help="A column of what is kept, as perplexity:en=bits_per_byte.", metavar="TASK[=METRIC]"),
    ] = None,
    plasticity: Annotated[
        list[str] | None, typer.Option(help="A column of what is gained, the same.", metavar="TASK[=METRIC]")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Label of the base.  [the plain checkpoint that no method has trained]", metavar="LABEL"),
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="One row for runs that differ in the seed only: mean and deviation.")
    ] = False,
    changes: Annotated[
        bool, typer.Option("--changes", help="Each number as its change against the base (csv, json, html: both).")
    ] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Labels of two checkpoints: test their difference, on the same items if there are any.", metavar="A B"
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for PNG and SVG figures: the trade-off, and curves if there are any.")
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="Also a figure of what this option of the training does, as preserve_layers.", metavar="OPTION"
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the table.")] = "Stability and plasticity",
) -> None:
    """Show results of checkpoints side by side: what each has kept and what it has gained, with errors."""
    chosen = _format(format, out)
    if changes and chosen not in ("text", "markdown", "latex"):
        raise RequestError(f"--changes: {chosen} always has the changes beside the numbers; leave it out")
    if ablation is not None and figures is None:
        raise RequestError(f"--ablation {ablation}: it is a figure; say where to with --figures DIR")

    from scale_cli.reporting.build import build_table
    from scale_cli.reporting.compare import compare as compare_two
    from scale_cli.reporting.curves import drawn_rows
    from scale_cli.reporting.sources import read_sources

    sources = read_sources(results)
    groups = _groups(sources, suite or [], stability or [], plasticity or [])
    table = build_table(sources.results, groups, title=title, base=base, seeds=seeds)
    panels = [panel.in_order(list(drawn_rows(table, sources.panels))) for panel in sources.panels]
    comparison = None if compare is None else compare_two(table, *compare)
    effect = None
    if ablation is not None:
        from scale_cli.reporting.ablation import ablation as ablation_of

        effect = ablation_of(table, ablation)
    if seeds and not table.aggregated:
        say("--seeds: no two results differ in the seed only; each has a row of its own")
    if figures is not None:
        _draw(figures, table, panels, effect)
    if chosen == "text" and out is None:
        from rich.console import Console

        console = Console(
            width=None if sys.stdout.isatty() else PIPED_WIDTH, markup=False, emoji=False, highlight=False
        )
        _print_text(console, table, comparison, changes)
        return
    text = _text(chosen, table, panels, comparison, changes)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        write_text(out, text)
    except OSError as error:
        raise RequestError(
            f"--out {out} cannot be written: {error.strerror}; mend that or choose another file"
        ) from error
    say(f"{chosen} report of {len(table.rows)} checkpoints written to {out}")


def _format(given: Format | None, out: Path | None) -> Format:
    if given is not None:
        return given
    if out is None:
        return "text"
    if out.suffix.lower() not in SUFFIXES:
        raise RequestError(
            f"--out {out}: say which --format, or give the file one of the endings {', '.join(SUFFIXES)}"
        )
    return SUFFIXES[out.suffix.lower()]


def _groups(sources: Sources, suites: list[str], stability: list[str], plasticity: list[str]) -> list[GroupSpec]:
    """The columns that belong together: those named one by one, those that come with the results, and the suites'."""
    from scale_cli.evaluation.suites import find_suite, names
    from scale_cli.reporting.groups import measured_suites, suite_group, task_group

    named = [task_group("stability", stability, sources.results)] if stability else []
    named += [task_group("plasticity", plasticity, sources.results)] if plasticity else []
    if suites:
        found = [find_suite(word) for word in dict.fromkeys(suites)]
    else:
        shipped = measured_suites(sources.results, [find_suite(name) for name in names()])
        roles, there = {group.role for group in named}, {group.name for group in sources.groups}
        found = [one for one in shipped if one.role not in roles and one.name not in there]
    return [*named, *sources.groups, *map(suite_group, found)]


def _print_text(
    console: Console, table: StabilityPlasticityTable, comparison: Comparison | None, changes: bool
) -> None:
    from scale_cli.reporting.compare import comparison_sheet
    from scale_cli.reporting.sheet import table_sheet
    from scale_cli.reporting.text import BEST, SheetText

    console.print(SheetText(table_sheet(table, changes=changes, best=BEST)))
    if comparison is not None:
        console.print()
        console.print(SheetText(comparison_sheet(comparison)))


def _text(
    chosen: Format,
    table: StabilityPlasticityTable,
    panels: list[Panel],
    comparison: Comparison | None,
    changes: bool,
) -> str:
    """The report as the text of a file."""
    from scale_cli.reporting import data, html, latex, markdown
    from scale_cli.reporting.compare import comparison_sheet
    from scale_cli.reporting.sheet import table_sheet

    if chosen == "html":
        return html.html_page(table, panels=panels, comparison=comparison)
    if chosen == "json":
        return data.json_text(table, panels=panels, comparison=comparison)
    if chosen == "csv":
        return data.csv_text(table) if comparison is None else data.comparison_csv(comparison)
    if chosen == "text":
        from rich.console import Console

        console = Console(file=io.StringIO(), width=PIPED_WIDTH, markup=False, emoji=False, highlight=False)
        with console.capture() as capture:
            _print_text(console, table, comparison, changes)
        return capture.get()
    renderer, best = (markdown.markdown, markdown.BEST) if chosen == "markdown" else (latex.latex, latex.BEST)
    sheets = [table_sheet(table, changes=changes, best=best)]
    sheets += [] if comparison is None else [comparison_sheet(comparison)]
    return "\n".join(map(renderer, sheets))


def _draw(folder: Path, table: StabilityPlasticityTable, panels: list[Panel], effect: Ablation | None) -> None:
    """The figures there are data for, each whole or not there."""
    from scale_cli.reporting import figures
    from scale_cli.reporting.curves import drawn_rows
    from scale_cli.reporting.fonts import is_romanised
    from scale_cli.reporting.frontier import frontier

    points = frontier(table)
    texts = [*(points.texts if points else []), *(text for panel in panels for text in panel.texts)]
    texts += effect.texts if effect else []
    if is_romanised(texts):
        say(
            "no installed font has Hangul, so the figures show Korean labels in Latin letters; install one, such as "
            "Debian's fonts-nanum, to have them in Korean"
        )
    names: list[str] = []
    with _made_whole(folder) as work:
        if points is not None:
            figures.frontier_figure(points, *_files(work, "frontier", names))
        if panels:
            figures.curve_figure(panels, drawn_rows(table, panels), *_files(work, "curves", names))
        if effect is not None:
            figures.ablation_figure(effect, *_files(work, f"ablation-{effect.option}", names))
    if points is None:
        say("no frontier figure: it takes two checkpoints with a stability and a plasticity column; see --suite")
    say(f"figures in {folder}: {', '.join(names) or 'none'}")


def _files(folder: Path, name: str, names: list[str]) -> list[Path]:
    files = [folder / f"{name}{suffix}" for suffix in (".png", ".svg")]
    names += [file.name for file in files]
    return files


@contextlib.contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A folder to draw in, whose files go to `folder` when the block ends well, over those of the same names."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as work:
            yield Path(work)
            for file in Path(work).iterdir():
                file.replace(folder / file.name)
    except OSError as error:
        if error.errno is None:
            raise
        raise RequestError(
            f"--figures {folder} cannot be written: {error.strerror}; mend that or choose another folder"
        ) from error
