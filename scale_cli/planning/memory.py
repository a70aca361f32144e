"""The memory of a training step, measured by running the step on fake tensors, which have a shape and no values.

Included are the tensors that the model's operations make and those that autograd keeps for the backward pass, such as
logits, loss, and autocast's bfloat16 copies of weights. Attention is sdpa's, which builds no matrix of scores, over
whole windows without padding. Excluded are the GPU's context, its libraries' workspaces, and fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import masking_utils

from scale_cli.methods.step import step_arguments

Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class StepMemory:
    """The peak size of the tensors that a training step makes, in bytes.

    activations_bytes: without the weights' gradients. peak_bytes: with them.
    """

    activations_bytes: int
    peak_bytes: int


def step_memory(model: Any, *, batch_size: int, seq_length: int, precision: Precision) -> StepMemory:
    """The memory of one forward and backward pass over batch_size x seq_length tokens, as in `scale train`.

    model: as `Method.apply` returned it, in training mode, on any device. Its tensors are replaced by fake ones, so it
        cannot be used afterwards.
    """
    # The library detects packed windows by the positions' values, which fake tensors lack. These windows are unpacked.
    unpacked = mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None)
    with FakeTensorMode(), unpacked:
        _give_fake_storage(model)
        tokens = torch.zeros(batch_size, seq_length, dtype=torch.long)
        meter = _Meter([*model.parameters(), *model.buffers(), tokens])
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(meter.count_gradient)
        with meter:
            loss = _loss(model, tokens, bfloat16=precision == "bfloat16")
            loss.backward()
    return StepMemory(meter.most_activations, meter.most)


def _loss(model: Any, tokens: Tensor, *, bfloat16: bool) -> Tensor:
    """The loss as the library's `Trainer` computes it: under bfloat16 the model's output is converted to float32."""

    def forward() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model(input_ids=tokens, labels=tokens, use_cache=False, **step_arguments(model))

    return (convert_outputs_to_fp32(forward) if bfloat16 else forward)().loss


def _give_fake_storage(model: nn.Module) -> None:
    """Replace a model's tensors by fake ones on the CPU, where autocast works. Tied tensors stay tied."""
    fakes: dict[int, Any] = {}

    def fake(tensor: Tensor) -> Any:
        if id(tensor) not in fakes:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            fakes[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return fakes[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


class _Meter(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, from their creation until they are freed.

    most_activations, most: the peak without and with the gradients of weights.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        """existing: tensors that are not counted."""
        super().__init__()
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in existing)
        self.activations = self.gradients = self.most_activations = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.untyped_storage() not in self.known:
                self._count(value.untyped_storage())
        return result

    def count_gradient(self, parameter: Tensor) -> None:
        """Count a weight's complete gradient as a gradient instead of an activation."""
        assert parameter.grad is not None
        size = parameter.grad.untyped_storage().nbytes()
        self.activations -= size
        self.gradients += size

    def _count(self, storage: torch.UntypedStorage) -> None:
        self.known.add(storage)
        weakref.finalize(storage, self._forget, storage.nbytes())
        self.activations += storage.nbytes()
        self.most_activations = max(self.most_activations, self.activations)
        self.most = max(self.most, self.activations + self.gradients)

    def _forget(self, size: int) -> None:
        self.activations -= size
