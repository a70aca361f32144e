"""`scale plan`: sizes, parameters, cost and memory of an upscaling, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.options import key_options
from scale_cli.cli.output import AsJson, progress, say, show
from scale_cli.core.recipe import variant_keys
from scale_cli.methods import METHODS, option_classes, yardstick

CARDS = (16, 24, 40, 80, 141)
"""Memory of common GPUs, in GB."""
CARD_SHARE = 0.9
"""The rest is for the GPU's context, its libraries' workspaces and fragmentation."""

if TYPE_CHECKING:
    from rich.table import Table

    from scale_cli.planning.plan import Choice, Plan


@key_options(variant_keys(option_classes()), defaults=False)
def plan(
    base: Annotated[str, typer.Argument(help="Model folder or hub id; only its config.json is read.")],
    hidden: Annotated[
        int | None, typer.Option(help="Width: hidden features to add.  [an eighth of the base's, if no size is given]")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Width: query heads to add, in whole groups.  [fewest that reach --hidden]")
    ] = None,
    ffn: Annotated[
        int | None, typer.Option(help="Width: feed-forward features to add.  [the base's proportion]")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Depth: total number of layers.  [matched to the width's trained parameters]")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            help="depth:LAYERS finds the width with as many trained parameters; width:HIDDEN[,heads=N][,ffn=N] finds "
            "the depth.",
            metavar="<depth:N|width:N>",
        ),
    ] = None,
    match_params: Annotated[
        float | None,
        typer.Option(help="Find width and depth that train this share of the base's parameters, as in 0.15."),
    ] = None,
    init: Annotated[
        str, typer.Option(help="Width: initial W21 and W22, as in upscale; svd limits the sizes.")
    ] = "svd,zero",
    batch_size: Annotated[int, typer.Option(help="Sequences per training step, for its memory.")] = 8,
    seq_length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 512,
    precision: Annotated[
        Literal["bfloat16", "float32"],
        typer.Option(help="Arithmetic of training; trained weights are float32 in both."),
    ] = "bfloat16",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass.")
    ] = False,
    gpus: Annotated[int, typer.Option(help="Number of processes, one per GPU; --batch-size is that of each.")] = 1,
    shard: Annotated[
        bool, typer.Option("--shard", help="Spread the model over the GPUs, as scale train --shard does.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    as_json: AsJson = False,
    *,
    given: dict[str, Any],
) -> None:
    """Print parameters, cost and memory of an upscaling and of training with every method; nothing is written.

    The option that sets a method's size, such as --lora-r, is matched to the width unless it is given.
    """
    import scale_cli.planning.plan

    quiet_libraries()
    with progress("methods", None) as advance:
        result = scale_cli.planning.plan.plan(
            base,
            hidden=hidden,
            heads=heads,
            ffn=ffn,
            layers=layers,
            match=match,
            match_params=match_params,
            init=init,
            batch_size=batch_size,
            seq_length=seq_length,
            precision=precision,
            gradient_checkpointing=gradient_checkpointing,
            gpus=gpus,
            shard=shard,
            revision=revision,
            progress=lambda done, total: advance(done=done, total=total),
            **given,
        )
    from rich.console import Group

    commands = [choice.command for choice in result.choices.values() if choice.command is not None]
    for name, reason in result.left_out.items():
        say(f"{name} is left out: {reason}")
    show(result, Group(_sizes(result), _parameters(result), _costs(result), _memory(result)), as_json=as_json)
    if not as_json:
        print(*commands, sep="\n")  # whole, to be copied: rich cuts lines at the width


def _sizes(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{plan.name}: {plan.model_type}, {plan.num_hidden_layers} layers, hidden {plan.hidden_size}, "
        f"{plan.base_parameters:,} parameters",
        caption=f"target: {plan.target_parameters:,} trained parameters, from {plan.target}; width counts W12 of "
        f"{' and '.join(plan.adapt_modules)} in layers {plan.collaborating_layers[0]} to "
        f"{plan.collaborating_layers[-1]}, counted from 0, as {yardstick('width').name} trains them",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    table.add_column("sizes")  # wraps on a narrow terminal, so that the numbers stay whole
    for heading in ("trained\nparameters", "% of\nbase", "/ target"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way, choice in plan.choices.items():
        share = choice.trained_parameters / plan.base_parameters
        cells = (f"{choice.trained_parameters:,}", f"{100 * share:.1f}", f"{choice.ratio:.3f}")
        table.add_row(way, _size(plan, way, choice), *cells)
    return table


def _size(plan: Plan, way: str, choice: Choice) -> str:
    """The sizes of a choice as text; for a method the option that sets its size."""
    sizes = choice.sizes
    if way in METHODS:
        return ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in sizes.items())
    if way == "depth":
        return f"{plan.num_hidden_layers} -> {sizes['num_hidden_layers']} layers"
    return (
        f"hidden +{sizes['hidden_size']}, heads +{sizes['num_attention_heads']} (key/value "
        f"+{sizes['num_key_value_heads']}), ffn +{sizes['intermediate_size']}"
    )


def _parameters(plan: Plan) -> Table:
    table = _methods_table("Parameters of every method", ("added\nparameters", "trained\nparameters", "% of\nbase"))
    for m in plan.methods:
        table.add_row(m.method, f"{m.added_parameters:,}", f"{m.trained_parameters:,}", f"{100 * m.trained_share:.1f}")
    return table


def _costs(plan: Plan) -> Table:
    table = _methods_table(
        "Multiply-adds of weights per token, and cache",
        ("train\n/ fft", "rehearse\n/ fft", "generate\n/ base", "mixture\n/ base", "cache\nB/token", "cache\n/ base"),
        "train: a token of training data; rehearse: a token of old text under --rehearse, with the base's prediction; "
        "generate: a token; mixture: a token predicted by the model and by its base",
    )
    for m in plan.methods:
        ratios = [f"{r:.3f}" for r in (m.cost_ratio, m.rehearsal_ratio, m.generation_ratio, m.mixture_ratio)]
        table.add_row(m.method, *ratios, f"{m.cache_bytes:,}", f"{m.cache_ratio:.3f}")
    return table


def _methods_table(title: str, headings: Sequence[str], caption: str | None = None) -> Table:
    """A table with a row per method. Every number keeps its width on a narrow terminal."""
    from rich.table import Table

    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _memory(plan: Plan) -> Table:
    unit, size = ("GB", 1e9) if max(method.peak_bytes for method in plan.methods) >= 1e9 else ("MB", 1e6)
    checkpointing = ", activations recomputed" if plan.gradient_checkpointing else ""
    copied = {method.method: method.rehearsal_copy_bytes for method in plan.methods if method.rehearsal_copy_bytes}
    copies = ""
    if copied:
        copies = (
            f"; --rehearse with KL adds a copy of the base to {', '.join(copied)}: {max(copied.values()) / size:,.2f}"
        )
        copies += f" {unit}"
    each = "" if plan.gpus == 1 else f" on each of {plan.gpus} GPUs, " + ("sharded" if plan.shard else "copied")
    columns = {"weights": ["weights"], "gradients": ["gradients"], "AdamW": ["optimizer"]}
    gathered = ""
    if plan.shard:
        columns = {"held": ["weights", "gradients", "optimizer"], "gathered": ["gathered"]}
        gathered = "held: weights, gradients and moments; gathered: what is put together at a time; "
    columns |= {"other": ["activations"], "peak": ["peak"]}
    table = _methods_table(
        f"Memory of training{each}, {plan.batch_size} x {plan.seq_length} tokens, {plan.precision}{checkpointing}",
        [*(f"{column}\n{unit}" for column in columns), "card\nGB"],
        f"trained weights, gradients and AdamW's moments in float32, frozen weights in {plan.precision}; {gathered}"
        f"other: activations and the step's other tensors at their peak; peak: of everything together{copies}; card: "
        f"the smallest of {', '.join(map(str, CARDS))} GB of which the peak takes at most {CARD_SHARE:.0%}",
    )
    for method in plan.methods:
        parts = (f"{sum(getattr(method, f'{n}_bytes') for n in names) / size:,.2f}" for names in columns.values())
        card = next((card for card in CARDS if method.peak_bytes <= CARD_SHARE * card * 1e9), None)
        table.add_row(method.method, *parts, "none" if card is None else str(card))
    return table
