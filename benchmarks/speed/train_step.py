"""One training step of every method, as ratios inside one run: `python -m benchmarks.speed train-step`.

Every repetition runs one step of every method in turn, so that a busy machine slows all of them alike. Of each method
the medians of CPU seconds (user and system) and of wall seconds are printed, their ratio to full fine-tuning, and the
ratio which the cost model gives (`scale_cli.methods.cost`), and the one over the other: 1.00 is the arithmetic's floor.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import clocked
from benchmarks.speed.shapes import SHAPES, Shape
from scale_cli.errors import RequestError
from scale_cli.methods import METHODS, MethodOptions
from scale_cli.methods.cost import Weights, multiply_adds
from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.planning import cost_weights, matching_layers, matching_rank
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
    """Medians over repetitions. spread: half the distance of the quartiles over the median, of the CPU seconds."""

    method: str
    trained_parameters: int
    cpu_seconds: float
    wall_seconds: float
    spread: float
    cpu_ratio: float
    wall_ratio: float
    model_ratio: float

    @property
    def over_floor(self) -> float:
        """The measured ratio to fft (CPU seconds) over the cost model's: 1 is the arithmetic's floor."""
        return self.cpu_ratio / self.model_ratio


def prepare(method: str, shape: Shape, *, device: str) -> Prepared:
    """A model of this shape with random weights, upscaled as the method needs it, with its AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**shape.config)
    rank, deepened = _matched(shape, config)
    options = MethodOptions(preserve_layers=shape.preserve_layers, lora_r=rank)
    new_layers: list[int] = []
    base: Any
    match METHODS[method].needs[0]:
        case "width":
            base = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=shape.expansion))
        case "depth":  # as block expansion orders them; what the weights are does not matter to a clock
            new_layers = depth.new_layers(depth.plan_depth(config.num_hidden_layers, layers=deepened))
            base = LlamaForCausalLM(LlamaConfig(**shape.config | {"num_hidden_layers": deepened}))
        case "plain":
            base = LlamaForCausalLM(config)
    model = METHODS[method].apply(base, options, new_layers).to(device).train()
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
        loss = prepared.model(input_ids=batch, labels=batch, use_cache=False).loss
    loss.backward()
    prepared.optimizer.step()
    prepared.optimizer.zero_grad()
    if batch.device.type == "cuda":
        torch.cuda.synchronize()  # so that it is over when this returns, and can be clocked


def train_step(
    shape: Shape, *, methods: tuple[str, ...], repetitions: int, warmup: int, device: str, bfloat16: bool
) -> list[Timing]:
    """The timings of one training step of each method; fft must be among them: the others are compared to it."""
    prepared = [prepare(method, shape, device=device) for method in methods]
    generator = torch.Generator().manual_seed(0)
    size = (shape.batch_size, shape.seq_length)
    batch = torch.randint(shape.config["vocab_size"], size, generator=generator).to(device)
    seconds: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for repetition in range(-warmup, repetitions):
        for one in prepared:
            _, cpu_seconds, wall_seconds = clocked(functools.partial(step, one, batch, bfloat16=bfloat16))
            if repetition >= 0:
                seconds[one.method].append((cpu_seconds, wall_seconds))
    cpu = {method: [c for c, _ in runs] for method, runs in seconds.items()}
    wall = {method: statistics.median(w for _, w in runs) for method, runs in seconds.items()}
    weights = {one.method: one.weights for one in prepared}
    floor = multiply_adds("fft", weights["fft"])
    timings = []
    for one in prepared:
        runs = cpu[one.method]
        median = statistics.median(runs)
        quartiles = statistics.quantiles(runs, n=4) if len(runs) > 1 else [median] * 3
        # On a GPU the CPU only queues work: there the wall clock is compared.
        ratios = [w / v for w, v in ((median, statistics.median(cpu["fft"])), (wall[one.method], wall["fft"]))]
        timings.append(
            Timing(
                method=one.method,
                trained_parameters=one.trained_parameters,
                cpu_seconds=median,
                wall_seconds=wall[one.method],
                spread=(quartiles[2] - quartiles[0]) / 2 / median,
                cpu_ratio=ratios[1] if device == "cuda" else ratios[0],
                wall_ratio=ratios[1],
                model_ratio=multiply_adds(one.method, one.weights) / floor,
            )
        )
    return timings


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


def main(words: list[str]) -> None:
    """The command line of this measurement. Raises RequestError for a method that is none."""
    parser = common.parser("train-step", __doc__, shape="llama-small", repetitions=15)
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between; fft is always among them")
    parser.add_argument("--warmup", type=int, default=2, help="repetitions before those that count")
    arguments = parser.parse_args(words)
    methods = tuple(dict.fromkeys(["fft", *arguments.methods.split(",")]))
    if unknown := [method for method in methods if method not in METHODS]:
        raise RequestError(f"--methods {arguments.methods}: {unknown[0]!r} is not one of {', '.join(METHODS)}")
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES[arguments.shape]
    timings = train_step(
        shape,
        methods=methods,
        repetitions=arguments.repetitions,
        warmup=arguments.warmup,
        device=device,
        bfloat16=device == "cuda",
    )
    title = f"One training step, {arguments.shape}, {shape.batch_size} x {shape.seq_length} tokens, {device}"
    Console().print(timing_table(timings, title=title))
    common.write_speed_record(
        arguments.out,
        "train-step",
        words,
        shape=shape,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        timings=[vars(timing) | {"over_floor": timing.over_floor} for timing in timings],
    )
