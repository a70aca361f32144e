"""Korean labels in figures, with a font that has Hangul and without one."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

from scale_cli.reporting import fonts

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@pytest.fixture
def no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "korean_font", lambda: None)


@pytest.mark.parametrize(
    ("korean", "latin"),
    [
        ("한국어", "hangukeo"),
        ("라마 프로", "rama peuro"),
        ("부산", "busan"),
        ("전주", "jeonju"),
        ("꽃", "kkot"),
        ("값", "gap"),
        ("KoBEST 코파", "KoBEST kopa"),
        ("힣", "hit"),
        ("가", "ga"),
        ("English", "English"),
    ],
)
def test_romanised(korean: str, latin: str) -> None:
    assert fonts.romanise(korean) == latin


def test_without_a_font_korean_labels_are_romanised(no_font: None) -> None:
    assert fonts.drawable("한국어 A") == "hangukeo A"
    assert fonts.is_romanised(["A", "한국어"])
    assert not fonts.is_romanised(["A", "B"])
    assert fonts.families(["한국어"]) == ["DejaVu Sans"]


def test_with_a_font_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "korean_font", lambda: "NanumGothic")
    assert fonts.drawable("한국어") == "한국어"
    assert not fonts.is_romanised(["한국어"])
    assert fonts.families(["한국어"]) == ["DejaVu Sans", "NanumGothic"]
    assert fonts.families(["Korean"]) == ["DejaVu Sans"]


def test_no_font_is_looked_for_without_hangul(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "korean_font", lambda: pytest.fail("looked for a font"))
    assert fonts.drawable("Korean") == "Korean"


def test_a_font_is_found_by_its_letters(tmp_path: Path) -> None:
    """By what is in the file, not by its name."""
    lying = tmp_path / "NotoSansCJK.ttf"
    lying.write_bytes(DEJAVU.read_bytes())
    broken = tmp_path / "Nanum.ttf"
    broken.write_text("no font", encoding="utf-8")
    assert fonts.find_korean_font([broken, lying, DEJAVU]) is None
    korean = hangul_font(tmp_path / "mine.ttf")
    assert fonts.find_korean_font([broken, lying, korean]) == "Test Hangul"


def hangul_font(file: Path) -> Path:
    """A font with one syllable, a square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for move, point in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 700)), (pen.lineTo, (700, 700)), (pen.lineTo, (700, 0))):
        move(point)
    pen.closePath()
    square = pen.glyph()
    syllables = dict.fromkeys(range(0xAC00, 0xD7A4), "square")
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap(syllables)
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test Hangul", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)
    return file


def test_fonts_that_promise_hangul_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["/f/Aaa.ttf", "/f/NanumGothic.ttf", "/f/Zzz.ttf", "/f/NotoSansCJK-Regular.ttc"]
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: found)
    names = [file.name for file in fonts.installed_fonts()]
    assert names == ["NanumGothic.ttf", "NotoSansCJK-Regular.ttc", "Aaa.ttf", "Zzz.ttf"]
