"""Tiny models that several tests use: bases of every family with no trivial value in them, widened ones, and files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel

from scale_cli.model import ScaleConfig, ScaleForCausalLM

VOCABULARY = 61

_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
BASES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"intermediate_size": 48, "num_key_value_heads": 4}),
    "llama-grouped": (LlamaConfig, {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-biased": (
        LlamaConfig,
        {"intermediate_size": 48, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 12},
    ),
    "neox": (GPTNeoXConfig, {"intermediate_size": 80}),
    "neox-sequential": (
        GPTNeoXConfig,
        {"intermediate_size": 80, "use_parallel_residual": False, "tie_word_embeddings": True},
    ),
    "neox-unbiased": (GPTNeoXConfig, {"intermediate_size": 80, "attention_bias": False, "rotary_pct": 1.0}),
}
"""Names of tiny bases: both families, tied and untied heads, grouped queries, both residuals, with and without biases."""

ADDED = {"hidden_size": 6, "intermediate_size": 10}


def tiny_base(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A causal LM of the library, in eval mode. Norms and biases are random too, so that none can be left out unseen.

    name: of `BASES`; changes: of its config.
    """
    config_class, own = BASES[name]
    config = config_class(**(_SIZES | own | changes))  # type: ignore[arg-type]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    randomise(model, seed=seed)
    return model.eval()


@torch.no_grad()
def randomise(model: torch.nn.Module, *, seed: int, names: str = "") -> None:
    """Give every parameter with `names` in its name random values: norms around one, biases around zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if names in name:
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.2 * values + float("norm" in name and name.endswith("weight")))
            else:
                embeds = "embed" in name
                parameter.copy_(values * (1.0 if embeds else parameter.shape[1] ** -0.5))


def widened(
    base: PreTrainedModel,
    *,
    layers: tuple[int, ...] = (),
    modules: tuple[str, ...] = (),
    threshold: float | None = None,
    seed: int = 1,
) -> ScaleForCausalLM:
    """`base` widened in memory, in eval mode, with every added value random: W12, W22 and the head as well."""
    config = base.config
    groups = config.num_attention_heads // getattr(config, "num_key_value_heads", config.num_attention_heads)
    model = ScaleForCausalLM(
        ScaleConfig(
            base_config=config.to_dict(),
            expansion=ADDED | {"num_attention_heads": groups, "num_key_value_heads": 1},
            collaborative={"layers": list(layers), "modules": list(modules)},
            router=None if threshold is None else {"threshold": threshold},
        )
    ).to(base.dtype)
    model.base.load_state_dict(base.state_dict())
    randomise(model.expansion, seed=seed)
    return model.eval()


def without_w12(model: ScaleForCausalLM) -> ScaleForCausalLM:
    """A copy whose W12 are all zero and that has one path: what the preserve branch computes."""
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
    """A tiny base saved by the library into `folder`, with stand-ins for a tokenizer's files."""
    tiny_base(name, **changes).save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"a": "한"}', encoding="utf-8")
    return folder
