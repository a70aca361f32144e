"""Requirements on a table's numbers: names, units, intervals, and refused requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scale_cli.reporting.requirements import count, judge, requirements_frame, requirements_sheet
from scale_cli.reporting.statistics import half_width, paired_error
from scale_cli.reporting.table import Table, build_table
from scale_cli.results.groups import GroupSpec
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result
from tests.helpers import refusal
from tests.results.made import PLASTIC, STABLE, measured, result, scored


def texts(bits: float, *, stderr: float | None = 0.01) -> list[Measurement]:
    """Two metrics of a text, one metric of another kind with the same name, and a biography accuracy."""
    return [
        measured("perplexity:en", 2**bits, stderr, "perplexity"),
        measured("perplexity:en", bits, stderr, "bits_per_byte"),
        measured("drift:en", 0.5, None, "kl", higher_is_better=False),
        measured("bios:task0", 0.6, 0.01, "hard"),
        measured("bios:task0", 0.5, 0.01, "soft"),
    ]


def small(*more: Result, groups: tuple[GroupSpec, ...] = (STABLE, PLASTIC)) -> Table:
    """A base and two methods; Korean is gained, and English lost by fft, with independent errors of 0.01 each."""
    values = {"base": (0.6, 0.4, 0.1), "fft": (0.5, 0.3, 0.8), "scale-route": (0.6, 0.4, 0.11)}
    results = [
        result(
            label,
            None if label == "base" else label,
            [measured("a", a), measured("b", b), measured("k", k), *texts(1.0 if label == "base" else 1.1)],
        )
        for label, (a, b, k) in values.items()
    ]
    return build_table([*results, *more], groups)


def outcomes(table: Table, requirement: str) -> dict[str, str]:
    return {verdict.row: verdict.outcome for verdict in judge(table, [requirement])}


@pytest.mark.parametrize(
    ("requirement", "fft", "route"),
    [
        ("en.forgetting<=1.0", "not met", "not decided"),  # the suite; 10 and 0 points, interval +-1.96
        ("en.forgetting<=2.0", "not met", "met"),
        ("en.forgetting<=11", "not decided", "met"),
        ("en.forgetting>=8", "met", "not met"),
        ("en.gain>=-2", "not met", "met"),  # the same change with the other sign
        ("en.average>=45", "not met", "met"),
        ("a.acc>=50", "not decided", "met"),
        ("ko.gain>=2.0", "met", "not decided"),  # 70 and 1 points
        ("k.gain>=2.0", "met", "not decided"),  # the same column by its task
        ("perplexity:en.forgetting<=0.2", "met", "met"),  # bits per byte, in which lower is better
        ("perplexity:en.forgetting<=0.05", "not met", "not met"),
        ("perplexity:en=perplexity.forgetting<=0.2", "met", "met"),
        ("perplexity:en.perplexity<=2.1", "not met", "not met"),
        ("en.bits_per_byte<=1.2", "met", "met"),  # the suite has no such metric, the text has
        ("en.kl<=0.5", "met", "met"),  # no error is known
        ("en.kl<=0.49", "not met", "not met"),
        ("task0.forgetting<=3", "met", "met"),
        ("task0.soft<=53", "met", "met"),
    ],
)
def test_the_outcome_per_row(requirement: str, fft: str, route: str) -> None:
    assert outcomes(small(), requirement) == {"fft": fft, "scale-route": route}


def test_the_error_of_a_change_is_paired(tmp_path: Path) -> None:
    before = {"k": [1, 0] * 20}
    after = {"k": [1, 1] * 2 + [1, 0] * 18}
    table = build_table([scored("base", None, before, tmp_path), scored("fft", "fft", after, tmp_path)], [PLASTIC])
    (verdict,) = judge(table, ["k.gain>=0"])
    error = paired_error(before["k"], after["k"])
    assert error is not None
    assert verdict.value == pytest.approx(0.05)
    assert (verdict.low, verdict.high) == pytest.approx((0.05 - 1.96 * error, 0.05 + 1.96 * error), rel=1e-4)
    assert outcomes(table, "k.gain>=-5") == {"fft": "met"}  # two independent errors of 0.08 would not decide it


def test_repetitions_are_judged_by_their_mean_over_seeds() -> None:
    base = result("base", None, [measured("k", 0.1)])
    runs = [result(f"fft seed {s}", "fft", [measured("k", 0.5 + 0.1 * s)], seed=s) for s in range(3)]
    table = build_table([base, *runs], [PLASTIC], seeds=True)
    (verdict,) = judge(table, ["ko.gain>=20"])
    assert verdict.outcome == "met"
    assert verdict.value == pytest.approx(0.5)
    # Student's t with two degrees of freedom, 4.303, and a deviation of 0.1 over three seeds
    assert verdict.low == pytest.approx(0.5 - 4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert outcomes(table, "ko.gain>=27") == {"fft": "not decided"}
    assert half_width(0.1, 1) == pytest.approx(0.195996, rel=1e-5)


def test_a_row_without_the_number_is_not_decided() -> None:
    table = small(result("lora", "lora", [measured("a", 0.9)]))
    assert outcomes(table, "en.forgetting<=50")["lora"] == "not decided"
    assert outcomes(table, "a.forgetting<=50")["lora"] == "met"
    verdicts = judge(table, ["en.forgetting<=50"])
    assert count(verdicts) == "2 met, 0 not met, 1 not decided"
    assert requirements_frame(verdicts)["value"].tolist() == [pytest.approx(10), None, pytest.approx(0)]


def test_a_value_of_rounding_is_on_its_bound() -> None:
    table = build_table([result("fft", "fft", [measured("k", 0.5 - 0.21, 0.0)])], [PLASTIC])
    assert 100 * (0.5 - 0.21) > 29
    assert outcomes(table, "k.acc<=29") == outcomes(table, "k.acc>=29") == {"fft": "met"}


def test_the_base_is_judged_only_if_it_is_alone() -> None:
    assert list(outcomes(small(), "k.acc>=5")) == ["fft", "scale-route"]
    alone = build_table([result("base", None, [measured("k", 0.1)])], [PLASTIC])
    assert outcomes(alone, "k.acc>=5") == {"base": "met"}
    bases = [result(f"base seed {seed}", None, [measured("k", 0.1)]) for seed in (0, 1)]
    assert list(outcomes(build_table([*bases, result("fft", "fft", [measured("k", 0.1)])], [PLASTIC]), "k.acc>=5")) == [
        "fft"
    ]


def test_the_sheet() -> None:
    sheet = requirements_sheet(judge(small(), ["en.forgetting<=1.0", "perplexity:en.bits_per_byte<=1.2"]))
    rows = [[[entry.text for entry in row] for row in section] for section in sheet.sections]
    minus = "\N{MINUS SIGN}"
    assert [heading.label for heading in sheet.headings] == [
        *("requirement", "checkpoint", "value", "95% interval", "verdict")
    ]
    assert rows == [
        [
            ["en.forgetting<=1.0", "fft", "10.00", "8.04 to 11.96", "not met"],
            ["en.forgetting<=1.0", "scale-route", "0.00", f"{minus}1.96 to 1.96", "not decided"],
        ],
        [
            ["perplexity:en.bits_per_byte<=1.2", "fft", "1.100", "1.080 to 1.120", "met"],
            ["perplexity:en.bits_per_byte<=1.2", "scale-route", "1.100", "1.080 to 1.120", "met"],
        ],
    ]


NAMES = "en, ko, a, b, k, perplexity:en, drift:en, bios:task0"


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("x.gain>=1", f"nothing here is named x; choose from {NAMES}"),
        (
            "k.gain",
            "write NAME<=BOUND or NAME>=BOUND in quotes; BOUND is a number in the table's unit, points for shares, as "
            "in english.forgetting<=1.0",
        ),
        ("k>=1", f"write NAME.QUANTITY before the comparison, as in k.forgetting; NAME is one of {NAMES}"),
        ("k.gian>=1", "k has no gian; choose from forgetting, gain, or a metric of it: acc"),
        ("k=f1.gain>=1", "k has no f1; choose from forgetting, gain, or a metric of it: acc"),
        ("drift:en=cosine.gain>=1", "drift:en has no cosine; choose from forgetting, gain, or a metric of it: kl"),
    ],
)
def test_what_is_refused(requirement: str, message: str) -> None:
    assert refusal(judge, small(), [requirement]) == f"--require {requirement}: {message}"


def test_a_name_of_several_columns_is_refused() -> None:
    two = [measured("t", 0.5), measured("t", 0.5, metric="acc_norm")]
    assert (
        refusal(judge, build_table([result("fft", "fft", two)], []), ["t.gain>=1"])
        == "--require t.gain>=1: t has several columns; name one: t=acc, t=acc_norm"
    )
    limited = [measured("k", 0.5), measured("k", 0.5, limit=10)]
    assert refusal(judge, build_table([result("fft", "fft", limited)], [PLASTIC]), ["k.acc>=1"]) == (
        "--require k.acc>=1: k has several columns; give results of one way to measure k=acc"
    )


def test_a_change_needs_a_base_with_the_number() -> None:
    base, fft = result("base", None, [measured("a", 0.5)]), result("fft", "fft", [measured("k", 0.5)])
    for results, message in (
        ([fft], "there is no base to compare with; choose it with --base, from fft"),
        ([replace(base, measurements=fft.measurements)], "there is only the base, base; give other results too"),
        (
            [base, fft],
            "K was not measured for both the base, base, and another checkpoint; measure it for both with scale eval",
        ),
    ):
        assert refusal(judge, build_table(results, [PLASTIC]), ["k.gain>=1"]) == f"--require k.gain>=1: {message}"
