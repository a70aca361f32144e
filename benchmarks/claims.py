"""Tests of the paper's claims on the numbers of a record: the sign of each comparison and its significance."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from scale_cli.bench.continual_results import BASE
from scale_cli.evaluation.suites import Suite, find_suite
from scale_cli.methods import METHODS
from scale_cli.reporting.statistics import difference_error, mean_and_deviation, mean_error, t_test, z_test
from scale_cli.results.frame import tidy
from scale_cli.results.groups import GroupSpec
from scale_cli.results.measurement import share_error
from scale_cli.results.result import Result, parse_results

ALL = "*"
"""Stands for all rows in a claim."""
SIGNIFICANT = 0.05
"""Significance level of a comparison."""
LINEAR = 0.9
"""Least correlation of a near-linear relation."""
EARLY = 4_000 / 62_500
"""The share of Task 1's steps during which the paper's SCALE-Route retains Task 0."""
COLUMNS = ("arm", "seed", "field", "value", "stderr", "paired")
"""Columns of `numbers_of`."""
Record = Mapping[str, Any]

Status = Literal["verified", "differs", "undecided", "not run"]
STATUSES: tuple[Status, ...] = ("verified", "differs", "undecided", "not run")
NAMES = {BASE: "base"} | {name: method.title for name, method in METHODS.items()}


@dataclass(frozen=True)
class Verdict:
    """The result of testing a claim on a record. why: the comparisons behind the status, as text."""

    status: Status
    why: str


@dataclass(frozen=True)
class Comparison:
    """The comparison of two rows in one field, or of a row and a number.

    text: both names with their means. difference: the row claimed to be higher minus the other.
    p_value: two-sided, for the hypothesis of no difference; None if no error is known.
    """

    text: str
    difference: float
    p_value: float | None

    @property
    def status(self) -> Status:
        if self.p_value is None or self.p_value >= SIGNIFICANT:
            return "undecided"
        return "verified" if self.difference > 0 else "differs"


# Reading records


def numbers_of(record: Record) -> pd.DataFrame:
    """The numbers of a record as a table with `COLUMNS`, one number per line.

    arm: label of the row. seed: None for a row without seeds, such as a base. value: the number.
    stderr: its standard error, from the measured items. paired: standard error of its change against the base, paired
        by item. Both are NaN if unknown.
    field: TASK/METRIC, or one of the derived "average/SUITE", "early TASK/METRIC" and "hidden_states_equal". In records
        without results, the name of a field of their rows.
    """
    if record.get("kind") == "figures" or not (record.get("results") or "recipe" in record):
        lines = [
            (_arm(row), None, name, float(value), None, None)
            for row in record.get("rows", ())
            for name, value in row.items()
            if isinstance(value, int | float)
        ]
        return _frame(lines)
    results = parse_results(record)
    groups = [GroupSpec.read(group) for group in results[0].record.get("groups") or ()]
    table = tidy(results)
    infos = [result.checkpoint for result in results]
    is_bench = "recipe" in record
    arms = [info.stem if is_bench else info.method or BASE for info in infos]
    measured = pd.DataFrame(
        {
            "arm": table["result"].map(arms.__getitem__),
            "seed": table["result"].map(lambda index: infos[index].seed),
            "field": table["task"] + "/" + table["metric"],
            "value": table["value"],
            "stderr": table["stderr"],
            "paired": table["paired_stderr"],
        }
    )
    derived = [
        (arm, result.checkpoint.seed, *number)
        for arm, result in zip(arms, results, strict=True)
        for number in (*_averages(result, groups), *_early(arm, result), *_half(result))
    ]
    return pd.concat([measured, _frame(derived)], ignore_index=True) if derived else measured


def _frame(lines: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)
    return table.astype(dict.fromkeys(COLUMNS[3:], float))


def _arm(row: Record) -> str:
    if "by" in row:  # a row of benchmarks.fidelity
        return f"{row['by']}, {row['text']}"
    return str(row.get("label") or row.get("model") or BASE)


Number = tuple[str, float, float | None, float | None]
"""Field, value, stderr and paired."""


def _averages(result: Result, groups: Sequence[GroupSpec]) -> Iterator[Number]:
    """The average of each suite of Table 1. If the result lacks tasks of it, the average of the record's own suite of
    the same language."""
    values = {m.name: (m.value, m.stderr) for m in result.measurements}
    for suite in suites():
        own = [group for group in groups if group.title.startswith(suite.title) and not group.name.endswith("-text")]
        for columns in ([f"{entry.task}/{entry.metric}" for entry in suite.entries], *map(_columns, own)):
            if all(column in values for column in columns):
                numbers = [values[column] for column in columns]
                mean = math.fsum(value for value, _ in numbers) / len(numbers)
                yield average(suite), mean, mean_error([error for _, error in numbers]), None
                break


def _columns(group: GroupSpec) -> list[str]:
    return [f"{column.task}/{column.metric}" for column in group.columns]


def _early(arm: str, result: Result) -> Iterator[Number]:
    """Task 0 accuracy at the first evaluation after the share `EARLY` of Task 1's steps, from the record's curves."""
    name = "bios:task0/hard"
    last = next((m for m in result.measurements if m.name == name), None)
    panels = result.record.get("curves") or ()
    runs = panels[0]["series"].get(arm, {}) if last is not None and panels else {}
    curve = runs.get(str(result.checkpoint.seed))
    if curve and last is not None:
        value = next(value for step, value in curve if step >= EARLY * curve[-1][0])
        yield f"early {name}", value, share_error(value, last.samples), None


def _half(result: Result) -> Iterator[Number]:
    """Whether the base's half of every hidden state is bitwise equal to the base's, for methods that keep the base."""
    equal = [m.details["hidden_states_equal"] for m in result.measurements if "hidden_states_equal" in m.details]
    method = METHODS.get(result.checkpoint.method or "")
    if equal and method is not None and method.keeps_base:
        yield "hidden_states_equal", float(all(equal)), None, None


def average(suite: Suite) -> str:
    """The field of a suite's average."""
    return f"average/{suite.name}"


@functools.cache
def suites() -> tuple[Suite, ...]:
    """The suites of Table 1: English, Korean."""
    return find_suite("english"), find_suite("korean")


# Testing claims


def judge(claim: Record, numbers: pd.DataFrame) -> Verdict:
    """Test a claim on the numbers of a record. `not run` if they lack a row or a field that the claim names.

    claim: an entry of `claims` in paper-figures.json. numbers: as `numbers_of` returns them.
    """
    arms = [arm for arm in _arms(claim) if isinstance(arm, str) and arm != ALL]
    rows = numbers[numbers["arm"].isin(arms)] if arms else numbers
    if missing := [arm for arm in dict.fromkeys(arms) if arm not in set(rows["arm"])]:
        return Verdict("not run", f"the record has no row {', '.join(map(name_of, missing))}")
    count = len(rows[["arm", "seed"]].drop_duplicates())
    fields = [claim["field"], *([claim["linear_in"]] if "linear_in" in claim else [])]
    if missing := [name for name in fields if len(_field(rows, name)) < count]:
        return Verdict("not run", f"the record has no {' and no '.join(missing)}")
    if "exactly" in claim:
        return _judge_exact(claim, _field(rows, claim["field"]))
    if "linear_in" in claim:
        return _judge_linear(*(_field(rows, name) for name in fields))
    return _verdict(list(comparisons(claim["rising"], _field(rows, claim["field"]))))


def _field(numbers: pd.DataFrame, name: str) -> pd.DataFrame:
    """The latest number of each row in a field."""
    return numbers[numbers["field"] == name].drop_duplicates(["arm", "seed"], keep="last")


def _arms(claim: Record) -> list[str | float]:
    """The rows and numbers that a claim names; empty if it is about all rows."""
    if "exactly" in claim:
        return list(claim["exactly"])
    return [arm for group in claim.get("rising", [claim.get("among", ())]) for arm in group]


def _judge_exact(claim: Record, numbers: pd.DataFrame) -> Verdict:
    expected = claim["exactly"]
    wrong = [
        f"{name_of(arm)} {value:.3g}"
        for arm, value in zip(numbers["arm"], numbers["value"], strict=True)
        if value != expected.get(arm, expected.get(ALL))
    ]
    if wrong:
        return Verdict("differs", f"not exact: {', '.join(wrong)}")
    return Verdict("verified", f"in all {len(numbers)} rows" if len(numbers) > 1 else "in the row")


def _judge_linear(y: pd.DataFrame, x: pd.DataFrame) -> Verdict:
    from scipy import stats

    if len(x) < 3:
        return Verdict("undecided", f"{len(x)} rows are too few for a line")
    correlation = float(stats.pearsonr(x["value"], y["value"]).statistic)
    status: Status = "verified" if correlation >= LINEAR else "differs"
    return Verdict(status, f"correlation {correlation:.3f} over {len(x)} rows")


def comparisons(groups: Sequence[Sequence[str | float]], numbers: pd.DataFrame) -> Iterator[Comparison]:
    """Compare every row of a group with every row of the next group, whose values are claimed to be higher.

    groups: labels of rows, or numbers. numbers: of one field.
    """
    for lower_group, upper_group in itertools.pairwise(groups):
        for lower, upper in itertools.product(lower_group, upper_group):
            yield compare(_side(lower, numbers), _side(upper, numbers))


def _side(arm: str | float, numbers: pd.DataFrame) -> pd.DataFrame:
    if isinstance(arm, str):
        return numbers[numbers["arm"] == arm]
    return _frame([(short(arm), None, "", float(arm), 0.0, None)])  # a number in the claim has no error


def compare(lower: pd.DataFrame, upper: pd.DataFrame) -> Comparison:
    """Compare two rows in a field, each with one number per seed.

    They are paired by seed. A row without seeds is paired with every seed of the other.
    """
    has_seeds = lower["seed"].notna().all() and upper["seed"].notna().all()
    pairs = lower.merge(upper, on="seed") if has_seeds else lower.merge(upper, how="cross")
    arms = [str(side["arm"].iloc[0]) for side in (lower, upper)]
    assert len(pairs), f"{arms[0]} and {arms[1]} have no seed in common"
    mean, deviation = mean_and_deviation(list(pairs["value_y"] - pairs["value_x"]))
    if deviation is not None:
        p_value: float | None = t_test(mean, deviation / math.sqrt(len(pairs)), len(pairs) - 1)
    else:
        error = _single_error(arms, pairs.iloc[0])
        p_value = None if error is None else z_test(mean, error)
    sign = "below" if mean > 0 else "not below"
    sides = [  # a number in the claim is its own name
        " ".join(dict.fromkeys([name_of(arm), short(pairs[column].mean())]))
        for arm, column in zip(arms, ("value_x", "value_y"), strict=True)
    ]
    return Comparison(f"{sides[0]} {sign} {sides[1]}", mean, p_value)


def _single_error(arms: Sequence[str], pair: pd.Series) -> float | None:
    """The standard error of the difference of two numbers, None if unknown.

    It combines the errors of both changes against the base, paired by item, if both are known; the base's own change
    has error 0. Otherwise it combines the errors of both numbers.
    """

    def errors(name: str, *, base: float | None = None) -> list[float | None]:
        values = [pair[f"{name}_{side}"] for side in "xy"]
        defaults = [base if arm == BASE else None for arm in arms]
        return [default if pd.isna(v) else float(v) for v, default in zip(values, defaults, strict=True)]

    paired = errors("paired", base=0.0)
    is_paired = None not in paired and not (pd.isna(pair["paired_x"]) and pd.isna(pair["paired_y"]))
    return difference_error(*(paired if is_paired else errors("stderr")))


def _verdict(compared: Sequence[Comparison]) -> Verdict:
    """A claim is verified if all its comparisons are, and differs if one differs."""
    by_status = {status: [c.text for c in compared if c.status == status] for status in STATUSES}
    if by_status["differs"]:
        return Verdict("differs", "; ".join(by_status["differs"]))
    if by_status["undecided"]:
        unknown = any(c.p_value is None for c in compared)
        reason = "no error is known" if unknown else "inside the error"
        return Verdict("undecided", f"{reason}: {'; '.join(by_status['undecided'])}")
    shown = "; ".join(by_status["verified"])
    return Verdict("verified", shown if len(compared) < 4 else f"all {len(compared)} comparisons")


def name_of(arm: str) -> str:
    """The paper's name of a row; its label if it has none."""
    return NAMES.get(arm, arm)


def short(value: float) -> str:
    """A number as text: three decimals if it is below 2 in absolute value, else two."""
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"
