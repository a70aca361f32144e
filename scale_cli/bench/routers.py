"""The rows of a benchmark measured again under routers: each trained model together with its base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from scale_cli.bench.stages import BenchRecipe, label_of, processes
from scale_cli.checkpoints.router import is_average, label_under
from scale_cli.reporting.curves import ROUTER_CURVES, Panel, router_curve
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result, read_result

ROUTED, FRONTIER = "routed", "frontier"
"""Folders of the results under the recipe's routers, and under those of `scale eval --frontier`."""
PANELS = tuple(curve.title for curve in ROUTER_CURVES)
"""The titles of the frontier's panels."""
Summary = Callable[[Result], tuple[float, float] | None]
"""Stability and plasticity of a result as shown; None if one is missing."""


def check_routers(recipe: BenchRecipe) -> None:
    """Raise RequestError for a router that does not exist."""
    from scale_cli.checkpoints.router import check_reading, parse_router

    for text in recipe.routers:
        if (parse_router(text) or {}).get("kind") != "cosine":
            check_reading(text, recipe.preset)


def routers_of(recipe: BenchRecipe, label: str) -> list[str]:
    """The recipe's routers that a row can have: only weights of the base itself are averaged with the base's."""
    plain = recipe.upscaling(label) is None
    return [text for text in recipe.routers if plain or not is_average(text)]


def measure_row(
    recipe: BenchRecipe,
    label: str,
    run: Path,
    base: str,
    out: Path,
    *,
    jobs: Callable[[], Sequence[Any]],
    frontier_jobs: Callable[[], Sequence[Any]],
    progress: Callable[..., AbstractContextManager[Callable[..., None]]],
) -> None:
    """Measure a trained row under the recipe's routers, and on the frontier if the recipe asks for it.

    run: the row's folder. base: the checkpoint that it was trained from. out: folder of the seed.
    jobs, frontier_jobs: make the `Job`s, called only if there is something to measure. Measurements that are in `out`
        already are not repeated.
    """
    from scale_cli.evaluation.evaluate import evaluate

    routers = routers_of(recipe, label)
    wanted = [(ROUTED, jobs())] if routers else []
    wanted += [(FRONTIER, frontier_jobs())] if recipe.frontier else []
    for folder, own_jobs in wanted:
        evaluate(
            [f"{label}={run}"],
            own_jobs,
            out=out / folder,
            routers=routers if folder == ROUTED else (),
            frontier=folder == FRONTIER,
            base=base,
            command=recipe.command,
            progress=lambda job, total: progress(job, total, done=0),
        )
        processes().wait_for_everyone()


def routed_results(
    recipe: BenchRecipe, row: Result, label: str, seed: int, out: Path, *, task_of: Callable[[str], str] = str
) -> Iterator[Result]:
    """The results of a row under the recipe's routers, as rows of their own after it.

    row: the result without a router. label: of the row in the recipe. out: folder of the seed. task_of: the name in the
    benchmark of a measurement's task.
    """
    for router in routers_of(recipe, label):
        measured = read_result(out / ROUTED / label_under(label, router))
        if measured is not None:
            info = replace(
                row.checkpoint,
                label=label_of(f"{label}, {router}", seed, recipe),
                router=router,
                fingerprint=measured.checkpoint.fingerprint,
                parameters={**row.checkpoint.parameters, "total": measured.checkpoint.parameters["total"]},
            )
            own = tuple(renamed(measured.measurements, task_of))
            yield replace(measured, checkpoint=info, measurements=own)


def renamed(measurements: Iterable[Measurement], task_of: Callable[[str], str]) -> Iterator[Measurement]:
    """The measurements with the names of their tasks in the benchmark."""
    return (replace(m, task=task_of(m.task)) for m in measurements)


def frontier_panels(
    recipe: BenchRecipe, out: Path, *, summary: Summary, x: str, unit: str, percent: bool
) -> tuple[Panel, ...]:
    """The trade-off of one training under many routers: plasticity over stability, the mean over the seeds.

    out: the run folder. summary: as `Summary`; with `percent` plasticity is a share. x, unit: labels of the axes.
    """
    from scale_cli.checkpoints import router

    if not recipe.frontier:
        return ()
    panels = []
    for curve in ROUTER_CURVES:
        own = [text for text in router.FRONTIER if router_curve(text) is curve]
        if curve.trained_at is not None:
            own = ["none", *own]
        series = {}
        for label in recipe.methods:
            points = [_mean(recipe, out, label, text, summary) for text in sorted(own, key=curve.order)]
            known = [point for point in points if point is not None]
            if len(known) > 1:
                series[label] = {"mean": known}
        panels.append(Panel(curve.title, x, unit, percent, series, in_order=True))
    return tuple(panel for panel in panels if panel.series)


def _mean(recipe: BenchRecipe, out: Path, label: str, router: str, summary: Summary) -> tuple[float, float] | None:
    """The mean over all seeds, None if one is missing."""
    points = []
    for seed in recipe.seeds:
        result = read_result(out / f"seed-{seed}" / FRONTIER / label_under(label, router))
        point = None if result is None else summary(result)
        if point is None:
            return None
        points.append(point)
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


def split_panels(panels: Sequence[Panel]) -> tuple[list[Panel], list[Panel]]:
    """The curves of training, and those of the frontier."""
    frontier = [panel for panel in panels if panel.title in PANELS]
    return [panel for panel in panels if panel not in frontier], frontier
