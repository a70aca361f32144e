"""A sample of the fault matrix, and what the whole one found; `python -m tests.faults` runs all of it."""

import random
from pathlib import Path

import pytest

from tests.faults import NONE, cells_of, make_inputs, wrong
from tests.runs import World

SAMPLE = 30
FOUND = {
    f"export of run-lora, trained.json: options.lora_r = {10**30}",
    f"train of run-lora, trained.json: options.lora_alpha = {10**30}",
    "train of run-lora, tokenizer.json: a folder",
    "upscale of llama-plain, config.json: max_position_embeddings = -1",
    "train of llama-plain, config.json: rope_parameters.rope_theta = -1",
    "train of llama-width, config.json: base_config.rope_parameters.rope_theta = -1",
    "eval of run-scale-route, record.json: recipe.lr = [[]]",
    "eval of run-scale-route, record.json: peak_memory_bytes removed",
    "export of exported, export.json: history.1.seconds removed",
    "report of bench, results.json: curves.0.series = {}",
}
"""Cells that were wrong."""


@pytest.mark.usefixtures("quick_figures")
def test_a_damaged_input_is_refused_in_one_line(world: World, tmp_path: Path) -> None:
    cells = cells_of(make_inputs(world, tmp_path))
    undamaged = [cell for cell in cells if cell.fault == NONE]
    found = [cell for cell in cells if str(cell) in FOUND]
    assert {str(cell) for cell in found} == FOUND
    damaged = random.Random(0).sample([cell for cell in cells if cell.fault != NONE], SAMPLE)
    reasons = {}
    for number, cell in enumerate([*undamaged, *found, *damaged]):
        (folder := tmp_path / f"cell-{number}").mkdir()
        if (reason := wrong(cell, folder)) is not None:
            reasons[str(cell)] = reason
    assert reasons == {}
