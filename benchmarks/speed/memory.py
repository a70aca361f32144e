"""The memory of training with every method: `python -m benchmarks.speed memory`.

Every method takes a few training steps in a process of its own, in float32, or on a GPU in bfloat16. What the process
then held at the most, weights, gradients and AdamW's moments included and what it held before left out, is compared
with full fine-tuning's and with what `scale plan` foresees from tensors without values. In RAM it counts pages, and
with them what the allocator holds back; on CUDA it counts tensors, as the estimate does.

--estimate leaves out the steps: for a shape that does not fit this machine, as `scale train` would have it on a GPU.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import Target, in_own_process
from benchmarks.speed.shapes import SHAPES, Shape
from benchmarks.speed.train_step import build, parse_methods, prepare, step, tokens
from scale_cli.core.records import forget_peak_memory, peak_memory_bytes
from scale_cli.methods import DEFAULT_METHOD, METHODS
from scale_cli.methods.step import halve_frozen
from scale_cli.planning.memory import step_memory

STEPS = 3
"""AdamW's moments are there from the second on."""
TARGET_SHAPE = "llama-1b"
"""The one that the target is for."""


@dataclass(frozen=True)
class Line:
    """A method's memory, all in bytes: of its weights, foreseen at the most, and measured at the most, if it was."""

    method: str
    weights: int
    estimated: int
    measured: int | None


def estimate(method: str, shape: Shape, *, bfloat16: bool) -> tuple[int, int]:
    """The bytes of a method's weights in training, and the most of all in a training step."""
    with torch.device("meta"):
        model = build(method, shape)
    if bfloat16:
        halve_frozen(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = 2 * 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = {"batch_size": shape.batch_size, "seq_length": shape.seq_length}
    memory = step_memory(model, precision="bfloat16" if bfloat16 else "float32", **size)
    return weights, weights + moments + memory.peak_bytes


def measure(method: str, shape: Shape, *, device: str, bfloat16: bool, threads: int) -> int:
    """The most bytes that some training steps take in this process."""
    torch.set_num_threads(threads)
    torch.zeros(1, device=device)  # what a device takes for itself is there before
    forget_peak_memory()
    before = peak_memory_bytes()
    prepared = prepare(method, shape, device=device, bfloat16=bfloat16)
    batch = tokens(shape, device=device)
    for _ in range(STEPS):
        step(prepared, batch, bfloat16=bfloat16)
    return peak_memory_bytes() - before


def targets(lines: list[Line], shape: str) -> list[Target]:
    """The limit at a real model's shape: a method that keeps the base takes less than a third of full fine-tuning."""
    found = []
    (fft,) = (line for line in lines if line.method == DEFAULT_METHOD)
    for line in lines if shape == TARGET_SHAPE else ():
        if METHODS[line.method].keeps_base:
            what = f"{line.method} / {DEFAULT_METHOD}"
            found.append(Target(f"{what}, estimated", line.estimated / fft.estimated, 1 / 3))
            if line.measured and fft.measured:
                found.append(Target(f"{what}, measured", line.measured / fft.measured, 1 / 3))
    return found


def memory_table(lines: list[Line], *, title: str) -> Table:
    """The lines for a terminal of 80 columns; the first one's method is what the others are compared to."""
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in ("weights", "estimate", "/ fft", "peak", "/ fft", "/ estimate"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = lines[0]
    for line in lines:
        cells = [f"{line.weights / 1e6:,.0f}", f"{line.estimated / 1e6:,.0f}"]
        cells.append(f"{line.estimated / first.estimated:.3f}")
        if line.measured and first.measured:  # of a tiny model none may show
            ratios = (line.measured / first.measured, line.measured / line.estimated)
            cells += [f"{line.measured / 1e6:,.0f}", *(f"{ratio:.3f}" for ratio in ratios)]
        else:
            cells += ["-"] * 3
        table.add_row(line.method, *cells)
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement. Raises RequestError for an unknown method."""
    parser = common.parser("memory", __doc__, shape="llama-small")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"with commas between; {DEFAULT_METHOD} is always among them"
    )
    parser.add_argument("--batch-size", type=common.positive, help="sequences of a step  [the shape's]")
    parser.add_argument("--seq-length", type=common.positive, help="tokens of each  [the shape's]")
    parser.add_argument("--estimate", action="store_true", help="take no step; in bfloat16")
    arguments = parser.parse_args(words)
    methods = parse_methods(arguments.methods)
    given = {"batch_size": arguments.batch_size, "seq_length": arguments.seq_length}
    shape = dataclasses.replace(SHAPES[arguments.shape], **{name: size for name, size in given.items() if size})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = arguments.estimate or device == "cuda"
    options = {"device": device, "bfloat16": bfloat16, "threads": arguments.threads}
    lines = []
    for method in methods:
        weights, estimated = estimate(method, shape, bfloat16=bfloat16)
        measured = None if arguments.estimate else in_own_process(measure, method, shape, **options)
        lines.append(Line(method, weights, estimated, measured))
    where = "estimated" if arguments.estimate else device
    precision = "bfloat16" if bfloat16 else "float32"
    size = f"{shape.batch_size} x {shape.seq_length} tokens"
    Console().print(memory_table(lines, title=f"MB in training, {arguments.shape}, {size}, {precision}, {where}"))
    common.write_speed_record(
        arguments.out,
        "memory",
        words,
        targets=targets(lines, arguments.shape),
        shape=shape,
        device=where,
        precision=precision,
        lines=lines,
    )
