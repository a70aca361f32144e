"""On a GPU: what the CPU tests show, in the arithmetic of CUDA. `pytest -m gpu` runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.methods import METHODS, method_options
from scale_cli.model import ScaleForCausalLM
from tests.helpers import BASES, probe, tiny_base, widened
from tests.runs import World, as_loaded, lines, logits, reload, run

Tolerance = Callable[[torch.dtype], Any]
DTYPES = (torch.float32, torch.bfloat16)
KINDS: dict[str, dict[str, Any]] = {
    "scale-preserve": {},
    "scale-adapt": {"layers": (1, 2), "modules": ("attention", "ffn")},
    "scale-route": {"layers": (1,), "modules": ("attention",), "threshold": 0.7},
}

pytestmark = pytest.mark.gpu


def on_gpu(model: Any) -> Any:
    return model.to("cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_the_original_half_is_the_base(name: str, attention: str, dtype: torch.dtype, tolerance: Tolerance) -> None:
    base = tiny_base(name, dtype=dtype)
    model, base, tokens = on_gpu(widened(base)), on_gpu(base), probe().cuda()
    for either in (base, model):
        either.set_attn_implementation(attention)
    expected = base(tokens, output_hidden_states=True).hidden_states
    found = model(tokens, output_hidden_states=True).hidden_states
    for ours, theirs in zip(found, expected, strict=True):
        if attention == "sdpa":
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, **tolerance(dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_a_gpu_computes_what_a_cpu_does(name: str, kind: str, tolerance: Tolerance) -> None:
    model, tokens = widened(tiny_base(name), **KINDS[kind]), probe()
    expected = model(tokens).logits
    found = on_gpu(model)(tokens.cuda()).logits
    torch.testing.assert_close(found.cpu(), expected, **tolerance(torch.float32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the compiler imports
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_compiled_is_not_compiled(kind: str, tolerance: Tolerance) -> None:
    model, tokens = on_gpu(widened(tiny_base("llama-grouped"), **KINDS[kind])), probe().cuda()
    expected = model(tokens, use_cache=False).logits
    found = torch.compile(model)(tokens, use_cache=False).logits
    torch.testing.assert_close(found, expected, **tolerance(torch.float32))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_generation_is_generation(kind: str) -> None:
    model, tokens = on_gpu(widened(tiny_base("llama-grouped"), **KINDS[kind])), probe(length=5).cuda()
    greedy: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(tokens, use_cache=True, **greedy)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **greedy))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_flash_attention_is_attention(kind: str, tolerance: Tolerance) -> None:
    pytest.importorskip("flash_attn", reason="flash_attn is not installed on this machine")
    model = on_gpu(widened(tiny_base("llama-grouped", dtype=torch.bfloat16, head_dim=16), **KINDS[kind]))
    tokens = probe().cuda()
    expected = model(tokens, use_cache=False).logits
    model.set_attn_implementation("flash_attention_2")
    torch.testing.assert_close(model(tokens, use_cache=False).logits, expected, **tolerance(torch.bfloat16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_leave_the_base_as_it_was(kind: str, dtype: torch.dtype) -> None:
    model: ScaleForCausalLM = on_gpu(widened(tiny_base("llama-grouped")))
    METHODS[kind].apply(model, method_options({"preserve_layers": 1})[kind], [])
    before = {name: tensor.clone() for name, tensor in model.base.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = [parameter.detach().clone() for parameter in trained]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(3):
        tokens = probe(seed=step).cuda()
        with torch.autocast("cuda", dtype, enabled=dtype is torch.bfloat16):
            loss = model(tokens, labels=tokens).loss
        assert loss is not None
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.base.state_dict().items())
    assert any(not torch.equal(now, then) for now, then in zip(trained, first, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_loads(method: str, world: World, tmp_path: Path) -> None:
    """In bfloat16, which is what a run chooses there; the loss falls, and what was written is what was trained."""
    done = run(world.source(method), tmp_path / "run", world.recipe(method, steps=12))
    losses = [line["loss"] for line in lines(done.folder) if "loss" in line]
    assert losses[-1] < losses[0]
    trained = as_loaded(done.model).cpu().float()
    assert torch.isfinite(logits(trained)).all()
    torch.testing.assert_close(logits(reload(done.folder).float()), logits(trained), rtol=1e-4, atol=1e-4)
