"""What every training step does to save time and memory: no logits that nothing reads, frozen weights in bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a position without a loss."""


def step_arguments(model: Any) -> dict[str, Any]:
    """Further arguments of a step's forward pass: a widened model computes its loss without keeping the logits.

    model: as `Method.apply` returned it, not wrapped for several processes.
    """
    from scale_cli.model import ScaleForCausalLM

    return {"loss_only": True} if isinstance(model, ScaleForCausalLM) else {}


def halve_frozen(model: Any) -> None:
    """Keep frozen weights in bfloat16, for steps that compute in it; trained weights stay in float32.

    Checkpoints never take frozen tensors from this model: a base is stored as it came.
    """
    import torch

    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def labelled_positions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch on the CPU that asks for logits only at positions at which some row has a label to predict.

    batch: `labels` (B, T) and other arguments of the model. If most positions have a label, as in packed text, the
    batch is returned as it is; else `logits_to_keep` (n,) are the positions and `shift_labels` (B, n) the next tokens.
    """
    import torch
    from torch.nn import functional

    following = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    positions = (following != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not 0 < len(positions) <= following.shape[1] // 2:
        return batch
    return batch | {"logits_to_keep": positions, "shift_labels": torch.index_select(following, 1, positions)}


def recompute_activations(model: Any) -> None:
    """Let the model recompute activations in the backward pass (activation checkpointing, PyTorch's new kind).

    The method has another name since transformers 5.23.
    """
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def recompute_argument(recompute: bool) -> dict[str, Any]:
    """The same as an argument of the library's `TrainingArguments`."""
    from transformers import TrainingArguments

    new, old = "activation_checkpointing", "gradient_checkpointing"
    return {new if new in TrainingArguments.__dataclass_fields__ else old: recompute}
