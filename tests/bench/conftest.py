"""A run of each tiny benchmark, for the tests that read it or continue a copy of it."""

from __future__ import annotations

import pytest

from scale_cli.bench import bios, continual
from scale_cli.bench.continual_recipe import load_preset
from scale_cli.bench.stages import BenchResult
from tests.runs import World, bench_file, continual_bench, silent


@pytest.fixture(scope="session")
def bios_run(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    folder = tmp_path_factory.mktemp("bios")
    return bios.run(bios.load_preset(bench_file(folder)), folder / "out", say=print, progress=silent)


@pytest.fixture(scope="session")
def korean_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    folder = tmp_path_factory.mktemp("continual")
    recipe = load_preset(continual_bench(folder, world.checkpoint("llama")))
    return continual.run(recipe, folder / "out", say=print, progress=silent)
