"""Tokenizers that a benchmark trains for a base of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TOKENIZERS = ("word", "bpe")
END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"


def train_tokenizer(texts: Iterable[str], kind: str, vocab_size: int) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocab_size` tokens. Token 0 is end-of-text.

    kind: "bpe" is byte-level BPE. "word" has one token for each of the most frequent words and punctuation marks, by
        the same pre-tokenization; with few different words, the vocabulary and thus the head stay small.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "bpe":
        trainer: Any = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=[END_OF_TEXT, UNKNOWN], show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def fast_tokenizer(trained: Any) -> Any:
    """A transformers tokenizer of a `tokenizers.Tokenizer` that `train_tokenizer` has trained."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, unk_token=trained.model.unk_token
    )
