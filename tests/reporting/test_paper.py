"""Table 1 of arXiv 2511.03270 as records, its exact Markdown, and the same cells in every other format.

golden/paper-table1.md is the output of this command, checked against the paper's table by a person:

    scale report benchmarks/records/paper-table1.json --format markdown > tests/reporting/golden/paper-table1.md
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lm_eval.api.metrics import mean_stderr

from scale_cli.evaluation.suites import find_suite
from scale_cli.methods import paper_methods
from scale_cli.reporting.columns import suite_group
from scale_cli.reporting.table import Row, Table, build_table
from scale_cli.results.result import read_results
from tests.reporting.test_html import Elements

ROOT = Path(__file__).parents[2]
RECORD = Path("benchmarks/records/paper-table1.json")
GOLDEN = Path(__file__).parent / "golden" / "paper-table1.md"

PRINTED = """\
Llama-3.2-1B    36.60  63.66  36.76  37.73  60.93  47.14  49.86  53.00  50.60  51.15
FFT             32.68  57.32  26.01  38.82  59.12  42.79  52.14  65.30  54.20  57.21
LoRA            32.85  57.17  25.76  38.99  58.17  42.59  51.85  64.90  55.00  57.25
LLaMA Pro       34.22  60.61  34.42  36.20  57.30  44.55  51.42  63.20  52.80  55.81
Freeze          31.23  56.59  26.43  38.67  59.27  42.44  50.50  60.10  53.40  54.67
SCALE-Preserve  36.52  62.75  33.79  37.89  59.51  46.09  52.42  57.60  49.40  53.14
SCALE-Adapt     34.81  61.85  35.22  38.25  60.62  46.15  50.36  63.10  51.80  55.09
SCALE-Route     35.84  61.72  36.31  37.50  61.09  46.49  51.50  63.80  51.20  55.50
"""
"""Table 1 as the paper prints it: ARC, HellaSwag, MMLU, TruthfulQA, WinoGrande, English average, KoBEST BoolQ, COPA,
HellaSwag, Korean average."""
ITEMS = {
    "arc_challenge": 1172,
    "hellaswag": 10042,
    "mmlu": 14042,
    "truthfulqa_mc2": 817,
    "winogrande": 1267,
    "kobest_boolq": 1404,
    "kobest_copa": 1000,
    "kobest_hellaswag": 500,
}


@pytest.fixture
def table() -> Table:
    suites = [suite_group(find_suite(name)) for name in ("english", "korean")]
    return build_table(read_results([ROOT / RECORD]), suites)


def two_decimals(value: float) -> str:
    """In percent, with halves rounded up."""
    return str(Decimal(repr(100 * value)).quantize(Decimal("0.01"), ROUND_HALF_UP))


def values(table: Table, row: Row) -> dict[str, float]:
    """A row's numbers by heading."""
    cells = {column.flat_label: table.cell(row, column) for _, column in table.numbers}
    return {name: cell.value for name, cell in cells.items() if cell is not None}


def test_every_value_and_every_average_is_the_one_printed(table: Table) -> None:
    lines = [line.split("  ") for line in PRINTED.splitlines()]
    printed = {words[0]: [word.strip() for word in words[1:] if word] for words in lines}
    shown = {row.label: [two_decimals(round(v, 12)) for v in values(table, row).values()] for row in table.rows}
    assert shown == printed
    assert list(shown) == list(printed)
    assert [row.method for row in table.rows] == [None, *paper_methods()]


def test_the_record_s_own_averages_are_the_printed_ones(table: Table) -> None:
    for row in table.rows:
        (index,) = row.results
        averages = table.results[index].record["printed_averages"]
        for name, average in averages.items():
            assert two_decimals(round(values(table, row)[f"{name.title()} average"], 12)) == average


def test_standard_errors_are_those_of_n_items(table: Table) -> None:
    for result in table.results:
        assert [m.task for m in result.measurements] == list(ITEMS)
        for m in result.measurements:
            assert m.samples == ITEMS[m.task]
            assert m.stderr == pytest.approx((m.value * (1 - m.value) / (m.samples - 1)) ** 0.5)
            if m.task != "truthfulqa_mc2":  # an accuracy of so many items of n: the harness's own formula gives it
                right = round(m.value * m.samples)
                assert m.value == pytest.approx(right / m.samples, abs=5.1e-5)
                scores = [1.0] * right + [0.0] * (m.samples - right)
                assert m.stderr == pytest.approx(mean_stderr(scores), rel=2e-3)


def test_it_says_that_nothing_was_measured_here(table: Table) -> None:
    assert all(row.reported for row in table.rows)
    for result in table.results:
        assert result.record["reported"] == "arXiv 2511.03270, Table 1"
        assert (result.record["git"], result.record["environment"], result.checkpoint.fingerprint) == (None, None, "")


def test_the_korean_differences_between_route_adapt_and_llama_pro_are_noise(table: Table) -> None:
    column = table.summary("plasticity")
    assert column is not None
    assert not table.cells[table.cells["column"] == column.key]["best"].any()
    assert [row.label for row in table.rows if row.pareto] == [
        "Llama-3.2-1B",
        "FFT",
        "LoRA",
        "LLaMA Pro",
        "SCALE-Route",
    ]


# Formats


@pytest.fixture
def shown(run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`shown("csv")`: the paper's table in a format, as `scale report` prints it."""
    monkeypatch.chdir(ROOT)

    def show(format: str) -> str:
        ended = run_cli("report", RECORD, "--format", format)
        assert (ended.code, ended.stderr) == (0, "")
        return str(ended.stdout)

    return show


def golden_rows() -> list[list[str]]:
    """The cells of the golden table without marks: headings, then a list per checkpoint."""
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip("*† ").replace("**", "") for cell in line.split("|")[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


def test_markdown_is_the_golden_table(shown: Callable[[str], str]) -> None:
    assert shown("markdown") == GOLDEN.read_text(encoding="utf-8")


def test_latex_and_text_have_its_cells(shown: Callable[[str], str]) -> None:
    rows = golden_rows()[1:]
    plain = re.sub(r"\\,\{\\scriptsize\$\\pm\$([\d.]+)\}", r" ± \1", shown("latex").replace(r"$^\dagger$", ""))
    lines = re.sub(r"\\textbf\{([\d.]+)\}", r"\1", plain).splitlines()
    assert [line.removesuffix(r" \\").split(" & ") for line in lines if "&" in line][-8:] == rows
    blocks: dict[str, list[str]] = {row[0]: [] for row in rows}
    for line in re.sub("[*†]", " ", shown("text")).splitlines():
        label, *cells = re.split(r"\s{2,}", line.strip())
        if cells and label in blocks:
            blocks[label] += cells
    assert [[label, *cells] for label, cells in blocks.items()] == rows


def test_the_page_has_its_cells_and_marks(shown: Callable[[str], str]) -> None:
    headings, *rows = golden_rows()
    page = Elements(shown("html"))
    (table,) = [table for table in page.tables if len(table[-1]) == len(headings)]
    cells = [[re.split("[\N{MINUS SIGN}+†]", cell)[0] for cell in row] for row in table[2:]]
    assert cells == [[cell.replace(" ± ", "±") for cell in row] for row in rows]
    assert [attributes["data-sort"] for _, attributes in page.found if attributes.get("class") == "best"] == [
        "0.6275",
        "0.3631",
    ]


def test_csv_and_json_have_its_numbers_unrounded(shown: Callable[[str], str]) -> None:
    headings, *rows = golden_rows()
    wanted = {(row[0], name): cell for row in rows for name, cell in zip(headings[1:], row[1:], strict=True)}
    wanted = {key: cell for key, cell in wanted.items() if not key[1].endswith(("forgetting", "gain"))}
    lines = pd.read_csv(io.StringIO(shown("csv")))
    document = json.loads(shown("json"))
    labels = {column["key"]: column["flat_label"] for group in document["groups"] for column in group["columns"]}
    cells = [(row["label"], labels.get(key), cell) for row in document["rows"] for key, cell in row["cells"].items()]
    numbers: list[Any] = lines[["checkpoint", "label", "value", "stderr"]].to_numpy().tolist()
    as_csv = {(row, label): (value, error) for row, label, value, error in numbers}
    as_json = {(row, label): (cell["value"], cell["error"]) for row, label, cell in cells if label}
    assert as_csv.keys() == as_json.keys()
    assert all(as_csv[key] == pytest.approx(as_json[key], rel=1e-12) for key in as_json)
    assert {key: f"{100 * value:.2f} ± {100 * error:.2f}" for key, (value, error) in as_csv.items()} == wanted
    assert set(lines["reported"]) == {"arXiv 2511.03270, Table 1"}
    assert [result["checkpoint"]["label"] for result in document["results"]] == [row[0] for row in rows]
