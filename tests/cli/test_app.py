"""The output streams and exit codes of `scale`."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from scale_cli import __version__
from scale_cli.cli import output
from scale_cli.cli.app import COMMANDS, app
from scale_cli.core.errors import RequestError

RunCli = Callable[..., Any]


@pytest.fixture
def run_raising(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Any]:
    """Runs a command that raises the given exception."""

    def run(exception: BaseException) -> Any:
        def doomed() -> None:
            raise exception

        monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
        app.command("doomed")(doomed)
        return run_cli("doomed")

    return run


def test_sigterm_ends_a_forked_worker(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process forked by a command has nothing to clean up; a KeyboardInterrupt would print a traceback."""
    ended: list[int] = []

    def forking() -> None:
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))

    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    app.command("forking")(forking)
    assert run_cli("forking").code == 0
    assert ended == [-signal.SIGTERM]


def test_version_and_help(run_cli: RunCli) -> None:
    assert run_cli("--version") == run_cli("--version")
    ended = run_cli("--version")
    assert (ended.code, ended.stdout, ended.stderr) == (0, f"scale {__version__}\n", "")
    ended = run_cli()
    assert (ended.code, ended.stderr) == (0, "")
    assert all(f" {name} " in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "offered"), [("scale gen", ["generate", "gen-bios"]), ("scale train --st", ["--steps", "--stop-when"])]
)
def test_a_shell_completes_commands_and_options(words: str, offered: list[str]) -> None:
    number = str(len(words.split()) - 1)
    environment = {**os.environ, "_SCALE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": number}
    command = [sys.executable, "-c", "import sys; sys.argv = ['scale']; from scale_cli.cli import main; main()"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert sorted(ended.stdout.split()) == sorted(offered)


def test_the_options_of_train_are_in_groups(run_cli: RunCli) -> None:
    text = run_cli("train", "--help").stdout
    headings = [line.removesuffix(":") for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert headings == [
        "Arguments",
        "Options",
        "Data",
        "Steps and batches",
        "Method",
        "Optimiser",
        "Precision and memory",
        "Rehearsal of old text",
        "Measurements during training",
        "Choice of the result",
        "Logs and checkpoints",
    ]
    groups = dict(zip(headings, re.split(r"(?m)^[A-Z][a-z ]+:$", text)[1:], strict=True))
    assert "--help" in groups["Options"]
    assert "--lora-r" in groups["Method"]
    assert "--lr" in groups["Optimiser"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gen-bio"], "No such command 'gen-bio'. Did you mean 'gen-bios'? (see: scale --help)"),
        (["gen-bios"], "Missing argument 'out'. (see: scale gen-bios --help)"),
        (["doctor", "--jsn"], "No such option: --jsn (Possible options: --json) (see: scale doctor --help)"),
        (["gen-bios", "x", "--people"], "Option '--people' requires an argument."),
        (["train", "--learning_rate=1"], "No such option: --learning_rate; here it is --lr (see: scale train --help)"),
        (["run", "--epoch", "1"], "No such option: --epoch (Possible options: --epochs) (see: scale run --help)"),
        (
            ["run", "--max_steps=1"],
            "No such option: --max_steps; here it is --tokens, a number of tokens (see: scale run --help)",
        ),
        (
            ["run", "--num-train-epochs", "1"],
            "No such option: --num-train-epochs; here it is --epochs (see: scale run --help)",
        ),
        (["train", "--bf16"], "No such option: --bf16; here it is --precision bfloat16 (see: scale train --help)"),
        (
            ["train", "--output-dir", "x"],
            "No such option: --output-dir; here it is an argument: scale train CHECKPOINT OUT (see: scale train "
            "--help)",
        ),
        (["doctor", "x"], "Got unexpected extra argument(s) (x) (see: scale doctor --help)"),
    ],
)
def test_usage_errors_are_one_line(run_cli: RunCli, words: list[str], line: str) -> None:
    ended = run_cli(*words)
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", f"scale: {line}\n")


def test_request_errors_are_one_line(run_raising: Callable[[BaseException], Any]) -> None:
    ended = run_raising(RequestError("--layers 23: choose\n 31 to 60"))
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", "scale: --layers 23: choose 31 to 60\n")


def test_interruption_is_one_line(run_raising: Callable[[BaseException], Any]) -> None:
    ended = run_raising(KeyboardInterrupt())
    assert (ended.code, ended.stdout, ended.stderr) == (130, "", "scale: interrupted\n")


def test_our_own_mistakes_keep_their_traceback(run_raising: Callable[[BaseException], Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        run_raising(ZeroDivisionError())


def test_a_traceback_exits_with_1() -> None:
    program = (
        "import sys; from scale_cli.cli.app import app, main\n"
        "@app.command('doomed')\n"
        "def doomed(): raise KeyError('ours')\n"
        "sys.exit(main(['doomed']))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback (most recent call last):")
    assert ended.stderr.endswith("KeyError: 'ours'\n")


def test_from_a_shell(run_cli_process: RunCli) -> None:
    ended = run_cli_process("gen-bios")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "scale: Missing argument 'out'. (see: scale gen-bios --help)\n"


def test_show_is_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.show({"b": 1, "a": Path("x")}, "for people", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": "x", "b": 1}
    output.show({}, "for people", as_json=False)
    assert capsys.readouterr().out == "for people\n"


def test_say_prints_brackets_and_long_lines_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("[bold] " + "x" * 300)
    assert capsys.readouterr() == ("", "[bold] " + "x" * 300 + "\n")


def test_a_terminal_without_a_sign_gets_another_one() -> None:
    program = (
        "from scale_cli.cli import app, output\n"
        "app.COMMANDS.clear()\n"
        "import typer\n"
        "cli = typer.Typer()\n"
        "@cli.command()\n"
        "def show() -> None:\n"
        "    print('39.3 ± 0.5 − ↑ 한')\n"
        "    output.say('… done')\n"
        "app.run_app(cli, [], program='scale')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert (ended.stdout, ended.stderr) == ("39.3 +- 0.5 - (up) ?\n", "... done\n")


def test_progress_is_plain_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with output.progress("people", 5000, done=1000) as advance:
        for now in (1.0, 9.0, 10.0, 11.0):  # noqa: B007
            advance(500)
        now = 40.0
        advance(done=5000)
    assert capsys.readouterr() == (
        "",
        "people: 2,500 of 5,000 (50%), 111.1/s, 22.5 s left\npeople: 5,000 of 5,000 (100%), 89.7/s, in 40.0 s\n",
    )


def test_progress_of_slow_steps_with_their_state(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with output.progress("fft", 1000) as advance:
        for done, now in ((1, 600.0), (2, 630.0), (1000, 30_000.0)):  # noqa: B007
            advance(done=done, note=f"loss {done}")
    assert capsys.readouterr().err.splitlines() == [
        "fft: 1 of 1,000 (0%); loss 1",  # what precedes the first step does not count
        "fft: 2 of 1,000 (0%), 30.0 s/step, 8 h 19 min left; loss 2",
        "fft: 1,000 of 1,000 (100%), 29.4 s/step, in 8 h 20 min",
    ]


def test_progress_learns_its_total(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with output.progress("files", None) as advance:
        now = 10.0
        advance(5)
        now = 20.0
        advance(done=10, total=10)
    assert capsys.readouterr().err == "files: 5\nfiles: 10 of 10 (100%), 2.0 s/step, in 20.0 s\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()

    def terminal(*, stderr: bool) -> Console:
        assert stderr
        return Console(file=written, force_terminal=True, width=100)

    monkeypatch.setattr("rich.console.Console", terminal)
    with output.progress("people", 10) as advance:
        advance(note="loss 2.310, lr 0.001, 1,234 tokens/s")
        time.sleep(0.3)  # a bar is drawn ten times per second
        advance(done=10, note="loss 2")
    assert "people" in written.getvalue()
    assert "10/10" in written.getvalue()
    assert "\nloss 2.310, lr 0.001, 1,234 tokens/s" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert "loss 2" not in written.getvalue().splitlines()[-1]
