"""The files beside the weights: config and model code of a widened model, the tokenizer, how to generate.

The tokenizer of a widened model is of the very class that the library takes for its base. `AutoTokenizer` picks a class
by the config's model_type before it looks at tokenizer_config.json, and a widened model has another model_type than its
base. Two classes may split the same text otherwise, so tokenizer_config.json names the base's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save

from scale_cli.checkpoints.storage import reading
from scale_cli.core.files import write_text
from scale_cli.model import ScaleConfig, ScaleForCausalLM

TOKENIZER_CONFIG = "tokenizer_config.json"
COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "generation_config.json",
)
"""The files beside the weights that an upscaled checkpoint takes over: the tokenizer's, and how to generate."""


def copy_companions(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files and the generation config of the folder `source`."""
    for pattern in COMPANIONS:
        for file in source.glob(pattern):
            if file.is_file():
                with reading(file):
                    content = file.read_bytes()
                (folder / file.name).write_bytes(content)


def save_with_code(config: ScaleConfig, folder: Path) -> None:
    """Write config.json and beside it the model's code: the folder loads where this package is not installed."""
    config.architectures = [ScaleForCausalLM.__name__]
    module = ScaleForCausalLM.__module__.rpartition(".")[2]
    config.auto_map = {"AutoModelForCausalLM": f"{module}.{ScaleForCausalLM.__name__}"}
    custom_object_save(ScaleForCausalLM, folder)  # the files; of a class it would enter its metaclass in auto_map
    config.save_pretrained(folder)  # enters its own class


def keep_tokenizer_class(folder: Path, base_config: PreTrainedConfig) -> str | None:
    """Name the base's tokenizer class in the tokenizer_config.json of a widened model's folder.

    folder: holds the base's tokenizer files. base_config: the base's config, by whose model_type the library picks.
    Returns the text of tokenizer_config.json as it was, or None if it stays, because the library takes the same class
    for both, or there is no tokenizer that it loads.
    """
    file = folder / TOKENIZER_CONFIG
    of_base = _class_name(folder, base_config)
    if of_base is None or not file.is_file() or of_base == _class_name(folder, ScaleConfig()):
        return None
    before = file.read_text(encoding="utf-8")
    stated = json.loads(before) | {"tokenizer_class": of_base}
    write_text(file, json.dumps(stated, indent=2, ensure_ascii=False) + "\n")
    return before


def load_tokenizer(source: str | Path, config: PreTrainedConfig) -> Any:
    """The tokenizer of the folder or hub id `source`; of a widened model, that which the library loads for its base.

    config: the model's.

    Runs no code of the folder. Raises OSError or ValueError if there is none that loads.
    """
    if isinstance(config, ScaleConfig):
        config = config.build_base_config()
    return AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False)


def _class_name(folder: Path, config: PreTrainedConfig) -> str | None:
    try:
        return type(AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)).__name__
    except Exception:  # none, one that needs another package, or a damaged one, on which the library raises anything
        return None
