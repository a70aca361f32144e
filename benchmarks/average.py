"""The average of two models' predictions on biographies: `python -m benchmarks.average BASE TRAINED --bios DIR ...`.

A SCALE model holds both predictions in one forward pass (`scale eval --router mixture:1:WEIGHT`). Any other trained
model and its base give the same average with two passes, which shows how much of a mixture's result is the average's.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks.command import Result, run
from scale_cli.checkpoints.load import check, describe, fingerprint, load_model, load_tokenizer
from scale_cli.cli.output import quiet_libraries
from scale_cli.core.errors import RequestError
from scale_cli.data.biographies import check_people, read_questions
from scale_cli.data.options import parse_people
from scale_cli.evaluation.bios import BiographyAccuracy


@dataclass(frozen=True)
class Row:
    """Hard first-token accuracy of the average on some people. weight: the base's. stderr: over questions."""

    people: str
    weight: float
    hard: float
    stderr: float
    questions: int


class Average(torch.nn.Module):
    """Two models as one, whose logits are the logarithm of their average prediction. weight: the first model's."""

    def __init__(self, base: Any, trained: Any, weight: float) -> None:
        super().__init__()
        self.base, self.trained = base, trained
        self.log_weights = [-math.inf if w == 0 else math.log(w) for w in (weight, 1 - weight)]
        self.config = trained.config

    def forward(self, **arguments: Any) -> Any:
        """The arguments are those of the models."""
        both = [model(**arguments).logits.float().log_softmax(-1) for model in (self.base, self.trained)]
        first, second = (logs + weight for logs, weight in zip(both, self.log_weights, strict=True))
        return SimpleNamespace(logits=torch.logaddexp(first, second))


def measure(base: Any, trained: Any, tokenizer: Any, bios: Path, people: str, weights: Sequence[float]) -> list[Row]:
    """One row per weight."""
    accuracy = BiographyAccuracy(read_questions(bios, parse_people(people)), tokenizer)
    rows = []
    for weight in weights:
        metrics = accuracy.first_token(Average(base, trained, weight))
        (hard,) = (metric for metric in metrics if metric.metric == "hard")
        rows.append(Row(people, weight, hard.value, hard.stderr or 0.0, hard.samples))
    return rows


def main(
    base: Annotated[str, typer.Argument(help="Checkpoint of the base.")],
    trained: Annotated[str, typer.Argument(help="Checkpoint trained from it.")],
    bios: Annotated[Path, typer.Option(help="A gen-bios folder.")],
    people: Annotated[list[str], typer.Option(help="A:B, the people A to B-1; may be repeated.")],
    weight: Annotated[list[float], typer.Option(help="Weight of the base, from 0 to 1; may be repeated.")],
) -> Result:
    """Measure the average of a base's and a trained model's predictions on questions about people."""
    for value in weight:
        if not 0 <= value <= 1:
            raise RequestError(f"--weight {value}: from 0 to 1")
    for text in people:
        check_people(bios, parse_people(text))
    quiet_libraries()
    described = [describe(base), describe(trained)]
    for checkpoint in described:
        check(checkpoint)
    first, second = (load_model(checkpoint) for checkpoint in described)
    tokenizer = load_tokenizer(described[0])
    rows = [row for text in people for row in measure(first, second, tokenizer, bios, text, weight)]
    table = Table("people", "weight of the base", "hard", title="Average of two predictions")
    for row in rows:
        table.add_row(row.people, f"{row.weight:g}", f"{100 * row.hard:.1f} ± {100 * row.stderr:.1f}")
    return Result([table], {"rows": rows, "fingerprints": [fingerprint(each) for each in described]})


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.average", sys.argv[1:]))
