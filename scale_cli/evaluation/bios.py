"""Biography accuracy: answers to questions on people (Spurious Forgetting, arXiv 2501.13453)."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from scale_cli.core.errors import RequestError
from scale_cli.data.biographies import Question, check_people, manifest_digest, read_questions
from scale_cli.data.examples import end_of_text, tokenise_questions
from scale_cli.data.options import parse_people
from scale_cli.evaluation.evaluate import Advance, Outcome, evaluating
from scale_cli.evaluation.readings import Router, both_predictions, is_reading
from scale_cli.evaluation.subject import Subject, Target
from scale_cli.model.mixture import read
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result

DEFAULT_BATCH_SIZE = 512
"""Questions per forward pass."""


@dataclass(eq=False)
class BiographyJob:
    """A `Job` that measures biography accuracy on the questions of a gen-bios folder.

    people: "A:B", None for all. The measurements are those of `BiographyAccuracy`, with the task "bios:A:B" or
    "bios:all". exact: whether whole answers are generated too.
    """

    folder: Path
    people: str | None = None
    exact: bool = True
    spread: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raises RequestError if the folder is not a gen-bios folder or lacks these people."""
        try:
            self._chosen = None if self.people is None else parse_people(self.people)
        except ValueError as error:
            raise RequestError(f"--{error}") from error
        check_people(self.folder, self._chosen)
        self._version = manifest_digest(self.folder)[:12]

    @property
    def label(self) -> str:
        return f"bios:{self.people or 'all'}"

    def prepare(self, targets: Sequence[Target]) -> None:
        """Nothing to do: the constructor has checked the folder."""

    def done(self, result: Result, target: Target, seed: int) -> bool:
        return any((m.task_version, m.dtype) == (self._version, target.dtype) for m in result.find(self.label))

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        (outcome,) = self.run_together(subject, [subject.target], advance)
        return outcome

    def run_together(self, subject: Subject, targets: Sequence[Target], advance: Advance) -> list[Outcome]:
        """The outcome for each of several targets of the subject's checkpoint, which differ in their routers.

        First tokens of all answers are scored, in one forward pass for all routers but cosine, then whole answers.
        """
        begun = time.perf_counter()
        batch_size = subject.batch_size or DEFAULT_BATCH_SIZE
        questions = read_questions(self.folder, self._chosen)
        accuracy = BiographyAccuracy(questions, subject.tokenizer, task=self.label, batch_size=batch_size)
        routers = [subject.under(target).router for target in targets]
        readings = list(filter(is_reading, routers)) if subject.has_both and len(targets) > 1 else []
        together = iter(accuracy.first_token_by_router(subject.model, readings) if readings else ())
        total = len(targets) + 1
        advance(done=1, total=total)
        outcomes = []
        for done, (target, router) in enumerate(zip(targets, routers, strict=True), start=2):
            model = subject.under(target).model
            measurements = next(together) if readings and is_reading(router) else accuracy.first_token(model)
            measurements += accuracy.exact_match(model) if self.exact else []
            seconds = time.perf_counter() - begun
            outcomes.append(self._outcome(measurements, subject.under(target), batch_size, seconds))
            advance(done=done, total=total)
        return outcomes

    def _outcome(
        self, measurements: Sequence[Measurement], subject: Subject, batch_size: int, seconds: float
    ) -> Outcome:
        """The measurements of one reading. seconds: since the beginning of all readings."""
        routed = next((m.value for m in measurements if m.metric == "routed"), None)
        return Outcome(
            [
                replace(
                    m,
                    dtype=subject.target.dtype,
                    batch_size=batch_size,
                    seconds=seconds,
                    task_version=self._version,
                    routed=None if m.metric == "routed" else routed,
                    details={"source": str(self.folder)},
                )
                for m in measurements
            ]
        )


@dataclass(frozen=True)
class Scores:
    """The scores of one question. hard: 0 or 1. soft: a probability.

    preserved: 0 or 1 under a cosine router, the base's weight under a mixture, None without a router.
    """

    attribute: str
    hard: float
    soft: float
    preserved: float | None


def _scores(
    batch: Sequence[tuple[str, list[int], list[int]]], logits: torch.Tensor, preserved: torch.Tensor | None
) -> list[Scores]:
    """The scores of a batch of questions. logits, preserved: at the last position of each prompt, (B, 1, ...)."""
    logits = logits[:, -1].float()
    targets = torch.tensor([answer[0] for _, _, answer in batch], device=logits.device)
    hard = (logits.argmax(-1) == targets).float().tolist()
    soft = logits.softmax(-1).gather(1, targets[:, None])[:, 0].tolist()
    shares = [None] * len(batch) if preserved is None else preserved[:, -1].float().tolist()
    return [Scores(row[0], *values) for row, *values in zip(batch, hard, soft, shares, strict=True)]


@contextlib.contextmanager
def own_generation(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Replace the model's generation config, which would fill in what `config` leaves open, inside the block."""
    before, model.generation_config = getattr(model, "generation_config", None), config
    try:
        yield
    finally:
        model.generation_config = before


class BiographyAccuracy:
    """Questions on people, tokenised once, to be scored with a model any number of times."""

    def __init__(
        self, questions: Sequence[Question], tokenizer: Any, *, task: str = "bios", batch_size: int = DEFAULT_BATCH_SIZE
    ) -> None:
        """task: task of the measurements. batch_size: questions per forward pass; only prompts of equal length share a
        batch, so there is no padding."""
        self.task = task
        self.attributes = list(dict.fromkeys(question.attribute for question in questions))
        self.end = end_of_text(tokenizer)
        by_length: dict[int, list[tuple[str, list[int], list[int]]]] = defaultdict(list)
        pairs = tokenise_questions(questions, tokenizer)
        for question, (prompt, answer) in zip(questions, pairs, strict=True):
            by_length[len(prompt)].append((question.attribute, prompt, answer))
        self._batches = [
            group[start : start + batch_size]
            for _, group in sorted(by_length.items())
            for start in range(0, len(group), batch_size)
        ]

    def first_token(self, model: Any) -> list[Measurement]:
        """Hard and soft first-token accuracy, teacher forced.

        hard: whether the arg-max is the answer's first token. soft: that token's probability. Each is given as the mean
        over all questions, then by attribute. A router adds `routed`, the share of first tokens of answers that took
        the preserve branch.
        """
        scores: list[Scores] = []
        with evaluating(model):
            for batch, prompts in self._prompts(model):
                output = model(input_ids=prompts, logits_to_keep=1, use_cache=False)
                scores += _scores(batch, output.logits, getattr(output, "preserved", None))
        return self._accuracies(scores)

    def first_token_by_router(self, model: Any, routers: Sequence[Router]) -> list[list[Measurement]]:
        """`first_token` under each router, from one forward pass of all prompts.

        model: with two predictions, a widened model or a `Pair`. routers: those of `is_reading`.
        """
        scores: list[list[Scores]] = [[] for _ in routers]
        with evaluating(model), both_predictions(model):
            for batch, prompts in self._prompts(model):
                output = model(input_ids=prompts, use_cache=False, output_base_logits=True)
                for router, of_router in zip(routers, scores, strict=True):
                    of_router += _scores(batch, *read(router, output.base_logits, output.logits, prompts, kept=1))
        return [self._accuracies(of_router) for of_router in scores]

    def _accuracies(self, scores: Sequence[Scores]) -> list[Measurement]:
        metrics = [metric for kind in ("hard", "soft") for metric in self._by_attribute(kind, scores)]
        routed = [score.preserved for score in scores if score.preserved is not None]
        return metrics + ([self._mean("routed", routed)] if routed else [])

    def exact_match(self, model: Any) -> list[Measurement]:
        """Metric `exact`: the share of questions for which greedy generation gives the whole answer, end-of-text
        included; over all questions, then by attribute. The checkpoint's own generation config is not used, as its
        penalties would make the generation another one than greedy."""
        greedy = GenerationConfig(do_sample=False, eos_token_id=self.end, pad_token_id=self.end)
        matches: list[tuple[str, float]] = []
        with evaluating(model):
            for batch, prompts in self._prompts(model):
                longest = max(len(answer) for _, _, answer in batch)
                with own_generation(model, greedy):
                    generated = model.generate(
                        input_ids=prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=longest
                    )[:, prompts.shape[1] :].tolist()
                matches += [
                    (attribute, float(tokens[: len(answer)] == answer))
                    for (attribute, _, answer), tokens in zip(batch, generated, strict=True)
                ]
        by_attribute = [
            self._mean(f"exact/{name}", [match for attribute, match in matches if attribute == name])
            for name in self.attributes
        ]
        return [self._mean("exact", [match for _, match in matches]), *by_attribute]

    def _prompts(self, model: Any) -> Iterator[tuple[list[tuple[str, list[int], list[int]]], torch.Tensor]]:
        """Batches, and their prompts (batch, length) on the model's device."""
        device = next(model.parameters()).device
        for batch in self._batches:
            yield batch, torch.tensor([prompt for _, prompt, _ in batch], device=device)

    def _by_attribute(self, kind: str, scores: Sequence[Scores]) -> list[Measurement]:
        by_attribute = [
            self._mean(f"{kind}/{name}", [getattr(score, kind) for score in scores if score.attribute == name])
            for name in self.attributes
        ]
        return [self._mean(kind, [getattr(score, kind) for score in scores]), *by_attribute]

    def _mean(self, metric: str, values: Sequence[float]) -> Measurement:
        """The mean with its standard error, s / sqrt(n) with the sample's deviation s; no error for a single value."""
        count = len(values)
        mean = math.fsum(values) / count
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1) if count > 1 else None
        stderr = None if variance is None else math.sqrt(variance / count)
        return Measurement(self.task, metric, mean, stderr, count, higher_is_better=True)
