"""Perplexity of texts, per token, and in bits per byte and character, which do not depend on the tokenizer."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scale_cli.checkpoints.load import config_of, load_tokenizer
from scale_cli.data.corpora import Corpus
from scale_cli.data.options import Lead, Packing
from scale_cli.data.windows import (
    WindowOptions,
    Windows,
    lead_token,
    ratio,
    ratio_scores,
    rows_for,
    sum_over_processes,
)
from scale_cli.evaluation.evaluate import Advance, Outcome, evaluating
from scale_cli.evaluation.readings import Sums, is_reading, most_lost_bound, sums_by_router
from scale_cli.evaluation.subject import Subject, Target
from scale_cli.results.measurement import Items, Measurement
from scale_cli.results.result import Result


@dataclass(eq=False)
class PerplexityJob:
    """A `Job` that measures the perplexity of a corpus."""

    corpus: Corpus
    options: WindowOptions
    spread: bool = field(default=True, init=False)

    @property
    def label(self) -> str:
        return f"perplexity:{self.corpus.name}"

    @property
    def tasks(self) -> list[str]:
        """The tasks of its measurements in results."""
        return [self.label]

    def prepare(self, targets: Sequence[Target]) -> None:
        """Raise RequestError if windows are too long for a checkpoint or its tokenizer has no token to begin a text."""
        for target in targets:
            self.options.resolve(config_of(target.checkpoint))
            lead_token(load_tokenizer(target.checkpoint), self.options.packing, self.options.lead)

    def done(self, result: Result, target: Target, seed: int) -> bool:
        key = (self.version(config_of(target.checkpoint)), self.corpus.limit, target.dtype)
        return any((m.task_version, m.limit, m.dtype) == key for m in result.find(self.label))

    def version(self, config: Any) -> str:
        """The version of measurements that may be compared: same texts, same windows for this config."""
        length, stride = self.options.resolve(config)
        return f"{self.options.name}-{length}-{stride}-{self.corpus.sha256[:12]}"

    def run(self, subject: Subject, advance: Advance) -> Outcome:
        (outcome,) = self.run_together(subject, [subject.target], advance)
        return outcome

    def run_together(
        self, subject: Subject, targets: Sequence[Target], advance: Advance = lambda **steps: None
    ) -> list[Outcome]:
        """The outcome for each of several targets of the subject's checkpoint, which differ in their routers.

        One forward pass serves all routers but cosine.
        advance: called with the number of windows `done` and their `total`.
        """
        begun = time.perf_counter()
        model = subject.model
        length, stride = self.options.resolve(model.config)
        text = TextPerplexity(
            self.corpus,
            subject.tokenizer,
            length=length,
            stride=stride,
            packing=self.options.packing,
            lead=self.options.lead,
        )
        rows = subject.batch_size or rows_for(model, length)
        fewer = subject.batch_size or max(1, rows // 2)  # where two logits exist per position
        sums: dict[str, tuple[Sums, int]] = {}
        if subject.has_both and any(target.router or subject.under(target).router for target in targets):
            routers = {target.label: subject.under(target).router for target in targets}
            read = {label: router for label, router in routers.items() if is_reading(router)}
            together = sums_by_router(model, text.windows, fewer, list(read.values()), advance) if read else []
            sums = {label: (each, fewer) for label, each in zip(read, together, strict=True)}
        for target in targets:
            if target.label not in sums:
                alone = document_sums(subject.under(target).model, text.windows, rows, advance)
                sums[target.label] = alone, rows
        seconds = time.perf_counter() - begun
        return [self._outcome(subject.under(target), text, *sums[target.label], seconds) for target in targets]

    def measure(self, subject: Subject) -> tuple[Sequence[Measurement], Items]:
        """Perplexity per token, bits per byte and bits per character, with standard errors, and the documents' scores.

        Every token of every document is predicted once, from the tokens before it in its window. The token before a
        document is not predicted. Bytes are UTF-8. Documents are the units of the standard errors. With a router that
        combines two predictions, `most_lost_nats` is the greatest excess over the base's loss in a window that is
        predicted from its beginning.
        """
        outcome = self.run(subject, lambda **steps: None)
        (items,) = outcome.items
        return outcome.measurements, items

    def _outcome(self, subject: Subject, text: TextPerplexity, sums: Sums, rows: int, seconds: float) -> Outcome:
        """The measurements of one reading. rows: windows per forward pass. seconds: of all readings together."""
        corpus, config, windows = self.corpus, subject.model.config, text.windows
        length, stride = self.options.resolve(config)
        numbers = text.numbers(sums)
        details: dict[str, Any] = {
            "source": corpus.source,
            "sha256": corpus.sha256,
            "nll": math.fsum(sums.losses),
            "tokens": int(windows.lengths.sum()),
            "bytes": int(text.size_bytes.sum()),
            "characters": int(text.characters.sum()),
            "empty_documents": corpus.empty,
            "length": length,
            "stride": stride,
            "packing": self.options.packing,
            "windows": len(windows.windows),
            "before_document": subject.tokenizer.convert_ids_to_tokens(windows.lead),
        }
        if sums.most_lost is not None:
            numbers["most_lost_nats"] = (sums.most_lost, None)
            router = subject.router
            if router is not None and router["kind"] == "mixture":
                longest = max(window.stop - window.first for window in windows.windows)
                details["most_lost_bound"] = most_lost_bound(router, longest)
        common: dict[str, Any] = {
            "task": self.label,
            "dtype": subject.target.dtype,
            "task_version": self.version(config),
            "limit": corpus.limit,
        }
        measurements = [
            Measurement(
                **common,
                metric=metric,
                value=value,
                stderr=stderr,
                samples=len(corpus.documents),
                higher_is_better=False,
                batch_size=rows,
                seconds=seconds,
                routed=text.routed(sums)[0] if subject.has_routed else None,
                details=details,
            )
            for metric, (value, stderr) in numbers.items()
        ]
        items = Items(
            **common,
            num_fewshot=None,
            seed=None,
            doc_ids=list(range(len(corpus.documents))),
            scores={metric: list(scores) for metric, scores in text.scores(sums).items() if np.isfinite(scores).all()},
        )
        return Outcome(measurements, [items])


class TextPerplexity:
    """A corpus, tokenised once, to be scored with a model any number of times."""

    def __init__(
        self, corpus: Corpus, tokenizer: Any, *, length: int, stride: int, packing: Packing, lead: Lead = "auto"
    ) -> None:
        self.task = corpus.name
        self.windows = Windows(corpus.documents, tokenizer, length=length, stride=stride, packing=packing, lead=lead)
        self.size_bytes = np.array([len(text.encode()) for text in corpus.documents])
        self.characters = np.array([len(text) for text in corpus.documents])

    def numbers(self, sums: Sums) -> dict[str, tuple[float, float | None]]:
        """Perplexity per token, bits per byte and bits per character, each with its standard error."""
        bits = sums.losses / math.log(2)
        return {
            "perplexity": _perplexity(*ratio(sums.losses, self.windows.lengths)),
            "bits_per_byte": ratio(bits, self.size_bytes),
            "bits_per_character": ratio(bits, self.characters),
        }

    def scores(self, sums: Sums) -> dict[str, np.ndarray]:
        """The documents' scores, by `ratio_scores`, for each of the `numbers`; for paired comparison of two models."""
        bits = sums.losses / math.log(2)
        nats, value = ratio_scores(sums.losses, self.windows.lengths), self.numbers(sums)["perplexity"][0]
        return {
            "perplexity": value * (1 + nats - nats.mean()),
            "bits_per_byte": ratio_scores(bits, self.size_bytes),
            "bits_per_character": ratio_scores(bits, self.characters),
        }

    def routed(self, sums: Sums) -> tuple[float, float | None]:
        """The share of tokens that took the preserve branch, with its standard error."""
        return ratio(sums.preserved, self.windows.lengths)

    def metrics(self, model: Any, rows: int) -> list[Measurement]:
        """The measurements of a model that may be in training, with `routed` if it has a router.

        rows: windows per forward pass.
        """
        with evaluating(model):
            sums = document_sums(model, self.windows, rows)
        count = len(self.size_bytes)
        measurements = [
            Measurement(self.task, name, *number, count, higher_is_better=False)
            for name, number in self.numbers(sums).items()
        ]
        if getattr(model.config, "router", None) is not None:
            measurements.append(Measurement(self.task, "routed", *self.routed(sums), count, higher_is_better=True))
        return measurements


@torch.no_grad()  # not inference_mode: tensors that a model caches in it could not be used in training
def document_sums(model: Any, windows: Windows, rows: int, advance: Advance = lambda **steps: None) -> Sums:
    """Score all windows, `rows` per forward pass. log-softmax is in float32 or better, sums are in float64."""
    losses, preserved = windows.sums(), windows.sums()
    for batch in windows.batches(rows, model.device, advance):
        output = batch.forward(model)
        logits, owners = batch.rows_of(output.logits), batch.owners.cpu()
        for chunk in batch.chunks():
            loss = token_losses(logits[batch.positions[chunk]], batch.targets[chunk])
            losses.index_add_(0, owners[chunk], loss.double().cpu())
        if getattr(output, "preserved", None) is not None:
            preserved.index_add_(0, owners, batch.rows_of(output.preserved)[batch.positions].double().cpu())
    return Sums(sum_over_processes(losses, model.device), sum_over_processes(preserved, model.device))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target (n,) under its logits (n, vocabulary), in float32 or better."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(wide, targets, reduction="none")


def _perplexity(nats: float, stderr: float | None) -> tuple[float, float | None]:
    """exp(nats per token), and its standard error by the delta method."""
    value = math.inf if nats > math.log(sys.float_info.max) else math.exp(nats)
    return value, None if stderr is None else value * stderr
