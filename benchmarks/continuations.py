"""What a checkpoint writes after a prompt under several routers: `python -m benchmarks.continuations RUN --prompt ...`.

A mixture follows the text: it should continue an old text as the base does, and a new one as the widened model does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks.command import Result, run
from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.checkpoints.load import companions_fingerprint
from scale_cli.core.errors import RequestError
from scale_cli.evaluation.subject import Subject, load, targets

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One continuation. text: the new tokens alone. weights: the base's weight before each of them; None without a
    mixture."""

    prompt: str
    router: str
    text: str
    weights: list[float] | None


@torch.no_grad()
def continuation(subject: Subject, prompt: str, new_tokens: int) -> Row:
    """The greedy continuation of a prompt, `new_tokens` tokens or until end-of-text."""
    tokenizer, model = subject.tokenizer, subject.model
    inputs = tokenizer(prompt, return_tensors="pt")
    end = tokenizer.eos_token_id
    given: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": end, "eos_token_id": end}
    written = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **given)
    length = inputs["input_ids"].shape[1]
    weights = None
    if subject.has_routed:
        preserved = model(written[:, :-1], use_cache=False).preserved
        weights = [round(weight, 4) for weight in preserved[0, length - 1 :].tolist()]
    text = tokenizer.decode(written[0, length:], skip_special_tokens=True)
    return Row(prompt, subject.target.router or "", text, weights)


def main(
    checkpoint: Annotated[str, typer.Argument(help="A trained checkpoint.")],
    prompt: Annotated[list[str], typer.Option(help="Beginning of a text; may be repeated.")],
    router: Annotated[list[str], typer.Option(help="As in scale eval --router; may be repeated.")],
    base: Annotated[str | None, typer.Option(help="As in scale eval --base.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each continuation.")] = 24,
) -> Result:
    """Continue prompts greedily under several routers."""
    if new_tokens < 1:
        raise RequestError(f"--new-tokens {new_tokens}: at least 1")
    quiet_libraries()
    described = targets([checkpoint], routers=router, base=base, dtype="float32", device=CPU)
    loaded = next((target for target in described if target.base is not None), described[0])
    subject = load(loaded, device=CPU, batch_size=1, seed=0)
    rows = [continuation(subject.under(target), text, new_tokens) for text in prompt for target in described]
    table = Table("prompt", "router", "continuation", "base's weight, first and last", show_lines=True)
    for row in rows:
        shown = "-" if not row.weights else f"{row.weights[0]:.3f}, {row.weights[-1]:.3f}"
        table.add_row(row.prompt, row.router, row.text.replace("\n", " / "), shown)
    fields = {"fingerprint": described[0].fingerprint, "companions": companions_fingerprint(described[0].checkpoint)}
    return Result([table], {"rows": rows, **fields}, width=140)


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.continuations", sys.argv[1:]))
