"""Flags override YAML, YAML overrides defaults; every mistake is named; a saved recipe reads back equal."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from scale_cli.cli.options import recipe_options
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe, option, save_recipe
from tests.helpers import refusal


@dataclasses.dataclass(frozen=True)
class Toy:
    steps: int = option(100, help="Optimiser steps.")
    lr: float = option(1e-3, help="Peak learning rate.")
    min_lr: float | None = option(None, help="Lowest learning rate; without it, 0.")
    schedule: Literal["cosine", "linear"] = option("cosine", help="How the rate falls.")
    adapt_modules: tuple[str, ...] = option(
        ("attention",), help="Modules whose W12 trains.", choices=("attention", "ffn")
    )
    layers: tuple[int, ...] = option((), help="Layers [from 0].")
    report_to: str = option("none", help="Tracker.", choices=("none", "tensorboard"))
    shuffle: bool = option(True, help="Another order each epoch.")
    compile: bool = option(False, help="Compile the model.", flag="--compile")
    data: Path | None = option(None, help="Folder of the data.", flag="--data-dir")

    def __post_init__(self) -> None:
        if self.steps <= 0:
            raise ValueError(f"--steps {self.steps}: choose 1 or more")


def from_yaml(tmp_path: Path, text: str, **overrides: Any) -> Toy:
    file = tmp_path / "toy.yaml"
    file.write_text(text)
    return load_recipe(Toy, file, overrides)


def test_flags_over_yaml_over_defaults(tmp_path: Path) -> None:
    assert load_recipe(Toy, None, {}) == Toy()
    assert from_yaml(tmp_path, "") == Toy()
    recipe = from_yaml(tmp_path, "steps: 7\nlr: 2\nshuffle: false", steps=9, shuffle=None)
    assert recipe == Toy(steps=9, lr=2.0, shuffle=False)
    assert isinstance(recipe.lr, float)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("lr: 1e-3", "lr", 1e-3),  # YAML 1.1 reads text here
        ("lr: '2'", "lr", 2.0),
        ("min_lr: null", "min_lr", None),
        ("min_lr: 1.0e-5", "min_lr", 1e-5),
        ("adapt_modules: [attention, ffn]", "adapt_modules", ("attention", "ffn")),
        ("adapt_modules: attention, ffn", "adapt_modules", ("attention", "ffn")),
        ("adapt_modules: []", "adapt_modules", ()),
        ("layers: [1, 2]", "layers", (1, 2)),
        ("data: a/b", "data", Path("a/b")),
        ("schedule: linear", "schedule", "linear"),
    ],
)
def test_values_take_their_type(tmp_path: Path, text: str, field: str, value: object) -> None:
    assert getattr(from_yaml(tmp_path, text), field) == value


@dataclasses.dataclass(frozen=True)
class Paths:
    """A recipe in which every kind of field names a path."""

    base: str = option("base", help="Folder or hub id.")
    data: tuple[str, ...] = option((), help="Sources, some with a name.")
    cache: Path | None = option(None, help="Folder.")


def test_a_comma_inside_quotes_belongs_to_the_item() -> None:
    assert load_recipe(Paths, None, {"base": "b", "data": 'a.txt, "b,c.txt:0.5",d'}).data == (
        "a.txt",
        "b,c.txt:0.5",
        "d",
    )


def test_the_home_folder_stands_for_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    file = tmp_path / "paths.yaml"
    expanded = ("/home/ann/a.txt", "old=/home/ann/b.jsonl")
    file.write_text("base: ~/model\ndata: [~/a.txt, old=~/b.jsonl, c/~d]\ncache: ~\n")
    assert load_recipe(Paths, file, {}) == Paths("/home/ann/model", (*expanded, "c/~d"))
    recipe = load_recipe(Paths, None, {"data": "~/a.txt,old=~/b.jsonl", "cache": "~/c", "base": "~nobody-here/x"})
    assert recipe == Paths("~nobody-here/x", expanded, Path("/home/ann/c"))
    assert load_recipe(Paths, None, {"cache": Path("~/c")}).cache == Path("/home/ann/c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 5", "unknown key 'step'; did you mean 'steps'?"),
        ("adapt-modules: ffn", "unknown key 'adapt-modules'; did you mean 'adapt_modules'?"),
        ("zzz: 5", "unknown key 'zzz'; choose from steps, lr, min_lr, schedule, adapt_modules, layers, report_to, "),
        ("3: 5", "unknown key '3'; choose from "),
        ("steps: many", "steps: 'many' is not a whole number"),
        ("steps: 1.5", "steps: 1.5 is not a whole number"),
        ("steps: true", "steps: True is not a whole number"),
        ("steps: null", "steps: None is not a whole number"),
        ("lr: fast", "lr: 'fast' is not a number"),
        ("lr: true", "lr: True is not a number"),
        ("shuffle: 1", "shuffle: 1 is not true or false"),
        ("schedule: cosin", "schedule: 'cosin' is not one of cosine, linear"),
        ("report_to: 5", "report_to: 5 is not one of none, tensorboard"),
        ("adapt_modules: [attention, fnn]", "adapt_modules: ['attention', 'fnn'] is not one of attention, ffn"),
        ("adapt_modules: 5", "adapt_modules: 5 is not a list"),
        ("layers: 1,x", "layers: '1,x' is not a whole number"),
        ("data: 5", "data: 5 is not a path"),
        ("[1, 2]", "a recipe is a list of `key: value` lines"),
        ("a: b: c", "the recipe is not YAML: mapping values are not allowed here"),
    ],
)
def test_mistakes_in_the_file_are_named_with_it(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(from_yaml, tmp_path, text).startswith(f"{tmp_path / 'toy.yaml'}: {message}")


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.yaml: the recipe cannot be read: .*No such file"):
        load_recipe(Toy, tmp_path / "none.yaml", {})
    with pytest.raises(RequestError, match=r"^--steps 0: choose 1 or more$"):
        load_recipe(Toy, None, {"steps": 0})
    with pytest.raises(RequestError, match=r"^unknown key 'stepz'"):
        load_recipe(Toy, None, {"stepz": 0})


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe without flags: mappings and required keys."""

    preset: str
    model: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, int]]
    seeds: tuple[int, ...] = (0,)


def plan_from_yaml(tmp_path: Path, text: str) -> Plan:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return load_recipe(Plan, file, {"preset": "mine"})


def test_mappings_and_required_keys(tmp_path: Path) -> None:
    plan = plan_from_yaml(tmp_path, "preset: other\nmodel: {a: [1], 2: x}\nstages: {one: {steps: '5'}, two: {}}")
    assert plan == Plan("mine", {"a": [1], "2": "x"}, {"one": {"steps": 5}, "two": {}})
    for text, message in (
        ("model: {}", "the key 'stages' is missing"),
        ("model: 5\nstages: {}", "model: 5 is not a list of `key: value` lines"),
        ("model: {}\nstages: {one: [1]}", "stages: {'one': [1]} is not a list of `key: value` lines"),
        ("model: {}\nstages: {one: {steps: many}}", "stages: {'one': {'steps': 'many'}} is not a whole number"),
    ):
        assert refusal(plan_from_yaml, tmp_path, text) == f"{tmp_path / 'plan.yaml'}: {message}"
    with pytest.raises(RequestError, match=r"^the key 'model' is missing$"):
        load_recipe(Plan, None, {"preset": "mine"})


@given(
    st.builds(
        Toy,
        steps=st.integers(min_value=1),
        lr=st.floats(allow_nan=False),
        min_lr=st.none() | st.floats(allow_nan=False),
        schedule=st.sampled_from(["cosine", "linear"]),
        adapt_modules=st.lists(st.sampled_from(["attention", "ffn"])).map(tuple),
        layers=st.lists(st.integers()).map(tuple),
        report_to=st.just("none"),
        shuffle=st.booleans(),
        compile=st.booleans(),
        data=st.none() | st.text("ab/가", min_size=1).map(Path),
    )
)
def test_a_saved_recipe_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Toy) -> None:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    save_recipe(recipe, file)
    assert load_recipe(Toy, file, {}) == recipe


def toy_app() -> tuple[typer.Typer, list[Any]]:
    """A program of one command with Toy's options, and the arguments of its calls."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    calls: list[Any] = []

    @app.command()
    @recipe_options(Toy)
    def run(out: Annotated[Path, typer.Argument()], *, given: dict[str, Any]) -> None:
        """Run it."""
        calls.extend((out, given, load_recipe(Toy, None, given)))

    return app, calls


def test_only_options_that_were_given_reach_the_command() -> None:
    app, calls = toy_app()
    result = CliRunner().invoke(app, ["x", "--steps", "100"])  # given, though equal to its default
    assert (result.exit_code, calls) == (0, [Path("x"), {"steps": 100}, Toy()])

    app, calls = toy_app()
    flags = "--lr 1e-5 --min-lr 0 --schedule linear --adapt-modules ffn,attention --no-shuffle --compile"
    repeated = ["--layers", "1", "--layers", "2,3"]
    result = CliRunner().invoke(app, ["x", *flags.split(), *repeated, "--report-to", "tensorboard", "--data-dir", "d"])
    assert result.exit_code == 0, result.output
    assert calls[2] == Toy(
        lr=1e-5,
        min_lr=0.0,
        schedule="linear",
        adapt_modules=("ffn", "attention"),
        layers=(1, 2, 3),
        report_to="tensorboard",
        shuffle=False,
        compile=True,
        data=Path("d"),
    )


def test_help_shows_every_field_with_its_default() -> None:
    app, _ = toy_app()
    help_text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for field in dataclasses.fields(Toy):
        assert field.metadata["help"] in help_text
    for shown in (
        "--steps <int> Optimiser steps. [default: 100]",
        "--lr <float> Peak learning rate. [default: 0.001]",
        "<cosine|linear> How the rate falls. [default: cosine]",
        "<attention|ffn,...> Modules whose W12 trains. [default: attention]",
        "--shuffle / --no-shuffle Another order each epoch. [default: shuffle]",
        "--layers <int,...> Layers [from 0].",
        "<none|tensorboard> Tracker. [default: none]",
        "--data-dir <path> Folder of the data.",
    ):
        assert shown in help_text, help_text


@pytest.mark.parametrize("flags", [["--schedule", "step"], ["--steps", "x"], ["--compile", "--no-compile"]])
def test_wrong_flags_are_usage_errors(flags: list[str]) -> None:
    app, calls = toy_app()
    assert CliRunner().invoke(app, ["x", *flags]).exit_code == 2
    assert calls == []


def test_a_refused_value_is_cut(tmp_path: Path) -> None:
    lines = ["lr:", "  - &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"  - &a{level} [{','.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 7)]  # ten million items
    file = tmp_path / "aliases.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(RequestError, match=r"lr: .* is not a number$") as caught:
        load_recipe(Toy, file, {})
    assert len(str(caught.value)) < 2_000
