"""Width upscaling of SCALE (arXiv 2511.03270, section 3.1): the base's files are copied, the expansion is added.

Tensors have the names of the loaded model: `base.<the base's own name>` and `expansion....`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scale_cli.checkpoints.companions import save_with_code
from scale_cli.checkpoints.storage import ShardWriter
from scale_cli.core.errors import RequestError
from scale_cli.model import ScaleConfig
from scale_cli.model.families import FFN_ROLES, NORMS, ROLES, LayerShape, split_fused_rows
from scale_cli.surgery.directions import SvdSolver, solver_for
from scale_cli.surgery.initialise import INITS, Init, expand_embedding, expand_linear
from scale_cli.surgery.source import Base
from scale_cli.surgery.stopwatch import Stopwatch

InitPair = tuple[Init, Init]


def parse_init(text: str) -> InitPair:
    """The inits of W21 and W22 in `svd,zero`; a single one is for both. Raises RequestError for an unknown one."""
    parts = tuple(text.split(","))
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not set(parts) <= set(INITS):
        allowed = ", ".join(INITS)
        raise RequestError(f"--init {text}: give one word for W21 and one for W22, each of {allowed}, as in svd,zero")
    return parts  # type: ignore[return-value]


def plan_width(
    base: LayerShape,
    *,
    vocab_size: int,
    hidden: int,
    heads: int | None = None,
    ffn: int | None = None,
    init: InitPair = ("svd", "zero"),
    name: str = "the base",
) -> LayerShape:
    """The shape of the expansion that adds `hidden` features to a base. Needs no weights.

    heads: added query heads, of the base's head dimension. An added key/value head comes with its whole group of query
        heads. None takes the fewest whole groups whose features reach `hidden`.
    ffn: added feed-forward features. None takes the base's own proportion to `hidden`.
    Raises RequestError for sizes that do not fit.
    """
    for flag, count in (("--hidden", hidden), ("--heads", heads), ("--ffn", ffn)):
        if count is not None and count < 1:
            raise RequestError(f"{flag} {count}: an added size is at least 1; choose a positive number")
    group = base.num_key_value_groups
    if heads is None:
        heads = -(-hidden // (base.head_dim * group)) * group
    if heads % group:
        below, above = heads // group * group, (heads // group + 1) * group
        raise RequestError(
            f"--heads {heads}: in {name} {group} query heads share a key/value head, so heads are added {group} at a "
            f"time; choose {f'{below} or ' if below else ''}{above}"
        )
    if ffn is None:
        ffn = max(1, round(base.intermediate_size * hidden / base.hidden_size))
    added = LayerShape(hidden, ffn, heads, heads // group, base.head_dim)
    if "svd" in init:
        _check_svd(base, added, vocab_size=vocab_size, w22=init[1] == "svd", name=name)
    return added


def _check_svd(base: LayerShape, added: LayerShape, *, vocab_size: int, w22: bool, name: str) -> None:
    """Refuse sizes that need more singular directions than a map of the base has."""
    ranks = {role: min(base.features(role)) for role in ROLES}
    group, head_dim = base.num_key_value_groups, base.head_dim
    hidden = min(ranks["o"], ranks["down"], vocab_size)
    heads = min(ranks["q"] // head_dim, ranks["k"] // head_dim * group)
    ffn = min(ranks["gate"], ranks["up"])
    if w22:  # W22 = U_k^T W V_m, and V has one direction per column of W
        heads = min(heads, base.features("o")[1] // head_dim)
        ffn = min(ffn, base.features("down")[1])
    limits = {
        "--hidden": (added.hidden_size, hidden),
        "--heads": (added.num_attention_heads, heads // group * group),
        "--ffn": (added.intermediate_size, ffn),
    }
    for flag, (count, limit) in limits.items():
        if count > limit:
            raise RequestError(
                f"{flag} {count}: svd takes at most {limit} from the maps of {name}; choose "
                f"{f'{flag} up to {limit}, or ' if limit else ''}--init random"
            )


def svd_solvers(base: Base, added: LayerShape, *, init: InitPair, solver: SvdSolver) -> dict[str, SvdSolver]:
    """The solver that computes the singular directions of the embedding and of each map, "full" or "randomized".

    The maps are given by role, as their sizes are equal in all layers. Tensors without "svd" in `init` are left out.
    """
    sizes = {"embedding": (base.shape.hidden_size, added.hidden_size)} if init[0] == "svd" else {}
    if "svd" in init:
        roles = [role for role in ROLES if role != "gate" or base.family.gate]
        sizes |= {role: (min(base.shape.features(role)), added.features(role)[0]) for role in roles}
    return {name: solver_for(columns, count, solver) for name, (columns, count) in sizes.items()}


def expansion_sizes(added: LayerShape) -> dict[str, int]:
    """The added sizes under the names of the checkpoint's config."""
    return {
        "hidden_size": added.hidden_size,
        "num_attention_heads": added.num_attention_heads,
        "num_key_value_heads": added.num_key_value_heads,
        "intermediate_size": added.intermediate_size,
    }


def base_name(name: str) -> str:
    """The name of a base tensor in the widened model."""
    return f"base.{name}"


def write_expansion(
    base: Base,
    added: LayerShape,
    writer: ShardWriter,
    *,
    init: InitPair,
    svd_solver: SvdSolver,
    seed: int,
    clock: Stopwatch,
    progress: Callable[[int, int], None],
) -> None:
    """Write the tensors of the expansion, layer by layer.

    svd_solver: how singular directions are computed. seed: of the random values.
    clock: counts the initialisation as the stage "svd".
    progress: called with the number of written layers and of all layers.
    """
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"generator": generator, "solver": svd_solver}
    with clock("svd"), _naming(base, base.embedding_name):
        embedding = base.tensors[base.embedding_name]
        extra = expand_embedding(embedding, extra=added.hidden_size, init=init[0], **options)
    writer.add("expansion.embedding.weight", extra)
    writer.add("expansion.head.weight", torch.zeros_like(extra))  # zero: the logits stay the base's
    del extra
    final_norm = f"{base.family.decoder}.{base.family.final_norm}"
    for tensor, values in _new_norm(base, final_norm, added.hidden_size):
        writer.add(f"expansion.norm.{tensor}", values)
    for layer in range(base.num_layers):
        for name, values in _expand_layer(base, layer, added, init, options, clock):
            writer.add(f"expansion.layers.{layer}.{name}", values)
        progress(layer + 1, base.num_layers)


def write_config(base: Base, added: LayerShape, folder: Path) -> None:
    """Write the widened model's config: the base's own, verbatim, and the added sizes. No map collaborates yet."""
    config = ScaleConfig(base_config=base.raw_config, expansion=expansion_sizes(added), dtype=base.dtype)
    save_with_code(config, folder)


@contextlib.contextmanager
def _naming(base: Base, tensor: str) -> Iterator[None]:
    """Raise a RequestError that names base and tensor for values of a tensor that it cannot be expanded from."""
    try:
        yield
    except RequestError:  # a ValueError too, and it names the file already
        raise
    except ValueError as error:
        raise RequestError(f"{base.given}: {tensor} {error}; mend the weights of the base") from error


def _expand_layer(
    base: Base, layer: int, added: LayerShape, init: InitPair, options: dict[str, Any], clock: Stopwatch
) -> Iterator[tuple[str, Tensor]]:
    """The expansion's tensors of one layer, with their names below `expansion.layers.{i}.`.

    options: of `expand_linear`, the same for all maps.
    """
    for role, weight in _maps(base, layer):
        extra_out, extra_in = added.features(role)
        with clock("svd"), _naming(base, f"the {role} map of layer {layer}"):
            w21, w22 = expand_linear(weight, extra_in=extra_in, extra_out=extra_out, init=init, **options)
        yield f"{role}.w21", w21
        yield f"{role}.w22", w22
        path = base.family.path(role)
        assert path is not None
        if base.layer_name(layer, path, "bias") in base.tensors:
            yield f"{role}.bias", weight.new_zeros(extra_out)
    for role in NORMS:
        path = base.family.path(role)
        if path is not None:
            size = added.norm_features(role, base.family)
            for tensor, values in _new_norm(base, f"{base.layers_prefix}{layer}.{path}", size):
                yield f"{role}.{tensor}", values


def _maps(base: Base, layer: int) -> Iterator[tuple[str, Tensor]]:
    """Role and weight of each linear map of a layer. Fused q, k and v are split."""
    family = base.family
    if family.qkv is not None:
        fused = base.read(base.layer_name(layer, family.qkv, "weight"))
        yield from zip(("q", "k", "v"), split_fused_rows(fused, base.shape), strict=True)
        rest: tuple[str, ...] = ("o", *FFN_ROLES)
    else:
        rest = ROLES
    for role in rest:
        path = family.path(role)
        if path is not None:
            yield role, base.read(base.layer_name(layer, path, "weight"))


def _new_norm(base: Base, path: str, size: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a new norm of the kind at `path` in the base: scale one and, if it has a bias, bias zero."""
    for tensor, value in (("weight", base.family.norm_neutral), ("bias", 0.0)):
        if f"{path}.{tensor}" in base.tensors:
            yield tensor, torch.full((size,), value, dtype=base.read(f"{path}.{tensor}").dtype)
