"""Comparison of two checkpoints: statistical tests, the sheet, and refused requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scale_cli.reporting.compare import compare, comparison_sheet, p_text
from scale_cli.reporting.statistics import paired_difference
from scale_cli.reporting.table import Table, build_table
from scale_cli.results.result import Result
from tests.helpers import refusal
from tests.results.made import PLASTIC, STABLE, measured, result, scored

FIRST: Mapping[str, Sequence[float]] = {"a": [1, 0] * 20, "b": [0.25, 0.5, 0.75, 1] * 10, "k": [0] * 40}
SECOND: Mapping[str, Sequence[float]] = {
    "a": [1, 1] * 12 + [1, 0] * 8,
    "b": [0.55, 0.5, 0.75, 1] * 10,
    "k": [0] * 30 + [1] * 10,
}


def table(results: list[Result]) -> Table:
    return build_table(results, [STABLE, PLASTIC])


def test_the_tests_are_paired_by_item(tmp_path: Path) -> None:
    comparison = compare(table([scored("x", None, FIRST, tmp_path), scored("y", "fft", SECOND, tmp_path)]), "x", "y")
    differences = {column.flat_label: difference for _, column, _, _, difference in comparison.lines}
    assert list(differences) == ["A", "B", "English average", "K"]
    for task, heading, test in (("a", "A", "McNemar"), ("b", "B", "paired t"), ("k", "K", "McNemar")):
        assert differences[heading] == paired_difference(FIRST[task], SECOND[task])
        assert (differences[heading].test, differences[heading].items) == (test, 40)
    average = differences["English average"]
    errors = [differences[heading].error or 0.0 for heading in ("A", "B")]
    assert average.value == pytest.approx((differences["A"].value + differences["B"].value) / 2)
    assert average.error == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5 / 2)
    assert average.test == "z"
    back = compare(table([scored("x", None, FIRST, tmp_path), scored("y", "fft", SECOND, tmp_path)]), "y", "x")
    assert [line[-1].value for line in back.lines] == [-line[-1].value for line in comparison.lines]


def test_items_of_other_questions_are_not_paired(tmp_path: Path) -> None:
    shorter = {"k": SECOND["k"][:-1]}
    comparison = compare(
        table([scored("x", None, FIRST, tmp_path), scored("y", "fft", {**SECOND, **shorter}, tmp_path)]), "x", "y"
    )
    assert [line[-1].test for line in comparison.lines] == ["McNemar", "paired t", "z", "z"]


def test_the_sheet(tmp_path: Path) -> None:
    sheet = comparison_sheet(
        compare(table([scored("x", None, FIRST, tmp_path), scored("y", "fft", SECOND, tmp_path)]), "x", "y")
    )
    rows = [[entry.text for entry in row] for rows in sheet.sections for row in rows]
    assert [heading.label for heading in sheet.headings] == ["task", "items", "x", "y", "difference", "p", "test"]
    assert rows == [
        ["A", "40", "50.00", "80.00", "+30.00", "0.0005", "McNemar"],
        ["B", "40", "62.50", "70.00", "+7.50", "0.0009", "paired t"],
        ["English average", "", "56.25", "75.00", "+18.75", "<0.0001", "z"],
        ["K", "40", "0.00", "25.00", "+25.00", "0.0020", "McNemar"],
    ]
    assert dict(sheet.legend)["test"] == (
        "McNemar: exact test on the items that only one of the two answers correctly; paired t: test on the "
        "differences of the items' scores; z: from the standard error of the change if the record has it, else from "
        "both errors as independent; averages from the errors of their tasks."
    )


def test_p_values_as_shown() -> None:
    assert [p_text(value) for value in (None, 0.00009, 0.0001, 0.5)] == ["-", "<0.0001", "0.0001", "0.5000"]


def test_what_is_refused() -> None:
    base, fft = result("base", None, [measured("a", 0.5)]), result("fft", "fft", [measured("k", 0.5)])
    for results, labels, message in (
        ([base, fft], ("base", "lora"), "--compare lora: choose from base, fft"),
        ([base, fft, fft], ("base", "fft"), "--compare fft: 2 results have this label; give fewer results"),
        ([base, fft], ("fft", "fft"), "--compare fft fft: both are the same checkpoint; name two checkpoints"),
        (
            [base, fft],
            ("base", "fft"),
            "--compare base fft: no task was measured in the same way for both; choose others or measure again",
        ),
    ):
        assert refusal(compare, build_table(results, [replace(PLASTIC)]), *labels) == message
