"""Documents as windows of tokens, in which each token of a text is predicted once, and sums over documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from scale_cli.core.errors import RequestError
from scale_cli.data.options import PACKINGS, Packing
from scale_cli.data.tokens import tokenise

DEFAULT_LENGTH = 2048
BATCH_TOKENS = 2**14
BATCH_LOGIT_BYTES = 2**30
"""A forward pass takes as many windows as keep within both, and one at least."""
CHUNK_POSITIONS = 512
TOKENISE_DOCUMENTS = 1000
"""The positions whose log-probabilities are computed, and the documents that are tokenised, at a time."""


@dataclass(frozen=True)
class WindowOptions:
    """How documents become windows.

    length: tokens that a window shows the model; None: what the model takes at most, or 2,048 if that is less.
    stride: new tokens that a window predicts; None: length, so that windows do not overlap.
    packing: "concat", documents laid end to end with a token between them, as in training; "documents", each its own.
    """

    length: int | None = None
    stride: int | None = None
    packing: Packing = "concat"

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise RequestError(f"--perplexity-length {self.length}: at least 1")
        if self.stride is not None and self.stride < 1:
            raise RequestError(f"--perplexity-stride {self.stride}: at least 1")
        if self.packing not in PACKINGS:
            raise RequestError(f"--perplexity-packing {self.packing}: choose {' or '.join(PACKINGS)}")

    def resolve(self, config: Any) -> tuple[int, int]:
        """Length and stride for a model with this config. RequestError where the model or the length is too short."""
        most = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_LENGTH
        length = self.length or min(most, DEFAULT_LENGTH)
        if self.length is not None and length > most:
            raise RequestError(f"--perplexity-length {length}: the model takes {most} tokens at most")
        stride = self.stride or length
        if stride > length:
            raise RequestError(f"--perplexity-stride {stride}: at most the length of a window, which is {length}")
        return length, stride


class Window(NamedTuple):
    """A piece of a token stream: the model reads start to stop - 1 and is asked for the tokens first to stop - 1."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """Windows side by side, filled up on the right, which a causal model does not see from where it is asked.

    inputs: (rows, length). kept: the first position that is asked anything.
    positions: (n,), those that are asked, counted through the rows of `length - kept` from `kept` on.
    targets, owners: (n,), the token that each is asked for, and the number of its document.
    """

    inputs: Tensor
    kept: int
    positions: Tensor
    targets: Tensor
    owners: Tensor

    def forward(self, model: Any, **arguments: Any) -> Any:
        """The model's output for the inputs, computing no logits before `kept`, where it knows how not to."""
        if self.kept and model._supports_logits_to_keep():
            arguments["logits_to_keep"] = torch.arange(self.kept, self.inputs.shape[1], device=self.inputs.device)
        return model(input_ids=self.inputs, use_cache=False, **arguments)

    def rows_of(self, tensor: Tensor) -> Tensor:
        """An output (rows, length or only from `kept` on, ...) in the form that `positions` counts through."""
        return tensor[:, tensor.shape[1] + self.kept - self.inputs.shape[1] :].flatten(0, 1)

    def chunks(self) -> Iterator[slice]:
        """The positions in pieces small enough for what takes much memory a position."""
        for start in range(0, len(self.positions), CHUNK_POSITIONS):
            yield slice(start, start + CHUNK_POSITIONS)


class Windows:
    """Documents in a tokenizer's tokens, cut into windows so that each of their tokens is a target exactly once.

    Before every document stands one token from which its first is predicted: end-of-text under packing "concat", as
    training puts it between texts, begin-of-text under "documents", as the harness does; where a tokenizer has only one
    of these, that one. These are never targets themselves.

    tokens: of all documents, with what stands before each. lead: that. lengths: tokens of each document without it.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Any,
        *,
        length: int,
        stride: int,
        packing: Packing,
        max_tokens: int | None = None,
    ) -> None:
        """max_tokens: take only the first so many tokens of the texts. RequestError where the tokenizer has neither
        token, or makes no tokens of the texts."""
        self.lead = lead_token(tokenizer, packing)
        pieces: list[np.ndarray] = []
        left = math.inf if max_tokens is None else max_tokens
        for start in range(0, len(texts), TOKENISE_DOCUMENTS):
            for ids in tokenise(texts[start : start + TOKENISE_DOCUMENTS], tokenizer):
                if left > 0:
                    pieces.append(np.array(ids if left >= len(ids) else ids[: int(left)], dtype=np.int64))
                    left -= len(ids)
            if left <= 0:
                break
        self.lengths = np.array([len(piece) for piece in pieces])
        if not self.lengths.any():
            raise RequestError("the checkpoint's tokenizer makes no token of the texts")
        ends = np.cumsum(self.lengths + 1)
        begins = ends - self.lengths - 1
        self.tokens = np.full(ends[-1], self.lead, dtype=np.int64)
        self.owners = np.repeat(np.arange(len(pieces)), self.lengths + 1)
        is_text = np.ones(len(self.tokens), dtype=bool)
        is_text[begins] = False
        self.tokens[is_text] = np.concatenate(pieces)
        self.owners[begins] = -1
        spans = [(0, len(self.tokens))] if packing == "concat" else zip(begins.tolist(), ends.tolist(), strict=True)
        self.windows = [window for span in spans for window in cut(*span, length=length, stride=stride)]

    def sums(self) -> Tensor:
        """A zero for each document, to add up in."""
        return torch.zeros(len(self.lengths), dtype=torch.float64)

    def batches(
        self, rows: int, device: Any = None, advance: Callable[..., None] = lambda **steps: None
    ) -> Iterator[Batch]:
        """The windows, the longest first, at most `rows` at a time; of several processes each gets its share of them.

        advance: called after each batch with this process's windows `done` and the `total` of them.
        """
        windows = sorted(self.windows, key=lambda window: window.start - window.stop)
        if _several_processes():
            windows = windows[distributed.get_rank() :: distributed.get_world_size()]
        for start in range(0, len(windows), rows):
            yield self._batch(windows[start : start + rows], device)
            advance(done=min(start + rows, len(windows)), total=len(windows))

    def _batch(self, windows: Sequence[Window], device: Any) -> Batch:
        length = max(window.stop - window.start for window in windows) - 1
        kept = min(window.first - window.start for window in windows) - 1
        inputs = np.full((len(windows), length), self.tokens[0])
        targets, owners = (np.full((len(windows), length), -1) for _ in range(2))
        for row, (start, first, stop) in enumerate(windows):
            asked = slice(first - start - 1, stop - start - 1)
            inputs[row, : stop - start - 1] = self.tokens[start : stop - 1]
            targets[row, asked] = self.tokens[first:stop]
            owners[row, asked] = self.owners[first:stop]
        (positions,) = np.nonzero(owners[:, kept:].ravel() >= 0)
        asked_of = (array[:, kept:].ravel()[positions] for array in (targets, owners))
        on_device = [torch.from_numpy(array).to(device) for array in (inputs, positions, *asked_of)]
        return Batch(on_device[0], kept, *on_device[1:])


def total(sums: Tensor, device: Any) -> np.ndarray:
    """Sums of this process, added to those of the others, if there are any, on the device on which they speak."""
    if _several_processes():
        sums = sums.to(device)
        distributed.all_reduce(sums)
    return sums.cpu().numpy()


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def lead_token(tokenizer: Any, packing: Packing) -> int:
    """The token before a document. RequestError where the tokenizer has none for it."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    order = (end, begin) if packing == "concat" else (begin, end)
    for token in order:
        if token is not None:
            return int(token)
    raise RequestError(
        "the checkpoint's tokenizer has neither an end-of-text nor a begin-of-text token (eos_token, bos_token), so "
        "nothing predicts the first token of a text; give it one"
    )


def cut(begin: int, end: int, *, length: int, stride: int) -> Iterator[Window]:
    """Windows over the tokens begin to end - 1 of a stream, in which all but the first are targets once.

    The first window predicts `length` tokens, each later one the next `stride`, with all the tokens before them that
    a window of `length` holds; so the last one, which has fewer to predict, sees the more before them.
    """
    first = begin + 1
    while first < end:
        stop = min(first + (length if first == begin + 1 else stride), end)
        yield Window(max(begin, stop - 1 - length), first, stop)
        first = stop


def rows_for(model: Any, length: int) -> int:
    """Windows of so many tokens for a forward pass of the model."""
    logit_bytes = model.config.get_text_config().vocab_size * model.dtype.itemsize
    return max(1, min(BATCH_TOKENS, BATCH_LOGIT_BYTES // logit_bytes) // length)


def ratio(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray
) -> tuple[float, float | None]:
    """sum(numerators) / sum(denominators) over documents, and the standard error of this ratio.

    By the delta method with a document as the unit that was drawn: sqrt(n / (n - 1) sum (y - R x)^2) / sum x for the
    n documents' y and x. No error for a single document. What is no number stays none.
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
    """A score of each of n documents, in float64, of which `ratio` is the mean and its error the error of the mean.

    R + n (y - R x) / sum x. Two ratios over the same denominators differ by the mean of the differences of their
    scores, so that what both models find hard in a document counts for neither.
    """
    y, x = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    value, size = math.fsum(y) / math.fsum(x), math.fsum(x)
    return value + len(y) * (y - value * x) / size
