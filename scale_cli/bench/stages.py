"""What the benchmarks share: a run folder of stages, each whole or not there, so that an interrupted run goes on.

Under torchrun all processes run the same stages: the first one makes the files, training is shared.
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
from scale_cli.reporting.curves import Panel
from scale_cli.results.groups import GroupSpec
from scale_cli.results.result import BENCH_FILE, Result, write_results
from scale_cli.training import TrainRecipe

PRESETS = ("demo", "small", "paper")
NOT_TRAINING = ("method", "init", "of")
"""What a row may say beside options of training."""
FREE = ("preset", "methods", "seeds", "gpus", "tflops")
"""Fields of a recipe that may differ between calls for one run folder."""


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
    gpus: processes that share a training step, as torchrun starts them.
    tflops: 10^12 operations per second that `--dry-run` takes each of them to do.
    """

    reserved: ClassVar[tuple[str, ...]] = ("width", "depth")
    """Folders beside those of the rows, whose labels are others."""

    preset: str
    width: Mapping[str, Any]
    depth: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0,)
    gpus: int = 1
    tflops: float = 200.0

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
        if self.gpus < 1:
            raise RequestError(f"gpus {self.gpus}: at least 1")
        if not self.tflops > 0:
            raise RequestError(f"--tflops {self.tflops:g}: above 0")

    @property
    def words(self) -> str:
        """The words behind `scale bench` that start it."""
        raise NotImplementedError

    @property
    def options(self) -> str:
        """The words of the seeds, where they are not those of a preset that names none."""
        return "" if self.seeds == (0,) else f" --seeds {','.join(map(str, self.seeds))}"

    @property
    def command(self) -> str:
        """The command that runs it with as many processes as it wants."""
        launch = "" if self.gpus == 1 else f"torchrun --nproc-per-node {self.gpus} --no-python "
        return f"{launch}scale bench {self.words}"

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


@dataclass(frozen=True)
class BenchResult:
    """A finished benchmark, with what earlier calls have left in its folder.

    recipe: with the methods and seeds of all calls. command: of the latest one.
    results: the base first, or each seed's; several seeds of a row are told apart by their labels.
    groups: the columns that measure the roles. panels: the curves of training.
    seconds: of all calls that worked on this run.
    """

    out: Path
    recipe: BenchRecipe
    command: str
    results: tuple[Result, ...]
    groups: tuple[GroupSpec, ...]
    panels: tuple[Panel, ...]
    seconds: float

    def save(self) -> None:
        """Write the record, out/results.json."""
        write_results(
            self.out / BENCH_FILE,
            self.results,
            command=self.command,
            recipe=self.recipe,
            groups=self.groups,
            curves=self.panels,
            seconds=self.seconds,
        )


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


def of_first_process(
    recipe: BenchRecipe, say: Callable[[str], None], progress: Progress
) -> tuple[Callable[[str], None], Progress]:
    """`say` and `progress` of the first process; in the others both are silent.

    Raises RequestError where there are more or fewer processes than share the recipe's batch.
    """
    count = processes().num_processes
    if count != recipe.gpus:
        raise RequestError(
            f"--preset {recipe.preset}: its batch is shared by {recipe.gpus} processes and there are {count}; start it "
            f"with: {recipe.command}"
        )

    @contextlib.contextmanager
    def unseen(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
        yield lambda **steps: None

    return (say, progress) if processes().is_main_process else (lambda message: None, unseen)


def claim(
    recipe: Recipe, out: Path, *, read: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda fields: fields
) -> Recipe:
    """Make `out` this recipe's run folder, or refuse it; gives the recipe with the methods and seeds of earlier calls.

    read: from the fields of an older recipe to today's.
    """
    with processes().main_process_first():  # the others find it claimed
        file = out / "recipe.json"
        ours = json.loads(to_json(recipe))
        theirs = read(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else ours
        common = set(ours["methods"]) & set(theirs["methods"])
        if any(ours[name] != theirs.get(name) for name in ours if name not in FREE) or any(
            ours["methods"][label] != theirs["methods"][label] for label in common
        ):
            raise RequestError(f"{out} holds a run of another recipe; choose another --out, or remove it")
        if not file.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RequestError(f"{out} already holds files of something else; choose a new or an empty folder")
        methods = {**theirs["methods"], **recipe.methods}  # those not run now keep their place
        whole = dataclasses.replace(recipe, methods=methods, seeds=tuple(sorted({*theirs["seeds"], *recipe.seeds})))
        if processes().is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            write_text(file, to_json(whole) + "\n")
        return whole


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
            added = f"{result.added_parameters:,} parameters added"
            say(f"{one.name}: {added}, max |delta logit| {result.max_delta_logit:.3g}")


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


def label_of(label: str, seed: int, recipe: BenchRecipe) -> str:
    """What a row's repetition is called among the results."""
    return f"{label} (seed {seed})" if len(recipe.seeds) > 1 else label


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
