"""The proof that an upscaled checkpoint has its base's logits. Both are loaded from disk, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from scale_cli.core.errors import RequestError
from scale_cli.surgery.source import Base

PROBE_BATCH = 2
PROBE_TOKENS = 64
TOLERANCE_EPS = 4.0
"""Allowed difference of the logits, in units of eps(dtype) x the largest |logit|. Both expansions add exact zeros, so
on a CPU the difference should be 0.0. The tolerance allows another order of the same additions."""


@dataclass(frozen=True)
class Proof:
    """The difference of the upscaled model's logits from the base's own.

    max_delta_logit, max_logit: largest |difference| and largest |logit| over all probe tokens and the vocabulary.
    tolerance: the largest difference that counts as rounding. dtype: of the weights and the computation, on the CPU.
    probe_seed, probe_shape: the probe is torch.randint(vocabulary, probe_shape) of a CPU generator with this seed.
    """

    max_delta_logit: float
    max_logit: float
    tolerance: float
    dtype: str
    probe_seed: int
    probe_shape: tuple[int, int]


def prove_unchanged(base: Base, folder: Path, model_class: type[PreTrainedModel], *, seed: int) -> Proof:
    """Compare the checkpoint in `folder`, loaded by `model_class`, with the base by its own class on random tokens.

    A base whose logits overflow in its own dtype is compared in float32.
    Raises RequestError if the base's logits are NaN or infinite in float32 too, and RuntimeError if the logits differ
    by more than rounding or a tensor is missing.
    """
    shape = (PROBE_BATCH, min(PROBE_TOKENS, base.config.max_position_embeddings))
    tokens = torch.randint(base.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
    dtype = base.dtype
    expected, _ = _logits(base.model_class, base.folder, dtype, tokens)
    if not expected.isfinite().all() and dtype != torch.float32:
        dtype = torch.float32
        expected, _ = _logits(base.model_class, base.folder, dtype, tokens)
    if not expected.isfinite().all():
        rows = int((~expected.isfinite()).any(-1).sum())
        raise RequestError(
            f"{base.given} gives NaN or infinite logits at {rows} of {tokens.numel()} random tokens, in float32 too, "
            "so nothing can be proved; mend its weights, or write the result unproved with --no-verify"
        )
    actual, missing = _logits(model_class, folder, dtype, tokens)
    if missing:
        raise RuntimeError(f"the written checkpoint lacks {', '.join(missing)}")
    proof = compare(expected, actual, dtype=dtype, seed=seed, shape=shape)
    if not proof.max_delta_logit <= proof.tolerance:  # also true for NaN
        raise RuntimeError(
            f"the logits of the upscaled model differ from those of {base.given}: max |delta logit| is "
            f"{proof.max_delta_logit:.3g}, the tolerance for rounding is {proof.tolerance:.3g}; nothing was written"
        )
    return proof


def compare(expected: Tensor, actual: Tensor, *, dtype: torch.dtype, seed: int, shape: tuple[int, int]) -> Proof:
    """The proof from the logits of the base and of the upscaled model, computed in `dtype`."""
    max_logit = expected.abs().max().item()
    return Proof(
        max_delta_logit=(actual - expected).abs().max().item(),
        max_logit=max_logit,
        tolerance=TOLERANCE_EPS * torch.finfo(dtype).eps * max_logit,
        dtype=str(dtype).removeprefix("torch."),
        probe_seed=seed,
        probe_shape=shape,
    )


def _logits(
    model_class: type[PreTrainedModel], folder: Path, dtype: torch.dtype, tokens: Tensor
) -> tuple[Tensor, list[str]]:
    """Logits (batch, length, vocabulary) in float64, and the names of the tensors that the folder lacks."""
    loaded: Any = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, use_safetensors=True)
    model, info = loaded
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens, use_cache=False).logits.double()
    return logits, sorted(info["missing_keys"])
