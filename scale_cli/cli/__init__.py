"""The command line: one thin module per subcommand. Heavy libraries are imported inside the command bodies."""

from scale_cli.cli.app import main

__all__ = ["main"]
