"""Documents as windows of tokens, in which each token of a text is predicted once, and statistics over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from scale_cli.core.errors import RequestError
from scale_cli.data.options import PACKINGS, Lead, Packing
from scale_cli.data.tokens import tokenise

DEFAULT_LENGTH = 2048
BATCH_TOKENS = 2**14
BATCH_LOGIT_BYTES = 2**30
"""Bounds of a forward pass: it takes as many windows as both allow, and at least one."""
CHUNK_POSITIONS = 512
"""Positions per chunk for log-probabilities, which are computed piecewise."""
TOKENISE_DOCUMENTS = 1000
"""Documents per call of the tokenizer."""


@dataclass(frozen=True)
class WindowOptions:
    """How documents are cut into windows.

    length: tokens per window; None: the model's maximum, but not more than 2,048.
    stride: new tokens that a window predicts; None: length, so windows do not overlap.
    packing: "concat": documents laid end to end with a token between them, as in training; "documents": each document
        separately.
    lead: the token before a document: "bos", "eos", or "auto" for the one that `lead_token` prefers.
    """

    length: int | None = None
    stride: int | None = None
    packing: Packing = "concat"
    lead: Lead = "auto"

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise RequestError(f"--perplexity-length {self.length}: at least 1")
        if self.stride is not None and self.stride < 1:
            raise RequestError(f"--perplexity-stride {self.stride}: at least 1")
        if self.packing not in PACKINGS:
            raise RequestError(f"--perplexity-packing {self.packing}: choose {' or '.join(PACKINGS)}")

    @property
    def name(self) -> str:
        """Packing and lead in the versions of measurements."""
        return self.packing if self.lead == "auto" else f"{self.packing}-{self.lead}"

    def resolve(self, config: Any) -> tuple[int, int]:
        """Length and stride for a model with this config. Raises RequestError if either exceeds its maximum."""
        most = context_of(config) or DEFAULT_LENGTH
        length = self.length or min(most, DEFAULT_LENGTH)
        if self.length is not None and length > most:
            raise RequestError(f"--perplexity-length {length}: the model takes {most} tokens at most")
        stride = self.stride or length
        if stride > length:
            raise RequestError(f"--perplexity-stride {stride}: at most the length of a window, which is {length}")
        return length, stride


def context_of(config: Any) -> int | None:
    """The number of tokens that a model with this config takes; None if the config does not name it."""
    most: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return most


class Window(NamedTuple):
    """A part of a token stream: the model reads `start` to `stop - 1` and predicts the tokens `first` to `stop - 1`."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """Windows side by side, padded on the right, where a causal model's predictions do not depend on the padding.

    inputs: (rows, length). kept: the first position with a prediction.
    positions: (n,), the positions with predictions, counted through the rows of `length - kept` from `kept` on.
    targets, owners: (n,), the token to predict at each position, and the number of its document.
    numbers: (rows,), the index of each window in `Windows.windows`.
    """

    inputs: Tensor
    kept: int
    positions: Tensor
    targets: Tensor
    owners: Tensor
    numbers: Tensor

    def forward(self, model: Any, **arguments: Any) -> Any:
        """The model's output for the inputs; logits before `kept` are not computed if the model supports that."""
        if self.kept and model._supports_logits_to_keep():
            arguments["logits_to_keep"] = torch.arange(self.kept, self.inputs.shape[1], device=self.inputs.device)
        return model(input_ids=self.inputs, use_cache=False, **arguments)

    def rows_of(self, tensor: Tensor) -> Tensor:
        """An output (rows, length or only from `kept` on, ...) in the flat form that `positions` indexes."""
        return tensor[:, tensor.shape[1] + self.kept - self.inputs.shape[1] :].flatten(0, 1)

    def without_positions(self) -> Batch:
        """The same inputs with nothing to predict, which change no sum."""
        none = self.positions[:0]
        return replace(self, inputs=self.inputs[:1], positions=none, targets=none, owners=none, numbers=none)

    def chunks(self) -> Iterator[slice]:
        """Slices of the positions, small enough for work that takes much memory per position."""
        for start in range(0, len(self.positions), CHUNK_POSITIONS):
            yield slice(start, start + CHUNK_POSITIONS)


class Windows:
    """Tokenised documents, cut into windows in which each of their tokens is a target exactly once.

    A lead token before every document predicts the document's first token: end-of-text under packing "concat", as
    between texts in training, begin-of-text under "documents", as in the harness. A tokenizer that has only one of the
    two leads with that. Lead tokens are never targets.

    tokens: of all documents, each after its lead token. lead: the lead token. lengths: tokens of each document without
    it.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Any,
        *,
        length: int,
        stride: int,
        packing: Packing,
        lead: Lead = "auto",
        max_tokens: int | None = None,
    ) -> None:
        """max_tokens: the greatest number of tokens that are taken from the beginning of the texts.

        Raises RequestError if the tokenizer has no lead token, or if the texts have no tokens.
        """
        self.lead = lead_token(tokenizer, packing, lead)
        documents: list[np.ndarray] = []
        left = math.inf if max_tokens is None else max_tokens
        for start in range(0, len(texts), TOKENISE_DOCUMENTS):
            for ids in tokenise(texts[start : start + TOKENISE_DOCUMENTS], tokenizer):
                if left > 0:
                    documents.append(np.array(ids if left >= len(ids) else ids[: int(left)], dtype=np.int64))
                    left -= len(ids)
            if left <= 0:
                break
        self.lengths = np.array([len(document) for document in documents])
        if not self.lengths.any():
            raise RequestError("the checkpoint's tokenizer makes no token of the texts")
        ends = np.cumsum(self.lengths + 1)
        begins = ends - self.lengths - 1
        self.tokens = np.full(ends[-1], self.lead, dtype=np.int64)
        self.owners = np.repeat(np.arange(len(documents)), self.lengths + 1)
        is_text = np.ones(len(self.tokens), dtype=bool)
        is_text[begins] = False
        self.tokens[is_text] = np.concatenate(documents)
        self.owners[begins] = -1
        spans = [(0, len(self.tokens))] if packing == "concat" else zip(begins.tolist(), ends.tolist(), strict=True)
        self.windows = [window for span in spans for window in cut(*span, length=length, stride=stride)]

    def sums(self) -> Tensor:
        """A zero per document, to accumulate sums in."""
        return torch.zeros(len(self.lengths), dtype=torch.float64)

    def batches(
        self, rows: int, device: Any = None, advance: Callable[..., None] = lambda **steps: None
    ) -> Iterator[Batch]:
        """The windows, the longest first, at most `rows` per batch; each of several processes gets its share.

        All processes get as many batches, because those of a sharded model compute together; the last of some may be
        a batch without positions.
        advance: called after each batch with `done`, the number of this process's windows so far, and their `total`.
        """
        numbers = sorted(range(len(self.windows)), key=lambda i: self.windows[i].start - self.windows[i].stop)
        shares = [numbers]
        if _several_processes():
            shares = [numbers[rank :: distributed.get_world_size()] for rank in range(distributed.get_world_size())]
            numbers = shares[distributed.get_rank()]
        for start in range(0, len(shares[0]), rows):
            if start < len(numbers):
                yield self._batch(numbers[start : start + rows], device)
            else:
                yield self._batch(shares[0][-1:], device).without_positions()
            advance(done=min(start + rows, len(numbers)), total=len(numbers))

    def _batch(self, numbers: Sequence[int], device: Any) -> Batch:
        windows = [self.windows[number] for number in numbers]
        length = max(window.stop - window.start for window in windows) - 1
        kept = min(window.first - window.start for window in windows) - 1
        inputs = np.full((len(windows), length), self.tokens[0])
        targets, owners = (np.full((len(windows), length), -1) for _ in range(2))
        for row, (start, first, stop) in enumerate(windows):
            predicted = slice(first - start - 1, stop - start - 1)
            inputs[row, : stop - start - 1] = self.tokens[start : stop - 1]
            targets[row, predicted] = self.tokens[first:stop]
            owners[row, predicted] = self.owners[first:stop]
        (positions,) = np.nonzero(owners[:, kept:].ravel() >= 0)
        at_positions = (array[:, kept:].ravel()[positions] for array in (targets, owners))
        arrays = (inputs, positions, *at_positions, np.array(numbers))
        tokens, *rest = (torch.from_numpy(array).to(device) for array in arrays)
        return Batch(tokens, kept, *rest)


def sum_over_processes(sums: Tensor, device: Any) -> np.ndarray:
    """The sums of this process and of the others, if there are any, added on the device that they communicate by."""
    if _several_processes():
        sums = sums.to(device)
        distributed.all_reduce(sums)
    return sums.cpu().numpy()


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def lead_token(tokenizer: Any, packing: Packing, lead: Lead = "auto") -> int:
    """The token before a document. Raises RequestError if the tokenizer does not have it.

    "auto" prefers end-of-text under packing "concat", and begin-of-text under "documents".
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if lead != "auto":
        if (token := begin if lead == "bos" else end) is None:
            raise RequestError(f"--perplexity-lead {lead}: the checkpoint's tokenizer has no {lead}_token")
        return int(token)
    order = (end, begin) if packing == "concat" else (begin, end)
    for token in order:
        if token is not None:
            return int(token)
    raise RequestError(
        "the checkpoint's tokenizer has neither an end-of-text nor a begin-of-text token (eos_token, bos_token), so "
        "nothing predicts the first token of a text; give it one"
    )


def cut(begin: int, end: int, *, length: int, stride: int) -> Iterator[Window]:
    """Windows over the tokens `begin` to `end - 1` of a stream; each token but the first is a target once.

    The first window predicts `length` tokens and each later window the next `stride` tokens. The rest of a later
    window is context: as many earlier tokens as `length` leaves room for, so the last window has the most context.
    """
    first = begin + 1
    while first < end:
        stop = min(first + (length if first == begin + 1 else stride), end)
        yield Window(max(begin, stop - 1 - length), first, stop)
        first = stop


def rows_for(model: Any, length: int) -> int:
    """The number of windows of `length` tokens in a forward pass of the model."""
    logit_bytes = model.config.get_text_config().vocab_size * model.dtype.itemsize
    return max(1, min(BATCH_TOKENS, BATCH_LOGIT_BYTES // logit_bytes) // length)


def ratio(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray
) -> tuple[float, float | None]:
    """sum(numerators) / sum(denominators) over documents, and the standard error of this ratio.

    The error is that of the delta method with the document as the sampling unit: for the n documents' y and x it is
    sqrt(n / (n - 1) sum (y - R x)^2) / sum x. A single document has no error. NaN and infinite values stay as they are.
    """
    y, x = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    value = math.fsum(y) / math.fsum(x)
    count = len(y)
    if count < 2:
        return value, None
    with np.errstate(invalid="ignore"):
        squares = math.fsum((y - value * x) ** 2)
    return value, math.sqrt(count / (count - 1) * squares) / math.fsum(x)


def ratio_scores(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """A score per document, float64 (n,): their mean is `ratio`'s value, and the error of the mean is its error.

    The score is R + n (y - R x) / sum x. Two ratios over the same denominators differ by the mean of the differences of
    their scores, so the difficulty that a document has for both models cancels.
    """
    y, x = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    value, size = math.fsum(y) / math.fsum(x), math.fsum(x)
    return value + len(y) * (y - value * x) / size
