"""Block expansion of LLaMA Pro (arXiv 2401.02415): copies of decoder layers whose output matrices are zero.

The result is a checkpoint of the base's own family with more layers. As a control, new blocks can have random values
instead of copied ones.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scale_cli.checkpoints.storage import ShardWriter
from scale_cli.core.errors import RequestError
from scale_cli.core.files import write_text
from scale_cli.model.families import group_ends
from scale_cli.surgery.source import Base

BlockInit = Literal["copy", "random"]
BLOCK_INITS: tuple[BlockInit, ...] = get_args(BlockInit)
"""The initial values of new blocks: those of a base layer, or those of a new model of this config."""


def plan_depth(base_layers: int, *, layers: int, name: str = "the base") -> list[int]:
    """The base layer that each new block copies and follows, from the bottom: one after every group of layers.

    With L base layers and P new blocks, block j copies layer floor((j + 1) L / P) - 1. If P divides L, this is the
    paper's "after every L / P layers". Raises RequestError unless L < layers <= 2 L.
    """
    if not base_layers < layers <= 2 * base_layers:
        reason = "block expansion only adds" if layers <= base_layers else "block expansion copies each at most once"
        raise RequestError(
            f"--layers {layers}: {name} has {base_layers} layers and {reason}; choose {base_layers + 1} to "
            f"{2 * base_layers}"
        )
    return group_ends(base_layers, layers - base_layers)


def new_layers(copied: list[int]) -> list[int]:
    """The indices of the new blocks in the deepened model. copied: the base layers that they copy."""
    return [layer + j + 1 for j, layer in enumerate(copied)]


def base_name(name: str, base: Base, copied: list[int]) -> str:
    """The name of a base tensor in the deepened model. New blocks below a layer raise its index."""
    prefix = base.layers_prefix
    if not name.startswith(prefix):
        return name
    index, _, rest = name.removeprefix(prefix).partition(".")
    below = sum(layer < int(index) for layer in copied)
    return f"{prefix}{int(index) + below}.{rest}"


def check_block_init(init: str | None) -> BlockInit:
    """The initial values of new blocks, "copy" for None. Raises RequestError for an unknown word."""
    if init is None:
        return "copy"
    for known in BLOCK_INITS:
        if init == known:
            return known
    raise RequestError(
        f"--init {init}: by depth choose {' or '.join(BLOCK_INITS)}; their output matrices are zero either way"
    )


def write_blocks(
    base: Base,
    copied: list[int],
    writer: ShardWriter,
    *,
    init: BlockInit = "copy",
    seed: int = 0,
    progress: Callable[[int, int], None],
) -> None:
    """Write the tensors of the new blocks. Their output matrices are zero, with the biases.

    copied: the base layers that they copy. init: "random" for other values, from `seed`; see `random_block`.
    progress: called with the number of written blocks and of all blocks.
    """
    prefix = base.layers_prefix
    zero_paths = (base.family.o, base.family.down)
    for j, (source, index) in enumerate(zip(copied, new_layers(copied), strict=True)):
        own_prefix = f"{prefix}{source}."
        drawn = random_block(base, source, seed=seed + j) if init == "random" else {}
        for name in base.tensors:
            if name.startswith(own_prefix):
                rest = name.removeprefix(own_prefix)
                tensor = base.read(name)
                tensor = drawn[rest].to(tensor.dtype) if rest in drawn else tensor
                is_output = rest.rpartition(".")[0] in zero_paths
                writer.add(f"{prefix}{index}.{rest}", torch.zeros_like(tensor) if is_output else tensor)
        progress(j + 1, len(copied))


def random_block(base: Base, layer: int, *, seed: int) -> dict[str, Tensor]:
    """The parameters of a layer as the library draws them for a new model of this config, by name below the layer."""
    with torch.device("meta"):
        model: Any = base.model_class(base.config)
    block = base.family.layers_of(model)[layer].to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        block.apply(model._init_weights)
    return dict(block.named_parameters())


def write_config(base: Base, copied: list[int], folder: Path) -> None:
    """Write the deepened model's config.json."""
    config = deepened_config(base, copied)
    write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def deepened_config(base: Base, copied: list[int]) -> dict[str, Any]:
    """The base's config.json for the deepened model. A new block has the attention type of the layer that it copies.

    `layer_types` is written only if the library would not derive it from the rest of the config.
    """
    order = sorted([*range(base.num_layers), *copied])
    config = copy.deepcopy(base.raw_config) | {"num_hidden_layers": len(order)}
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][layer] for layer in order]
    base_types = base.family.layer_types(base.config)
    expected = [base_types[layer] for layer in order]
    if base.family.layer_types(type(base.config).from_dict(copy.deepcopy(config))) != expected:
        config["layer_types"] = expected
    return config
