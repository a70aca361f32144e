"""The suites that are shipped, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from scale_cli.errors import RequestError
from scale_cli.evaluation.suites import Suite, load_suite

_FOLDER = Path(__file__).parent
_FETCHED = ("english-offline", "korean-offline")
"""Suites that come with their data, by `benchmarks.fetch`."""


def names() -> list[str]:
    """The shipped suites' names."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def find_suite(word: str) -> Suite:
    """The shipped suite of that name, or the one in a file or folder of the user's own.

    Raises RequestError for a word that is neither.
    """
    if word in names():
        return load_suite(_FOLDER / f"{word}.yaml")
    if Path(word).exists():
        return load_suite(Path(word))
    if word in _FETCHED:
        raise RequestError(
            f"--suite {word}: it comes with its data; make it with python -m benchmarks.fetch {word} OUT, "
            "give --suite OUT"
        )
    near = difflib.get_close_matches(word, names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(names())}, or give a YAML file of your own"
    raise RequestError(f"--suite {word}: neither a shipped suite nor a file; {hint}")
