"""What a checkpoint writes after a prompt under several routers: `python -m benchmarks.continuations RUN --prompt ...`.

A mixture follows the text: it should continue an old text as the base does, and a new one as the widened model does.
`scale generate` prints the same; this script writes a record.
"""

from __future__ import annotations

import sys
from typing import Annotated

import torch
import typer
from rich.table import Table

from benchmarks.command import Result, run
from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.checkpoints.load import companions_fingerprint
from scale_cli.evaluation.generation import Sampling, generate, prepare
from scale_cli.evaluation.subject import targets

CPU = torch.device("cpu")


def main(
    checkpoint: Annotated[str, typer.Argument(help="A trained checkpoint.")],
    prompt: Annotated[list[str], typer.Option(help="Beginning of a text; may be repeated.")],
    router: Annotated[list[str], typer.Option(help="As in scale eval --router; may be repeated.")],
    base: Annotated[str | None, typer.Option(help="As in scale eval --base.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each continuation.")] = 24,
) -> Result:
    """Continue prompts greedily under several routers."""
    sampling = Sampling(max_new_tokens=new_tokens)
    quiet_libraries()
    described = targets([checkpoint], routers=router, base=base, dtype="float32", device=CPU)
    results = list(generate(described, prepare(described, prompt, sampling), sampling, device=CPU))
    table = Table("prompt", "router", "continuation", "base's weight, first and last", show_lines=True)
    rows = []
    for number, text in enumerate(prompt):
        for result in results[number :: len(prompt)]:
            shown = "-" if not result.weights else f"{result.weights[0]:.3f}, {result.weights[-1]:.3f}"
            table.add_row(text, result.router, result.text.replace("\n", " / "), shown)
            rows.append({"prompt": text, "router": result.router, "text": result.text, "weights": result.weights})
    fields = {"fingerprint": described[0].fingerprint, "companions": companions_fingerprint(described[0].checkpoint)}
    return Result([table], {"rows": rows, **fields}, width=140)


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.continuations", sys.argv[1:]))
