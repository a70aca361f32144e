"""Compare methods in one table: the same base, the same tokens in the same order, the same measurements. TIME

    python examples/compare_methods.py
    python examples/compare_methods.py --base my-model --old old.jsonl --new new.jsonl --hidden 64 --steps 300

OUTPUT

This is no ranking: one seed, and one rate per method, the best of the two or three that were tried here. `scale sweep`
and `scale bench` compare methods at rates of a sweep and over seeds.
"""

from __future__ import annotations

from typing import Any

import scale_cli
from small_world import world

METHODS: dict[str, dict[str, Any]] = {
    "fft": {"lr": 1e-3},
    "lora": {"lr": 1e-2, "lora_r": 16},
    "llama-pro": {"lr": 1e-2},
    "scale-preserve": {"lr": 1e-2},
    "scale-adapt": {"lr": 3e-3, "preserve_layers": 1},
    "scale-route": {"lr": 1e-2, "preserve_layers": 1},
}
"""The methods and their own options."""


def main() -> None:
    given = world(__doc__)
    base, _ = scale_cli.load(given.base)
    wide, deep = given.out / "wide", given.out / "deep"
    scale_cli.upscale(given.base, wide, by="width", hidden=given.hidden)
    scale_cli.upscale(given.base, deep, by="depth", layers=base.config.num_hidden_layers + 1)
    shared: dict[str, Any] = {"data": (str(given.new),), "steps": given.steps, "batch_size": 8, "seq_length": 128}
    for method, options in METHODS.items():
        source = wide if method.startswith("scale-") else deep if method == "llama-pro" else given.base
        scale_cli.train(source, given.out / method, method=method, **shared, **options)
        print(f"{method}: trained")

    results = scale_cli.evaluate(
        [f"base={given.base}", *(f"{method}={given.out / method}" for method in METHODS)],
        texts=[f"old={given.old_held_out}", f"new={given.new_held_out}"],
    )
    stability, plasticity = ["perplexity:old=bits_per_byte"], ["perplexity:new=bits_per_byte"]
    print(scale_cli.report(results, format="text", base="base", stability=stability, plasticity=plasticity))


if __name__ == "__main__":
    main()
