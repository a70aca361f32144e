"""Exactness of every model family, measured on small models: `python -m benchmarks.families`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.command import Result, run
from scale_cli.cli.output import say
from scale_cli.model.families import MODULES
from scale_cli.surgery import upscale

VOCABULARY, LAYERS, HIDDEN = 512, 4, 64
PROMPTS, LENGTH, NEW_TOKENS = 3, 40, 24
WINDOW = 16
"""Tokens in the window of a sliding layer, fewer than a prompt has."""
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GATED = SIZES | {"intermediate_size": 176, "num_key_value_heads": 2}
GEMMA = GATED | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": WINDOW, "sliding_window_pattern": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOWED = GATED | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
NEOX = SIZES | {"intermediate_size": 256}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2": ("llama", GATED | {"num_key_value_heads": 4}),
    "Llama 3.2 (scaled rope, tied)": ("llama", GATED | {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "SmolLM2 (3 heads a group)": (
        "llama",
        GATED | {"hidden_size": 96, "num_attention_heads": 6, "tie_word_embeddings": True},
    ),
    "Mistral (sliding window)": ("mistral", GATED | {"sliding_window": WINDOW}),
    "Qwen2 (q, k, v biases, tied)": ("qwen2", GATED | {"tie_word_embeddings": True}),
    "Qwen2 (window in upper layers)": ("qwen2", WINDOWED),
    "Qwen3 (q, k norms, own head_dim)": ("qwen3", GATED | {"head_dim": 32}),
    "OLMo 2 (norms after, wide q, k norms)": ("olmo2", GATED),
    "Gemma 3 (four norms, local and global)": ("gemma3_text", GEMMA),
    "Gemma 3 (soft-capped logits)": ("gemma3_text", GEMMA | {"final_logit_softcapping": 30.0}),
    "Pythia (parallel residual)": ("gpt_neox", NEOX),
    "GPT-NeoX (sequential residual)": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
}
"""Model types and configs by name. Sizes are small; everything else is as in the family's models."""


@dataclass(frozen=True)
class Row:
    """The measurements of one model. Differences are of logits; generation is counted in tokens."""

    model: str
    model_type: str
    width: float
    depth: float
    generation_equal: int
    generation_tokens: int
    padding: float
    bf16: float
    compile: float
    max_logit: float


def measure(name: str, folder: Path, *, backend: str) -> Row:
    """Measure a model of `MODELS`. folder: for its checkpoints. backend: of torch.compile."""
    model_type, config = MODELS[name]
    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32).eval()
    _spread(base.named_parameters())
    base.save_pretrained(folder / "base")
    wide = upscale(str(folder / "base"), folder / "wide", by="width", hidden=HIDDEN // 4)
    deep = upscale(str(folder / "base"), folder / "deep", by="depth", layers=LAYERS + 2)
    assert wide.max_delta_logit is not None
    assert deep.max_delta_logit is not None

    widened: Any = AutoModelForCausalLM.from_pretrained(folder / "wide")
    tokens = torch.randint(VOCABULARY, (PROMPTS, LENGTH))
    mask = torch.ones_like(tokens)
    for row in range(PROMPTS):
        mask[row, : 7 * row] = 0
    greedy: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": NEW_TOKENS, "do_sample": False}
    greedy |= {"eos_token_id": None, "pad_token_id": 0}
    expected, generated = (model.generate(tokens, **greedy)[:, LENGTH:] for model in (base, widened))

    routed: Any = AutoModelForCausalLM.from_pretrained(folder / "wide")
    # far from every token's cosine, so that rounding cannot change a branch
    routed.set_collaboration(range(1, LAYERS), MODULES, threshold=2.0)
    _spread((name, p) for name, p in routed.named_parameters() if p.requires_grad)
    bfloat16: list[Any] = [
        AutoModelForCausalLM.from_pretrained(folder / part, dtype=torch.bfloat16) for part in ("base", "wide")
    ]
    torch.compiler.reset()
    compiled: Any = torch.compile(routed, backend=backend, fullgraph=True)
    with torch.no_grad():
        return Row(
            model=name,
            model_type=model_type,
            width=wide.max_delta_logit,
            depth=deep.max_delta_logit,
            generation_equal=int((generated == expected).sum()),
            generation_tokens=expected.numel(),
            padding=max(_padding(routed, tokens, side) for side in ("left", "right")),
            bf16=_distance(*(model(tokens).logits for model in bfloat16)),
            compile=_distance(compiled(tokens, use_cache=False).logits, routed(tokens, use_cache=False).logits),
            max_logit=routed(tokens).logits.abs().max().item(),
        )


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@torch.no_grad()
def _spread(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Random values in every parameter, gains and biases included, so that each one affects the logits."""
    for name, parameter in parameters:
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        else:
            parameter.normal_(std=0.3 if "embed" in name else parameter.shape[1] ** -0.5)


def _padding(model: Any, tokens: Tensor, side: str) -> float:
    """The largest change of the tokens' logits if ten masked tokens stand before or after them."""
    padding = torch.randint(VOCABULARY, (len(tokens), 10))
    parts = [(padding, 0), (tokens, 1)] if side == "left" else [(tokens, 1), (padding, 0)]
    mask = torch.cat([torch.full_like(part, value) for part, value in parts], dim=1)
    logits = model(torch.cat([part for part, _ in parts], dim=1), attention_mask=mask).logits
    return _distance(logits[mask.bool()].view(*tokens.shape, -1), model(tokens).logits)


def cells(row: Row) -> list[str]:
    """A row of the table as text."""
    width, depth, *others = (
        f"{value:.1e}" if value else "0" for value in (row.width, row.depth, row.padding, row.bf16, row.compile)
    )
    return [row.model, row.model_type, width, depth, f"{row.generation_equal} of {row.generation_tokens}", *others]


HEADINGS = ("model", "model_type", "width", "depth", "generation", "padding", "bf16", "compile")


def markdown(rows: Sequence[Row]) -> str:
    """The table for a document."""
    lines = [HEADINGS, ("---", "---", *["---:"] * 6), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    table = Table(title="max |delta logit|; generation: tokens equal to the base's", title_justify="left")
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    return table


def main(
    backend: Annotated[str, typer.Option(help="Backend of torch.compile; inductor needs a C++ compiler.")] = "inductor",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for a document.")] = False,
) -> Result:
    """Measure the exactness of every model family.

    Small models with random weights of every family and its variants, in float32 on a CPU unless noted:

    width, depth: max |delta logit| between the upscaled checkpoint, loaded from disk, and the base by its own class.

    generation: tokens of cached greedy generation from left-padded prompts that equal the base's.

    padding: max |delta logit| of the same tokens with and without padding, left and right, in a SCALE-Route model with
    random values in the whole expansion.

    bf16: as width, both models in bfloat16.

    compile: max |delta logit| between that Route model compiled as one graph and not compiled.

    Padding and compiling reorder additions: a few units of eps(float32) = 1.2e-7 times the largest logit, which is in
    the record, are rounding.
    """
    logging.disable_progress_bar()
    rows = []
    for name in MODELS:
        say(name)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder), backend=backend))
    printed: RenderableType = Text(markdown(rows)) if as_markdown else table(rows)
    return Result([printed], {"rows": rows}, width=160)


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.families", sys.argv[1:]))
