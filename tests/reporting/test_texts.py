"""The tables of `scale eval --perplexity` and `--drift`, exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
from rich.console import Console

from scale_cli.reporting.texts import text_tables, with_error
from scale_cli.results.result import CheckpointInfo, Measurement, Result

WIDTH = 110


def measurement(task: str, metric: str, value: float, stderr: float | None = None, **more: Any) -> Measurement:
    fields: dict[str, Any] = {
        "samples": 1234,
        "higher_is_better": False,
        "dtype": "float32",
        "batch_size": 1,
        "seconds": 1.0,
        "task_version": "v1",
        "details": {"source": "texts.jsonl"},
    }
    return Measurement(task, metric, value, stderr, **(fields | more))


def result(label: str, *measurements: Measurement) -> Result:
    return Result("scale eval", CheckpointInfo(label, label, "0", "plain", None, {}), measurements)


def printed(results: list[Result], tasks: list[str]) -> list[str]:
    console = Console(width=WIDTH, markup=False, highlight=False)
    with console.capture() as capture:
        for table in text_tables(results, tasks):
            console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_row_a_checkpoint_and_version() -> None:
    base = [
        measurement("perplexity:ko", "perplexity", 16.81, 0.33),
        measurement("perplexity:ko", "bits_per_byte", 1.2345, 0.0123),
        measurement("perplexity:ko", "perplexity", 17.0, 0.4, task_version="v2"),
    ]
    route = [
        measurement("perplexity:ko", "perplexity", 6.5, None, routed=0.25, samples=1),
        measurement("perplexity:ko", "bits_per_byte", math.nan, None, routed=0.25, samples=1),
    ]
    assert printed([result("base", *base), result("route", *route), result("none")], ["perplexity:ko"]) == [
        "perplexity:ko, texts.jsonl",
        "┏━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━┳━━━━━━━━━┓",
        "┃ checkpoint ┃   perplexity ┃ bits per byte ┃ routed ┃     n ┃ version ┃",
        "┡━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━╇━━━━━━━━━┩",
        "│ base       │ 16.81 ± 0.33 │ 1.234 ± 0.012 │      - │ 1,234 │ v1      │",
        "│ base       │ 17.00 ± 0.40 │             - │      - │ 1,234 │ v2      │",
        "│ route      │          6.5 │           nan │   25.0 │     1 │ v1      │",
        "└────────────┴──────────────┴───────────────┴────────┴───────┴─────────┘",
        "Perplexity is per token; bits per byte of UTF-8 and per character",
        "compare whatever the tokenizers. The lower the better, ± standard error",
        "over n documents. Version: packing, tokens of a window, new ones in it,",
        "texts. Routed: the share of scored tokens that took the preserve branch,",
        "in percent.",
    ]


def test_the_last_of_a_kind_has_the_legend() -> None:
    tasks = ["perplexity:en", "perplexity:ko", "drift:en", "drift:ko", "drift"]
    one = result(
        "one",
        *(measurement(task, "perplexity", 2.0, 0.1) for task in tasks[:2]),
        *(measurement(task, "cosine", 1.0, 0.0) for task in tasks[2:4]),
        measurement("drift", "weight_change/ffn", 0.5, details={}, samples=6),
    )
    assert list(text_tables([one], [])) == []
    tables = list(text_tables([one], tasks))
    assert [table.title for table in tables] == [*(f"{task}, texts.jsonl" for task in tasks[:4]), "drift, weights"]
    assert [str(table.caption or "").partition(" ")[0] for table in tables] == ["", "Perplexity", "", "Cosine", "Mean"]


def test_norms_by_module() -> None:
    def norm(metric: str, value: float, samples: int = 8) -> Measurement:
        return measurement("drift", metric, value, samples=samples, details={}, task_version="base-own")

    wide = [
        norm(f"{kind}_norm/{module}", value)
        for module in ("attention", "ffn")
        for kind, value in (("w12", 0.0), ("expansion", 71.4286))
    ]
    deep = [norm("expansion_norm/ffn", 5.0, samples=3), norm("weight_change/ffn", 0.0, samples=6)]
    lines = printed([result("wide", *wide), result("deep", *deep)], ["drift"])
    assert lines[:8] == [
        "drift, weights",
        "┏━━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━┳━━━━━━━━━━━┳━━━━━━━━┳━━━━━┳━━━━━━━━━━┓",
        "┃ checkpoint ┃ module    ┃ W12 ┃ expansion ┃ change ┃   n ┃ version  ┃",
        "┡━━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━╇━━━━━━━━━━━╇━━━━━━━━╇━━━━━╇━━━━━━━━━━┩",
        "│ wide       │ attention │   0 │     71.43 │      - │   8 │ base-own │",
        "│ wide       │ ffn       │   0 │     71.43 │      - │   8 │ base-own │",
        "│ deep       │ ffn       │   - │         5 │      0 │ 3/6 │ base-own │",
        "└────────────┴───────────┴─────┴───────────┴────────┴─────┴──────────┘",
    ]


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.999839, 0.0000142, "0.999839 ± 0.000014"),
        (19.246, 1.52, "19.2 ± 1.5"),
        (1234.5, 67.8, "1234 ± 68"),
        (1234.5, 678.9, "1234 ± 679"),
        (1.0, 0.0, "1 ± 0"),
        (2.3456789, None, "2.346"),
        (math.inf, math.inf, "inf"),
        (2.0, math.nan, "2"),
    ],
)
def test_a_number_has_the_decimals_of_its_error(value: float, stderr: float | None, text: str) -> None:
    assert with_error(value, stderr) == text
