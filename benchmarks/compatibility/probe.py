"""Generates from checkpoints in every way of the library and writes the texts as JSON. Imports no code of ours.

Run it by its path in the environment to test: `python probe.py OUT.json BASE FOLDER... [--import MODULE]`.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ("The capital of France is", "Once upon a time, in a small village by the sea, there lived")
"""The second, longer one stands beside the first where that is to be padded."""
NEW_TOKENS = 10
WAYS: dict[str, dict[str, Any]] = {
    "cached": {},
    "uncached": {"use_cache": False},
    "left-padded": {},
    "beams": {"num_beams": 3},
    "beams, uncached": {"num_beams": 3, "use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "assisted": {},
}
"""Ways of generating, with the options of each."""


def main() -> None:
    """Write the texts, the class's module and the tokenizer's class of each folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("base")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--import", dest="module")
    arguments = parser.parse_args()
    if arguments.module:
        importlib.import_module(arguments.module)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # more threads wait for each other on a busy machine
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32).eval()
    probed = {}
    for folder in (arguments.base, *arguments.folders):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, padding_side="left")
        texts = {way: generated(model, base, tokenizer, way) for way in WAYS}
        names = {"class": type(model).__module__, "tokenizer": type(tokenizer).__name__}
        probed[folder] = names | {"texts": texts}
    arguments.out.write_text(json.dumps(probed), encoding="utf-8")


def generated(model: Any, base: Any, tokenizer: Any, way: str) -> str:
    """The model's greedy continuation of the first prompt, or the first line of the error."""
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "repetition_penalty": 1.0} | WAYS[way]
    if way == "assisted":
        options["assistant_model"] = base
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = tokenizer(list(PROMPTS if way == "left-padded" else PROMPTS[:1]), return_tensors="pt", padding=True)
    try:
        with torch.no_grad():
            tokens = model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return str(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
