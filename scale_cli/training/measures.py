"""The measurements during training: accuracy on people, and perplexity of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scale_cli.data.biographies import read_questions
from scale_cli.data.corpora import Corpus, read_corpora
from scale_cli.evaluation.bios import BiographyAccuracy
from scale_cli.evaluation.perplexity import TextPerplexity
from scale_cli.results.measurement import Measurement
from scale_cli.training.recipe import TrainRecipe, parse_eval_people
from scale_cli.training.request import eval_folder


def corpora_of(recipe: TrainRecipe, say: Callable[[str], None]) -> list[Corpus]:
    """The texts whose perplexity is measured during training."""
    options = {"option": "--eval-text", "limit_option": "--eval-documents"}
    return read_corpora(recipe.eval_text, limit=recipe.eval_documents, say=say, **options)


def measures_of(
    recipe: TrainRecipe, tokenizer: Any, corpora: Sequence[Corpus], length: int
) -> list[Callable[[Any, bool], list[Measurement]]]:
    """The measurements during training: functions (model, whether it is the last measurement) -> measurements.

    length: tokens per window of perplexity. It uses the training's batch size, so it needs no more memory than a step.
    """
    measures: list[Callable[[Any, bool], list[Measurement]]] = []
    for name, people in map(parse_eval_people, recipe.eval_people):
        questions = read_questions(eval_folder(recipe), people)
        measures.append(_accuracy(BiographyAccuracy(questions, tokenizer, task=name)))
    for corpus in corpora:
        text = TextPerplexity(
            corpus, tokenizer, length=length, stride=length, packing="concat", lead="bos" if recipe.bos else "auto"
        )
        measures.append(_perplexity(text, recipe.batch_size))
    return measures


def _accuracy(accuracy: BiographyAccuracy) -> Callable[[Any, bool], list[Measurement]]:
    return lambda model, last: accuracy.first_token(model) + (accuracy.exact_match(model) if last else [])


def _perplexity(text: TextPerplexity, rows: int) -> Callable[[Any, bool], list[Measurement]]:
    return lambda model, last: text.metrics(model, rows)
