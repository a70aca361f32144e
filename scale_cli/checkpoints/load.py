"""Checkpoints: what kind a folder is, loading any of them, and writing what a run trained beside a pointer to its base.

A checkpoint is a Hugging Face folder (plain, or upscaled by `scale upscale`), a hub id, or the folder of a run that
trained only a part: `trained.safetensors` with those tensors and `trained.json` with the method and the base.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_cli.checkpoints.card import CARD, LICENCES, POINTER, Origin, history, origin
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain, to_json, write_text
from scale_cli.core.hub import fetch
from scale_cli.core.recipe import load_recipe
from scale_cli.methods import Kind, Method, find_method, own_values

if TYPE_CHECKING:
    from torch import Tensor

TRAINED_TENSORS = "trained.safetensors"
TRAINED_POINTER = POINTER


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is, known before anything heavy is loaded.

    source: the folder, or the hub id.
    folder: the folder, or the local snapshot of the hub id, which `describe` has read.
    kind: of the model that loading returns.
    new_layers: indices of the blocks that block expansion added; empty unless kind is "depth".
    method: the method that trained it, None for a checkpoint that no run of ours wrote.
    options: the method's options, as the run's pointer holds them.
    base: the checkpoint that a run trained from; None unless the folder holds a trained part and a pointer.
    from_scratch: the base's weights are not needed, all are stored.
    revision: the commit of a hub id, None for a folder.
    """

    source: str
    folder: Path
    kind: Kind
    new_layers: tuple[int, ...] = ()
    method: str | None = None
    options: Mapping[str, Any] | None = None
    base: Checkpoint | None = None
    from_scratch: bool = False
    revision: str | None = None

    @property
    def chain(self) -> list[Checkpoint]:
        """The checkpoints that this one stands on and itself, first a Hugging Face folder or hub id, then the runs."""
        return [self] if self.base is None else [*self.base.chain, self]

    @property
    def root(self) -> str:
        """The Hugging Face folder or hub id at the beginning of the chain: it has config and tokenizer."""
        return self.chain[0].source

    @property
    def trained_by(self) -> tuple[Method, Any]:
        """The method of a run, and its options. Raises RequestError for a method that is not installed."""
        assert self.method is not None
        assert self.options is not None
        try:
            method = find_method(self.method)
        except RequestError as error:
            raise RequestError(f"{self.source}: {error}; install the package that brings it") from error
        return method, load_recipe(method.options, None, own_values(method, dict(self.options)))


def describe(source: str, *, from_scratch: bool = False, revision: str | None = None) -> Checkpoint:
    """What the checkpoint at `source` is. Reads only JSON; of a hub id card and licence are fetched as well.

    from_scratch: only a config is needed, no weights. revision: branch, tag or commit of a hub id.
    Raises RequestError for a folder that is missing or holds no checkpoint.
    """
    source = os.path.expanduser(source)
    folder = Path(source)
    if not folder.exists():
        snapshot = fetch(source, ["*.json", CARD, *LICENCES], revision=revision)
        found = describe(str(snapshot), from_scratch=True)
        return dataclasses.replace(found, source=source, revision=snapshot.name)
    if revision is not None:
        raise RequestError(f"--revision {revision}: {source} is a folder; a revision belongs to a hub id")
    if (folder / TRAINED_POINTER).is_file():
        pointer = json.loads((folder / TRAINED_POINTER).read_text(encoding="utf-8"))
        base = describe(
            _base_of(source, pointer), from_scratch=pointer["from_scratch"], revision=pointer.get("revision")
        )
        return Checkpoint(
            source,
            folder,
            base.kind,
            base.new_layers,
            pointer["method"],
            pointer["options"],
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
    """The origin that a card names, and the steps by which the checkpoint was made, the oldest first."""
    root = checkpoint.chain[0]
    steps = [step for part in checkpoint.chain for step in history(part.folder)]
    return origin(root.folder, hub_id=None if root.revision is None else root.source), steps


def weights_folder(root: Checkpoint) -> Path:
    """The local folder of a Hugging Face checkpoint with its weights, which are fetched for a hub id.

    Raises RequestError for a hub id without safetensors: nothing else is ever loaded.
    """
    if root.revision is None:
        return root.folder
    from scale_cli.checkpoints.companions import COMPANIONS
    from scale_cli.checkpoints.storage import INDEX

    patterns = ["config.json", "*.py", "*.safetensors", INDEX, *COMPANIONS]
    folder = fetch(root.source, patterns, revision=root.revision)
    if not any(folder.glob("*.safetensors")):
        raise RequestError(f"{root.source} has no weights as safetensors, which alone are loaded; give another")
    return folder


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer. Raises RequestError if it or the config does not load."""
    from scale_cli.checkpoints.companions import COMPANIONS, load_tokenizer

    config = config_of(checkpoint)
    root = checkpoint.chain[0]
    folder = root.folder
    if root.revision is not None:
        folder = fetch(root.source, ["config.json", *COMPANIONS], revision=root.revision)
    try:
        return load_tokenizer(folder, config)
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

    dtype: of its floating-point weights; None: as stored, for a run as its trained tensors are stored.
    Raises RequestError if it is no causal language model, or damaged.
    """
    if checkpoint.base is None:
        return _load_root(checkpoint, dtype).eval()
    method, options = checkpoint.trained_by
    dtype = dtype or trained_dtype(checkpoint)
    if checkpoint.from_scratch:
        model = random_model(checkpoint.base).to(dtype)
    else:
        model = load_model(checkpoint.base, dtype=dtype)
    model = method.apply(model, options, checkpoint.new_layers)
    load_trained(method.stored(model), checkpoint.folder)
    return (method.merged(model) if method.merged else model).eval()


def random_model(checkpoint: Checkpoint) -> Any:
    """A float32 model with random weights of the checkpoint's config; seed torch before."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import scale_cli.model  # noqa: F401  (registers the class)

    config = AutoConfig.from_pretrained(checkpoint.chain[0].folder)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def skeleton(checkpoint: Checkpoint) -> Any:
    """The model of any checkpoint without values: parameters and config are those of the loaded model.

    Raises RequestError for a config from which the library makes no causal language model.
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
        method, options = run.trained_by
        if method.merged is None:  # else the parameters are those of the checkpoint before
            model = method.apply(model, options, run.new_layers)
    return model


def trained_dtype(checkpoint: Checkpoint) -> Any:
    """The dtype that loading gives a run: that of its stored tensors."""
    from safetensors import safe_open

    with safe_open(checkpoint.folder / TRAINED_TENSORS, framework="pt") as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype


def save_trained(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors to `folder`. tensors: as `Method.stored` returns them."""
    from safetensors.torch import save_file

    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / TRAINED_TENSORS, metadata={"format": "pt"})


def load_trained(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors with the values that `save_trained` wrote. Raises RuntimeError if names or shapes differ."""
    import torch
    from safetensors.torch import load_file

    file = folder / TRAINED_TENSORS
    stored = load_file(file)
    if set(stored) != set(tensors):
        raise RuntimeError(f"{file} and the model differ in {sorted(set(stored) ^ set(tensors))[:5]}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.shape != stored[name].shape:
                raise RuntimeError(f"{name}: {tuple(stored[name].shape)} stored, {tuple(tensor.shape)} wanted")
            tensor.copy_(stored[name])


def save_pointer(base: Checkpoint, folder: Path, method: str, options: Any, *, from_scratch: bool = False) -> None:
    """Write how to get from the base to the model whose trained tensors lie in `folder`.

    options: the method's own. The commit of a hub id is written too, so the same weights are loaded again.
    """
    is_folder = base.revision is None
    pointer = {
        # Relative, so that both may be moved together; by real paths, as ".." does not lead back through a link.
        "base": os.path.relpath(os.path.realpath(base.source), os.path.realpath(folder)) if is_folder else base.source,
        "base_is_folder": is_folder,
        "revision": base.revision,
        "from_scratch": from_scratch,
        "method": method,
        "options": plain(options),
    }
    write_text(folder / TRAINED_POINTER, to_json(pointer) + "\n")


def _load_root(root: Checkpoint, dtype: Any) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import scale_cli.model  # noqa: F401  (registers the class)

    folder = weights_folder(root)
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", use_safetensors=True)
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise RequestError(f"{root.source} does not load: {_first_line(error)}") from error


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
