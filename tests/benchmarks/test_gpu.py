"""The script of all GPU measurements, with stand-ins for the interpreter and, for interrupted steps, `timeout`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

from scale_cli.cli.app import app

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
TEXTS = ("english", "english-passages", "smollm2", "korean-bills", "english-offline", "korean-offline")
ABLATIONS = [f"ablations-{name}-small" for name in ("init", "layers", "modules", "where", "threshold", "drift")]
STEPS = [
    "gpu-tests",
    "speed-train-step-gpu",
    "bios-medium-gpu",
    "korean-scratch-gpu",
    *(f"speed-{name}-gpu" for name in ("memory", "generate", "eval")),
    "korean-small",
    *ABLATIONS,
    "bios-paper",
]
PYTHON = """\
#!/usr/bin/env bash
# Says what it was asked and leaves what the real command would leave.
[[ $1 == -c ]] && shift 2
echo "$*" >>calls.txt
if [[ -n ${SLOW-} && $* == *"$SLOW"* ]]; then
    trap 'kill $!; echo saved >saved.txt; exit 143' TERM
    sleep 60 & touch begun.txt
    wait $!
fi
[[ -n ${BROKEN-} && $* == *"$BROKEN"* ]] && { echo "it broke"; exit 3; }
[[ -n ${EMPTY-} && $* == *"$EMPTY"* ]] && exit 0
last=${*: -1}
case "$*" in
    *--junit-xml=*) echo "<testsuites/>" >"${last#--junit-xml=}" ;;
    bench*) mkdir -p "$last" && echo "{\\"asked\\": \\"$*\\"}" >"$last/results.json" ;;
    *) echo "{\\"asked\\": \\"$*\\"}" >"$last" ;;
esac
"""
TIMEOUT = """\
#!/usr/bin/env bash
# As timeout does, but that what $CUT names takes too long.
echo "$3" >>limits.txt
shift 3
[[ $* == *"$CUT"* ]] && exit 124
exec "$@"
"""


@dataclass
class Machine:
    """A repository with only the script, and programs to call."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def write_program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    @property
    def command(self) -> dict[str, str]:
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.root), **self.variables}

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "benchmarks" / "gpu.sh", *words],
            env=self.command | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def summary(self, out: str = "runs/gpu") -> dict[str, str]:
        """The outcome of each step, with single blanks between columns."""
        lines = (self.root / out / "summary.txt").read_text().splitlines()
        return {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}

    def calls(self) -> list[str]:
        file = self.root / "calls.txt"
        return file.read_text().splitlines() if file.exists() else []

    def records(self, out: str = "runs/gpu") -> set[str]:
        return {file.name for file in (self.root / out / "records").iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "benchmarks" / "records").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "benchmarks")
    for name in (*TEXTS, "hub"):
        (tmp_path / "data" / name).mkdir(parents=True)
    made = Machine(tmp_path)
    made.write_program("python3", PYTHON)
    return made


def test_all_steps_in_order_of_worth(machine: Machine) -> None:
    ended = machine.run("300000")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(machine.summary()) == STEPS
    assert {line[:4] for line in machine.summary().values()} == {"done"}
    assert ended.stdout == (machine.root / "runs/gpu/summary.txt").read_text()
    assert machine.records() == {"gpu-tests.xml", *(f"{name}.json" for name in STEPS[1:])}
    assert not list((machine.root / "runs/gpu/records").glob("*.made.*"))
    calls = machine.calls()
    made = "runs/gpu/made"
    assert calls[:2] == [
        f"-m pytest -m gpu -q -p no:cacheprovider --junit-xml={made}/gpu-tests.made.xml",
        f"-m benchmarks.speed train-step --shape llama-1b --out {made}/speed-train-step-gpu.made.json",
    ]
    assert calls[2] == "bench bios --preset medium --out runs/gpu/runs/bios-medium-gpu"
    assert calls[3] == "bench korean --preset scratch --fetched data --out runs/gpu/runs/korean-scratch-gpu"
    assert calls[7] == "bench korean --preset small --seeds 0,1,2 --fetched data --out runs/gpu/runs/korean-small"
    command: Any = typer.main.get_command(app)
    for words in (call.split()[1:] for call in calls if call.startswith("bench")):
        command.commands["bench"].make_context("bench", words)  # which has all these options
    assert calls[8].startswith("bench ablations init --preset small --seeds 0,1,2 --fetched data ")
    assert calls[-1] == "bench bios --preset paper --out runs/gpu/runs/bios-paper"
    record = (machine.root / "runs/gpu/records/bios-paper.json").read_text()
    assert record == f'{{"asked": "{calls[-1]}"}}\n'


def test_a_step_with_a_record_is_skipped(machine: Machine) -> None:
    (machine.root / "benchmarks/records/bios-medium-gpu.json").write_text("{}")
    assert machine.run("300000").returncode == 0
    assert machine.summary()["bios-medium-gpu"] == "has its record - -"
    called = machine.calls()
    assert not any("bios-medium-gpu" in call for call in called)
    assert machine.run("300000").returncode == 0
    assert machine.calls() == called  # the second time there is nothing left to do
    assert set(machine.summary().values()) == {"has its record - -"}


def test_a_failure_does_not_stop_the_rest(machine: Machine) -> None:
    ended = machine.run("300000", "out", BROKEN="benchmarks.speed memory", EMPTY="korean --preset small")
    assert ended.returncode == 1
    assert machine.summary("out")["speed-memory-gpu"].startswith("FAILED, see logs/speed-memory-gpu.log 3 ")
    assert machine.summary("out")["korean-small"].startswith("FAILED, see logs/korean-small.log 0 ")
    assert machine.records("out") == {
        "gpu-tests.xml",
        *(f"{name}.json" for name in STEPS[1:] if name not in ("speed-memory-gpu", "korean-small")),
    }
    assert (machine.root / "out/logs/speed-memory-gpu.log").read_text() == "it broke\n"
    log = (machine.root / "out/logs/korean-small.log").read_text()
    assert log == "gpu.sh: the command ended well and left no out/runs/korean-small/results.json\n"
    assert machine.run("300000", "out").returncode == 0  # and what failed is done again
    failed = ("benchmarks.speed memory", "korean --preset small")
    calls = machine.calls()
    assert calls[-2:] == [call for call in calls[:-2] if any(words in call for words in failed)]


def test_a_step_that_does_not_fit_is_skipped(machine: Machine) -> None:
    assert machine.run("200").returncode == 0
    summary = machine.summary()
    assert summary["gpu-tests"].startswith("done 0 ")
    assert summary["speed-memory-gpu"].startswith("needs 240 s, ")
    assert summary["speed-generate-gpu"].startswith("done 0 ")
    assert summary["bios-paper"].startswith("done 0 ")  # one that can be cut needs only a beginning
    assert machine.run("134", "other").returncode == 0
    assert machine.summary("other")["bios-paper"].startswith("needs 120 s, ")
    assert machine.records("other") == {"gpu-tests.xml", "speed-train-step-gpu.json"}


def test_an_interrupted_benchmark_continues(machine: Machine) -> None:
    machine.write_program("timeout", TIMEOUT)
    ended = machine.run("100000", CUT="korean --preset small")
    assert ended.returncode == 0
    assert machine.summary()["korean-small"].startswith("cut, goes on next time 124 ")
    assert machine.summary()["bios-paper"].startswith("done 0 ")
    limits = [int(line) for line in (machine.root / "limits.txt").read_text().splitlines()]
    assert 99_900 < min(limits) <= max(limits) <= 100_000 - 15
    assert "korean-small.json" not in machine.records()
    assert machine.run("100000", CUT="nothing").returncode == 0
    assert machine.calls()[-1].endswith("--out runs/gpu/runs/korean-small")  # the same folder
    assert "korean-small.json" in machine.records()


def test_a_measurement_that_is_cut_has_failed(machine: Machine) -> None:
    machine.write_program("timeout", TIMEOUT)
    assert machine.run("100000", CUT="benchmarks.speed eval").returncode == 1
    assert machine.summary()["speed-eval-gpu"].startswith("FAILED, see logs/speed-eval-gpu.log 124 ")


def test_data_that_is_not_there(machine: Machine) -> None:
    machine.variables = {"SCALE_DATA": "elsewhere"}
    (machine.root / "elsewhere" / "smollm2").mkdir(parents=True)
    assert machine.run("300000").returncode == 0
    missing = "no korean-bills english-offline korean-offline in SCALE_DATA - -"
    summary = machine.summary()
    assert {summary[name] for name in ["korean-small", *ABLATIONS]} == {missing}
    assert summary["bios-paper"] == "no hub in SCALE_DATA - -"
    assert summary["korean-scratch-gpu"].startswith("no english english-passages korean-bills ")
    assert summary["bios-medium-gpu"].startswith("done 0 ")


def test_tiny_sizes(machine: Machine) -> None:
    assert machine.run("580", "out", "--tiny").returncode == 0
    assert list(machine.summary("out")) == STEPS[:4]
    assert "--collect-only" in machine.calls()[0]
    assert [call.split()[:4] for call in machine.calls()[1:]] == [
        ["-m", "benchmarks.speed", "train-step", "--shape"],
        ["bench", "bios", "--preset", "benchmarks/tiny/bios.yaml"],
        ["bench", "korean", "--preset", "benchmarks/tiny/korean.yaml"],
    ]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_step_and_ends_the_rest(machine: Machine, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [machine.root / "benchmarks" / "gpu.sh", "300000"],
        env=machine.command | {"SLOW": "korean --preset small"},
        stdout=subprocess.DEVNULL,
    )
    for _ in range(400):
        if (machine.root / "begun.txt").exists():
            break
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(timeout=20) == 130
    assert (machine.root / "saved.txt").read_text() == "saved\n"
    summary = machine.summary()
    assert list(summary) == STEPS[: STEPS.index("korean-small") + 1]
    assert summary["korean-small"].startswith("stopped 143 ")
    assert "korean-small.json" not in machine.records()


@pytest.mark.parametrize("words", [[], ["0"], ["60", "out", "more"]])
def test_a_mistake_in_the_request(machine: Machine, words: list[str]) -> None:
    ended = machine.run(*words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"gpu.sh: {' '.join(words) or '(nothing)'}: give whole seconds and, if wanted, a folder, as in: "
        "benchmarks/gpu.sh 580 runs/gpu\n"
    )
    assert not (machine.root / "runs").exists()


def test_an_interpreter_that_is_not_there(machine: Machine) -> None:
    ended = machine.run("60", PYTHON="python9")
    assert ended.returncode == 2
    assert ended.stderr == (
        "gpu.sh: PYTHON python9: no such program; give an interpreter with torch and transformers\n"
    )
    assert not (machine.root / "runs").exists()
