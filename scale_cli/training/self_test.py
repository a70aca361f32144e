"""A self-test on a device: a tiny widened model is trained, and its base must still be exactly itself."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from scale_cli.methods import METHODS
from scale_cli.model import ScaleConfig

STEPS = 3
_VOCABULARY, _TOKENS = 512, 32


def changed_logits(device: torch.device, dtype: torch.dtype) -> tuple[int, int]:
    """The number of the base's logits that three steps of SCALE-Preserve change, which must be 0, and of those of the
    whole model, which must not be.

    device, dtype: of weights and computation. The model is a Llama of 2 layers with random weights.
    """
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        wider = ScaleConfig(
            base_config=config.to_dict(),
            expansion={"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
            collaborative={"layers": [], "modules": []},
        )
        model: Any = AutoModelForCausalLM.from_config(wider, dtype=dtype).to(device)
        tokens = torch.randint(_VOCABULARY, (2, _TOKENS)).to(device)
    method = METHODS["scale-preserve"]
    model = method.apply(model, method.options(), ())
    before = _logits(model, tokens)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(STEPS):
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    base, whole = (int((a != b).sum()) for a, b in zip(before, _logits(model, tokens), strict=True))
    return base, whole


@torch.no_grad()
def _logits(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the base alone and of the whole model."""
    output = model.eval()(input_ids=tokens, use_cache=False, output_base_logits=True)
    return output.base_logits, output.logits
