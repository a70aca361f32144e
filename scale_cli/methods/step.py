"""Savings of time and memory in a training step: no unused logits, frozen weights in bfloat16, recomputation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a position without a loss."""


def step_arguments(model: Any) -> dict[str, Any]:
    """Additional arguments of the forward pass: `loss_only` for a widened model, which then keeps no logits.

    model: as `Method.apply` returned it, not wrapped for several processes.
    """
    from scale_cli.model import ScaleForCausalLM

    return {"loss_only": True} if isinstance(model, ScaleForCausalLM) else {}


def halve_frozen(model: Any) -> None:
    """Convert frozen weights to bfloat16, in place; trained weights stay in float32.

    Checkpoints do not contain frozen tensors of this model, so the stored base keeps its precision.
    """
    import torch

    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def labelled_positions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch, limited to logits at positions where some row has a label to predict.

    batch: `labels` (B, T) and other arguments of the model, on the CPU. If more than half of the positions have a label
    to predict, as in packed text, or none has, the batch is returned unchanged. Otherwise `logits_to_keep` (n,), the
    positions, and `shift_labels` (B, n), the next tokens, are added.
    """
    import torch
    from torch.nn import functional

    following = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    positions = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not 0 < len(positions) <= following.shape[1] // 2:
        return batch
    return batch | {"logits_to_keep": positions, "shift_labels": torch.index_select(following, 1, positions)}


def recompute_activations(model: Any) -> None:
    """Turn on activation checkpointing, non-reentrant. transformers 5.23 renamed the method."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def recompute_argument(recompute: bool) -> dict[str, Any]:
    """Activation checkpointing as an argument of `TrainingArguments`, under its name in the installed version."""
    from transformers import TrainingArguments

    new, old = "activation_checkpointing", "gradient_checkpointing"
    return {new if new in TrainingArguments.__dataclass_fields__ else old: recompute}
