"""From results to the table: columns, rows, changes against the base, and marks on best values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.evaluation.suites import Suite
from scale_cli.methods import METHODS
from scale_cli.reporting.columns import Column, groups_of, measured_suites, routed_group, suite_group, task_group
from scale_cli.reporting.pairing import compared_with
from scale_cli.reporting.statistics import paired_error
from scale_cli.reporting.table import FACTS, Cell, Row, Table, build_table
from scale_cli.results.groups import ColumnSpec, GroupSpec
from scale_cli.results.result import Result, read_results
from tests.helpers import refusal
from tests.results.made import PLASTIC, STABLE, measured, result, scored


def trio(label: str, method: str | None, a: float, b: float, k: float, **more: object) -> Result:
    return result(label, method, [measured("a", a), measured("b", b), measured("k", k)], **more)  # type: ignore[arg-type]


BASE = trio("base", None, 0.6, 0.4, 0.1)
FFT = trio("fft", "fft", 0.4, 0.2, 0.8)
ROUTE = trio("route", "scale-route", 0.5, 0.4, 0.7)
PRESERVE = trio("preserve", "scale-preserve", 0.505, 0.38, 0.5)


def table(results: Sequence[Result], groups: Sequence[GroupSpec] = (STABLE, PLASTIC), **options: object) -> Table:
    return build_table(results, groups, **options)  # type: ignore[arg-type]


def row(report: Table, label: str) -> Row:
    return next(r for r in report.rows if r.label == label)


def columns(report: Table) -> dict[str, Column]:
    """The columns of measured numbers and averages by their headings."""
    return {column.flat_label: column for _, column in report.numbers}


def cell(report: Table, label: str, heading: str) -> Cell:
    """A number that the table has."""
    number = report.cell(row(report, label), columns(report)[heading])
    assert number is not None
    return number


PAPER_ORDER = ("fft", "lora", "llama-pro", "freeze", "scale-preserve", "scale-adapt", "scale-route")
"""As in Table 1 of arXiv 2511.03270."""


def best(report: Table) -> set[tuple[str, str]]:
    """The marked numbers, by row and heading."""
    names = {column.key: name for name, column in columns(report).items()}
    marked = report.cells[report.cells["best"]]
    return {(label, names[key]) for label, key in zip(marked["row"], marked["column"], strict=True)}


def test_rows_stand_as_in_the_paper_whatever_the_order_of_the_results() -> None:
    other = result("wide", None, [measured("a", 0.6), measured("b", 0.4), measured("k", 0.1)])
    other = replace(other, checkpoint=replace(other.checkpoint, kind="width"))
    methods = [trio(method, method, 0.5, 0.5, 0.5) for method in METHODS]
    report = table([other, *reversed(methods), BASE])
    more = [name for name, method in METHODS.items() if not method.paper]
    assert [r.label for r in report.rows] == ["base", *PAPER_ORDER[:4], *more, *PAPER_ORDER[4:], "wide"]
    assert [r.section for r in report.rows] == ["base", *["baselines"] * (4 + len(more)), *["SCALE"] * 3, "others"]
    assert report.base is report.rows[0]


def test_averages_changes_and_their_errors() -> None:
    report = table([BASE, FFT])
    assert list(columns(report)) == ["A", "B", "English average", "K"]
    number = cell(report, "fft", "English average")
    assert number.value == pytest.approx(0.3)
    assert number.error == pytest.approx(math.hypot(0.01, 0.01) / 2)
    assert number.change == pytest.approx(-0.2)
    assert number.change_error == pytest.approx(math.hypot(*[math.hypot(0.01, 0.01)] * 2) / 2)
    assert not number.paired
    assert cell(report, "base", "A").change is None
    assert report.summary("stability") == columns(report)["English average"]
    assert report.summary("plasticity") == columns(report)["K"]  # one column needs no average


def test_changes_stand_under_the_names_of_their_roles() -> None:
    """Forgetting is positive for a loss and gain for an improvement, also if lower is better."""
    texts = GroupSpec("en", "English", "stability", (ColumnSpec("p", "bits_per_byte", "en"),))
    neither = GroupSpec("z", "Z", None, (ColumnSpec("z", "acc", "z"),))

    def run(method: str | None, acc: float, bits: float) -> Result:
        numbers = [measured("k", acc), measured("p", bits, metric="bits_per_byte"), measured("z", acc)]
        return result(method or "base", method, numbers)

    report = table([run(None, 0.5, 1.0), run("fft", 0.7, 1.2)], [texts, PLASTIC, neither])
    changes = {column.flat_label: report.cell(report.rows[1], column) for column in report.columns if column.change}
    assert list(changes) == ["English forgetting", "Korean gain", "Z change"]
    assert [change.value for change in changes.values() if change] == pytest.approx([0.2, 0.2, 0.2])
    lost = replace(PLASTIC, role="stability")
    (change,) = (c for c in table([run(None, 0.7, 1), run("fft", 0.5, 1)], [lost]).columns if c.change)
    assert change.label == "forgetting"
    assert not any(c.change for c in table([run("fft", 0.5, 1.0)], [PLASTIC]).columns)


def test_a_lead_is_marked_only_beyond_its_error() -> None:
    # A: preserve leads route by 0.005 (error 0.014). B: route leads by 0.02. The base, best in A, is left out.
    assert best(table([BASE, FFT, ROUTE, PRESERVE])) == {("route", "B"), ("fft", "K")}


def test_no_mark_without_an_error_or_a_second() -> None:
    sure = result("fft", "fft", [measured("k", 0.9, None)])
    assert best(table([sure, ROUTE], [PLASTIC])) == set()
    assert best(table([BASE, ROUTE])) == set()


def test_where_lower_is_better_the_lowest_is_best_and_the_front_turns() -> None:
    spec = GroupSpec("en", "English", "stability", (ColumnSpec("perplexity:en", "perplexity", "en"),))
    values = {"base": 10.0, "fft": 12.5, "scale-preserve": 10.5}
    results = [
        result(
            name,
            None if name == "base" else name,
            [measured("perplexity:en", value, 0.1, "perplexity"), measured("k", gain)],
        )
        for (name, value), gain in zip(values.items(), (0.1, 0.8, 0.5), strict=True)
    ]
    report = table(results, [spec, PLASTIC])
    assert best(report) == {("scale-preserve", "en"), ("fft", "K")}
    assert cell(report, "fft", "en").change == pytest.approx(2.5)
    assert [r.pareto for r in report.rows] == [True, True, True]
    worse = result("lora", "lora", [measured("perplexity:en", 12.6, 0.1, "perplexity"), measured("k", 0.8)])
    assert not row(table([*results, worse], [spec, PLASTIC]), "lora").pareto


def test_pareto_rows() -> None:
    report = table([BASE, FFT, ROUTE, trio("freeze", "freeze", 0.5, 0.4, 0.6)])
    assert {r.label: r.pareto for r in report.rows} == {"base": True, "fft": True, "route": True, "freeze": False}
    assert not any(r.pareto for r in table([BASE]).rows)
    assert not any(r.pareto for r in table([BASE, FFT], [STABLE]).rows)


def test_tasks_of_no_suite_have_columns_of_their_own() -> None:
    more = replace(FFT, measurements=(*FFT.measurements, measured("z", 0.5), measured("z", 0.6, metric="acc_norm")))
    report = table([BASE, more])
    assert list(columns(report)) == ["A", "B", "English average", "K", "z acc", "z acc_norm"]
    assert report.groups[2].summary is None
    assert report.groups[2].role is None


def test_other_metrics_of_a_suite_s_task_are_not_shown() -> None:
    more = replace(FFT, measurements=(*FFT.measurements, measured("a", 0.9, metric="acc_norm")))
    assert list(columns(table([BASE, more]))) == ["A", "B", "English average", "K"]


def test_numbers_measured_otherwise_stand_in_another_column() -> None:
    shots = replace(FFT, measurements=(measured("a", 0.4, num_fewshot=5), *FFT.measurements[1:]))
    report = table([BASE, shots])
    assert list(columns(report)) == ["A (0-shot)", "A (5-shot)", "B", "K"]
    assert report.groups[0].summary is None
    wanted = replace(STABLE, columns=(replace(STABLE.columns[0], num_fewshot=0), STABLE.columns[1]))
    assert list(columns(table([BASE, shots], [wanted, PLASTIC]))) == ["A", "B", "English average", "K"]
    assert table([BASE, shots], [wanted, PLASTIC]).notes == ("English: no average for fft, as A is not measured.",)
    versions = replace(FFT, measurements=(measured("a", 0.4, task_version="2.0"), *FFT.measurements[1:]))
    assert list(columns(table([BASE, versions])))[:2] == ["A (version 1.0)", "A (version 2.0)"]


def test_a_filter_is_asked_for_or_told() -> None:
    values = [measured("g", 0.1, metric="exact_match", filter="strict-match"),
              measured("g", 0.2, metric="exact_match", filter="flexible-extract")]  # fmt: skip
    both = GroupSpec("en", "English", "stability", (ColumnSpec("g", "exact_match", "G"),))
    assert list(columns(table([result("base", None, values)], [both]))) == ["G (strict-match)", "G (flexible-extract)"]
    strict = replace(both, columns=(replace(both.columns[0], filter="strict-match"),))
    report = table([result("base", None, values)], [strict])
    assert [number.value for column in report.columns if (number := report.cell(report.rows[0], column))] == [0.1]


def test_a_trial_stands_apart() -> None:
    trial = replace(FFT, measurements=tuple(replace(m, limit=10) for m in FFT.measurements))
    report = table([BASE, trial])
    titles = [group.title for group in report.groups]
    assert titles == ["English (all)", "English (first 10)", "Korean (all)", "Korean (first 10)"]
    shown = {label: set(report.cells[report.cells["row"] == label]["column"]) for label in ("fft", "base")}
    assert shown["fft"].isdisjoint(shown["base"])
    assert "English was measured with several limits or seeds, which are not compared." in report.notes
    assert [group.title for group in table([trial]).groups] == ["English (first 10)", "Korean (first 10)"]


def test_a_column_that_is_missing_takes_the_average_with_it() -> None:
    some = result("fft", "fft", [measured("a", 0.4), measured("k", 0.5)])
    report = table([BASE, some])
    assert report.cell(row(report, "fft"), columns(report)["English average"]) is None
    assert report.notes == ("English: no average for fft, as B is not measured.",)
    assert not row(report, "fft").pareto
    report = table([some])
    assert "English: no average, as B is not measured." in report.notes


def test_precisions_are_told_and_of_two_the_later_is_shown() -> None:
    half = replace(FFT, measurements=(*FFT.measurements, measured("k", 0.7, dtype="bfloat16")))
    report = table([BASE, half])
    assert cell(report, "fft", "K").value == 0.7
    assert report.notes == ("Measured in different precisions: float32 (base, fft); bfloat16 (fft).",)


def test_a_value_that_is_no_number_is_left_out_and_told() -> None:
    broken = replace(FFT, measurements=(*FFT.measurements[:2], measured("k", math.nan)))
    report = table([BASE, broken])
    assert report.cell(row(report, "fft"), columns(report)["K"]) is None
    assert report.notes == ("Left out, as the value is NaN or infinite: k acc of fft.",)


def test_decimals_show_two_digits_of_the_error() -> None:
    spec = GroupSpec("t", "T", None, (ColumnSpec("t", "bits_per_byte", "T"),))

    def decimals(value: float, stderr: float | None) -> int:
        report = table([result("base", None, [measured("t", value, stderr, "bits_per_byte")])], [spec])
        return report.columns[0].decimals

    assert decimals(0.9, 0.0123) == 3
    assert decimals(10.0, 0.5) == 2
    assert decimals(12345.0, 120.0) == 0
    assert decimals(0.9, None) == 4
    assert decimals(123.4, None) == 1
    assert decimals(0.0, None) == 2
    assert decimals(1.0, 1e-12) == 6


def test_shares_are_shown_in_percent_and_a_routed_share_is_no_merit() -> None:
    metrics = ("acc", "hard/birthday", "routed", "bits_per_byte")
    results = [
        result(label, method, [measured("t", value, 0.001, metric) for metric in metrics])
        for label, method, value in (("fft", "fft", 0.5), ("route", "scale-route", 0.6))
    ]
    report = table(results, [])
    percent = {column.metric: column.percent for column in report.columns}
    assert percent == {"acc": True, "hard/birthday": True, "routed": True, "bits_per_byte": False}
    assert {heading for _, heading in best(report)} == {"t acc", "t hard/birthday", "t bits_per_byte"}


def test_the_parts_of_a_metric_stand_together() -> None:
    metrics = ("hard", "hard/birthday", "routed", "w12_norm/ffn")
    report = table([result("fft", "fft", [measured("t", 0.5, metric=metric) for metric in metrics])], [])
    shown = [(group.title, [(c.label, c.flat_label) for c in group.columns]) for group in report.groups]
    assert shown == [
        ("t hard", [("mean", "t hard"), ("birthday", "t hard/birthday")]),
        ("t", [("routed", "t routed")]),
        ("t w12_norm", [("ffn", "t w12_norm/ffn")]),
    ]


def test_items_pair_the_changes_and_the_leads(tmp_path: Path) -> None:
    scored("base", None, {"k": [1, 0, 1, 0] * 10}, tmp_path)
    scored("fft", "fft", {"k": [1, 0, 1, 1] * 10}, tmp_path)
    scored("lora", "lora", {"k": [1, 0, 1, 1] * 8 + [1, 0, 1, 0] * 2}, tmp_path)
    results = read_results([tmp_path])
    assert [r.checkpoint.label for r in results] == ["base", "fft", "lora"]
    report = table(results, [PLASTIC])
    number = cell(report, "fft", "K")
    assert number.paired
    assert number.change_error == pytest.approx(paired_error([1, 0, 1, 0] * 10, [1, 0, 1, 1] * 10))
    assert number.best  # it leads lora by 2 items of 40, 0.05, and the paired error is 0.035
    unpaired = cell(table(results, [PLASTIC], items=lambda result, measurement: None), "fft", "K")
    assert not unpaired.paired
    assert not unpaired.best  # 0.1
    assert unpaired.change_error == pytest.approx(
        math.hypot(results[0].measurements[0].stderr or 0, results[1].measurements[0].stderr or 0)
    )


def test_a_paired_error_travels_without_the_items(tmp_path: Path) -> None:
    """It is stored in a benchmark's record, which has no items, and applies to the paired checkpoint only."""
    base = scored("base", None, {"k": [1, 0, 1, 0] * 10}, tmp_path)
    fft = scored("fft", "fft", {"k": [1, 0, 1, 1] * 10}, tmp_path)
    other = replace(scored("other", None, {"k": [1, 0, 0, 0] * 10}, tmp_path), path=None)
    record = replace(compared_with(base, fft), path=None)
    assert record.checkpoint.compared == base.checkpoint.fingerprint
    number = cell(table([replace(base, path=None), record], [PLASTIC]), "fft", "K")
    assert number.paired
    assert number.change_error == pytest.approx(paired_error([1, 0, 1, 0] * 10, [1, 0, 1, 1] * 10))
    assert not cell(table([other, record], [PLASTIC]), "fft", "K").paired


def test_items_whose_mean_is_not_the_value_pair_nothing(tmp_path: Path) -> None:
    base = scored("base", None, {"k": [1, 0, 1, 0]}, tmp_path)
    fft = scored("fft", "fft", {"k": [1, 0, 1, 1]}, tmp_path)
    macro = replace(fft, measurements=(replace(fft.measurements[0], value=0.7),))
    assert cell(table([base, fft], [PLASTIC]), "fft", "K").paired
    assert not cell(table([base, macro], [PLASTIC]), "fft", "K").paired


def test_the_base_is_the_plain_one_or_the_one_that_is_named() -> None:
    report = table([FFT, ROUTE])
    assert report.base is None
    assert report.notes == (
        "No change against a base: every checkpoint is trained or upscaled; choose one with --base LABEL.",
    )
    named = table([FFT, ROUTE], base="fft")
    assert [r.section for r in named.rows] == ["base", "SCALE"]
    assert cell(named, "route", "K").change == pytest.approx(-0.1)
    two = table([BASE, trio("base2", None, 0.1, 0.1, 0.1)])
    assert two.notes == (
        "No change against a base: several checkpoints could be the base; choose one with --base LABEL.",
    )
    with pytest.raises(RequestError, match=r"^--base nobody: choose from fft, route$"):
        table([FFT, ROUTE], base="nobody")


def test_labels_that_are_the_same_are_numbered() -> None:
    assert [r.label for r in table([BASE, FFT, FFT]).rows] == ["base", "fft (1)", "fft (2)"]


def test_a_group_without_results_is_refused() -> None:
    missing = GroupSpec("x", "Other", "stability", (ColumnSpec("x", "acc", "X"), ColumnSpec("y", "acc", "Y")))
    with pytest.raises(
        RequestError, match=r"^Other: none of its tasks \(x, y\) is in these results, which hold a, b, k$"
    ):
        table([BASE], [missing])
    with pytest.raises(RequestError, match=r"^there are no results to report$"):
        table([])


class TestSeeds:
    def runs(self) -> list[Result]:
        return [
            BASE,
            *(trio(f"seed-{seed}-fft", "fft", 0.3 + seed / 10, 0.2, 0.8, seed=seed, trained=10) for seed in (0, 1, 2)),
            *(trio(f"route (seed {seed})", "scale-route", 0.5, 0.4, 0.7 + seed / 100, seed=seed) for seed in (0, 1)),
        ]

    def test_repetitions_are_one_row(self) -> None:
        report = table(self.runs(), seeds=True)
        assert [(r.label, r.seeds) for r in report.rows] == [("base", ()), ("fft", (0, 1, 2)), ("route", (0, 1))]
        assert report.aggregated
        number = cell(report, "fft", "A")
        assert [number.value, number.error] == pytest.approx([0.4, 0.1])
        assert [number.change, number.change_error] == pytest.approx([-0.2, 0.1])
        average = cell(report, "fft", "English average")
        assert [average.value, average.error] == pytest.approx([0.3, 0.05])
        assert report.cell(row(report, "fft"), FACTS["trained"]) == Cell(10.0, 0.0)

    def test_without_it_each_has_its_row(self) -> None:
        report = table(self.runs())
        assert len(report.rows) == 6
        assert not report.aggregated

    def test_a_number_that_one_seed_lacks_is_none(self) -> None:
        first, second = self.runs()[1:3]
        report = table([BASE, first, replace(second, measurements=second.measurements[:2])], seeds=True)
        assert report.cell(row(report, "fft"), columns(report)["K"]) is None
        assert cell(report, "fft", "A").value == pytest.approx(0.35)

    def test_the_lead_of_means(self) -> None:
        """K: fft 0.8 without spread, route 0.705 with a deviation of 0.007 over two seeds."""
        assert ("fft", "K") in best(table(self.runs(), seeds=True))
        noisy = [trio(f"seed-{seed}-lora", "lora", 0.1, 0.1, value, seed=seed) for seed, value in ((0, 0.7), (1, 1.0))]
        report = table([*self.runs(), *noisy], seeds=True)  # mean 0.85, 0.15 from its own error
        assert "K" not in {heading for _, heading in best(report)}

    def test_each_seed_may_have_a_base_of_its_own(self) -> None:
        bases = [
            trio(f"base (seed {seed})", None, 0.6 + seed / 10, 0.4, 0.1, base="made by one recipe", data={})
            for seed in (0, 1)
        ]
        bases = [replace(b, checkpoint=replace(b.checkpoint, recipe={"seed": seed})) for seed, b in enumerate(bases)]
        runs = [trio(f"fft (seed {seed})", "fft", 0.3, 0.2, 0.8, seed=seed) for seed in (1, 0)]
        report = table([*bases, *runs])
        changes = {r.label: cell(report, r.label, "A").change for r in report.rows if r.section != "base"}
        assert changes == {"fft (seed 0)": pytest.approx(-0.3), "fft (seed 1)": pytest.approx(-0.4)}
        together = table([*bases, *runs], seeds=True)
        assert [r.label for r in together.rows] == ["base", "fft"]
        assert cell(together, "fft", "A").change == pytest.approx(-0.35)
        named = table([*bases, *runs], base="base (seed 0)", seeds=True)
        assert named.rows == together.rows


def suite(name: str, role: Any, tasks: list[str], language: Any = "en") -> Suite:
    return Suite(name, language, role, name.title(), tuple({"task": task, "metric": "acc"} for task in tasks), 0)


class TestGroups:
    results = (
        result("base", None, [measured("a", 0.5), measured("b", 0.5), measured("k", 0.5)]),
        result("fft", "fft", [measured("a", 0.5), measured("a", 0.6, metric="acc_norm"), measured("c", 0.5)]),
    )

    def test_the_largest_complete_suite_of_each_role(self) -> None:
        small, large = suite("small", "stability", ["a"]), suite("large", "stability", ["a", "b"])
        never, korean = suite("never", "stability", ["a", "b", "c"]), suite("korean", "plasticity", ["k"], "ko")
        chosen = measured_suites(self.results, [korean, never, small, large])
        assert [entry.name for entry in chosen] == ["large", "korean"]

    def test_a_suite_s_columns(self) -> None:
        group = suite_group(suite("large", "stability", ["a", "b"]))
        assert (group.name, group.title, group.role) == ("large", "Large", "stability")
        assert [(column.task, column.metric, column.label, column.num_fewshot) for column in group.columns] == [
            ("a", "acc", "a", 0),
            ("b", "acc", "b", 0),
        ]

    def test_the_routed_shares_of_a_suite(self) -> None:
        spec = suite_group(suite("large", "stability", ["a", "b"]))
        routed = result("route", "scale-route", [measured("a", 0.5, routed=0.25), measured("b", 0.5)]).with_routed()
        (group,) = routed_group(spec, [routed])
        report = table([routed], [spec, group])
        assert [(c.flat_label, c.metric) for c in report.groups[1].columns] == [("Large routed a", "routed")]
        number = report.cell(report.rows[0], report.groups[1].columns[0])
        assert number is not None
        assert (number.value, number.error) == (0.25, None)
        assert routed_group(spec, self.results) == []

    def test_columns_named_one_by_one(self) -> None:
        group = task_group("stability", ["b", "a=acc_norm"], self.results)
        assert [(column.task, column.metric) for column in group.columns] == [("b", "acc"), ("a", "acc_norm")]
        assert (group.name, group.title, group.role) == ("stability", "b, a", "stability")

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("x", "--stability x: no result has this task; choose from a, b, k, c"),
            ("a", "--stability a: results have several metrics of this task; choose from a=acc, a=acc_norm"),
            ("b=f1", "--stability b=f1: no result has this metric; choose from b=acc"),
        ],
    )
    def test_what_cannot_be_a_column(self, word: str, message: str) -> None:
        assert refusal(task_group, "stability", [word], self.results) == message

    def test_groups_come_with_records_once(self) -> None:
        entry = plain(STABLE)
        results = [result(label, "fft", [measured("a", 0.5)], groups=[entry]) for label in "xy"]
        assert groups_of(results) == [STABLE]
        with pytest.raises(RequestError, match=r"^None: malformed groups in the record: title: the field is missing$"):
            groups_of([result("x", "fft", [], groups=[{"name": "x"}])])
