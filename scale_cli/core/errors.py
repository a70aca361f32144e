"""The error type for mistakes in a user's request, and the text of others in what is printed."""

import re


class RequestError(ValueError):
    """A mistake in the request. The message is one line: what was given, what is allowed, what to do.

    The command line prints only the message and exits with 2. Every other exception is a bug of this package and keeps
    its traceback.
    """


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, line feed and tab apart. A terminal obeys them."""


def printable(text: str) -> str:
    """The text with control characters as escapes, such as `\\x1b`. Names of files and labels may contain them."""
    return CONTROL.sub(lambda character: f"\\x{ord(character[0]):02x}", text)
