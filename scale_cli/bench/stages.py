"""What the benchmarks share: a run folder of stages, each whole or not there, so that an interrupted run goes on.

Under torchrun all processes run the same stages: what is made of files the first one makes, training they share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json, write_text
from scale_cli.core.recipe import load_recipe
from scale_cli.core.records import read_record
from scale_cli.methods import METHODS
from scale_cli.training import TrainRecipe

PRESETS = ("demo", "small", "paper")
NOT_TRAINING = ("method", "init", "of")
"""What a row may say beside options of training."""


@dataclass(frozen=True)
class Upscaling:
    """A base upscaled into the folder `name`: the arguments of `upscale`."""

    name: str
    by: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BenchRecipe:
    """What the recipe of every benchmark says; checked on construction.

    preset: its name. width, depth: of `upscale`. seeds: a repetition each.
    methods: the rows of the table: options of training that differ, by method, or by any other label with the method
        under `method`; `init` widens the base for this row alone.
    """

    reserved: ClassVar[tuple[str, ...]] = ("width", "depth")
    """Folders beside those of the rows, whose labels are others."""

    preset: str
    width: Mapping[str, Any]
    depth: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        unknown = [name for name in map(self.method_of, self.methods) if name not in METHODS]
        if unknown or not self.methods:
            raise RequestError(f"methods {', '.join(unknown) or '(none)'}: choose from {', '.join(METHODS)}")
        for label in self.methods:
            if label in self.reserved or Path(label).name != label:
                raise RequestError(f"methods: the label {label!r} is also the name of a folder here; choose another")
        if "hidden" not in self.width or not set(self.width) <= {"hidden", "heads", "ffn", "init"}:
            raise RequestError(f"width {dict(self.width)}: give hidden, and heads, ffn, init as wanted")
        if set(self.depth) != {"layers"}:
            raise RequestError(f"depth {dict(self.depth)}: give layers")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise RequestError(f"--seeds {','.join(map(str, self.seeds))}: name at least one, each once")

    def method_of(self, label: str) -> str:
        """The method of a row of the table."""
        return str(self.methods[label].get("method", label))

    def differing(self, label: str) -> dict[str, Any]:
        """The training options of a row that differ from those of all."""
        return {name: value for name, value in self.methods[label].items() if name not in NOT_TRAINING}

    def size_is_open(self, label: str, common: Mapping[str, Any]) -> bool:
        """Whether neither a row nor the common options set the size of its method: then it is matched to the width."""
        size = METHODS[self.method_of(label)].size
        return size is not None and size.option not in {*common, *self.methods[label]}

    def upscaling(self, label: str) -> Upscaling | None:
        """What a row trains of the base; None for the base itself."""
        by = METHODS[self.method_of(label)].needs[0]
        if by == "plain":
            return None
        if by == "depth":
            return Upscaling("depth", "depth", self.depth)
        init = self.methods[label].get("init")
        if init is None:
            return Upscaling("width", "width", self.width)
        return Upscaling(f"width-{init}", "width", dict(self.width) | {"init": init})


Recipe = TypeVar("Recipe", bound=BenchRecipe)


def train_recipe(
    stage: str, given: Mapping[str, Any], own: Mapping[str, Any], *, fixed: Sequence[str] = ()
) -> TrainRecipe:
    """The training recipe of a stage.

    given: options by the recipe. own: those that the benchmark itself decides; fixed: others that it leaves alone.
    Raises RequestError for options that are unknown, do not fit, or are not the recipe's to decide.
    """
    if fixed := [name for name in given if name in (*own, *fixed)]:
        raise RequestError(f"{stage}: {fixed[0]} is decided by the benchmark; leave it out")
    try:
        return load_recipe(TrainRecipe, None, dict(given) | dict(own))
    except RequestError as error:
        raise RequestError(f"{stage}: {error}") from error


def load_preset(
    cls: type[Recipe],
    bench: str,
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a preset of a benchmark.

    cls: of the recipe. name: a word of `PRESETS`, or a YAML file of its fields.
    methods: the rows, or the labels of those of the preset that are wanted. seeds, changes: in place of the preset's;
        a change of None is none.
    Raises RequestError for what does not fit.
    """
    file = Path(__file__).parent / "presets" / bench / f"{name}.yaml" if name in PRESETS else Path(name)
    if not file.is_file():
        raise RequestError(f"--preset {name}: choose {', '.join(PRESETS)}, or give a YAML file")
    recipe = load_recipe(cls, file, dict(changes or {}) | {"preset": name})
    if methods is not None and not isinstance(methods, Mapping):
        if absent := [label for label in methods if label not in recipe.methods]:
            raise RequestError(f"--methods {','.join(absent)}: choose from {', '.join(recipe.methods)}")
        methods = {label: recipe.methods[label] for label in methods}
    return dataclasses.replace(
        recipe,
        methods=recipe.methods if methods is None else methods,
        seeds=recipe.seeds if seeds is None else tuple(seeds),
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds in "0,1,2". Raises RequestError for anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise RequestError(f"--seeds {text}: write whole numbers with commas between, as in 0,1,2")
    return tuple(map(int, words))


class Progress(Protocol):
    """Shows one stage: its label, its steps in all where they are known, the steps done before; what it gives is called
    with `done=`, and with `total=` where that was not known."""

    def __call__(self, label: str, total: int | None, *, done: int) -> AbstractContextManager[Callable[..., None]]: ...


def processes() -> Any:
    """This process among those that torchrun started, if it did."""
    import torch
    from accelerate import PartialState

    from scale_cli.evaluation.evaluate import JOINING

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=JOINING)


def claim(recipe: BenchRecipe, out: Path, *, free: Sequence[str] = ()) -> None:
    """Make `out` this recipe's run folder, or refuse it. More methods or seeds of the same recipe may be added.

    free: further fields that may differ.
    """
    file = out / "recipe.json"
    mine = json.loads(to_json(recipe))
    if file.is_file():
        theirs = json.loads(file.read_text(encoding="utf-8"))
        fixed = {name for name in mine if name not in ("methods", "seeds", *free)}
        common = set(mine["methods"]) & set(theirs["methods"])
        if {name for name in fixed if mine[name] != theirs.get(name)} or any(
            mine["methods"][name] != theirs["methods"][name] for name in common
        ):
            raise RequestError(f"{out} holds a run of another recipe; choose another --out, or remove it")
        mine |= {"methods": theirs["methods"] | mine["methods"]}  # those not run now keep their place
        mine |= {"seeds": sorted({*theirs["seeds"], *mine["seeds"]})}
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} already holds files of something else; choose a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, to_json(mine) + "\n")


def upscale_stages(
    recipe: BenchRecipe, base: str, folder: Path, *, seed: int, width_too: bool, say: Callable[[str], None]
) -> None:
    """`base` widened and deepened into folders of `folder`, as the rows need it.

    width_too: the widened one, into "width", is needed in any case.
    """
    from scale_cli.surgery import upscale

    needed = [Upscaling("width", "width", recipe.width)] if width_too else []
    needed += [one for label in recipe.methods if (one := recipe.upscaling(label)) is not None]
    for one in needed:
        if not (folder / one.name).exists():
            result = upscale(base, folder / one.name, by=one.by, seed=seed, **one.options)  # type: ignore[arg-type]
            said = f"{result.added_parameters:,} parameters added, max |delta logit| {result.max_delta_logit:.3g}"
            say(f"{one.name}: {said}")


def source_of(recipe: BenchRecipe, label: str, base: str, folder: Path) -> str:
    """The checkpoint that a row trains: `base`, or what `upscale_stages` has made of it in `folder`."""
    upscaling = recipe.upscaling(label)
    return base if upscaling is None else str(folder / upscaling.name)


def matching_size(method: str, base: str, width: Path) -> dict[str, Any]:
    """The option, by its key, with which a method trains about as many parameters as widening `base` to `width` added.

    method: one with an option for its size.
    """
    from scale_cli.surgery.source import open_config

    added = json.loads((width / "upscale.json").read_text(encoding="utf-8"))["parameters"]["added"]
    size = METHODS[method].size
    assert size is not None
    return {size.option: size.nearest(open_config(base).config, added)}


def train_stage(source: str, out: Path, recipe: TrainRecipe, *, label: str, progress: Progress) -> dict[str, Any]:
    """The record of a training stage, run now if it is not there, resumed if it was interrupted."""
    from scale_cli.training.train import RECORD, train
    from scale_cli.training.trainer import last_checkpoint, step_of

    if not (out / RECORD).is_file():
        last = last_checkpoint(out)
        processes().wait_for_everyone()  # none changes the folder before all have looked
        if last is None and processes().is_main_process:
            shutil.rmtree(out, ignore_errors=True)
        processes().wait_for_everyone()
        with progress(label, recipe.steps, done=step_of(last)) as advance:
            train(source, out, recipe, resume=last is not None, progress=lambda done, total: advance(done=done))
        processes().wait_for_everyone()  # till the first one has written the record
    return read_record(out / RECORD)


def metric_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a run's record by name."""
    return {metric["name"]: metric["value"] for metric in record["metrics"]}


def metric_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@contextlib.contextmanager
def clocked(out: Path) -> Iterator[Callable[[], float]]:
    """Adds the seconds of the block to those in `out`, however it ends; gives what says all of them after it."""
    file = out / "seconds.json"
    start = time.monotonic()

    def seconds() -> float:
        return float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0

    try:
        yield seconds
    finally:
        if processes().is_main_process:
            write_text(file, json.dumps(seconds() + time.monotonic() - start))
