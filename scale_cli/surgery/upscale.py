"""Upscaling a base checkpoint by width or depth: the entry point of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from scale_cli import __version__
from scale_cli.checkpoints.card import history, origin, write_card
from scale_cli.checkpoints.companion_files import copy_companions
from scale_cli.checkpoints.companions import keep_tokenizer_class, load_tokenizer
from scale_cli.checkpoints.storage import ShardWriter, copy_files, write_index
from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, require_room, to_json, write_text
from scale_cli.core.records import peak_memory_bytes
from scale_cli.data.tokens import token_ids
from scale_cli.model import ScaleForCausalLM
from scale_cli.surgery import depth, directions, width
from scale_cli.surgery.source import Base, open_base
from scale_cli.surgery.stopwatch import Stopwatch
from scale_cli.surgery.verify import prove_unchanged

Progress = Callable[[int, int], None]
DEFAULT_INIT = "svd,zero"
"""The initial W21 and W22 of a widened model."""
TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model")
"""A checkpoint with a tokenizer has one of these files."""


@dataclass(frozen=True)
class UpscaleResult:
    """The result of an upscaling.

    sizes: by width the added hidden_size, num_attention_heads, num_key_value_heads and intermediate_size; by depth
        num_hidden_layers of the whole model.
    svd_solver: the solver that computed the singular directions of the embedding and of each role's maps, "full" or
        "randomized", for tensors initialised by them; by depth empty.
    base_parameters, added_parameters: a tied head counts once.
    max_delta_logit, tolerance: of the proof; None without a proof.
    has_tokenizer: whether the base has one. vocab_size: rows of the base's embedding. token_ids: number of the
        tokenizer's ids, None if it does not load.
    seconds: wall time by stage: copying the base's tensors ("copy"), initialising the expansion by width ("svd"),
        everything else up to the complete folder ("write"), and the proof ("verify").
    cpu_seconds: CPU time of all threads by the same stages.
    peak_bytes: peak memory of this process until the folder was complete ("write") and after the proof ("verify").
    """

    out: Path
    by: Literal["width", "depth"]
    sizes: dict[str, int]
    svd_solver: dict[str, directions.SvdSolver]
    base_parameters: int
    added_parameters: int
    max_delta_logit: float | None
    tolerance: float | None
    has_tokenizer: bool
    vocab_size: int
    token_ids: int | None
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    peak_bytes: dict[str, int]


def upscale(
    base: str,
    out: Path,
    *,
    by: Literal["width", "depth"] | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    layers: int | None = None,
    init: str | None = None,
    svd_solver: directions.SvdSolver = "auto",
    seed: int = 0,
    verify: bool = True,
    revision: str | None = None,
    progress: Progress = lambda done, total: None,
) -> UpscaleResult:
    """Widen or deepen a base checkpoint without changing its function, and write the result to the new folder `out`.

    base: a folder or a hub id; `revision` may name the hub id's commit. Only its safetensors are read.
    by: "width" (SCALE) adds `hidden` features, `heads` query heads and `ffn` feed-forward features, initialised by
        `init` (W21, W22; None: DEFAULT_INIT) from `seed`. `heads` and `ffn` default to sizes that fit `hidden`.
        svd_solver: how the singular directions of "svd" are computed: by LAPACK ("full"), by a block Krylov method
        ("randomized"), or by whichever takes less time ("auto").
        "depth" (LLaMA Pro) adds blocks up to `layers` layers, with values of the base ("copy") or random ones from
        `seed`, by `init`. None: the one that the given size, `hidden` or `layers`, belongs to.
    verify: load the written checkpoint and compare its logits with the base's.
    progress: called with the number of written layers and of all layers.
    Raises RequestError for a request that cannot be met and RuntimeError if the proof fails; `out` is then not written.
    """
    by = by or _kind_of(hidden, layers)
    _check_request(by, hidden=hidden, heads=heads, ffn=ffn, layers=layers, init=init, svd_solver=svd_solver, seed=seed)
    with new_folder(out) as folder:
        opened = open_base(base, revision=revision)
        clock = Stopwatch()
        with clock("write"):
            if by == "width":
                assert hidden is not None
                init_pair = width.parse_init(init or DEFAULT_INIT)
                options: dict[str, Any] = {"init": init_pair, "svd_solver": svd_solver, "seed": seed}
                plan = _by_width(opened, hidden=hidden, heads=heads, ffn=ffn, clock=clock, **options)
            else:
                assert layers is not None
                plan = _by_depth(opened, layers=layers, init=depth.check_block_init(init), seed=seed)
            plan.write_config(folder)
            require_room(folder, _needed_bytes(opened, plan.model_class, folder), name=out)
            with clock("copy"):
                pretrained = copy_files(opened.files, folder, plan.rename)
            added = ShardWriter(folder, plan.stem)
            plan.write_added(added, progress)
            added.flush()
            write_index(folder, pretrained.weight_map | added.weight_map)
            copy_companions(opened.folder, folder)
            tokenizer_config = keep_tokenizer_class(folder, opened.config) if by == "width" else None
        peak_bytes = {"write": peak_memory_bytes()}
        proof = None
        if verify:
            with clock("verify"):
                proof = prove_unchanged(opened, folder, plan.model_class, seed=seed)
            # The kernel's counter is approximate: the peak can be some pages below the earlier one.
            peak_bytes["verify"] = max(peak_bytes["write"], peak_memory_bytes())
        record = plan.record | {
            "by": by,
            "sizes": plan.sizes,
            "parameters": {"base": opened.parameters, "added": added.parameters},
            "seed": seed,
            "base": opened.identity(pretrained.sha256)
            | ({"tokenizer_config": tokenizer_config} if tokenizer_config else {}),
            "pretrained": list(pretrained.weight_map),
            "added": list(added.weight_map),
            "proof": proof,
            "version": __version__,
        }
        write_text(folder / "upscale.json", to_json(record) + "\n")
        source = origin(opened.folder, hub_id=opened.given if opened.revision else None)
        write_card(folder, name=out.resolve().name, form=by, source=source, steps=history(folder))
        return UpscaleResult(
            out=out,
            by=by,
            sizes=plan.sizes,
            svd_solver=plan.record.get("svd_solver", {}),
            base_parameters=opened.parameters,
            added_parameters=added.parameters,
            max_delta_logit=proof.max_delta_logit if proof else None,
            tolerance=proof.tolerance if proof else None,
            has_tokenizer=any(True for pattern in TOKENIZERS for _ in folder.glob(pattern)),
            vocab_size=opened.config.vocab_size,
            token_ids=_token_ids(folder, opened.config),
            seconds=clock.seconds,
            cpu_seconds=clock.cpu_seconds,
            peak_bytes=peak_bytes,
        )


@dataclass(frozen=True)
class _Plan:
    """The parts in which upscaling by width and by depth differ.

    record: fields that only this kind has in `upscale.json`. rename: the new name of a base tensor. stem: name of the
    files of added tensors.
    """

    model_class: type[PreTrainedModel]
    sizes: dict[str, int]
    record: dict[str, Any]
    stem: str
    rename: Callable[[str], str]
    write_config: Callable[[Path], None]
    write_added: Callable[[ShardWriter, Progress], None]


def _by_width(
    base: Base,
    *,
    hidden: int,
    heads: int | None,
    ffn: int | None,
    init: width.InitPair,
    svd_solver: directions.SvdSolver,
    seed: int,
    clock: Stopwatch,
) -> _Plan:
    vocab_size = base.config.vocab_size
    added = width.plan_width(
        base.shape, vocab_size=vocab_size, hidden=hidden, heads=heads, ffn=ffn, init=init, name=base.name
    )
    return _Plan(
        model_class=ScaleForCausalLM,
        sizes=width.expansion_sizes(added),
        record={
            "method": "scale",
            "initialisation": dict(zip(("w21", "w22"), init, strict=True)),
            "svd_solver": width.svd_solvers(base, added, init=init, solver=svd_solver),
        },
        stem="expansion",
        rename=width.base_name,
        write_config=lambda folder: width.write_config(base, added, folder),
        write_added=lambda writer, progress: width.write_expansion(
            base, added, writer, init=init, svd_solver=svd_solver, seed=seed, clock=clock, progress=progress
        ),
    )


def _by_depth(base: Base, *, layers: int, init: depth.BlockInit, seed: int) -> _Plan:
    copied = depth.plan_depth(base.num_layers, layers=layers, name=base.name)
    return _Plan(
        model_class=base.model_class,
        sizes={"num_hidden_layers": layers},
        record={
            "method": "llama-pro",
            "initialisation": {"blocks": init},
            "new_layers": depth.new_layers(copied),
            "copied_layers": copied,
        },
        stem="blocks",
        rename=lambda name: depth.base_name(name, base, copied),
        write_config=lambda folder: depth.write_config(base, copied, folder),
        write_added=lambda writer, progress: depth.write_blocks(
            base, copied, writer, init=init, seed=seed, progress=progress
        ),
    )


def _token_ids(folder: Path, config: Any) -> int | None:
    try:
        return token_ids(load_tokenizer(folder, config))
    except Exception:  # no tokenizer, a missing package, or damaged files, for which the library raises any error
        return None


def _needed_bytes(base: Base, model_class: type[PreTrainedModel], folder: Path) -> int:
    """Size of the weights to write, from the base's files and the config written to `folder`."""
    config: Any = model_class.config_class
    with torch.device("meta"):
        parameters = int(model_class(config.from_pretrained(folder)).num_parameters())
    files_bytes = sum(file.stat().st_size for file in base.files)
    return files_bytes + (parameters - base.parameters) * base.dtype.itemsize


def _kind_of(hidden: int | None, layers: int | None) -> Literal["width", "depth"]:
    """The kind of upscaling that the given size belongs to."""
    if hidden is not None and layers is not None:
        raise RequestError(f"--hidden {hidden} widens and --layers {layers} deepens; give one of them")
    if hidden is None and layers is None:
        raise RequestError("no size: give --hidden N, features to add, or --layers N, the total number of layers")
    return "depth" if hidden is None else "width"


def _check_request(
    by: str,
    *,
    hidden: int | None,
    heads: int | None,
    ffn: int | None,
    layers: int | None,
    init: str | None,
    svd_solver: str,
    seed: int,
) -> None:
    """Refuse contradictory options before any file is read."""
    if by not in ("width", "depth"):
        raise RequestError(f"--by {by}: choose width or depth")
    if svd_solver not in directions.SVD_SOLVERS:
        raise RequestError(f"--svd-solver {svd_solver}: choose auto, full or randomized")
    if by == "width":
        if layers is not None:
            raise RequestError(f"--layers {layers} belongs to --by depth; by width choose --hidden, --heads and --ffn")
        if hidden is None:
            raise RequestError("--by width needs --hidden, the number of features to add, as in --hidden 256")
        if "svd" not in width.parse_init(init or DEFAULT_INIT) and svd_solver != "auto":
            raise RequestError(f"--svd-solver {svd_solver} belongs to the init svd, which --init {init} lacks")
    else:
        for flag, value in (("--hidden", hidden), ("--heads", heads), ("--ffn", ffn)):
            if value is not None:
                raise RequestError(f"{flag} {value} belongs to --by width; by depth choose --layers")
        depth.check_block_init(init)
        if svd_solver != "auto":
            raise RequestError(f"--svd-solver {svd_solver} belongs to --by width; by depth nothing is decomposed")
        if layers is None:
            raise RequestError("--by depth needs --layers, the total number of layers")
    if not 0 <= seed < 2**63:
        raise RequestError(f"--seed {seed}: choose a whole number from 0 to 2^63 - 1")
