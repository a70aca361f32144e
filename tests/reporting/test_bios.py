"""The tables of the biography benchmark, letter by letter."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from scale_cli.reporting.bios import LEGEND, markdown_table, metrics_table, rich_table, table_rows
from scale_cli.results.result import Measurement


def row(label: str, **changes: Any) -> dict[str, Any]:
    values = {
        "label": label,
        "method": label,
        "seed": 0,
        "learning_rate": 1e-3,
        "trained_parameters": 1_234_567,
        "task0_before": 0.98,
        "task0": 0.125,
        "task1": 1.0,
        "exact_task0": 0.0,
        "exact_task1": 0.995,
        "seconds": 12.4,
        "routed_task0": None,
        "routed_task1": None,
    }
    return values | changes


ROWS = [
    row("fft"),
    row("scale-route", learning_rate=3e-4, trained_parameters=98_304, task0=0.5, routed_task0=0.75, routed_task1=0.1),
    row("fft", seed=1, task0_before=1.0, task0=0.175, task1=0.95, exact_task0=0.05, exact_task1=0.95, seconds=15.6),
]

MARKDOWN = """\
| method | trained params | lr | Task 0 before | Task 0 after | forgetting | Task 1 | exact 0 | exact 1 \
| routed 0 | routed 1 | seconds |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| fft | 1,234,567 | 0.001 | 99.0 ± 1.4 | 15.0 ± 3.5 | 84.0 ± 2.1 | 97.5 ± 3.5 | 2.5 ± 3.5 | 97.2 ± 3.2 \
| - | - | 14 ± 2 |
| scale-route | 98,304 | 0.0003 | 98.0 | 50.0 | 48.0 | 100.0 | 0.0 | 99.5 | 75.0 | 10.0 | 12 |
"""


def test_markdown() -> None:
    assert markdown_table(ROWS) == f"{MARKDOWN}\n{LEGEND}"


def test_a_table_without_rows_has_its_heading() -> None:
    assert markdown_table([]) == "\n".join([*MARKDOWN.splitlines()[:2], "", LEGEND])


def test_seeds_of_one_label_are_one_row_and_labels_keep_their_order() -> None:
    assert [cells[0] for cells in table_rows(ROWS)] == ["fft", "scale-route"]
    assert [cells[0] for cells in table_rows(reversed(ROWS))] == ["fft", "scale-route"]
    assert [cells[0] for cells in table_rows(ROWS[1:])] == ["scale-route", "fft"]
    before = [dict(values) for values in ROWS]
    table_rows(ROWS)
    assert before == ROWS


def printed(table: Any) -> str:
    console = Console(width=160, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_the_terminals_table_holds_the_same_cells() -> None:
    text = printed(rich_table(ROWS, title="Biographies"))
    lines = text.splitlines()
    assert lines[0] == "Biographies"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == table_rows(ROWS)
    assert LEGEND.split(".")[0] in text


def measured(metric: str, value: float, stderr: float | None, samples: int) -> Measurement:
    return Measurement("bios:all", metric, value, stderr, samples, True, dtype="float32", batch_size=512, seconds=1.0)


METRICS = {
    "base": [
        measured("hard", 0.5, 0.25, 1200),
        measured("hard/birthday", 1.0, None, 200),
        measured("soft", 0.4321, 0.01234, 1200),
        measured("soft/birthday", 0.9, 0.05, 200),
        measured("exact", 0.0, 0.0, 1200),
        measured("exact/birthday", 0.125, 0.1, 200),
    ],
    "routed": [
        measured("hard", 1.0, 0.0, 6),
        measured("soft", 1.0, 0.0, 6),
        measured("routed", 0.5, 0.2, 6),
        measured("exact", 1.0, 0.0, 6),
    ],
}

MEASURED = """\
Accuracy
┏━━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━┓
┃ checkpoint ┃ attribute ┃        hard ┃        soft ┃       exact ┃      routed ┃ questions ┃
┡━━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━┩
│ base       │ mean      │ 50.0 ± 25.0 │  43.2 ± 1.2 │   0.0 ± 0.0 │           - │     1,200 │
│            │ birthday  │       100.0 │  90.0 ± 5.0 │ 12.5 ± 10.0 │           - │       200 │
├────────────┼───────────┼─────────────┼─────────────┼─────────────┼─────────────┼───────────┤
│ routed     │ mean      │ 100.0 ± 0.0 │ 100.0 ± 0.0 │ 100.0 ± 0.0 │ 50.0 ± 20.0 │         6 │
└────────────┴───────────┴─────────────┴─────────────┴─────────────┴─────────────┴───────────┘
"""


def test_measured_checkpoints() -> None:
    assert printed(metrics_table(METRICS, title="Accuracy")) + "\n" == MEASURED
