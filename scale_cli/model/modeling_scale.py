"""The width-upscaled causal LM of SCALE (arXiv 2511.03270): two streams beside each other.

The base stays whole as `model.base`, the untouched Hugging Face module, frozen. What is added is `model.expansion`.
Two tensors travel through the layers, `x` (batch, length, hidden) and `x_up` (batch, length, hidden_up), and every
linear map of a layer computes

    y    = W x   + W12 x_up     the W12 term only where the map collaborates
    y_up = W21 x + W22 x_up

The streams are never concatenated: where no W12 feeds it, `x` depends on nothing trainable, so autograd builds no
graph for the base and SCALE-Preserve costs one base forward plus the expansion's own forward and backward.

Legend of shapes: B batch, T length, H heads, D head_dim; `_up` marks what was added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from .compatibility import (
    CACHE,
    CACHE_KEYWORDS,
    check_cached_generation,
    installed_class,
    is_newer_than_tested,
)
from .configuration_scale import ScaleConfig
from .families import NORMS, ROLES, Family, LayerShape, family_of, module_of

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
"""How the library makes the mask of each kind of layer."""


IGNORED = -100
"""The label of a position without a loss, as the library has it."""
ATTENTION_KEYWORDS = frozenset(
    {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "attention_instances"}
)
"""Keywords of `forward` that go to the attention function: the library's for packed rows, and vLLM's."""
LOSS_KEYWORDS = frozenset({"shift_labels", "num_items_in_batch", "ignore_index"})
"""Keywords of `forward` that go to the loss."""
UNSUPPORTED_KEYWORDS = {
    "inputs_embeds": (None, "a widened model has two embeddings and computes from token ids; give input_ids"),
    "output_attentions": (False, "a widened model does not return attention weights; leave it out"),
}
"""Keywords of the library's models that this one refuses: the value that changes nothing, and what to do."""
LOGIT_ROWS = 512
"""Positions whose logits exist at one time where they are not wanted, or are chosen between."""


class Halves(NamedTuple):
    """Both streams' part of a tensor, on every path through the decoder: two above SCALE-Route's fork, else one.

    The rows of two paths lie beside each other, those of the preserve path first: R = 2 B, else R = B.
    """

    x: tuple[Tensor, ...]
    """The base's half, (R, T, ...) in all: one tensor, or, where gradients are wanted, one of each path, (B, T, ...),
    because only the adapting path's depends on what trains."""
    x_up: Tensor
    """The added half, (R, T, ...)."""


def plus(a: Halves, b: Halves) -> Halves:
    """The sum, half by half."""
    return Halves(tuple(s + t for s, t in zip(a.x, b.x, strict=True)), a.x_up + b.x_up)


def forked(halves: Halves) -> Halves:
    """One path as two that are still the same: the base's half apart where gradients are wanted, else rows of one."""
    (x,), x_up = halves
    return Halves((x, x) if torch.is_grad_enabled() else (torch.cat((x, x)),), torch.cat((x_up, x_up)))


def by_path(halves: Halves, paths: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The base's half (B, T, ...) of every path, and the added half of every path."""
    x, x_up = halves
    return (
        x if len(x) == paths else x[0].chunk(paths),
        (x_up,) if paths == 1 else x_up.chunk(paths),
    )


@dataclass
class ScaleOutput(CausalLMOutputWithPast):
    """What `ScaleForCausalLM` returns: the library's own causal LM output and what only a two-stream model has.

    hidden_states: with `output_hidden_states`, the base's half after the embedding, each layer and the final norm,
        (B, T, hidden) each; under a router those of the adapting path.
    expansion_hidden_states: the same of the added half, (B, T, hidden_up) each.
    preserved: under a router, (B, T) bool, True where a token took the preserve branch of eq. 5.
    """

    expansion_hidden_states: tuple[Tensor, ...] | None = None
    preserved: Tensor | None = None


class ExpansionLinear(nn.Module):
    """What widening adds to one linear map: W21 and W22, their bias where the base map has one, and W12 on request.

    w21 (out_up, in), w22 (out_up, in_up), bias (out_up), w12 (out, in_up) or None.
    """

    def __init__(self, out_features: int, in_features: int, out_up: int, in_up: int, *, bias: bool) -> None:
        super().__init__()
        self.out_features = out_features
        self.w21 = nn.Parameter(torch.empty(out_up, in_features))
        self.w22 = nn.Parameter(torch.empty(out_up, in_up))
        self.bias = nn.Parameter(torch.empty(out_up)) if bias else None
        self.w12: nn.Parameter | None
        self.register_parameter("w12", None)

    def set_collaborative(self, collaborative: bool) -> None:
        """Give the map a zero W12, or take it away; a W12 that is there is left as it is."""
        if collaborative and self.w12 is None:
            self.w12 = nn.Parameter(self.w22.new_zeros(self.out_features, self.w22.shape[1]))
        elif not collaborative:
            self.w12 = None

    def forward(self, x: tuple[Tensor, ...], x_up: Tensor, y: tuple[Tensor, ...], *, masked: int) -> Halves:
        """Both halves of the widened map's output, from both halves of its input and from y = W x (+ b), the base's.

        x (R, T, in), x_up (R, T, in_up), y (R, T, out), x and y in as many tensors; masked: rows, the first, for which
        W12 is taken for zero.
        Returns W x + W12 x_up, which is y itself where no W12 counts, and W21 x + W22 x_up (+ bias), (R, T, out_up).
        """
        if self.w12 is not None:
            y = (*y[:-1], self._collaborate(y[-1], x_up, masked))
        return Halves(y, plus_product(joined([functional.linear(t, self.w21, self.bias) for t in x]), x_up, self.w22))

    def _collaborate(self, y: Tensor, x_up: Tensor, masked: int) -> Tensor:
        """y + W12 x_up for the last tensor of y, which holds every row that is not masked."""
        assert self.w12 is not None
        if masked == 0:
            return plus_product(y, x_up, self.w12)
        if len(y) < len(x_up):
            return plus_product(y, x_up[masked:], self.w12)
        y[masked:] += functional.linear(x_up[masked:], self.w12).view_as(y[masked:])  # no gradients: nothing else has y
        return y


def at(module: nn.Module, path: str) -> Any:
    """`module.get_submodule(path)` in a fraction of its time, which is felt in generation."""
    for name in path.split("."):
        module = module._modules[name]  # type: ignore[assignment]
    return module


def plus_product(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y + x W^T without a tensor for the product: y (..., out), or with `out` over several dimensions; x (..., in)."""
    if x.shape[-2] == 1:  # of one token the calls count, and no product is large
        return y + functional.linear(x, weight).view_as(y)
    return torch.addmm(y.reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1]), weight.t()).view(y.shape)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors in one."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))


def rotate_half(x: Tensor) -> Tensor:
    """(a, b) -> (-b, a) on the halves of the last dimension."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (B, H, T, D) by cos, sin (B, 1, T, rotated); features beyond `rotated` pass through."""
    rotated = cos.shape[-1]
    if rotated == x.shape[-1]:
        return (x * cos + rotate_half(x) * sin).to(x.dtype)  # some families keep cos and sin in float32
    turned, passed = x[..., :rotated], x[..., rotated:]
    return torch.cat(((turned * cos + rotate_half(turned) * sin).to(x.dtype), passed), dim=-1)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Plain softmax attention in the form of the library's attention interface.

    query (B, H, T, D); key, value (B, H / groups, S, D); attention_mask added to the scores, broadcast over heads.
    Returns (B, T, H, D) and the weights (B, H, T, S).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ExpansionLayer(GradientCheckpointingLayer):
    """What widening adds to one decoder layer, and the forward of base layer and addition together.

    Its children bear the names of `ROLES` and `NORMS`, as many of these as the family has.
    """

    def __init__(self, base_layer: nn.Module, family: Family, shape: LayerShape, added: LayerShape) -> None:
        super().__init__()
        self.family = family
        self.head_dim = shape.head_dim
        for role in ROLES:
            path = family.path(role)
            if path is not None:
                bias = base_layer.get_submodule(path).bias is not None
                setattr(self, role, ExpansionLinear(*shape.features(role), *added.features(role), bias=bias))
        for role in NORMS:
            path = family.path(role)
            if path is not None:
                setattr(self, role, norm_like(base_layer.get_submodule(path), added.norm_features(role, family)))

    def set_collaborative(self, modules: Sequence[str]) -> None:
        """Let the maps of `modules` (of "attention", "ffn") collaborate and no others."""
        for role, linear in self.named_children():
            if isinstance(linear, ExpansionLinear):
                linear.set_collaborative(module_of(role) in modules)

    def forward(
        self,
        halves: Halves,
        *,
        base: nn.Module,
        paths: int,
        parallel: bool,
        attention_implementation: str | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Any = None,
        layer_idx: int = 0,
        **kwargs: Any,
    ) -> Halves:
        """Both halves of the hidden state through base layer and addition; W12 is masked on the first of two paths."""
        masked = halves.x_up.shape[0] // 2 if paths == 2 else 0
        attended = self._attention(
            halves,
            masked,
            base,
            paths,
            attention_implementation,
            position_embeddings,
            attention_mask,
            cache,
            layer_idx,
            kwargs,
        )
        if parallel:
            return plus(plus(self._ffn(halves, base, masked), attended), halves)
        halves = plus(halves, attended)
        return plus(halves, self._ffn(halves, base, masked))

    def _norm(self, role: str, halves: Halves, base: nn.Module) -> Halves:
        """Both halves normalised apart, where the family has this norm."""
        path = self.family.path(role)
        if path is None:
            return halves
        norm = at(base, path)
        return Halves(tuple(norm(t) for t in halves.x), getattr(self, role)(halves.x_up))

    def _linear(self, role: str, halves: Halves, base: nn.Module, masked: int) -> Halves:
        """Both halves through the widened map that plays `role`."""
        path = self.family.path(role)
        assert path is not None
        linear = at(base, path)
        return getattr(self, role)(*halves, tuple(linear(t) for t in halves.x), masked=masked)

    def _attention(
        self,
        halves: Halves,
        masked: int,
        base: nn.Module,
        paths: int,
        attention_implementation: str | None,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Any,
        layer_idx: int,
        kwargs: dict[str, Any],
    ) -> Halves:
        """The attention block: normalised, projected, attended and projected back, both halves."""
        attention: Any = at(base, self.family.attention)
        cos, sin = (t.unsqueeze(1) for t in position_embeddings)
        q, k, v = self._project(self._norm("attention_norm", halves, base), base, masked)
        # The base's heads of every path and then the added ones: a list of (B, H, T, D) each.
        queries, keys, values = (
            [t.transpose(1, 2) for of_paths in by_path(heads, paths) for t in of_paths] for heads in (q, k, v)
        )
        heads = [t.shape[1] for t in queries]
        if cache is not None and queries[0].shape[2] == 1:  # a token is generated: as few calls as can be
            queries, keys, values = ([torch.cat(tensors, dim=1)] for tensors in (queries, keys, values))
        queries, keys = ([apply_rotary(t, cos, sin) for t in tensors] for tensors in (queries, keys))
        if cache is not None:  # one cache, in which the heads of all paths and halves lie beside each other
            cached = cache.update(torch.cat(keys, dim=1), torch.cat(values, dim=1), layer_idx)
            keys, values = (t.split([key.shape[1] for key in keys], dim=1) for t in cached)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention_implementation or "eager", eager_attention)
        kwargs = {"dropout": 0.0, "scaling": attention.scaling, **kwargs}
        together = zip(queries, keys, values, strict=True)
        contexts = [attend(attention, *qkv, attention_mask, **kwargs)[0] for qkv in together]
        if len(contexts) < len(heads):
            contexts = list(contexts[0].split(heads, dim=2))
        flat = [t.flatten(2) for t in contexts]
        own = flat[:paths] if len(halves.x) == paths else [joined(flat[:paths])]
        projected = self._linear("o", Halves(tuple(own), joined(flat[paths:])), base, masked)
        return self._norm("attention_post_norm", projected, base)

    def _project(self, halves: Halves, base: nn.Module, masked: int) -> list[Halves]:
        """q, k, v of the base's heads and of the added ones, (R, T, H, D) each, from the normalised halves."""
        family, head_dim = self.family, self.head_dim
        if family.qkv is not None:
            fused = at(base, family.qkv)
            parts = [fused(t).unflatten(-1, (-1, 3 * head_dim)).chunk(3, dim=-1) for t in halves.x]
            projected = [
                getattr(self, role)(*halves, y, masked=masked)
                for role, y in zip("qkv", zip(*parts, strict=True), strict=True)
            ]
        else:
            projected = [self._linear(role, halves, base, masked) for role in "qkv"]
        if family.qk_norm_per_head:
            projected = [self._heads(part) for part in projected]
        q, k, v = projected
        normed = [self._norm("q_norm", q, base), self._norm("k_norm", k, base), v]
        return normed if family.qk_norm_per_head else [self._heads(part) for part in normed]

    def _heads(self, halves: Halves) -> Halves:
        """Both halves split into heads, (R, T, H, D), where they are not yet."""
        *x, x_up = (t if t.dim() == 4 else t.view(*t.shape[:2], -1, self.head_dim) for t in (*halves.x, halves.x_up))
        return Halves(tuple(x), x_up)

    def _ffn(self, halves: Halves, base: nn.Module, masked: int) -> Halves:
        """The feed-forward block, both halves, from the residual stream."""
        activation = at(base, self.family.activation)
        normed = self._norm("ffn_norm", halves, base)
        up = self._linear("up", normed, base, masked)
        if self.family.gate is not None:
            gate = self._linear("gate", normed, base, masked)
            x = tuple(activation(a) * b for a, b in zip(gate.x, up.x, strict=True))
            inner = Halves(x, activation(gate.x_up) * up.x_up)
        else:
            inner = Halves(tuple(activation(t) for t in up.x), activation(up.x_up))
        return self._norm("ffn_post_norm", self._linear("down", inner, base, masked), base)


def norm_like(norm: nn.Module, size: int) -> nn.Module:
    """A new norm of the same class and epsilon as the base's `norm`, over `size` features."""
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return type(norm)(size, eps=eps)


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


class ExpansionHead(nn.Module):
    """What widening adds to the head. weight (vocabulary, hidden_up)."""

    def __init__(self, in_up: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, in_up))

    def forward(self, x_up: Tensor, z: Tensor) -> Tensor:
        """Z + W x_up, (..., vocabulary), from x_up (..., hidden_up) and the base's Z, (..., vocabulary)."""
        return plus_product(z, x_up, self.weight)


class SumOverPieces(torch.autograd.Function):
    """A sum over rows, `LOGIT_ROWS` at a time, whose gradients are computed along with it: no piece outlives the next.

    apply(function, number, *parameters, *rows): `function(*rows)` gives the sum over these rows, a scalar, and may use
    `number` parameters. All rows have the same length.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], number: int, *inputs: Tensor) -> Tensor:
        parameters, rows = inputs[:number], inputs[number:]
        needed = ctx.needs_input_grad[2:]
        training = [p for p, wanted in zip(parameters, needed[:number], strict=True) if wanted]
        moving = [i for i, wanted in enumerate(needed[number:]) if wanted]
        total: Any = 0
        weights: list[Tensor] = []
        states: list[list[Tensor]] = []
        for piece in zip(*(t.split(LOGIT_ROWS) for t in rows), strict=True):
            leaves = [t.detach().requires_grad_(i in moving) for i, t in enumerate(piece)]
            with torch.set_grad_enabled(bool(training or moving)):
                value = function(*leaves)
            total = total + value.detach()
            if not value.requires_grad:
                continue
            with torch.autocast(value.device.type, enabled=False):
                found = torch.autograd.grad(value, [*training, *(leaves[i] for i in moving)])
            weights = [a.add_(b) for a, b in zip(weights, found, strict=False)] or list(found[: len(training)])
            states.append(list(found[len(training) :]))
        gradients = iter([*weights, *(torch.cat(parts) for parts in zip(*states, strict=True))])
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        gradients = (gradient * given[0].to(gradient.dtype) for gradient in ctx.saved_tensors)
        return None, None, *(next(gradients) if wanted else None for wanted in ctx.needs_input_grad[2:])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between vectors (..., n), in float32 at least, (...)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(wide), b.to(wide)
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return torch.linalg.vecdot(a, b) / lengths.clamp(min=torch.finfo(wide).tiny)


DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""The words for which the library places modules itself."""
HUB = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder"}
"""What `from_pretrained` is told about where a checkpoint lies."""


class _Pair(nn.Module):
    """Modules that belong on one device, as children."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)


class ScaleForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM widened by SCALE: frozen base, trainable expansion, and the three methods by configuration.

    Without collaborative layers it is SCALE-Preserve, with them SCALE-Adapt, with a router on top SCALE-Route.
    """

    config_class = ScaleConfig
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = [*CACHE_KEYWORDS, "base"]
    _no_split_modules = ["ExpansionLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _cache_checked = False

    def __init__(self, config: ScaleConfig) -> None:
        super().__init__(config)
        base_config = config.build_base_config()
        base_config._attn_implementation = config._attn_implementation
        self.family = family_of(base_config.model_type)
        base_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(base_config)]
        self.base = base_class(base_config)
        assert config.expansion is not None
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
        """Training mode for the expansion; the base stays in eval mode, so its stream has no dropout."""
        super().train(mode)
        self.base.eval()
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the library's; it makes every loaded tensor trainable, so the base is frozen again afterwards.

        device_map: a word such as "auto" puts a base layer and what was added to it on the same device.
        """
        if isinstance(kwargs.get("device_map"), str) and kwargs["device_map"] in DEVICE_MAPS:
            kwargs["device_map"] = cls._paired_device_map(pretrained_model_name_or_path, kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_base()
        return loaded

    @classmethod
    def _paired_device_map(cls, name: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The devices of the model's modules by accelerate's rule, in which base layer and addition count as one."""
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_balanced_memory, get_max_memory

        config = kwargs.get("config")
        if config is None:
            config = cls.config_class.from_pretrained(name, **{key: kwargs[key] for key in HUB & kwargs.keys()})
        with torch.device("meta"):
            model = cls(config)
        decoder, family, expansion = model.family.decoder_of(model.base), model.family, model.expansion
        layers = enumerate(zip(family.layers_of(model.base), expansion.layers, strict=True))
        pairs = {  # names of which none is a part of another, or accelerate takes them for tied
            "embedding": _Pair(decoder.get_submodule(family.embedding), expansion.embedding),
            **{f"layer_{i}": _Pair(*pair) for i, pair in layers},
            "norm": _Pair(
                decoder.get_submodule(family.final_norm), decoder.get_submodule(family.rotary), expansion.norm
            ),
            "head": _Pair(model.base.get_submodule(family.head), expansion.head),
        }
        stand_in = nn.ModuleDict(pairs)
        dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
        dtype = config.dtype if dtype in (None, "auto") else dtype
        sizes: dict[str, Any] = {"no_split_module_classes": [_Pair.__name__], "dtype": dtype or torch.float32}
        if kwargs["device_map"] == "sequential":
            memory = get_max_memory(kwargs.get("max_memory"))
        else:
            low_zero = kwargs["device_map"] == "balanced_low_0"
            memory = get_balanced_memory(stand_in, kwargs.get("max_memory"), low_zero=low_zero, **sizes)
        found = infer_auto_device_map(stand_in, memory, **sizes)
        if set(found) == {""}:
            return found
        names = {module: name for name, module in model.named_modules()}
        return {names[module]: found[key] for key, pair in pairs.items() for module in pair.children()}

    # -- the three methods ---------------------------------------------------------------------------------------

    def set_collaboration(
        self, layers: Sequence[int], modules: Sequence[str], *, threshold: float | None = None
    ) -> None:
        """Choose the method: which layers and modules ("attention", "ffn") collaborate, and the router's threshold.

        No layers: SCALE-Preserve. Layers: SCALE-Adapt; new W12 are zero, those already there keep their values.
        Layers and a threshold: SCALE-Route. Raises ValueError for what the configuration refuses.
        """
        config = self.config.to_dict() | {
            "collaborative": {"layers": sorted(layers), "modules": list(modules)},
            "router": None if threshold is None else {"threshold": threshold},
        }
        checked = ScaleConfig.from_dict(config)
        self.config.collaborative, self.config.router = checked.collaborative, checked.router
        self._apply_collaboration()

    def _apply_collaboration(self) -> None:
        collaborative = self.config.collaborative
        for i, layer in enumerate(self.expansion.layers):
            assert isinstance(layer, ExpansionLayer)
            layer.set_collaborative(collaborative["modules"] if i in collaborative["layers"] else ())

    @property
    def _fork(self) -> int:
        """The first layer from which SCALE-Route runs two paths: its first collaborating one."""
        layers = self.config.collaborative["layers"]
        return min(layers) if self.config.router is not None else len(self.expansion.layers)

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        loss_only: bool = False,
        past_key_values: Any = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ScaleOutput | tuple[Any, ...]:
        """Next-token logits of the widened model.

        input_ids: (B, T). attention_mask: (B, S) over cached and new tokens, 0 is padding.
        cache: the library's key/value cache, whose older name is past_key_values.
        labels: (B, T), -100 is ignored; logits_to_keep: the last n positions, or indices, whose logits are wanted.
        loss_only: with labels, for the loss alone: no more than `LOGIT_ROWS` positions' logits exist at a time.
        kwargs: of `LOSS_KEYWORDS`, in which `shift_labels` (B, T or kept) are the labels of the positions themselves,
            and of `ATTENTION_KEYWORDS`.
        Returns `ScaleOutput` with logits (B, T or kept, vocabulary), None with loss_only. If return_dict, or else the
            config's, is False: the tuple of its values that are not None.
        Raises TypeError for any other keyword, and ValueError for one that asks for what this model does not do.
        """
        for name in UNSUPPORTED_KEYWORDS:
            if kwargs.pop(name, None) not in (None, UNSUPPORTED_KEYWORDS[name][0]):
                raise ValueError(f"{name}: {UNSUPPORTED_KEYWORDS[name][1]}")
        if input_ids is None:
            raise ValueError("input_ids is None; a widened model has two embeddings and computes from token ids")
        loss_options = {name: kwargs.pop(name) for name in LOSS_KEYWORDS if name in kwargs}
        if unknown := [name for name in kwargs if name not in ATTENTION_KEYWORDS]:
            known = ", ".join(sorted(ATTENTION_KEYWORDS | LOSS_KEYWORDS))
            raise TypeError(
                f"forward() of {type(self).__name__} does not know {', '.join(sorted(unknown))} (transformers "
                f"{transformers.__version__}); beside its named arguments it takes {known}"
            )
        if past_key_values is not None:
            if cache is not None:
                raise ValueError("cache and its older name past_key_values are both given; give one")
            cache = past_key_values
        decoder, family = self.family.decoder_of(self.base), self.family
        embedding = decoder.get_submodule(family.embedding)
        x, x_up = embedding(input_ids), self.expansion.embedding(input_ids)
        if family.embedding_scale is not None:
            x_up = x_up * embedding.get_buffer(family.embedding_scale).to(x_up.dtype)

        if use_cache is None:
            use_cache = not self.training
        if self.training and any(layer.gradient_checkpointing for layer in self.expansion.layers):
            if cache is not None:
                raise ValueError("a cache cannot be filled while gradients are checkpointed: layers run twice")
            use_cache = False
        if use_cache:
            self._check_cache()
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(x.shape[1], device=x.device) + seen).unsqueeze(0)
        base_config = self.base.config
        layer_types = family.layer_types(base_config)
        masks: Any = attention_mask
        if not isinstance(masks, dict):  # `generate` makes them itself for a cache of fixed size
            shared = {"attention_mask": attention_mask, CACHE: cache, "position_ids": position_ids}
            masks = {kind: MASKS[kind](config=base_config, inputs_embeds=x, **shared) for kind in set(layer_types)}
        rotary = decoder.get_submodule(family.rotary)
        angles = {kind: rotary(x, position_ids, *([kind] if family.rotary_by_layer_type else [])) for kind in masks}

        halves, paths = Halves((x,), x_up), 1
        states: list[Halves] = []
        fork, parallel = self._fork, family.is_parallel(base_config)
        layers = zip(self.expansion.layers, family.layers_of(self.base), strict=True)
        for i, (layer, base_layer) in enumerate(layers):
            states += [halves] if output_hidden_states else []
            if i == fork:
                halves, paths = forked(halves), 2
            kind = layer_types[i]
            halves = layer(
                halves,
                base=base_layer,
                paths=paths,
                parallel=parallel,
                attention_implementation=self.config._attn_implementation,
                position_embeddings=angles[kind],
                attention_mask=masks[kind],
                sliding_window=base_config.sliding_window if kind == "sliding_attention" else None,
                cache=cache,
                layer_idx=i,
                position_ids=position_ids,
                **kwargs,
            )

        norm = decoder.get_submodule(family.final_norm)
        halves = Halves(tuple(norm(t) for t in halves.x), self.expansion.norm(halves.x_up))
        states += [halves] if output_hidden_states else []
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        halves = Halves(tuple(t[:, kept] for t in halves.x), halves.x_up[:, kept])
        rows = len(input_ids)
        loss = logits = preserved = None
        if loss_only and labels is not None:
            loss = self._loss(halves, paths, labels, **loss_options)
        else:
            logits, preserved = self._logits(halves, paths)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **loss_options)
        output = ScaleOutput(
            loss=loss,
            logits=logits,
            **{CACHE: cache if use_cache else None},
            hidden_states=tuple(state.x[-1][-rows:] for state in states) if output_hidden_states else None,
            expansion_hidden_states=tuple(state.x_up[-rows:] for state in states) if output_hidden_states else None,
            preserved=preserved,
        )
        named = self.config.return_dict if return_dict is None else return_dict
        return output if named else output.to_tuple()

    def _check_cache(self) -> None:
        """On a release of transformers after those tested, compare generation with a cache and without it, once."""
        if self._cache_checked or not is_newer_than_tested() or torch.compiler.is_compiling():
            return
        self._cache_checked = True  # before the check, which comes through here
        try:
            check_cached_generation(self)
        except BaseException:
            self._cache_checked = False
            raise

    def _logits(self, halves: Halves, paths: int) -> tuple[Tensor, Tensor | None]:
        """The logits (B, T, vocabulary), and under a router which positions were preserved, (B, T)."""
        x, x_up = by_path(halves, paths)
        shape = x_up[0].shape[:2]
        if paths == 1:
            return self._head(x, x_up)
        pieces = zip(*(t.flatten(0, 1).split(LOGIT_ROWS) for t in (*x, *x_up)), strict=True)
        found = [self._head(piece[:paths], piece[paths:]) for piece in pieces]
        logits, preserved = (joined(parts).view(*shape, *parts[0].shape[1:]) for parts in zip(*found, strict=True))
        return logits, preserved

    def _loss(
        self,
        halves: Halves,
        paths: int,
        labels: Tensor,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = IGNORED,
    ) -> Tensor:
        """The library's loss of a causal LM, (), of logits that exist a piece at a time."""
        if shift_labels is None:
            shift_labels = functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        targets = shift_labels.to(halves.x_up.device).flatten()
        parameters = [*self.base.get_submodule(self.family.head).parameters(), *self.expansion.head.parameters()]

        def loss(targets: Tensor, *states: Tensor) -> Tensor:
            logits, _ = self._head(states[:paths], states[paths:])
            return functional.cross_entropy(logits.float(), targets, ignore_index=ignore_index, reduction="sum")

        x, x_up = by_path(halves, paths)
        states = (t.flatten(0, 1) for t in (*x, *x_up))
        total = SumOverPieces.apply(loss, len(parameters), *parameters, targets, *states)
        count = (targets != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
        return total / (count.to(total.device) if isinstance(count, Tensor) else count)

    def _head(self, x: Sequence[Tensor], x_up: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Logits of the final normalised halves of each path: Z + Z_up, or eq. 5's choice between two.

        x (..., hidden), x_up (..., hidden_up): one each or those of the preserve and the adapting path.
        Returns logits (..., vocabulary) under the base's soft cap, and for two paths which were preserved, (...) bool.

        Training SCALE-Route (appendix D) weighs the two losses by a routing decision r that is a constant; as r is 0
        or 1 for each token, that is the loss of the chosen logits, so no other loss is needed. And as Z_up is of one
        path or of the other, only the chosen one is computed.
        """
        head = self.base.get_submodule(self.family.head)
        if len(x) == 1:
            return self._soft_cap(self.expansion.head(x_up[0], head(x[0]))), None
        if torch.is_grad_enabled():
            z_preserve, z_adapt = (head(t) for t in x)
        else:  # the matrix is read once
            z_preserve, z_adapt = head(torch.stack(tuple(x)))
        with torch.no_grad():
            preserved = cosine(z_preserve, z_adapt) > self.config.router["threshold"]
            chosen = preserved.unsqueeze(-1)
        z = torch.lerp(z_adapt, z_preserve, chosen.to(z_adapt.dtype) / 2)  # their mean, or the adapting path's
        return self._soft_cap(self.expansion.head(torch.where(chosen.to(x_up[0].device), *x_up), z)), preserved

    def _soft_cap(self, logits: Tensor) -> Tensor:
        """c tanh(logits / c) where the base's config sets such a c."""
        name = self.family.logit_softcap
        cap = None if name is None else getattr(self.base.config, name)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    # -- what the library asks of a model --------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.base.get_output_embeddings()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """A new expansion that changes no logit: W12, W22 and the added head are zero."""
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
            if isinstance(module, type(self.expansion.norm)):  # the base's are its own class's to set
                init.constant_(module.get_parameter("weight"), self.family.norm_neutral)


ScaleForCausalLM = installed_class("ScaleForCausalLM", __name__) or ScaleForCausalLM  # type: ignore[misc]
