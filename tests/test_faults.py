"""A sample of the fault matrix; `python -m tests.faults` runs all of it."""

import random
from pathlib import Path

import pytest

from tests.faults import NONE, cells_of, make_inputs, wrong
from tests.runs import World

SAMPLE = 30


@pytest.mark.usefixtures("quick_figures")
def test_a_damaged_input_is_refused_in_one_line(world: World, tmp_path: Path) -> None:
    cells = cells_of(make_inputs(world, tmp_path))
    undamaged = [cell for cell in cells if cell.fault == NONE]
    damaged = random.Random(0).sample([cell for cell in cells if cell.fault != NONE], SAMPLE)
    reasons = {}
    for number, cell in enumerate([*undamaged, *damaged]):
        (folder := tmp_path / f"cell-{number}").mkdir()
        if (reason := wrong(cell, folder)) is not None:
            reasons[str(cell)] = reason
    assert reasons == {}
