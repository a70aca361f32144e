"""The course of Task 1: how much of Task 0 is kept at each measured step, against how much of Task 1 is learnt.

Methods learn at different speeds, so their end points compare different amounts of learning. `kept_at` compares them at
equal amounts, and `kept_area` sums that over all amounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scale_cli.bench.stages import Lines
from scale_cli.results.measurement import Measurement

Course = Sequence[tuple[float, float]]
"""(Task 0 kept, Task 1 learnt) at each measured step, as shares."""
LEVELS = (0.5, 0.9, 0.98)
"""The Task 1 accuracies at which methods are compared."""
KEPT, AREA, RECOVERED = "kept", "kept_area", "recovered"
"""Metrics of Task 0: KEPT/LEVEL, the area, and the accuracy after training its questions again."""


def course_of(lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The course in the lines of a run's metrics, by step."""
    names = ("task0/hard", "task1/hard")
    return [(line[names[0]], line[names[1]]) for line in lines if all(name in line for name in names)]


def kept_at(course: Course, level: float) -> float | None:
    """The most of Task 0 that a measured step keeps whose Task 1 accuracy is at least `level`; None if there is no
    such step."""
    return max((kept for kept, learnt in course if learnt >= level), default=None)


def kept_area(course: Course) -> float:
    """The mean of `kept_at` over all levels from 0 to 1, with 0 for levels that are not reached.

    1 means that all of Task 1 is learnt and nothing of Task 0 lost.
    """
    area = best = 0.0
    above = 1.0  # where the level of the step before ends
    for kept, learnt in sorted(course, key=lambda point: -point[1]):
        area += best * (above - learnt)
        above, best = learnt, max(best, kept)
    return area + best * above


def course_measurements(course: Course, task: str, *, samples: int, created: str) -> Iterator[Measurement]:
    """The values of a course as measurements of Task 0. task: their task. samples: number of its questions.
    created: the end of the training.
    """
    for level in LEVELS:
        kept = kept_at(course, level)
        if kept is not None:
            yield Measurement(task, f"{KEPT}/{level:g}", kept, None, samples, higher_is_better=True, created=created)
    yield Measurement(task, AREA, kept_area(course), None, samples, higher_is_better=True, created=created)


def mean_course(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[float, float]]:
    """The mean over the seeds at every step that all have measured. runs: metrics by seed."""
    courses = [course_of(lines) for lines in runs.values()]
    return [
        (sum(kept for kept, _ in points) / len(points), sum(learnt for _, learnt in points) / len(points))
        for points in zip(*courses, strict=False)
    ]


def mean_courses(lines: Lines) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The mean courses by label, as the series of a panel: kept in percent, learnt as a share."""
    courses = {label: mean_course(runs) for label, runs in lines.items()}
    return {label: {"mean": [(100 * kept, learnt) for kept, learnt in course]} for label, course in courses.items()}
