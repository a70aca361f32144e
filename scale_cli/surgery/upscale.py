"""Base checkpoint -> wider or deeper checkpoint: the one entry point of this package."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from scale_cli import __version__
from scale_cli.errors import RequestError
from scale_cli.files import new_folder, to_json, write_text
from scale_cli.model import ScaleForCausalLM
from scale_cli.surgery import depth, width
from scale_cli.surgery.source import open_base
from scale_cli.surgery.verify import prove_unchanged

DEFAULT_INIT = "svd,zero"


@dataclass(frozen=True)
class UpscaleResult:
    """What an upscaling made.

    sizes: by width what was added (hidden_size, num_attention_heads, num_key_value_heads, intermediate_size), by depth
        num_hidden_layers, all of them.
    base_parameters, added_parameters: a tied head counted once.
    max_delta_logit, tolerance: of the proof; None where it was not wanted.
    seconds: wall time by stage: copy and expansion ("write") and the proof ("verify").
    """

    out: Path
    by: Literal["width", "depth"]
    sizes: dict[str, int]
    base_parameters: int
    added_parameters: int
    max_delta_logit: float | None
    tolerance: float | None
    seconds: dict[str, float]


def upscale(
    base: str,
    out: Path,
    *,
    by: Literal["width", "depth"],
    hidden: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    layers: int | None = None,
    init: str = DEFAULT_INIT,
    seed: int = 0,
    verify: bool = True,
    revision: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UpscaleResult:
    """Write the base checkpoint, widened or deepened without changing what it computes, into the new folder `out`.

    base: a folder or a hub id, of which `revision` may name the commit; only its safetensors are read.
    by: "width" (SCALE): `hidden` features, `heads` query heads and `ffn` feed-forward features are added, the last two
        chosen to fit where not given, and initialised by `init` (W21, W22) from `seed`.
        "depth" (LLaMA Pro): blocks are added until there are `layers`.
    verify: load what was written and compare its logits with the base's.
    progress: called with layers done and layers in all.
    Raises RequestError for what cannot be done and RuntimeError where the proof fails; `out` is then not there.
    """
    _check_request(by, hidden=hidden, heads=heads, ffn=ffn, layers=layers, init=init, seed=seed)
    words = width.parse_init(init)
    with new_folder(out) as folder:
        opened = open_base(base, revision=revision)
        start = time.perf_counter()
        if by == "width":
            assert hidden is not None
            added = width.plan_width(
                opened.shape,
                vocab_size=opened.config.vocab_size,
                hidden=hidden,
                heads=heads,
                ffn=ffn,
                init=words,
                name=opened.name,
            )
            written = width.write_width(opened, added, folder, init=words, seed=seed, progress=progress)
            sizes = width.expansion_sizes(added)
            method: dict[str, Any] = {
                "method": "scale",
                "initialisation": dict(zip(("w21", "w22"), words, strict=True)),
            }
            model_class: type[PreTrainedModel] = ScaleForCausalLM
        else:
            assert layers is not None
            copied = depth.plan_depth(opened.num_layers, layers=layers, name=opened.name)
            written = depth.write_depth(opened, copied, folder, progress=progress)
            sizes = {"num_hidden_layers": layers}
            method = {"method": "llama-pro", "new_layers": depth.new_layers(copied), "copied_layers": copied}
            model_class = opened.model_class
        opened.copy_companions(folder)
        identity = opened.identity()
        seconds = {"write": time.perf_counter() - start}
        proof = None
        if verify:
            start = time.perf_counter()
            proof = prove_unchanged(opened, folder, model_class, seed=seed)
            seconds["verify"] = time.perf_counter() - start
        record = method | {
            "by": by,
            "sizes": sizes,
            "parameters": {"base": opened.parameters, "added": written.added_parameters},
            "seed": seed,
            "base": identity,
            "pretrained": written.pretrained,
            "added": written.added,
            "proof": proof,
            "version": __version__,
        }
        write_text(folder / "upscale.json", to_json(record) + "\n")
        return UpscaleResult(
            out=out,
            by=by,
            sizes=sizes,
            base_parameters=opened.parameters,
            added_parameters=written.added_parameters,
            max_delta_logit=proof.max_delta_logit if proof else None,
            tolerance=proof.tolerance if proof else None,
            seconds=seconds,
        )


def _check_request(
    by: str,
    *,
    hidden: int | None,
    heads: int | None,
    ffn: int | None,
    layers: int | None,
    init: str,
    seed: int,
) -> None:
    """Refuse options that contradict each other, before anything is looked at."""
    if by not in ("width", "depth"):
        raise RequestError(f"--by {by}: choose width or depth")
    if by == "width":
        if layers is not None:
            raise RequestError(f"--layers {layers} belongs to --by depth; by width choose --hidden, --heads and --ffn")
        if hidden is None:
            raise RequestError("--by width needs --hidden: how many features to add, as in --hidden 256")
    else:
        for flag, value in (("--hidden", hidden), ("--heads", heads), ("--ffn", ffn)):
            if value is not None:
                raise RequestError(f"{flag} {value} belongs to --by width; by depth choose --layers")
        if init != DEFAULT_INIT:
            raise RequestError(f"--init {init} belongs to --by width; by depth the copies' output matrices are zero")
        if layers is None:
            raise RequestError("--by depth needs --layers: how many layers there shall be in all")
    if not 0 <= seed < 2**63:
        raise RequestError(f"--seed {seed}: choose a whole number from 0 to 2^63 - 1")
