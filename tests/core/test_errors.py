"""Text of others in what is printed."""

from scale_cli.core.errors import printable


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2J\tb\r\n\x07c\x9b") == "a\\x1b[2J\tb\\x0d\n\\x07c\\x9b"
