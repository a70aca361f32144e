"""Peak memory of training with every method, measured and estimated."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, in_own_process
from benchmarks.speed.shapes import SHAPES, Shape, ShapeName
from benchmarks.speed.train_step import PAPER_METHODS, Methods, build, parse_methods, prepare, step, tokens
from scale_cli.core.records import forget_peak_memory, peak_memory_bytes
from scale_cli.methods import DEFAULT_METHOD, METHODS
from scale_cli.methods.step import halve_frozen
from scale_cli.planning.memory import step_memory

STEPS = 3
"""AdamW's moments exist from the second step on."""
TARGET_SHAPE = "llama-1b"
"""The shape that the target is for."""


def estimate(method: str, shape: Shape, *, bfloat16: bool) -> tuple[int, int]:
    """The bytes of a method's weights in training, and the estimated peak bytes of a training step."""
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
    """The peak bytes of `STEPS` training steps in this process, above what it held before."""
    torch.set_num_threads(threads)
    torch.zeros(1, device=device)  # allocates the device's own context before the peak is reset
    forget_peak_memory()
    before = peak_memory_bytes()
    prepared = prepare(method, shape, device=device, bfloat16=bfloat16)
    batch = tokens(shape, device=device)
    for _ in range(STEPS):
        step(prepared, batch, bfloat16=bfloat16)
    return peak_memory_bytes() - before


def targets(lines: list[dict[str, Any]], shape: str) -> list[Target]:
    """At the shape of a real model, a method that keeps the base takes at most a third of full fine-tuning's memory."""
    by_method = {line["method"]: line for line in lines}
    if shape != TARGET_SHAPE:
        return []
    fft = by_method[DEFAULT_METHOD]
    return [
        Target(f"{method} / {DEFAULT_METHOD}, {name}", line[name] / fft[name], 1 / 3)
        for method, line in by_method.items()
        for name in ("estimated", "measured")
        if METHODS[method].keeps_base and line[name] and fft[name]
    ]


def main(
    shape: ShapeName = "llama-small",
    methods: Methods = PAPER_METHODS,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences per step.  [the shape's]")] = None,
    seq_length: Annotated[int | None, typer.Option(min=1, help="Tokens per sequence.  [the shape's]")] = None,
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Take no steps; estimate in bfloat16.")] = False,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Measure the peak memory of training with every method.

    Every method takes a few training steps in a new process, in float32, or in bfloat16 on a GPU. The peak includes
    weights, gradients and AdamW's moments, and excludes what the process held before. It is compared with full
    fine-tuning's and with the estimate of `scale plan`, which is computed from tensors without values. RAM is counted
    in pages, so it includes memory that the allocator holds back; CUDA counts tensors, as the estimate does.

    --estimate takes no steps: for a shape that does not fit this machine, in the dtypes of `scale train` on a GPU.
    """
    size = SHAPES[shape]
    batch_size, seq_length = batch_size or size.batch_size, seq_length or size.seq_length
    size = dataclasses.replace(size, batch_size=batch_size, seq_length=seq_length)
    device = frame.device()
    bfloat16 = estimate_only or device == "cuda"
    lines = []
    for method in parse_methods(methods):
        weights, estimated = estimate(method, size, bfloat16=bfloat16)
        options = {"device": device, "bfloat16": bfloat16, "threads": threads}
        measured = None if estimate_only else in_own_process(measure, method, size, **options)
        lines.append({"method": method, "weights": weights, "estimated": estimated, "measured": measured})
    source, precision = "estimated" if estimate_only else device, "bfloat16" if bfloat16 else "float32"
    title = f"MB in training, {shape}, {size.batch_size} x {size.seq_length} tokens, {precision}, {source}"
    return Result(
        [memory_table(lines, title=title)],
        {
            "shape": size,
            "device": source,
            "precision": precision,
            "targets": [target.record for target in targets(lines, shape)],
            "lines": lines,
        },
    )


def memory_table(lines: list[dict[str, Any]], *, title: str) -> Table:
    """The methods' memory in MB, and ratios to the first method's and to the estimate."""
    import pandas as pd

    printed = pd.DataFrame(lines).set_index("method").astype(float).replace(0, float("nan"))  # tiny models: 0 bytes
    estimate_ratio, ratio = (printed[name] / printed[name].iloc[0] for name in ("estimated", "measured"))
    over_estimate = printed.measured / printed.estimated
    columns = "method weights estimated estimate_ratio measured ratio over_estimate"
    headings = {"estimated": "estimate", "estimate_ratio": "/ fft", "measured": "peak", "ratio": "/ fft"}
    printed = (printed / 1e6).assign(estimate_ratio=estimate_ratio, ratio=ratio, over_estimate=over_estimate)
    return frame.table(printed.reset_index(), columns, title=title, headings=headings | {"over_estimate": "/ estimate"})
