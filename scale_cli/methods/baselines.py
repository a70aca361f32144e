"""The methods that SCALE is compared with: full fine-tuning, LoRA, Freeze and LLaMA Pro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scale_cli.core.errors import RequestError
from scale_cli.methods.options import MethodOptions

if TYPE_CHECKING:
    from scale_cli.model import Family


def fft(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """Full fine-tuning: every parameter trains."""
    model.requires_grad_(True)
    return model


def lora(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """LoRA (arXiv 2106.09685) by peft on every attention and feed-forward matrix; the rest is frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_r if options.lora_alpha is None else options.lora_alpha,
        target_modules=list(_family(model, "lora").linear_paths()),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def freeze(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """The bottom layers and the input embedding frozen, with it a head that is tied to it, and the rest trained."""
    layers = _family(model, "freeze").layers_of(model)
    if options.freeze_layers >= len(layers):
        raise RequestError(
            f"--freeze-layers {options.freeze_layers}: the model has {len(layers)} layers and one at least must train; "
            f"choose 0 to {len(layers) - 1}"
        )
    model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    for layer in layers[: options.freeze_layers]:
        layer.requires_grad_(False)
    return model


def llama_pro(model: Any, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """LLaMA Pro (arXiv 2401.02415): only the blocks that block expansion added train."""
    layers = _family(model, "llama-pro").layers_of(model)
    model.requires_grad_(False)
    for index in new_layers:
        layers[index].requires_grad_(True)
    return model


def _family(model: Any, method: str) -> Family:
    """The family of the model, in which a method finds its layers and linear maps."""
    from scale_cli.model import family_of

    try:
        return family_of(model.config.model_type)
    except ValueError as error:
        raise RequestError(f"--method {method}: {error}; --method fft trains any") from error
