"""The width-upscaled causal LM of SCALE (arXiv 2511.03270): a frozen base, a trainable expansion, two streams.

The base stays whole as `model.base`, the untouched Hugging Face module. What was added is `model.expansion`. Two
tensors pass through the layers, `x` (batch, length, hidden) and `x_up` (batch, length, hidden_up), and every linear map
of a layer computes eq. 1 (`linear.py`):

    y    = W x   + W12 x_up     the W12 term only where the map collaborates
    y_up = W21 x + W22 x_up

Theorem 3.1: without W12, x is the base model's hidden state, whatever is trained. The streams are never concatenated,
so there autograd builds no graph for the base, and SCALE-Preserve costs one forward of the base plus the forward and
backward of the expansion.

Legend of shapes: B batch, T length, H heads, D head_dim; `_up` marks what was added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from .compatibility import CACHE, CACHE_KEYWORDS, check_cached_generation, installed_class, is_newer_than_tested
from .configuration_scale import ScaleConfig
from .families import Family, LayerShape, family_of
from .head import ExpansionHead, Head
from .layer import ExpansionLayer, at, norm_like
from .linear import ExpansionLinear
from .loss import chunked_loss
from .mixture import mix, state_layer, valid_tokens
from .outputs import Recorder, ScaleOutput, loss_options, one_cache
from .placement import DEVICE_MAPS, paired_device_map
from .streams import Streams

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
"""The library's mask function for each kind of layer."""
HUB = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder"}
"""The arguments of `from_pretrained` that locate a checkpoint."""


class Expansion(nn.Module):
    """Everything that widening adds: the parameters that may train."""

    layers: nn.ModuleList
    norm: nn.Module

    def __init__(self, base: nn.Module, family: Family, shape: LayerShape, added: LayerShape, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, added.hidden_size)
        self.layers = nn.ModuleList(ExpansionLayer(layer, family, shape, added) for layer in family.layers_of(base))
        final_norm = family.decoder_of(base).get_submodule(family.final_norm)
        self.norm = norm_like(final_norm, added.hidden_size)
        self.head = ExpansionHead(added.hidden_size, vocab_size)


class ScaleForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM widened by SCALE. The config chooses the method.

    Without collaborative layers it is SCALE-Preserve, with them SCALE-Adapt, with a cosine router as well SCALE-Route.
    A mixture router serves all three.
    """

    config_class = ScaleConfig
    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = [*CACHE_KEYWORDS, "base"]
    _no_split_modules = ["ExpansionLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _cache_checked = False

    def __init__(self, config: ScaleConfig) -> None:
        super().__init__(config)
        base_config = config.base
        assert base_config is not None
        assert config.expansion is not None
        self.family = family_of(base_config.model_type)
        base_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(base_config)]
        self.base = base_class(base_config)
        if config.tie_word_embeddings:
            tied = (self.base._tied_weights_keys or {}).items()
            self._tied_weights_keys = {f"base.{key}": f"base.{source}" for key, source in tied}
        shape = LayerShape.of(base_config)
        added = LayerShape(**config.expansion, head_dim=shape.head_dim)
        self.expansion = Expansion(self.base, self.family, shape, added, base_config.vocab_size)
        self._apply_collaboration()
        self._freeze_base()
        self.post_init()

    # -- what is frozen ------------------------------------------------------------------------------------------

    def _freeze_base(self) -> None:
        self.base.requires_grad_(False)
        self.base.eval()

    def train(self, mode: bool = True) -> ScaleForCausalLM:
        """Set training mode for the expansion. The base stays in eval mode, so x has no dropout."""
        super().train(mode)
        self.base.eval()
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The library's method, which makes every loaded tensor trainable; the base is frozen again afterwards.

        device_map: with one of `DEVICE_MAPS`, a layer of the base and its addition come to lie on one device.
        """
        device_map = kwargs.get("device_map")
        if isinstance(device_map, str) and device_map in DEVICE_MAPS:
            config = kwargs.get("config")
            if config is None:
                where = {key: kwargs[key] for key in HUB & kwargs.keys()}
                config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **where)
            with torch.device("meta"):
                model = cls(config)
            dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
            kwargs["device_map"] = paired_device_map(model, device_map, kwargs.get("max_memory"), dtype)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_base()
        return loaded

    # -- the three methods ---------------------------------------------------------------------------------------

    def set_collaboration(
        self, layers: Sequence[int], modules: Sequence[str], *, threshold: float | None = None
    ) -> None:
        """Choose the method: the layers and modules ("attention", "ffn") that collaborate, and the router's threshold.

        No layers: SCALE-Preserve. Layers: SCALE-Adapt; a new W12 is zero, an existing one keeps its values.
        Layers and a threshold: SCALE-Route. Raises ValueError for what the configuration refuses.
        """
        config = self.config.to_dict() | {
            "collaborative": {"layers": sorted(layers), "modules": list(modules)},
            "router": None if threshold is None else {"kind": "cosine", "threshold": threshold},
        }
        checked = ScaleConfig.from_dict(config)
        self.config.collaborative, self.config.router = checked.collaborative, checked.router
        self._apply_collaboration()

    def set_router(self, router: dict[str, Any] | None) -> None:
        """Choose how the predictions of the two paths, or of base and widened model, become one.

        router: as in `ScaleConfig`. Raises ValueError for a router that the configuration refuses.
        """
        self.config.router = ScaleConfig.from_dict(self.config.to_dict() | {"router": router}).router

    def _apply_collaboration(self) -> None:
        collaborative = self.config.collaborative
        for i, layer in enumerate(self.expansion.layers):
            assert isinstance(layer, ExpansionLayer)
            layer.set_collaborative(collaborative["modules"] if i in collaborative["layers"] else ())

    @property
    def _fork(self) -> int:
        """The first layer on two paths, if there are two: the first that collaborates, else none."""
        return min(self.config.collaborative["layers"], default=len(self.expansion.layers))

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | int | Iterable[int] | None = None,
        output_base_logits: bool = False,
        loss_only: bool = False,
        past_key_values: Any = None,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> ScaleOutput | tuple[Any, ...]:
        """Next-token logits of the widened model.

        input_ids: (B, T). attention_mask: (B, S) over cached and new tokens; 0 is padding.
        cache: the library's key/value cache, whose older name is past_key_values.
        labels: (B, T); -100 is ignored. logits_to_keep: the number of last positions, or the positions, with logits.
        loss_only: with labels, compute the loss chunk by chunk and return no logits.
        output_base_logits: return the base's logits too, for which collaborating layers run on a second path.
        use_cache, output_hidden_states, output_attentions, return_dict: None takes the config's value; use_cache is
            then False in training mode. output_hidden_states may also be the index of one state, or several.
        kwargs: `LOSS_KEYWORDS`, of which `shift_labels` (B, T or kept) are the targets of the positions themselves, and
            `ATTENTION_KEYWORDS`.
        Returns `ScaleOutput` with logits (B, T or kept, vocabulary), None with loss_only. With return_dict=False,
            returns the tuple of its values that are not None.
        Raises TypeError for any other keyword, and ValueError for a request that this model does not support.
        """
        options = loss_options(kwargs, type(self).__name__)
        if input_ids is None:
            raise ValueError("input_ids is None; a widened model has two embeddings and computes from token ids")
        cache, use_cache = self._resolve_cache(one_cache(cache, past_key_values), use_cache)
        config, num_layers = self.config, len(self.expansion.layers)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states or False
        if output_attentions is None:
            output_attentions = bool(config.output_attentions)
        recorder = Recorder(output_hidden_states, output_attentions, num_layers + 1)
        if output_attentions:
            kwargs["output_attentions"] = True

        streams = self._embed(input_ids)
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(input_ids.shape[1], device=input_ids.device) + seen).unsqueeze(0)
        arguments = self._layer_arguments(streams.x[0], attention_mask, position_ids, cache)
        fork = self._fork if config.router is not None or output_base_logits else num_layers
        for i, layer in enumerate(self.expansion.layers):
            recorder.add_state(streams)
            if i == fork:
                streams = streams.forked()
            outputs = layer(*streams.tensors, paths=streams.paths, cache=cache, layer_idx=i, **arguments[i], **kwargs)
            outputs = recorder.take_weights(outputs)
            streams = Streams(outputs[:-1], outputs[-1], streams.paths)
        streams = streams.map(at(self.family.decoder_of(self.base), self.family.final_norm), self.expansion.norm)
        recorder.add_state(streams)

        loss = logits = preserved = base_logits = None
        if config.router_kind == "mixture":
            logits, preserved = self._mix(streams, input_ids, attention_mask, position_ids, cache, logits_to_keep)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        streams = Streams(tuple([t[:, kept] for t in streams.x]), streams.x_up[:, kept], streams.paths)
        x, x_up = streams.per_path()
        head = self._head()
        if logits is None and config.router_kind != "cosine" and (output_base_logits or config.router is not None):
            base_logits, logits = head.both(x, x_up)
            if config.router_kind == "interpolate":
                logits = torch.lerp(base_logits, logits, config.router["weight"])
        elif output_base_logits:
            base_logits = head.of_base(x)
        if loss_only and labels is not None and logits is None:
            loss = chunked_loss(head, streams, labels, **options)
        else:
            if logits is None:
                logits, preserved = head.logits(streams)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **options)
        output = ScaleOutput(
            loss=loss,
            logits=logits,
            **{CACHE: cache if use_cache else None},
            **recorder.fields(),
            preserved=preserved,
            base_logits=base_logits if output_base_logits else None,
        )
        named = config.return_dict if return_dict is None else return_dict
        return output if named else output.to_tuple()

    def _resolve_cache(self, cache: Any, use_cache: bool | None) -> tuple[Any, bool]:
        """The cache to read and fill, or None, and whether to return it."""
        if use_cache is None:
            use_cache = bool(self.config.use_cache) and not self.training
        if self.training and any(layer.gradient_checkpointing for layer in self.expansion.layers):
            if cache is not None:
                raise ValueError("a cache cannot be filled while gradients are checkpointed: layers run twice")
            use_cache = False
        if use_cache:
            self._check_cache()
            if cache is None:
                cache = DynamicCache(config=self.config)
        return cache, use_cache

    def _check_cache(self) -> None:
        """On a release of transformers newer than those tested, compare generation with and without a cache, once."""
        if self._cache_checked or not is_newer_than_tested() or torch.compiler.is_compiling():
            return
        self._cache_checked = True  # first, because the check itself ends here
        try:
            check_cached_generation(self)
        except BaseException:
            self._cache_checked = False
            raise

    def _embed(self, input_ids: Tensor) -> Streams:
        """Both embeddings of the tokens, (B, T, hidden) and (B, T, hidden_up)."""
        family = self.family
        embedding = at(family.decoder_of(self.base), family.embedding)
        x, x_up = embedding(input_ids), self.expansion.embedding(input_ids)
        if family.embedding_scale is not None:
            x_up = x_up * embedding.get_buffer(family.embedding_scale).to(x_up.dtype)
        return Streams((x,), x_up)

    def _layer_arguments(
        self, x: Tensor, attention_mask: Any, position_ids: Tensor, cache: Any
    ) -> list[dict[str, Any]]:
        """The arguments of each layer: the base's layer, mask and rotary angles by the kind of its attention."""
        family, base_config = self.family, self.config.base
        decoder, layer_types = family.decoder_of(self.base), family.layer_types(base_config)
        masks = attention_mask
        if not isinstance(masks, dict):  # with a cache of fixed size, `generate` passes the finished masks
            given = {"attention_mask": attention_mask, CACHE: cache, "position_ids": position_ids}
            masks = {kind: MASKS[kind](config=base_config, inputs_embeds=x, **given) for kind in set(layer_types)}
        rotary = at(decoder, family.rotary)
        by_kind = {
            kind: {
                "parallel": family.is_parallel(base_config),
                "implementation": base_config._attn_implementation,
                "position_embeddings": rotary(x, position_ids, *([kind] if family.rotary_by_layer_type else [])),
                "attention_mask": mask,
                "sliding_window": base_config.sliding_window if kind == "sliding_attention" else None,
                "position_ids": position_ids,
            }
            for kind, mask in masks.items()
        }
        return [
            {"base": base_layer, **by_kind[kind]}
            for base_layer, kind in zip(family.layers_of(self.base), layer_types, strict=True)
        ]

    def _mix(
        self,
        streams: Streams,
        input_ids: Tensor,
        attention_mask: Any,
        position_ids: Tensor,
        cache: Any,
        logits_to_keep: int | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The mixture's log-probabilities (B, kept, vocabulary) and the base's weights (B, kept)."""
        router = self.config.router
        return mix(
            self._head().both,
            streams,
            input_ids,
            share=router["share"],
            prior=router["prior"],
            kept=logits_to_keep,
            valid=valid_tokens(attention_mask, input_ids.shape[1]),
            restarts=(position_ids == 0).expand(input_ids.shape),
            state=None if cache is None or router["share"] == 1 else state_layer(cache, len(self.expansion.layers)),
        )

    def _head(self) -> Head:
        family, router = self.family, self.config.router
        cap = None if family.logit_softcap is None else getattr(self.config.base, family.logit_softcap)
        tau = router["threshold"] if self.config.router_kind == "cosine" else None
        return Head(at(self.base, family.head), self.expansion.head, tau, cap)

    # -- what the library asks of a model --------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.base.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Any:
        """The base's embedding, if the size is its own. Raises ValueError for any other size."""
        size = self.config.vocab_size
        wanted = size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            wanted = -(-wanted // pad_to_multiple_of) * pad_to_multiple_of
        if wanted != size:
            raise ValueError(
                f"resize_token_embeddings to {wanted} tokens: a widened model keeps the {size} tokens of its frozen "
                "base; resize the base and widen it then"
            )
        return self.get_input_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a new expansion so that it changes no logit: W12, W22 and the added head are zero."""
        if isinstance(module, ExpansionLinear):
            init.normal_(module.w21, mean=0.0, std=self.config.initializer_range)
            init.zeros_(module.w22)
            for zero in (module.bias, module.w12):
                if zero is not None:
                    init.zeros_(zero)
        elif isinstance(module, ExpansionHead):
            init.zeros_(module.weight)
        else:
            super()._init_weights(module)
            if isinstance(module, type(self.expansion.norm)):  # the base's class initialises its own norms
                init.constant_(module.get_parameter("weight"), self.family.norm_neutral)


ScaleForCausalLM = installed_class("ScaleForCausalLM", __name__) or ScaleForCausalLM  # type: ignore[misc]
