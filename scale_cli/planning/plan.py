"""Parameters, cost and memory of an upscaling of a base and of training it, before anything is written.

Only the base's config.json is read. Parameters are counted on the models that training builds, on the meta device, and
memory is that of one training step of these (`scale_cli.planning.memory`), as `scale train` takes it in one process:
weight, gradient and AdamW's two moments in float32 for trained weights; frozen weights and the tensors of a step in
float32 or in bfloat16. The step is the model's own: a method's extra data is in its cost, not in its memory.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.methods import METHODS, Kind, Method, find_method, method_options, own_values, yardstick
from scale_cli.methods.cost import numel
from scale_cli.methods.step import halve_frozen, recompute_activations
from scale_cli.model import LayerShape, ScaleForCausalLM
from scale_cli.planning.memory import Precision, step_memory
from scale_cli.planning.sizes import Sizer, check_sizes, matching_layers, parse_match, trained
from scale_cli.surgery.source import Base, open_config
from scale_cli.surgery.upscale import DEFAULT_INIT
from scale_cli.surgery.width import expansion_sizes, parse_init

TRAINING_BYTES = 4
"""Bytes of a gradient and of each of AdamW's moments in training: float32."""
CACHE_BYTES = 2
"""Bytes of a cached number in generation: bfloat16."""


@dataclass(frozen=True)
class Choice:
    """One way to add parameters, and how much of it.

    sizes: by width the added features, under a config's names; by depth num_hidden_layers, all of them; of a method the
        option that sets its size.
    added_parameters: beside the base's, in the checkpoint or by the method. trained_parameters: by width and depth
        those of the yardstick, which for width trains W12 too.
    ratio: of these to the plan's target.
    command: makes the checkpoint; None for a method, which takes the base as it is.
    """

    sizes: dict[str, int]
    added_parameters: int
    trained_parameters: int
    ratio: float
    command: str | None


@dataclass(frozen=True)
class MethodPlan:
    """The parameters, cost and memory of a method.

    needs: the kind of checkpoint that it trains. options: its own, resolved.
    trained_share: trained parameters over all of the base's.
    multiply_adds: per trained token, in units where a weight's forward costs 2; attention scores are left out.
    cost_ratio: these over those of full fine-tuning.
    weights_bytes, gradients_bytes, optimizer_bytes: in training, of all weights, of the trained ones, of their two
        moments.
    activations_bytes: the most that is alive at one time in a training step besides these.
    peak_bytes: the most of all together; less than their sum if gradients come as activations go.
    generation_ratio: multiply-adds per generated token over the base's; a LoRA is merged.
    cache_bytes: keys and values of a token in all layers, in bfloat16; a layer with a window keeps only that.
    cache_ratio: these over the base's.
    """

    method: str
    needs: Kind
    options: dict[str, Any]
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
    """Sizes for an upscaling, and every method's parameters, cost and memory with them.

    base: as it was given; name: its last part; revision: the commit of a hub id, None for a folder.
    base_parameters: a tied head counted once.
    target: the option from which the sizes follow; target_parameters: how many parameters it lets train.
    choices: "width", "depth", and by name each method that has an option for its size.
    collaborating_layers, adapt_modules: the layers, counted from 0, and the modules whose W12 the width counts.
    batch_size, seq_length: sequences of a training step and tokens of each.
    left_out: by name, why a method has no plan: a default of its own options does not fit the base.
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
    batch_size: int
    seq_length: int
    precision: Precision
    gradient_checkpointing: bool
    methods: list[MethodPlan]
    left_out: dict[str, str]


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
    methods: Sequence[str] | None = None,
    batch_size: int = 8,
    seq_length: int = 512,
    precision: Precision = "bfloat16",
    gradient_checkpointing: bool = False,
    revision: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Plan:
    """Plan the upscaling of `base`, a folder with a config.json or a hub id, by width and by depth, and its training.

    hidden, heads, ffn: as in upscaling by width; layers: as by depth; init: as there, since svd limits the sizes.
        A size that is not given, and the option that sets a method's size (lora_r), is matched: it trains as many
        parameters as the width given, or else as the depth given. With neither, the hidden size grows by an eighth.
    match: "depth:20" is layers=20, "width:256,heads=4,ffn=1024" is hidden=256, heads=4, ffn=1024.
    match_params: instead of sizes, the share of the base's parameters that each way shall train.
    methods: the methods to plan, by name; None: all. A method is left out if a default of its options does not fit.
    batch_size, seq_length, precision, gradient_checkpointing: of a training step, as in training.
    progress: called with methods done and methods in all.
    options: of the methods, by key, as in training.
    Raises RequestError for a base that cannot be upscaled and for options that contradict each other or do not fit.
    """
    check_sizes({"--hidden": hidden, "--heads": heads, "--ffn": ffn, "--layers": layers}, match, match_params)
    for flag, count in (("--batch-size", batch_size), ("--seq-length", seq_length)):
        if count < 1:
            raise RequestError(f"{flag} {count}: at least 1")
    if match is not None:
        hidden, heads, ffn, layers = parse_match(match)
    given = {name: value for name, value in options.items() if value is not None}
    own = method_options(given)
    init_pair = parse_init(init)
    opened = open_config(base, revision=revision)
    wide, deep = yardstick("width"), yardstick("depth")
    own |= {method.name: method.resolve(own[method.name], opened.config) for method in (wide, deep)}
    sizer = Sizer(opened, init_pair, own)

    if match_params is not None:
        target, source = sizer.share(match_params), f"--match-params {match_params:g}"
    elif layers is not None and hidden is None:
        target, source = sizer.trained(deep, layers=layers), f"--layers {layers}"
    else:
        hidden = sizer.default_hidden() if hidden is None else hidden
        target, source = sizer.trained(wide, added=sizer.width(hidden, heads, ffn)), f"--hidden {hidden}"
    added = sizer.nearest_width(target) if hidden is None else sizer.width(hidden, heads, ffn)
    layers = matching_layers(opened.config, target) if layers is None else layers
    for method in METHODS.values():
        if method.size is not None and method.size.option not in given:
            matched = {method.size.option: method.size.nearest(opened.config, target)}
            own[method.name] = dataclasses.replace(own[method.name], **matched)

    left_out: dict[str, str] = {}
    models: dict[str, Any] = {}  # all before the first step, so that sizes which do not fit raise at once
    for method in map(find_method, METHODS if methods is None else methods):
        checkpoint = sizer.checkpoint(method.needs[0], added=added, layers=layers)
        try:
            own[method.name] = method.resolve(own[method.name], opened.config)
            models[method.name] = sizer.prepare(method, checkpoint)
        except RequestError as error:
            if own_values(method, given):
                raise
            left_out[method.name] = str(error)
    planned: list[MethodPlan] = []
    for name, model in models.items():
        if gradient_checkpointing:
            recompute_activations(model)
        planned.append(_plan_method(METHODS[name], own[name], model, opened, batch_size, seq_length, precision))
        progress(len(planned), len(models))

    def choice(method: Method, sizes: Mapping[str, int], command: str | None) -> Choice:
        checkpoint = sizer.checkpoint(method.needs[0], added=added, layers=layers)
        before = numel(checkpoint[0].parameters())
        model = sizer.prepare(method, checkpoint)
        after, count = numel(model.parameters()), numel(trained(model))
        more = (after if command is None else before) - opened.parameters
        return Choice(dict(sizes), more, count, count / target, command)

    choices = {
        "width": choice(wide, expansion_sizes(added), _width_command(opened, added, init)),
        "depth": choice(deep, {"num_hidden_layers": layers}, _depth_command(opened, layers)),
    }
    for method in METHODS.values():
        if method.size is not None:
            option = method.size.option
            choices[method.name] = choice(method, {option: getattr(own[method.name], option)}, None)
    widened = sizer.prepare(wide, sizer.checkpoint("width", added=added))
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
        collaborating_layers=list(widened.config.collaborative["layers"]),
        adapt_modules=tuple(widened.config.collaborative["modules"]),
        batch_size=batch_size,
        seq_length=seq_length,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        methods=planned,
        left_out=left_out,
    )


def cached_numbers(model: Any) -> int:
    """Keys and values that generation caches per token, in all layers; above a router's fork for both paths."""
    if not isinstance(model, ScaleForCausalLM):
        shape = LayerShape.of(model.config)
        return int(2 * model.config.num_hidden_layers * shape.num_key_value_heads * shape.head_dim)
    shape, layers = LayerShape.of(model.base.config), model.config.num_hidden_layers
    heads = shape.num_key_value_heads + model.config.expansion["num_key_value_heads"]
    if model.config.router is not None:
        layers += layers - min(model.config.collaborative["layers"])
    return int(2 * layers * heads * shape.head_dim)


def _plan_method(
    method: Method, options: Any, model: Any, base: Base, batch_size: int, seq_length: int, precision: Precision
) -> MethodPlan:
    parameters, count = numel(model.parameters()), numel(trained(model))
    cost, cached = method.cost(model), cached_numbers(model)
    if precision == "bfloat16":
        halve_frozen(model)
    weights_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    base_cached = 2 * base.num_layers * base.shape.num_key_value_heads * base.shape.head_dim
    memory = step_memory(model, batch_size=batch_size, seq_length=seq_length, precision=precision)
    return MethodPlan(
        method=method.name,
        needs=method.needs[0],
        options=plain(options),
        added_parameters=parameters - base.parameters,
        trained_parameters=count,
        trained_share=count / base.parameters,
        multiply_adds=cost.training,
        cost_ratio=cost.ratio,
        weights_bytes=weights_bytes,
        gradients_bytes=TRAINING_BYTES * count,
        optimizer_bytes=2 * TRAINING_BYTES * count,
        activations_bytes=memory.activations_bytes,
        peak_bytes=weights_bytes + 2 * TRAINING_BYTES * count + memory.peak_bytes,
        generation_ratio=cost.generation / cost.base,
        cache_bytes=CACHE_BYTES * cached,
        cache_ratio=cached / base_cached,
    )


def _width_command(base: Base, added: LayerShape, init: str) -> str:
    sizes = {"hidden": added.hidden_size, "heads": added.num_attention_heads, "ffn": added.intermediate_size}
    options = {flag: str(size) for flag, size in sizes.items()} | ({} if init == DEFAULT_INIT else {"init": init})
    return _upscale_command(base, "width", options)


def _depth_command(base: Base, layers: int) -> str:
    return _upscale_command(base, "depth", {"layers": str(layers)})


def _upscale_command(base: Base, by: str, options: dict[str, str]) -> str:
    """The command line that upscales the base so, into a folder named after both."""
    out = f"{base.name}-{by}-{next(iter(options.values()))}"
    options = {"by": by, **options} | ({} if base.revision is None else {"revision": base.revision})
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return shlex.join(["scale", "upscale", base.given, out, *flags])
