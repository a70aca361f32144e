"""One training step of every method, as ratios inside one run: `python -m benchmarks.speed train-step`.

Every repetition runs one step of every method in turn, so that a busy machine slows all of them alike. Of each method
the medians of CPU seconds (user and system) and of wall seconds are printed, their ratio to full fine-tuning, and the
ratio which the cost model gives (`scale_cli.methods.cost`), and the one over the other: 1.00 is the arithmetic's floor.
Then tokens a second, and what share of the machine's rate in large products of matrices the counted operations come to.
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
from scale_cli.methods import METHODS, MethodOptions
from scale_cli.methods.cost import Weights, multiply_adds
from scale_cli.methods.step import halve_frozen, step_arguments
from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.planning.plan import cost_weights, matching_layers, matching_rank
from scale_cli.surgery import depth


@dataclass(frozen=True)
class Prepared:
    """A method ready to take steps, and what its arithmetic is."""

    method: str
    model: Any
    optimizer: torch.optim.Optimizer
    weights: Weights

    @property
    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Timing:
    """Medians over repetitions.

    spread: half the distance of the quartiles over the median, of the seconds compared.
    utilisation: operations that the cost model counts, a second, over the machine's rate in products of matrices.
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

    config = base_config(shape)
    rank, deepened = _matched(shape, config)
    options = MethodOptions(preserve_layers=shape.preserve_layers, lora_r=rank)
    new_layers: list[int] = []
    base: Any
    match METHODS[method].needs[0]:
        case "width":
            base = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=shape.expansion))
        case "depth":  # as block expansion orders them; what the weights are does not matter to a clock
            new_layers = depth.new_layers(depth.plan_depth(config.num_hidden_layers, layers=deepened))
            base = AutoModelForCausalLM.from_config(base_config(shape, num_hidden_layers=deepened))
        case "plain":
            base = AutoModelForCausalLM.from_config(config)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # peft asks for it
        return METHODS[method].apply(base, options, new_layers).train()


def prepare(method: str, shape: Shape, *, device: str, bfloat16: bool = False) -> Prepared:
    """A model of `build` with its AdamW, as `scale train` would have it in this precision."""
    torch.manual_seed(0)
    model = build(method, shape)
    if bfloat16:
        halve_frozen(model)
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
    return Prepared(method, model, optimizer, cost_weights(method, model))


def _matched(shape: Shape, config: Any) -> tuple[int, int]:
    """LoRA's rank and the layers in all at which both train about as many weights of linear maps as the expansion."""
    with torch.device("meta"):
        widened = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=shape.expansion))
    added = cost_weights("scale-preserve", widened).added
    return matching_rank(config, added), matching_layers(config, added)


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
    """The timings of one training step of each method; fft must be among them: the others are compared to it."""
    prepared = {method: prepare(method, shape, device=device, bfloat16=bfloat16) for method in methods}
    batch = tokens(shape, device=device)
    works = {method: functools.partial(step, one, batch, bfloat16=bfloat16) for method, one in prepared.items()}
    clocks = interleave(works, repetitions=repetitions, warmup=warmup, device=device)
    rate = matrix_rate(device, bfloat16=bfloat16)
    fft, floor = clocks["fft"], multiply_adds("fft", prepared["fft"].weights)
    timings = []
    for method, clock in clocks.items():
        cost = multiply_adds(method, prepared[method].weights)
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
    """What a step is meant to take: by the cost model, and against full fine-tuning and LoRA."""
    of = {timing.method: timing for timing in timings}
    limit = 1.2 if device == "cuda" else 1.15
    found = [
        Target(f"{method} / fft over the cost model's", of[method].over_floor, limit)
        for method in ("scale-preserve", "scale-adapt", "scale-route")
        if method in of
    ]
    for method, most in (("scale-preserve", 0.57), ("scale-adapt", 1.0)):
        if method in of:
            found.append(Target(f"{method} / fft", of[method].cpu_ratio, most))
            if "lora" in of:
                found.append(Target(f"{method} / lora", of[method].cpu_ratio / of["lora"].cpu_ratio, 1.0))
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
    """Tokens a second and the use of the machine, for a terminal of 80 columns."""
    table = Table("method")
    for heading in ("tokens/s", "of the matrix rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in timings:
        table.add_row(t.method, f"{t.tokens_per_second:,.0f}", f"{t.utilisation:.1%}")
    return table


def parse_methods(words: str) -> tuple[str, ...]:
    """The methods in "fft,lora", fft first and in any case. Raises RequestError for one that is none."""
    methods = tuple(dict.fromkeys(["fft", *words.split(",")]))
    if unknown := [method for method in methods if method not in METHODS]:
        raise RequestError(f"--methods {words}: {unknown[0]!r} is not one of {', '.join(METHODS)}")
    return methods


def main(words: list[str]) -> None:
    """The command line of this measurement. Raises RequestError for a method that is none."""
    parser = common.parser("train-step", __doc__, shape="llama-small", repetitions=15)
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between; fft is always among them")
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
