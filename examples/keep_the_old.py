"""Learn a small text and keep the old: before, after the new text alone, and after some old text mixed in. TIME

    python examples/keep_the_old.py
    python examples/keep_the_old.py --base my-model --old old.jsonl --new new.jsonl --hidden 64 --steps 300

OUTPUT

SCALE-Preserve keeps every weight and every hidden state of the base, which the last line checks. That alone does not
keep its answers: the added logits are trained on the new text. A fifth of old text among the tokens keeps most of them.
"""

from __future__ import annotations

from typing import Any

import torch

import scale_cli
from small_world import world


def main() -> None:
    given = world(__doc__)
    scale_cli.upscale(given.base, given.out / "wide", by="width", hidden=given.hidden)
    options: dict[str, Any] = {"steps": given.steps, "batch_size": 8, "seq_length": 128, "lr": 1e-2}
    texts = {"new-alone": (str(given.new),), "mixed": (f"{given.new}:0.8", f"{given.old}:0.2")}
    runs = {name: given.out / name for name in texts}
    for name, data in texts.items():
        trained = scale_cli.train(given.out / "wide", runs[name], method="scale-preserve", data=data, **options)
        print(f"{name}: {trained.trained_parameters:,} parameters, {trained.tokens:,} tokens, {trained.seconds:.0f} s")

    results = scale_cli.evaluate(
        [f"before={given.base}", *(f"{name}={run}" for name, run in runs.items())],
        texts=[f"old={given.old_held_out}", f"new={given.new_held_out}"],
    )
    stability, plasticity = ["perplexity:old=bits_per_byte"], ["perplexity:new=bits_per_byte"]
    print(scale_cli.report(results, format="text", base="before", stability=stability, plasticity=plasticity))

    base, _ = scale_cli.load(given.base)
    after, _ = scale_cli.load(runs["mixed"])
    kept = after.state_dict()
    same = all(torch.equal(tensor, kept[f"base.{name}"]) for name, tensor in base.state_dict().items())
    print(f"every weight of the base is bitwise in the trained model: {same}")


if __name__ == "__main__":
    main()
