"""The cache of a source's tokens on disk, shared by all methods and runs with the same tokenizer.

The tokens are in chunks of documents. Each chunk is a folder that is complete or does not exist:

    <cache>/<key of texts and tokenizer>/00000/tokens.bin    token ids, each text closed by end-of-text,
                                                             and begun by begin-of-text if requested
                                               lengths.bin   number of tokens per document, uint32
                                               chunk.json    counts, and the state from which reading continues
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock

from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, to_json, write_text

FORMAT = 2
"""The version of the cache. It increases if the files, or the meaning of a key, change."""
FIRST_TOKENS, MOST_TOKENS = 2**20, 2**24
"""Each chunk has twice the tokens of the one before: training starts after a short chunk and shuffles in long ones."""


class Texts(Protocol):
    """Texts that can be read from the end of any earlier batch."""

    def batches(self, state: Any = None) -> Iterator[tuple[list[str], Any]]:
        """The texts in batches, each with the state after it as JSON; from a state on, or from the beginning."""

    def identity(self) -> dict[str, Any]:
        """A key of the texts, as JSON."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive documents.

    dtype: of the tokens. empty: the number of texts left out because they have no token. last: no chunk follows.
    state: from which reading continues.
    """

    folder: Path
    documents: int
    tokens: int
    dtype: str
    empty: int
    last: bool
    state: Any

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens, memory-mapped, and the lengths of the documents, int64.

        Raises RequestError if they are not as they were written.
        """
        file, dtype = self.folder / "tokens.bin", getattr(torch, self.dtype)
        try:
            lengths = np.fromfile(self.folder / "lengths.bin", np.uint32).astype(np.int64)
            size = file.stat().st_size
        except OSError as error:
            raise _damaged(self.folder, error) from error
        if (len(lengths), lengths.sum(), size) != (self.documents, self.tokens, self.tokens * dtype.itemsize):
            raise _damaged(self.folder, "its sizes are not those that were written")
        # Each map of numpy holds a file descriptor; a large corpus would need too many.
        return torch.from_file(str(file), shared=False, size=self.tokens, dtype=dtype).numpy(), lengths

    def shared(self, documents: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
        """Those of these documents, token ids, that are in the chunk. Only documents of an equal length are read."""
        if not self.tokens:
            return set()
        tokens, lengths = self.load()
        by_bytes = {np.asarray(ids, tokens.dtype).tobytes(): tuple(ids) for ids in documents}
        rows = np.flatnonzero(np.isin(lengths, [*map(len, documents)]))
        begins = (np.cumsum(lengths) - lengths)[rows]
        read = (tokens[begin : begin + size].tobytes() for begin, size in zip(begins, lengths[rows], strict=True))
        return {by_bytes[key] for key in read if key in by_bytes}


class TokenCache:
    """The chunks of one source, made on first request. If several processes need a chunk, one makes it."""

    def __init__(
        self,
        texts: Texts,
        tokenizer: Any,
        end: int,
        cache: Path,
        progress: Callable[[int], None] | None = None,
        *,
        begin: int | None = None,
    ) -> None:
        """end: the token that closes every text. begin: the token that begins it, None for none.

        cache: the folder of all sources.

        progress: called with the number of tokens of each batch of texts that is tokenised.
        Raises RequestError for a folder that cannot be written.
        """
        self.texts = texts
        self.end = end
        self.begin = begin
        self.progress = progress
        self.tokenizer = tokenizer
        self.dtype = np.dtype(np.uint16 if token_ids(tokenizer) <= 2**16 else np.uint32)
        about = {"format": FORMAT, "texts": texts.identity(), "tokenizer": fingerprint(tokenizer), "end": end}
        about |= {} if begin is None else {"begin": begin}
        self.folder = cache / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / "source.json").exists():  # for human readers
                write_text(self.folder / "source.json", to_json(about) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self._chunks: list[Chunk] = []
        self._reading: tuple[int, Iterator[tuple[list[str], Any]]] | None = None

    def chunk(self, number: int) -> Chunk | None:
        """The chunk of this number, None after the last. Raises RequestError for texts that cannot be read."""
        while number >= len(self._chunks):
            if self._chunks and self._chunks[-1].last:
                return None
            self._chunks.append(self._find_or_make(len(self._chunks)))
        return self._chunks[number]

    def chunks(self) -> list[Chunk]:
        """All chunks."""
        number = 0
        while self.chunk(number) is not None:
            number += 1
        return list(self._chunks)

    def _find_or_make(self, number: int) -> Chunk:
        folder = self.folder / f"{number:05d}"
        if not folder.is_dir():
            try:
                with FileLock(self.folder / "lock"):
                    if not folder.is_dir():
                        self._make(number, folder)
            except OSError as error:  # of the lock; texts and folders raise errors of their own
                raise self._unwritable(error) from error
        try:
            return Chunk(folder, **json.loads((folder / "chunk.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(folder, error) from error

    def _unwritable(self, error: OSError) -> RequestError:
        return RequestError(
            f"--tokens-cache {self.folder.parent}: {error.strerror or error}; name a folder that can be written"
        )

    def _make(self, number: int, folder: Path) -> None:
        if self._reading is None or self._reading[0] != number:  # another process may have made the chunk before
            state = self._chunks[-1].state if self._chunks else None
            self._reading = (number, self.texts.batches(state))
        batches = self._reading[1]
        self._reading = None  # in case of an exception below
        state, tokens, lengths = None, [np.empty(0, self.dtype)], [np.empty(0, np.uint32)]
        token_count = empty = 0
        target = min(FIRST_TOKENS << number, MOST_TOKENS)
        while token_count < target:
            batch, state = next(batches, (None, state))
            if batch is None:
                break
            ids = tokenise(batch, self.tokenizer)
            sizes = np.fromiter(map(len, ids), np.uint32, len(ids))
            flat = np.fromiter(chain.from_iterable(ids), self.dtype, int(sizes.sum()))
            sizes = sizes[sizes > 0]
            ends = np.cumsum(sizes, dtype=np.int64)
            flat = np.insert(flat, ends, self.end)
            if self.begin is not None:  # each text begins behind the end of the one before, which is in `flat` now
                flat = np.insert(flat, ends - sizes + np.arange(len(sizes)), self.begin)
            tokens.append(flat)
            lengths.append(sizes + (1 if self.begin is None else 2))
            count = len(tokens[-1])
            token_count += count
            empty += len(ids) - len(sizes)
            if self.progress is not None:
                self.progress(count)
        self._reading = (number + 1, batches)
        documents = sum(map(len, lengths))
        about = {"documents": documents, "tokens": token_count, "dtype": self.dtype.name, "empty": empty}
        about |= {"last": token_count < target, "state": state}
        with new_folder(folder) as new:
            np.concatenate(tokens).tofile(new / "tokens.bin")
            np.concatenate(lengths).tofile(new / "lengths.bin")
            write_text(new / "chunk.json", to_json(about) + "\n")


def tokenise(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text, without special tokens or truncation.

    Raises RequestError for a token without a row in the embedding of the model that the tokenizer belongs to.
    """
    ids = _tokenise(texts, tokenizer)
    check_ids(max((max(row) for row in ids if row), default=0), tokenizer)
    return ids


def check_ids(largest: int, tokenizer: Any) -> None:
    """Raise RequestError if the tokenizer's model has no row for the token id `largest` in its embedding.

    The number of rows is the tokenizer's `embedding_rows`, which `checkpoints.load.load_tokenizer` sets.
    """
    rows = getattr(tokenizer, "embedding_rows", None)
    if rows is not None and largest >= rows:
        raise RequestError(
            f"the tokenizer has {token_ids(tokenizer)} tokens and the model {rows}: the texts hold "
            f"{tokenizer.convert_ids_to_tokens(largest)!r} (id {largest}), which has no row in the embedding; add rows "
            f"with resize_token_embeddings({token_ids(tokenizer)}) of the model that is not yet upscaled, and save it"
        )


def token_ids(tokenizer: Any) -> int:
    """The number of ids of a tokenizer up to the largest. Ids may have gaps, so it can exceed the number of tokens."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _tokenise(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one written in Python
        return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    # The same ids as from the tokenizer itself, which takes a third more time as it also computes offsets.
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def fingerprint(tokenizer: Any) -> str:
    """The sha256 of all rules of a tokenizer: tokenizers with the same fingerprint give the same tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one written in Python: the hash of its files
        with tempfile.TemporaryDirectory() as folder:
            files = sorted(map(Path, tokenizer.save_pretrained(folder)))
            return hashlib.sha256(b"\0".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
    rules = json.loads(backend.to_str())
    del rules["padding"], rules["truncation"]  # state of the last call
    rules["split_special_tokens"] = tokenizer.split_special_tokens
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Path, reason: object) -> RequestError:
    return RequestError(f"{folder} is damaged: {' '.join(str(reason).split())}; remove it, and it is written again")
