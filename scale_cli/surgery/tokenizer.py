"""The tokenizer beside a widened model: the very class that the library takes for the base.

`AutoTokenizer` picks a class by the config's model_type before it looks at tokenizer_config.json, and a widened model
has another model_type than its base. Two classes may split the same text otherwise, so tokenizer_config.json names the
base's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig

from scale_cli.files import write_text
from scale_cli.model import ScaleConfig

TOKENIZER_CONFIG = "tokenizer_config.json"


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
