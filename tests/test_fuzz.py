"""A short fuzz of every file that is read, and a short kill soak; `tests.fuzz` and `tests.soak` are the long forms."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz, inputs
from tests.runs import World
from tests.soak import Case, soak


@pytest.mark.usefixtures("quick_figures")
def test_a_damaged_file_is_a_request_error(world: World, tmp_path: Path) -> None:
    findings: dict[str, str] = {}
    for number, target in enumerate(inputs(world, tmp_path)):
        (folder := tmp_path / f"fuzz-{number}").mkdir()
        findings |= dict.fromkeys(fuzz(target, 20, folder), target.name)
    assert findings == {}


def test_a_killed_training_ends_as_one_never_killed(world: World, tmp_path: Path) -> None:
    rows = list(soak(world, tmp_path, 4, 2, [Case("scale-route", "qa"), Case("fft", "lm")]))
    assert [row["wrong"] for row in rows] == [""] * 4
