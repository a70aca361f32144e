"""A table as text: exact cells, headings and legend, and the exact text of each format."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scale_cli.bench import bios_results, continual_results
from scale_cli.reporting import documents
from scale_cli.reporting.columns import compact, groups_of
from scale_cli.reporting.compare import compare, comparison_sheet
from scale_cli.reporting.documents import BEST, csv_text, json_text, latex, markdown
from scale_cli.reporting.sheet import Entry, Heading, Sheet, shown_terms, table_sheet
from scale_cli.reporting.table import Table, build_table
from scale_cli.reporting.terminal import SheetText
from scale_cli.results.groups import ColumnSpec, GroupSpec
from scale_cli.results.result import read_results
from tests.results.made import PLASTIC, STABLE, measured, result

BYTES = GroupSpec("bytes", "Texts", "stability", (ColumnSpec("perplexity:en", "bits_per_byte", "texts"),))


def small(**options: Any) -> Table:
    """A base and two methods, with two tasks of stability, one of plasticity and one without a role."""
    values = {"base": (0.6, 0.4, 0.1, None), "fft": (0.4, 0.2, 0.8, 1_339_904), "scale-route": (0.5, 0.4, 0.7, 98_304)}
    results = [
        result(
            label,
            None if label == "base" else label,
            [measured("a", a), measured("b", b), measured("k", k), measured("z", 1.5, 0.25, "bits_per_byte")],
            trained=trained,
            training={"tokens": 1e9, "seconds": 12.4} if trained else None,
        )
        for label, (a, b, k, trained) in values.items()
    ]
    return build_table(results, [STABLE, PLASTIC], **options)


def printed(sheet: Sheet, width: int) -> str:
    return documents.text([sheet], width=width)


def golden(name: str) -> str:
    """The expected text of a file in golden/, checked by a person."""
    return (Path(__file__).parent / "golden" / name).read_text(encoding="utf-8")


def test_text_has_groups_side_by_side() -> None:
    assert printed(table_sheet(small(), best=BEST["text"]), 160) == golden("small-160.txt")


@pytest.mark.parametrize("width", [200, 80, 60, 30])
def test_every_number_is_whole_at_any_width(width: int) -> None:
    text = printed(table_sheet(small()), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for number in ("60.00 ± 1.00", "45.00 ± 0.71*", "70.00 ± 1.41", "1.50 ± 0.25", "1.34 M", "12"):
        assert number in text


def test_a_terminal_shows_styles() -> None:
    console = Console(width=160, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(SheetText(table_sheet(small(), best=BEST["text"])))
    assert "\x1b[1m80.00\x1b[0m" in capture.get()


def test_markdown_and_latex() -> None:
    assert markdown(table_sheet(small(), best=BEST["markdown"])) == golden("small.md")
    assert latex(table_sheet(small(), best=BEST["latex"])) == golden("small.tex")


HOSTILE = Sheet(
    title="a_b*c|d & 100% <b>",
    headings=(
        Heading("", "x", "x", numeric=False),
        Heading("g#1", "y^2", "g y^2\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW}"),
    ),
    sections=(((Entry("~{\\}$"), Entry("\N{MINUS SIGN}1.0", "0.5", best=True)),),),
    legend=(("t_1", "`m`[1]"),),
)


def test_markdown_escapes() -> None:
    assert markdown(HOSTILE) == (
        "**a\\_b\\*c\\|d & 100% \\<b\\>**\n\n"
        "| x | g y^2\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW} |\n| --- | ---: |\n"
        "| \\~\\{\\\\\\}$ | **\N{MINUS SIGN}1.0** ± 0.5 |\n\n- *t\\_1*: \\`m\\`\\[1\\]\n"
    )


def test_latex_escapes() -> None:
    lines = latex(HOSTILE).splitlines()
    assert lines[3] == r"\caption{a\_b*c\textbar{}d \& 100\% \textless{}b\textgreater{}}"
    assert lines[8:11] == [r" & g\#1 \\", r"\cmidrule(lr){2-2}", r"x & y\textasciicircum{}2 \\"]
    assert lines[12] == r"\textasciitilde{}\{\textbackslash{}\}\$ & \textbf{$-$1.0}\,{\scriptsize$\pm$0.5} \\"


def test_latex_without_groups_has_one_line_of_headings() -> None:
    sheet = Sheet("t", (Heading("", "x", "x", numeric=False), Heading("", "y", "y")), (((Entry("a"), Entry("1")),),))
    lines = latex(sheet).splitlines()
    assert lines[6:12] == [r"\begin{tabular}{lr}", r"\toprule", r"x & y \\", r"\midrule", r"a & 1 \\", r"\bottomrule"]


def test_hangul_takes_two_columns() -> None:
    headings = (Heading("", "이름", "이름", numeric=False), Heading("", "k", "k"))
    sheet = Sheet("t", headings, (((Entry("기본"), Entry("1")),),))
    assert printed(sheet, 40).splitlines()[2:5] == ["이름  k", "───────", "기본  1"]


def test_counts() -> None:
    counts = (0, 999, 1000, 98_304, 999_600, 384_128, 1_339_904, 1.24e9, 6e13)
    shown = ["0", "999", "1.00 K", "98.3 K", "1.00 M", "384 K", "1.34 M", "1.24 B", "60.0 T"]
    assert [compact(value) for value in counts] == shown


def test_numbers() -> None:
    column = small().columns[0]
    assert column.show(0.36604) == "36.60"
    assert column.show(-0.0392, sign=True) == "\N{MINUS SIGN}3.92"
    assert column.show(0.0392, sign=True) == "+3.92"
    assert column.show(-0.00001, sign=True) == "0.00"
    assert replace(column, percent=False, form=".3g").show(1e-4) == "0.0001"
    assert replace(column, percent=False, form=".2f", unit=1e9).show(2.5e9) == "2.50"
    assert [replace(column, form="equal").show(value) for value in (1.0, 0.0)] == ["equal", "DIFFERS"]


def test_forgetting_is_positive_where_something_is_lost_also_where_lower_is_better() -> None:
    results = [
        result(label, method, [measured("perplexity:en", value, 0.01, "bits_per_byte"), measured("k", 0.5)])
        for label, method, value in (("base", None, 0.9), ("fft", "fft", 1.1))
    ]
    sheet = table_sheet(build_table(results, [BYTES, PLASTIC]))
    (fft,) = sheet.sections[1]
    assert [heading.flat_label for heading in sheet.headings][:3] == [
        "checkpoint",
        "texts\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW}",
        "Texts forgetting",
    ]
    assert fft[2] == Entry("0.200", "0.014")
    legend = dict(sheet.legend)
    assert legend["forgetting"] == (
        "after minus base of the stability column, in bits per byte; positive means lost. The base is base."
    )
    changes = table_sheet(build_table(results, [BYTES, PLASTIC]), changes=True)
    assert changes.sections[0][0][1] == Entry("+0.200", "0.014")


def test_what_is_reported_is_told() -> None:
    ours = result("base", None, [measured("k", 0.5)])
    theirs = result("fft", "fft", [measured("k", 0.5)], reported="a paper")
    sheet = table_sheet(build_table([ours, theirs], [PLASTIC]))
    assert [row[0].text for rows in sheet.sections for row in rows] == ["base", "fft (reported)"]
    assert ("note", "fft: reported by a paper, not measured here.") in sheet.legend
    sheet = table_sheet(build_table([theirs], [PLASTIC]))
    assert sheet.sections[0][0][0].text == "fft"
    assert ("note", "All values: reported by a paper, not measured here.") in sheet.legend


def test_a_table_without_roles_says_how_to_get_them() -> None:
    legend = dict(table_sheet(build_table([result("base", None, [measured("z", 0.5)])], [])).legend)
    assert legend["stability, plasticity"].endswith(
        "(call texts old and new, or give --suite, or --stability and --plasticity)."
    )


def test_seeds_in_the_label_and_the_legend() -> None:
    runs = [result(f"seed-{seed}-fft", "fft", [measured("k", 0.5 + seed / 10)], seed=seed) for seed in (0, 1)]
    sheet = table_sheet(build_table([result("base", None, [measured("k", 0.1)]), *runs], [PLASTIC], seeds=True))
    assert sheet.sections[1][0][:2] == (Entry("fft (2 seeds)"), Entry("55.00", "7.07"))
    assert dict(sheet.legend)["\N{PLUS-MINUS SIGN}"].startswith(
        "one standard deviation over the seeds if a row has several; else one standard error; "
    )


def test_csv_has_a_line_a_number() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(small()))))
    assert len(lines) == 3 * 5
    assert list(lines[0]) == list(documents.FIELDS)
    by_cell = {(line["checkpoint"], line["task"]): line for line in lines}
    line = by_cell["fft", "a"]
    shown = [float(line[name]) for name in ("value", "stderr", "change", "change_stderr")]
    assert shown == pytest.approx([0.4, 0.01, -0.2, 0.01 * 2**0.5])
    facts = ("section", "role", "samples", "trained_parameters", "training_seconds", "batch_size", "source", "created")
    assert [line[name] for name in facts] == [
        *("baselines", "stability", "100", "1339904", "12.4", "8", "runs/fft", "2026-01-01T00:00:00+00:00")
    ]
    assert [line[name] for name in ("pareto", "higher_is_better", "paired", "best")] == ["true", "true"] + ["false"] * 2
    average = by_cell["fft", "average:en"]
    assert float(average["value"]) == pytest.approx(0.3)
    assert average["samples"] == ""


def test_csv_over_seeds_has_deviations() -> None:
    runs = [result(f"seed-{seed}-fft", "fft", [measured("k", 0.5 + seed / 10)], seed=seed) for seed in (0, 1)]
    (line,) = csv.DictReader(io.StringIO(csv_text(build_table(runs, [PLASTIC], seeds=True))))
    assert (line["seeds"], line["stderr"], line["source"]) == ("0 1", "", "runs/seed-0-fft runs/seed-1-fft")
    assert float(line["deviation"]) == pytest.approx(0.0707, abs=1e-4)


def test_json_holds_the_comparison() -> None:
    """Rows and records are in the paper's table, `test_paper.py`."""
    document = json.loads(json_text(small(), comparison=compare(small(), "fft", "scale-route")))
    assert document["base"] == "base"
    assert document["comparison"][0]["difference"] == pytest.approx(0.1)


def test_a_comparison_of_two_without_items() -> None:
    sheet = comparison_sheet(compare(small(), "fft", "scale-route"))
    rows = [[entry.text for entry in row] for rows in sheet.sections for row in rows]
    assert sheet.title == "scale-route against fft"
    assert rows[0] == ["A", "100", "40.00", "50.00", "+10.00", "<0.0001", "z"]
    assert rows[2] == ["English average", "", "30.00", "45.00", "+15.00", "<0.0001", "z"]
    assert rows[4] == ["z bits_per_byte", "100", "1.50", "1.50", "0.00", "1.0000", "z"]
    assert sheet.sections[0][0][4].error == "1.41"


RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"


def bench_sheet(name: str) -> Sheet:
    """The table of a committed record of `scale bench`."""
    results = read_results([RECORDS / f"{name}.json"])
    if name.startswith("bios"):
        return bios_results.sheet(results, title=name, best="bold")
    return continual_results.sheet(results, groups_of(results), title=name, best="bold")


@pytest.mark.parametrize(
    ("name", "shown", "absent"),
    [
        ("korean-demo", {"bits/byte", "forgetting", "gain", "routed", "base half", "cosine", "norm"}, {"bold"}),
        ("korean-demo-sweep", {"bits/byte", "routed", "perplexity"}, {"base half", "cosine", "norm", "bold"}),
        ("ablations-modules-demo", {"cosine", "norm", "perplexity", "peak GB", "bold"}, {"routed", "base half"}),
        ("bios-demo", {"Task 0", "forgetting", "Task 1", "exact", "routed", "seconds"}, {"bold", "stability"}),
    ],
)
def test_a_legend_of_a_benchmark_holds_the_terms_of_its_table(name: str, shown: set[str], absent: set[str]) -> None:
    sheet = bench_sheet(name)
    terms = {term for term, _ in sheet.legend}
    assert shown <= terms
    assert not absent & terms
    headings = [text for heading in sheet.headings for text in (heading.group, heading.label)]
    marks = {"\N{PLUS-MINUS SIGN}", "\N{DAGGER}", "bold"}
    assert all(any(term in heading for heading in headings) for term in terms - marks)


def test_a_legend_loses_the_terms_of_columns_and_marks_that_are_left_out() -> None:
    """The invariant above can fail: the same terms stand in the legend while their columns are there."""
    terms = [("cosine", "x"), ("norm", "x"), ("\N{PLUS-MINUS SIGN}", "x"), ("\N{DAGGER}", "x"), ("bold", "x")]
    headings = (Heading("", "row", "row", numeric=False), Heading("", "cosine en", "cosine en"))
    whole = Sheet("t", headings, (((Entry("a\N{DAGGER}"), Entry("1", "0.1", best=True)),),))
    assert [term for term, _ in shown_terms(whole, terms, best="bold")] == ["cosine", *(term for term, _ in terms[2:])]
    named = replace(whole, headings=(headings[0],), sections=(((Entry("norm"),),),))
    assert shown_terms(named, terms, best="bold") == ()


def test_a_table_without_errors_or_marks_defines_neither() -> None:
    numbers = [result(label, method, [measured("k", 0.5, None)]) for label, method in (("base", None), ("fft", "fft"))]
    table = build_table(numbers, [PLASTIC])
    for changes in (False, True):
        terms = {term for term, _ in table_sheet(table, changes=changes).legend}
        assert not {"\N{PLUS-MINUS SIGN}", "\N{DAGGER}", "bold", "stability", "average"} & terms


def test_one_definition_of_forgetting_covers_both_directions() -> None:
    """A text, where lower is better, beside a task, where higher is better."""
    numbers = {"base": (0.9, 0.5), "fft": (1.1, 0.4)}
    results = [
        result(
            label,
            None if label == "base" else label,
            [measured("perplexity:en", bits, 0.01, "bits_per_byte"), measured("k", share)],
        )
        for label, (bits, share) in numbers.items()
    ]
    table = build_table(results, [BYTES, replace(PLASTIC, role="stability")])
    assert dict(table_sheet(table).legend)["forgetting"] == (
        "base minus after of the stability columns, in bits per byte and percentage points (after minus base if lower "
        "is better); positive means lost. The base is base."
    )
