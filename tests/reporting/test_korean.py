"""The table of the Korean benchmark, letter by letter."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from scale_cli.reporting.korean import LEGEND, markdown_table, rich_tables, table_cells


def row(label: str, seed: int | None = 0, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "label": label,
        "method": label,
        "seed": seed,
        "bits": {"english": 1.5, "korean": 0.75},
        "bits_stderr": {"english": 0.0125, "korean": None},
        "perplexity": {"english": 20.0, "korean": 3.25},
        "routed": {"english": None, "korean": None},
        "change_stderr": {"english": 0.004, "korean": None},
        "learning_rate": 1e-3,
        "trained_parameters": 1_234_567,
        "tokens": 76_800,
        "seconds": 12.4,
        "peak_memory_bytes": 2_345_000_000,
        "suites": {},
        "suites_stderr": {},
        "cosine": {},
        "norms": {},
        "hidden_states_equal": None,
    }
    return values | changes


TRAINING = ("method", "learning_rate", "trained_parameters", "tokens", "seconds", "peak_memory_bytes")
BASE: dict[str, Any] = {
    **row("base", None),
    **dict.fromkeys(TRAINING),
    "bits": {"english": 1.0, "korean": 2.5},
    "bits_stderr": {"english": 0.01, "korean": 0.02},
    "perplexity": {"english": 12.0, "korean": 45.678},
}
ROWS = [
    BASE,
    row("fft"),
    row(
        "scale-route",
        learning_rate=3e-4,
        bits={"english": 1.02, "korean": 1.25},
        bits_stderr={"english": 0.01, "korean": 0.03},
        routed={"english": 0.75, "korean": 0.125},
    ),
    row("scale-preserve", bits={"english": 1.01, "korean": 1.5}, hidden_states_equal=True),
    row("fft", 1, bits={"english": 1.7, "korean": 0.85}, seconds=15.6),
]

MARKDOWN = """\
| method | English bits/byte | forgetting | Korean bits/byte | gain | routed English / Korean | base half \
| English perplexity | Korean perplexity | trained params | lr | tokens | seconds | peak GB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| base | 1.000 ± 0.010 | - | 2.500 ± 0.020 | - | - | - | 12 | 45.68 | - | - | - | - | - |
| fft | 1.600 ± 0.141 | 0.600 ± 0.141 | 0.800 ± 0.071 | 1.700 ± 0.071 | - | - \
| 20 ± 0 | 3.25 ± 0 | 1,234,567 | 0.001 | 76,800 | 14 | 2.35 |
| scale-route | 1.020 ± 0.010 | 0.020 ± 0.004 | 1.250 ± 0.030 | 1.250 | 75.0 / 12.5 | - \
| 20 | 3.25 | 1,234,567 | 0.0003 | 76,800 | 12 | 2.35 |
| scale-preserve | 1.010 ± 0.013 | 0.010 ± 0.004 | 1.500 | 1.000 | - | equal \
| 20 | 3.25 | 1,234,567 | 0.001 | 76,800 | 12 | 2.35 |
"""


def test_markdown() -> None:
    assert markdown_table(ROWS) == f"{MARKDOWN}\n{LEGEND}"


def test_only_what_there_is_has_a_column() -> None:
    headings, cells = table_cells([BASE, row("fft")])
    assert not {"routed English / Korean", "base half"} & set(headings)
    assert [len(line) for line in cells] == [len(headings)] * 2


def test_suites_have_a_column_each() -> None:
    suites = [{"suites": {"Tiny": value}, "suites_stderr": {"Tiny": 0.05}} for value in (0.25, 0.5)]
    headings, cells = table_cells([BASE | suites[0], row("fft") | suites[1]])
    at = headings.index("Tiny")
    assert [line[at] for line in cells] == ["25.0 ± 5.0", "50.0 ± 5.0"]


def test_what_an_ablation_measures_and_what_a_paper_says_stand_beside() -> None:
    moved = row("scale-adapt", cosine={"english": 0.95}, norms={"ffn": 12.0})
    headings, cells = table_cells([BASE, moved], {"scale-adapt": {"drift:english/cosine": 0.955}})
    at = headings.index("cosine English")
    assert headings[at : at + 3] == ["cosine English", "norm ffn", "paper: cosine English"]
    assert [line[at : at + 3] for line in cells] == [["-", "-", "-"], ["0.9500", "12.0000", "0.955"]]


@pytest.mark.parametrize(("found", "said"), [((True, True), "equal"), ((True, False), "DIFFERS")])
def test_a_half_that_differs_under_any_seed_is_said(found: tuple[bool, bool], said: str) -> None:
    rows = [row("scale-preserve", seed, hidden_states_equal=equal) for seed, equal in enumerate(found)]
    headings, cells = table_cells([BASE, *rows])
    assert [line[headings.index("base half")] for line in cells] == ["-", said]


def test_the_terminals_tables_hold_the_same_cells() -> None:
    console = Console(width=120, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(rich_tables(ROWS, title="Korean"))
    lines = capture.get().splitlines()
    assert lines[0].strip() == "Korean"
    assert "…" not in capture.get()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    trade_off, cost = cells[:4], cells[4:]
    assert [[*kept, *took[1:]] for kept, took in zip(trade_off, cost, strict=True)] == table_cells(ROWS)[1]


def test_an_ablation_fits_a_terminal_beside_what_the_paper_says() -> None:
    moved = {"cosine": {"english": 0.95, "korean": 0.9}, "norms": {"attention": 10.0, "ffn": 12.0}}
    rows = [BASE, *(row("attention-weak", seed, **moved) for seed in (0, 1))]
    paper = {"perplexity/english": 10.9, "perplexity/korean": 12.25}
    reported = {"base": {"perplexity/english": 10.42}, "attention-weak": paper}
    console = Console(width=120, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(rich_tables(rows, title="Ablation", reported=reported))
    lines = capture.get().splitlines()
    assert "…" not in capture.get()
    tables = [lines[place - 1].strip() for place, line in enumerate(lines) if line.startswith("┏")]
    assert tables == ["Ablation", "What has moved, and the paper", "Perplexity, and what it took"]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    trade_off, others, cost = cells[:2], cells[2:4], cells[4:]
    assert others == [
        ["base", "-", "-", "-", "-", "10.42", "-"],
        ["attention-weak", *(f"{v} ± 0.0000" for v in ("0.9500", "0.9000", "10.0000", "12.0000")), "10.9", "12.25"],
    ]
    whole = [[*a, *b[1:], *c[1:]] for a, b, c in zip(trade_off, others, cost, strict=True)]
    assert whole == table_cells(rows, reported)[1]
