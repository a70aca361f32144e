"""Block expansion of LLaMA Pro (arXiv 2401.02415): copies of decoder layers whose output matrices are zero.

The result is a checkpoint of the base's own family with more layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scale_cli.errors import RequestError
from scale_cli.files import write_text
from scale_cli.surgery.source import Base
from scale_cli.surgery.storage import ShardWriter, Written, copy_renamed, write_index

PER_LAYER_LISTS = ("layer_types",)
"""Entries of a config that hold one value for each layer."""


def plan_depth(base_layers: int, *, layers: int, name: str = "the base") -> list[int]:
    """The base layer that each new block copies and follows, bottom first: one after every group of layers.

    With L base layers and P new blocks that is floor((j + 1) L / P) - 1 for block j, which is the paper's "after every
    L / P layers" wherever P divides L. Raises RequestError unless L < layers <= 2 L.
    """
    if not base_layers < layers <= 2 * base_layers:
        reason = "block expansion only adds" if layers <= base_layers else "block expansion copies each at most once"
        raise RequestError(
            f"--layers {layers}: {name} has {base_layers} layers and {reason}; choose {base_layers + 1} to "
            f"{2 * base_layers}"
        )
    new = layers - base_layers
    return [(j + 1) * base_layers // new - 1 for j in range(new)]


def new_layers(copied: list[int]) -> list[int]:
    """The indices that the new blocks have in the deepened model, from the base layers that they copy."""
    return [layer + j + 1 for j, layer in enumerate(copied)]


def write_depth(base: Base, copied: list[int], folder: Path, *, progress: Callable[[int, int], None]) -> Written:
    """Write config and tensors of the deepened model: the base's shards renumbered, the blocks beside them.

    progress: called with blocks done and blocks in all.
    """
    config = deepened_config(base.raw_config, base.num_layers, copied)
    write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    prefix = base.layers_prefix

    def renumber(name: str) -> str:
        if not name.startswith(prefix):
            return name
        index, _, rest = name.removeprefix(prefix).partition(".")
        below = sum(layer < int(index) for layer in copied)
        return f"{prefix}{int(index) + below}.{rest}"

    weight_map = {}
    for file in base.files:
        for name in copy_renamed(file, folder / f"base-{file.name}", renumber):
            weight_map[name] = f"base-{file.name}"
    writer = ShardWriter(folder, "blocks")
    zero_paths = (base.family.o, base.family.down)
    for j, (source, index) in enumerate(zip(copied, new_layers(copied), strict=True)):
        own_prefix = f"{prefix}{source}."
        for name in base.tensors:
            if name.startswith(own_prefix):
                rest = name.removeprefix(own_prefix)
                tensor = base.read(name)
                is_output = rest.rpartition(".")[0] in zero_paths
                writer.add(f"{prefix}{index}.{rest}", torch.zeros_like(tensor) if is_output else tensor)
        progress(j + 1, len(copied))
    writer.flush()
    write_index(folder, weight_map | writer.weight_map)
    return Written(list(weight_map), list(writer.weight_map), writer.parameters)


def deepened_config(config: dict[str, Any], base_layers: int, copied: list[int]) -> dict[str, Any]:
    """A base's config with the layers added; a copy takes the entry of its layer in lists of one entry a layer."""
    order = sorted([*range(base_layers), *copied])
    lists = {name: [config[name][layer] for layer in order] for name in PER_LAYER_LISTS if config.get(name)}
    return config | lists | {"num_hidden_layers": len(order)}
