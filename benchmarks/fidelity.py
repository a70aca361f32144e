"""Equality of an upscaled real model and its base, on real text: `python -m benchmarks.fidelity BASE --out RECORD`."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from transformers.utils.logging import disable_progress_bar

from benchmarks.command import Result, run
from scale_cli.checkpoints.load import describe, load_model, load_tokenizer
from scale_cli.cli.output import say
from scale_cli.core.errors import RequestError
from scale_cli.core.files import CACHE_VARIABLE, default_cache
from scale_cli.core.records import fingerprint_folder
from scale_cli.material.corpora import CORPORA, read_corpus
from scale_cli.surgery import upscale

TEXTS = ("english", "korean")
SEQUENCES, TOKENS = 8, 256
PROMPT_TOKENS, NEW_TOKENS = 32, 32


@dataclass(frozen=True)
class Fidelity:
    """The comparison of an upscaled model with its base on one text, both in float32.

    max_delta_logit: largest |difference| over all tokens and the vocabulary.
    hidden_states_equal: whether all hidden states of the base are reproduced bitwise: after the embedding, each of its
        layers and the final norm.
    generation_equal: whether greedy generation continues with the same tokens. base_generates: the base's text, its
        prompt included.
    base_bits_per_byte, bits_per_byte: -log2 of the probability of all tokens but the first of each sequence, over their
        UTF-8 bytes.
    """

    by: str
    text: str
    max_delta_logit: float
    hidden_states_equal: bool
    generation_equal: bool
    base_generates: str
    base_bits_per_byte: float
    bits_per_byte: float


def sequences(texts: Sequence[str], tokenizer: Any, *, count: int = SEQUENCES, length: int = TOKENS) -> Tensor:
    """Token ids, (count, length): the beginnings of documents spread over a corpus.

    They are the first document with enough tokens in each of `count` equal stretches of it. Raises RequestError if a
    stretch has no such document.
    """
    rows = []
    for stretch in range(count):
        ids: list[int] = []
        for text in texts[len(texts) * stretch // count : len(texts) * (stretch + 1) // count]:
            ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
            if len(ids) == length:
                break
        else:
            raise RequestError(f"stretch {stretch + 1} of {count} of a text has no document of {length} tokens")
        rows.append(ids)
    return torch.tensor(rows)


def token_bytes(ids: Tensor, tokenizer: Any) -> int:
    """The number of UTF-8 bytes of token ids. Raises RequestError unless the tokenizer is byte-level.

    A byte-level tokenizer spells a token with one character per byte. A token therefore has a length even if it ends
    within a character, as most Korean tokens of an English tokenizer do.
    """
    if type(tokenizer.backend_tokenizer.decoder).__name__ != "ByteLevel":
        raise RequestError("bits per byte needs a byte-level tokenizer; choose a base such as SmolLM2")
    return sum(map(len, tokenizer.convert_ids_to_tokens(ids.flatten().tolist())))


@torch.no_grad()
def compare(
    base: Any, upscaled: Any, ids: Tensor, tokenizer: Any, *, by: str, text: str, new_layers: Sequence[int] = ()
) -> Fidelity:
    """Run both models, in eval mode, on the sequences `ids` (count, length), one at a time.

    new_layers: indices of the upscaled model's layers that the base lacks.
    """
    deltas, equal, base_bits, bits = [], True, 0.0, 0.0
    for sequence in ids.split(1):
        expected = base(input_ids=sequence, output_hidden_states=True, use_cache=False)
        actual = upscaled(input_ids=sequence, output_hidden_states=True, use_cache=False)
        deltas.append((actual.logits - expected.logits).abs().max())
        # State i is the input of layer i. A new layer's input is also the input of the base's next layer.
        kept = [state for i, state in enumerate(actual.hidden_states) if i not in new_layers]
        equal &= all(torch.equal(a, b) for a, b in zip(expected.hidden_states, kept, strict=True))
        base_bits += _bits(expected.logits, sequence)
        bits += _bits(actual.logits, sequence)
    size = token_bytes(ids[:, 1:], tokenizer)
    base_generated, generated = (_generate(model, ids[:1, :PROMPT_TOKENS]) for model in (base, upscaled))
    return Fidelity(
        by=by,
        text=text,
        max_delta_logit=torch.stack(deltas).max().item(),  # NaN stays NaN
        hidden_states_equal=equal,
        generation_equal=torch.equal(base_generated, generated),
        base_generates=tokenizer.decode(base_generated),
        base_bits_per_byte=base_bits / size,
        bits_per_byte=bits / size,
    )


def _bits(logits: Tensor, ids: Tensor) -> float:
    """-log2 of the probability of all tokens but the first: logits (1, length, vocabulary), ids (1, length)."""
    return functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="sum").item() / math.log(2)


def _generate(model: Any, prompt: Tensor) -> Tensor:
    """A prompt (1, length) and its greedy continuation: (length + up to NEW_TOKENS,)."""
    output: Tensor = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False
    )
    return output[0]


def measure(
    base: Path,
    folder: Path,
    *,
    sizes: Mapping[str, Mapping[str, int]],
    texts: Mapping[str, Sequence[str]],
) -> list[Fidelity]:
    """Upscale the model folder `base` into subfolders of `folder` and compare each with it on every text.

    sizes: arguments of `upscale`, by "width" and "depth". texts: documents by name.
    Raises RequestError for a base that cannot be measured.
    """
    if not base.is_dir():
        raise RequestError(f"{base}: no such folder; `scale fetch smollm2 {base}` writes one")
    checkpoint = describe(str(base))
    tokenizer = load_tokenizer(checkpoint)
    ids = {name: sequences(documents, tokenizer) for name, documents in texts.items()}
    original = load_model(checkpoint, dtype=torch.float32)
    rows = []
    for by, size in sizes.items():
        say(f"{by}: upscaling")
        upscale(str(base), folder / by, by=by, **size)  # type: ignore[arg-type]
        described = describe(str(folder / by))
        upscaled = load_model(described, dtype=torch.float32)
        for name in texts:
            say(f"{by}: {name}")
            new_layers = described.new_layers
            rows.append(compare(original, upscaled, ids[name], tokenizer, by=by, text=name, new_layers=new_layers))
    return rows


def fidelity_table(rows: Sequence[Fidelity], *, title: str) -> Table:
    """The rows for a terminal of 80 columns."""
    table = Table("by", "text", title=title, title_justify="left")
    for heading in ("max |Δlogit|", "states", "greedy", "base bits/B", "bits/B"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.by,
            row.text,
            f"{row.max_delta_logit:.3g}",
            "bitwise" if row.hidden_states_equal else "differ",
            "equal" if row.generation_equal else "differs",
            f"{row.base_bits_per_byte:.4f}",
            f"{row.bits_per_byte:.4f}",
        )
    return table


def main(
    base: Annotated[Path, typer.Argument(help="Folder of a model.", metavar="BASE")],
    hidden: Annotated[int, typer.Option(min=1, help="Hidden features to add by width.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Layers after deepening.")] = 35,
    cache: Annotated[
        Path | None, typer.Option(help=f"Folder for downloads.  [${CACHE_VARIABLE} or ~/.cache/scale]")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the upscaled checkpoints in this folder.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = torch.get_num_threads(),
) -> Result:
    """Compare upscaled checkpoints of a real model with their base, on real text.

    BASE is a checkpoint with a byte-level tokenizer, such as `scale fetch smollm2` writes. It is widened and deepened.
    Each result is compared with the base, loaded by the library's own class, in float32 on 8 x 256 tokens of English
    and of Korean: the logits (largest difference), the base's hidden states (bitwise), greedy generation, and bits per
    byte.
    """
    torch.set_num_threads(threads)
    disable_progress_bar()
    sizes = {"width": {"hidden": hidden}, "depth": {"layers": layers}}
    start = time.perf_counter()
    texts = {name: read_corpus(name, cache=cache or default_cache()) for name in TEXTS}
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory() as folder:
        rows = measure(base, Path(folder), sizes=sizes, texts=texts)
    title = f"{base} upscaled, {SEQUENCES} x {TOKENS} tokens of each text, float32"
    return Result(
        [fidelity_table(rows, title=title)],
        {
            "base_sha256": fingerprint_folder(base),
            "sizes": sizes,
            "texts": {name: CORPORA[name].package for name in texts},
            "sequences": SEQUENCES,
            "tokens": TOKENS,
            "rows": rows,
            "threads": threads,
            "seconds": time.perf_counter() - start,
        },
    )


if __name__ == "__main__":
    sys.exit(run(main, "python -m benchmarks.fidelity", sys.argv[1:]))
