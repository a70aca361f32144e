"""The models that speed is measured on. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ShapeName = Literal["tiny", "llama-small", "pythia-160m", "smollm2-135m", "llama-1b", "llama-8b"]


@dataclass(frozen=True)
class Shape:
    """A base model's sizes and how it is upscaled.

    config: of the base, for `AutoConfig.for_model(model_type)`. expansion: for ScaleConfig.
    layers: number of layers after block expansion. batch_size, seq_length: of a training step, in sequences and tokens.
    """

    config: dict[str, Any]
    expansion: dict[str, int]
    layers: int
    preserve_layers: int
    batch_size: int
    seq_length: int
    model_type: str = "llama"


def base_config(shape: Shape, **changes: Any) -> Any:
    """The Hugging Face config of a shape's base, with `changes` to its sizes."""
    from transformers import AutoConfig

    return AutoConfig.for_model(shape.model_type, **shape.config | changes)


def expansion(config: Mapping[str, int], share: float) -> dict[str, int]:
    """The expansion by a share of a base's sizes. Heads are added in whole groups, at least one."""
    heads = config["num_attention_heads"]
    key_value_heads = config.get("num_key_value_heads", heads)
    groups = max(1, round(share * key_value_heads))
    return {
        "hidden_size": round(share * config["hidden_size"]),
        "num_attention_heads": groups * heads // key_value_heads,
        "num_key_value_heads": groups,
        "intermediate_size": round(share * config["intermediate_size"]),
    }


def _wider(config: dict[str, Any], *, layers: int, seq_length: int = 256, model_type: str = "llama") -> Shape:
    """The shape of a base that is widened by an eighth, with a step of four sequences."""
    return Shape(config, expansion(config, 1 / 8), layers, 3, 4, seq_length, model_type)


SHAPES: dict[ShapeName, Shape] = {
    "tiny": _wider(
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
        layers=5,
        seq_length=32,
    ),
    "llama-small": _wider(
        {
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        layers=10,
    ),
    "pythia-160m": _wider(
        {
            "vocab_size": 50304,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "tie_word_embeddings": False,
        },
        layers=14,
        model_type="gpt_neox",
    ),
    "smollm2-135m": _wider(
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
        layers=34,
    ),
    "llama-1b": _wider(
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        layers=20,
        seq_length=2048,
    ),
    "llama-8b": _wider(
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
        layers=40,
        seq_length=2048,
    ),
}
"""Shapes by name. `tiny` only tries the scripts, `llama-small` is the first benchmark's model, and `llama-1b` is
Llama-3.2-1B's shape, widened and deepened as in the paper (arXiv 2511.03270, section 6).
`llama-8b` is Llama-3.1-8B's."""
