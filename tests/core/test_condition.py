"""Conditions on values: their grammar, and values on and near the bound."""

from __future__ import annotations

import math

import pytest

from scale_cli.core.condition import Condition


@pytest.mark.parametrize(
    ("text", "name", "at_most", "bound"),
    [
        ("en/bits_per_byte<=base+0.01", "en/bits_per_byte", True, 2.01),
        (" task 0/hard >= base - 5e-2 ", "task 0/hard", False, 1.95),
        ("en<=base*1.5", "en", True, 3.0),
        ("en<=base*0", "en", True, 0.0),
        ("en>=base", "en", False, 2.0),
        ("a=b.gain>=-.5", "a=b.gain", False, -0.5),
        ("en<=1.", "en", True, 1.0),
    ],
)
def test_a_condition(text: str, name: str, at_most: bool, bound: float) -> None:
    condition = Condition.parse(text, relative=True)
    assert (condition.text, condition.name, condition.at_most) == (text, name, at_most)
    assert condition.bound(2.0) == pytest.approx(bound, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        *("", "en", "<=1", "en<1", "en==1", "en<=", "en<==1", "en<=nan", "en<=inf", "en<=1e", "en<=1%"),
        *("en<=base/2", "en<=1+base", "en<=base+base", "en<=base 1", "0<=en<=1"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write NAME<=BOUND or NAME>=BOUND in quotes; BOUND is a number, base, "):
        Condition.parse(text, relative=True)


def test_a_bound_relative_to_the_base_only_if_it_is_allowed() -> None:
    assert Condition.parse("en<=1", relative=False) == Condition.parse("en<=1", relative=True)
    with pytest.raises(ValueError, match=r"BOUND is a number$"):
        Condition.parse("en<=base", relative=False)


def test_the_distance_from_the_bound() -> None:
    at_most, at_least = (Condition.parse(f"en{sign}0.29", relative=True) for sign in ("<=", ">="))
    assert [at_most.excess(value, math.nan) for value in (0.1, 0.29, 0.5)] == [0.0, 0.0, pytest.approx(0.21)]
    assert [at_least.excess(value, math.nan) for value in (0.1, 0.29, 0.5)] == [pytest.approx(0.19), 0.0, 0.0]
    assert 0.5 - 0.21 > 0.29  # by rounding
    assert at_most.excess(0.5 - 0.21, math.nan) == 0.0
    assert at_most.excess(0.29 * (1 + 1e-6), math.nan) > 0
    assert at_most.excess(math.nan, math.nan) == at_most.excess(math.inf, math.nan) == math.inf
