"""Table 1 of arXiv 2511.03270 as records, and its exact text in every format.

The files in golden/ are the output of this command, checked against the paper's table by a person:

    scale report benchmarks/records/paper-table1.json --format markdown > tests/reporting/golden/paper-table1.md
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.metrics import mean_stderr

from scale_cli.evaluation.suites import find_suite
from scale_cli.methods import METHODS
from scale_cli.reporting.columns import suite_group
from scale_cli.reporting.table import Row, Table, build_table
from scale_cli.results.result import read_results

ROOT = Path(__file__).parents[2]
RECORD = Path("benchmarks/records/paper-table1.json")
GOLDEN = Path(__file__).parent / "golden"

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
    assert [row.method for row in table.rows] == [None, *METHODS]


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


@pytest.mark.parametrize(
    ("format", "ending"),
    [("text", "txt"), ("markdown", "md"), ("latex", "tex"), ("csv", "csv"), ("json", "json"), ("html", "html")],
)
def test_every_format_letter_by_letter(
    format: str, ending: str, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    ended = run_cli("report", RECORD, "--format", format)
    assert (ended.code, ended.stderr) == (0, "")
    printed = re.sub(r"<svg.*?</svg>", "<svg></svg>", ended.stdout, flags=re.S)  # whose bytes are matplotlib's
    assert printed == (GOLDEN / f"paper-table1.{ending}").read_text(encoding="utf-8")
