"""Hooks of mkdocs: files of the repository that a page links to become files of the site, under their own paths."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()[^)#\s]+")
"""The target of a Markdown link or image, without its anchor."""


def on_files(files: Any, config: Any) -> Any:
    """Add the linked files outside docs, and those that they link to."""
    from mkdocs.structure.files import File

    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        if not source.endswith(".md"):
            continue
        for target in LINK.findall((ROOT / source).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            if path in seen or not (ROOT / path).is_file() or path.startswith("docs/"):
                continue
            seen.add(path)
            waiting.append(path)
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links into and out of docs point to the site's copies: in the site, docs is the root of the repository."""
    folder, root = posixpath.dirname(page.file.src_uri), "docs" if page_of_docs(page) else ""

    def inside(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(root, folder, match[0]))
        if path.startswith("docs/") == bool(root) or not (ROOT / path).is_file():
            return match[0]
        return posixpath.relpath(path.removeprefix("docs/"), folder or ".")

    return LINK.sub(inside, markdown)


def page_of_docs(page: Any) -> bool:
    """Whether a page lies in docs itself."""
    return (ROOT / "docs" / page.file.src_uri).is_file()
