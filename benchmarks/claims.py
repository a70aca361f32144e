"""The paper's claims put to the numbers of a record: which sign each comparison has, and how sure that is."""

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
SIGNIFICANT = 0.05
LINEAR = 0.9
EARLY = 4_000 / 62_500
"""The share of Task 1 through which the paper's SCALE-Route holds Task 0."""
COLUMNS = ("arm", "seed", "field", "value", "stderr", "paired")
Record = Mapping[str, Any]

Status = Literal["verified", "differs", "undecided", "not run"]
STATUSES: tuple[Status, ...] = ("verified", "differs", "undecided", "not run")
NAMES = {BASE: "base"} | {name: method.title for name, method in METHODS.items()}


@dataclass(frozen=True)
class Verdict:
    """status: what became of a claim in a record. why: the comparisons behind it, in words."""

    status: Status
    why: str


@dataclass(frozen=True)
class Comparison:
    """Two rows in one field, or a row and a number.

    text: what was compared, with the means. difference: the upper one minus the lower one, as claimed.
    p_value: two-sided, of no difference; None where no error is known.
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
    """A record's numbers, one per line: `arm`, the row's label; `seed`, None where there are no seeds, as of a base:
    it is compared with every seed; `field`; `value`; `stderr`, from the measured items; `paired`, that of the change
    against the base, by the items that both were measured on. NaN where an error is not known.

    Fields of results are TASK/METRIC, and what is made of these: "average/SUITE", "early TASK/METRIC" and
    "hidden_states_equal". Those of other records are the fields of their rows.
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
    made = [
        (arm, result.checkpoint.seed, *number)
        for arm, result in zip(arms, results, strict=True)
        for number in (*_averages(result, groups), *_early(arm, result), *_half(result))
    ]
    return pd.concat([measured, _frame(made)], ignore_index=True) if made else measured


def _frame(lines: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=list(COLUMNS), dtype=object)
    return table.astype(dict.fromkeys(COLUMNS[3:], float))


def _arm(row: Record) -> str:
    if "by" in row:  # of fidelity, which has a row for each text
        return f"{row['by']}, {row['text']}"
    return str(row.get("label") or row.get("model") or BASE)


Number = tuple[str, float, float | None, float | None]
"""A field, its value, and the two errors."""


def _averages(result: Result, groups: Sequence[GroupSpec]) -> Iterator[Number]:
    """The averages of Table 1's suites, or of the record's own suite of the language where it has other tasks."""
    values = {m.name: (m.value, m.stderr) for m in result.measurements}
    for suite in suites():
        own = [group for group in groups if group.title.startswith(suite.title) and not group.name.endswith("-text")]
        for columns in ([f"{entry.task}/{entry.metric}" for entry in suite.entries], *map(_columns, own)):
            if all(column in values for column in columns):
                found = [values[column] for column in columns]
                mean = math.fsum(value for value, _ in found) / len(found)
                yield average(suite), mean, mean_error([error for _, error in found]), None
                break


def _columns(group: GroupSpec) -> list[str]:
    return [f"{column.task}/{column.metric}" for column in group.columns]


def _early(arm: str, result: Result) -> Iterator[Number]:
    """Accuracy on Task 0 early in Task 1, from the record's curves."""
    name = "bios:task0/hard"
    last = next((m for m in result.measurements if m.name == name), None)
    panels = result.record.get("curves") or ()
    runs = panels[0]["series"].get(arm, {}) if last is not None and panels else {}
    curve = runs.get(str(result.checkpoint.seed))
    if curve and last is not None:
        value = next(value for step, value in curve if step >= EARLY * curve[-1][0])
        yield f"early {name}", value, share_error(value, last.samples), None


def _half(result: Result) -> Iterator[Number]:
    """Whether the base's half of every hidden state is the base's, under the method that promises it."""
    found = [m.details["hidden_states_equal"] for m in result.measurements if "hidden_states_equal" in m.details]
    method = METHODS.get(result.checkpoint.method or "")
    if found and method is not None and method.keeps_base:
        yield "hidden_states_equal", float(all(found)), None, None


def average(suite: Suite) -> str:
    """The field of a suite's average."""
    return f"average/{suite.name}"


@functools.cache
def suites() -> tuple[Suite, ...]:
    """Those of Table 1."""
    return find_suite("english"), find_suite("korean")


# Testing claims


def judge(claim: Record, numbers: pd.DataFrame) -> Verdict:
    """What becomes of a claim in the numbers of a record. `not run` where they lack a row or a field that it names."""
    named = [arm for arm in _arms(claim) if isinstance(arm, str) and arm != ALL]
    concerned = numbers[numbers["arm"].isin(named)] if named else numbers
    if missing := [arm for arm in dict.fromkeys(named) if arm not in set(concerned["arm"])]:
        return Verdict("not run", f"the record has no row {', '.join(map(name_of, missing))}")
    rows = len(concerned[["arm", "seed"]].drop_duplicates())
    fields = [claim["field"], *([claim["linear_in"]] if "linear_in" in claim else [])]
    if missing := [name for name in fields if len(_field(concerned, name)) < rows]:
        return Verdict("not run", f"the record has no {' and no '.join(missing)}")
    if "exactly" in claim:
        return _judge_exact(claim, _field(concerned, claim["field"]))
    if "linear_in" in claim:
        return _judge_linear(*(_field(concerned, name) for name in fields))
    return _verdict(list(comparisons(claim["rising"], _field(concerned, claim["field"]))))


def _field(numbers: pd.DataFrame, name: str) -> pd.DataFrame:
    """The numbers of a field, the latest of each row."""
    return numbers[numbers["field"] == name].drop_duplicates(["arm", "seed"], keep="last")


def _arms(claim: Record) -> list[str | float]:
    if "exactly" in claim:
        return list(claim["exactly"])
    return [arm for group in claim.get("rising", [claim.get("among", ())]) for arm in group]


def _judge_exact(claim: Record, numbers: pd.DataFrame) -> Verdict:
    wanted = claim["exactly"]
    wrong = [
        f"{name_of(arm)} {value:.3g}"
        for arm, value in zip(numbers["arm"], numbers["value"], strict=True)
        if value != wanted.get(arm, wanted.get(ALL))
    ]
    if wrong:
        return Verdict("differs", f"not exact: {', '.join(wrong)}")
    return Verdict("verified", f"in all {len(numbers)} rows" if len(numbers) > 1 else "in the row")


def _judge_linear(y: pd.DataFrame, x: pd.DataFrame) -> Verdict:
    from scipy import stats

    if len(x) < 3:
        return Verdict("undecided", f"{len(x)} rows are too few for a line")
    found = float(stats.pearsonr(x["value"], y["value"]).statistic)
    return Verdict("verified" if found >= LINEAR else "differs", f"correlation {found:.3f} over {len(x)} rows")


def comparisons(groups: Sequence[Sequence[str | float]], numbers: pd.DataFrame) -> Iterator[Comparison]:
    """Every row of a group with every row of the next, whose value is claimed to be higher. numbers: of one field."""
    for lower_group, upper_group in itertools.pairwise(groups):
        for lower, upper in itertools.product(lower_group, upper_group):
            yield compare(_side(lower, numbers), _side(upper, numbers))


def _side(arm: str | float, numbers: pd.DataFrame) -> pd.DataFrame:
    if isinstance(arm, str):
        return numbers[numbers["arm"] == arm]
    return _frame([(short(arm), None, "", float(arm), 0.0, None)])  # a number of the claim, known exactly


def compare(lower: pd.DataFrame, upper: pd.DataFrame) -> Comparison:
    """One side of a comparison with the other, on their common seeds, or on all where one has none."""
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
    words = [  # a number is its own name
        " ".join(dict.fromkeys([name_of(arm), short(pairs[column].mean())]))
        for arm, column in zip(arms, ("value_x", "value_y"), strict=True)
    ]
    return Comparison(f"{words[0]} {sign} {words[1]}", mean, p_value)


def _single_error(arms: Sequence[str], pair: pd.Series) -> float | None:
    """The standard error of the difference of two numbers: from those of their changes against the base, which are
    paired by item and of the base's own none, where both have one; else from those of their items."""

    def known(name: str, *, base: float | None = None) -> list[float | None]:
        values = [pair[f"{name}_{side}"] for side in "xy"]
        defaults = [base if arm == BASE else None for arm in arms]
        return [default if pd.isna(v) else float(v) for v, default in zip(values, defaults, strict=True)]

    paired = known("paired", base=0.0)
    is_paired = None not in paired and not (pd.isna(pair["paired_x"]) and pd.isna(pair["paired_y"]))
    return difference_error(*(paired if is_paired else known("stderr")))


def _verdict(found: Sequence[Comparison]) -> Verdict:
    """The claim holds where all its comparisons do, and differs where one does."""
    by_status = {status: [one.text for one in found if one.status == status] for status in STATUSES}
    if by_status["differs"]:
        return Verdict("differs", "; ".join(by_status["differs"]))
    if by_status["undecided"]:
        unknown = [one for one in found if one.p_value is None]
        reason = "no error is known" if unknown else "inside the error"
        return Verdict("undecided", f"{reason}: {'; '.join(by_status['undecided'])}")
    shown = "; ".join(by_status["verified"])
    return Verdict("verified", shown if len(found) < 4 else f"all {len(found)} comparisons")


def name_of(arm: str) -> str:
    """A row's name as the paper writes it."""
    return NAMES.get(arm, arm)


def short(value: float) -> str:
    """A number with three digits or so."""
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"
