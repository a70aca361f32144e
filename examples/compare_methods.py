"""Compare methods in one table: the same base, the same tokens in the same order, the same measurements.

    python examples/compare_methods.py
    python examples/compare_methods.py --base my-model --old old.jsonl --new new.jsonl --hidden 64 --steps 300

136 CPU seconds, of which the base takes 40. The table, without its legend:

                                                  stability: Old text             plasticity: New text
    checkpoint      trained  tokens  seconds  bits per byte ↓     forgetting  bits per byte ↓           gain
    ────────────────────────────────────────  ──────────────────────────────  ──────────────────────────────
    base†             501 K   307 K       78   0.887 ± 0.013       -            3.492 ± 0.061      -
    ────────────────────────────────────────  ──────────────────────────────  ──────────────────────────────
    fft†              501 K   102 K       31   1.687 ± 0.019*  0.801 ± 0.023    0.846 ± 0.019  2.645 ± 0.064
    lora             82.9 K   102 K       31   2.134 ± 0.024   1.247 ± 0.027    1.413 ± 0.023  2.079 ± 0.065
    llama-pro         102 K   102 K       15   2.248 ± 0.025   1.362 ± 0.028    1.372 ± 0.026  2.119 ± 0.066
    ────────────────────────────────────────  ──────────────────────────────  ──────────────────────────────
    scale-preserve    163 K   102 K       22   1.728 ± 0.021   0.842 ± 0.025    0.948 ± 0.024  2.544 ± 0.065
    scale-adapt       182 K   102 K       26   1.911 ± 0.020   1.025 ± 0.023    1.665 ± 0.031  1.827 ± 0.068
    scale-route       182 K   102 K       29   2.423 ± 0.023   1.537 ± 0.026    0.861 ± 0.020  2.630 ± 0.064

This is no ranking: a model of half a million parameters, one seed, and one or two rates tried per method. Here full
fine-tuning forgets least and learns most. `scale sweep` and `scale bench` compare methods at the rates of a sweep and
over seeds.
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
    print(scale_cli.report(results, format="text", base="base"))


if __name__ == "__main__":
    main()
