"""`scale bench` runs a recipe, prints its table, and refuses wrong requests in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.bench import bios_results
from scale_cli.core.records import read_record
from scale_cli.methods import paper_methods
from scale_cli.planning.memory import StepMemory
from scale_cli.reporting.documents import BEST, markdown
from scale_cli.results.result import read_results
from tests.runs import World, bench_file, continual_bench, held_out, korean_texts, tree

pytestmark = pytest.mark.usefixtures("quick_figures")
RunCli = Callable[..., Any]
ROLES = {"english": "stability", "korean": "plasticity"}


@pytest.fixture
def counts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the memory of training steps, which take seconds at a real model's size."""
    monkeypatch.setattr("scale_cli.planning.plan.step_memory", lambda *args, **options: StepMemory(0, 0))


def shown_rows(stdout: str) -> list[str]:
    """The names of the rows of the first block of a printed table, without the mark of the Pareto front."""
    lines = stdout.splitlines()
    rules = [index for index, line in enumerate(lines) if line.startswith("───")]
    end = next(index for index in range(rules[0], len(lines)) if not lines[index])
    return [line.partition("  ")[0].strip(" †") for line in lines[rules[0] : end] if not line.startswith("───")]


def test_a_benchmark(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = bench_file(tmp_path)
    ended = run_cli("bench", "bios", "--preset", file, "--methods", "scale-route")
    assert ended.code == 0
    out = Path("runs/bios-tiny")  # the default of --out
    record = read_record(out / "results.json")
    assert shown_rows(ended.stdout) == ["scale-route"]
    sheets = bios_results.sheets(read_results([out]), title=f"Biography benchmark, {file}", best=BEST["markdown"])
    assert (out / "table.md").read_text(encoding="utf-8") == "\n".join(map(markdown, sheets))
    messages = ended.stderr.splitlines()
    assert messages[0] == "data: 16 people, 2 biographies each"
    assert messages[-1].endswith("s in total; results.json, table.md and figures are in runs/bios-tiny")
    assert [line.split(":")[0] for line in messages if "100%" in line] == [
        "pretrain (seed 0)",
        "task0 (seed 0)",
        "scale-route (seed 0)",
    ]

    ended = run_cli(
        "bench", "bios", "--preset", file, "--methods", "scale-route", "--seeds", "0", "--out", out, "--json"
    )
    assert ended.code == 0
    result = json.loads(ended.stdout)
    assert result["results"] == record["results"]
    assert result["curves"] == record["curves"]
    assert len(ended.stderr.splitlines()) == 2  # nothing is run again: only Task 0's accuracy and the folder


BAD = {
    "unknown benchmark": (["bio"], "'bio' is not one of 'bios', 'korean'"),
    "another's option": (["bios", "--base", "x"], "--base: scale bench bios does not have this option; leave it out"),
    "a rate for nothing": (["korean", "--tflops", "5"], "--tflops 5: only --dry-run estimates hours; add --dry-run"),
    "no rate": (["korean", "--dry-run", "--tflops", "0"], "--tflops 0: above 0"),
    "an unknown korean method": (["korean", "--methods", "best"], "--methods best: choose from fft, lora, llama-pro, "),
    "no ablation": (
        ["ablations"],
        "scale: scale bench ablations: name an ablation: init, layers, modules, drift, threshold, where",
    ),
    "an ablation of nothing": (["korean", "init"], "scale bench korean: init: only scale bench ablations takes a name"),
    "a base that is not there": (["korean", "--dry-run", "--base", "none"], "none: no such folder"),
    "unknown preset": (
        ["bios", "--preset", "dmo"],
        "--preset dmo: choose demo, controls, small, medium, paper, or give a YAML file",
    ),
    "no seed": (["bios", "--seeds", "x"], "--seeds x: write whole numbers separated by commas, as in 0,1,2"),
    "unknown key": (["bios", "--preset", "unknown.yaml"], "unknown.yaml: unknown key 'peple'; did you mean 'people'?"),
    "full folder": (["bios", "--out", "full"], "full exists and is not a run folder; choose a new or an empty folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_ends_with_one_line_and_writes_nothing(
    case: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(bench_file(tmp_path, peple=5)).rename(tmp_path / "unknown.yaml")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    before = tree(tmp_path)
    arguments, message = BAD[case]
    ended = run_cli("bench", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert tree(tmp_path) == before


def test_a_low_task_0_accuracy_ends_with_one_line(run_cli: RunCli, tmp_path: Path) -> None:
    preset = bench_file(tmp_path, task0_needed=0.95)
    ended = run_cli("bench", "bios", "--preset", preset, "--out", tmp_path / "out")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("scale: Task 0 reached 0.")
    assert "and 0.95 is needed before Task 1" in ended.stderr
    seed = tmp_path / "out" / "seed-0"
    assert {path.name for path in seed.iterdir()} == {"pretrain", "task0"}


def test_the_korean_benchmark(run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    texts = korean_texts(tmp_path / "elsewhere")
    absent = {name: held_out("none", role, documents=5 + (name == "korean")) for name, role in ROLES.items()}
    gone = {"base": "fetch:none", "train_data": ["none"], "texts": absent}
    file = continual_bench(tmp_path, world.checkpoint("llama"), methods={"fft": {}, "scale-preserve": {}}, **gone)
    arguments = ["--base", world.checkpoint("llama"), "--train-data", texts["train"]]
    arguments += [word for name in ROLES for word in ("--text", f"{name}={texts[name]}")]
    ended = run_cli("bench", "korean", "--preset", file, *arguments)
    assert ended.code == 0
    out = Path("runs/korean-korean")  # the default of --out
    record = read_record(out / "results.json")
    assert shown_rows(ended.stdout) == ["base", "fft", "scale-preserve"]
    assert [result["checkpoint"]["label"] for result in record["results"]] == ["base", "fft", "scale-preserve"]
    messages = ended.stderr.splitlines()
    assert messages[0] == "texts: 5 english, 6 korean documents are measured"
    assert messages[-1].endswith("s in total; results.json, table.md and figures are in runs/korean-korean")
    shown = {line.split(":")[0] for line in messages if "100%" in line}
    assert {"base", "fft (seed 0)", "scale-preserve (seed 0)", "scale-preserve"} <= shown


@pytest.mark.usefixtures("counts_only")
def test_an_ablation(run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = continual_bench(tmp_path, world.checkpoint("llama"), methods={"scale-route": {}})
    arguments = ["bench", "ablations", "threshold", "--preset", file, "--methods", "tau 0,tau 2"]
    planned = run_cli(*arguments, "--dry-run", "--json")
    assert [budget["label"] for budget in json.loads(planned.stdout)["budgets"]] == ["scale-route"]
    ended = run_cli(*arguments)
    assert ended.code == 0
    assert ended.stdout.splitlines()[0].strip() == f"Ablation threshold, {file}"
    assert shown_rows(ended.stdout) == ["base", "scale-route", "tau 0", "tau 2"]
    assert ended.stderr.splitlines()[-1].endswith("figures are in runs/ablations-threshold-korean")


def test_a_dry_run_writes_nothing_and_reads_no_weights(
    run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((world.checkpoint("llama") / "config.json").read_bytes())
    file = continual_bench(tmp_path, base, gpus=2, seeds=[3, 4], tflops=0.5)
    before = tree(tmp_path)
    ended = run_cli("bench", "korean", "--preset", file, "--dry-run")
    assert ended.code == 0
    assert tree(tmp_path) == before
    lines = ended.stdout.splitlines()
    assert lines[0] == f"korean, {file}: 31,904 parameters, seeds 3, 4"
    assert shown_rows(ended.stdout) == ["fft", "lora", "scale-preserve", "scale-route"]
    cells = [line.split() for line in lines if line.startswith(("fft  ", "lora  ", "scale-")) and line[-1] != ":"]
    assert [line[2] for line in cells] == ["0.02", "0.01", "0.01", "0.01"]
    assert {tuple(line[3:6]) for line in cells} == {("4", "128", "512")}
    assert lines[-1] == f"torchrun --nproc-per-node 2 --no-python scale bench korean --preset {file} --seeds 3,4"
    assert "at 0.5 x 10^12 operations per second (--tflops: an assumption) in each of 2 processes; " in " ".join(
        ended.stdout.split()
    )

    request.getfixturevalue("counts_only")
    slow, fast = (
        json.loads(run_cli("bench", "korean", "--preset", file, "--dry-run", "--json", *rate).stdout)
        for rate in ((), ("--tflops", "1"))
    )
    for slower, faster in zip(slow["budgets"], fast["budgets"], strict=True):
        assert slower["hours"] == pytest.approx(2 * faster["hours"])
    lora = next(budget for budget in slow["budgets"] if budget["label"] == "lora")
    preserve = next(budget for budget in slow["budgets"] if budget["label"] == "scale-preserve")
    assert lora["trained_parameters"] == pytest.approx(preserve["trained_parameters"], rel=0.1)
    assert lora["recipe"]["lora_r"] < 256  # matched, as in the run


@pytest.mark.usefixtures("counts_only")
@pytest.mark.parametrize("bench", ["bios", "korean"])
@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_every_preset_has_a_dry_run(
    bench: str, preset: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no network. Beside the paper's, of methods that have every option between them."""
    monkeypatch.chdir(tmp_path)
    methods = list(paper_methods()) if preset == "paper" else ["lora", "freeze", "scale-route"]
    ended = run_cli("bench", bench, "--preset", preset, "--methods", ",".join(methods), "--dry-run", "--json")
    assert ended.code == 0
    result = json.loads(ended.stdout)
    first = ["pretrain", "task0"] if bench == "bios" else []
    assert [budget["label"] for budget in result["budgets"]] == first + methods
    assert all(budget["hours"] > 0 and budget["trained_parameters"] > 0 for budget in result["budgets"])
    assert list(tmp_path.iterdir()) == []
    if (bench, preset) == ("korean", "paper"):
        assert result["base_parameters"] == 1_235_814_400  # of Llama-3.2-1B
        assert {budget["tokens"] for budget in result["budgets"]} == {14305 * 512 * 8192}
