"""The models that speed is measured on. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A model to measure on, and how it is upscaled: `config` of a base of this type, `expansion` for ScaleConfig.

    layers: how many there are when it is deepened. batch_size, seq_length: of a training step.
    """

    config: dict[str, Any]
    expansion: dict[str, int]
    layers: int
    preserve_layers: int
    batch_size: int
    seq_length: int
    model_type: str = "llama"


def base_config(shape: Shape, **changes: Any) -> Any:
    """The config of the base of this shape."""
    from transformers import AutoConfig

    return AutoConfig.for_model(shape.model_type, **shape.config | changes)


SHAPES = {
    "llama-small": Shape(
        config={
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        expansion={
            "hidden_size": 64,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 176,
        },
        layers=10,
        preserve_layers=3,
        batch_size=4,
        seq_length=256,
    ),
    "pythia-160m": Shape(
        model_type="gpt_neox",
        config={
            "vocab_size": 50304,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "tie_word_embeddings": False,
        },
        expansion={
            "hidden_size": 96,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 384,
        },
        layers=14,
        preserve_layers=3,
        batch_size=4,
        seq_length=256,
    ),
    "smollm2-135m": Shape(
        config={
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
        expansion={
            "hidden_size": 72,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "intermediate_size": 192,
        },
        layers=34,
        preserve_layers=3,
        batch_size=4,
        seq_length=256,
    ),
    "llama-1b": Shape(
        config={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        expansion={
            "hidden_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "intermediate_size": 1024,
        },
        layers=20,
        preserve_layers=3,
        batch_size=4,
        seq_length=2048,
    ),
}
"""By name; `llama-small` is the model of the first benchmark; `llama-1b` is Llama-3.2-1B's shape, widened and deepened
as in the paper (arXiv 2511.03270, section 6). All are widened by an eighth."""
