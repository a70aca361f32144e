"""The biography benchmark from the number of people alone, and the course of its trainings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import GPTNeoXConfig, GPTNeoXModel

from scale_cli.bench import bios
from scale_cli.bench.bios import BiosRecipe, load_preset
from scale_cli.bench.course import course_measurements, course_of, kept_area, kept_at, mean_course
from scale_cli.bench.proportions import TOKENS_PER_BIOGRAPHY
from scale_cli.bench.stages import BenchResult
from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record
from scale_cli.data.biographies import read_biographies
from scale_cli.methods import paper_methods
from tests.runs import ROOT, bench_file, lines, silent

PAPER = load_preset("paper")


def of(folder: Path, **values: Any) -> BiosRecipe:
    """The recipe of a file with these values."""
    file = folder / "people.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_preset(str(file))


def test_the_paper_s_people_have_the_paper_s_model(tmp_path: Path) -> None:
    recipe = of(tmp_path, people=120_000)
    assert (recipe.pretrain_people, recipe.task1_people) == (PAPER.pretrain_people, PAPER.task1_people)
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert {name: recipe.model[name] for name in same} == {name: PAPER.model[name] for name in same}
    assert (recipe.width, recipe.depth) == (PAPER.width, PAPER.depth)
    assert recipe.stages["task1"]["preserve_layers"] == PAPER.stages["task1"]["preserve_layers"]
    passes = [  # over the questions of Task 1
        r.stages["task1"]["steps"] * r.stages["task1"]["batch_size"] / (6 * r.task1_people) for r in (recipe, PAPER)
    ]
    assert passes == pytest.approx([25, 25], rel=1e-3)
    for method in ("fft", "scale-route"):
        units = [
            r.train_recipe(method, seed=0).learning_rate
            * r.stages["task1"]["steps"] ** 0.5
            / r.stages["pretrain"]["lr"]
            for r in (recipe, PAPER)
        ]
        assert units[0] == pytest.approx(units[1], rel=0.25)


@pytest.mark.parametrize("people", [12, 300, 1200, 12_000])
def test_the_proportions_hold_for_any_number_of_people(people: int, tmp_path: Path) -> None:
    recipe = of(tmp_path, people=people)
    assert recipe.pretrain_people == 5 * recipe.task1_people
    bios._check_model(recipe)
    assert recipe.width["hidden"] * 6 == recipe.model["hidden_size"]
    with torch.device("meta"):
        weights = GPTNeoXModel(GPTNeoXConfig(**recipe.model, vocab_size=8)).layers.parameters()
    if people >= 1200:  # fewer have the smallest model
        assert sum(p.numel() for p in weights) / recipe.pretrain_people == pytest.approx(850, rel=0.25)
    rates = {label: recipe.train_recipe(label, seed=0).learning_rate for label in paper_methods()}
    task1 = recipe.stages["task1"]
    assert rates["fft"] == pytest.approx(recipe.stages["pretrain"]["lr"] / task1["steps"] ** 0.5, rel=0.05)
    assert rates["scale-route"] == rates["llama-pro"] == pytest.approx(10 * rates["fft"], rel=0.05)


def test_what_a_file_gives_is_kept(tmp_path: Path) -> None:
    methods = {"fft": {}, "slow": {"method": "scale-adapt", "lr": 1e-5}}
    recipe = of(tmp_path, people=300, bios=4, methods=methods, stages={"task1": {"steps": 7}, "task0": {"lr": 0.5}})
    plain = of(tmp_path, people=300)
    assert (recipe.bios, list(recipe.methods)) == (4, ["fft", "slow"])
    assert recipe.train_recipe("slow", seed=0).learning_rate == 1e-5
    assert (recipe.stages["task1"]["steps"], recipe.stages["task0"]["lr"]) == (7, 0.5)
    assert recipe.stages["task1"]["batch_size"] == plain.stages["task1"]["batch_size"]
    one_rate = of(tmp_path, people=300, stages={"task1": {"lr": 0.25}})
    assert {one_rate.train_recipe(label, seed=0).learning_rate for label in paper_methods()} == {0.25}
    with pytest.raises(RequestError, match=r"^people 11: at least 12, of whom 10 are pre-trained and 2 new$"):
        of(tmp_path, people=11)


def test_a_biography_has_as_many_tokens_as_assumed(tmp_path: Path) -> None:
    recipe = of(tmp_path, people=60)
    bios.make_data(recipe, tmp_path / "data")
    bios.make_init(recipe, tmp_path / "data", tmp_path / "init")
    tokens = bios._load_tokenizer(str(tmp_path / "init"))(read_biographies(tmp_path / "data"))["input_ids"]
    assert 1 + sum(map(len, tokens)) / len(tokens) == pytest.approx(TOKENS_PER_BIOGRAPHY, rel=0.02)  # and end-of-text


COURSE = [(1.0, 0.0), (0.4, 0.2), (0.6, 0.8), (0.5, 1.0)]
"""Collapse, recovery, erosion."""


def test_task0_at_equal_task1() -> None:
    assert [kept_at(COURSE, level) for level in (0, 0.1, 0.8, 0.81, 1)] == [1.0, 0.6, 0.6, 0.5, 0.5]
    assert kept_at(COURSE[:2], 0.5) is None
    assert kept_area(COURSE) == pytest.approx(0.6 * 0.8 + 0.5 * 0.2)
    assert kept_area([(1.0, 0.0), (1.0, 1.0)]) == 1.0
    assert kept_area([(1.0, 0.0)]) == kept_area([]) == 0.0
    values = {m.metric: m.value for m in course_measurements(COURSE[:3], "bios:task0", samples=9, created="")}
    assert values == {"kept/0.5": 0.6, "kept_area": pytest.approx(0.48)}
    lines = [{"step": 0, "task0/hard": 1.0, "task1/hard": 0.0}, {"step": 5, "loss": 1.0}]
    assert course_of(lines) == [(1.0, 0.0)]
    later = {"step": 1, "task0/hard": 0.5, "task1/hard": 0.5}
    assert mean_course({"0": lines, "1": [{**lines[0], "task1/hard": 0.5}, later]}) == [(1.0, 0.25)]


def test_a_run_has_its_course(bios_run: BenchResult) -> None:
    for result in bios_run.results[1:]:
        values = {m.name: m.value for m in result.measurements}
        assert 0 <= values["bios:task0/kept_area"] <= 1
    (panel,) = (panel for panel in bios_run.panels if panel.title == "Course of training")
    assert {label: len(runs["mean"]) for label, runs in panel.series.items()} == {"fft": 3, "scale-route": 3}
    table = (bios_run.out / "table.md").read_text(encoding="utf-8")
    assert "Task 0 at equal Task 1" in table
    assert "| area" in table


def test_the_questions_of_task0_are_trained_again(tmp_path: Path) -> None:
    recipe = load_preset(bench_file(tmp_path, recovery_steps=3, methods={"fft": {}, "scale-preserve": {}}))
    result = bios.run(recipe, tmp_path / "out", say=print, progress=silent)
    for row in result.results[1:]:
        run = tmp_path / "out" / "seed-0" / "recovery" / row.checkpoint.label
        record = read_record(run / "record.json")
        assert (record["recipe"]["people"], record["recipe"]["steps"]) == (recipe.task0, 3)
        (recovered,) = row.find("bios:task0", "recovered")
        first, *_, last = (line["task0/hard"] for line in lines(run) if "task0/hard" in line)
        assert (first, last) == (row.find("bios:task0", "hard")[0].value, recovered.value)
    assert "| recovered" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_study_has_the_demo_s_proportions_and_three_seeds(file: Path) -> None:
    study, demo = load_preset(str(file)), load_preset("demo")
    assert study.seeds == (0, 1, 2)
    if study.people == demo.people:
        assert (study.model, study.width, study.depth) == (demo.model, demo.width, demo.depth)
        own = {label: study.train_recipe(label, seed=0) for label in study.methods}
        usual = {label: demo.train_recipe(label, seed=0) for label in demo.methods}
        for label in own.keys() & usual.keys():
            assert dataclasses.replace(own[label], eval_bios=None) == dataclasses.replace(usual[label], eval_bios=None)
