"""OSF is peft's, and its runs do not depend on how a base is decomposed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig

from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS, method_options
from tests.helpers import probe, tiny_base
from tests.methods.test_methods import BLOCKS, applied, trained
from tests.plans import PYTHIA_160M, needs_osf

pytestmark = needs_osf
Tolerance = Callable[[torch.dtype], dict[str, Any]]


def osf_model(name: str = "llama-grouped", *, dtype: torch.dtype = torch.float32, share: float = 0.25) -> Any:
    return applied("osf", tiny_base(name, dtype=dtype), effective_rank=share)


def disturb(model: Any) -> None:
    """Change all trained tensors a little, as training does."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * parameter.std().nan_to_num(1.0) * noise)


@pytest.mark.parametrize("name", ["llama-grouped", "neox"])
def test_osf_is_pefts(name: str, tolerance: Tolerance) -> None:
    """On every map; it starts as the base, and merged it is an ordinary model."""
    paths = ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]
    if name != "neox":
        paths = [*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))]
    config = peft.OSFConfig(effective_rank=0.25, target_modules=paths, task_type="CAUSAL_LM")
    ours, theirs = osf_model(name), peft.get_peft_model(tiny_base(name), config)
    layers = BLOCKS[name][0]
    assert trained(ours) == trained(theirs)
    assert trained(ours) == {
        f"base_model.model.{layers}.{layer}.{path}.osf_svd_params.default.{part}_low"
        for layer in range(3)
        for path in paths
        for part in "USV"
    }
    close = tolerance(torch.float32)
    with torch.no_grad():
        before = tiny_base(name)(probe()).logits
        torch.testing.assert_close(ours(probe()).logits, before, **close)
        for model in (ours, theirs):
            disturb(model)
        logits = ours(probe()).logits
        assert torch.equal(logits, theirs(probe()).logits)
        assert not torch.allclose(logits, before, **close)
        merged = METHODS["osf"].merged(ours)  # type: ignore[misc]
        torch.testing.assert_close(merged(probe()).logits, logits, **close)
    assert {key for key, _ in merged.named_parameters()} == {key for key, _ in tiny_base(name).named_parameters()}
    assert not hasattr(merged, "peft_config")


def test_the_large_singular_directions_get_no_gradient() -> None:
    """The gradient of the merged matrix is zero along the preserved ones, on both sides; along others it is not."""
    model = osf_model().train()
    model(probe(), labels=probe()).loss.backward()
    weight = tiny_base("llama-grouped").model.layers[1].mlp.up_proj.weight.detach()
    u, _, v = torch.linalg.svd(weight, full_matrices=False)
    kept = int(0.25 * min(weight.shape))
    parts = model.base_model.model.model.layers[1].mlp.up_proj.osf_svd_params["default"]
    for grad, directions in ((parts["U_low"].grad, u), (parts["V_low"].grad.T, v.T)):
        along = (directions.T @ grad).norm(dim=1)
        assert along[:kept].max() < 1e-5 * along.max()
        assert along[kept:].min() > 1e-3 * along.max()


def test_what_is_stored_needs_no_decomposition_of_the_same_base(tolerance: Tolerance) -> None:
    """Loaded onto the base in bfloat16, whose singular directions are others, the update is the trained one.

    With the trained parts alone it would not be: the companion below puts the start of the rounded base in their place.
    """
    method, model = METHODS["osf"], osf_model()
    disturb(model)
    written = {name: tensor.clone() for name, tensor in method.stored(model).items()}
    deltas: dict[str, list[torch.Tensor]] = {}
    for loaded in (("all", written), ("trained", {n: t for n, t in written.items() if "_low_init" not in n})):
        other = osf_model(dtype=torch.bfloat16)
        with torch.no_grad():
            for name, tensor in loaded[1].items():
                method.stored(other)[name].copy_(tensor)
        layers = [module for module in other.modules() if hasattr(module, "get_delta_weight")]
        deltas[loaded[0]] = [layer.get_delta_weight("default").detach() for layer in layers]
    wanted = [m.get_delta_weight("default").detach() for m in model.modules() if hasattr(m, "get_delta_weight")]
    assert len(wanted) == 3 * 7
    assert all(torch.equal(a, b) for a, b in zip(deltas["all"], wanted, strict=True))
    off = max(float((a - b).norm() / b.norm()) for a, b in zip(deltas["trained"], wanted, strict=True))
    assert off > 0.05


@pytest.mark.parametrize("parameters", [1, 10**6, 2 * 10**7, 10**9])
def test_the_nearest_share(parameters: int) -> None:
    """No other share of a fine grid trains closer to the wanted number."""
    config, size = AutoConfig.for_model(**PYTHIA_160M), METHODS["osf"].size
    assert size is not None
    assert size.option == "effective_rank"
    maps = ((768, 2304), (768, 768), (768, 3072), (3072, 768))

    def distance(share: float) -> int:
        return abs(12 * sum((768 - int(768 * share)) * (a + b + 1) for a, b in maps) - parameters)

    nearest = size.nearest(config, parameters)
    assert 1 <= int(768 * nearest) < 768
    assert distance(nearest) == min(distance((k + 0.5) / 768) for k in range(1, 768))


def test_osf_keeps_and_trains_at_least_one_direction() -> None:
    with pytest.raises(
        RequestError, match=r"^--effective-rank 0\.01: the smallest matrix has 16 .*; choose 0\.062 to "
    ):
        osf_model(share=0.01)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"^--effective-rank {share:g}: a share above 0 and below 1$"):
            method_options({"effective_rank": share})


def test_an_older_peft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.18.0")
    message = r"^--method osf: needs peft 0\.21 or newer, and 0\.18\.0 is installed; pip install 'peft>=0\.21'$"
    with pytest.raises(RequestError, match=message):
        METHODS["osf"].resolve(method_options({})["osf"], None)
