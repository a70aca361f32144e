"""Output of commands: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from scale_cli.core.errors import printable
from scale_cli.core.files import to_json

if TYPE_CHECKING:  # rich takes a tenth of a second to import, which `--help` avoids
    from rich.console import Console, RenderableType

    from scale_cli.reporting.sheet import Sheet

PLAIN_INTERVAL_SECONDS = 10.0
RATE_SECONDS = 86_400.0
"""Time over which a bar's rate is averaged, up to its last 1000 steps; steps that take longer would have no rate."""
PIPED_WIDTH = 160
"""Width of a result that goes to a file or a pipe."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")]
"""The type of a command's `as_json` parameter: `as_json: AsJson = False`."""


def say(message: str) -> None:
    """Print a message on stderr, above a progress bar if there is one."""
    print(printable(message), file=sys.stderr)


def show(result: Any, text: RenderableType, *, as_json: bool) -> None:
    """Print a command's result on stdout: `result` as JSON, or else `text`, which is anything that rich prints."""
    if as_json:
        print(to_json(result))
    else:
        from rich.console import Console

        width = None if sys.stdout.isatty() else PIPED_WIDTH
        Console(width=width, markup=False, emoji=False, highlight=False).print(text)


def show_sheets(sheets: Sequence[Sheet]) -> None:
    """Tables of results on stdout, as wide as the terminal."""
    from scale_cli.reporting.documents import text
    from scale_cli.reporting.terminal import SheetText

    if not sys.stdout.isatty():
        sys.stdout.write(text(sheets, width=PIPED_WIDTH))
        return
    from rich.console import Console

    for number, sheet in enumerate(sheets):
        Console(markup=False, emoji=False, highlight=False).print(*([""] if number else []), SheetText(sheet), sep="\n")


class Stream:
    """Prints text as it arrives, on a terminal with lines broken between words."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(markup=False, emoji=False, highlight=False)
        self._is_terminal = sys.stdout.isatty()
        self._column = 0
        self._word = ""

    def __call__(self, text: str, *, style: str = "") -> None:
        if not self._is_terminal:
            sys.stdout.write(text)
            return
        *parts, self._word = re.split(r"(\s)", self._word + printable(text))
        for part in parts:
            self._print(part, style)

    def end(self, *, style: str = "") -> None:
        """Print what is left, and end the line."""
        self.flush(style=style)
        self._column = 0
        print(flush=True)

    def flush(self, *, style: str = "") -> None:
        """Print what is left."""
        self._print(self._word, style)
        self._word = ""

    def _print(self, part: str, style: str) -> None:
        from rich.cells import cell_len
        from rich.text import Text

        width = cell_len(part)
        if part != "\n" and self._column + width > self._console.width:
            print()
            self._column = 0
            if part.isspace():
                return
        self._console.print(Text(part, style), end="", soft_wrap=True)
        if part == "\n":
            self._column = 0
        else:  # a word that is longer than a line is broken by the terminal
            self._column += width if width <= self._console.width else width % self._console.width


class Advance(Protocol):
    """Advances a progress display by `steps`, or to `done`. A new `total` replaces the old one.

    note: the state of the work, shown beside the progress until the next call or the end.
    """

    def __call__(
        self, steps: int = 1, *, done: int | None = None, total: int | None = None, note: str = ""
    ) -> None: ...


@contextlib.contextmanager
def progress(label: str, total: int | None, *, done: int = 0) -> Iterator[Advance]:
    """Show progress with rate and remaining time: a bar on a terminal, else one line every ten seconds.

    The rate is that since the first step, which may include preparations.

        with progress("people", len(people)) as advance:
            for person in people:
                ...
                advance()

    total: number of steps; None while unknown.
    done: steps that an earlier run has finished; they do not count in the rate.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(console, label, total, done) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, done)


def counter(label: str) -> Advance:
    """Print the progress of work of unknown length every ten seconds, beside another progress display."""
    return _plain_lines(label, None, 0)


@contextlib.contextmanager
def _bar(console: Console, label: str, total: int | None, first: int) -> Iterator[Advance]:
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> str:
            speed = task.finished_speed or task.speed
            return _rate(speed) if speed else ""

    class Bar(progress.Progress):
        note = ""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            if self.note:
                yield Text(self.note)

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, speed_estimate_period=RATE_SECONDS) as bar:
        task = bar.add_task(label, total=total, completed=first)

        def advance(steps: int = 1, *, done: int | None = None, total: int | None = None, note: str = "") -> None:
            bar.update(task, advance=None if done is not None else steps, completed=done, total=total)
            bar.note = "" if bar.finished else note

        yield advance


def _plain_lines(label: str, all_steps: int | None, first: int) -> Advance:
    start = printed = time.monotonic()
    reached = first
    rated: tuple[int, float] | None = None  # steps and time at the first call, from which the rate is measured

    def advance(steps: int = 1, *, done: int | None = None, total: int | None = None, note: str = "") -> None:
        nonlocal reached, printed, all_steps, rated
        reached = reached + steps if done is None else done
        all_steps = all_steps if total is None else total
        now = time.monotonic()
        if rated is None:
            rated = (reached, now)
        if now - printed >= PLAIN_INTERVAL_SECONDS or reached == all_steps:
            printed = now
            rate = (reached - rated[0]) / (now - rated[1]) if now > rated[1] else 0.0
            line = _line(label, reached, all_steps, seconds=now - start, rate=rate)
            say(line + (f"; {note}" if note and reached != all_steps else ""))

    return advance


def _line(label: str, done: int, total: int | None, *, seconds: float, rate: float) -> str:
    """rate: steps per second, 0 if it is not known yet."""
    parts = [f"{label}: {done:,}" + ("" if total is None else f" of {total:,} ({done / total:.0%})")]
    if rate:
        parts.append(_rate(rate))
    if done == total:
        parts.append(f"in {duration(seconds)}")
    elif total is not None and rate:
        parts.append(f"{duration((total - done) / rate)} left")
    return ", ".join(parts)


def _rate(rate: float) -> str:
    """A rate in steps per second, or its inverse if a step takes longer than a second."""
    return f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s/step"


def duration(seconds: float) -> str:
    """A duration in the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"
