"""What the tests of plans share: configs of real models, and tiny models as a method trains them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from scale_cli.methods import METHODS, method_options
from scale_cli.methods.osf import OLDEST_PEFT, has_peft
from scale_cli.model import ScaleConfig
from tests.helpers import tiny_base

needs_osf = pytest.mark.skipif(not has_peft(), reason=f"peft before {OLDEST_PEFT} has another OSF")
LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
PYTHIA_160M: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 50304,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}


def config_folder(folder: Path, config: dict[str, Any]) -> str:
    """A folder with nothing but this config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def prepared(method: str, name: str = "llama-grouped", *, layers: int = 4) -> Any:
    """A tiny model with values as a method trains it; an even number of layers, two more under llama-pro."""
    options = method_options(
        {"preserve_layers": layers // 2, "freeze_layers": layers // 2, "lora_r": 4, "train_layers": layers // 2}
    )[method]
    needs = METHODS[method].needs[0]
    new_layers = (layers // 2, layers + 1) if needs == "depth" else ()
    base = tiny_base(name, vocab_size=256, num_hidden_layers=layers + len(new_layers))
    if needs == "width":
        groups = base.config.num_attention_heads // getattr(base.config, "num_key_value_heads", 4)
        added = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": groups, "num_key_value_heads": 1}
        base = AutoModelForCausalLM.from_config(ScaleConfig(base_config=base.config.to_dict(), expansion=added))
    return METHODS[method].apply(base, options, new_layers).train()
