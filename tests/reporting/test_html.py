"""The HTML page: self-contained, every number linked to its record, and rendered by a browser."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from scale_cli.reporting.compare import compare
from scale_cli.reporting.curves import Panel
from scale_cli.reporting.html import POLICY, html_page
from scale_cli.reporting.table import build_table
from tests.browser import Page, chromium, find_chromium
from tests.results.made import PLASTIC, STABLE, measured, result

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "records"
GIT = {"commit": "c" * 40, "clean": True}


class Elements(HTMLParser):
    """The page's elements as (tag, attributes), its texts, and its tables as rows of the cells' texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(attribute)) is not None]


@functools.cache
def page(label: str = "route") -> str:
    """A report of three checkpoints with curves and a comparison."""
    rows = [("base", None, 0.6, 0.1), ("fft", "fft", 0.4, 0.8), (label, "scale-route", 0.5, 0.7)]
    results = [
        result(name, method, [measured("a", a), measured("b", a), measured("k", k)], git=GIT)
        for name, method, a, k in rows
    ]
    table = build_table(results, [STABLE, PLASTIC])
    panel = Panel("English", "tokens", "perplexity", False, {"fft": {"0": [(0, 10.0), (5, 12.0)]}, label: {}})
    return html_page(table, panels=[panel], comparison=compare(table, "base", "fft"))


def test_links_lead_to_something_and_ids_are_one_element_s() -> None:
    elements = Elements(page())
    assert elements.open == []
    ids = elements.all("id")
    assert len(set(ids)) == len(ids)
    links = [link for link in elements.all("href") if link != "data:,"]
    assert len(links) > 20
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)


def test_every_number_leads_to_its_own_measurement() -> None:
    elements = Elements(page())
    values = re.findall(r'<a href="#([^"]+)">(\d+\.\d+)<span class="error">', page())
    targets = dict(values)
    assert targets["r1-a-acc-none-1-0-0-float32"] == "40.00"
    assert targets["r2-k-acc-none-1-0-0-float32"] == "70.00"
    assert "r1-a-acc-none-1-0-0-float32" in elements.all("id")


def test_the_record_says_by_which_command_and_commit() -> None:
    texts = Elements(page()).texts
    for text in ("scale eval", "c" * 40, "cccccccc", "runs/fft", b"fft".hex(), "2026-01-01T00:00:00+00:00"):
        assert text in texts
    records = [json.loads(text) for text in texts if text.startswith('{\n  "checkpoint"')]
    assert [record["checkpoint"]["label"] for record in records] == ["base", "fft", "route"]
    assert records[1]["measurements"][2]["value"] == 0.8


def test_nothing_comes_from_elsewhere() -> None:
    html = page()
    elements = Elements(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
    assert elements.all("src") == []
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}) in elements.found
    assert POLICY.startswith("default-src 'none';")


def test_labels_are_text_and_no_elements() -> None:
    hostile = "</script><b>&\"'"
    elements = Elements(page(hostile))
    assert elements.open == []
    assert hostile in elements.texts
    assert "b" not in [tag for tag, _ in elements.found]


def test_without_roles_there_is_no_trade_off_and_without_curves_none() -> None:
    html = html_page(build_table([result("x", "fft", [measured("z", 0.5)])], []))
    assert [heading in html for heading in ("Trade-off", "Curves", "Records", 'id="changes"')] == [
        False,
        False,
        True,
        False,
    ]
    assert "1 checkpoint, 1 measurement." in html


def test_it_says_what_is_reported() -> None:
    html = html_page(build_table([result("x", "fft", [measured("k", 0.5)], reported="a <paper>")], [PLASTIC]))
    assert "Reported by a &lt;paper&gt;; not measured here." in html


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The paper's table and the biography demo as pages."""
    from scale_cli.cli import main

    folder = tmp_path_factory.mktemp("reports")
    files = {name: folder / f"{name}.html" for name in ("paper-table1", "bios-demo")}
    for name, file in files.items():
        assert main(["report", str(RECORDS / f"{name}.json"), "--out", str(file)]) == 0
    return files


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def column(tab: Page, place: int, attribute: str = "sort") -> list[str]:
    """The values of a data attribute in a column of the table, from top to bottom."""
    return tab.run(
        f"[...document.querySelectorAll('.numbers tbody tr')].map(r => r.cells[{place}].dataset.{attribute} ?? '')"
    )


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["paper-table1", "bios-demo"])
def test_a_browser_shows_it(name: str, dark: bool, reports: dict[str, Path], browser: Page, tmp_path: Path) -> None:
    browser.messages.clear()
    browser.requests.clear()
    browser.open(reports[name], dark=dark)
    file = tmp_path / "page.png"
    browser.screenshot(file)
    assert browser.messages == []
    assert browser.requests == [reports[name].as_uri()]
    pixels = image.imread(file)[..., :3]
    ground = np.array([0x14, 0x17, 0x1B] if dark else [255, 255, 255]) / 255
    assert pixels.shape[1] == 1400
    assert pixels.shape[0] > 1200
    assert 0.5 < np.isclose(pixels, ground, atol=0.01).all(-1).mean() < 0.98
    boxes = browser.run(
        "Object.fromEntries([['plot', '#trade-off .plot'], ['table', '.numbers'], ['curves', '#curves .plot']].map("
        "([n, s]) => [n, document.querySelector(s)?.getBoundingClientRect().toJSON() ?? null]))"
    )
    for part in ("plot", "table", *(["curves"] if name == "bios-demo" else [])):
        box = {side: round(value) for side, value in boxes[part].items()}
        assert box["width"] > 400
        assert 0 <= box["left"] < box["right"] <= 1400
        inside = pixels[box["top"] : box["bottom"], box["left"] : box["right"]]
        assert len(np.unique((inside * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50
    assert browser.run("document.documentElement.scrollWidth") == 1400  # no horizontal overflow
    labels = browser.run("[...document.querySelectorAll('#trade-off .wide a text')].map(l => l.textContent)")
    assert len(labels) == (8 if name == "paper-table1" else 19)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper-table1", "bios-demo"])
def test_on_a_phone_every_method_is_on_the_screen(name: str, reports: dict[str, Path], browser: Page) -> None:
    browser.open(reports[name], dark=False, width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") == 390
    boxes = browser.run(
        "[...document.querySelectorAll('.narrow .plot, .narrow .plot a')].map(e => e.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) > 16  # the plot, and a point and a label per row
    assert all(0 <= box["left"] < box["right"] <= 390 for box in boxes)
    assert browser.run("getComputedStyle(document.querySelector('.wide')).display") == "none"
    hint = "getComputedStyle(document.querySelector('#table .scroll'), '::before').content"
    assert "scroll sideways" in browser.run(hint)
    browser.open(reports[name], dark=False, width=1440)
    assert browser.run(hint) == "none"


@pytest.mark.slow
def test_labels_in_the_plot_do_not_cover_each_other(reports: dict[str, Path], browser: Page) -> None:
    browser.open(reports["paper-table1"], dark=False)
    boxes = browser.run(
        "[...document.querySelectorAll('#trade-off .wide a text')].map(l => l.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 8
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            apart_x = box["right"] <= other["left"] or other["right"] <= box["left"]
            apart_y = box["bottom"] <= other["top"] + 4 or other["bottom"] <= box["top"] + 4
            assert apart_x or apart_y


@pytest.mark.slow
def test_the_table_sorts(reports: dict[str, Path], browser: Page) -> None:
    browser.open(reports["paper-table1"], dark=False)
    original = column(browser, 0)
    heads = browser.run("document.querySelectorAll('.numbers thead button').length")
    cells = browser.run("document.querySelector('.numbers tbody tr').cells.length")
    assert heads == cells == 13
    click = "document.querySelectorAll('.numbers thead button')[1].click()"  # ARC
    browser.run(click)
    values = [float(value) for value in column(browser, 1)]
    assert values == sorted(values, reverse=True)
    assert column(browser, 0)[:2] == ["Llama-3.2-1B", "SCALE-Preserve"]
    assert browser.run("document.querySelector('th[aria-sort]').textContent") == "ARC"
    browser.run(click)
    assert column(browser, 0)[0] == "Freeze"
    browser.run(click)
    assert column(browser, 0) == original
    browser.run("document.querySelectorAll('.numbers thead button')[7].click()")  # forgetting, which the base lacks
    assert column(browser, 0)[-1] == "Llama-3.2-1B"
    assert column(browser, 0)[0] == "Freeze"
    browser.run("document.querySelectorAll('.numbers thead button')[0].click()")
    assert column(browser, 0) == sorted(original, key=str.lower)


@pytest.mark.slow
def test_changes_light_and_dark_and_links(reports: dict[str, Path], browser: Page) -> None:
    browser.open(reports["paper-table1"], dark=False)
    shown = "[...document.querySelectorAll('.numbers tbody tr')][1].cells[1].innerText"
    assert browser.run(shown).split() == ["32.68", "±1.37"]
    browser.run("document.getElementById('changes').click()")
    assert browser.run(shown).split() == ["\N{MINUS SIGN}3.92", "±1.96"]
    assert browser.run("document.getElementById('changes').getAttribute('aria-pressed')") == "true"
    browser.run("document.getElementById('changes').click()")

    ground = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(ground) == "rgb(255, 255, 255)"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) == "rgb(20, 23, 27)"
    assert browser.run("document.getElementById('theme').textContent") == "light"

    assert not browser.run("document.getElementById('r1').open")
    browser.run("[...document.querySelectorAll('.numbers tbody tr')][1].cells[1].querySelector('.value a').click()")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run("document.getElementById('r1').open")
    assert browser.run("document.querySelector(':target').cells[0].textContent") == "arc_challenge"
    assert browser.run("document.querySelector(':target').getBoundingClientRect().top") < 1000


@pytest.mark.slow
def test_what_says_or_asks_for_something_would_be_seen(browser: Page, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.html"
    noisy.write_text("<script>console.error('x'); null.y</script><img src='other.png'>", encoding="utf-8")
    browser.messages.clear()
    browser.requests.clear()
    browser.open(noisy, dark=False)
    assert len(browser.messages) >= 2
    assert browser.requests == [noisy.as_uri(), (tmp_path / "other.png").as_uri()]


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(AssertionError, match="SCALE_CHROMIUM=/nowhere/chromium is no program"):
        find_chromium()
    monkeypatch.delenv("SCALE_CHROMIUM")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AssertionError, match="install chromium, or name one with SCALE_CHROMIUM=/path/to/chromium"):
        find_chromium()
