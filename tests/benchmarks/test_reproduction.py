"""The reproduction: the rule on rows worked by hand, reading of every kind of record, and the committed files."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import reproduction
from benchmarks.claims import COLUMNS, Verdict, compare, judge, numbers_of
from benchmarks.reproduction import OTHERS, OUT, RECORDS, TABLE, load_records, records_of, render
from scale_cli.bench.ablations import FIGURES as PAPER_FIGURES
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.results.groups import ColumnSpec, GroupSpec
from scale_cli.results.measurement import share_error
from scale_cli.results.result import Result
from tests.results.made import measured, result

LOG = OUT.parent / "LOG.md"


def the_paper() -> dict[str, dict[str, Any]]:
    """The records of the paper's table and figures."""
    return {file.name: json.loads(file.read_text(encoding="utf-8")) for file in (RECORDS / TABLE, PAPER_FIGURES)}


def numbers(*rows: tuple[str, int | None, float, float | None], field: str = "x") -> pd.DataFrame:
    """The numbers of a field. rows: arm, seed, value and error."""
    lines = [(arm, seed, field, value, error, None) for arm, seed, value, error in rows]
    return pd.DataFrame(lines, columns=list(COLUMNS), dtype=object).astype(dict.fromkeys(COLUMNS[3:], float))


def seeds(values: Mapping[str, Sequence[float]], error: float | None = None, *, field: str = "x") -> pd.DataFrame:
    """Numbers of a field with seeds 0, 1, ... values: one per seed, by arm."""
    rows = [(arm, seed, value, error) for arm, runs in values.items() for seed, value in enumerate(runs)]
    return numbers(*rows, field=field)


def order(*groups: Sequence[str | float], field: str = "x") -> dict[str, Any]:
    return {"says": "it rises", "field": field, "rising": list(groups)}


def figures() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(PAPER_FIGURES.read_text(encoding="utf-8"))
    return record


# The rule


def test_several_seeds_are_compared_by_their_differences() -> None:
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.46 with 2 degrees of freedom: p = 0.074
    spread = seeds({"a": [1, 2, 3], "b": [2, 4, 6]})
    comparison = compare(*(spread[spread["arm"] == arm] for arm in "ab"))
    assert comparison.difference == 2
    assert comparison.p_value == pytest.approx(0.0742, abs=1e-4)
    assert judge(order(["a"], ["b"]), spread).status == "undecided"
    # 2, 2, 2.3: t = 21
    near = seeds({"a": [1, 2, 3], "b": [3, 4, 5.3]})
    assert judge(order(["a"], ["b"]), near) == Verdict("verified", "a 2.00 below b 4.10")
    assert judge(order(["b"], ["a"]), near) == Verdict("differs", "b 4.10 not below a 2.00")


def test_the_seeds_of_a_pair_are_the_same() -> None:
    """The spread between seeds is far larger than between arms, and the seeds are in another order."""
    second = [("b", 2 - index, value, None) for index, value in enumerate((31.0, 21.0, 11.1))]
    both = pd.concat([seeds({"a": [10.0, 20.0, 30.0]}), numbers(*second)])
    assert judge(order(["a"], ["b"]), both).status == "verified"


def test_changes_against_the_base_are_paired_by_item() -> None:
    """A paired error shows a difference that the errors of the items hide."""
    alone: Any = seeds({"base": [30.0], "fft": [28.0], "lora": [27.0]}, 5.0)
    paired = alone.assign(paired=[None, 0.1, 0.1])
    for rising in ([["lora"], ["fft"]], [["fft"], ["base"]]):
        assert judge(order(*rising), alone).status == "undecided"
        assert judge(order(*rising), paired).status == "verified"


@pytest.mark.parametrize(
    ("error", "status"),
    [(0.1, "verified"), (0.6, "undecided"), (None, "undecided"), (0.0, "verified")],
)
def test_a_single_seed_has_the_error_of_its_items(error: float | None, status: str) -> None:
    # a difference of 1; z = 7.1 at 0.1, 1.18 at 0.6
    verdict = judge(order(["a"], ["b"]), seeds({"a": [1], "b": [2]}, error))
    assert verdict.status == status
    if error is None:
        assert verdict.why == "no error is known: a 1.000 below b 2.00"
    if error == 0.6:
        assert verdict.why == "inside the error: a 1.000 below b 2.00"


def test_equal_values_decide_nothing() -> None:
    assert judge(order(["a"], ["b"]), seeds({"a": [1.0], "b": [1.0]}, 0.0)).status == "undecided"
    assert judge(order(["a"], ["b"]), seeds({"a": [1.0, 1.0], "b": [1.0, 1.0]})).status == "undecided"
    assert judge(order(["a"], ["b"]), seeds({"a": [1.0, 1.0], "b": [2.0, 2.0]})).status == "verified"


def test_all_comparisons_of_a_claim_must_hold() -> None:
    claim = order(["a", "b"], ["c"], ["d"])
    assert judge(claim, seeds({"a": [1], "b": [2], "c": [3], "d": [4]}, 0.1)) == Verdict(
        "verified", "a 1.000 below c 3.00; b 2.00 below c 3.00; c 3.00 below d 4.00"
    )
    many = order(["a", "b"], ["c", "d"])
    assert judge(many, seeds({"a": [1], "b": [2], "c": [3], "d": [4]}, 0.1)).why == "all 4 comparisons"
    assert judge(claim, seeds({"a": [1], "b": [9], "c": [3], "d": [4]}, 0.1)) == Verdict(
        "differs", "b 9.00 not below c 3.00"
    )
    assert judge(claim, seeds({"a": [1], "b": [2], "c": [3], "d": [3.1]}, 0.1)) == Verdict(
        "undecided", "inside the error: c 3.00 below d 3.10"
    )


def test_a_number_in_a_claim_has_no_error() -> None:
    verdict = judge(order([0.95], ["a"]), seeds({"a": [0.97, 0.975, 0.98]}))
    assert verdict == Verdict("verified", "0.950 below a 0.975")
    assert judge(order([0.95], ["a"]), seeds({"a": [0.90]}, 0.01)).status == "differs"


def test_a_base_without_a_seed_is_compared_with_every_seed() -> None:
    base = numbers(("base", None, 5.0, 0.1))
    for values, status in (([1.0, 1.2, 1.1], "verified"), ([1.0, 9.2, 4.1], "undecided")):
        assert judge(order(["a"], ["base"]), pd.concat([base, seeds({"a": values})])).status == status


def test_exactly() -> None:
    claim = {"says": "", "field": "x", "exactly": {"*": 0}}
    assert judge(claim, seeds({"a": [0.0], "b": [0.0]})) == Verdict("verified", "in all 2 rows")
    assert judge(claim, seeds({"a": [0.0], "b": [1e-9]})) == Verdict("differs", "not exact: b 1e-09")
    one = {"says": "", "field": "x", "exactly": {"scale-preserve": 1}}
    assert judge(one, seeds({"a": [0.0], "scale-preserve": [1.0]})) == Verdict("verified", "in the row")
    assert judge(one, seeds({"scale-preserve": [0.0]})) == Verdict("differs", "not exact: SCALE-Preserve 0")


@pytest.mark.parametrize(("last", "status"), [(3.1, "verified"), (1.0, "differs")])
def test_linear(last: float, status: str) -> None:
    claim = {"says": "", "field": "y", "linear_in": "x", "among": ["a", "b", "c"]}
    points = [("a", 1.0, 1.0), ("b", 2.0, 2.0), ("c", 3.0, last)]
    points_of_both = pd.concat(
        [numbers(*((arm, None, point[axis], None) for arm, *point in points), field="xy"[axis]) for axis in (0, 1)]
    )
    assert judge(claim, points_of_both).status == status
    assert judge(claim, pd.concat([points_of_both, numbers(("d", None, 0.0, None), field="y")])).status == status
    assert judge(claim | {"among": ["a", "b"]}, points_of_both) == Verdict("undecided", "2 rows are too few for a line")


def test_a_claim_without_numbers_in_the_record_is_not_run() -> None:
    only_fft = seeds({"fft": [1.0]})
    assert judge(order(["fft"], ["scale-route", "lora"]), only_fft) == Verdict(
        "not run", "the record has no row SCALE-Route, LoRA"
    )
    assert judge(order(["fft"], [2.0], field="y"), only_fft) == Verdict("not run", "the record has no y")
    claim = {"says": "", "field": "x", "linear_in": "drift/norm"}
    assert judge(claim, only_fft) == Verdict("not run", "the record has no drift/norm")


# Reading records


def test_biographies() -> None:
    """The checkpoint before Task 1 is a row of its own. Accuracy early in Task 1 is read from the curve."""
    curve = {"mine": {"3": [[0, 1.0], [6, 0.9], [8, 0.7], [100, 0.25]]}}
    rows = [
        result("before Task 1", None, [measured("bios:task0", 1.0, 0.0, metric="hard")]),
        result("mine", "fft", [measured("bios:task0", 0.25, 0.07, metric="hard", samples=36)], seed=3),
    ]
    record = bench_record(rows, words="bios --preset small", curves=[{"title": "Task 0", "series": curve}])
    read = numbers_of(record).set_index(["arm", "field"])
    mine: Any = read.loc[("mine", "bios:task0/hard")]
    early: Any = read.loc[("mine", "early bios:task0/hard")]
    assert (mine["seed"], mine["value"], mine["stderr"]) == (3, 0.25, 0.07)
    assert early["value"] == 0.7  # at the first evaluation after 6.4% of 100 steps
    assert early["stderr"] == share_error(0.7, 36)
    assert len(read) == 3


def bench_record(results: Sequence[Result], *, words: str, **fields: Any) -> dict[str, Any]:
    """A benchmark's record, as JSON has it."""
    entries = [{"checkpoint": found.checkpoint, "measurements": found.measurements} for found in results]
    record = {
        "schema": 2,
        "kind": "evaluation",
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"torchrun --nproc-per-node 8 --no-python scale bench {words}",
        "recipe": {},
        "environment": {"hardware": {"cores": 16, "gpus": ["a GPU"]}},
        "results": entries,
    }
    return dict(plain(record | fields))


def korean_record(
    values: Mapping[str, tuple[float, float]], preset: str = "small", seeds: Sequence[int] = (0,)
) -> dict[str, Any]:
    """A record of continual pre-training. values: English and Korean perplexity by method; each seed adds 0.01."""
    rows = []
    for label, (english, korean) in values.items():
        for seed in seeds:
            texts = [
                measured(f"perplexity:{name}", value + 0.01 * seed, 0.01, metric="perplexity")
                for name, value in (("english", english), ("korean", korean))
            ]
            tasks = [measured("winogrande", 0.61, 0.0137), measured("a", 0.4, 0.03), measured("b", 0.6, 0.04)]
            if label == "base":
                rows.append(result(label, None, [*texts, *tasks]))
                break
            halves = {"hidden_states_equal": True} if label == "scale-preserve" else {}
            drift = measured("drift:english", 1.0, None, metric="cosine", details=halves)
            name = f"{label} (seed {seed})" if len(seeds) > 1 else label
            rows.append(result(name, label, [*texts, *tasks, drift], seed=seed))
    sources = {"english": {"source": "en.jsonl"}, "korean": {"source": "ko.jsonl"}}
    recipe: dict[str, Any] = {
        "preset": preset,
        "base": "fetch:smollm2",
        "train_data": ["fetch:korean-bills/text.jsonl"],
    }
    recipe |= {"texts": sources, "seeds": list(seeds), "training": {"steps": 500, "batch_size": 16, "seq_length": 1024}}
    offline = tuple(ColumnSpec(task, "acc", task) for task in "ab")
    group = GroupSpec("english-offline", "English (offline)", "stability", offline)
    return bench_record(rows, words=f"korean --preset {preset}", recipe=recipe, groups=[group])


def paper_values(name: str) -> dict[str, list[float]]:
    (figure,) = (figure for figure in figures()["figures"] if figure["name"] == name)
    values: dict[str, list[float]] = figure["values"]
    return values


def paper_korean(preset: str = "small", seeds: Sequence[int] = (0,)) -> dict[str, Any]:
    """A record with the paper's perplexities."""
    return korean_record({arm: (en, ko) for arm, (en, ko) in paper_values("Figure 9").items()}, preset, seeds)


def test_continual_pre_training() -> None:
    read = numbers_of(korean_record({"base": (16.0, 64.0), "scale-preserve": (16.0, 32.0)})).set_index(["arm", "field"])
    assert read.loc[("base", "perplexity:korean/perplexity"), "value"] == 64
    assert read.loc[("scale-preserve", "perplexity:korean/perplexity"), "value"] == 32
    assert read.loc[("scale-preserve", "hidden_states_equal"), "value"] == 1
    assert ("base", "hidden_states_equal") not in read.index
    seeds = read["seed"].groupby("arm").first()
    assert (seeds["scale-preserve"], pd.isna(seeds["base"])) == (0, True)
    average: Any = read.loc[("base", "average/english")]  # over the record's own English tasks
    assert (average["value"], average["stderr"]) == (pytest.approx(0.5), pytest.approx(0.025))
    assert ("base", "average/korean") not in read.index


def test_evaluations_alone() -> None:
    read = numbers_of(load_records(RECORDS)[TABLE])
    assert list(read["arm"].unique())[:2] == ["base", "fft"]
    read = read.set_index(["arm", "field"])
    assert read.loc[("scale-route", "average/english"), "value"] == pytest.approx(0.4649, abs=5e-5)
    assert read.loc[("scale-route", "average/korean"), "value"] == pytest.approx(0.5550, abs=5e-5)
    tasks = [f"kobest_{task}" for task in ("boolq/acc", "copa/acc", "hellaswag/acc_norm")]
    errors: list[Any] = [read.loc[("fft", task), "stderr"] for task in tasks]
    wanted = math.sqrt(sum(error**2 for error in errors)) / 3
    assert read.loc[("fft", "average/korean"), "stderr"] == pytest.approx(wanted)


def test_records_are_found_by_their_command() -> None:
    commands = {
        "a.json": "scale bench bios --preset demo",
        "b.json": "python -m scale_cli.bench.sweep --preset demo",
        "c.json": "torchrun --nproc-per-node 8 --no-python scale bench korean --preset paper",
        "d.json": "scale bench ablations init --preset demo",
        "e.json": "python -m benchmarks.fidelity runs/smollm2 --out x.json",
    }
    records = {name: {"command": command} for name, command in commands.items()}
    assert list(records_of("scale bench bios", records)) == ["a.json"]
    assert list(records_of("scale bench korean", records)) == ["c.json"]
    assert list(records_of("scale bench ablations init", records)) == ["d.json"]
    assert list(records_of("scale bench ablations layers", records)) == []
    assert list(records_of("python -m benchmarks.fidelity", records)) == ["e.json"]


# The paper's numbers and claims


def test_the_document_has_every_figure_of_the_paper_and_every_cell_of_its_table() -> None:
    names = [figure["name"] for figure in figures()["figures"]]
    assert [name for name in names if name.startswith(("Table", "Figure"))] == [
        "Table 1",
        *(f"Figure {number}" for number in (2, 4, 5, 6, 7, 8, 9)),
    ]
    assert "Output-shift bound (appendix)" in names
    text = OUT.read_text(encoding="utf-8")
    table = text[text.index("### Table 1") :]
    printed = [line.split("|")[3:-1] for line in table.splitlines() if "| paper |" in line]
    assert [len(cells) for cells in printed] == [10] * 8
    assert printed[0][0].split()[0] == "36.60"
    assert printed[-1][-1].split()[0] == "55.50"


def test_every_experiment_is_named_and_every_claim_can_be_read() -> None:
    record = figures()
    for figure in record["figures"]:
        assert figure["experiment"] in record["experiments"]
        assert len(figure["columns"]) == len(figure["precision"])
        assert all(len(values) == len(figure["columns"]) for values in figure["values"].values())
        for claim in figure["claims"]:
            assert len({"rising", "exactly", "linear_in"} & set(claim)) == 1
    assert {name for _, _, name in reproduction.OPEN_POINTS} <= {*record["experiments"], *OTHERS}


@pytest.mark.parametrize("figure", [f for f in figures()["figures"] if f["columns"]], ids=lambda f: f["name"])
def test_the_paper_s_own_values_have_the_orders_that_are_claimed(figure: dict[str, Any]) -> None:
    fields = [column["field"] for column in figure["columns"]]
    columns = {
        field: [(arm, None, values[index], 1e-6) for arm, values in figure["values"].items() if None not in values]
        for index, field in enumerate(fields)
    }
    known = pd.concat([numbers(*column, field=field) for field, column in columns.items()])
    statuses = [
        judge(claim, known).status for claim in figure["claims"] if "rising" in claim and claim["field"] in fields
    ]
    wanted = 0 if figure["name"] == "Figure 5" else 1  # its values are not read off
    assert statuses.count("verified") >= wanted
    assert set(statuses) <= ({"verified"} if wanted else {"not run"})


def test_the_paper_s_table_contradicts_no_claim_on_it() -> None:
    (figure,) = (figure for figure in figures()["figures"] if figure["name"] == "Table 1")
    printed = numbers_of(load_records(RECORDS)[TABLE])
    assert [judge(claim, printed).status for claim in figure["claims"]] == ["verified"] * 2 + ["undecided"] * 3


# The document


def with_record(record: Mapping[str, Any], name: str = "ours.json") -> str:
    paper = the_paper()
    return render(paper | {name: record})


def section(text: str, heading: str) -> str:
    """The part of the document from a heading to the next one of its level."""
    level = heading.split(" ")[0]
    return text[text.index(f"\n{heading}\n") :].split(f"\n{level} ")[1]


def test_without_records_everything_is_not_run() -> None:
    text = render(the_paper())
    assert section(text, "### Figure 8").count("| - | not run | `scale bench bios --preset demo` |") == 7
    overview = section(text, "## Overview")
    counts = re.findall(r"^\| \[.*\| - \| - \| - \| (\d+) \|$", overview, re.MULTILINE)
    assert sum(map(int, counts)) == sum(len(figure["claims"]) for figure in figures()["figures"])


def test_a_record_of_the_paper_s_order_verifies_its_claims_and_not_its_numbers() -> None:
    text = with_record(paper_korean())
    figure = section(text, "### Figure 9")
    assert figure.count("| [ours](records/ours.json) | verified |") == 4
    assert "| FFT | 12.49 | 12.49 (1 seed) | 6.50 | 6.50 (1 seed) |" in figure
    assert "| base | 10.42 | 10.42 | 16.80 | 16.80 |" in figure
    assert section(text, "### Figure 2").count("| verified |") == 2
    table = section(text, "### Table 1")
    assert table.count("61.00 ± 1.37") == 8  # WinoGrande, of every row
    assert "61.00 ± 1.37 verified" not in table
    header = section(text, "## Korean continual pre-training").splitlines()
    assert (
        "- [ours](records/ours.json): preset small, base fetch:smollm2, trained on fetch:korean-bills/text.jsonl, "
        "English en.jsonl, Korean ko.jsonl, 500 steps of 16 x 1024 tokens, 1 seed, a GPU."
    ) in header


def test_a_record_of_the_paper_s_size_is_compared_number_by_number() -> None:
    record = paper_korean(preset="paper")
    record["results"][1]["measurements"][0]["value"] = 13.5
    figure = section(with_record(record), "### Figure 9")
    assert "| FFT | 12.49 | 13.50 (1 seed) differs | 6.50 | 6.50 (1 seed) verified |" in figure
    table = section(with_record(record), "### Table 1")
    # 61.00 against 60.93, 58.17 and 57.30, with errors of 1.37: two of both together are 3.9
    assert table.count("61.00 ± 1.37 verified") == 8


def test_a_record_that_contradicts_differs_plainly() -> None:
    record = paper_korean()
    record["results"][1]["measurements"][0]["value"] = 10.43
    figure = section(with_record(record), "### Figure 9")
    assert "| differs | LLaMA Pro 11.24 not below FFT 10.43 |" in figure


def test_several_seeds_have_mean_and_deviation() -> None:
    figure = section(with_record(paper_korean(seeds=(0, 1, 2))), "### Figure 9")
    assert "| FFT | 12.49 | 12.50 ± 0.01 (3 seeds) |" in figure


def test_a_record_without_harness_tasks_has_no_row_in_the_table() -> None:
    record = paper_korean()
    for entry in record["results"]:
        entry["measurements"] = entry["measurements"][:2]
    table = section(with_record(record), "### Table 1")
    cells = table.split("| claim |")[0]
    assert "ours.json" not in cells
    assert cells.count("| ours | not run |") == 8


def test_experiments_without_a_figure_are_linked_from_the_open_points() -> None:
    text = with_record({"schema": 1, "command": "scale bench ablations where --preset small"}, "ablations-where.json")
    points = section(text, "## Open points of the paper")
    assert "| [ablations-where](records/ablations-where.json) |" in points
    assert "| not run: `scale bench ablations threshold` |" in points


def run_main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduction", *map(str, words)])
    try:
        reproduction.main()
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


def test_the_committed_file_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, "--check") == 0


def test_check_fails_if_the_file_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "records", tmp_path / "out.md"
    folder.mkdir()
    for name in (TABLE, "one-to-one/bios-demo.json"):
        shutil.copy(RECORDS / name, folder)
    words = ("--records", folder, "--out", out)
    message = f"reproduction: {out} is out of date; run: python -m benchmarks.reproduction\n"
    assert run_main(monkeypatch, *words, "--check") == 1
    assert capsys.readouterr() == ("", message)
    assert not out.exists()
    assert run_main(monkeypatch, *words) == 0
    assert run_main(monkeypatch, *words, "--check") == 0
    record = json.loads((folder / "bios-demo.json").read_text(encoding="utf-8"))
    record["rows"][0]["task0"] = 0.1
    (folder / "bios-demo.json").write_text(json.dumps(record), encoding="utf-8")
    assert run_main(monkeypatch, *words, "--check") == 1
    assert capsys.readouterr() == ("", message)


def test_a_folder_without_the_paper_s_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--records", tmp_path, "--out", tmp_path / "out.md") == 2
    assert capsys.readouterr().err == (
        f"reproduction: --records {tmp_path} lacks {TABLE}; name a folder with the paper's records\n"
    )
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(RequestError) as error:
        load_records(tmp_path)
    assert str(error.value) == (
        f"--records {tmp_path}: {tmp_path / 'other.json'} is not a record of schema 1 or 2; leave only records there"
    )


# The log


def test_the_log_s_links_and_dates() -> None:
    text = LOG.read_text(encoding="utf-8")
    dates = re.findall(r"^## (\d{4}-\d{2}-\d{2})$", text, re.MULTILINE)
    assert dates == sorted(set(dates), reverse=True)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (LOG.parent / link).is_file()] == []
    findings = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    assert len(findings) > 10
    assert [one.splitlines()[0] for one in findings if "`" not in one and "](records/" not in one] == []
