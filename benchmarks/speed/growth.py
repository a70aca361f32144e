"""Growth of time with the size of the expansion, depth, length, batch, checkpoint and data."""

from __future__ import annotations

import dataclasses
import functools
import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.command import Result
from benchmarks.speed import frame, gen_bios, upscale
from benchmarks.speed.frame import in_own_process, interleave
from benchmarks.speed.power_laws import GrowthPanel, GrowthSeries, growth_figure, power_law
from benchmarks.speed.shapes import SHAPES, Shape, ShapeName, expansion
from benchmarks.speed.train_step import WIDENED, Prepared, build, one_path_methods, prepare, step, tokens
from scale_cli.cli.output import say
from scale_cli.core.errors import RequestError
from scale_cli.methods import DEFAULT_METHOD, yardstick

SHAPE: ShapeName = "llama-small"
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 0.63)
"""Shares of the base's sizes that are added. An added row reads both halves, so the expansion's weights, as a share of
the base's, are about the share plus its square."""
DEPTHS = (2, 4, 8, 16)
LENGTHS = (128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16)
STEP_SIZE = (2, 256)
"""Sequences and tokens of a step whose batch and length do not grow."""
SHORT = 64
"""Tokens per sequence of a growing batch."""
HIDDEN = (256, 512, 1024, 1536)
"""Hidden sizes of the checkpoints that are upscaled."""
MOST_PEOPLE = 1_000_000
SWEEPS = {
    "expansion": ("A step, by the expansion's size", "E, % of the base's weights N (dotted: E = 0)"),
    "depth": ("A step, by depth", "layers"),
    "length": ("A step, by length", "tokens of a sequence"),
    "batch": ("A step, by batch", f"sequences of {SHORT} tokens"),
    "upscale": ("Upscaling", "MB of the checkpoint"),
    "gen-bios": ("Generating biographies", "people"),
}
"""The sweeps, with the title and x axis of each plot."""
WALL = ("upscale", "gen-bios")
"""The sweeps in wall seconds."""


@dataclass(frozen=True)
class Point:
    """The seconds of a work of size x. counted: its operations by the cost model, None if the model lacks it."""

    x: float
    seconds: float
    counted: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of growing x. method: whose colour the series has in figures. at_zero: the seconds at x = 0."""

    sweep: str
    label: str
    method: str
    points: tuple[Point, ...]
    at_zero: float | None = None

    @property
    def curve(self) -> GrowthSeries:
        """The series as `scale_cli.reporting` plots and fits it."""
        points = tuple((point.x, point.seconds) for point in self.points)
        return GrowthSeries(self.label, self.method, points, self.at_zero)

    @property
    def exponents(self) -> dict[str, float | None]:
        """Exponents of a power law: of all points, of the last two, and of the cost model's counts at all points."""
        counted = [(point.x, point.counted) for point in self.points if point.counted is not None]
        return {
            "exponent": self.curve.exponent,
            "last_exponent": self.curve.last_exponent,
            "model_exponent": power_law(counted)[0] if counted else None,
        }


def sized(shape: Shape, *, share: float | None = None, **config: int) -> Shape:
    """The shape with changes to the base's config, and expanded by a share of the base's sizes if one is given."""
    base = shape.config | config
    added = shape.expansion if share is None else expansion(base, share)
    return dataclasses.replace(shape, config=base, expansion=added)


def with_step(shape: Shape, batch_size: int, seq_length: int) -> Shape:
    """The shape with another size of a step."""
    return dataclasses.replace(shape, batch_size=batch_size, seq_length=seq_length)


def step_shapes(sweep: str, shape: Shape) -> dict[float, Shape]:
    """The shapes of a sweep of training steps: by share, layers, tokens per sequence or sequences.

    The share of preserved layers is the same at every depth.
    """
    preserved = shape.preserve_layers / shape.config["num_hidden_layers"]

    def deep(layers: int) -> Shape:
        deeper = dataclasses.replace(shape, preserve_layers=max(1, round(preserved * layers)), layers=layers + 1)
        return with_step(sized(deeper, num_hidden_layers=layers), *STEP_SIZE)

    match sweep:
        case "expansion":
            return {share: with_step(sized(shape, share=share), *STEP_SIZE) for share in SHARES}
        case "depth":
            return {layers: deep(layers) for layers in DEPTHS}
        case "length":
            return {length: with_step(shape, 1, length) for length in LENGTHS}
        case "batch":
            return {size: with_step(shape, size, SHORT) for size in BATCHES}
    raise AssertionError(sweep)


def grow_steps(sweep: str, shape: Shape, *, repetitions: int, device: str) -> list[Series]:
    """Training steps of every method, against the sizes of a sweep. All steps are timed in turn.

    The sweep "expansion" is against E in percent of N, and has the step without an expansion, which replaces full
    fine-tuning's.
    """
    expands, bfloat16 = sweep == "expansion", device == "cuda"
    works: dict[tuple[str, float], Callable[[], None]] = {}
    points: dict[str, dict[float, Point]] = {}
    methods = one_path_methods(shape)
    for method in methods[1:] if expands else methods:
        points[method] = {}
        if expands:
            works[method, 0.0] = without_expansion(method, with_step(shape, *STEP_SIZE), device=device)
        prepared: Prepared | None = None
        model: Any = None
        for size, larger in step_shapes(sweep, shape).items():
            if prepared is None or model != (larger.config, larger.expansion):  # length and batch share one model
                prepared = prepare(method, larger, device=device, bfloat16=bfloat16)
                model = (larger.config, larger.expansion)
            cost = prepared.cost
            works[method, size] = functools.partial(step, prepared, tokens(larger, device=device), bfloat16=bfloat16)
            x = 100 * cost.added / cost.base if expands else float(size)
            points[method][size] = Point(x, 0.0, cost.training * larger.batch_size * larger.seq_length)
    timed = interleave(works, "method", "size", repetitions=repetitions, warmup=1, device=device)
    seconds = timed.set_index(["method", "size"]).compared_seconds.to_dict()
    return [
        Series(
            sweep,
            method,
            method,
            tuple(dataclasses.replace(point, seconds=seconds[method, size]) for size, point in by_size.items()),
            seconds.get((method, 0.0)),
        )
        for method, by_size in points.items()
    ]


def without_expansion(method: str, shape: Shape, *, device: str) -> Callable[[], None]:
    """The part of a method's step that does not depend on the expansion.

    It is the base's forward pass, and the backward pass down to the lowest collaborating layer. No weight is updated.
    """
    base = prepare(DEFAULT_METHOD, shape, device=device, bfloat16=device == "cuda").model.requires_grad_(False)
    with torch.device("meta"):
        collaborating = build(method, shape).config.collaborative["layers"]
    if collaborating:
        lowest = base.model.layers[min(collaborating)]
        lowest.register_forward_pre_hook(lambda layer, args: (args[0].detach().requires_grad_(), *args[1:]))
    batch = tokens(shape, device=device)

    def work() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = base(input_ids=batch, labels=batch, use_cache=False).loss
        if loss.requires_grad:
            loss.backward()

    return work


def grow_upscale(shape: Shape, *, threads: int) -> list[Series]:
    """Upscaling by width, with the SVD apart, and by depth, against the megabytes of the checkpoint."""
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
    colours = (WIDENED[-1], yardstick("width").name, yardstick("depth").name)
    return [
        Series("upscale", label, colour, tuple(measured))
        for (label, measured), colour in zip(points.items(), colours, strict=True)
    ]


def grow_people(most: int, *, threads: int) -> list[Series]:
    """Generating biographies against the number of people: a thousand, ten thousand and so on, up to `most`."""
    counts = [10**power for power in range(3, 10) if 10**power <= most]
    runs = [in_own_process(gen_bios.generate, people, threads) for people in counts]
    points = tuple(Point(float(run["people"]), run["wall_seconds"]) for run in runs)
    return [Series("gen-bios", "gen-bios", WIDENED[0], points)]


def measure(sweep: str, *, repetitions: int, threads: int, people: int, device: str) -> list[Series]:
    """The series of a sweep of `SWEEPS`."""
    match sweep:
        case "upscale":
            return grow_upscale(SHAPES[SHAPE], threads=threads)
        case "gen-bios":
            return grow_people(people, threads=threads)
    return grow_steps(sweep, SHAPES[SHAPE], repetitions=repetitions, device=device)


def panels(series: Sequence[Series], *, device: str) -> list[GrowthPanel]:
    """The plots of the series, one per sweep."""
    axis = dict.fromkeys(SWEEPS, "seconds" if device == "cuda" else "CPU seconds") | dict.fromkeys(WALL, "seconds")
    by_sweep = {sweep: [line for line in series if line.sweep == sweep] for sweep in SWEEPS}
    return [
        GrowthPanel(*SWEEPS[sweep], axis[sweep], tuple(line.curve for line in lines))
        for sweep, lines in by_sweep.items()
        if lines
    ]


def main(
    only: Annotated[str, typer.Option(help="Sweeps, separated by commas.")] = ",".join(SWEEPS),
    people: Annotated[int, typer.Option(min=1, help="The most people that are generated.")] = MOST_PEOPLE,
    repetitions: frame.Repetitions = 4,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Measure how time grows with size.

    Six sweeps, each from small to large: a training step of the small Llama against the size of the expansion (up to
    100% of the base's weights), the depth, the length and the batch; upscaling against the size of the checkpoint; and
    generating biographies against the number of people. The steps of a sweep are timed in turn, repetition by
    repetition. Upscaling and generating run once per size, in a new process, without the imports.

    Printed are, for each series, the exponent of a power law fitted to the logarithms of all points, the exponent
    between the last two points, which constant costs disturb least, and the exponent of the cost model's counts at the
    same points. Steps are in CPU seconds (on a GPU, the device's), the others in wall seconds. With --out, log-log
    plots are written beside the record.
    """
    sweeps = frame.chosen("--only", only, SWEEPS)
    if people < 10_000:
        raise RequestError(f"--people {people}: at least 10000, because growth needs two numbers of people")
    torch.set_num_threads(threads)
    device = frame.device()
    series: list[Series] = []
    for sweep in sweeps:
        say(f"{sweep} ...")
        series += measure(sweep, repetitions=repetitions, threads=threads, people=people, device=device)
        gc.collect()  # reference cycles keep a sweep's models alive
    lines = [
        {"sweep": line.sweep, "label": line.label, "from": line.points[0].x, "to": line.points[-1].x} | line.exponents
        for line in series
    ]
    columns = "sweep label from to exponent last_exponent model_exponent"
    headings = {"exponent": "all points", "last_exponent": "last two", "model_exponent": "model"}
    return Result(
        [frame.table(lines, columns, title="Growth of seconds: exponents", headings=headings)],
        {
            "shape": SHAPES[SHAPE],
            "device": device,
            "threads": threads,
            "repetitions": repetitions,
            "targets": [],
            "series": [vars(line) | line.exponents for line in series],
        },
        figure=lambda path: growth_figure(panels(series, device=device), path),
    )
