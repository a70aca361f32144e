"""Conditions on measured values: NAME<=BOUND or NAME>=BOUND."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
CONDITION = re.compile(r"\s*(?P<name>[^<>]*[^<>\s])\s*(?P<comparison><=|>=)\s*(?P<bound>.*\S)\s*")
BOUND = re.compile(rf"(?P<number>{NUMBER})|base(?:\s*(?P<sign>[-+*])\s*(?P<change>{NUMBER}))?")


@dataclass(frozen=True)
class Condition:
    """A condition on a value. Its bound is `factor` times the base's value plus `offset`, in the value's unit.

    text: as given. name: the left side. at_most: the comparison is <=, not >=.
    """

    text: str
    name: str
    at_most: bool
    factor: float
    offset: float

    @classmethod
    def parse(cls, text: str, *, relative: bool) -> Condition:
        """The condition in a text.

        relative: the bound may be a number, base, base+X, base-X or base*X; else only a number.
        Raises ValueError for anything else.
        """
        condition = CONDITION.fullmatch(text)
        bound = None if condition is None else BOUND.fullmatch(condition["bound"])
        if condition is None or bound is None or (bound["number"] is None and not relative):
            kinds = "a number, base, base+X, base-X or base*X" if relative else "a number"
            raise ValueError(f"write NAME<=BOUND or NAME>=BOUND in quotes; BOUND is {kinds}")
        number, sign, change = float(bound["number"] or 0), bound["sign"], float(bound["change"] or 0)
        factor = 0.0 if bound["number"] else change if sign == "*" else 1.0
        offset = number if bound["number"] else {"+": change, "-": -change}.get(sign, 0.0)
        return cls(text, condition["name"], condition["comparison"] == "<=", factor, offset)

    def bound(self, base: float) -> float:
        """The bound. base: the base's value."""
        return self.offset + (self.factor * base if self.factor else 0.0)

    def excess(self, value: float, base: float) -> float:
        """The distance of a value from the allowed side of the bound: 0 if the condition holds, infinity for NaN.

        A difference of rounding, 1e-9 of the bound, counts as 0.
        """
        bound = self.bound(base)
        if math.isclose(value, bound, rel_tol=1e-9):
            return 0.0
        excess = value - bound if self.at_most else bound - value
        return math.inf if math.isnan(excess) else max(0.0, excess)
