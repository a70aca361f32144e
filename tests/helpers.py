"""Tiny models for many tests: bases of every family without trivial values, widened models, and model folders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
)

from scale_cli.core.errors import RequestError
from scale_cli.model import ScaleConfig

VOCABULARY = 61

_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {"intermediate_size": 48, "num_key_value_heads": 4}),
    "llama-grouped": (LlamaConfig, {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-biased": (
        LlamaConfig,
        {"intermediate_size": 48, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 6},
    ),
    "llama3": (
        LlamaConfig,
        {
            "intermediate_size": 48,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "mistral": (MistralConfig, {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 5}),
    "qwen2": (
        Qwen2Config,
        {
            "intermediate_size": 48,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 2,
        },
    ),
    "qwen3": (Qwen3Config, {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 6}),
    "olmo2": (Olmo2Config, {"intermediate_size": 48, "num_key_value_heads": 2}),
    "gemma3": (
        Gemma3TextConfig,
        {
            "intermediate_size": 48,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "sliding_window": 5,
            "sliding_window_pattern": 2,
            "final_logit_softcapping": 20.0,
        },
    ),
    "neox": (GPTNeoXConfig, {"intermediate_size": 80}),
    "neox-sequential": (
        GPTNeoXConfig,
        {"intermediate_size": 80, "use_parallel_residual": False, "tie_word_embeddings": True},
    ),
    "neox-unbiased": (GPTNeoXConfig, {"intermediate_size": 80, "attention_bias": False, "rotary_pct": 1.0}),
}
"""Tiny bases by name: every family, tied and untied heads, grouped queries, both residuals, biases or none, windows
shorter than the probe."""

ADDED = {"hidden_size": 6, "intermediate_size": 10}
WIDENED: dict[str, dict[str, Any]] = {
    "preserve": {},
    "adapt": {"layers": (0, 2), "modules": ("attention", "ffn")},
    "route": {"layers": (1, 2), "modules": ("attention",), "threshold": 0.7},
}
"""How `widened` makes the model of each SCALE method."""
CASES = [
    *((name, "route") for name in BASES),
    *((name, method) for name in ("llama-grouped", "neox") for method in ("preserve", "adapt")),
]
"""Every base under SCALE-Route, whose forward runs both paths, and one base of each layout under the others."""


def tiny_base(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A causal LM of the library, in eval mode. Norms and biases are random too, so a test fails if one is left out.

    name: of `BASES`; changes: of its config.
    """
    config_class, own = BASES[name]
    config = config_class(**(_SIZES | own | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    randomise(model, seed=seed)
    return model.eval()


@torch.no_grad()
def randomise(model: torch.nn.Module, *, seed: int, names: str = "") -> None:
    """Set every parameter with `names` in its name to random values; gains and biases around those of a new model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if names in name:
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.2 * values + parameter.mean().round())
            else:
                parameter.copy_(values * (0.3 if "embed" in name else parameter.shape[1] ** -0.5))


def widened(
    base: Any,
    *,
    layers: tuple[int, ...] = (),
    modules: tuple[str, ...] = (),
    threshold: float | None = None,
    seed: int = 1,
) -> Any:
    """`base` widened in memory, in eval mode, with every added value random: W12, W22 and the head as well."""
    config = base.config
    groups = config.num_attention_heads // getattr(config, "num_key_value_heads", config.num_attention_heads)
    wider = ScaleConfig(
        base_config=config.to_dict(),
        expansion=ADDED | {"num_attention_heads": groups, "num_key_value_heads": 1},
        collaborative={"layers": list(layers), "modules": list(modules)},
        router=None if threshold is None else {"threshold": threshold},
    )
    model = AutoModelForCausalLM.from_config(wider, dtype=base.dtype)
    model.base.load_state_dict(base.state_dict())
    randomise(model.expansion, seed=seed)
    return model.eval()


def without_w12(model: Any) -> Any:
    """A copy with zero W12 and without a router, which computes the preserve branch."""
    masked = copy.deepcopy(model)
    masked.config.router = None
    with torch.no_grad():
        for name, parameter in masked.named_parameters():
            if name.endswith("w12"):
                parameter.zero_()
    return masked


def probe(batch: int = 2, length: int = 11, *, seed: int = 2) -> Tensor:
    """Random token ids, (batch, length)."""
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def base_folder(folder: Path, name: str = "llama-grouped", *, shard: str = "1GB", **changes: Any) -> Path:
    """The folder of a tiny base saved by the library, with stand-ins for a tokenizer's files."""
    tiny_base(name, **changes).save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"a": "한"}', encoding="utf-8")
    return folder


def load(folder: Path) -> Any:
    """The model in a folder, loaded by the Auto class. Fails unless the files contain exactly the model's tensors."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def refusal(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> str:
    """The message, a single line, of the RequestError that a call raises."""
    with pytest.raises(RequestError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
