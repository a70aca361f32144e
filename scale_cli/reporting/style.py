"""The look of figures: one colour and one marker per method, the same everywhere, and letters for Korean labels."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from scale_cli.methods import METHODS


class Style(NamedTuple):
    """How a method is drawn. Readers who do not see all colours can tell methods apart too: the markers differ, and the
    methods of SCALE are filled where the others are hollow.

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
HANGUL = re.compile("[\uac00-\ud7a3]")


def style_of(method: str | None, section: str = "") -> Style:
    """How a row of the table is drawn."""
    return BASE if section == "base" else STYLES.get(method or "", OTHER)


@functools.cache
def korean_font() -> str | None:
    """The family of an installed font with Hangul, as matplotlib knows it; None where there is none."""
    from matplotlib import font_manager, ft2font

    likely = re.compile("noto|nanum|malgun|gothic|batang|myeongjo|cjk|undotum|baekmuk")  # which are looked into first
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda font: not likely.search(font.fname.lower()))
    for font in fonts:
        try:
            if ord("\uac00") in ft2font.FT2Font(font.fname).get_charmap():
                return font.name
        except (OSError, RuntimeError):  # gone since matplotlib looked, or of a kind that it does not read
            continue
    return None


def is_romanised(texts: Iterable[str]) -> bool:
    """Whether figures show some of these texts in Latin letters, as no font has theirs."""
    return any(map(HANGUL.search, texts)) and korean_font() is None


def families(texts: Iterable[str]) -> list[str]:
    """The font families, for matplotlib, that draw these texts once `drawable` has seen them."""
    korean = korean_font() if any(map(HANGUL.search, texts)) else None
    return ["DejaVu Sans", *([korean] if korean else [])]


def drawable(text: str) -> str:
    """A text as figures show it: where no font has Hangul, in Latin letters, syllable by syllable by their names in
    Unicode; not in a page, whose reader has the fonts."""
    import matplotlib

    if matplotlib.rcParams["svg.fonttype"] == "none" or not is_romanised([text]):
        return text
    return HANGUL.sub(lambda found: unicodedata.name(found[0]).removeprefix("HANGUL SYLLABLE ").lower(), text)
