"""Widen and deepen a base, and show that neither changes it: equal logits, equal text.

    python examples/upscale_and_prove.py
    python examples/upscale_and_prove.py --base my-model --old old.jsonl --new new.jsonl

50 CPU seconds, of which the base takes 40. It prints:

    base: Local records in Scottfort, MS mention the birth of Alisha Summer Wagner. Alisha Summer Wagner was born on
    December 1, 1938.
    wide: 501,408 + 163,368 parameters; max |delta logit|: 0 on random tokens, 0 on 160 tokens of text; same greedy
    text: True
    deep: 501,408 + 101,568 parameters; max |delta logit|: 0 on random tokens, 0 on 160 tokens of text; same greedy
    text: True
"""

from __future__ import annotations

from typing import Any

import torch

import scale_cli
from small_world import read, world


def main() -> None:
    given = world(__doc__)
    base, tokenizer = scale_cli.load(given.base)
    text = read(given.old_held_out)[0]
    tokens = tokenizer(text, return_tensors="pt").input_ids
    prompt = tokens[:, : tokens.shape[1] // 4]

    def continued(model: Any) -> torch.Tensor:
        """The prompt and 40 tokens by greedy generation with a cache."""
        return model.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.eos_token_id)

    expected = continued(base)
    print("base:", tokenizer.decode(expected[0], skip_special_tokens=True))
    layers = base.config.num_hidden_layers + 1
    requests: dict[str, dict[str, Any]] = {
        "wide": {"by": "width", "hidden": given.hidden},
        "deep": {"by": "depth", "layers": layers},
    }
    for name, sizes in requests.items():
        # `upscale` itself compares the written files with the base on random tokens, and raises if they differ.
        made = scale_cli.upscale(given.base, given.out / name, **sizes)
        model, _ = scale_cli.load(made.out)
        delta = (model(tokens).logits - base(tokens).logits).abs().max().item()
        print(
            f"{name}: {made.base_parameters:,} + {made.added_parameters:,} parameters; max |delta logit|: "
            f"{made.max_delta_logit:g} on random tokens, {delta:g} on {tokens.shape[1]} tokens of text; same greedy "
            f"text: {torch.equal(continued(model), expected)}"
        )


if __name__ == "__main__":
    main()
