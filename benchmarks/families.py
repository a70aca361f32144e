"""What holds for each model family, measured: `python -m benchmarks.families`.

Small models with random weights of every family and of what its members differ in, in float32 on a CPU unless said:

- width, depth: max |delta logit| between the upscaled checkpoint, loaded from disk, and the base by its own class.
- generation: tokens of cached greedy generation from left-padded prompts that are the base's own.
- padding: max |delta logit| of the same tokens with and without padding, left and right, in a SCALE-Route model with
  random values in everything that was added.
- bf16: as width, both in bfloat16.
- compile: max |delta logit| between that Route model compiled as one graph and as it is.

Padding and compiling reorder additions: some units of eps(float32) = 1.2e-7 times the largest logit, which is in the
record, are rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging

from scale_cli.core.records import write_record
from scale_cli.model.families import MODULES
from scale_cli.surgery import upscale

VOCABULARY, LAYERS, HIDDEN = 512, 4, 64
PROMPTS, LENGTH, NEW_TOKENS = 3, 40, 24
WINDOW = 16
"""Tokens that a sliding layer sees: fewer than a prompt has."""
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
MODELS: dict[str, Any] = {
    "Llama 2": LlamaConfig(**GATED | {"num_key_value_heads": 4}),
    "Llama 3.2 (scaled rope, tied)": LlamaConfig(**GATED, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "SmolLM2 (3 heads a group)": LlamaConfig(
        **GATED | {"hidden_size": 96, "num_attention_heads": 6}, tie_word_embeddings=True
    ),
    "Mistral (sliding window)": MistralConfig(**GATED, sliding_window=WINDOW),
    "Qwen2 (q, k, v biases, tied)": Qwen2Config(**GATED, tie_word_embeddings=True),
    "Qwen2 (window in upper layers)": Qwen2Config(
        **GATED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "Qwen3 (q, k norms, own head_dim)": Qwen3Config(**GATED, head_dim=32),
    "OLMo 2 (norms after, wide q, k norms)": Olmo2Config(**GATED),
    "Gemma 3 (four norms, local and global)": Gemma3TextConfig(**GEMMA),
    "Gemma 3 (soft-capped logits)": Gemma3TextConfig(**GEMMA, final_logit_softcapping=30.0),
    "Pythia (parallel residual)": GPTNeoXConfig(**SIZES, intermediate_size=256),
    "GPT-NeoX (sequential residual)": GPTNeoXConfig(**SIZES, intermediate_size=256, use_parallel_residual=False),
}
"""Configs by name; the sizes are small, everything else is as the family's members have it."""


@dataclass(frozen=True)
class Row:
    """The figures of one model. Differences are of logits; generation in tokens."""

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


def measure(name: str, config: Any, folder: Path, *, backend: str) -> Row:
    """All figures of one model, its checkpoints written to `folder`. backend: of torch.compile."""
    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
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
    expected, found = (model.generate(tokens, **greedy)[:, LENGTH:] for model in (base, widened))

    routed: Any = AutoModelForCausalLM.from_pretrained(folder / "wide")
    routed.set_collaboration(range(1, LAYERS), MODULES, threshold=2.0)  # a token near tau could go either way
    _spread((name, p) for name, p in routed.named_parameters() if p.requires_grad)
    low: list[Any] = [
        AutoModelForCausalLM.from_pretrained(folder / part, dtype=torch.bfloat16) for part in ("base", "wide")
    ]
    torch.compiler.reset()
    compiled: Any = torch.compile(routed, backend=backend, fullgraph=True)
    with torch.no_grad():
        return Row(
            model=name,
            model_type=config.model_type,
            width=wide.max_delta_logit,
            depth=deep.max_delta_logit,
            generation_equal=int((found == expected).sum()),
            generation_tokens=expected.numel(),
            padding=max(_padding(routed, tokens, side) for side in ("left", "right")),
            bf16=_distance(*(model(tokens).logits for model in low)),
            compile=_distance(compiled(tokens, use_cache=False).logits, routed(tokens, use_cache=False).logits),
            max_logit=routed(tokens).logits.abs().max().item(),
        )


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


@torch.no_grad()
def _spread(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Random values everywhere, so that nothing left out could go unseen: gains and biases as well."""
    for name, parameter in parameters:
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        else:
            parameter.normal_(std=0.3 if "embed" in name else parameter.shape[1] ** -0.5)


def _padding(model: Any, tokens: Tensor, side: str) -> float:
    """How far the logits of the tokens move when ten others, masked, stand before or after them."""
    padding = torch.randint(VOCABULARY, (len(tokens), 10))
    parts = [(padding, 0), (tokens, 1)] if side == "left" else [(tokens, 1), (padding, 0)]
    mask = torch.cat([torch.full_like(part, value) for part, value in parts], dim=1)
    found = model(torch.cat([part for part, _ in parts], dim=1), attention_mask=mask).logits
    return _distance(found[mask.bool()].view(*tokens.shape, -1), model(tokens).logits)


def cells(row: Row) -> list[str]:
    """A row of the table as text."""
    differences = [f"{value:.1e}" if value else "0" for value in (row.width, row.depth)]
    more = [f"{value:.1e}" if value else "0" for value in (row.padding, row.bf16, row.compile)]
    return [row.model, row.model_type, *differences, f"{row.generation_equal} of {row.generation_tokens}", *more]


HEADINGS = ("model", "model_type", "width", "depth", "generation", "padding", "bf16", "compile")


def markdown(rows: list[Row]) -> str:
    """The table for a document."""
    lines = [HEADINGS, ("---", "---", *["---:"] * 6), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure_all(names: list[str], *, backend: str, progress: Callable[[str], None]) -> list[Row]:
    """The rows of these models of `MODELS`."""
    rows = []
    for name in names:
        progress(name)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, MODELS[name], Path(folder), backend=backend))
    return rows


def main() -> None:
    """Measure, print the table, and write a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="inductor", help="of torch.compile; inductor needs a C++ compiler")
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    parser.add_argument("--out", type=Path, help="write a record here")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    console = Console(stderr=True)
    rows = measure_all(list(MODELS), backend=arguments.backend, progress=console.print)
    if arguments.markdown:
        print(markdown(rows))
    else:
        table = Table(title="max |delta logit|; generation: tokens equal to the base's", title_justify="left")
        for i, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if i < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*cells(row))
        Console(width=140).print(table)
    if arguments.out:
        command = f"python -m benchmarks.families {' '.join(sys.argv[1:])}"
        write_record(arguments.out, command=command, rows=[dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    main()
