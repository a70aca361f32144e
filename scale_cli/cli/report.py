"""`scale report`: results as the stability-plasticity table, as text, Markdown, LaTeX, CSV, JSON or HTML."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scale_cli.cli.output import PIPED_WIDTH, say, show_sheets
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text
from scale_cli.reporting.render import Format, rendered, report_sheets

if TYPE_CHECKING:
    from scale_cli.reporting.ablation import Ablation
    from scale_cli.reporting.compare import Comparison
    from scale_cli.reporting.curves import Panel
    from scale_cli.reporting.requirements import Verdict
    from scale_cli.reporting.table import Table

NOT_MET = 3
"""The exit code if a requirement is not met or not decided."""
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
            help="Results of scale eval, as folders or files; run folders of scale train and scale run; records and "
            "run folders of scale bench.",
            show_default=False,
        ),
    ],
    format: Annotated[
        Format | None, typer.Option(help="Format of the report.  [from the ending of --out, else text]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the report; an existing file is replaced.  [stdout]")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns: a shipped suite, a YAML file, or a folder with one; may be repeated.  [the largest measured "
            "shipped suite per role and language]",
            metavar="NAME|FILE",
        ),
    ] = None,
    stability: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that measures stability, such as perplexity:en=bits_per_byte.", metavar="TASK[=METRIC]"
        ),
    ] = None,
    plasticity: Annotated[
        list[str] | None, typer.Option(help="Column that measures plasticity.", metavar="TASK[=METRIC]")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Label of the base.  [the only plain checkpoint without a method]", metavar="LABEL"),
    ] = None,
    seeds: Annotated[
        bool,
        typer.Option(
            "--seeds/--no-seeds",
            help="One row, mean and deviation, for runs that differ in the seed only: recipe, base and data agree.",
        ),
    ] = True,
    changes: Annotated[
        bool, typer.Option("--changes", help="Show changes against the base; csv, json and html always have both.")
    ] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Labels of two checkpoints: test their difference, paired by item if possible.", metavar="A B"
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Requirement for every checkpoint but the base, such as 'english.forgetting<=1.0', with <= or >=; may "
            "be repeated. NAME is a suite or task of the table, QUANTITY is forgetting, gain or a metric, NUMBER is in "
            "the table's unit: points for shares. Met and not met are decided by 95% intervals. Exit code 3 unless all "
            "are met.",
            metavar="NAME.QUANTITY<=NUMBER",
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Folder for figures, as PNG and SVG with captions: trade-off and curves."),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(help="Also draw the effect of this training option, such as preserve_layers.", metavar="OPTION"),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the table.")] = "Stability and plasticity",
) -> None:
    """Compare results of checkpoints: stability and plasticity, with standard errors."""
    chosen = _format(format, out)
    if changes and chosen not in ("text", "markdown", "latex"):
        raise RequestError(f"--changes: {chosen} always has both numbers and changes; leave it out")
    if compare is not None and require and chosen == "csv":
        raise RequestError("--compare and --require: csv holds one of them; leave the other out, or choose json")
    if ablation is not None and figures is None:
        raise RequestError(f"--ablation {ablation}: an ablation is a figure; give its folder with --figures DIR")

    from scale_cli.reporting.columns import requested_groups
    from scale_cli.reporting.compare import compare as compare_two
    from scale_cli.reporting.curves import panels_of
    from scale_cli.reporting.requirements import count, judge
    from scale_cli.reporting.runs import read_material, run_panels
    from scale_cli.reporting.table import build_table

    material = read_material(results)
    read = material.results
    groups = requested_groups(read, suite or [], stability or [], plasticity or [])
    table = build_table(read, groups, title=title, base=base, seeds=seeds, notes=material.notes)
    panels = [*panels_of(read, table), *run_panels(table, material.runs)]
    comparison = None if compare is None else compare_two(table, *compare)
    verdicts = judge(table, require or [])
    effect = None
    if ablation is not None:
        from scale_cli.reporting.ablation import ablation as ablation_of

        effect = ablation_of(table, ablation)
    if seeds:
        _say_seeds(table)
    if figures is not None:
        _draw(figures, table, panels, effect)
    if out is None:
        _print(chosen, table, panels, comparison, verdicts, changes)
    else:
        text = rendered(
            table,
            chosen,
            panels=panels,
            comparison=comparison,
            verdicts=verdicts,
            changes=changes,
            width=PIPED_WIDTH,
        )
        try:
            write_text(out, text)
        except OSError as error:
            raise RequestError(
                f"--out {out} cannot be written: {error.strerror}; mend that or choose another file"
            ) from error
        say(f"{chosen} report of {len(table.rows)} checkpoints written to {out}")
    if verdicts:
        say(f"requirements: {count(verdicts)}")
    if any(verdict.outcome != "met" for verdict in verdicts):
        raise typer.Exit(NOT_MET)


def _format(given: Format | None, out: Path | None) -> Format:
    if given is not None:
        return given
    if out is None:
        return "text"
    if out.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--out {out}: give --format, or one of the endings {', '.join(SUFFIXES)}")
    return SUFFIXES[out.suffix.lower()]


def _say_seeds(table: Table) -> None:
    """Name the results whose seeds may be repetitions but are not combined, as their recipes are unknown."""
    infos = [table.results[index].checkpoint for row in table.rows if not row.reported for index in row.results]
    trained = [info for info in infos if info.method is not None and info.seed is not None]
    unknown = [info for info in trained if info.identity is None]
    unknown = [info for info in unknown if sum(info.stem == other.stem for other in trained) > 1]
    if unknown:
        labels = ", ".join(info.label for info in unknown)
        say(f"--seeds: the whole recipe of {labels} is unknown, so they are not combined; measure them again")


def _print(
    chosen: Format,
    table: Table,
    panels: list[Panel],
    comparison: Comparison | None,
    verdicts: list[Verdict],
    changes: bool,
) -> None:
    if chosen == "text":
        show_sheets(report_sheets(table, "text", comparison=comparison, verdicts=verdicts, changes=changes))
        return
    text = rendered(table, chosen, panels=panels, comparison=comparison, verdicts=verdicts, changes=changes)
    sys.stdout.write(text)


def _draw(folder: Path, table: Table, panels: list[Panel], effect: Ablation | None) -> None:
    """Draw the figures that the data allows into a folder."""
    from scale_cli.reporting.captions import draw_ablation, draw_curves, draw_frontier
    from scale_cli.reporting.figures import frontier_texts
    from scale_cli.reporting.style import is_romanised

    texts = [*frontier_texts(table), *(text for panel in panels for text in panel.texts)]
    if is_romanised([*texts, *(effect.texts if effect else [])]):
        say(
            "no installed font has Hangul, so the figures romanise Korean labels; install one, such as Debian's "
            "fonts-nanum, for Korean labels"
        )
    with _atomic_folder(folder) as work:
        frontier = draw_frontier(table, work)
        names = [*frontier, *draw_curves(table, panels, work)]
        if effect is not None:
            names += draw_ablation(effect, work, f"ablation-{effect.option}")
    if not frontier:
        say("no frontier figure: two checkpoints with stability and plasticity columns are needed; see --suite")
    say(f"figures in {folder}: {', '.join(names) or 'none'}")


@contextlib.contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files are moved to `folder`, over those of the same names, if the block succeeds."""
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
