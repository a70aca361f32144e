"""The parts shared by all benchmarks: recipes, presets, and the stages of a run folder.

A stage's folder is complete or does not exist, so an interrupted run can continue. Under torchrun all processes run the
same stages: the first process writes the files, and all share the training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

PRESETS = ("demo", "controls", "scratch", "small", "medium", "paper")
"""Names of presets by size; no benchmark has all of them."""
NOT_TRAINING = ("method", "init", "of")
"""Keys of a row that are not training options."""
FREE = ("preset", "methods", "seeds", "routers", "frontier", "gpus", "jobs", "fetched", "task0_needed", "tflops")
"""Fields of a recipe that may differ between calls that continue one run folder."""


@dataclass(frozen=True)
class Upscaling:
    """An upscaled base in the folder `name`. by, options: arguments of `upscale`."""

    name: str
    by: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BenchRecipe:
    """The fields of every benchmark's recipe; checked on construction.

    preset: name of a preset, or its YAML file. width, depth: sizes for `upscale`. seeds: one repetition per seed.
    methods: the rows of the table, by label: a row's training options, in addition to the shared ones. A label is a
        method's name, or any other word if the row names its method under `method`. A row with `init` has an
        upscaled base of its own.
    routers: routers under which every row is measured besides, together with its base, as rows of their own.
    frontier: whether every row is also measured under the routers of `scale eval --frontier`, for a figure.
    gpus: number of processes that share a training step, as torchrun starts them.
    jobs: number of trainings that run at once, each in a process of its own.
    tflops: 10^12 operations per second and process, for the hours in `--dry-run`.
    Raises RequestError for an unknown method, a label that cannot be a folder, and sizes or counts that do not fit.
    """

    reserved: ClassVar[tuple[str, ...]] = ("width", "depth", "routed", "frontier")
    """Names of other folders in a run; no row has such a label."""

    preset: str
    width: Mapping[str, Any]
    depth: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0,)
    routers: tuple[str, ...] = ()
    frontier: bool = False
    gpus: int = 1
    jobs: int = 1
    tflops: float = 200.0

    def __post_init__(self) -> None:
        unknown = [name for name in map(self.method_of, self.methods) if name not in METHODS]
        if unknown or not self.methods:
            raise RequestError(f"methods {', '.join(unknown) or '(none)'}: choose from {', '.join(METHODS)}")
        for label in self.methods:
            if label in self.reserved or Path(label).name != label:
                raise RequestError(
                    f"methods: the label {label!r} is a path or the name of another folder of the run; choose another"
                )
        if "hidden" not in self.width or not set(self.width) <= {"hidden", "heads", "ffn", "init"}:
            raise RequestError(f"width {dict(self.width)}: give hidden, and optionally heads, ffn, init")
        if set(self.depth) != {"layers"}:
            raise RequestError(f"depth {dict(self.depth)}: give layers")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise RequestError(f"--seeds {','.join(map(str, self.seeds))}: name at least one, each once")
        if self.gpus < 1:
            raise RequestError(f"gpus {self.gpus}: at least 1")
        if self.jobs < 1:
            raise RequestError(f"--jobs {self.jobs}: at least 1")
        if self.gpus > 1 and self.jobs > 1:
            raise RequestError(f"--jobs {self.jobs}: the recipe's gpus {self.gpus} share every training; leave one out")
        if not self.tflops > 0:
            raise RequestError(f"--tflops {self.tflops:g}: above 0")

    @property
    def words(self) -> str:
        """The arguments of `scale bench` that run this recipe."""
        raise NotImplementedError

    @property
    def options(self) -> str:
        """The option --seeds with a leading space; empty for the default seed."""
        return "" if self.seeds == (0,) else f" --seeds {','.join(map(str, self.seeds))}"

    @property
    def command(self) -> str:
        """The command that runs this recipe in `gpus` processes."""
        launch = "" if self.gpus == 1 else f"torchrun --nproc-per-node {self.gpus} --no-python "
        return f"{launch}scale bench {self.words}"

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a recipe's file with those that follow from them."""
        return dict(values)

    def method_of(self, label: str) -> str:
        """The method of a row of the table."""
        return str(self.methods[label].get("method", label))

    def differing(self, label: str) -> dict[str, Any]:
        """A row's own training options."""
        return {name: value for name, value in self.methods[label].items() if name not in NOT_TRAINING}

    def size_is_open(self, label: str, common: Mapping[str, Any]) -> bool:
        """Whether the size of a row's method is set neither by the row nor by `common`, the shared options.

        Such a size is matched to the width expansion, by `matching_size`.
        """
        size = METHODS[self.method_of(label)].size
        return size is not None and size.option not in {*common, *self.methods[label]}

    def upscaling(self, label: str) -> Upscaling | None:
        """The upscaled base that a row trains, None if it trains the base itself."""
        by = METHODS[self.method_of(label)].needs[0]
        if by == "plain":
            return None
        sizes, init = self.depth if by == "depth" else self.width, self.methods[label].get("init")
        if init is None:
            return Upscaling(by, by, sizes)
        return Upscaling(f"{by}-{init}", by, dict(sizes) | {"init": init})


Recipe = TypeVar("Recipe", bound=BenchRecipe)


def train_recipe(
    stage: str, given: Mapping[str, Any], own: Mapping[str, Any], *, fixed: Sequence[str] = ()
) -> TrainRecipe:
    """The training recipe of a stage.

    given: options in the benchmark's recipe, whose warm-up is 0 if it gives none, as in the recorded benchmarks.
    own: options that the benchmark sets. fixed: further options that a recipe must not set.
    Raises RequestError for options that are unknown, do not fit, or must not be set.
    """
    if forbidden := [name for name in given if name in (*own, *fixed, "tokens", "epochs")]:
        raise RequestError(f"{stage}: {forbidden[0]} is decided by the benchmark; leave it out")
    try:
        return load_recipe(TrainRecipe, None, {"warmup": 0.0} | dict(given) | dict(own))
    except RequestError as error:
        raise RequestError(f"{stage}: {error}") from error


def presets_of(bench: str) -> dict[str, Path]:
    """The files of a benchmark's presets by name, the smallest first. bench: name of the folder of presets."""
    files = {name: Path(__file__).parent / "presets" / bench / f"{name}.yaml" for name in PRESETS}
    return {name: file for name, file in files.items() if file.is_file()}


def load_preset(
    cls: type[Recipe],
    bench: str,
    name: str,
    *,
    methods: Mapping[str, Mapping[str, Any]] | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a preset of a benchmark.

    cls: class of the recipe. bench: name of the folder of presets.
    name: a name in `presets_of`, or a YAML file with the fields of `cls`.
    methods: rows that replace the preset's, or labels of the preset's rows to run; None for all.
    seeds, jobs, changes: override the preset's; None keeps the preset's.
    Raises RequestError for an unknown preset, row or field, and for values that do not fit.
    """
    known = presets_of(bench)
    file = known.get(name, Path(name))
    if not file.is_file():
        raise RequestError(f"--preset {name}: choose {', '.join(known)}, or give a YAML file")
    changes = dict(changes or {}) | {"preset": name, "jobs": jobs}
    recipe = load_recipe(cls, file, changes, complete=cls.completed)
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
    seeds = [seed.strip() for seed in text.split(",")]
    if not all(seed.isdecimal() for seed in seeds):
        raise RequestError(f"--seeds {text}: write whole numbers separated by commas, as in 0,1,2")
    return tuple(map(int, seeds))


@dataclass(frozen=True)
class BenchResult:
    """A finished benchmark, with the results of earlier calls on its folder.

    recipe: with the methods and seeds of all calls. command: of the latest call.
    results: the base comes first, or each seed's base before its rows. With several seeds, labels end in "(seed S)".
    groups: the columns of stability and plasticity. panels: curves of the measurements while training.
    seconds: sum over all calls.
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
    """Displays the progress of one stage.

    total: number of steps, None if unknown. done: steps that an earlier call has finished.
    The block receives a function to call with `done=`, with `total=` if that was unknown, and with a `note=` on the
    state of the work.
    """

    def __call__(self, label: str, total: int | None, *, done: int) -> AbstractContextManager[Callable[..., None]]: ...


def processes() -> Any:
    """The `PartialState` of this process: its index and the number of processes."""
    import torch
    from accelerate import PartialState

    from scale_cli.evaluation.evaluate import JOINING

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=JOINING)


def of_first_process(
    recipe: BenchRecipe, say: Callable[[str], None], progress: Progress
) -> tuple[Callable[[str], None], Progress]:
    """`say` and `progress` in the first process, functions without output in the others.

    Raises RequestError if the number of processes is not the recipe's `gpus`.
    """
    count = processes().num_processes
    if count != recipe.gpus:
        raise RequestError(
            f"--preset {recipe.preset}: the recipe's number of processes is {recipe.gpus}, not {count}; start it with: "
            f"{recipe.command}"
        )

    @contextlib.contextmanager
    def silent(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
        yield lambda **steps: None

    return (say, progress) if processes().is_main_process else (lambda message: None, silent)


def claim(
    recipe: Recipe, out: Path, *, read: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda fields: fields
) -> Recipe:
    """Make `out` this recipe's run folder, or continue the run in it.

    read: converts the fields of a recipe that older code wrote.
    Returns the recipe with the methods and seeds of earlier calls.
    Raises RequestError if `out` holds a run of another recipe, or other files.
    """
    with processes().main_process_first():  # the other processes find the first one's recipe.json
        file = out / "recipe.json"
        given = json.loads(to_json(recipe, sort_keys=False))  # methods are rows, so their order is kept
        stored = read(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else given
        common = set(given["methods"]) & set(stored["methods"])
        if any(given[name] != stored.get(name) for name in given if name not in FREE) or any(
            given["methods"][label] != stored["methods"][label] for label in common
        ):
            raise RequestError(f"{out} holds a run of another recipe; choose another --out, or remove it")
        if not file.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RequestError(f"{out} exists and is not a run folder; choose a new or an empty folder")
        methods = {**stored["methods"], **recipe.methods}  # rows of earlier calls keep their position
        whole = dataclasses.replace(recipe, methods=methods, seeds=tuple(sorted({*stored["seeds"], *recipe.seeds})))
        if processes().is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            write_text(file, to_json(whole, sort_keys=False) + "\n")
        return whole


def upscale_stages(
    recipe: BenchRecipe, base: str, folder: Path, *, seed: int, width_too: bool, say: Callable[[str], None]
) -> None:
    """Upscale `base` into subfolders of `folder`, as the rows need it; existing subfolders are kept.

    width_too: whether to make the widened checkpoint, in "width", even if no row trains it.
    """
    from scale_cli.surgery import upscale

    upscalings = [Upscaling("width", "width", recipe.width)] if width_too else []
    upscalings += [upscaling for label in recipe.methods if (upscaling := recipe.upscaling(label)) is not None]
    for upscaling in upscalings:
        out = folder / upscaling.name
        if not out.exists():
            result = upscale(base, out, by=upscaling.by, seed=seed, **upscaling.options)  # type: ignore[arg-type]
            added = f"{result.added_parameters:,} parameters added"
            say(f"{upscaling.name}: {added}, max |delta logit| {result.max_delta_logit:.3g}")


def source_of(recipe: BenchRecipe, label: str, base: str, folder: Path) -> str:
    """The checkpoint that a row trains: `base`, or the one that `upscale_stages` made from it in `folder`."""
    upscaling = recipe.upscaling(label)
    return base if upscaling is None else str(folder / upscaling.name)


def matching_size(method: str, base: str, width: Path) -> dict[str, Any]:
    """The size option with which a method trains about as many parameters as `width` has added to `base`, by its key.

    method: a method with a `size`. base: the checkpoint before widening. width: folder of the widened one.
    """
    from scale_cli.surgery.source import open_config

    added = json.loads((width / "upscale.json").read_text(encoding="utf-8"))["parameters"]["added"]
    size = METHODS[method].size
    assert size is not None
    return {size.option: size.nearest(open_config(base).config, added)}


def train_stage(
    source: str,
    out: Path,
    recipe: TrainRecipe,
    *,
    label: str,
    progress: Progress,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The record of a training stage in `out`. The stage is trained if it has no record, from its last checkpoint if it
    was interrupted.

    source: checkpoint to train. label: for `progress` and lines. say: called with each measurement and a warning.
    """
    from scale_cli.checkpoints.schemas import RECORD
    from scale_cli.training.result import Watch
    from scale_cli.training.resume import last_checkpoint, step_of
    from scale_cli.training.train import train

    if not (out / RECORD).is_file():
        last = last_checkpoint(out)
        processes().wait_for_everyone()  # before the first process changes the folder
        if last is None and processes().is_main_process:
            shutil.rmtree(out, ignore_errors=True)
        processes().wait_for_everyone()
        watch = Watch(label, say, resumed_at=step_of(last))
        with progress(label, recipe.steps, done=step_of(last)) as advance:
            shown: dict[str, Any] = {"progress": lambda done, total: advance(done=done, note=watch.note)}
            result = train(source, out, recipe, resume=last is not None, report=watch, **shown)
        if result.warning is not None and processes().is_main_process:
            say(f"{label}: {result.warning}")
        processes().wait_for_everyone()  # until the first process has written the record
    return read_record(out / RECORD)


def label_of(label: str, seed: int, recipe: BenchRecipe) -> str:
    """The label of a row's result: with the seed if the recipe has several."""
    return f"{label} (seed {seed})" if len(recipe.seeds) > 1 else label


Lines = Mapping[str, Mapping[str, list[dict[str, Any]]]]
"""The metrics of runs, by label and seed."""


def finished_lines(recipe: BenchRecipe, out: Path, labels: Iterable[str]) -> Lines:
    """The metrics of the finished runs of these rows. Labels without a finished run are left out."""
    from scale_cli.checkpoints.schemas import RECORD
    from scale_cli.training.resume import METRICS, metric_lines

    lines = {}
    for label in labels:
        folders = {str(seed): out / f"seed-{seed}" / label for seed in recipe.seeds}
        finished = {seed: metric_lines(run / METRICS) for seed, run in folders.items() if (run / RECORD).is_file()}
        if finished:
            lines[label] = finished
    return lines


def curves(lines: Lines, metric: str, *, x_per_step: int = 1) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The points of a metric, by label and seed. x_per_step: units of the x axis in a training step."""
    return {
        label: {
            seed: [(line["step"] * x_per_step, line[metric]) for line in run if metric in line]
            for seed, run in by_seed.items()
        }
        for label, by_seed in lines.items()
    }


@contextlib.contextmanager
def clocked(out: Path) -> Iterator[Callable[[], float]]:
    """Add the seconds of the block to those stored in `out`, also if it raises.

    The block receives a function that returns the stored seconds: of earlier calls, and after the block of all.
    """
    file = out / "seconds.json"
    start = time.monotonic()

    def seconds() -> float:
        return float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0

    try:
        yield seconds
    finally:
        if processes().is_main_process:
            write_text(file, json.dumps(seconds() + time.monotonic() - start))
