"""Parameters, cost and memory of upscaling a base and training the result, before anything is written.

Only the base's config.json is read. Parameters are counted on the models that training builds, on the meta device.
Memory is that of one training step of `scale train` in one process (`scale_cli.planning.memory`): trained weights,
their gradients and AdamW's two moments in float32; frozen weights and the tensors of the step in float32 or bfloat16.
The memory of a method's extra data is not included. Several processes hold copies, or with `shard` a part each.
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
from scale_cli.methods.cost import numel, with_base
from scale_cli.methods.families import decoder_layers
from scale_cli.methods.step import halve_frozen, recompute_activations
from scale_cli.methods.teacher import frozen_copy
from scale_cli.model import LayerShape, ScaleForCausalLM
from scale_cli.planning.memory import Precision, step_memory
from scale_cli.planning.sizes import Sizer, check_sizes, matching_layers, parse_match, trained
from scale_cli.surgery.source import Base, open_config
from scale_cli.surgery.upscale import DEFAULT_INIT
from scale_cli.surgery.width import expansion_sizes, parse_init

TRAINING_BYTES = 4
"""Bytes per number in gradients and in AdamW's moments: float32."""
CACHE_BYTES = 2
"""Bytes per number in the cache of keys and values: bfloat16."""


@dataclass(frozen=True)
class Choice:
    """The sizes of one way to add parameters: width, depth, or a method with an option for its size.

    sizes: for width the added sizes, under their names in the config; for depth the total num_hidden_layers; for a
        method the option that sets its size.
    added_parameters: number of parameters that the checkpoint or the method adds to the base's.
    trained_parameters: for width and depth those of the yardstick method; SCALE-Adapt, width's yardstick, trains W12
        too.
    ratio: trained parameters divided by the plan's target.
    command: the command line that makes the checkpoint; None for a method, which trains the base itself.
    """

    sizes: dict[str, Any]
    added_parameters: int
    trained_parameters: int
    ratio: float
    command: str | None


@dataclass(frozen=True)
class MethodPlan:
    """The parameters, cost and memory of a method.

    needs: the kind of checkpoint that it trains. options: its own, resolved.
    trained_share: trained parameters, divided by all parameters of the base.
    multiply_adds: operations per training token, two per multiply-add of a weight; without attention scores.
    cost_ratio: multiply_adds divided by those of full fine-tuning.
    weights_bytes, gradients_bytes, optimizer_bytes: size of all weights and of the matrices kept beside them, of the
        gradients of the trained weights, and of AdamW's two moments, in each process.
    gathered_bytes: size of what a sharded model has put together at a time; 0 without sharding.
    activations_bytes: peak size of the other tensors of a training step.
    peak_bytes: peak of everything together. It is less than the sum if activations are freed before all gradients
        exist.
    generation_ratio: weights that a generated token is multiplied with, divided by the base's; LoRA is merged.
    mixture_ratio: the same if the token is predicted by the model and by its base, as under a mixture.
    rehearsal_ratio: operations per token of old text under `--rehearse` with KL, divided by those of a training token
        of full fine-tuning. rehearsal_copy_bytes: size of the copy of the base that this needs, 0 without one.
    cache_bytes: size of a token's keys and values in all layers, in bfloat16. A layer with a sliding window caches no
        more than its window.
    cache_ratio: cache_bytes divided by the base's.
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
    gathered_bytes: int
    activations_bytes: int
    peak_bytes: int
    generation_ratio: float
    mixture_ratio: float
    rehearsal_ratio: float
    rehearsal_copy_bytes: int
    cache_bytes: int
    cache_ratio: float


@dataclass(frozen=True)
class Plan:
    """Sizes of an upscaling, and the parameters, cost and memory of every method with these sizes.

    base: the folder or hub id as in the request. name: its last part. revision: the commit of a hub id, None for a
        folder.
    base_parameters: a tied head counts once.
    target: the option that determines the sizes. target_parameters: the number of trained parameters that it implies.
    choices: by "width", "depth", and the name of each method that has an option for its size.
    collaborating_layers, adapt_modules: the layers, counted from 0, and the modules whose W12 width's trained
        parameters include.
    batch_size, seq_length: sequences per training step and process, and tokens per sequence.
    gpus, shard: number of processes, and whether each holds a part of the model or all of it.
    left_out: the reasons, by name, for methods without a plan: an option's default does not fit the base.
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
    gpus: int
    shard: bool
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
    gpus: int = 1,
    shard: bool = False,
    revision: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> Plan:
    """Plan the upscaling of `base` by width and by depth, and the training of the results.

    base: a folder with a config.json, or a hub id.
    hidden, heads, ffn, layers, init: as in `upscale`; init matters because svd limits the sizes. The number of trained
        parameters that follows from `hidden`, or else from `layers`, is the target. All other sizes, and the options
        that set a method's size (lora_r), are matched to it unless they are given. By default an eighth of the base's
        hidden size is added.
    match: "depth:20" is layers=20, "width:256,heads=4,ffn=1024" is hidden=256, heads=4, ffn=1024.
    match_params: the target as a share of the base's parameters, instead of sizes.
    methods: names of the methods to plan; None: all. A method whose option defaults do not fit the base is left out.
    batch_size, seq_length, precision, gradient_checkpointing, shard: of the training step, as in training.
    gpus: number of processes, for the memory with `shard`.
    progress: called with the number of planned methods and of all methods.
    options: options of methods, by key, as in training.
    Raises RequestError for a base that cannot be upscaled, and for contradictory or unsuitable options.
    """
    check_sizes({"--hidden": hidden, "--heads": heads, "--ffn": ffn, "--layers": layers}, match, match_params)
    for flag, count in (("--batch-size", batch_size), ("--seq-length", seq_length), ("--gpus", gpus)):
        if count < 1:
            raise RequestError(f"{flag} {count}: at least 1")
    if shard and gpus == 1:
        raise RequestError("--shard: spreads the model over several GPUs; give their number, as in --gpus 8")
    if match is not None:
        hidden, heads, ffn, layers = parse_match(match)
    given = {name: value for name, value in options.items() if value is not None}
    resolved = method_options(given)
    init_pair = parse_init(init)
    opened = open_config(base, revision=revision)
    wide, deep = yardstick("width"), yardstick("depth")
    resolved |= {method.name: method.resolve(resolved[method.name], opened.config) for method in (wide, deep)}
    sizer = Sizer(opened, init_pair, resolved)

    if match_params is not None:
        target, source = sizer.share(match_params), f"--match-params {match_params:g}"
        added = sizer.nearest_width(target)
    elif layers is not None and hidden is None:
        target, source = sizer.trained(deep, layers=layers), f"--layers {layers}"
        added = sizer.nearest_width(target)
    else:
        added = sizer.chosen_width(sizer.default_hidden()) if hidden is None else sizer.width(hidden, heads, ffn)
        target, source = sizer.trained(wide, added=added), f"--hidden {added.hidden_size}"
    layers = matching_layers(opened.config, target) if layers is None else layers
    for method in METHODS.values():
        if method.size is not None and method.size.option not in given:
            matched = {method.size.option: method.size.nearest(opened.config, target)}
            resolved[method.name] = dataclasses.replace(resolved[method.name], **matched)

    left_out: dict[str, str] = {}
    models: dict[str, Any] = {}  # all before the first step, so that sizes which do not fit raise at once
    for method in map(find_method, METHODS if methods is None else methods):
        checkpoint = sizer.checkpoint(method.needs[0], added=added, layers=layers)
        try:
            resolved[method.name] = method.resolve(resolved[method.name], opened.config)
            models[method.name] = sizer.prepare(method, checkpoint)
        except RequestError as error:
            if own_values(method, given):
                raise
            left_out[method.name] = str(error)
    planned: list[MethodPlan] = []
    for name, model in models.items():
        if gradient_checkpointing:
            recompute_activations(model)
        step: dict[str, Any] = {"batch_size": batch_size, "seq_length": seq_length, "precision": precision}
        parts = gpus if shard else 1
        planned.append(_plan_method(METHODS[name], resolved[name], model, opened, parts=parts, **step))
        progress(len(planned), len(models))

    def choice(method: Method, sizes: Mapping[str, Any], command: str | None) -> Choice:
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
        if method.size is not None and method.name not in left_out:
            option = method.size.option
            try:
                choices[method.name] = choice(method, {option: getattr(resolved[method.name], option)}, None)
            except RequestError:  # as for a method that is left out
                if methods is None or method.name in methods:
                    raise
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
        gpus=gpus,
        shard=shard,
        methods=planned,
        left_out=left_out,
    )


def cached_numbers(model: Any) -> int:
    """The number of keys and values that generation caches per token in all layers; two paths above a router's fork."""
    if not isinstance(model, ScaleForCausalLM):
        shape = LayerShape.of(model.config)
        return int(2 * model.config.num_hidden_layers * shape.num_key_value_heads * shape.head_dim)
    shape, layers = LayerShape.of(model.base.config), model.config.num_hidden_layers
    heads = shape.num_key_value_heads + model.config.expansion["num_key_value_heads"]
    if model.config.router is not None and (collaborating := model.config.collaborative["layers"]):
        layers += layers - min(collaborating)
    return int(2 * layers * heads * shape.head_dim)


def _gathered_bytes(model: Any, precision: Precision) -> int:
    """The size of what is put together at most while a sharded model computes.

    Two layers, because the next one is fetched ahead, and everything outside of the layers, which stays whole through
    the step; the gradients of one layer and of the latter, in float32, before they are summed over the processes.
    """
    layers = [
        [parameter for module in modules for parameter in module.parameters()] for modules in decoder_layers(model)
    ]
    inside = {id(parameter) for layer in layers for parameter in layer}
    outside = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    weights = numel(outside) + 2 * max(map(numel, layers))
    gradients = max(numel(p for p in layer if p.requires_grad) for layer in layers)
    gradients += numel(p for p in outside if p.requires_grad)
    return weights * (2 if precision == "bfloat16" else 4) + TRAINING_BYTES * gradients


def _plan_method(
    method: Method,
    options: Any,
    model: Any,
    base: Base,
    *,
    batch_size: int,
    seq_length: int,
    precision: Precision,
    parts: int,
) -> MethodPlan:
    """parts: number of processes over which the model is spread, 1 for a copy in each."""
    parameters, count = numel(model.parameters()), numel(trained(model))
    cost, cached = method.cost(model), cached_numbers(model)
    both = with_base(model, cost)
    copied = parameters * (2 if precision == "bfloat16" else 4) if method.teacher is frozen_copy else 0
    if precision == "bfloat16":
        halve_frozen(model)
    kept = (buffer for buffer in model.buffers() if buffer.ndim > 1)  # matrices that a method keeps beside the weights
    weights_bytes = sum(p.numel() * p.element_size() for p in (*model.parameters(), *kept))
    base_cached = 2 * base.num_layers * base.shape.num_key_value_heads * base.shape.head_dim
    own = {"weights": weights_bytes, "gradients": TRAINING_BYTES * count, "optimizer": 2 * TRAINING_BYTES * count}
    gathered = 0
    if parts > 1:
        own = {name: -(-size // parts) for name, size in own.items()}
        gathered = _gathered_bytes(model, precision)
        if precision == "bfloat16":  # a layer is put together in it, and autocast keeps no copies
            model.bfloat16()
    memory = step_memory(model, batch_size=batch_size, seq_length=seq_length, precision=precision)
    peak = memory.peak_bytes + sum(own.values()) - own["gradients"]
    if parts > 1:
        peak = memory.activations_bytes + gathered + sum(own.values())
    return MethodPlan(
        method=method.name,
        needs=method.needs[0],
        options=plain(options),
        added_parameters=parameters - base.parameters,
        trained_parameters=count,
        trained_share=count / base.parameters,
        multiply_adds=cost.training,
        cost_ratio=cost.ratio,
        **{f"{name}_bytes": size for name, size in own.items()},
        gathered_bytes=gathered,
        activations_bytes=memory.activations_bytes,
        peak_bytes=peak,
        generation_ratio=cost.generation / cost.base,
        mixture_ratio=both / cost.base,
        rehearsal_ratio=(cost.training + 2 * (both - cost.generation)) / (6 * cost.base),
        rehearsal_copy_bytes=copied,
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
    """The command line of this upscaling; the output folder is named after the base and the first size."""
    out = f"{base.name}-{by}-{next(iter(options.values()))}"
    options = {"by": by, **options} | ({} if base.revision is None else {"revision": base.revision})
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return shlex.join(["scale", "upscale", base.given, out, *flags])
