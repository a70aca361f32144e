"""One colour and one marker a method, the same in every figure. Told apart by people who do not see all colours too:
the markers differ, and the methods of SCALE are filled where the others are hollow."""

from __future__ import annotations

from typing import NamedTuple


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
    "fft": Style("#c8452d", "#ff7f66", "o", False),
    "lora": Style("#a86f00", "#e3ad4f", "s", False),
    "freeze": Style("#6b7280", "#a3acb8", "v", False),
    "llama-pro": Style("#8a4f9e", "#cb9fe0", "^", False),
    "scale-preserve": Style("#0f7f5c", "#43c99c", "o", True),
    "scale-adapt": Style("#1f86bd", "#63b9ea", "s", True),
    "scale-route": Style("#1b4fa8", "#86abff", "D", True),
}
BASE = Style("#1d2126", "#e9ebee", "X", True)
OTHER = Style("#8c5a3c", "#d2a184", "P", False)


def style_of(method: str | None, section: str) -> Style:
    """How a row of the table is drawn."""
    return BASE if section == "base" else STYLES.get(method or "", OTHER)
