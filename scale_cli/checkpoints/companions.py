"""The config and the model code of a widened model, and its tokenizer.

The tokenizer of a widened model has the class that the library uses for its base. `AutoTokenizer` chooses a class by
the config's model_type, and only then by tokenizer_config.json. A widened model has its own model_type, and another
class may tokenise differently, so the base's class is written to tokenizer_config.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save

from scale_cli.core.files import write_text
from scale_cli.model import ScaleConfig, ScaleForCausalLM

TOKENIZER_CONFIG = "tokenizer_config.json"


def save_with_code(config: ScaleConfig, folder: Path) -> None:
    """Write config.json and the model's code, so the folder loads without this package."""
    config.architectures = [ScaleForCausalLM.__name__]
    module = ScaleForCausalLM.__module__.rpartition(".")[2]
    config.auto_map = {"AutoModelForCausalLM": f"{module}.{ScaleForCausalLM.__name__}"}
    custom_object_save(ScaleForCausalLM, folder)  # copies files only: with `config` it would enter the metaclass
    config.save_pretrained(folder)  # adds the config's own class to auto_map


def keep_tokenizer_class(folder: Path, base_config: PreTrainedConfig) -> str | None:
    """Write the base's tokenizer class to the tokenizer_config.json of a widened model's folder.

    folder: contains the base's tokenizer files. base_config: the base's config, whose model_type determines the class.
    Returns the previous text of tokenizer_config.json. Returns None and changes nothing if the library uses the same
    class for base and widened model, or if no tokenizer loads.
    """
    file = folder / TOKENIZER_CONFIG
    base_class = _class_name(folder, base_config)
    if base_class is None or not file.is_file() or base_class == _class_name(folder, ScaleConfig()):
        return None
    before = file.read_text(encoding="utf-8")
    changed = json.loads(before) | {"tokenizer_class": base_class}
    write_text(file, json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
    return before


def load_tokenizer(source: str | Path, config: PreTrainedConfig) -> Any:
    """The tokenizer of a folder or hub id, for a widened model the one that the library loads for its base.

    config: the model's. No code of the folder is run. Raises OSError or ValueError if no tokenizer loads.
    """
    if isinstance(config, ScaleConfig):
        config = config.build_base_config()
    return AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False)


def _class_name(folder: Path, config: PreTrainedConfig) -> str | None:
    try:
        return type(AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)).__name__
    except Exception:  # no tokenizer, a missing package, or damaged files, for which the library raises any error
        return None
