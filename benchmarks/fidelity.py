"""What upscaling leaves of a real base, measured on real text: `python -m benchmarks.fidelity BASE --out RECORD`.

BASE, a checkpoint with a byte-level tokenizer such as `scale fetch smollm2` writes, is widened and deepened, and each
result runs beside the base's own class of the library, in float32, on 8 x 256 tokens of English and of Korean.
Compared are the logits (the largest difference), the base's hidden states (bitwise), what greedy generation says, and
bits per byte. The upscaled checkpoints go into a temporary folder, or stay in --keep.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from transformers.utils.logging import disable_progress_bar

from scale_cli.checkpoints.load import describe, load_model, load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.files import CACHE_VARIABLE, default_cache
from scale_cli.core.records import fingerprint_folder, write_record
from scale_cli.material.corpora import CORPORA, read_corpus
from scale_cli.surgery import upscale

TEXTS = ("english", "korean")
SEQUENCES, TOKENS = 8, 256
PROMPT_TOKENS, NEW_TOKENS = 32, 32


@dataclass(frozen=True)
class Fidelity:
    """An upscaled model beside its base on one text, both in float32.

    max_delta_logit: largest |difference| over all tokens and the vocabulary.
    hidden_states_equal: whether all hidden states of the base are there bitwise: after the embedding, each of its
        layers and the final norm.
    generation_equal: whether greedy generation goes on with the same tokens; base_generates: the base's, its prompt
        included.
    base_bits_per_byte, bits_per_byte: -log2 of each token's probability, all but the first of a sequence, over their
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
    """(count, length) token ids: the beginnings of documents from all over a corpus.

    The first document with enough tokens in each of `count` equal stretches of it. Raises RequestError where a stretch
    has none.
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
    """The UTF-8 bytes that token ids stand for. Raises RequestError unless the tokenizer is byte-level.

    There a token is spelled with one character for each byte, so that it has a length even where it ends within a
    character, as most Korean tokens of an English tokenizer do.
    """
    if type(tokenizer.backend_tokenizer.decoder).__name__ != "ByteLevel":
        raise RequestError("bits per byte needs a base with a byte-level tokenizer, as SmolLM2 has")
    return sum(map(len, tokenizer.convert_ids_to_tokens(ids.flatten().tolist())))


@torch.no_grad()
def compare(
    base: Any, upscaled: Any, ids: Tensor, tokenizer: Any, *, by: str, text: str, new_layers: Sequence[int] = ()
) -> Fidelity:
    """Run both models, in eval mode, on the sequences `ids` (count, length), one at a time.

    new_layers: the layers of the upscaled model that the base does not have.
    """
    deltas, equal, base_bits, bits = [], True, 0.0, 0.0
    for sequence in ids.split(1):
        expected = base(input_ids=sequence, output_hidden_states=True, use_cache=False)
        found = upscaled(input_ids=sequence, output_hidden_states=True, use_cache=False)
        deltas.append((found.logits - expected.logits).abs().max())
        # State i is what layer i reads: what a new layer reads, the next layer of the base reads as well.
        kept = [state for i, state in enumerate(found.hidden_states) if i not in new_layers]
        equal &= all(torch.equal(a, b) for a, b in zip(expected.hidden_states, kept, strict=True))
        base_bits += _bits(expected.logits, sequence)
        bits += _bits(found.logits, sequence)
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
    """A prompt (1, length) and what follows it by greedy generation: (length and up to NEW_TOKENS)."""
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
    say: Callable[[str], None] = lambda line: None,
) -> list[Fidelity]:
    """Upscale the model folder `base` into folders below `folder` and compare each with it on every text.

    sizes: of `upscale`, by "width" and "depth". texts: documents by name. say: told what begins.
    Raises RequestError for a base that cannot be measured.
    """
    if not base.is_dir():
        raise RequestError(f"{base}: no such folder; `scale fetch smollm2 {base}` writes one")
    checkpoint = describe(str(base))
    tokenizer = load_tokenizer(checkpoint)
    ids = {name: sequences(documents, tokenizer) for name, documents in texts.items()}
    ours = load_model(checkpoint, dtype=torch.float32)
    rows = []
    for by, size in sizes.items():
        say(f"{by}: upscaling")
        upscale(str(base), folder / by, by=by, **size)  # type: ignore[arg-type]
        described = describe(str(folder / by))
        upscaled = load_model(described, dtype=torch.float32)
        for name in texts:
            say(f"{by}: {name}")
            new_layers = described.new_layers
            rows.append(compare(ours, upscaled, ids[name], tokenizer, by=by, text=name, new_layers=new_layers))
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


def main() -> None:
    """The command line of this measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="model folder")
    parser.add_argument("--hidden", type=int, default=64, help="width: hidden features to add")
    parser.add_argument("--layers", type=int, default=35, help="depth: layers in all")
    parser.add_argument("--cache", type=Path, help=f"keeps what is fetched  [${CACHE_VARIABLE} or ~/.cache/scale]")
    parser.add_argument("--keep", type=Path, help="write the upscaled checkpoints here")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write a record here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_progress_bar()
    sizes = {"width": {"hidden": arguments.hidden}, "depth": {"layers": arguments.layers}}
    cache, start = arguments.cache or default_cache(), time.perf_counter()
    try:
        texts = {name: read_corpus(name, cache=cache) for name in TEXTS}
        with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as folder:
            rows = measure(arguments.base, Path(folder), sizes=sizes, texts=texts, say=_say)
    except RequestError as error:
        print(f"fidelity: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    title = f"{arguments.base} upscaled, {SEQUENCES} x {TOKENS} tokens of each text, float32"
    Console().print(fidelity_table(rows, title=title))
    if arguments.out:
        write_record(
            arguments.out,
            command=shlex.join(["python", "-m", "benchmarks.fidelity", *sys.argv[1:]]),
            base_sha256=fingerprint_folder(arguments.base),
            sizes=sizes,
            texts={name: CORPORA[name].package for name in texts},
            sequences=SEQUENCES,
            tokens=TOKENS,
            rows=rows,
            threads=arguments.threads,
            seconds=time.perf_counter() - start,
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
