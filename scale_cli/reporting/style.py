"""The look of figures: one colour and one marker per method in all figures, and fonts for Korean labels."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from scale_cli.methods import METHODS


class Style(NamedTuple):
    """The look of a method. Methods also differ without colour: by marker, and SCALE's are filled, others hollow.

    colour: on white, contrast at least 3:1. dark: on the page's dark background, contrast at least 3:1.
    marker: matplotlib's code. filled: False draws the outline only.
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
    """The style of a row of the table; OTHER for an unknown method."""
    return BASE if section == "base" else STYLES.get(method or "", OTHER)


@functools.cache
def korean_font() -> str | None:
    """The family, in matplotlib's spelling, of an installed font with Hangul; None without one."""
    from matplotlib import font_manager, ft2font

    likely = re.compile("noto|nanum|malgun|gothic|batang|myeongjo|cjk|undotum|baekmuk")  # these are opened first
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda font: not likely.search(font.fname.lower()))
    for font in fonts:
        try:
            if ord("\uac00") in ft2font.FT2Font(font.fname).get_charmap():
                return font.name
        except (OSError, RuntimeError):  # deleted since matplotlib listed it, or of an unsupported format
            continue
    return None


def is_romanised(texts: Iterable[str]) -> bool:
    """Whether figures romanise some of these texts, as no installed font has Hangul."""
    return any(map(HANGUL.search, texts)) and korean_font() is None


def families(texts: Iterable[str]) -> list[str]:
    """matplotlib's font families for these texts, after `drawable`."""
    korean = korean_font() if any(map(HANGUL.search, texts)) else None
    return ["DejaVu Sans", *([korean] if korean else [])]


def drawable(text: str) -> str:
    """A text as shown in figures. Without a font for Hangul, its syllables are romanised by their Unicode names.

    Figures in a page keep Hangul, as the browser has fonts.
    """
    import matplotlib

    if matplotlib.rcParams["svg.fonttype"] == "none" or not is_romanised([text]):
        return text
    return HANGUL.sub(lambda syllable: unicodedata.name(syllable[0]).removeprefix("HANGUL SYLLABLE ").lower(), text)
