"""Figures as SVG elements of a page: in the page's font, with colours for its light and dark scheme, and tooltips."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib

from scale_cli.reporting.drawing import GRID, QUIET, RULE, WHITE
from scale_cli.reporting.style import BASE, OTHER, STYLES

DARK = {style.colour: style.dark for style in (*STYLES.values(), BASE, OTHER)} | {
    QUIET: "#a2abb5",
    RULE: "#69727d",
    GRID: "#343b44",
    WHITE: "#14171b",
}
"""For each colour, its counterpart on the page's dark background."""


TITLE = "title:"
"""Prefix of the id of an element that carries its tooltip, until `inline_svg` makes it a `title` element."""


def tooltip(artist: Any, text: str) -> None:
    """Set the tooltip of a part of a figure, if the figure is for a page."""
    if matplotlib.rcParams["svg.fonttype"] == "none":
        artist.set_gid(f"{TITLE}{text}")


def inline_svg(draw: Callable[[io.StringIO], None], *, name: str, label: str) -> str:
    """A figure as an SVG element of a page, in the page's font, with colours for its light and dark scheme.

    draw: writes the figure into a buffer. name: prefix of the ids in the drawing. label: description for screen
    readers. The figure's texts are escaped.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has the fonts
        draw(buffer)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]  # elements in a page have no namespace
        for child in list(element):
            if child.tag.endswith(("metadata", "style")):
                element.remove(child)
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        part = attributes.pop("id", "")
        element.attrib.clear()
        if part.startswith(TITLE):
            title = ElementTree.Element("title")
            title.text = part.removeprefix(TITLE)
            element.insert(0, title)
        elif part:
            element.set("id", f"{name}-{part}")
        for key, value in attributes.items():
            if key == "href" and element.tag == "use":
                value = f"#{name}-{value[1:]}"
            elif key == "clip-path":
                value = value.replace("url(#", f"url(#{name}-")
            elif key == "style":
                for light, dark in DARK.items():
                    value = value.replace(light, f"light-dark({light}, {dark})")
            element.set(key, value)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"class": "plot", "role": "group", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")
