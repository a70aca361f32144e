"""A tiny widened model under the three methods for the library's own tests; `python -m tests.common` runs this file.

A test of the library is skipped (`SKIPPED`), or runs on a subclass of the model (`STAND_INS`), only if it presumes a
property that a model of two streams with a frozen base cannot have.
"""

from __future__ import annotations

import dataclasses
import os
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from scale_cli.model import LayerShape, ScaleConfig, ScaleForCausalLM
from tests.common.library import load
from tests.common.settings import FAMILY, PACKAGES, SOURCE

modeling, generation = load(Path(os.environ[SOURCE]), Path(os.environ[PACKAGES]))

METHODS: dict[str, Any] = {
    "preserve": {},
    "adapt": {"collaborative": {"layers": [0, 1], "modules": ["attention", "ffn"]}},
    "route": {"collaborative": {"layers": [1], "modules": ["attention"]}, "router": {"threshold": 0.5}},
}

EMBEDS = "a widened model has two embeddings and computes from token ids"
RESIZE = "the base is frozen with its vocabulary; resizing is refused in one line"
SKIPPED = {
    "test_correct_missing_keys": "loads a base's folder, which does not record how much to add",
    "test_generate_continue_from_inputs_embeds": EMBEDS,
    "test_generate_from_inputs_embeds": EMBEDS,
    "test_generate_from_random_inputs_embeds": EMBEDS,
    "test_resize_embeddings_untied": RESIZE,
    "test_resize_tokens_embeddings": RESIZE,
}
"""Tests by the beginning of their names, and why they are skipped."""


class UnfrozenForCausalLM(ScaleForCausalLM):
    """For tests of the gradient at the input embedding: the frozen base builds no graph (Theorem 3.1)."""

    def _freeze_base(self) -> None:
        self.base.eval()


class ExpansionFirstForCausalLM(ScaleForCausalLM):
    """For tests that take the first checkpointed layer: the base's layers run as parts of the expansion's."""

    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        yield from self.expansion.modules()
        yield from super().modules(remove_duplicate)


class NumericForCausalLM(ScaleForCausalLM):
    """For a test that subtracts outputs: `preserved` is bool."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        if isinstance(outputs, tuple):
            return tuple(t.float() if getattr(t, "dtype", None) is torch.bool else t for t in outputs)
        if outputs.preserved is not None:
            outputs.preserved = outputs.preserved.float()
        return outputs


STAND_INS = {
    "test_retain_grad_hidden_states_attentions": UnfrozenForCausalLM,
    "test_enable_input_require_grads_with_gradient_checkpointing": UnfrozenForCausalLM,
    "test_training_gradient_checkpointing": ExpansionFirstForCausalLM,
    "test_training_gradient_checkpointing_use_reentrant_false": ExpansionFirstForCausalLM,
    "test_training_gradient_checkpointing_use_reentrant_true": ExpansionFirstForCausalLM,
    "test_model_outputs_equivalence": NumericForCausalLM,
}
# The library gives labels to the classes that it lists by name.
names: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
names["scale"] = tuple(c.__name__ for c in {ScaleForCausalLM, *STAND_INS.values()})


class ModelTester:
    """The sizes and inputs that the library's tests ask for."""

    batch_size, seq_length, is_training = 13, 7, True
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 99, 32, 2, 4
    num_hidden_states_types = 2  # the base's and the added ones

    def __init__(self, method: str) -> None:
        self.method = method

    def get_config(self) -> ScaleConfig:
        base_class = CONFIG_MAPPING[os.environ[FAMILY]]
        sizes = {name: getattr(self, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
        sizes |= {"num_attention_heads": self.num_attention_heads, "num_key_value_heads": 2, "head_dim": 8}
        sizes |= {"intermediate_size": 48, "max_position_embeddings": 512}
        sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        known = {field.name for field in dataclasses.fields(base_class)}
        base = base_class(**{name: size for name, size in sizes.items() if name in known})
        groups = LayerShape.of(base).num_key_value_groups
        added = {"hidden_size": 8, "num_attention_heads": groups, "num_key_value_heads": 1, "intermediate_size": 16}
        return ScaleConfig(base_config=base.to_dict(), expansion=added, **METHODS[self.method])

    def prepare_config_and_inputs_for_common(self) -> tuple[ScaleConfig, dict[str, torch.Tensor]]:
        tokens = modeling.ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens).tril()}


class Common(modeling.ModelTesterMixin, generation.GenerationTesterMixin):  # type: ignore[name-defined]
    """The library's tests, for one method."""

    method = ""

    def setUp(self) -> None:
        test = self._testMethodName
        for name, reason in SKIPPED.items():
            if test.startswith(name):
                self.skipTest(reason)
        self.model_tester = ModelTester(self.method)
        self.all_model_classes = (STAND_INS.get(test, ScaleForCausalLM),)

    def _check_past_key_values_for_generate(self, batch_size: int, *args: Any, **kwargs: Any) -> None:
        """The cache holds the heads of both streams on every path: those of layer 1 twice under the router."""
        cache, length, config = (*args, *kwargs.values())
        heads = config.num_key_value_heads + config.expansion["num_key_value_heads"]
        paths = (1, 2 if self.method == "route" else 1)
        shapes = [(batch_size, heads * number, length, config.head_dim) for number in paths]
        for part in ("keys", "values"):
            assert [getattr(layer, part).shape for layer in cache.layers] == shapes


class PreserveTest(Common, unittest.TestCase):
    method = "preserve"


class AdaptTest(Common, unittest.TestCase):
    method = "adapt"


class RouteTest(Common, unittest.TestCase):
    method = "route"
