"""Records of schema 1, written by older versions, are read as results of the current schema."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.records import write_record
from scale_cli.results.groups import BIOGRAPHIES, GroupSpec
from scale_cli.results.measurement import share_error
from scale_cli.results.result import Result, read_results, repetitions

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
PAPER = "paper-table1.json"


def old(path: Path, **fields: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_record(path, schema=1, **fields)
    return path


def numbers(result: Result) -> dict[str, tuple[float, float | None]]:
    return {m.name: (m.value, m.stderr) for m in result.measurements}


def test_an_evaluation_s_options_are_what_is_known_of_the_recipe(tmp_path: Path) -> None:
    checkpoint = {"label": "x", "source": "x", "fingerprint": "f", "kind": "plain", "method": "fft", "parameters": {}}
    for seed in (0, 1):
        fields = {"checkpoint": checkpoint | {"label": f"x{seed}", "options": {"lr": 1.0, "seed": seed}}}
        old(tmp_path / f"{seed}" / "result.json", kind="evaluation", command="scale eval", measurements=[], **fields)
    results = read_results([tmp_path])
    assert [result.checkpoint.recipe for result in results] == [{"lr": 1.0, "seed": 0}, {"lr": 1.0, "seed": 1}]
    assert repetitions(results) == [[0], [1]]  # the rest of the recipe may differ


def biographies(path: Path, *, seeds: tuple[int, ...] = (0,)) -> list[Result]:
    """A record of `scale bench bios` with two methods."""
    rows = [
        {"label": label, "method": method, "seed": seed, "learning_rate": 1e-3, "trained_parameters": 1000}
        | {"task0_before": 1.0, "task0": 0.5 - seed / 10, "task1": 0.75, "exact_task0": 0.25, "exact_task1": 0.5}
        | {"seconds": 2.0, "routed_task0": 0.5 if label == "routed" else None}
        | {"routed_task1": 0.25 if label == "routed" else None}
        for seed in seeds
        for label, method in (("fft", "fft"), ("routed", "scale-route"))
    ]
    curves = {name: {str(seed): [[0, 1.0, 0.01], [10, 0.5, 0.75]] for seed in seeds} for name in ("fft", "routed")}
    recipe = {"pretrain_people": 101, "task1_people": 40, "eval_people": None, "methods": {"fft": {"lr": 1e-3}}}
    old(path, command="scale bench bios", recipe=recipe, rows=rows, curves=curves, seconds=9.0)
    return read_results([path])


def test_biographies_get_errors_and_counts(tmp_path: Path) -> None:
    before, fft, routed = biographies(tmp_path / "results.json")
    held_out, task1 = 6 * 51, 6 * 40  # six questions on each person; the half of 101 that is not trained on
    assert numbers(before) == {"bios:task0/hard": (1.0, 0.0), "bios:task1/hard": (0.01, share_error(0.01, task1))}
    assert numbers(fft) == {
        "bios:task0/hard": (0.5, share_error(0.5, held_out)),
        "bios:task0/exact": (0.25, share_error(0.25, held_out)),
        "bios:task1/hard": (0.75, share_error(0.75, task1)),
        "bios:task1/exact": (0.5, share_error(0.5, task1)),
    }
    assert [m.samples for m in fft.measurements] == [held_out, held_out, task1, task1]
    assert numbers(routed)["bios:task0/routed"] == (0.5, share_error(0.5, held_out))
    info = fft.checkpoint
    assert (info.label, info.kind, info.method, info.training) == ("fft", "plain", "fft", {"seconds": 2.0})
    assert (before.checkpoint.method, routed.checkpoint.kind) == (None, "width")
    assert [GroupSpec.read(group) for group in fft.record["groups"]] == list(BIOGRAPHIES)
    assert fft.record["curves"][1]["series"]["routed"] == {"0": [[0, 0.01], [10, 0.75]]}


def test_a_row_s_seeds_are_repetitions_within_a_record_alone(tmp_path: Path) -> None:
    results = biographies(tmp_path / "results.json", seeds=(0, 1))
    labels = [result.checkpoint.label for result in results]
    assert labels[:3] == ["before Task 1 (seed 0)", "fft (seed 0)", "routed (seed 0)"]
    assert repetitions(results) == [[0, 3], [1, 4], [2, 5]]
    record = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = [row for row in record["rows"] if row["seed"] == 0]
    other = old(tmp_path / "other.json", **{n: v for n, v in record.items() if n != "schema"} | {"rows": rows})
    later = {"created": "2999-01-01T00:00:00+00:00"}
    again = old(tmp_path / "again.json", **{n: v for n, v in record.items() if n != "schema"} | later)
    assert [len(row) for row in repetitions(read_results([other, again]))] == [1, 1, 1, 2, 2, 2]


def test_texts_have_the_paired_errors_of_their_rows() -> None:
    """The relative error of a perplexity is that of its logarithm, which is proportional to the bits."""
    record = json.loads((RECORDS / "korean-demo-seeds.json").read_text(encoding="utf-8"))
    base, *results = read_results([RECORDS / "korean-demo-seeds.json"])
    assert (base.checkpoint.recipe, base.checkpoint.compared) == (None, None)
    for result, row in zip(results, record["rows"][1:], strict=True):
        assert result.checkpoint.compared == base.checkpoint.fingerprint
        assert result.checkpoint.training == {n: row[n] for n in ("tokens", "seconds", "peak_memory_bytes")}
        (bits,) = result.find("perplexity:korean", "bits_per_byte")
        (perplexity,) = result.find("perplexity:korean", "perplexity")
        assert (bits.value, bits.paired_stderr) == (row["bits"]["korean"], row["change_stderr"]["korean"])
        relative = (bits.paired_stderr or 0) / bits.value
        assert perplexity.paired_stderr == pytest.approx(perplexity.value * math.log(perplexity.value) * relative)
    assert sorted(map(len, repetitions([base, *results]))) == [1, *[3] * 7]


OF_RESULTS = {
    file.name: record
    for file in sorted(RECORDS.glob("*.json"))
    if (record := json.loads(file.read_text(encoding="utf-8"))).get("kind") == "evaluation" or "recipe" in record
}


@pytest.mark.parametrize("name", OF_RESULTS)
def test_every_committed_record_of_results_is_read(name: str) -> None:
    file, record = RECORDS / name, OF_RESULTS[name]
    results = read_results([file])
    rows = record.get("rows") or record["results"]
    trained = [result for result in results if result.checkpoint.method is not None]
    methods = [row.get("method") or row.get("checkpoint", {}).get("method") for row in rows]
    assert len(trained) == len(methods) - methods.count(None) > 0
    assert all(result.measurements for result in results)
    if name != PAPER:  # the paper's record has no recipes
        assert all(result.checkpoint.identity for result in trained)
