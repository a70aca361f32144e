"""What the model promises on every release of transformers, and the check that guards it on those to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM

from scale_cli.core.versions import TESTED
from scale_cli.methods.step import recompute_activations
from scale_cli.model import compatibility, modeling_scale
from scale_cli.model.compatibility import CACHE, TESTED_TRANSFORMERS, check_cached_generation
from tests.helpers import base_folder, load, probe, tiny_base, widened

GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def model() -> Any:
    return widened(tiny_base("llama-grouped"), layers=(1,), modules=("attention",), threshold=0.7)


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed transformers is newer than what was tested."""
    monkeypatch.setattr(compatibility, "TESTED_TRANSFORMERS", ("4.0.0", "4.1.0"))


@pytest.fixture
def broken_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's generation gives the model an empty cache at every step, as when it calls it by another name."""
    forward = modeling_scale.ScaleForCausalLM.forward

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs | ({CACHE: None} if CACHE in kwargs else {}))

    monkeypatch.setattr(modeling_scale.ScaleForCausalLM, "forward", forgetful)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that are checked from now on."""
    checked: list[Any] = []

    def check(model: Any) -> None:
        checked.append(model)
        check_cached_generation(model)

    monkeypatch.setattr(modeling_scale, "check_cached_generation", check)
    return checked


def test_unknown_keywords_and_embeddings_are_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keywords cache_position"):
        model(probe(), cache_position=torch.arange(11))
    assert torch.equal(model(probe(), inputs_embeds=None).logits, model(probe()).logits)
    for tokens in (probe(), None):
        with pytest.raises(ValueError, match=r"^inputs_embeds: a widened model "):
            model(tokens, inputs_embeds=torch.zeros(2, 11, 32))


def test_the_cache_has_one_of_its_names(model: Any) -> None:
    cache = model(probe())[CACHE]
    with pytest.raises(ValueError, match="past_key_values are both given"):
        model(probe(), cache=cache, past_key_values=cache)


def test_no_cache_while_gradients_are_checkpointed(model: Any) -> None:
    cache = model(probe())[CACHE]
    recompute_activations(model.train())
    assert model(probe(), use_cache=True).get(CACHE) is None
    with pytest.raises(ValueError, match="while gradients are checkpointed"):
        model(probe(), cache=cache)


def test_on_a_tested_release_nothing_is_checked(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "TESTED_TRANSFORMERS", ("5.0.0", transformers.__version__))
    checked = counted(monkeypatch)
    model.generate(probe(length=5), **GREEDY)
    assert checked == []


def test_on_a_newer_release_the_first_use_of_a_cache_is_checked(
    model: Any, newer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = counted(monkeypatch)
    model(probe(), use_cache=False)
    assert checked == []
    state = torch.get_rng_state()
    model.generate(probe(length=5), **GREEDY)
    assert checked == [model]
    assert torch.equal(torch.get_rng_state(), state)
    model(probe())
    assert checked == [model]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_cache_is_refused_at_every_use(dtype: torch.dtype, newer: None, broken_cache: None) -> None:
    model = widened(tiny_base("llama-grouped", dtype=dtype))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"is newer than .* generation with a cache is wrong on it"):
            model.generate(probe(length=5), **GREEDY)
    model.generate(probe(length=5), use_cache=False, **GREEDY)


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", torch.float32), ("gemma3", torch.bfloat16), ("neox", torch.bfloat16)]
)
def test_a_right_cache_passes_the_check(name: str, dtype: torch.dtype) -> None:
    check_cached_generation(widened(tiny_base(name, dtype=dtype)))


def test_without_the_check_a_wrong_cache_would_go_unseen(model: Any, broken_cache: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(compatibility, "TESTED_TRANSFORMERS", ("5.0.0", transformers.__version__))
    wrong = model.generate(probe(length=5), **GREEDY)
    assert not torch.equal(wrong, model.generate(probe(length=5), use_cache=False, **GREEDY))


def test_the_code_and_the_package_name_the_same_versions() -> None:
    assert TESTED["transformers"] == TESTED_TRANSFORMERS
    assert Version(TESTED_TRANSFORMERS[0]) <= Version(transformers.__version__)


def test_the_installed_code_goes_before_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing of ours is imported yet, the library runs the folder's code, which takes the installed classes."""
    assert compatibility.installed_class("ScaleConfig", "scale_cli.model.configuration_scale") is None
    found = compatibility.installed_class("ScaleForCausalLM", "transformers_modules.wide.modeling_scale")
    assert found is modeling_scale.ScaleForCausalLM


@torch.no_grad()
def test_code_in_the_folder_is_not_run_beside_ours(tmp_path: Path) -> None:
    """An older folder's code may be wrong on this release of the library."""
    widened(load(base_folder(tmp_path / "base"))).save_pretrained(tmp_path / "wide")
    for file in (tmp_path / "wide").glob("*.py"):
        file.write_text("raise AssertionError('the code of the folder was run')\n", encoding="utf-8")
    for options in ({}, {"trust_remote_code": True}):
        loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "wide", **options)
        assert type(loaded) is modeling_scale.ScaleForCausalLM


def test_the_outputs_as_a_tuple(model: Any) -> None:
    named = model(probe(), use_cache=False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model(probe(), use_cache=False, return_dict=False), named.to_tuple(), strict=True)
    )
    model.config.return_dict = False
    assert isinstance(model(probe(), use_cache=False), tuple)
