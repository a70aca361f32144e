"""Fonts for Korean labels in figures: whichever is installed, and if none is, the labels in Latin letters."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib import font_manager, ft2font

HANGUL = re.compile("[\uac00-\ud7a3]")
KNOWN = ("noto", "nanum", "malgun", "gothic", "batang", "myeongjo", "cjk", "pretendard", "undotum", "baekmuk", "source")
"""Words in the file names of common fonts with Hangul, which are looked into first."""
FALLBACK = "DejaVu Sans"
"""Comes with matplotlib; has no Hangul."""

INITIALS = ("g", "kk", "n", "d", "tt", "r", "m", "b", "pp", "s", "ss", "", "j", "jj", "ch", "k", "t", "p", "h")
VOWELS = (
    *("a", "ae", "ya", "yae", "eo", "e", "yeo", "ye", "o", "wa", "wae", "oe", "yo"),
    *("u", "wo", "we", "wi", "yu", "eu", "ui", "i"),
)
FINALS = (
    *("", "k", "k", "k", "n", "n", "n", "t", "l", "k", "m", "l", "l", "l", "p", "l", "m", "p", "p", "t", "t"),
    *("ng", "t", "t", "k", "t", "p", "t"),
)


def romanise(text: str) -> str:
    """Korean in Latin letters, syllable by syllable by the Revised Romanisation; other text as it is.

    What syllables do to each other's sounds is not looked at.
    """

    def syllable(found: re.Match[str]) -> str:
        initial, rest = divmod(ord(found[0]) - 0xAC00, len(VOWELS) * len(FINALS))
        vowel, final = divmod(rest, len(FINALS))
        return INITIALS[initial] + VOWELS[vowel] + FINALS[final]

    return HANGUL.sub(syllable, text)


def installed_fonts() -> list[Path]:
    """The font files of this machine, those first whose names promise Hangul."""
    files = sorted(Path(file) for file in font_manager.findSystemFonts())
    return sorted(files, key=lambda file: not any(word in file.name.lower() for word in KNOWN))


@functools.cache
def korean_font() -> str | None:
    """The family of an installed font with Hangul, made known to matplotlib; None where there is none."""
    return find_korean_font(installed_fonts())


def find_korean_font(files: Sequence[Path]) -> str | None:
    """The family of the first of these font files that has Hangul, None where none has; matplotlib then knows it and
    what stands beside it, of which its bold letters may be one."""
    for file in files:
        try:
            font = ft2font.FT2Font(file)
        except (OSError, RuntimeError):  # of a kind that matplotlib does not read
            continue
        if ord("\uac00") in font.get_charmap():
            for sibling in files:
                if sibling.parent == file.parent:
                    with contextlib.suppress(OSError, RuntimeError):
                        font_manager.fontManager.addfont(sibling)
            return font.family_name
    return None


def is_romanised(texts: Iterable[str]) -> bool:
    """Whether figures would show some of these texts in Latin letters, as no font has theirs."""
    return any(HANGUL.search(text) for text in texts) and korean_font() is None


def families(texts: Iterable[str]) -> list[str]:
    """The font families, for matplotlib, with which these texts can be drawn once `drawable` has seen them."""
    family = korean_font() if any(HANGUL.search(text) for text in texts) else None
    return [FALLBACK] if family is None else [FALLBACK, family]


def drawable(text: str) -> str:
    """A text as figures show it: Korean in Latin letters where no font has its own."""
    return romanise(text) if is_romanised([text]) else text
