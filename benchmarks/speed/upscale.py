"""Seconds and memory of upscaling a checkpoint, against copying its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.table import Table

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import clocked, in_own_process
from benchmarks.speed.shapes import SHAPES, Shape, ShapeName, base_config
from scale_cli.cli.output import say
from scale_cli.core.files import new_folder
from scale_cli.core.records import peak_memory_bytes

COPY: Final = "copy"
WIDTH: Final = "width"
DEPTH: Final = "depth"
SOLVER_COLUMNS = "name columns directions full_cpu_seconds randomized_cpu_seconds energy_kept"
SOLVER_HEADINGS = {
    "name": "map",
    "full_cpu_seconds": "full",
    "randomized_cpu_seconds": "randomized",
    "energy_kept": "energy kept",
}


@dataclass(frozen=True)
class Run:
    """One copy or upscaling.

    seconds, cpu_seconds: wall and CPU seconds (user and system, all threads) by stage. The stages of an upscaling are
    those of `scale_cli.surgery.UpscaleResult.seconds`; a plain copy has the stage "copy".
    total_seconds, total_cpu_seconds: of the whole call.
    peak_bytes: peak memory of the process before the proof ("write") and with it ("verify").
    """

    kind: str
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    total_seconds: float
    total_cpu_seconds: float
    peak_bytes: dict[str, int]


def make_base(shape: Shape, folder: Path) -> None:
    """Write a model of this shape with random bfloat16 weights, one tensor at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    from scale_cli.checkpoints.storage import ShardWriter, write_index

    config = base_config(shape, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    generator = torch.Generator().manual_seed(0)
    with new_folder(folder) as new:
        config.save_pretrained(new)
        writer = ShardWriter(new, "model")
        for name, parameter in model.named_parameters():
            values = torch.ones(parameter.shape, dtype=torch.bfloat16)
            writer.add(name, values.normal_(0, 0.02, generator=generator) if parameter.ndim == 2 else values)
        writer.flush()
        write_index(new, writer.weight_map)


def copy_folder(base: Path, out: Path) -> Run:
    """Copy a folder after the imports of an upscaling.

    Without the imports the copy would reuse memory pages of the file deleted before. An upscaling starts later, when a
    virtual machine has returned these pages to its host, and would need four times the seconds for the same bytes.
    """
    import scale_cli.surgery  # noqa: F401

    _, cpu, wall = clocked(lambda: shutil.copytree(base, out))
    return Run(COPY, {"copy": wall}, {"copy": cpu}, wall, cpu, {"write": peak_memory_bytes()})


def upscale(kind: Literal["width", "depth"], shape: Shape, base: Path, out: Path, *, verify: bool, threads: int) -> Run:
    """Upscale by "width" or "depth"."""
    import torch
    from transformers.utils import logging

    import scale_cli.surgery

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    sizes: dict[str, Any] = {"layers": shape.layers}
    if kind == WIDTH:
        expansion = shape.expansion
        sizes = {"hidden": expansion["hidden_size"], "heads": expansion["num_attention_heads"]}
        sizes["ffn"] = expansion["intermediate_size"]
    result, cpu, wall = clocked(lambda: scale_cli.surgery.upscale(str(base), out, by=kind, verify=verify, **sizes))
    return Run(kind, result.seconds, result.cpu_seconds, wall, cpu, result.peak_bytes)


def decompositions(shape: Shape, base: Path, *, threads: int) -> list[dict[str, Any]]:
    """Seconds of both SVD solvers and the energy that the randomised one keeps, for the embedding and one layer's maps.

    Maps of one size share a row. name: the map that is measured. maps: the number of such maps in the base. rows,
    columns: of the matrix whose right-singular directions are computed. solver: the one that "auto" chooses. The
    randomised solver is measured only if it is that one. energy_kept: the sum of its squared singular values over that
    of the full solver's.
    """
    import torch

    from scale_cli.model.families import ROLES, LayerShape
    from scale_cli.surgery.directions import leading_right, solver_for
    from scale_cli.surgery.source import open_base

    torch.set_num_threads(threads)
    opened = open_base(str(base))
    added = LayerShape(**shape.expansion, head_dim=opened.shape.head_dim)
    tensors = {"embedding": (opened.embedding_name, added.hidden_size)}
    for role in ROLES:
        if path := opened.family.path(role):
            tensors[role] = (opened.layer_name(0, path, "weight"), added.features(role)[0])
    lines: dict[tuple[int, ...], dict[str, Any]] = {}
    for name, (tensor, count) in tensors.items():
        matrix: Any = opened.tensors[tensor]
        if name != "embedding":  # which is read some rows at a time
            weight = matrix.read()
            matrix = weight if len(weight) >= weight.shape[1] else weight.T
        rows, columns = matrix.shape
        maps = 1 if name == "embedding" else opened.num_layers
        if (rows, columns, count) in lines:
            lines[rows, columns, count]["maps"] += maps
            continue
        line = {"name": name, "maps": maps, "rows": rows, "columns": columns, "directions": count}
        line |= {"solver": solver_for(columns, count)}
        energy = {}
        for solver in ("full", "randomized"):
            cpu, wall = None, None
            if solver in ("full", line["solver"]):
                (values, _), cpu, wall = clocked(partial(leading_right, matrix, count, solver))
                energy[solver] = values.double().square().sum().item()
            line |= {f"{solver}_cpu_seconds": cpu, f"{solver}_wall_seconds": wall}
        line["energy_kept"] = energy["randomized"] / energy["full"] if "randomized" in energy else None
        lines[rows, columns, count] = line
    return list(lines.values())


def measure(
    shape: Shape, work: Path, *, repetitions: int, threads: int
) -> tuple[list[Run], list[Run], list[dict[str, Any]]]:
    """The runs without the proof, in their order, one run of each kind with the proof, and `decompositions`.

    work: a folder that is kept. Its subfolder base is the checkpoint, which is written if it is missing. A first copy
    is not counted; it brings the base into the page cache.
    """
    base, out = work / "base", work / "out"
    if not base.exists():
        say("making the base")
        in_own_process(make_base, shape, base)

    def run(function: Any, *arguments: Any, **keywords: Any) -> Run:
        os.sync()
        try:
            finished: Run = in_own_process(function, *arguments, base, out, **keywords)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        say(f"{finished.kind}: {finished.total_seconds:.1f} s")
        return finished

    run(copy_folder)
    plain = []
    for _ in range(repetitions):
        plain.append(run(copy_folder))
        plain += [run(upscale, kind, shape, verify=False, threads=threads) for kind in (WIDTH, DEPTH)]
    proved = [run(upscale, kind, shape, verify=True, threads=threads) for kind in (WIDTH, DEPTH)]
    return plain, proved, in_own_process(decompositions, shape, base, threads=threads)


def summarise(plain: Sequence[Run], proved: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per kind, the plain copy first: medians, except peak_bytes, which is the largest.

    A stage that a kind lacks is None. over_copy, cpu_over_copy: wall and CPU seconds without the SVD's, over those of
    the plain copy. proof_seconds, proof_peak_bytes: of the run with the proof.
    """
    proofs = {run.kind: run for run in proved}
    lines: list[dict[str, Any]] = []
    for kind in dict.fromkeys(run.kind for run in plain):
        runs, proof = [run for run in plain if run.kind == kind], proofs.get(kind)
        wall = {stage: statistics.median(run.seconds[stage] for run in runs) for stage in runs[0].seconds}
        total = statistics.median(run.total_seconds for run in runs)
        total_cpu = statistics.median(run.total_cpu_seconds for run in runs)
        svd_cpu = statistics.median(run.cpu_seconds.get("svd", 0.0) for run in runs)
        if kind == COPY:
            copy, copy_cpu = total, total_cpu
        lines.append(
            {
                "kind": kind,
                "copy_seconds": wall["copy"],
                "svd_seconds": wall.get("svd"),
                "write_seconds": wall.get("write"),
                "total_seconds": total,
                "over_copy": (total - wall.get("svd", 0.0)) / copy,
                "cpu_over_copy": (total_cpu - svd_cpu) / copy_cpu,
                "peak_bytes": max(run.peak_bytes["write"] for run in runs),
                "proof_seconds": proof and proof.seconds["verify"],
                "proof_peak_bytes": proof and proof.peak_bytes["verify"],
            }
        )
    return lines


def summary_table(lines: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """The summary with one column per kind."""
    printed = Table("", title=title, title_justify="left")
    for line in lines:
        printed.add_column(line["kind"], justify="right", no_wrap=True)
    for heading, name, form, unit in (
        ("seconds to copy", "copy_seconds", ".1f", 1),
        ("seconds of the SVD", "svd_seconds", ".1f", 1),
        ("seconds to write the expansion", "write_seconds", ".1f", 1),
        ("seconds in total", "total_seconds", ".1f", 1),
        ("without the SVD / copy, wall", "over_copy", ".2f", 1),
        ("without the SVD / copy, CPU", "cpu_over_copy", ".2f", 1),
        ("peak MB", "peak_bytes", ".0f", 1e6),
        ("seconds of the proof", "proof_seconds", ".1f", 1),
        ("peak MB with the proof", "proof_peak_bytes", ".0f", 1e6),
    ):
        values = (line[name] for line in lines)
        printed.add_row(heading, *("-" if value is None else format(value / unit, form) for value in values))
    return printed


def main(
    shape: ShapeName = "llama-1b",
    repetitions: frame.Repetitions = 3,
    work: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoints, whose base is kept.  [a temporary one]")
    ] = None,
    threads: frame.Threads = frame.CORES,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of the base.  [the shape's]")] = None,
) -> Result:
    """Time upscaling a checkpoint, against copying its folder.

    A checkpoint of the shape with random bfloat16 weights is written once. Then every repetition copies its folder
    (shutil.copytree), widens it and deepens it, each in a new process that times itself; imports are not timed. The
    proof is left out and measured once, separately. The base stays in the page cache, as after a download, and written
    files are flushed to the disk between two measurements: the work is compared, not the disk.

    Printed are medians: wall seconds by stage, peak resident memory (torch alone takes about 400 MB of it, in the plain
    copy too), and the seconds without the SVD's as a multiple of the plain copy's, by wall and by CPU time. A second
    table compares the SVD's two solvers on the embedding and the maps of one layer.
    """
    size, name = SHAPES[shape], str(shape)
    if layers is not None:
        size = dataclasses.replace(size, config=size.config | {"num_hidden_layers": layers}, layers=layers + 1)
        name += f", {layers} layers"
    with contextlib.ExitStack() as stack:
        parent = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = parent / (shape if layers is None else f"{shape}-{layers}")
        plain, proved, solvers = measure(size, folder, repetitions=repetitions, threads=threads)
    lines = summarise(plain, proved)
    title = f"Upscaling {name}, bfloat16, medians of {repetitions}, {threads} threads"
    return Result(
        [
            summary_table(lines, title=title),
            frame.table(solvers, SOLVER_COLUMNS, title="The SVD's solvers, CPU seconds", headings=SOLVER_HEADINGS),
        ],
        {
            "shape": size,
            "threads": threads,
            "repetitions": repetitions,
            "targets": [],
            "lines": lines,
            "decompositions": solvers,
            "runs": [*plain, *proved],
        },
    )
