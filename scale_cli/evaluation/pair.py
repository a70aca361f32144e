"""A trained model beside its base: two whole models, with the two predictions that a widened model has in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GenerationMixin, PreTrainedModel

from scale_cli.checkpoints.router import WEIGHTS
from scale_cli.model.configuration_scale import checked_router
from scale_cli.model.mixture import read, valid_tokens
from scale_cli.model.outputs import ScaleOutput


class Pair(PreTrainedModel, GenerationMixin):
    """A trained model and its base as one causal LM under a router, for comparison with widened models.

    Every forward pass costs one of each, except without a router, which is the trained model alone, and with averaged
    weights, which are one model. It keeps no
    key/value cache, so `generate` reads the whole text for each token. It is not made to be trained or saved.
    """

    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _no_split_modules = None

    def __init__(self, trained: Any, base: Any) -> None:
        """trained, base: causal LMs with the same vocabulary, on the same device."""
        nn.Module.__init__(self)
        self.config = trained.config
        self.trained, self.base = trained, base
        self.averaged: dict[str, Tensor] | None = None
        self.router: dict[str, Any] | None = None
        self.generation_config = trained.generation_config
        self.eval()

    @property
    def device(self) -> torch.device:
        """That of the trained model."""
        device: torch.device = self.trained.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """That of the trained model."""
        dtype: torch.dtype = self.trained.dtype
        return dtype

    def set_router(self, router: dict[str, Any] | None) -> None:
        """Choose how the two predictions become one.

        router: as in `ScaleConfig`, of the kind mixture or interpolate, or {"kind": "weights", "share": s}: one model
            whose weights are base + s (trained - base); both models have the same parameters.
        Raises ValueError for any other, and for weights of models with different parameters.
        """
        if router == self.router:
            return
        self.averaged = None
        if router is not None and router.get("kind") == WEIGHTS:
            self.router = router
            self.averaged = average(self.base, self.trained, router["share"])
        else:
            self.router = None if router is None else checked_router(router, has_two_paths=False)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_base_logits: bool = False,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ScaleOutput:
        """Next-token logits, as those of `ScaleForCausalLM` with the same arguments. kwargs: of both models' forward.

        Returns `ScaleOutput` with logits (B, T or kept, vocabulary), and `preserved` under a mixture router.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        router = self.router
        if self.averaged is not None:
            router = None  # there is one prediction
            logits = functional_call(self.trained, self.averaged, kwargs=given | {"use_cache": False}).logits
        else:
            logits = self.trained(**given, use_cache=False).logits
        needs_base = router is not None or output_base_logits
        base_logits = self.base(**given, use_cache=False).logits if needs_base else logits
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        combined, preserved = read(
            router,
            base_logits,
            logits,
            input_ids,
            kept=logits_to_keep,
            valid=valid_tokens(attention_mask, input_ids.shape[1]),
            restarts=None if position_ids is None else position_ids.expand(input_ids.shape) == 0,
        )
        returned = base_logits[:, kept] if output_base_logits else None
        return ScaleOutput(logits=combined, preserved=preserved, base_logits=returned)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole text for every token, whatever cache `generate` made."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if attention_mask is not None:
            inputs["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return inputs

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: both models are whole."""

    def get_input_embeddings(self) -> nn.Module:
        return self.trained.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.trained.get_output_embeddings()


@torch.no_grad()
def average(base: nn.Module, trained: nn.Module, share: float) -> dict[str, Tensor]:
    """base + share (trained - base) for every parameter, by name; a tied one once. Computed in float32 or better.

    Raises ValueError if the models have different parameters.
    """
    averaged = {}
    theirs, ours = (dict(model.named_parameters()) for model in (base, trained))
    if {name: p.shape for name, p in theirs.items()} != {name: p.shape for name, p in ours.items()}:
        raise ValueError("the base has other parameters, so there is no average of both")
    for name, own in ours.items():
        wide = torch.promote_types(own.dtype, torch.float32)
        averaged[name] = torch.lerp(theirs[name].to(wide), own.to(wide), share).to(own.dtype)
    return averaged
