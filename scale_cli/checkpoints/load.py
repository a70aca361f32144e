"""Checkpoints: what kind a folder is, loading any of them, and writing what a run trained beside a pointer to its base.

A checkpoint is a Hugging Face folder (plain, or upscaled by `scale upscale`), a hub id, or the folder of a run that
trained only a part: `trained.safetensors` with those tensors and `trained.json` with the method and the base.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.checkpoints.card import CARD, LICENCES, POINTER, Origin, history, origin
from scale_cli.core.errors import RequestError
from scale_cli.core.files import to_json, write_text
from scale_cli.core.hub import fetch
from scale_cli.methods import METHODS, Kind, MethodOptions

TRAINED_TENSORS = "trained.safetensors"
TRAINED_POINTER = POINTER


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is, known before anything heavy is loaded.

    source: the folder, or the hub id.
    folder: the folder, or the local snapshot of the hub id, in which `describe` has read.
    kind: of the model that loading gives; a LoRA run is plain, because its update is merged on loading.
    new_layers: indices of the blocks that block expansion added; empty unless kind is "depth".
    method: what trained it, None where nothing of ours did.
    base: for a run that trained a part, and for a checkpoint of an unfinished run, the checkpoint it trained from.
    from_scratch: the base's weights are not needed, all are stored.
    """

    source: str
    folder: Path
    kind: Kind
    new_layers: tuple[int, ...] = ()
    method: str | None = None
    options: MethodOptions | None = None
    base: Checkpoint | None = None
    from_scratch: bool = False

    @property
    def chain(self) -> list[Checkpoint]:
        """The checkpoints that this one stands on and itself, first a Hugging Face folder or hub id, then the runs."""
        return [self] if self.base is None else [*self.base.chain, self]

    @property
    def root(self) -> str:
        """The Hugging Face folder or hub id at the end of the chain: it has config and tokenizer."""
        return self.chain[0].source


def describe(source: str, *, from_scratch: bool = False) -> Checkpoint:
    """What the checkpoint at `source` is. Reads only JSON; of a hub id card and licence are fetched with it.

    from_scratch: only a config is needed, no weights.
    Raises RequestError for a folder that is missing or holds no checkpoint.
    """
    folder = Path(source)
    if not folder.exists():
        snapshot = fetch(source, ["*.json", CARD, *LICENCES])
        return dataclasses.replace(describe(str(snapshot), from_scratch=True), source=source)
    if (folder / TRAINED_POINTER).is_file():
        pointer = json.loads((folder / TRAINED_POINTER).read_text(encoding="utf-8"))
        base = describe(_base_of(source, pointer), from_scratch=pointer["from_scratch"])
        values = pointer["options"] | {"adapt_modules": tuple(pointer["options"]["adapt_modules"])}
        options = MethodOptions(**values)
        return Checkpoint(
            source,
            folder,
            base.kind,
            base.new_layers,
            pointer["method"],
            options,
            base,
            from_scratch=pointer["from_scratch"],
        )
    if not (folder / "config.json").is_file():
        raise RequestError(f"{source} is no checkpoint: it has neither config.json nor {TRAINED_POINTER}")
    if not from_scratch and not any(folder.glob("*.safetensors")):
        raise RequestError(f"{source} has a config and no weights (*.safetensors); --from-scratch starts random ones")
    upscale = json.loads(path.read_text(encoding="utf-8")) if (path := folder / "upscale.json").is_file() else {}
    if upscale.get("by") == "depth":
        return Checkpoint(source, folder, "depth", tuple(upscale["new_layers"]))
    return Checkpoint(source, folder, _kind_of_config(json.loads((folder / "config.json").read_text(encoding="utf-8"))))


def lineage(checkpoint: Checkpoint) -> tuple[Origin, list[dict[str, Any]]]:
    """What a card says of where a checkpoint comes from, and the steps by which it was made, the oldest first."""
    root = checkpoint.chain[0]
    steps = [step for part in checkpoint.chain for step in history(part.folder)]
    return origin(root.folder, hub_id=None if Path(root.source).exists() else root.source), steps


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer. Raises RequestError if it or the config does not load."""
    from scale_cli.checkpoints.companions import load_tokenizer

    config = config_of(checkpoint)
    try:
        return load_tokenizer(checkpoint.root, config)
    except (OSError, ValueError) as error:
        raise RequestError(f"{checkpoint.root} has no tokenizer that loads: {_first_line(error)}") from error


def config_of(checkpoint: Checkpoint) -> Any:
    """The config of a checkpoint that is not loaded. Raises RequestError if the library does not know it."""
    from transformers import AutoConfig

    import scale_cli.model  # noqa: F401  (registers the class)

    try:
        return AutoConfig.from_pretrained(checkpoint.chain[0].folder)
    except (OSError, ValueError) as error:
        raise RequestError(f"{checkpoint.source} does not load: {_first_line(error)}") from error


def load_model(checkpoint: Checkpoint, *, dtype: Any = None) -> Any:
    """The model of any checkpoint on the CPU, in eval mode.

    dtype: of its floating-point weights; None: as stored, in a run that trained a part as that part is stored.
    Raises RequestError where it is no causal language model, or damaged.
    """
    model = _load(checkpoint, dtype)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    return model.eval()


def random_model(checkpoint: Checkpoint) -> Any:
    """A float32 model with random weights of the checkpoint's config; seed torch before."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import scale_cli.model  # noqa: F401  (registers the class)

    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint.root), dtype=torch.float32)


def skeleton(checkpoint: Checkpoint) -> Any:
    """The model of any checkpoint without a value: parameters and config as loading gives them, LoRA left out.

    Raises RequestError for a config of which the library makes no causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import scale_cli.model  # noqa: F401  (registers the class)

    root, *runs = checkpoint.chain
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(root.folder))
    except (OSError, ValueError) as error:
        raise RequestError(f"{root.source} does not load: {_first_line(error)}") from error
    for run in runs:
        assert run.method is not None
        assert run.options is not None
        if run.method != "lora":  # its update is merged: the parameters are the base's
            model = apply_method(model, run.method, run.options, run.new_layers)
    return model


def trained_dtype(checkpoint: Checkpoint) -> Any:
    """The dtype that loading a run's checkpoint gives it: that in which the trained part is stored."""
    return _stored_dtype(checkpoint.folder / TRAINED_TENSORS)


def apply_method(model: Any, method: str, options: MethodOptions, new_layers: Sequence[int]) -> Any:
    """The model with exactly what `method` trains requiring a gradient (under LoRA: wrapped by peft)."""
    return METHODS[method].apply(model, options, new_layers)


def save_trained(model: Any, folder: Path) -> None:
    """Write what the model trains to `folder`, under the model's own names."""
    from safetensors.torch import save_file

    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, folder / TRAINED_TENSORS, metadata={"format": "pt"})


def load_trained(model: Any, folder: Path) -> None:
    """Read what `save_trained` wrote into the model. Raises RuntimeError where names or shapes differ."""
    import torch
    from safetensors.torch import load_file

    file = folder / TRAINED_TENSORS
    tensors = load_file(file)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if set(tensors) != set(trained):
        raise RuntimeError(f"{file} and the model differ in {sorted(set(tensors) ^ set(trained))[:5]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            if parameter.shape != tensors[name].shape:
                raise RuntimeError(f"{name}: {tuple(tensors[name].shape)} stored, {tuple(parameter.shape)} wanted")
            parameter.copy_(tensors[name])


def save_pointer(
    base: Checkpoint, folder: Path, method: str, options: MethodOptions, *, from_scratch: bool = False
) -> None:
    """Write how to get from the base to the model whose trained tensors lie in `folder`."""
    is_folder = Path(base.source).exists()
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(MethodOptions)}
    pointer = {
        # Relative, so that both may be moved together; by real paths, as ".." does not lead back through a link.
        "base": os.path.relpath(os.path.realpath(base.source), os.path.realpath(folder)) if is_folder else base.source,
        "base_is_folder": is_folder,
        "from_scratch": from_scratch,
        "method": method,
        "options": fields,
    }
    write_text(folder / TRAINED_POINTER, to_json(pointer) + "\n")


def _load(checkpoint: Checkpoint, dtype: Any) -> Any:
    if checkpoint.base is not None:
        assert checkpoint.method is not None
        assert checkpoint.options is not None
        folder = Path(checkpoint.source)
        dtype = dtype or _stored_dtype(folder / TRAINED_TENSORS)
        if checkpoint.from_scratch:
            model = random_model(checkpoint.base).to(dtype)
        else:
            model = load_model(checkpoint.base, dtype=dtype)
        model = apply_method(model, checkpoint.method, checkpoint.options, checkpoint.new_layers)
        load_trained(model, folder)
        return model
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import scale_cli.model  # noqa: F401  (registers the class)

    try:
        return AutoModelForCausalLM.from_pretrained(checkpoint.source, dtype=dtype or "auto")
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise RequestError(f"{checkpoint.source} does not load: {_first_line(error)}") from error


def _stored_dtype(file: Path) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype


def _base_of(source: str, pointer: dict[str, Any]) -> str:
    """The checkpoint that a run's pointer names."""
    if not pointer["base_is_folder"]:
        return str(pointer["base"])
    base = os.path.normpath(os.path.join(os.path.realpath(source), pointer["base"]))
    if not os.path.isdir(base):
        raise RequestError(f"{source} was trained from {base}, which is gone; put it back, or move both together")
    return base


def _kind_of_config(config: dict[str, Any]) -> Kind:
    return "width" if config.get("model_type") == "scale" else "plain"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
