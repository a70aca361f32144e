"""Placing a widened model on several devices (`device_map="auto"` and the like)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""The values of device_map for which the library computes a placement."""


class Together(nn.Module):
    """Modules that belong on one device, as children."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)


def paired_device_map(
    model: Any, device_map: str, max_memory: dict[Any, Any] | None = None, dtype: Any = None
) -> dict[str, Any]:
    """The device of each module by accelerate's rules, with a layer of the base and its addition on one device.

    model: a `ScaleForCausalLM`, whose tensors may be on the device meta. device_map: one of `DEVICE_MAPS`. max_memory:
    bytes per device. dtype: of the weights; None or "auto": the config's.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    family, expansion = model.family, model.expansion
    decoder = family.decoder_of(model.base)
    layers = enumerate(zip(family.layers_of(model.base), expansion.layers, strict=True))
    groups = {  # accelerate takes a name that is part of another for a tied module, so none is
        "embedding": Together(decoder.get_submodule(family.embedding), expansion.embedding),
        **{f"layer_{i}": Together(*pair) for i, pair in layers},
        "norm": Together(
            decoder.get_submodule(family.final_norm), decoder.get_submodule(family.rotary), expansion.norm
        ),
        "head": Together(model.base.get_submodule(family.head), expansion.head),
    }
    grouped = nn.ModuleDict(groups)
    dtype = model.config.dtype if dtype in (None, "auto") else dtype
    options: dict[str, Any] = {"no_split_module_classes": [Together.__name__], "dtype": dtype or torch.float32}
    if device_map == "sequential":
        memory = get_max_memory(max_memory)
    else:
        memory = get_balanced_memory(grouped, max_memory, low_zero=device_map == "balanced_low_0", **options)
    devices = infer_auto_device_map(grouped, memory, **options)
    if set(devices) == {""}:
        return devices
    names = {module: name for name, module in model.named_modules()}
    return {names[module]: devices[key] for key, group in groups.items() for module in group.children()}
