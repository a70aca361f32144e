"""One training step of every method, against full fine-tuning and the cost model."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import typer

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, clocked, interleave, over_first
from benchmarks.speed.shapes import SHAPES, Shape, ShapeName, base_config
from scale_cli.methods import DEFAULT_METHOD, METHODS, method_options, paper_methods, yardstick
from scale_cli.methods.cost import Cost, linear_weights
from scale_cli.methods.step import halve_frozen, step_arguments
from scale_cli.model import ScaleConfig, ScaleForCausalLM
from scale_cli.planning.sizes import matching_layers
from scale_cli.surgery import depth

PAPER_METHODS = ",".join(paper_methods())
Methods = Annotated[str, typer.Option(help=f"Methods, separated by commas. {DEFAULT_METHOD} is always added.")]
WIDENED = tuple(name for name, method in METHODS.items() if "width" in method.needs)
"""The methods that train a widened model."""


@dataclass(frozen=True)
class Prepared:
    """A model and optimiser ready for training steps of a method, and the cost per token."""

    method: str
    model: Any
    optimizer: torch.optim.Optimizer
    cost: Cost

    @property
    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


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
        case "depth":  # the order of layers is block expansion's; the values of weights do not change the time
            deepened = matching_layers(config, added)
            new_layers = depth.new_layers(depth.plan_depth(config.num_hidden_layers, layers=deepened))
            base = AutoModelForCausalLM.from_config(base_config(shape, num_hidden_layers=deepened))
        case "plain":
            base = AutoModelForCausalLM.from_config(config)
    with warnings.catch_warnings():
        # raised inside peft
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return chosen.apply(base, options, new_layers).train()


def _added(shape: Shape, config: Any) -> int:
    """The number of weights that the expansion adds to linear maps; the other methods train about as many."""
    with torch.device("meta"):
        widened: Any = ScaleForCausalLM(ScaleConfig(base_config=config.to_dict(), expansion=shape.expansion))
    return linear_weights(widened.expansion)


def one_path_methods(shape: Shape) -> tuple[str, ...]:
    """Full fine-tuning, and the methods that train a widened model without a router."""
    with torch.device("meta"):
        return (DEFAULT_METHOD, *(name for name in WIDENED if build(name, shape).config.router is None))


def prepare(method: str, shape: Shape, *, device: str, bfloat16: bool = False) -> Prepared:
    """A model of `build` with its AdamW, in the dtypes of `scale train`."""
    torch.manual_seed(0)
    model = build(method, shape)
    if bfloat16:
        halve_frozen(model)
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
    return Prepared(method, model, optimizer, METHODS[method].cost(model))


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


def matrix_rate(device: str, *, bfloat16: bool) -> float:
    """Operations per second, two per multiply-add, of the fastest of ten products of large square matrices."""
    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / min(clocked(lambda: a @ b, device=device)[2] for _ in range(10))


def measure(
    shape: Shape, *, methods: tuple[str, ...], repetitions: int, warmup: int, device: str, bfloat16: bool
) -> pd.DataFrame:
    """One row per method. The first method must be full fine-tuning: the ratios are to it.

    cpu_ratio, wall_ratio: of the compared and of the wall seconds to fft's. model_ratio: the same by the cost model.
    over_floor: cpu_ratio / model_ratio; 1 is the floor that the arithmetic sets.
    utilisation: the cost model's operations per second, over the machine's rate in products of matrices.
    """
    prepared = {method: prepare(method, shape, device=device, bfloat16=bfloat16) for method in methods}
    batch = tokens(shape, device=device)
    works = {method: functools.partial(step, ready, batch, bfloat16=bfloat16) for method, ready in prepared.items()}
    lines = interleave(works, "method", repetitions=repetitions, warmup=warmup, device=device)
    costs = pd.Series([ready.cost.training for ready in prepared.values()])
    lines["trained_parameters"] = [ready.trained_parameters for ready in prepared.values()]
    lines["cpu_ratio"] = over_first(lines.compared_seconds)
    lines["wall_ratio"] = over_first(lines.wall_seconds)
    lines["model_ratio"] = over_first(costs)
    lines["over_floor"] = lines.cpu_ratio / lines.model_ratio
    lines["tokens_per_second"] = batch.numel() / lines.wall_seconds
    lines["utilisation"] = costs * batch.numel() / lines.wall_seconds / matrix_rate(device, bfloat16=bfloat16)
    return lines


def targets(lines: pd.DataFrame, *, device: str) -> list[Target]:
    """The targets of a step: against the cost model, full fine-tuning, and methods of matched size."""
    ratios, over_floor = (lines.set_index("method")[name] for name in ("cpu_ratio", "over_floor"))
    limit = 1.2 if device == "cuda" else 1.15
    judged = [
        Target(f"{method} / {DEFAULT_METHOD} over the cost model's", over_floor[method], limit)
        for method in WIDENED
        if method in ratios
    ]
    limits = {name: 0.57 for name in WIDENED if METHODS[name].keeps_base} | {yardstick("width").name: 1.0}
    for method, most in limits.items():
        if method in ratios:
            judged.append(Target(f"{method} / {DEFAULT_METHOD}", ratios[method], most))
            matched = [name for name in ratios.index if METHODS[name].size is not None and METHODS[name].paper]
            judged += [Target(f"{method} / {name}", ratios[method] / ratios[name], 1.0) for name in matched]
    return judged


def parse_methods(text: str) -> tuple[str, ...]:
    """The methods in "lora,freeze", with full fine-tuning before them. Raises RequestError for an unknown method."""
    return tuple(dict.fromkeys([DEFAULT_METHOD, *frame.chosen("--methods", text, METHODS)]))


def main(
    shape: ShapeName = "llama-small",
    methods: Methods = PAPER_METHODS,
    repetitions: frame.Repetitions = 15,
    warmup: frame.Warmup = 2,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="[bfloat16 on CUDA, else float32]")
    ] = None,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Time one training step of every method.

    Every repetition runs one step of every method in turn, so that other load slows all of them alike. Printed are, for
    each method, the medians of CPU seconds (user and system) and of wall seconds, the ratio to full fine-tuning, the
    cost model's ratio (scale_cli.methods.cost), and the first ratio over the second: 1.00 is the floor that the
    arithmetic sets. Then tokens per second, and the cost model's operations per second as a share of the machine's rate
    in large products of matrices. On CUDA, seconds are the device's between two events, and wall seconds are compared.
    """
    size, names, device = SHAPES[shape], parse_methods(methods), frame.device()
    precision = precision or ("bfloat16" if device == "cuda" else "float32")
    torch.set_num_threads(threads)
    options: dict[str, Any] = {"repetitions": repetitions, "warmup": warmup, "device": device}
    lines = measure(size, methods=names, bfloat16=precision == "bfloat16", **options)
    title = f"One training step, {shape}, {size.batch_size} x {size.seq_length} tokens, {precision}, {device}"
    times = frame.table(
        lines.assign(trained=lines.trained_parameters / 1e6),
        "method trained cpu_seconds wall_seconds spread cpu_ratio model_ratio over_floor",
        title=title,
        headings={"trained": "trained M", "cpu_ratio": "/ fft", "model_ratio": "model", "over_floor": "/ model"},
    )
    rates = frame.table(lines, "method tokens_per_second utilisation", title="Rates; utilisation of the matrix rate")
    return Result(
        [times, rates],
        {
            "shape": size,
            "precision": precision,
            "threads": threads,
            "repetitions": repetitions,
            "targets": [target.record for target in targets(lines, device=device)],
            "timings": frame.rows(lines),
        },
    )
