"""Measuring any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from scale_cli.errors import RequestError
from scale_cli.evaluation.bios import BiographyAccuracy
from scale_cli.records import Metric
from scale_cli.training.bios import check_people, read_questions
from scale_cli.training.checkpoints import describe, load_model, load_tokenizer
from scale_cli.training.recipe import parse_people


def evaluate_bios(
    sources: Sequence[str],
    bios: Path,
    people: str | None,
    *,
    batch_size: int = 512,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[Metric]]:
    """Biography accuracy of checkpoints: hard, soft and exact, the means first, then by attribute.

    sources: checkpoints of any kind. bios: a gen-bios folder. people: "A:B", None for all.
    batch_size: questions a forward pass. advance: called after each checkpoint.
    Returns the metrics by source. Raises RequestError for what is missing or of the wrong kind, before a model loads.
    """
    import torch

    if batch_size < 1:
        raise RequestError(f"--batch-size {batch_size}: at least 1")
    try:
        chosen = None if people is None else parse_people(people)
    except ValueError as error:
        raise RequestError(f"--{error}") from error
    check_people(bios, chosen)
    checkpoints = [describe(source) for source in sources]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results = {}
    for checkpoint in checkpoints:
        accuracy = BiographyAccuracy(read_questions(bios, chosen), load_tokenizer(checkpoint), batch_size=batch_size)
        model = load_model(checkpoint).to(device)
        results[checkpoint.source] = accuracy.first_token(model) + accuracy.exact_match(model)
        advance()
    return results
