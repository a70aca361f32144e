"""The tested releases of transformers, and the check that guards this model's code on newer ones.

A copy of this file lies beside the weights of every widened checkpoint and may be run years later, so it imports
nothing but torch, transformers and packaging.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers.modeling_outputs import CausalLMOutputWithPast

TESTED_TRANSFORMERS = ("5.17.0", "5.24.0")
"""The oldest and the newest release of transformers on which the tests of this code passed."""
CACHE_KEYWORDS = ("cache", "past_key_values")
"""The names of the key/value cache in releases of transformers, the newest first."""
CACHE = next(name for name in CACHE_KEYWORDS if name in CausalLMOutputWithPast.__dataclass_fields__)
"""Its name in the installed release."""


def is_newer_than_tested() -> bool:
    """Whether the installed transformers is newer than the newest tested release."""
    return Version(transformers.__version__) > Version(TESTED_TRANSFORMERS[1])


def installed_class(name: str, module: str) -> Any:
    """The class `name` of the installed scale_cli; None if it is not installed, or if `module` is a part of it.

    module: the `__name__` of the calling module. A copy beside the weights is as old as its checkpoint, so it is
    replaced by the installed package.
    """
    if not module.startswith("transformers_modules."):
        return None
    try:
        return getattr(importlib.import_module("scale_cli.model"), name)
    except ImportError:
        return None


@torch.no_grad()
def check_cached_generation(model: Any) -> None:
    """Compare four tokens generated with a cache and without one.

    Raises RuntimeError if a step's logits differ by more than the square root of the dtype's epsilon, relative to the
    largest logit. Comparison ends at the first step at which rounding selects another token.
    """
    prompt = torch.arange(1, 6, device=model.device).unsqueeze(0) % model.config.vocab_size
    greedy = {"do_sample": False, "num_beams": 1, "min_new_tokens": 4, "max_new_tokens": 4, "pad_token_id": 0}
    greedy |= {"output_logits": True, "return_dict_in_generate": True}
    mask = torch.ones_like(prompt)
    with_cache = model.generate(prompt, attention_mask=mask, use_cache=True, **greedy)
    without = model.generate(prompt, attention_mask=mask, use_cache=False, **greedy)
    tokens = zip(with_cache.sequences[0, 5:], without.sequences[0, 5:], strict=True)
    for logits, expected, (token, expected_token) in zip(with_cache.logits, without.logits, tokens, strict=True):
        difference = (logits.float() - expected.float()).abs().max().item()
        allowed = torch.finfo(model.dtype).eps ** 0.5 * expected.float().abs().max().item()
        if not difference <= allowed:
            raise RuntimeError(
                f"transformers {transformers.__version__} is newer than the releases that this model's code was tested "
                f"on ({' to '.join(TESTED_TRANSFORMERS)}), and generation with a cache is wrong on it: logits differ "
                f"by {difference:.2g} from those without a cache. Generate with use_cache=False, install "
                f"transformers=={TESTED_TRANSFORMERS[1]}, or write the checkpoint with newer code: "
                "scale export CHECKPOINT OUT"
            )
        if token != expected_token:
            return
