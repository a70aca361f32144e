"""What a widened model's forward takes and returns beyond the library's own arguments and fields."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import transformers
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from .compatibility import CACHE
from .streams import Streams

ATTENTION_KEYWORDS = frozenset(
    {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "attention_instances"}
)
"""Keywords of `forward` for the attention function: the library's for packed rows, and vLLM's."""
LOSS_KEYWORDS = frozenset({"shift_labels", "num_items_in_batch", "ignore_index"})
"""Keywords of `forward` for the loss."""


@dataclass
class ScaleOutput(CausalLMOutputWithPast):
    """The library's causal LM output, and the fields of the added stream. Under a router both are the adapting path's.

    hidden_states: with `output_hidden_states`, x after the embedding, each layer and the final norm, (B, T, hidden)
        each, None at positions that `output_hidden_states` does not list.
    expansion_hidden_states: x_up at the same points, (B, T, hidden_up) each.
    attentions: with `output_attentions`, the weights of the base's heads in each layer, (B, heads, T, S) each. Empty
        if the attention function returns none, as sdpa.
    expansion_attentions: the same of the added heads.
    preserved: under a cosine router, (B, T) bool, True where a token took the preserving branch of eq. 5. Under a
        mixture router, (B, T) float, the weight of the base in the prediction of the next token.
    base_logits: with `output_base_logits`, the base's own logits Z, (B, T or kept, vocabulary).
    """

    expansion_hidden_states: tuple[Tensor | None, ...] | None = None
    expansion_attentions: tuple[Tensor, ...] | None = None
    preserved: Tensor | None = None
    base_logits: Tensor | None = None


def loss_options(keywords: dict[str, Any], owner: str) -> dict[str, Any]:
    """Take the keywords for the loss out of `keywords`, which is left with those for the attention function.

    Raises TypeError for an unknown keyword, ValueError for inputs_embeds. owner: the class named in the message.
    """
    if keywords.pop("inputs_embeds", None) is not None:
        raise ValueError(
            "inputs_embeds: a widened model has two embeddings and computes from token ids; give input_ids"
        )
    options = {name: keywords.pop(name) for name in LOSS_KEYWORDS if name in keywords}
    if unknown := [name for name in keywords if name not in ATTENTION_KEYWORDS]:
        known = ", ".join(sorted(ATTENTION_KEYWORDS | LOSS_KEYWORDS))
        raise TypeError(
            f"forward() of {owner} got unexpected keywords {', '.join(sorted(unknown))} (transformers "
            f"{transformers.__version__}); beside its named arguments it takes {known}"
        )
    return options


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache, given by its name or its older name. Raises ValueError if both are given."""
    if past_key_values is None:
        return cache
    if cache is not None:
        raise ValueError("cache and its older name past_key_values are both given; give one")
    if CACHE == "cache":  # the library's models warn from the release on that has the new name
        warnings.warn("`past_key_values` is deprecated; give the key/value cache as `cache`", FutureWarning, 3)
    return past_key_values


class Recorder:
    """Collects the hidden states and attention weights that a call of forward requests.

    states: `output_hidden_states`: True for all `num_states`, or the index of one or several, which may be negative.
    attentions: `output_attentions`.
    """

    def __init__(self, states: bool | int | Iterable[int], attentions: bool, num_states: int) -> None:
        self._selected = selected_indices(states, num_states)
        self._states: list[tuple[Tensor | None, Tensor | None]] | None = None if states is False else []
        self._attentions: list[tuple[Tensor, Tensor]] | None = [] if attentions else None

    def add_state(self, streams: Streams) -> None:
        """Record the next hidden state, None if it is not selected."""
        if self._states is not None:
            selected = len(self._states) in self._selected
            self._states.append(streams.last_path() if selected else (None, None))

    def take_weights(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Record the attention weights at the end of a layer's outputs, if requested. Returns the other outputs."""
        if self._attentions is None:
            return outputs
        *tensors, weights, weights_up = outputs
        if weights is not None:
            self._attentions.append((weights, weights_up))
        return tuple(tensors)

    def fields(self) -> dict[str, Any]:
        """The fields of `ScaleOutput`, None for those that are not requested."""
        fields: dict[str, Any] = {}
        for name, pairs in (("hidden_states", self._states), ("attentions", self._attentions)):
            fields[name] = None if pairs is None else tuple([pair[0] for pair in pairs])
            fields[f"expansion_{name}"] = None if pairs is None else tuple([pair[1] for pair in pairs])
        return fields


def selected_indices(selection: bool | int | Iterable[int], count: int) -> set[int]:
    """The indices that `selection` selects out of `count`: all with True, else one or several. Others are dropped."""
    if isinstance(selection, bool):
        return set(range(count)) if selection else set()
    indices = [selection] if isinstance(selection, int) else selection
    return {i % count for i in indices if -count <= i < count}
