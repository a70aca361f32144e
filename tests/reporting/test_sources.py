"""What a report is read from, which columns that gives, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.core.records import write_record
from scale_cli.evaluation.suites import Suite
from scale_cli.reporting.build import ColumnSpec, GroupSpec, build_table
from scale_cli.reporting.curves import Panel, biography_panels, drawn_rows
from scale_cli.reporting.groups import measured_suites, suite_group, task_group
from scale_cli.reporting.sources import BIOGRAPHY_GROUPS, read_sources
from tests.results.made import measured, result

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"


def bench_record(path: Path, *, seeds: tuple[int, ...] = (0,), **changes: Any) -> Path:
    """A record of `scale bench bios` with two methods."""
    rows = [
        {
            "label": label,
            "method": method,
            "seed": seed,
            "learning_rate": 1e-3,
            "trained_parameters": 1000,
            "task0_before": 1.0,
            "task0": 0.5 - seed / 10,
            "task1": 0.75,
            "exact_task0": 0.25,
            "exact_task1": 0.5,
            "seconds": 2.0,
            "routed_task0": 0.5 if method == "scale-route" else None,
            "routed_task1": 0.25 if method == "scale-route" else None,
        }
        for seed in seeds
        for label, method in (("fft", "fft"), ("routed", "scale-route"))
    ]
    curves = {
        label: {str(seed): [[0, 1.0, 0.01], [10, 0.5 - seed / 10, 0.75]] for seed in seeds}
        for label in ("fft", "routed")
    }
    recipe = {"pretrain_people": 101, "task1_people": 40, "eval_people": None}
    write_record(path, command="scale bench bios", recipe=recipe, rows=rows, curves=curves, seconds=9.0, **changes)
    return path


def test_a_biography_record_is_a_table(tmp_path: Path) -> None:
    sources = read_sources([bench_record(tmp_path / "results.json")])
    assert [one.checkpoint.label for one in sources.results] == ["before Task 1", "fft", "routed"]
    assert sources.groups == BIOGRAPHY_GROUPS
    table = build_table(sources.results, sources.groups)
    headings = [column.flat_label for column in table.columns]
    assert headings == ["Task 0 accuracy", "Task 1 accuracy", "Task 0 exact", "Task 1 exact"]
    before, fft, routed = table.rows
    assert [before.section, fft.section, routed.section] == ["base", "baselines", "SCALE"]
    assert (fft.trained, fft.seconds) == (1000, 2.0)
    task0, task1 = (fft.cells[column.key] for column in table.columns[:2])
    assert [task0.value, task0.change, task1.value, task1.change] == pytest.approx([0.5, -0.5, 0.75, 0.74])
    (measurement,) = routed.cells[table.columns[0].key].measurements.values()
    assert (measurement.samples, measurement.routed) == (306, 0.5)  # 6 questions on each of the held-out 51 people
    assert measurement.stderr == pytest.approx((0.25 / 305) ** 0.5)


def test_a_run_folder_of_the_benchmark_is_one_too(tmp_path: Path) -> None:
    bench_record(tmp_path / "results.json")
    assert len(read_sources([tmp_path]).results) == 3


def test_every_seed_has_its_base(tmp_path: Path) -> None:
    sources = read_sources([bench_record(tmp_path / "results.json", seeds=(0, 1))])
    labels = [one.checkpoint.label for one in sources.results]
    assert labels[:3] == ["before Task 1 (seed 0)", "fft (seed 0)", "routed (seed 0)"]
    table = build_table(sources.results, sources.groups, seeds=True)
    assert [row.label for row in table.rows] == ["before Task 1", "fft", "routed"]
    cell = table.rows[1].cells[table.columns[0].key]
    assert [cell.value, cell.change] == pytest.approx([0.45, -0.55])
    assert cell.error == pytest.approx(0.0707, abs=1e-4)


@pytest.mark.parametrize("name", ["bios-demo", "bios-small", "bios-demo-sweep"])
def test_the_records_of_real_runs(name: str) -> None:
    sources = read_sources([RECORDS / f"{name}.json"])
    record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    table = build_table(sources.results, sources.groups)

    column = table.columns[0].key
    shown = {row.label: row.cells[column].value for row in table.rows[1:]}
    assert shown == {row["label"]: row["task0"] for row in record["rows"]}
    assert len(sources.panels) == (2 if record.get("curves") else 0)


def test_several_sources_stand_in_one_table(tmp_path: Path) -> None:
    bench_record(tmp_path / "results.json")
    result("base", None, [measured("k", 0.5)]).save(tmp_path / "evaluated" / "base")
    sources = read_sources([tmp_path / "results.json", tmp_path / "evaluated"])
    assert [one.checkpoint.label for one in sources.results] == ["before Task 1", "fft", "routed", "base"]


def test_curves_of_a_record(tmp_path: Path) -> None:
    panel = {"title": "English", "x": "tokens", "unit": "perplexity", "series": {"fft": {"0": [[0, 10.0], [5, 12.0]]}}}
    one = result("fft", "fft", [measured("k", 0.5)], curves=[panel])
    one.save(tmp_path / "fft")
    result("lora", "lora", [measured("k", 0.5)], curves=[panel]).save(tmp_path / "lora")
    (found,) = read_sources([tmp_path]).panels  # the same curves in two results are shown once
    assert found == Panel("English", "tokens", "perplexity", False, {"fft": {"0": [(0.0, 10.0), (5.0, 12.0)]}})


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([{"title": "t"}], "its curves are not those of a report: KeyError('x')"),
        ([3], "its curves are not those of a report"),
    ],
)
def test_curves_that_are_none_are_refused(curves: Any, message: str, tmp_path: Path) -> None:
    result("fft", "fft", [measured("k", 0.5)], curves=curves).save(tmp_path)
    with pytest.raises(RequestError) as caught:
        read_sources([tmp_path])
    assert str(caught.value).startswith(f"{tmp_path}: {message}")


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no result of scale eval: its kind is None and not 'evaluation'"):
        read_sources([RECORDS / "speed-train-step.json"])
    with pytest.raises(RequestError, match=r"no such file or folder; give results of: scale eval CHECKPOINT --out DIR"):
        read_sources([tmp_path / "nowhere"])
    with pytest.raises(RequestError, match=r"holds no result\.json; make one with: scale eval CHECKPOINT --out"):
        read_sources([tmp_path])
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match=r"text\.json is no result of scale eval"):
        read_sources([tmp_path / "text.json"])
    write_record(tmp_path / "half.json", recipe={}, rows=[{}], command="c")
    with pytest.raises(RequestError, match=r"half\.json is no record of scale bench bios: KeyError\('eval_people'\)"):
        read_sources([tmp_path / "half.json"])


def test_curves_over_seeds() -> None:
    panels = biography_panels(
        {"fft": {0: [(0, 1.0, 0.0), (10, 0.2, 0.5)], 1: [(0, 0.5, 0.0), (10, 0.2, 1.0), (20, 0, 1)]}}
    )
    assert [panel.title for panel in panels] == ["Task 0, held-out people (stability)", "Task 1 (plasticity)"]
    assert panels[0].lines == {"fft": [(0, 75.0, pytest.approx(35.36, abs=0.01)), (10, 20.0, 0.0)]}
    assert biography_panels({"fft": {0: [(0, 1.0, 0.0)]}})[0].lines == {"fft": [(0, 100.0, None)]}
    assert biography_panels({"fft": {}})[0].lines == {}


def test_curves_are_drawn_as_their_rows(tmp_path: Path) -> None:
    sources = read_sources([bench_record(tmp_path / "results.json", seeds=(0, 1))])
    for seeds in (True, False):
        table = build_table(sources.results, sources.groups, seeds=seeds)
        assert drawn_rows(table, sources.panels) == {"fft": ("fft", "baselines"), "routed": ("scale-route", "SCALE")}
    unknown = Panel("t", "x", "y", False, {"lora": {}, "mine": {}, "routed": {}})
    table = build_table(sources.results, sources.groups)
    assert drawn_rows(table, [unknown]) == {
        "routed": ("scale-route", "SCALE"),
        "lora": ("lora", "others"),
        "mine": (None, "others"),
    }
    assert list(unknown.in_order(["routed", "lora"]).series) == ["routed", "lora", "mine"]


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
        found = measured_suites(self.results, [korean, never, small, large])
        assert [one.name for one in found] == ["large", "korean"]

    def test_a_suite_s_columns(self) -> None:
        group = suite_group(suite("large", "stability", ["a", "b"]))
        assert (group.name, group.title, group.role) == ("large", "Large", "stability")
        assert [(column.task, column.metric, column.label, column.num_fewshot) for column in group.columns] == [
            ("a", "acc", "a", 0),
            ("b", "acc", "b", 0),
        ]

    def test_columns_named_one_by_one(self) -> None:
        group = task_group("stability", ["b", "a=acc_norm"], self.results)
        assert [(column.task, column.metric) for column in group.columns] == [("b", "acc"), ("a", "acc_norm")]
        assert (group.name, group.title, group.role) == ("stability", "b, a", "stability")

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("x", "--stability x: no result has this task; choose from a, b, k, c"),
            ("a", "--stability a: say which metric; choose from a=acc, a=acc_norm"),
            ("b=f1", "--stability b=f1: say which metric; choose from b=acc"),
        ],
    )
    def test_what_cannot_be_a_column(self, word: str, message: str) -> None:
        with pytest.raises(RequestError) as caught:
            task_group("stability", [word], self.results)
        assert str(caught.value) == message


def test_a_record_says_which_columns_belong_together(tmp_path: Path) -> None:
    """As `scale bench korean` does; such a record has rows as well and is none of biographies."""
    entries = [
        result("base", None, [measured("perplexity:x", 1.0, metric="bits_per_byte")]),
        result("fft", "fft", [measured("perplexity:x", 2.0, metric="bits_per_byte")]),
    ]
    fields = [{"checkpoint": one.checkpoint, "measurements": one.measurements} for one in entries]
    group = GroupSpec("x-text", "X", "stability", (ColumnSpec("perplexity:x", "bits_per_byte", "bits/byte"),))
    file = tmp_path / "results.json"
    common: dict[str, Any] = {"kind": "evaluation", "command": "scale bench korean", "recipe": {}, "rows": []}
    common |= {"results": fields}
    write_record(file, **common, groups=[group])
    sources = read_sources([file, file])
    assert sources.groups == (group,)
    table = build_table(sources.results[:2], sources.groups)
    assert [column.flat_label for column in table.columns] == ["bits/byte"]
    write_record(file, **common, groups=[{"name": "x"}])
    with pytest.raises(RequestError, match=r"json: its groups are not those of a report: KeyError\('columns'\)$"):
        read_sources([file])
