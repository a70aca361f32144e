"""What upscaling a base and training it will take, known before anything is written: parameters, cost and memory.

Only the base's config.json is read. Parameters are counted on the models that training builds, on the meta device, and
memory is that of one training step of these (`scale_cli.planning.memory`). It is what `scale train` takes in one
process: weight, gradient and AdamW's two moments in float32 for what trains; frozen weights and what a step makes, in
float32 or in bfloat16.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import load_recipe
from scale_cli.methods import METHODS, Kind, MethodOptions
from scale_cli.methods.cost import Weights, multiply_adds
from scale_cli.methods.scale import collaborating_layers
from scale_cli.methods.step import halve_frozen, recompute_activations
from scale_cli.model import LayerShape, ScaleConfig, ScaleForCausalLM, family_of
from scale_cli.model.families import lora_parameters
from scale_cli.planning.memory import Precision, step_memory
from scale_cli.surgery.depth import deepened_config, new_layers, plan_depth
from scale_cli.surgery.source import Base, open_config
from scale_cli.surgery.upscale import DEFAULT_INIT
from scale_cli.surgery.width import InitPair, expansion_sizes, parse_init, plan_width

HIDDEN_STEP = 8
"""Matched hidden sizes are multiples of this, as a GPU's matrix units want them."""
DEFAULT_SHARE = 1 / 8
"""By how much the hidden size grows where no size is given: the paper's 256 on 2048."""
TRAINING_BYTES = 4
"""Of a gradient and each of AdamW's moments in training: float32."""
CACHE_BYTES = 2
"""Of a cached number in generation: bfloat16."""


@dataclass(frozen=True)
class Choice:
    """One way to add parameters, and how much of it.

    sizes: by width what is added, under a config's names; by depth num_hidden_layers, all of them; of lora lora_r.
    trained_parameters: by width those of scale-adapt and scale-route, whose W12 train as well.
    ratio: of these to the plan's target.
    command: what makes the checkpoint; None for lora, which takes the base as it is.
    """

    sizes: dict[str, int]
    trained_parameters: int
    ratio: float
    command: str | None


@dataclass(frozen=True)
class MethodPlan:
    """What a method adds, trains and costs.

    needs: the kind of checkpoint that it trains.
    trained_share: trained parameters over all of the base's.
    multiply_adds: of a training token, in units where a weight's forward costs 2; attention scores are left out.
    cost_ratio: these over those of fft.
    weights_bytes, gradients_bytes, optimizer_bytes: in training, of all weights, of what trains, of its two moments.
    activations_bytes: the most that is alive at one time in a training step besides these.
    peak_bytes: the most of all together; less than their sum where gradients come as activations go.
    generation_ratio: multiply-adds of a generated token over the base's; a LoRA is merged.
    cache_bytes: keys and values of a token in all layers, in bfloat16; a layer with a window keeps only that.
    cache_ratio: these over the base's.
    """

    method: str
    needs: Kind
    added_parameters: int
    trained_parameters: int
    trained_share: float
    multiply_adds: float
    cost_ratio: float
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    peak_bytes: int
    generation_ratio: float
    cache_bytes: int
    cache_ratio: float


@dataclass(frozen=True)
class Plan:
    """Sizes for an upscaling, and what every method makes of them.

    base: as it was given; name: its last part; revision: the commit of a hub id, None for a folder.
    base_parameters: a tied head counted once.
    target: the option from which the sizes follow; target_parameters: how many parameters it lets train.
    choices: of "width", "depth" and "lora".
    collaborating_layers: the layers whose W12 train under scale-adapt and scale-route, counted from 0.
    batch_size, seq_length: sequences of a training step and tokens of each.
    """

    base: str
    name: str
    revision: str | None
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    base_parameters: int
    target: str
    target_parameters: int
    choices: dict[str, Choice]
    collaborating_layers: list[int]
    adapt_modules: tuple[str, ...]
    freeze_layers: int
    batch_size: int
    seq_length: int
    precision: Precision
    gradient_checkpointing: bool
    methods: list[MethodPlan]


def plan(
    base: str,
    *,
    hidden: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    layers: int | None = None,
    match: str | None = None,
    match_params: float | None = None,
    init: str = DEFAULT_INIT,
    preserve_layers: int | None = None,
    adapt_modules: str | None = None,
    freeze_layers: int | None = None,
    lora_r: int | None = None,
    batch_size: int = 8,
    seq_length: int = 512,
    precision: Precision = "bfloat16",
    gradient_checkpointing: bool = False,
    revision: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Plan the upscaling of `base`, a folder with a config.json or a hub id, by width and by depth, and its training.

    hidden, heads, ffn: as in upscaling by width; layers: as by depth; init: as there, since svd limits the sizes.
        What is not given of width, depth and lora_r is found: it trains as many parameters as the width given, or else
        as the depth given. With neither, the hidden size grows by an eighth.
    match: "depth:20" is layers=20, "width:256,heads=4,ffn=1024" is hidden=256, heads=4, ffn=1024.
    match_params: instead of sizes, the share of the base's parameters that each way shall train.
    preserve_layers, adapt_modules, freeze_layers, lora_r: the methods' options, as in training. Freeze is left out
        where its default would leave no layer to train.
    batch_size, seq_length, precision, gradient_checkpointing: of a training step, as in training.
    progress: called with methods done and methods in all.
    Raises RequestError for a base that cannot be upscaled and for options that contradict each other or do not fit.
    """
    _check_sizes({"--hidden": hidden, "--heads": heads, "--ffn": ffn, "--layers": layers}, match, match_params)
    for flag, count in (("--batch-size", batch_size), ("--seq-length", seq_length)):
        if count < 1:
            raise RequestError(f"{flag} {count}: at least 1")
    if match is not None:
        hidden, heads, ffn, layers = _parse_match(match)
    given = {
        "preserve_layers": preserve_layers,
        "adapt_modules": adapt_modules,
        "freeze_layers": freeze_layers,
        "lora_r": lora_r,
    }
    options = load_recipe(MethodOptions, None, given)
    init_pair = parse_init(init)
    opened = open_config(base, revision=revision)
    adapting = collaborating_layers(opened, options)
    sizer = _Sizer(opened, init_pair, options)

    if match_params is not None:
        target, source = sizer.share(match_params), f"--match-params {match_params:g}"
    elif layers is not None and hidden is None:
        target, source = sizer.trained("llama-pro", layers=layers), f"--layers {layers}"
    else:
        hidden = sizer.default_hidden() if hidden is None else hidden
        target, source = sizer.trained("scale-adapt", added=sizer.width(hidden, heads, ffn)), f"--hidden {hidden}"
    added = sizer.nearest_width(target) if hidden is None else sizer.width(hidden, heads, ffn)
    layers = matching_layers(opened.config, target) if layers is None else layers
    if lora_r is None:
        options = dataclasses.replace(options, lora_r=matching_rank(opened.config, target))

    left_out = {"freeze"} if freeze_layers is None and options.freeze_layers >= opened.num_layers else set()
    models = {  # all before the first step: what does not fit is said at once
        name: _prepare(name, opened, options, added=added, layers=layers) for name in METHODS if name not in left_out
    }
    methods: list[MethodPlan] = []
    for name, model in models.items():
        if gradient_checkpointing:
            recompute_activations(model)
        methods.append(_plan_method(name, model, opened, batch_size, seq_length, precision))
        progress(len(methods), len(models))

    trained = {method.method: method.trained_parameters for method in methods}

    def choice(method: str, sizes: dict[str, int], command: str | None) -> Choice:
        return Choice(sizes, trained[method], trained[method] / target, command)

    choices = {
        "width": choice("scale-adapt", expansion_sizes(added), _width_command(opened, added, init)),
        "depth": choice("llama-pro", {"num_hidden_layers": layers}, _depth_command(opened, layers)),
        "lora": choice("lora", {"lora_r": options.lora_r}, None),
    }
    return Plan(
        base=base,
        name=opened.name,
        revision=opened.revision,
        model_type=opened.family.model_type,
        hidden_size=opened.shape.hidden_size,
        num_hidden_layers=opened.num_layers,
        base_parameters=opened.parameters,
        target=source if match is None else f"--match {match}",
        target_parameters=target,
        choices=choices,
        collaborating_layers=list(adapting),
        adapt_modules=options.adapt_modules,
        freeze_layers=options.freeze_layers,
        batch_size=batch_size,
        seq_length=seq_length,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        methods=methods,
    )


def matching_rank(config: PreTrainedConfig, parameters: int) -> int:
    """The rank, at least 1, at which LoRA on every linear map trains nearest to so many parameters.

    config: of a base of a known family, else ValueError.
    """
    per_rank = lora_parameters(family_of(config.model_type), LayerShape.of(config), config.num_hidden_layers)
    return max(1, round(parameters / per_rank))


def matching_layers(config: PreTrainedConfig, parameters: int) -> int:
    """The layers in all with which block expansion trains nearest to so many parameters: one more to twice as many.

    config: of a base of a known family, else ValueError.
    """
    family = family_of(config.model_type)
    with torch.device("meta"):
        block = family.layers_of(AutoModelForCausalLM.from_config(config))[0]
    count = config.num_hidden_layers
    return count + min(max(1, round(parameters / _numel(block.parameters()))), count)


def linear_weights(*modules: nn.Module) -> int:
    """The weights of all linear maps in these modules, a tied head included: what a token is multiplied with."""
    within = (module for given in modules for module in given.modules() if not isinstance(module, nn.Embedding))
    return _numel(p for module in within for p in module.parameters(recurse=False) if p.ndim == 2)


def cost_weights(method: str, model: Any) -> Weights:
    """What the cost model (`multiply_adds`) is to know of a model that `method` trains.

    model: as `METHODS[method].apply` gives it, on any device; the meta device will do.
    """
    total = linear_weights(model)
    if isinstance(model, ScaleForCausalLM):
        added = linear_weights(model.expansion)
        share = len(model.config.collaborative["layers"]) / model.config.num_hidden_layers
        return Weights(total - added, added=added, adaptable_share=share)
    if method == "lora":
        added = _numel(_trained(model))
        return Weights(total - added, added=added)
    if method == "fft":
        return Weights(total)
    family = family_of(model.config.model_type)
    head, layers = model.get_submodule(family.head), family.layers_of(model)
    training = [i for i, layer in enumerate(layers) if any(True for _ in _trained(layer))]
    if method == "freeze":
        above = linear_weights(head, *layers[training[0] :])
        return Weights(total, above=above, frozen_above=0 if head.weight.requires_grad else linear_weights(head))
    added = linear_weights(*(layers[i] for i in training))
    return Weights(total - added, added=added, above=linear_weights(head, *layers[training[0] + 1 :]))


def generation_weights(method: str, model: Any) -> int:
    """Multiply-adds of a generated token, one a weight and pass, by a model that `method` trains.

    Under lora those of the base, with which it is merged. SCALE-Route goes through all above its fork twice, once
    without W12.
    """
    total = linear_weights(model)
    if method == "lora":
        return total - _numel(_trained(model))
    if isinstance(model, ScaleForCausalLM) and model.config.router is not None:
        fork = min(model.config.collaborative["layers"])
        base, expansion = model.family.layers_of(model.base)[fork:], list(model.expansion.layers)[fork:]
        head = model.base.get_submodule(model.family.head)  # the added one is asked for the chosen path only
        w12 = (p for name, p in model.expansion.named_parameters() if name.endswith(".w12"))
        total += linear_weights(*base, *expansion, head) - _numel(w12)
    return total


def cached_numbers(model: Any) -> int:
    """Keys and values that generation caches for each token, in all layers; above SCALE-Route's fork for both paths."""
    if not isinstance(model, ScaleForCausalLM):
        shape = LayerShape.of(model.config)
        return int(2 * model.config.num_hidden_layers * shape.num_key_value_heads * shape.head_dim)
    shape, layers = LayerShape.of(model.base.config), model.config.num_hidden_layers
    heads = shape.num_key_value_heads + model.config.expansion["num_key_value_heads"]
    if model.config.router is not None:
        layers += layers - min(model.config.collaborative["layers"])
    return int(2 * layers * heads * shape.head_dim)


@dataclass(frozen=True)
class _Sizer:
    """Finds sizes for a base and counts what they train."""

    base: Base
    init: InitPair
    options: MethodOptions

    def width(self, hidden: int, heads: int | None = None, ffn: int | None = None) -> LayerShape:
        """What widening by these sizes adds. Raises RequestError where they do not fit."""
        return plan_width(
            self.base.shape,
            vocab_size=self.base.config.vocab_size,
            hidden=hidden,
            heads=heads,
            ffn=ffn,
            init=self.init,
            name=self.base.name,
        )

    def default_hidden(self) -> int:
        """An eighth of the base's hidden size, in steps."""
        return max(1, round(self.base.shape.hidden_size * DEFAULT_SHARE / HIDDEN_STEP)) * HIDDEN_STEP

    def trained(self, method: str, *, added: LayerShape | None = None, layers: int | None = None) -> int:
        """The parameters that a method trains."""
        return _numel(_trained(_prepare(method, self.base, self.options, added=added, layers=layers)))

    def share(self, share: float) -> int:
        """This share of the base's parameters. Raises RequestError where no width trains so many."""
        target = round(share * self.base.parameters)
        hidden = self._hidden_sizes()[-1]
        widest = self.trained("scale-adapt", added=self.width(hidden))
        if target > widest:
            limit = math.floor(100 * widest / self.base.parameters) / 100
            raise RequestError(
                f"--match-params {share:g}: {self.base.name} widened by {hidden} features, the most, trains {limit:g} "
                f"of its parameters; choose up to {limit:g}{', or --init random' if 'svd' in self.init else ''}"
            )
        return target

    def nearest_width(self, target: int) -> LayerShape:
        """Of the widths that follow from --hidden alone the one that trains nearest to so many parameters."""
        sizes = self._hidden_sizes()

        def trained(hidden: int) -> int:
            return self.trained("scale-adapt", added=self.width(hidden))

        place = bisect.bisect_left(sizes, target, key=trained)
        nearest = min(sizes[max(0, place - 1) : place + 1], key=lambda hidden: abs(trained(hidden) - target))
        return self.width(nearest)

    def _hidden_sizes(self) -> list[int]:
        """The hidden sizes to choose from, smallest first: up to the base's own. RequestError where none fits."""
        sizes: list[int] = []
        for hidden in range(HIDDEN_STEP, max(HIDDEN_STEP, self.base.shape.hidden_size) + 1, HIDDEN_STEP):
            try:
                self.width(hidden)
            except RequestError:
                if not sizes:
                    raise
                break
            sizes.append(hidden)
        return sizes


def _prepare(
    method: str, base: Base, options: MethodOptions, *, added: LayerShape | None = None, layers: int | None = None
) -> Any:
    """The model that a method trains, in training mode, on the meta device."""
    blocks: list[int] = []
    with torch.device("meta"):
        if METHODS[method].needs[0] == "width":
            assert added is not None
            model: Any = ScaleForCausalLM(ScaleConfig(base_config=base.raw_config, expansion=expansion_sizes(added)))
        elif METHODS[method].needs[0] == "depth":
            assert layers is not None
            copied = plan_depth(base.num_layers, layers=layers, name=base.name)
            blocks = new_layers(copied)
            model = base.model_class(type(base.config).from_dict(deepened_config(base, copied)))
        else:
            model = base.model_class(base.config)
        return METHODS[method].apply(model, options, blocks).train()


def _plan_method(
    method: str, model: Any, base: Base, batch_size: int, seq_length: int, precision: Precision
) -> MethodPlan:
    total, trained = _numel(model.parameters()), _numel(_trained(model))
    weights = cost_weights(method, model)
    cost = multiply_adds(method, weights)
    generation, cached = generation_weights(method, model), cached_numbers(model)
    if precision == "bfloat16":
        halve_frozen(model)
    weights_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    base_cached = 2 * base.num_layers * base.shape.num_key_value_heads * base.shape.head_dim
    memory = step_memory(model, batch_size=batch_size, seq_length=seq_length, precision=precision)
    return MethodPlan(
        method=method,
        needs=METHODS[method].needs[0],
        added_parameters=total - base.parameters,
        trained_parameters=trained,
        trained_share=trained / base.parameters,
        multiply_adds=cost,
        cost_ratio=cost / multiply_adds("fft", Weights(weights.base)),
        weights_bytes=weights_bytes,
        gradients_bytes=TRAINING_BYTES * trained,
        optimizer_bytes=2 * TRAINING_BYTES * trained,
        activations_bytes=memory.activations_bytes,
        peak_bytes=weights_bytes + 2 * TRAINING_BYTES * trained + memory.peak_bytes,
        generation_ratio=generation / weights.base,
        cache_bytes=CACHE_BYTES * cached,
        cache_ratio=cached / base_cached,
    )


def _trained(module: nn.Module) -> Iterable[nn.Parameter]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def _numel(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _width_command(base: Base, added: LayerShape, init: str) -> str:
    sizes = {"hidden": added.hidden_size, "heads": added.num_attention_heads, "ffn": added.intermediate_size}
    words = {flag: str(size) for flag, size in sizes.items()} | ({} if init == DEFAULT_INIT else {"init": init})
    return _upscale_command(base, "width", words)


def _depth_command(base: Base, layers: int) -> str:
    return _upscale_command(base, "depth", {"layers": str(layers)})


def _upscale_command(base: Base, by: str, words: dict[str, str]) -> str:
    """The command line that upscales the base so, into a folder named after both."""
    out = f"{base.name}-{by}-{next(iter(words.values()))}"
    words = {"by": by, **words} | ({} if base.revision is None else {"revision": base.revision})
    options = [part for name, value in words.items() for part in (f"--{name}", value)]
    return shlex.join(["scale", "upscale", base.given, out, *options])


def _check_sizes(sizes: dict[str, int | None], match: str | None, match_params: float | None) -> None:
    """Refuse options that contradict each other, before anything is looked at."""
    given = {flag: str(value) for flag, value in sizes.items() if value is not None}
    if match is not None:
        given = {"--match": match, **given}
    if match_params is not None:
        given = {"--match-params": f"{match_params:g}", **given}
        if not (match_params > 0 and math.isfinite(match_params)):
            raise RequestError(
                f"--match-params {match_params:g}: a share of the base's parameters, above 0, as in 0.15"
            )
    if len(given) > 1 and next(iter(given)) in ("--match", "--match-params"):
        first, second = (f"{flag} {value}" for flag, value in list(given.items())[:2])
        raise RequestError(f"{first} and {second} each say what the sizes are; give one of them")
    for flag in ("--heads", "--ffn"):
        if flag in given and "--hidden" not in given:
            raise RequestError(f"{flag} {given[flag]} needs --hidden: how many features to add, as in --hidden 256")


def _parse_match(words: str) -> tuple[int | None, int | None, int | None, int | None]:
    """Hidden, heads, ffn and layers in "depth:20" or "width:256,heads=4,ffn=1024"."""
    found = re.fullmatch(r"width:([0-9]+)(?:,heads=([0-9]+))?(?:,ffn=([0-9]+))?|depth:([0-9]+)", words)
    if found is None:
        raise RequestError(
            f"--match {words}: write depth:LAYERS or width:HIDDEN with ,heads=N and ,ffn=N after it if wanted, as in "
            "depth:20 or width:256,ffn=1024"
        )
    hidden, heads, ffn, layers = (None if size is None else int(size) for size in found.groups())
    return hidden, heads, ffn, layers
