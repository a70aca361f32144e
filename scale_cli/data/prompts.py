"""Prompts from a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from scale_cli.core.errors import RequestError
from scale_cli.data.sources import FileSource, find_source
from scale_cli.data.texts import has_rows, read_texts

STDIN = "-"


def read_prompts(source: str) -> list[str]:
    """The prompts of a source, without blank ones.

    source: "-" for standard input, or files as `find_source` takes them. Each line of standard input and of a .txt file
        is a prompt, and each row of the other formats, which may hold line breaks.
    Raises RequestError for a source that cannot be read or holds no prompt.
    """
    option = f"--prompts {source}"
    if source == STDIN:
        try:
            texts: Iterable[str] = sys.stdin.read().splitlines()
        except UnicodeDecodeError as error:
            raise RequestError(f"{option}: standard input is not UTF-8: {error}") from error
    else:
        found = find_source(option, source)
        if not isinstance(found, FileSource):
            raise RequestError(f"{option}: no such file; give a file, or - for standard input")
        texts = (
            prompt
            for file in found.files
            for text in read_texts([file], found.field)
            for prompt in ([text] if has_rows(file) else text.splitlines())
        )
    prompts = [text for text in texts if text.strip()]
    if not prompts:
        raise RequestError(f"{option}: there is no prompt in it")
    return prompts
