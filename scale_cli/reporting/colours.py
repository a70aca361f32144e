"""One colour and one marker a method, the same in every figure. Told apart by people who do not see all colours too:
the markers differ, and the methods of SCALE are filled where the others are hollow."""

from __future__ import annotations

from typing import NamedTuple

from scale_cli.methods import METHODS


class Style(NamedTuple):
    """How a method is drawn.

    colour: on white; at least 3 to 1 against it. dark: the same on a dark ground.
    marker: matplotlib's letter. filled: or only its outline.
    """

    colour: str
    dark: str
    marker: str
    filled: bool


STYLES = {
    name: Style(*method.look, filled=method.group == "SCALE")
    for name, method in METHODS.items()
    if method.look is not None
}
BASE = Style("#1d2126", "#e9ebee", "X", True)
OTHER = Style("#8c5a3c", "#d2a184", "P", False)


def style_of(method: str | None, section: str) -> Style:
    """How a row of the table is drawn."""
    return BASE if section == "base" else STYLES.get(method or "", OTHER)
