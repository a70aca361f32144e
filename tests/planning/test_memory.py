"""The memory of a step on fake tensors equals the memory that the allocator hands out in a real step."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from scale_cli.methods import METHODS
from scale_cli.methods.step import halve_frozen, recompute_activations, step_arguments
from scale_cli.planning.memory import Precision, step_memory
from scale_cli.training.train import train
from scale_cli.training.trainer import PartTrainer
from tests.plans import prepared
from tests.runs import World

LAYERS = 2


@contextlib.contextmanager
def allocations() -> Iterator[Callable[[], int]]:
    """Yields a function that returns, after the block, the peak bytes that the CPU's allocator handed out in it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        yield lambda: most
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)


def as_trained(method: str, name: str = "llama-grouped", *, precision: Precision = "bfloat16") -> PreTrainedModel:
    """A tiny model as `scale train` prepares it for this precision."""
    model = prepared(method, name, layers=LAYERS)
    if precision == "bfloat16":
        halve_frozen(model)
    return model


def real_step(model: PreTrainedModel, *, batch_size: int, seq_length: int, bfloat16: bool) -> tuple[int, int]:
    """The bytes that autograd keeps for the backward pass, and the peak bytes of the allocator in a step."""
    tokens = torch.zeros(batch_size, seq_length, dtype=torch.long)

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = model(input_ids=tokens, labels=tokens, use_cache=False, **step_arguments(model))
        if output.logits is not None:
            kept_alive = output.logits.float()  # as in `Trainer`
            assert kept_alive.dtype == torch.float32
        return output.loss

    forward().backward()  # creates tensors that are kept, such as rotary tables
    model.zero_grad()
    gc.collect()
    lasting = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers(), tokens]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in lasting:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    kept_bytes = sum(kept.values())
    del loss
    with allocations() as most:
        forward().backward()
    return kept_bytes, most()


MEMORY_CASES = [
    *((method, "llama-grouped", "bfloat16") for method in METHODS),
    *(("scale-route", name, "bfloat16") for name in ("neox", "gemma3")),
    *((method, "neox", "float32") for method in ("fft", "scale-adapt")),
]


@pytest.mark.parametrize(("method", "name", "precision"), MEMORY_CASES)
def test_memory_is_that_of_a_real_step(method: str, name: str, precision: Precision) -> None:
    model = as_trained(method, name, precision=precision)
    kept, most = real_step(model, batch_size=3, seq_length=24, bfloat16=precision == "bfloat16")
    memory = step_memory(model, batch_size=3, seq_length=24, precision=precision)
    assert memory.peak_bytes == pytest.approx(most, rel=0.01)
    assert kept <= memory.activations_bytes <= memory.peak_bytes


@pytest.mark.parametrize(("method", "family"), [("fft", "neox"), ("scale-route", "llama")])
def test_memory_is_that_of_scale_train(
    method: str, family: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: dict[str, Any] = {}
    training_step = PartTrainer.training_step

    def measure(trainer: PartTrainer, model: Any, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        with allocations() as most:
            loss = training_step(trainer, model, inputs, *rest)
        measured.update(model=trainer.model, shape=inputs["input_ids"].shape, most=most())
        return loss

    monkeypatch.setattr(PartTrainer, "training_step", measure)
    recipe = world.recipe(method, steps=2, precision="bfloat16")
    train(world.source(method, family), tmp_path / "run", recipe)
    model, (batch_size, seq_length) = measured["model"], measured["shape"]
    vars(model).pop("forward", None)  # set by `Trainer`, with autocast
    model.zero_grad()
    memory = step_memory(model.train(), batch_size=batch_size, seq_length=seq_length, precision="bfloat16")
    assert memory.peak_bytes == pytest.approx(measured["most"], rel=0.01)


def test_where_gradients_are_most_they_are_in_the_peak() -> None:
    model = prepared("fft")
    gradients = 4 * sum(p.numel() for p in model.parameters())
    _, most = real_step(model, batch_size=1, seq_length=2, bfloat16=False)
    memory = step_memory(model, batch_size=1, seq_length=2, precision="float32")
    assert memory.peak_bytes == pytest.approx(most, rel=0.01)
    assert memory.activations_bytes < gradients < memory.peak_bytes < memory.activations_bytes + gradients


@pytest.mark.parametrize("method", ["fft", "scale-route"])
def test_recomputing_saves_memory_as_a_real_step_does(method: str) -> None:
    with_all = step_memory(as_trained(method), batch_size=3, seq_length=24, precision="bfloat16")
    model = as_trained(method)
    recompute_activations(model)
    _, most = real_step(model, batch_size=3, seq_length=24, bfloat16=True)
    memory = step_memory(model, batch_size=3, seq_length=24, precision="bfloat16")
    states = LAYERS * torch.get_rng_state().nbytes  # a real step keeps the generator's state per layer
    assert memory.peak_bytes == pytest.approx(most - states, rel=0.01)
    assert memory.peak_bytes < with_all.peak_bytes


def test_a_frozen_base_in_the_graph_would_be_seen() -> None:
    """SCALE-Preserve saves memory because no activation of the base's stream is kept for the backward pass."""
    lean = step_memory(as_trained("scale-preserve"), batch_size=3, seq_length=24, precision="bfloat16")
    model = as_trained("scale-preserve")
    model.base.requires_grad_(True)
    assert step_memory(model, batch_size=3, seq_length=24, precision="bfloat16").peak_bytes > 1.3 * lean.peak_bytes
