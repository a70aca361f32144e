"""`scale report` in every format, to a file or stdout, and its one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.reporting import style
from tests.results.made import measured, result, scored

RunCli = Callable[..., Any]
RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
PAPER, BIOS = RECORDS / "paper-table1.json", RECORDS / "one-to-one" / "bios-demo.json"

SUITE = """\
name: mine
language: {language}
role: {role}
title: {title}
tasks:
{tasks}
"""


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Results of a base and two methods with the scores of items, and two suites in the parent folder."""
    folder = tmp_path / "evaluated"
    scored("base", None, {"a": [1, 0] * 20, "b": [1, 1, 0, 0] * 10, "k": [0] * 40}, folder)
    scored("fft", "fft", {"a": [0, 0] * 20, "b": [1, 0, 0, 0] * 10, "k": [1] * 40}, folder)
    scored("route", "scale-route", {"a": [1, 0] * 19 + [0, 0], "b": [1, 1, 0, 0] * 10, "k": [1, 0] * 20}, folder)
    tasks = {"en": ("stability", ("a", "b"), "영어"), "ko": ("plasticity", ("k",), "한국어")}
    for language, (role, names, title) in tasks.items():
        lines = "\n".join(f"  - task: {name}\n    metric: acc\n    label: {name.upper()}" for name in names)
        text = SUITE.format(language=language, role=role, title=title, tasks=lines).replace("mine", language)
        (tmp_path / f"{language}.yaml").write_text(text, encoding="utf-8")
    return folder


def suites(evaluated: Path) -> list[Any]:
    return ["--suite", evaluated.parent / "en.yaml", "--suite", evaluated.parent / "ko.yaml"]


def test_the_table_for_people(run_cli: RunCli, evaluated: Path) -> None:
    ended = run_cli("report", evaluated, *suites(evaluated))
    assert (ended.code, ended.stderr) == (0, "")
    rows = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert rows[2:4] == ["stability: 영어 plasticity: 한국어", "checkpoint A B average forgetting K gain"]
    assert "fft† 0.00 ± 0.00 25.00 ± 6.93 12.50 ± 3.47 37.50 ± 5.30 100.00 ± 0.00* 100.00 ± 0.00" in rows


def test_the_shipped_suites_are_found_by_themselves(run_cli: RunCli) -> None:
    ended = run_cli("report", PAPER)
    assert "stability: English" in ended.stdout
    assert "plasticity: Korean" in ended.stdout
    only = run_cli("report", PAPER, "--suite", "korean", "--format", "markdown")
    assert only.stdout.splitlines()[2].startswith("| checkpoint | KB BoolQ | KB COPA | KB HellaSwag | Korean average |")
    assert "arc\\_challenge acc\\_norm" in only.stdout.splitlines()[2]  # of no suite now: a column of its own


def test_columns_named_one_by_one(run_cli: RunCli, evaluated: Path) -> None:
    options = ("--stability", "a", "--stability", "b=acc", "--plasticity", "k")
    document = json.loads(run_cli("report", evaluated, *options, "--format", "json").stdout)
    assert [(group["title"], group["role"], len(group["columns"])) for group in document["groups"]] == [
        ("a, b", "stability", 3),
        ("k", "plasticity", 1),
    ]
    document = json.loads(run_cli("report", PAPER, "--stability", "mmlu", "--format", "json").stdout)
    assert [group["title"] for group in document["groups"]][:2] == ["mmlu", "Korean"]  # its suite gives way


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("r.html", "<!doctype html>"),
        ("r.md", "**T**"),
        ("r.tex", "% \\usepackage"),
        ("r.csv", "checkpoint,"),
        ("r.json", "{"),
        ("r.TXT", "T\n"),
    ],
)
def test_a_file_s_ending_says_the_format(name: str, begins: str, run_cli: RunCli, tmp_path: Path) -> None:
    file = tmp_path / name
    ended = run_cli("report", PAPER, "--out", file, "--title", "T")
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.stderr.endswith(f"report of 8 checkpoints written to {file}\n")
    assert file.read_text(encoding="utf-8").startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert run_cli("report", PAPER, "--out", file, "--title", "T").code == 0  # over what is there


def test_a_text_file_holds_what_is_printed(run_cli: RunCli, tmp_path: Path) -> None:
    run_cli("report", PAPER, "--out", tmp_path / "r.txt")
    assert (tmp_path / "r.txt").read_text(encoding="utf-8") == run_cli("report", PAPER).stdout


def test_changes(run_cli: RunCli, evaluated: Path) -> None:
    text = run_cli("report", evaluated, *suites(evaluated), "--changes", "--format", "markdown").stdout
    assert "| route† | \N{MINUS SIGN}2.50 ± 2.50 |" in text.replace("**", "")
    assert "| base" not in text


def test_a_comparison_on_the_same_items(run_cli: RunCli, evaluated: Path) -> None:
    call = ("report", evaluated, *suites(evaluated), "--compare", "base", "route")
    text = run_cli(*call).stdout
    assert "route against base" in text
    assert "K                40   0.00  50.00  +50.00 ± 8.01  <0.0001  McNemar" in text
    lines = run_cli(*call, "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("first,second,suite,label,task,metric,")
    assert lines[1].startswith("base,route,en,A,a,acc,0.5,0.475,-0.025")
    assert lines[1].endswith(",1.0,McNemar,40")
    document = json.loads(run_cli(*call, "--format", "json").stdout)
    assert [line["test"] for line in document["comparison"]] == ["McNemar", "McNemar", "z", "McNemar"]
    assert "route against base" in run_cli(*call, "--format", "html").stdout
    assert run_cli(*call, "--format", "latex").stdout.count(r"\begin{table*}") == 2


def test_requirements_end_with_3_unless_all_are_met(run_cli: RunCli, evaluated: Path, tmp_path: Path) -> None:
    call = ("report", evaluated, *suites(evaluated))

    def rows(stdout: str) -> list[str]:
        return [" ".join(line.split()) for line in stdout.splitlines()]

    met = ("--require", "ko.gain>=30", "--require", "k.acc>=30")
    ended = run_cli(*call, *met)
    assert (ended.code, ended.stderr) == (0, "requirements: 4 met, 0 not met, 0 not decided\n")
    assert ended.stdout.startswith(run_cli(*call).stdout)
    assert "ko.gain>=30 route 50.00 34.31 to 65.69 met" in rows(ended.stdout)
    lost = (*met, "--require", "en.forgetting<=1.0")
    ended = run_cli(*call, *lost)
    assert (ended.code, ended.stderr) == (3, "requirements: 4 met, 1 not met, 1 not decided\n")
    assert "en.forgetting<=1.0 fft 37.50 27.12 to 47.88 not met" in rows(ended.stdout)
    assert "en.forgetting<=1.0 route 1.25 \N{MINUS SIGN}1.20 to 3.70 not decided" in rows(ended.stdout)
    undecided = run_cli(*call, "--base", "fft", "--require", "en.gain>=34")
    assert (undecided.code, undecided.stderr) == (3, "requirements: 0 met, 0 not met, 2 not decided\n")
    file = tmp_path / "report.md"
    ended = run_cli(*call, *lost, "--out", file)
    assert (ended.code, ended.stdout) == (3, "")
    assert ended.stderr.splitlines()[-1] == "requirements: 4 met, 1 not met, 1 not decided"
    assert "| en.forgetting\\<=1.0 | fft | 37.50 | 27.12 to 47.88 | not met |" in file.read_text(encoding="utf-8")


def test_requirements_in_every_format(run_cli: RunCli, evaluated: Path) -> None:
    call = ("report", evaluated, *suites(evaluated), "--require", "en.forgetting<=1.0")
    document = json.loads(run_cli(*call, "--format", "json").stdout)
    fft = document["requirements"][0]
    assert {name: fft[name] for name in ("requirement", "checkpoint", "task", "verdict")} == {
        "requirement": "en.forgetting<=1.0",
        "checkpoint": "fft",
        "task": "average:en",
        "verdict": "not met",
    }
    assert [fft[name] for name in ("value", "low", "high")] == pytest.approx([37.5, 27.12, 47.88], rel=1e-3)
    assert "requirements" not in json.loads(run_cli(*call[:-2], "--format", "json").stdout)
    csv = run_cli(*call, "--format", "csv").stdout.splitlines()
    assert csv[0] == "requirement,checkpoint,task,metric,value,low,high,verdict"
    assert csv[1].startswith("en.forgetting<=1.0,fft,average:en,mean,37.5,")
    both = run_cli(*call, "--compare", "fft", "route", "--format", "csv")
    assert (both.code, both.stderr) == (
        2,
        "scale: --compare and --require: csv holds one of them; leave the other out, or choose json\n",
    )
    html = run_cli(*call, "--compare", "fft", "route", "--format", "html").stdout
    assert html.count('<section id="comparison">') == html.count('<section id="requirements">') == 1
    assert run_cli(*call, "--format", "latex").stdout.count(r"\begin{table*}") == 2


def test_seeds(run_cli: RunCli, tmp_path: Path) -> None:
    for seed in (0, 1):
        result(f"seed-{seed}-fft", "fft", [measured("k", 0.5 + seed / 10)], seed=seed).save(tmp_path / f"seed-{seed}")
    assert "fft (2 seeds)" in run_cli("report", tmp_path).stdout
    assert "seed-1-fft" in run_cli("report", tmp_path, "--no-seeds").stdout
    for seed in (0, 1):
        unknown = result(f"lora-seed-{seed}", "lora", [measured("k", 0.5)], seed=seed, base=None)
        unknown.save(tmp_path / f"unknown-{seed}")
    assert run_cli("report", tmp_path).stderr == (
        "--seeds: the whole recipe of lora-seed-0, lora-seed-1 is unknown, so they are not combined; measure them "
        "again\n"
    )


def test_figures(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run_cli("report", BIOS, "--figures", tmp_path / "new" / "figures", "--ablation", "lr", "--format", "csv")
    assert ended.code == 0
    assert ended.stdout.startswith("checkpoint,")
    names = [f"{name}.{kind}" for name in ("frontier", "curves", "ablation-lr") for kind in ("png", "svg", "txt")]
    assert ended.stderr == f"figures in {tmp_path}/new/figures: {', '.join(names)}\n"
    assert sorted(path.name for path in (tmp_path / "new" / "figures").iterdir()) == sorted(names)


def test_figures_without_a_trade_off(run_cli: RunCli, evaluated: Path, tmp_path: Path) -> None:
    ended = run_cli("report", evaluated, "--figures", tmp_path / "figures", "--format", "csv")
    assert ended.code == 0
    assert ended.stderr == (
        "no frontier figure: two checkpoints with stability and plasticity columns are needed; see --suite\n"
        f"figures in {tmp_path}/figures: none\n"
    )


def test_korean_labels_without_a_font_are_told(
    run_cli: RunCli, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "korean_font", lambda: None)
    ended = run_cli("report", evaluated, *suites(evaluated), "--figures", tmp_path / "figures", "--format", "csv")
    assert ended.code == 0
    assert ended.stderr.splitlines()[0] == (
        "no installed font has Hangul, so the figures romanise Korean labels; install one, such as Debian's "
        "fonts-nanum, for Korean labels"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["EVALUATED", "--stability", "x"], "--stability x: no result has this task; choose from a, b, k"),
        (["EVALUATED", "--base", "x"], "--base x: choose from base, fft, route"),
        (["EVALUATED", "--compare", "fft", "x"], "--compare x: choose from base, fft, route"),
        (
            ["EVALUATED", "--changes", "--format", "csv"],
            "--changes: csv always has both numbers and changes; leave it out",
        ),
        (
            ["EVALUATED", "--ablation", "lr"],
            "--ablation lr: an ablation is a figure; give its folder with --figures DIR",
        ),
        (
            ["EVALUATED", "--out", "report.pdf"],
            "--out report.pdf: give --format, or one of the endings .txt, .md, .tex, .csv, .json, .html",
        ),
        (
            ["EVALUATED", "--out", "no/where.html"],
            "--out no/where.html cannot be written: No such file or directory; mend that or choose another file",
        ),
        (
            ["EVALUATED", "--figures", "evaluated/base/result.json"],
            "--figures evaluated/base/result.json cannot be written: File exists; mend that or choose another folder",
        ),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str], message: str, run_cli: RunCli, evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(evaluated.parent)
    (evaluated.parent / "EMPTY").mkdir()
    before = sorted(evaluated.parent.rglob("*"))
    named = {"PAPER": str(PAPER), "EVALUATED": "evaluated"}
    ended = run_cli("report", *(named.get(word, word) for word in words))
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", f"scale: {message}\n")
    assert sorted(evaluated.parent.rglob("*")) == before


def test_a_report_imports_no_torch() -> None:
    """Reports are often made on machines without training. Only formats with figures import matplotlib."""
    program = (
        "import sys; from scale_cli.cli import main\n"
        "for format in ('text', 'html'):\n"
        f"    code = main(['report', {str(PAPER)!r}, '--format', format])\n"
        "    print(code, {'torch', 'transformers', 'matplotlib', 'lm_eval'} & set(sys.modules), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr == "0 set()\n0 {'matplotlib'}\n"
