"""Sharding (FSDP2): each process holds a part of every weight, gradient and moment; a layer is whole as it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from scale_cli.methods.families import decoder_layers


def shard(model: Any, device: torch.device, processes: int, *, bfloat16: bool) -> None:
    """Spread the model's parameters over the processes, in place, a decoder layer at a time.

    All processes must call it, with the same values in the model. bfloat16: a layer is put together in bfloat16, since
    autocast would keep its own copies of all layers until the backward pass; gradients are summed in float32.
    Raises RequestError for an unknown family, whose layers have no known place.
    """
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (processes,)), "reshard_after_forward": True}
    if bfloat16:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for modules in decoder_layers(model):
        if len(modules) > 1:
            _compute_inside(*modules)
        for module in modules:
            fully_shard(module, **options)
    fully_shard(model, **options)


def _compute_inside(layer: Any, added: Any) -> None:
    """Call the base's layer around the computation of the added one, which reads the parts of both.

    A sharded module is made whole by hooks around its own call, and the base's layers are never called.
    """
    layer.forward = added.forward
    added.forward = lambda *args, **kwargs: layer(*args, **kwargs)


def whole(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Tensors by name with the sharded ones put together, on the CPU. All processes must call it.

    keep: whether this process needs them; the others get none, so that they are in memory once.
    """
    put_together: dict[int, Tensor] = {}  # a tensor with two names stays one
    for tensor in tensors.values():
        if isinstance(tensor, DTensor) and id(tensor) not in put_together:
            full = whole_tensor(tensor)
            put_together[id(tensor)] = full.cpu() if keep else full.new_empty(0)
    return {name: put_together.get(id(tensor), tensor) for name, tensor in tensors.items()} if keep else {}


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor, put together if it is sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def optimizer_state(model: Any, optimizer: Any) -> dict[str, Any]:
    """The state of a sharded model's optimizer, put together on the CPU of the first process.

    All processes must call it. Any number of processes can take it up again.
    """
    return get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def set_optimizer_state(model: Any, optimizer: Any, state: dict[str, Any]) -> None:
    """Fill a sharded model's optimizer with what `optimizer_state` returned. All processes must call it."""
    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))
