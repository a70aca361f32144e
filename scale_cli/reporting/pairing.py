"""Standard errors of differences between two results, paired by item if both have scores of the same items."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from scale_cli.reporting.columns import Column
from scale_cli.reporting.statistics import difference_error, mean_error, paired_error
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result, read_items

Scores = Mapping[int | str, float]
Items = Callable[[Result, Measurement], Scores | None]


class Pairing:
    """Values of results, and standard errors of their differences. Results are given by position."""

    def __init__(self, results: Sequence[Result], items: Items = read_items) -> None:
        """items: reads the scores of a measurement's items, None if there are none."""
        self._results = results
        self._items = items
        self._measured = {
            (index, m.way.column): m for index, result in enumerate(results) for m in result.measurements if m.is_finite
        }  # the latest if precisions differ
        self._read: dict[tuple[int, str], Scores | None] = {}

    def value(self, index: int, column: Column) -> float | None:
        """A result's value in a column, None without one. An average needs all its parts."""
        parts = [self._measured.get((index, part)) for part in column.parts or (column.key,)]
        return None if None in parts else fmean(part.value for part in parts if part is not None)

    def stderrs(self, index: int, column: Column) -> list[float | None]:
        """The standard errors of the parts of a result's value in a column; the value must exist."""
        return [self._measured[index, part].stderr for part in column.parts or (column.key,)]

    def scores(self, index: int, column: str) -> Scores | None:
        """The scores of a value's items; None without any, and if the value is not their mean, as a test on them would
        not be a test of the value.
        """
        if (index, column) not in self._read:
            measurement = self._measured.get((index, column))
            scores = None if measurement is None else self._items(self._results[index], measurement)
            if scores and measurement and not math.isclose(fmean(scores.values()), measurement.value, abs_tol=1e-6):
                scores = None
            self._read[index, column] = scores
        return self._read[index, column]

    def pairs(self, first: int, second: int, column: str) -> tuple[list[float], list[float]] | None:
        """Two results' scores of the same items in the same order; None if their items differ or are fewer than two."""
        ours, theirs = self.scores(first, column), self.scores(second, column)
        if not ours or not theirs or ours.keys() != theirs.keys() or len(ours) < 2:
            return None
        return list(ours.values()), [theirs[item] for item in ours]

    def error(self, first: int, second: int, column: Column) -> tuple[float | None, bool]:
        """The standard error of the difference of two results in a column, and whether it is wholly paired by item.

        Both results have a value in the column. The parts of an average are taken as independent.
        """
        errors = [self._error(first, second, part) for part in column.parts or (column.key,)]
        return mean_error([error for error, _ in errors]), all(paired for _, paired in errors)

    def _error(self, first: int, second: int, column: str) -> tuple[float | None, bool]:
        pairs = self.pairs(first, second, column)
        if pairs is not None:
            return paired_error(*pairs), True
        ours, theirs = self._measured[first, column], self._measured[second, column]
        before, after = self._results[first].checkpoint, self._results[second].checkpoint
        if theirs.paired_stderr is not None and before.fingerprint and before.fingerprint == after.compared:
            return theirs.paired_stderr, True
        return difference_error(ours.stderr, theirs.stderr), False


def compared_with(base: Result, result: Result, items: Items = read_items) -> Result:
    """The result with `paired_stderr` of its changes against a base, and the base's fingerprint as `compared`.

    A measurement without scores of the same items in both gets None.
    """
    pairing = Pairing([base, result], items)

    def with_error(measurement: Measurement) -> Measurement:
        pairs = pairing.pairs(0, 1, measurement.way.column)
        return dataclasses.replace(measurement, paired_stderr=None if pairs is None else paired_error(*pairs))

    return dataclasses.replace(
        result,
        checkpoint=dataclasses.replace(result.checkpoint, compared=base.checkpoint.fingerprint),
        measurements=tuple(map(with_error, result.measurements)),
    )
