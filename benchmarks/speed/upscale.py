"""Upscaling against copying the folder: `python -m benchmarks.speed upscale`.

A checkpoint of the shape with random weights in bfloat16 is made once. Then every repetition copies its folder
(`shutil.copytree`), widens and deepens it in turn, so that a busy machine slows all alike, each in a process of its own
that says what it took; imports are not counted. The proof is left out and measured apart, once. The base lies in the
page cache all the time, as after a download, and what was written goes to the disk between two measurements and not in
one: what is compared is the work, not the disk.

Of each, the medians: seconds of the wall's clock by stage, peak resident memory (torch alone takes some 400 MB of it,
of the plain copy's too), and what is more than the SVD as a multiple of the plain copy, by the wall's clock and by the
processor's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import in_own_process
from benchmarks.speed.shapes import SHAPES, Shape, base_config
from scale_cli.core.files import new_folder
from scale_cli.core.records import peak_memory_bytes

COPY: Final = "copy"
WIDTH: Final = "width"
DEPTH: Final = "depth"


@dataclass(frozen=True)
class Run:
    """One measurement.

    seconds, cpu_seconds: by stage, of the wall's clock and of the processor (user and system, all threads); the stages
    of an upscaling are `scale_cli.surgery.UpscaleResult.seconds`', a plain copy has "copy".
    total_seconds, total_cpu_seconds: the same of the whole call.
    peak_bytes: the most memory that the process held before the proof ("write") and with it ("verify").
    """

    kind: str
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    total_seconds: float
    total_cpu_seconds: float
    peak_bytes: dict[str, int]


@dataclass(frozen=True)
class Summary:
    """The medians of a kind's runs, and its proof; None where it has no such stage.

    over_copy, cpu_over_copy: the seconds but the SVD's over those of the plain copy.
    proof_seconds, proof_peak_bytes: of the run with the proof.
    """

    kind: str
    copy_seconds: float
    svd_seconds: float | None
    write_seconds: float | None
    total_seconds: float
    over_copy: float
    cpu_over_copy: float
    peak_bytes: int
    proof_seconds: float | None
    proof_peak_bytes: int | None


def make_base(shape: Shape, folder: Path) -> None:
    """Write a model of this shape with random bfloat16 weights, a tensor at a time."""
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
    """Copy the folder as any program would, after the imports of an upscaling.

    Without them it would begin while the pages of the file deleted before are still at hand, and an upscaling, later,
    finds them given back to the machine's host: four times the seconds for the same bytes, on a virtual machine.
    """
    import scale_cli.surgery  # noqa: F401

    _, cpu, wall = common.clocked(lambda: shutil.copytree(base, out))
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
    result, cpu, wall = common.clocked(
        lambda: scale_cli.surgery.upscale(str(base), out, by=kind, verify=verify, **sizes)
    )
    return Run(kind, result.seconds, result.cpu_seconds, wall, cpu, result.peak_bytes)


def measure(
    shape: Shape, work: Path, *, repetitions: int, threads: int, say: Callable[[str], None] = lambda line: None
) -> tuple[list[Run], list[Run]]:
    """The runs without the proof, repetition by repetition, and those with it, in the folder `work`, which is kept.

    The base is `work`/base, made where it is not there. A first copy is not counted: it brings it into the page cache.
    """
    base, out = work / "base", work / "out"
    if not base.exists():
        say("making the base")
        in_own_process(make_base, shape, base)

    def run(function: Callable[..., Run], *arguments: Any, **keywords: Any) -> Run:
        os.sync()
        try:
            made: Run = in_own_process(function, *arguments, base, out, **keywords)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        say(f"{made.kind}: {made.total_seconds:.1f} s")
        return made

    run(copy_folder)
    plain = []
    for _ in range(repetitions):
        plain.append(run(copy_folder))
        plain += [run(upscale, kind, shape, verify=False, threads=threads) for kind in (WIDTH, DEPTH)]
    return plain, [run(upscale, kind, shape, verify=True, threads=threads) for kind in (WIDTH, DEPTH)]


def summarise(plain: list[Run], proved: list[Run]) -> list[Summary]:
    """One line a kind, the plain copy first."""
    of_copy = [run for run in plain if run.kind == COPY]
    copy, copy_cpu = _median(of_copy, lambda r: r.total_seconds), _median(of_copy, lambda r: r.total_cpu_seconds)
    proofs = {run.kind: run for run in proved}
    lines = []
    for kind in dict.fromkeys(run.kind for run in plain):
        runs, proof = [run for run in plain if run.kind == kind], proofs.get(kind)
        svd, svd_cpu = (_median(runs, lambda r: r.seconds.get("svd", 0.0)), _median(runs, _svd_cpu))
        total, total_cpu = _median(runs, lambda r: r.total_seconds), _median(runs, lambda r: r.total_cpu_seconds)
        lines.append(
            Summary(
                kind=kind,
                copy_seconds=_median(runs, lambda r: r.seconds["copy"]),
                svd_seconds=svd if "svd" in runs[0].seconds else None,
                write_seconds=_median(runs, lambda r: r.seconds["write"]) if "write" in runs[0].seconds else None,
                total_seconds=total,
                over_copy=(total - svd) / copy,
                cpu_over_copy=(total_cpu - svd_cpu) / copy_cpu,
                peak_bytes=max(run.peak_bytes["write"] for run in runs),
                proof_seconds=proof.seconds["verify"] if proof else None,
                proof_peak_bytes=proof.peak_bytes["verify"] if proof else None,
            )
        )
    return lines


def _svd_cpu(run: Run) -> float:
    return run.cpu_seconds.get("svd", 0.0)


def _median(runs: list[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(value(run) for run in runs)


def summary_table(lines: list[Summary], *, title: str) -> Table:
    """The summary for a terminal of 80 columns, a column a kind."""
    table = Table("", title=title, title_justify="left")
    for line in lines:
        table.add_column(line.kind, justify="right", no_wrap=True)
    for heading, value, form in (
        ("seconds to copy", lambda line: line.copy_seconds, ".1f"),
        ("seconds of the svd", lambda line: line.svd_seconds, ".1f"),
        ("seconds to write what is added", lambda line: line.write_seconds, ".1f"),
        ("seconds in all", lambda line: line.total_seconds, ".1f"),
        ("all but the svd / copy, wall", lambda line: line.over_copy, ".2f"),
        ("all but the svd / copy, CPU", lambda line: line.cpu_over_copy, ".2f"),
        ("peak MB", lambda line: line.peak_bytes / 1e6, ".0f"),
        ("seconds of the proof", lambda line: line.proof_seconds, ".1f"),
        ("peak MB with the proof", lambda line: line.proof_peak_bytes and line.proof_peak_bytes / 1e6, ".0f"),
    ):
        table.add_row(heading, *(_cell(value(line), form) for line in lines))
    return table


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(words: list[str]) -> None:
    """The command line of this measurement."""
    parser = common.parser("upscale", __doc__, shape="llama-1b", repetitions=3)
    parser.add_argument("--work", type=Path, help="folder for the checkpoints, whose base is kept  [a temporary one]")
    arguments = parser.parse_args(words)
    shape = SHAPES[arguments.shape]
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain, proved = measure(
            shape,
            work / arguments.shape,
            repetitions=arguments.repetitions,
            threads=arguments.threads,
            say=console.print,
        )
    lines = summarise(plain, proved)
    title = f"Upscaling {arguments.shape}, bfloat16, medians of {arguments.repetitions}, {arguments.threads} threads"
    Console().print(summary_table(lines, title=title))
    common.write_speed_record(
        arguments.out,
        "upscale",
        words,
        shape=shape,
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        lines=lines,
        runs=[*plain, *proved],
    )
