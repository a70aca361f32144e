"""The `scale` command: its subcommands and how each outcome leaves the process."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from scale_cli import __version__
from scale_cli.cli.bench import bench
from scale_cli.cli.doctor import doctor
from scale_cli.cli.evaluate import evaluate
from scale_cli.cli.export import export
from scale_cli.cli.fetch import fetch
from scale_cli.cli.gen_bios import gen_bios
from scale_cli.cli.plan import plan
from scale_cli.cli.push import push
from scale_cli.cli.report import report
from scale_cli.cli.sweep import sweep
from scale_cli.cli.train import train
from scale_cli.cli.upscale import upscale
from scale_cli.core.errors import RequestError
from scale_cli.core.files import expand_home

COMMANDS: dict[str, Callable[..., Any]] = {
    "gen-bios": gen_bios,
    "plan": plan,
    "upscale": upscale,
    "train": train,
    "eval": evaluate,
    "export": export,
    "push": push,
    "bench": bench,
    "sweep": sweep,
    "report": report,
    "fetch": fetch,
    "doctor": doctor,
}
"""The subcommands in the order of `scale --help`. Their modules import nothing heavy before a command runs."""


def _print_version(asked: bool) -> None:
    if asked:
        print(f"scale {__version__}")
        raise typer.Exit


def _scale(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Widen or deepen a causal language model without changing what it computes, train only what was added, and
    measure what was kept and what was learnt."""


# Plain help: rich's cuts long option names at 80 columns and takes brackets and colons in the words for markup.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, callback=_scale)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `scale` and give its exit code: 0 done, 2 a mistake in the request, 130 interrupted, 143 terminated.

    arguments: the words after `scale`, in which `~` at the beginning of a path is the home folder, also where a shell
        leaves it (`--data=~/texts`, `NAME=~/text.txt`); None: those of this process. An empty list means `--help`.
    A mistake in the request ends with one line on stderr; any other exception leaves with its traceback (exit code 1).
    SIGTERM ends a command as Ctrl-C does, after the same clean-up.
    """
    words = [expand_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    terminated: list[int] = []
    try:
        with _sigterm_interrupts(terminated):
            code = app(words or ["--help"], prog_name="scale", standalone_mode=False) or 0
    except RequestError as error:
        return _fail(str(error), code=2)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see: {context.command_path} --help)" if context else ""
        return _fail(f"{error.format_message()}{hint}", code=2)
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        return _fail("terminated", 143) if terminated else _fail("interrupted", code)
    return int(code)


@contextlib.contextmanager
def _sigterm_interrupts(came: list[int]) -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the block; `came` gets its number then."""
    process = os.getpid()

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker, which has nothing to clean up, inherits this
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one shall not cut the cleaning up short
        came.append(signal_number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int) -> int:
    print(f"scale: {' '.join(message.split())}", file=sys.stderr)
    return code
