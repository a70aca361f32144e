"""The `scale` command: its subcommands, exit codes and signals."""

import codecs
import contextlib
import gc
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from scale_cli import __version__
from scale_cli.cli.bench import bench
from scale_cli.cli.chat import chat
from scale_cli.cli.data import data
from scale_cli.cli.doctor import doctor
from scale_cli.cli.evaluate import evaluate
from scale_cli.cli.export import export
from scale_cli.cli.fetch import fetch
from scale_cli.cli.gen_bios import gen_bios
from scale_cli.cli.generate import generate
from scale_cli.cli.options import GroupedCommand
from scale_cli.cli.plan import plan
from scale_cli.cli.push import push
from scale_cli.cli.report import report
from scale_cli.cli.run import run
from scale_cli.cli.sweep import sweep
from scale_cli.cli.train import train
from scale_cli.cli.upscale import upscale
from scale_cli.core.errors import RequestError, printable
from scale_cli.core.files import expand_home

COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run,
    "gen-bios": gen_bios,
    "data": data,
    "plan": plan,
    "upscale": upscale,
    "train": train,
    "eval": evaluate,
    "generate": generate,
    "chat": chat,
    "export": export,
    "push": push,
    "bench": bench,
    "sweep": sweep,
    "report": report,
    "fetch": fetch,
    "doctor": doctor,
}
"""The subcommands in the order of `scale --help`. Their modules import heavy libraries only when a command runs."""


def _print_version(requested: bool) -> None:
    if requested:
        print(f"scale {__version__}")
        raise typer.Exit


def _scale(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Widen or deepen a causal language model without changing its function, train only the added parameters, and
    measure what is retained and what is learnt."""


# Plain help: rich truncates long option names at 80 columns and parses brackets and colons in texts as markup.
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, callback=_scale)
for _name, _command in COMMANDS.items():
    app.command(_name, cls=GroupedCommand)(_command)


COLLECT_AFTER = 10_000
"""New objects after which Python looks for garbage among them. Its default is 700, which the import of libraries passes
hundreds of times: a fifth of the time before a first step."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `scale` and return its exit code, as `run_app` does.

    arguments: the arguments after `scale`, in which `~` at the beginning of a path is the home folder, also where a
        shell leaves it (`--data=~/texts`, `NAME=~/text.txt`); None takes those of this process. An empty list means
        `--help`.
    """
    words = [expand_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    if arguments is not None:
        return run_app(app, words or ["--help"], program="scale")
    gc.set_threshold(COLLECT_AFTER)
    code = run_app(app, words or ["--help"], program="scale")
    gc.freeze()  # the process ends: without this it would look for garbage in all libraries, a second of CPU
    return code


LESS = (
    "give a smaller --batch-size, for scale train with more --gradient-accumulation-steps, a shorter --seq-length, or "
    "--gradient-checkpointing; scale plan prints the memory of training"
)
"""The remedies for too little memory."""
SIGNS = {"±": "+-", "−": "-", "–": "-", "…": "...", "↑": "(up)", "↓": "(down)", "†": "+", "‡": "++", "×": "x", "·": "."}
"""What is printed on a terminal without these characters."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The error handler of the output streams: a sign that the terminal lacks becomes one that it has."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(SIGNS.get(sign, "-" if sign in "─━═" else "?") for sign in lacking), error.end


def run_app(app: typer.Typer, arguments: Sequence[str], *, program: str) -> int:
    """Run a Typer app. Returns the exit code: 0 done, 2 a mistake in the request, 3 a requirement that is not met
    or not decided, 130 interrupted, 143 terminated.

    program: the name that begins the usage line and error messages. With the arguments it is the `obj` of the contexts.
    A mistake in the request prints one line on stderr. Any other exception propagates with its traceback (exit code 1).
    SIGTERM ends a command as Ctrl-C does, with the same clean-up.
    """
    codecs.register_error("signs", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a stream that captures, as in a notebook
            stream.reconfigure(errors="signs")
    terminated: list[int] = []
    try:
        with _sigterm_interrupts(terminated):
            words = list(arguments)
            code = app(words, prog_name=program, standalone_mode=False, obj=[program, *words]) or 0
    except RequestError as error:
        return _fail(program, str(error), code=2)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see: {context.command_path} --help)" if context else ""
        return _fail(program, f"{_foreign_name(error) or error.format_message()}{hint}", code=2)
    except KeyboardInterrupt:
        code = 130
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(program, f"out of memory: {str(error).partition('. ')[0] or 'no more to be had'}; {LESS}", code=2)
    if code == 130:
        return _fail(program, "terminated", code=143) if terminated else _fail(program, "interrupted", code=code)
    return int(code)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether Python, a GPU's or the processor's allocator has no more memory. torch is not imported for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or ALLOCATOR in str(error)


ALLOCATOR = "DefaultCPUAllocator"
"""The name of torch's allocator in the error of an allocation that failed."""
FOREIGN: dict[str, tuple[str, ...]] = {
    "--learning-rate": ("--lr",),
    "--max-steps": ("--steps", "--tokens, a number of tokens"),
    "--num-train-epochs": ("--epochs", "--steps, a number of steps (scale data prints the epochs)"),
    "--epochs": ("--steps, a number of steps (scale data prints the epochs)",),
    "--per-device-train-batch-size": ("--batch-size",),
    "--per-device-batch-size": ("--batch-size",),
    "--max-length": ("--seq-length", "--max-new-tokens"),
    "--max-seq-length": ("--seq-length",),
    "--output-dir": ("--out", "OUT"),
    "--model-name-or-path": ("CHECKPOINT", "BASE", "CHECKPOINTS", "MODELS", "MODEL", "--base", "--model"),
    "--dataset": ("--data", "--new", "SOURCES"),
    "--dataset-name": ("--data", "--new", "SOURCES"),
    "--bf16": ("--precision bfloat16", "--dtype bfloat16"),
    "--fp16": ("--precision bfloat16", "--dtype float16"),
}
"""Options of other tools, and what they are here: options, or arguments in capitals. The first that a command has."""


def _foreign_name(error: typer.TyperException) -> str | None:
    """The message for an option that another tool has and this command has under another name."""
    name, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if name is None or context is None:
        return None
    options = {option for parameter in context.command.params for option in parameter.opts}
    arguments = [p.name.upper() for p in context.command.params if p.param_type_name == "argument"]
    for ours in FOREIGN.get(name.replace("_", "-"), ()):
        if ours in arguments:
            return f"No such option: {name}; here it is an argument: {' '.join([context.command_path, *arguments])}"
        if re.split(r"[ ,]", ours)[0] in options:
            return f"No such option: {name}; here it is {ours}"
    return None


@contextlib.contextmanager
def _sigterm_interrupts(received: list[int]) -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the block. Its number is appended to `received`."""
    process = os.getpid()

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker inherits this handler and has nothing to clean up
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not interrupt the clean-up
        received.append(signal_number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(program: str, message: str, *, code: int) -> int:
    print(printable(f"{program}: {' '.join(message.split())}"), file=sys.stderr)
    return code
