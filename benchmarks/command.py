"""The command line of the scripts in `benchmarks`: one typed function per script, its printed tables and its record."""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from scale_cli.cli.app import run_app
from scale_cli.core.records import write_record

Out = Annotated[Path | None, typer.Option(help="Write a record to this file.")]


@dataclass(frozen=True)
class Result:
    """The result of a script.

    printed: what rich prints on stdout, one after the other.
    record: the fields of the record, beside its command and environment.
    width: columns of the output; None takes the terminal's.
    exit_code: 1 if the script found a failure.
    figure: writes a figure to a path, called with --out's path and the ending .png.
    """

    printed: Sequence[RenderableType]
    record: Mapping[str, Any]
    width: int | None = None
    exit_code: int = 0
    figure: Callable[[Path], None] | None = None


def run(script: Callable[..., Result], program: str, words: Sequence[str]) -> int:
    """Run a script with the options in `words`. Returns the exit code, 2 for a mistake in the request.

    script: its signature declares its options, its docstring is their help.
    program: how the script is called, without its options; it begins the command in the record and error messages.
    """

    @functools.wraps(script)
    def with_record(*, out: Path | None, **options: Any) -> None:
        result = script(**options)
        console = Console(width=result.width)
        for renderable in result.printed:
            console.print(renderable)
        if out:
            if result.figure:
                result.figure(out.with_suffix(".png"))
            write_record(out, command=f"{program} {shlex.join(words)}".rstrip(), **result.record)
        if result.exit_code:
            raise typer.Exit(result.exit_code)

    own = inspect.signature(script, eval_str=True).parameters.values()
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Out))
    with_record.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_record.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(with_record)
    return run_app(app, words, program=program)
