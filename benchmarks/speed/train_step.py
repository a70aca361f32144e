"""One training step of every method, as ratios inside one run: `python -m benchmarks.speed train-step`.

Every repetition runs one step of every method in turn, so a busy machine slows all of them alike. For each method it
prints the medians of CPU seconds (user and system) and of wall seconds, their ratio to full fine-tuning, the ratio that
the cost model gives (`scale_cli.methods.cost`), and the one over the other: 1.00 is the arithmetic's floor. Then tokens
per second, and the counted operations per second as a share of the machine's rate in large products of matrices.
On CUDA the seconds are the device's between two events, steps are in bfloat16 unless another precision is asked for,
and the wall's ratio is compared.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import Target, interleave, matrix_rate
from benchmarks.speed.shapes import SHAPES, Shape, base_config
from scale_cli.core.errors import RequestError
from scale_cli.methods import DEFAULT_METHOD, METHODS, method_options, yardstick
from scale_cli.methods.cost import Cost, linear_weights
from scale_cli.methods.step import halve_frozen, step_arguments
from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.planning.sizes import matching_layers
from scale_cli.surgery import depth

WIDENED = tuple(name for name, method in METHODS.items() if "width" in method.needs)
"""The methods that train a widened model."""


@dataclass(frozen=True)
class Prepared:
    """A method ready to take steps, and its cost per token."""

    method: str
    model: Any
    optimizer: torch.optim.Optimizer
    cost: Cost

    @property
    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Timing:
    """Medians over repetitions.

    spread: half the distance of the quartiles over the median, of the seconds compared.
    utilisation: operations per second that the cost model counts, over the machine's rate in products of matrices.
    """

    method: str
    trained_parameters: int
    cpu_seconds: float
    wall_seconds: float
    spread: float
    cpu_ratio: float
    wall_ratio: float
    model_ratio: float
    tokens_per_second: float
    utilisation: float

    @property
    def over_floor(self) -> float:
        """The measured ratio to fft over the cost model's: 1 is the arithmetic's floor."""
        return self.cpu_ratio / self.model_ratio


def build(method: str, shape: Shape) -> Any:
    """A model of this shape with random weights, upscaled as the method needs it, in training mode."""
    from transformers import AutoModelForCausalLM

    config, chosen = base_config(shape), METHODS[method]
    added = _added(shape, config)
    size = {} if chosen.size is None else {chosen.size.option: chosen.size.nearest(config, added)}
    options = method_options({"preserve_layers": shape.preserve_layers} | size)[method]
    new_layers: list[int] = []
    base: Any
    match chosen.needs[0]:
        case "width":
            base = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=shape.expansion))
        case "depth":  # as block expansion orders them; the values of the weights do not matter to a clock
            deepened = matching_layers(config, added)
            new_layers = depth.new_layers(depth.plan_depth(config.num_hidden_layers, layers=deepened))
            base = AutoModelForCausalLM.from_config(base_config(shape, num_hidden_layers=deepened))
        case "plain":
            base = AutoModelForCausalLM.from_config(config)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # peft asks for it
        return chosen.apply(base, options, new_layers).train()


def prepare(method: str, shape: Shape, *, device: str, bfloat16: bool = False) -> Prepared:
    """A model of `build` with its AdamW, as `scale train` would have it in this precision."""
    torch.manual_seed(0)
    model = build(method, shape)
    if bfloat16:
        halve_frozen(model)
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
    return Prepared(method, model, optimizer, METHODS[method].cost(model))


def one_path_methods(shape: Shape) -> tuple[str, ...]:
    """Full fine-tuning, and the methods that train a widened model without a router."""
    with torch.device("meta"):
        return (DEFAULT_METHOD, *(name for name in WIDENED if build(name, shape).config.router is None))


def _added(shape: Shape, config: Any) -> int:
    """The weights of linear maps that the expansion adds; other methods train about as many."""
    with torch.device("meta"):
        widened: Any = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=shape.expansion))
    return linear_weights(widened.expansion)


def step(prepared: Prepared, batch: torch.Tensor, *, bfloat16: bool) -> None:
    """One training step: forward, loss, backward, AdamW."""
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=bfloat16):
        inputs = {"input_ids": batch, "labels": batch, "use_cache": False}
        loss = prepared.model(**inputs, **step_arguments(prepared.model)).loss
    loss.backward()
    prepared.optimizer.step()
    prepared.optimizer.zero_grad()


def tokens(shape: Shape, *, device: str) -> torch.Tensor:
    """A batch of random tokens, (batch_size, seq_length)."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch_size, shape.seq_length)
    return torch.randint(shape.config["vocab_size"], size, generator=generator).to(device)


def train_step(
    shape: Shape, *, methods: tuple[str, ...], repetitions: int, warmup: int, device: str, bfloat16: bool
) -> list[Timing]:
    """The timings of one training step of each method; full fine-tuning, one of them, is the measure of the others."""
    prepared = {method: prepare(method, shape, device=device, bfloat16=bfloat16) for method in methods}
    batch = tokens(shape, device=device)
    works = {method: functools.partial(step, one, batch, bfloat16=bfloat16) for method, one in prepared.items()}
    clocks = interleave(works, repetitions=repetitions, warmup=warmup, device=device)
    rate = matrix_rate(device, bfloat16=bfloat16)
    fft, floor = clocks[DEFAULT_METHOD], prepared[DEFAULT_METHOD].cost.training
    timings = []
    for method, clock in clocks.items():
        cost = prepared[method].cost.training
        timings.append(
            Timing(
                method=method,
                trained_parameters=prepared[method].trained_parameters,
                cpu_seconds=clock.cpu_seconds,
                wall_seconds=clock.wall_seconds,
                spread=clock.spread,
                cpu_ratio=clock.compared_seconds / fft.compared_seconds,
                wall_ratio=clock.wall_seconds / fft.wall_seconds,
                model_ratio=cost / floor,
                tokens_per_second=batch.numel() / clock.wall_seconds,
                utilisation=cost * batch.numel() / clock.wall_seconds / rate,
            )
        )
    return timings


def targets(timings: list[Timing], *, device: str) -> list[Target]:
    """The limits of a step's time: by the cost model, against full fine-tuning, and against methods of matched size."""
    of = {timing.method: timing for timing in timings}
    limit = 1.2 if device == "cuda" else 1.15
    found = [
        Target(f"{name} / {DEFAULT_METHOD} over the cost model's", of[name].over_floor, limit)
        for name in WIDENED
        if name in of
    ]
    limits = {name: 0.57 for name in WIDENED if METHODS[name].keeps_base} | {yardstick("width").name: 1.0}
    for name, most in limits.items():
        if name in of:
            found.append(Target(f"{name} / {DEFAULT_METHOD}", of[name].cpu_ratio, most))
            for other in of:
                if METHODS[other].size is not None:
                    found.append(Target(f"{name} / {other}", of[name].cpu_ratio / of[other].cpu_ratio, 1.0))
    return found


def timing_table(timings: list[Timing], *, title: str) -> Table:
    """The timings for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in ("trained", "CPU s", "wall s", "spread", "/ fft", "model", "/ model"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in timings:
        cells = [t.cpu_seconds, t.wall_seconds, t.spread, t.cpu_ratio, t.model_ratio, t.over_floor]
        table.add_row(t.method, f"{t.trained_parameters / 1e6:.1f} M", *(f"{cell:.3f}" for cell in cells))
    return table


def rate_table(timings: list[Timing]) -> Table:
    """Tokens per second and the use of the machine, for a terminal of 80 columns."""
    table = Table("method")
    for heading in ("tokens/s", "of the matrix rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in timings:
        table.add_row(t.method, f"{t.tokens_per_second:,.0f}", f"{t.utilisation:.1%}")
    return table


def parse_methods(words: str) -> tuple[str, ...]:
    """The methods in "fft,lora", full fine-tuning first and always. Raises RequestError for an unknown method."""
    methods = tuple(dict.fromkeys([DEFAULT_METHOD, *words.split(",")]))
    if unknown := [method for method in methods if method not in METHODS]:
        raise RequestError(f"--methods {words}: {unknown[0]!r} is not one of {', '.join(METHODS)}")
    return methods


def main(words: list[str]) -> None:
    """The command line of this measurement. Raises RequestError for an unknown method."""
    parser = common.parser("train-step", __doc__, shape="llama-small", repetitions=15)
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"with commas between; {DEFAULT_METHOD} is always among them"
    )
    parser.add_argument("--warmup", type=int, default=2, help="repetitions before those that count")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = "bfloat16" if device == "cuda" else "float32"
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=usual)
    arguments = parser.parse_args(words)
    methods = parse_methods(arguments.methods)
    torch.set_num_threads(arguments.threads)
    shape = SHAPES[arguments.shape]
    timings = train_step(
        shape,
        methods=methods,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        device=device,
        bfloat16=arguments.precision == "bfloat16",
    )
    size = f"{shape.batch_size} x {shape.seq_length} tokens"
    title = f"One training step, {arguments.shape}, {size}, {arguments.precision}, {device}"
    Console().print(timing_table(timings, title=title))
    Console().print(rate_table(timings))
    common.write_speed_record(
        arguments.out,
        "train-step",
        words,
        shape=shape,
        precision=arguments.precision,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        targets=targets(timings, device=device),
        timings=[vars(timing) | {"over_floor": timing.over_floor} for timing in timings],
    )
