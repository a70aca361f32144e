"""The documentation: generated pages are up to date, links lead to files and headings, lines are short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docs import generate

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
DOORS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)


def prose(text: str) -> str:
    """Markdown without fenced and indented code."""
    return re.sub(r"^ {4}(?! *[-*\d]).*$", "", FENCE.sub("", text), flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def broken(page: Path) -> Iterator[str]:
    """The relative links of a page that lead to no file, or to no heading of a page."""
    for link in LINK.findall(CODE.sub("", prose(page.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_the_pages_of_commands_are_generated() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in generate.COMMANDS.glob("*.md")}
    assert pages == generate.pages(), "run: python -m docs.generate"


@pytest.mark.parametrize("page", [*DOORS, *DOCS], ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\n[a](#a-heading) [b](#b) [c](c.md)\n[d](page.md#a-heading) [e](https://example.org)\n"
    )
    assert list(broken(page)) == ["#b", "c.md"]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    """Tables may be wider, and so may the output of a command."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "    "))] == []


def test_every_page_is_in_the_navigation() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w/-]+\.md", str(yaml.safe_load(settings)["nav"]))
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in DOCS)
