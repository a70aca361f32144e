"""How the time grows: `python -m benchmarks.speed growth`.

Six sweeps, each from small to large: a training step of the small Llama against the size of the expansion (up to 100%
of the base's weights), the depth, the length and the batch; upscaling against the size of the checkpoint, and
generating biographies against the number of people. All the steps of a sweep are taken in turn, repetition by
repetition; upscaling and generating happen once for each size, in a process of their own, without the imports.

For each the exponent of a power law, fitted to the logarithms of all points, that between the last two points, where
what does not grow weighs least, and the exponent that the cost model gives at the same points. Steps are in seconds of
the processor (on a GPU of the device), the others by the wall's clock. With --out the plots, log-log, are beside the
record.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common, gen_bios, upscale
from benchmarks.speed.common import in_own_process, interleave
from benchmarks.speed.power_laws import GrowthPanel, GrowthSeries, growth_figure, power_law
from benchmarks.speed.shapes import SHAPES, Shape
from benchmarks.speed.train_step import Prepared, prepare, step, tokens
from scale_cli.core.errors import RequestError
from scale_cli.methods.cost import Weights, multiply_adds

METHODS = ("fft", "scale-preserve", "scale-adapt")
SHAPE = "llama-small"
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.63)
"""Of the base's sizes, what is added to each: the expansion's weights are about the share and its square, as an added
row reads both halves."""
DEPTHS = (2, 4, 8, 16)
LENGTHS = (128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16)
STEP_SIZE = (2, 256)
"""Sequences and tokens of a step where neither grows; a growing batch is of `SHORT` tokens each."""
SHORT = 64
HIDDEN = (256, 512, 1024, 1536)
"""Of the checkpoints to upscale."""
MOST_PEOPLE = 1_000_000


@dataclass(frozen=True)
class Point:
    """What a piece of work of size x took. counted: operations by the cost model, None where it says nothing."""

    x: float
    seconds: float
    counted: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of growing x. method: the one whose colour it has in figures. at_zero: the seconds where x is 0."""

    sweep: str
    label: str
    method: str
    points: tuple[Point, ...]
    at_zero: float | None = None

    @property
    def drawn(self) -> GrowthSeries:
        """What figures show of it, and what it is fitted by."""
        points = tuple((point.x, point.seconds) for point in self.points)
        return GrowthSeries(self.label, self.method, points, self.at_zero)

    @property
    def exponents(self) -> dict[str, float | None]:
        """That of all points, that of the last two, and that of what the cost model counts at all points."""
        counted = [(point.x, point.counted) for point in self.points if point.counted is not None]
        return {
            "exponent": self.drawn.exponent,
            "last_exponent": self.drawn.last_exponent,
            "model_exponent": power_law(counted)[0] if counted else None,
        }


def sized(shape: Shape, *, share: float | None = None, **config: int) -> Shape:
    """The shape with a base of another config, and this share of its sizes added to it."""
    base = shape.config | config
    expansion = shape.expansion if share is None else added(base, share)
    return dataclasses.replace(shape, config=base, expansion=expansion)


def added(config: Mapping[str, int], share: float) -> dict[str, int]:
    """An expansion by this share of a base's sizes; heads come in whole groups, one at least."""
    groups = max(1, round(share * config["num_key_value_heads"]))
    return {
        "hidden_size": round(share * config["hidden_size"]),
        "num_attention_heads": groups * config["num_attention_heads"] // config["num_key_value_heads"],
        "num_key_value_heads": groups,
        "intermediate_size": round(share * config["intermediate_size"]),
    }


def with_step(shape: Shape, batch_size: int, seq_length: int) -> Shape:
    """The shape with a step of so many sequences of so many tokens."""
    return dataclasses.replace(shape, batch_size=batch_size, seq_length=seq_length)


class Machine:
    """Takes training steps, in the precision of its device."""

    def __init__(self, *, repetitions: int, device: str) -> None:
        self.repetitions = repetitions
        self.device = device
        self.bfloat16 = device == "cuda"

    def prepare(self, method: str, shape: Shape) -> Prepared:
        return prepare(method, shape, device=self.device, bfloat16=self.bfloat16)

    def work(self, prepared: Prepared, shape: Shape) -> Callable[[], None]:
        return functools.partial(step, prepared, tokens(shape, device=self.device), bfloat16=self.bfloat16)

    def seconds(self, works: Mapping[tuple[str, float], Callable[[], Any]]) -> dict[tuple[str, float], float]:
        clocks = interleave(works, repetitions=self.repetitions, warmup=1, device=self.device)
        return {key: clock.compared_seconds for key, clock in clocks.items()}


def grow_expansion(machine: Machine, shape: Shape) -> list[Series]:
    """A step against E, in percent of N: x is 0 where there is no expansion at all, for fft always."""
    shape = with_step(shape, *STEP_SIZE)
    works, weights = {}, {}
    for method in METHODS[1:]:
        works[method, 0.0] = without_expansion(machine, method, shape)
        for share in SHARES:
            wide = sized(shape, share=share)
            prepared = machine.prepare(method, wide)
            works[method, share], weights[method, share] = machine.work(prepared, wide), prepared.weights
    seconds = machine.seconds(works)

    def point(method: str, share: float) -> Point:
        counts = weights[method, share]
        counted = _operations(method, counts, shape)
        return Point(100 * counts.added / counts.base, seconds[method, share], counted)

    return [
        Series("expansion", method, method, tuple(point(method, share) for share in SHARES), seconds[method, 0.0])
        for method in METHODS[1:]
    ]


def without_expansion(machine: Machine, method: str, shape: Shape) -> Callable[[], None]:
    """What is left of a method's step if the expansion has no weight at all: the base's forward pass, and the backward
    pass to the lowest layer that would collaborate; nothing is updated."""
    base = machine.prepare("fft", shape).model.requires_grad_(False)
    if method == "scale-adapt":
        lowest = base.model.layers[shape.preserve_layers]
        lowest.register_forward_pre_hook(lambda layer, args: (args[0].detach().requires_grad_(), *args[1:]))
    batch = tokens(shape, device=machine.device)

    def work() -> None:
        with torch.autocast(machine.device, torch.bfloat16, enabled=machine.bfloat16):
            loss = base(input_ids=batch, labels=batch, use_cache=False).loss
        if loss.requires_grad:
            loss.backward()

    return work


def grow_depth(machine: Machine, shape: Shape) -> list[Series]:
    """A step against the layers, of which the same share is preserved."""
    share = shape.preserve_layers / shape.config["num_hidden_layers"]

    def deep(layers: int) -> Shape:
        deeper = dataclasses.replace(shape, preserve_layers=max(1, round(share * layers)), layers=layers + 1)
        return with_step(sized(deeper, num_hidden_layers=layers), *STEP_SIZE)

    return _steps("depth", machine, {layers: deep(layers) for layers in DEPTHS})


def grow_length(machine: Machine, shape: Shape) -> list[Series]:
    """A step against the tokens of its one sequence."""
    return _steps("length", machine, {length: with_step(shape, 1, length) for length in LENGTHS}, same_model=True)


def grow_batch(machine: Machine, shape: Shape) -> list[Series]:
    """A step against its sequences."""
    return _steps("batch", machine, {size: with_step(shape, size, SHORT) for size in BATCHES}, same_model=True)


def _steps(sweep: str, machine: Machine, shapes: Mapping[int, Shape], *, same_model: bool = False) -> list[Series]:
    """A step of each method against the sizes; same_model: of one model for all of them."""
    works, counted = {}, {}
    for method in METHODS:
        prepared = None
        for size, shape in shapes.items():
            if prepared is None or not same_model:
                prepared = machine.prepare(method, shape)
            works[method, float(size)] = machine.work(prepared, shape)
            counted[method, float(size)] = _operations(method, prepared.weights, shape)
    seconds = machine.seconds(works)
    return [
        Series(
            sweep,
            method,
            method,
            tuple(Point(x, seconds[method, x], counted[method, x]) for x in map(float, shapes)),
        )
        for method in METHODS
    ]


def _operations(method: str, weights: Weights, shape: Shape) -> float:
    return multiply_adds(method, weights) * shape.batch_size * shape.seq_length


def grow_upscale(shape: Shape, *, threads: int) -> list[Series]:
    """Upscaling by width, the SVD apart, and by depth, against the megabytes of the checkpoint."""
    points: dict[str, list[Point]] = {"SVD of width": [], "rest of width": [], "depth": []}
    for hidden in HIDDEN:
        factor = hidden / shape.config["hidden_size"]
        names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        larger = sized(shape, share=1 / 8, **{name: round(factor * shape.config[name]) for name in names})
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            in_own_process(upscale.make_base, larger, base)
            megabytes = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 1e6
            options = {"verify": False, "threads": threads}
            width, depth = (
                in_own_process(upscale.upscale, kind, larger, base, Path(folder) / kind, **options)
                for kind in (upscale.WIDTH, upscale.DEPTH)
            )
        svd = width.seconds["svd"]
        for label, seconds in zip(points, (svd, width.total_seconds - svd, depth.total_seconds), strict=True):
            points[label].append(Point(megabytes, seconds))
    colours = ("scale-route", "scale-adapt", "llama-pro")
    return [
        Series("upscale", label, colour, tuple(found))
        for (label, found), colour in zip(points.items(), colours, strict=True)
    ]


def grow_people(most: int, *, threads: int) -> list[Series]:
    """Generating biographies against people: a thousand, ten thousand and so on up to the most."""
    counts = [10**power for power in range(3, 10) if 10**power <= most]
    runs = [in_own_process(gen_bios.generate, people, threads) for people in counts]
    points = tuple(Point(float(run.people), run.wall_seconds) for run in runs)
    return [Series("gen-bios", "gen-bios", "scale-preserve", points)]


SWEEPS = {
    "expansion": ("A step, by the expansion's size", "E, % of the base's weights N (dotted: E = 0)"),
    "depth": ("A step, by depth", "layers"),
    "length": ("A step, by length", "tokens of a sequence"),
    "batch": ("A step, by batch", f"sequences of {SHORT} tokens"),
    "upscale": ("Upscaling", "MB of the checkpoint"),
    "gen-bios": ("Generating biographies", "people"),
}
"""What grows: the title and the x axis of each plot."""


def measure(sweep: str, machine: Machine, *, threads: int, people: int) -> list[Series]:
    """The series of a sweep of `SWEEPS`."""
    shape = SHAPES[SHAPE]
    match sweep:
        case "upscale":
            return grow_upscale(shape, threads=threads)
        case "gen-bios":
            return grow_people(people, threads=threads)
        case _:
            of_steps = {
                "expansion": grow_expansion,
                "depth": grow_depth,
                "length": grow_length,
                "batch": grow_batch,
            }
            return of_steps[sweep](machine, shape)


def panels(series: list[Series], *, device: str) -> list[GrowthPanel]:
    """The plots of the series, one a sweep."""
    by_processor = "seconds" if device == "cuda" else "CPU seconds"
    return [
        GrowthPanel(
            *SWEEPS[sweep],
            "seconds" if sweep in ("upscale", "gen-bios") else by_processor,
            tuple(one.drawn for one in series if one.sweep == sweep),
        )
        for sweep in dict.fromkeys(one.sweep for one in series)
    ]


def growth_table(series: list[Series]) -> Table:
    """The exponents for a terminal of 80 columns."""
    table = Table("against", title="Growth of seconds: exponents", title_justify="left")
    table.add_column("what", no_wrap=True)
    for heading in ("from", "to", "of all", "last two", "counted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for i, one in enumerate(series):
        table.add_row(
            one.sweep if not i or series[i - 1].sweep != one.sweep else "",
            one.label,
            *(f"{point.x:,.0f}" for point in (one.points[0], one.points[-1])),
            *("-" if exponent is None else f"{exponent:.2f}" for exponent in one.exponents.values()),
        )
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement. Raises RequestError for a sweep that is none, and too few people."""
    parser = common.parser("growth", __doc__, repetitions=4)
    parser.add_argument("--only", default=",".join(SWEEPS), help="these sweeps, with commas between")
    parser.add_argument("--people", type=common.positive, default=MOST_PEOPLE, help="the most that are generated")
    arguments = parser.parse_args(words)
    chosen = arguments.only.split(",")
    if unknown := [sweep for sweep in chosen if sweep not in SWEEPS]:
        raise RequestError(f"--only {arguments.only}: {unknown[0]!r} is not one of {', '.join(SWEEPS)}")
    if arguments.people < 10_000:
        raise RequestError(f"--people {arguments.people}: at least 10000, as two numbers of people show a growth")
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = Machine(repetitions=arguments.repetitions, device=device)
    console = Console(stderr=True)
    series: list[Series] = []
    for sweep in chosen:
        console.print(f"{sweep} ...")
        series += measure(sweep, machine, threads=arguments.threads, people=arguments.people)
        gc.collect()  # a model hangs in reference cycles
    Console().print(growth_table(series))
    if arguments.out:
        growth_figure(panels(series, device=device), arguments.out.with_suffix(".png"))
    common.write_speed_record(
        arguments.out,
        "growth",
        words,
        shape=SHAPES[SHAPE],
        device=device,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        series=[vars(one) | one.exponents for one in series],
    )
