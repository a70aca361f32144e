"""The options of the methods: part of a training recipe, and written beside what was trained."""

from __future__ import annotations

from dataclasses import dataclass

from scale_cli.core.recipe import option


@dataclass(frozen=True)
class MethodOptions:
    """What a method can be told. A method reads only its own; defaults are the papers' where they say."""

    preserve_layers: int | None = option(
        None,
        help="L_fp, the lower layers that stay function-preserving under scale-adapt and scale-route.  [3, or 0 below "
        "4 layers]",
    )
    adapt_modules: tuple[str, ...] = option(
        ("attention",), help="The modules whose W12 trains above L_fp.", choices=("attention", "ffn")
    )
    threshold: float = option(0.5, help="tau of scale-route: above this cosine a token takes the preserve branch.")
    lora_r: int = option(256, help="Rank of lora.")
    lora_alpha: int | None = option(None, help="Scale of lora's update in units of 1/r.  [the rank]")
    freeze_layers: int = option(3, help="Bottom layers that freeze holds fixed, besides the input embedding.")

    def __post_init__(self) -> None:
        if self.preserve_layers is not None and self.preserve_layers < 0:
            raise ValueError(f"--preserve-layers {self.preserve_layers}: a number of layers is at least 0")
        if not self.adapt_modules:
            raise ValueError("--adapt-modules is empty; choose attention, ffn or both (scale-preserve adapts none)")
        if self.lora_r < 1:
            raise ValueError(f"--lora-r {self.lora_r}: a rank is at least 1")
        if self.lora_alpha is not None and self.lora_alpha < 1:
            raise ValueError(f"--lora-alpha {self.lora_alpha}: at least 1")
        if self.freeze_layers < 0:
            raise ValueError(f"--freeze-layers {self.freeze_layers}: a number of layers is at least 0")
