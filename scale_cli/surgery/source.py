"""The base of an upscaling: its folder, its config and the tensors in its files. Loads no weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from scale_cli.checkpoints.card import CARD, LICENCES
from scale_cli.checkpoints.check import check_config, check_weights, loading
from scale_cli.checkpoints.companion_files import COMPANIONS, check_companions
from scale_cli.checkpoints.schemas import POINTER
from scale_cli.checkpoints.storage import StoredTensor, weight_files
from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json
from scale_cli.core.hub import fetch
from scale_cli.model.families import FAMILIES, Family, LayerShape, family_of

CAUSAL_LM = "ForCausalLM"
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Config entries with the number of experts."""


@dataclass(frozen=True)
class Base:
    """A base checkpoint. Its files and its config match.

    given: the folder or hub id as in the request. revision: the commit of a hub id, None for a folder.
    raw_config: the contents of config.json. config: the library's config object made from it.
    tensors: the tensors in the weight files, by name.
    """

    given: str
    folder: Path
    revision: str | None
    raw_config: dict[str, Any]
    config: PreTrainedConfig
    family: Family
    shape: LayerShape
    files: list[Path]
    tensors: dict[str, StoredTensor]

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.given.rsplit("/", 1)[-1] if self.revision else self.folder.name

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The base's own Hugging Face class."""
        classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING  # annotated in the library as a mapping to pairs
        return classes[type(self.config)]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the loaded model: the config's if it has one, else that of the stored embedding."""
        dtype: Any = self.config.dtype
        return dtype or self.read(self.embedding_name).dtype

    @property
    def layers_prefix(self) -> str:
        """The beginning of the name of a layer's tensor, before the layer's index."""
        return f"{self.family.decoder}.{self.family.layers}."

    @property
    def embedding_name(self) -> str:
        return f"{self.family.decoder}.{self.family.embedding}.weight"

    def layer_name(self, layer: int, path: str, tensor: str) -> str:
        """The name of a layer's tensor ("weight" or "bias") at a module path below the layer."""
        return f"{self.layers_prefix}{layer}.{path}.{tensor}"

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        return self.tensors[name].read()

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of the loaded base; a tied head counts once."""
        with torch.device("meta"):
            return int(self.model_class(self.config).num_parameters())

    def identity(self, sha256: dict[str, str]) -> dict[str, Any]:
        """The record's description of the base: hub id and revision, or folder name; sha256 of weight files; config.

        The config is the text of config.json, from which `scale export --base` restores the file byte for byte.
        """
        name = {"name": self.folder.resolve().name}  # not its path, which a copy of the folder would publish
        source = {"id": self.given, "revision": self.revision} if self.revision else name
        return source | {"weights_sha256": sha256, "config": (self.folder / "config.json").read_bytes().decode()}


WEIGHTS_AND_REST = ("*.safetensors", "*.safetensors.index.json", *COMPANIONS, CARD, *LICENCES)
"""Files that are fetched from a hub id for upscaling, besides its config."""


def open_base(given: str, *, revision: str | None = None) -> Base:
    """The base checkpoint `given`, a folder or a hub id, which is fetched if it is not in the cache.

    Raises RequestError if it is missing, not a causal LM, of an unknown family, already upscaled, quantised or without
    safetensors, or if its config and tensors do not match.
    """
    base = open_config(given, revision=revision, patterns=WEIGHTS_AND_REST)
    check_companions(base.folder)
    tensors = check_weights(given, base.folder, base.config)
    unprefixed = [name for name in (base.embedding_name, f"{base.layers_prefix}0.") if not _begins(tensors, name)]
    if unprefixed:
        raise RequestError(
            f"{given} stores its tensors under other names than {base.model_class.__name__}, as it has no "
            f"{unprefixed[0]}; load it with AutoModelForCausalLM.from_pretrained({given!r}), save it with "
            "save_pretrained(FOLDER), copy its tokenizer there, and give FOLDER"
        )
    return replace(base, files=list(weight_files(base.folder)), tensors=tensors)


def open_config(given: str, *, revision: str | None = None, patterns: Sequence[str] = ()) -> Base:
    """The base without its weights: `files` and `tensors` are empty.

    patterns: files to fetch from a hub id, besides config.json.
    Raises RequestError as `open_base` does, for everything that the config reveals.
    """
    folder, commit = _locate(given, revision, patterns)
    raw = _read_config(given, folder)
    check_config(given, folder, raw)
    config, family = _supported(given, raw)
    with loading(f"{given}: its config.json", "makes no model"):
        base = Base(given, folder, commit, raw, config, family, LayerShape.of(config), files=[], tensors={})
        base.parameters  # noqa: B018  (it builds the model without weights)
    return base


def _begins(names: Iterable[str], beginning: str) -> bool:
    return any(name.startswith(beginning) for name in names)


def _locate(given: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str | None]:
    """The folder of the base and, for a hub id, the commit."""
    folder = Path(given).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise RequestError(f"--revision {revision}: {given} is a folder; a revision belongs to a hub id")
        return folder.resolve(), None
    if folder.exists():
        raise RequestError(f"{given} is a file; give the folder of a Hugging Face model or a hub id")
    snapshot = fetch(given, ["config.json", *patterns], revision=revision)
    return snapshot, snapshot.name


class ConfigFields(TypedDict):
    """The fields of a config.json that decide whether the model can be upscaled."""

    model_type: NotRequired[str]
    architectures: NotRequired[list[str] | None]


def _read_config(given: str, folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        if (folder / POINTER).is_file():
            raise RequestError(
                f"{given} is a run that stores trained tensors only; make it whole: scale export {given} OUT"
            )
        raise RequestError(f"{given} holds no config.json; give the folder of a Hugging Face model")
    raw = read_json(file, ConfigFields)
    if "model_type" not in raw:
        raise RequestError(f"{file} names no model_type; give the folder of a Hugging Face model")
    return dict(raw)


def _supported(given: str, raw: dict[str, Any]) -> tuple[PreTrainedConfig, Family]:
    """The config as the library's object, and the family. Raises RequestError if the model cannot be upscaled."""
    model_type, supported = raw["model_type"], ", ".join(sorted(FAMILIES))
    if model_type == "scale":
        raise RequestError(f"{given} is already upscaled by width; upscale its base instead")
    architectures = raw.get("architectures") or []
    if architectures and not any(name.endswith(CAUSAL_LM) for name in architectures):
        raise RequestError(
            f"{given} is a {architectures[0]}, not a causal language model; give a ...{CAUSAL_LM} of {supported}"
        )
    if any(raw.get(name) for name in EXPERTS):
        raise RequestError(f"{given} is a mixture of experts ({model_type}); give a dense model of {supported}")
    try:
        family = family_of(model_type)
    except ValueError as error:
        raise RequestError(f"{given}: {error}; give a base of one of these") from error
    if raw.get("use_bidirectional_attention"):
        raise RequestError(f"{given} has bidirectional attention (use_bidirectional_attention); give a causal model")
    with loading(f"{given}: its config.json", f"is not a valid {model_type} config"):
        return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(raw)), family
