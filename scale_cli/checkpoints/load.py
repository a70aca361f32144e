"""Checkpoints: describing and loading every kind, and writing a run's trained tensors with a pointer to its base.

A checkpoint is a Hugging Face folder (plain, or upscaled by `scale upscale`), a hub id, or the folder of a run that
stores only trained tensors: `trained.safetensors` contains them, `trained.json` the method and the base.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_cli.checkpoints.card import CARD, LICENCES, Origin, history, origin
from scale_cli.checkpoints.check import (
    ADAPTER,
    check_complete,
    check_config,
    check_weights,
    from_folder,
    loading,
    no_weights,
)
from scale_cli.checkpoints.companion_files import COMPANIONS, check_companions, companions
from scale_cli.checkpoints.schemas import POINTER, UPSCALE, Pointer, Upscale, read_pointer, read_upscale
from scale_cli.core.errors import RequestError
from scale_cli.core.files import as_a_new_file, plain, read_json, to_json, write_text
from scale_cli.core.hub import fetch
from scale_cli.core.recipe import load_recipe
from scale_cli.core.records import digest, fingerprint_folder, sha256_file
from scale_cli.methods import Kind, Method, find_method, own_values

if TYPE_CHECKING:
    from torch import Tensor

TRAINED_TENSORS = "trained.safetensors"
TRAINED_POINTER = POINTER


@dataclass(frozen=True)
class Checkpoint:
    """The description of a checkpoint. No weights are loaded.

    source: the folder or the hub id.
    folder: the folder, or the local snapshot of the hub id.
    kind: the kind of the model that loading returns.
    new_layers: indices of the blocks that block expansion added; empty unless kind is "depth".
    method: name of the method of a run with a pointer, else None.
    options: the method's options in the pointer, else None.
    base: the checkpoint that the run was trained from; None for a Hugging Face folder or hub id.
    from_scratch: the run started from random weights, so all weights are stored and the base's are not needed.
    base_fingerprint: of the base that the run was trained on; None without a run or in the pointer of an old one.
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
    base_fingerprint: str | None = None
    revision: str | None = None

    @property
    def chain(self) -> list[Checkpoint]:
        """The Hugging Face folder or hub id at the beginning, the runs that follow, and last this checkpoint."""
        return [self] if self.base is None else [*self.base.chain, self]

    @property
    def root(self) -> str:
        """The Hugging Face folder or hub id at the beginning of the chain; it has the config and the tokenizer."""
        return self.chain[0].source

    @property
    def trained_by(self) -> tuple[Method, Any]:
        """The method of a run and its options. Raises RequestError if the method is not installed."""
        assert self.method is not None
        assert self.options is not None
        try:
            method = find_method(self.method)
        except RequestError as error:
            raise RequestError(f"{self.source}: {error}; install the package that provides it") from error
        return method, load_recipe(method.options, None, own_values(method, dict(self.options)))


def describe(source: str, *, from_scratch: bool = False, revision: str | None = None) -> Checkpoint:
    """The description of the checkpoint at `source`, a folder or a hub id.

    Only JSON files are read. For a hub id the model card and licence files are fetched as well.
    from_scratch: only the config is needed, no weights. revision: branch, tag or commit of a hub id.
    Raises RequestError if there is no checkpoint at `source`.
    """
    source = os.path.expanduser(source)
    folder = Path(source)
    if not folder.exists():
        snapshot = fetch(source, ["*.json", CARD, *LICENCES], revision=revision)
        described = describe(str(snapshot), from_scratch=True)
        return dataclasses.replace(described, source=source, revision=snapshot.name)
    if revision is not None:
        raise RequestError(f"--revision {revision}: {source} is a folder; a revision belongs to a hub id")
    if (folder / TRAINED_POINTER).is_file():
        pointer = read_pointer(folder)
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
            base_fingerprint=pointer.get("base_fingerprint"),
        )
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER).is_file():
            raise RequestError(f"{source} is an adapter, not a model; merge it into its base (peft: merge_and_unload)")
        raise RequestError(f"{source} is not a checkpoint: it has neither config.json nor {TRAINED_POINTER}")
    config = read_json(folder / "config.json")
    check_config(source, folder, config)
    if not from_scratch and not any(folder.glob("*.safetensors")):
        raise RequestError(f"{no_weights(source, folder)}; or train it from random weights: --from-scratch")
    upscale = read_upscale(folder)
    if upscale is not None and upscale["by"] == "depth":
        return Checkpoint(source, folder, "depth", _new_layers(folder / UPSCALE, upscale, config))
    return Checkpoint(source, folder, "width" if config.get("model_type") == "scale" else "plain")


def check(checkpoint: Checkpoint, *, base: bool = True) -> None:
    """Check all files that the checkpoint is loaded from, without loading weights.

    base: whether to compare a run's base with the one that it was trained on, which reads all weights; a caller that
        takes the `fingerprint` anyway compares it by that.
    Raises RequestError if its root's files are not the tensors of its config, as `check_weights` does, if a file of its
    tokenizer, a run's file or a record is damaged, and if a run's base is not the one that it was trained on.
    """
    from scale_cli.checkpoints.storage import stored_tensors

    root, *runs = checkpoint.chain
    if not any(run.from_scratch for run in runs):
        check_companions(weights_folder(root))
        check_weights(root.source, weights_folder(root), config_of(root))
    for run in runs:
        stored_tensors({run.folder / TRAINED_TENSORS: None})
    lineage(checkpoint)  # reads the records beside the weights
    if runs and base:
        fingerprint(checkpoint)


def fingerprint(checkpoint: Checkpoint) -> str:
    """The fingerprint of any checkpoint, as hex: of a folder's weights, config and tokenizer, and of a run's base.

    Fetches a hub id's weights and reads all files. Raises RequestError if there are no weights, and if a run's base is
    not the one that it was trained on.
    """
    if checkpoint.base is None:
        folder = weights_folder(checkpoint)
        try:
            return fingerprint_folder(folder)
        except ValueError as error:
            raise RequestError(no_weights(checkpoint.source, folder)) from error
    base = base_fingerprint(checkpoint.base, from_scratch=checkpoint.from_scratch)
    if checkpoint.base_fingerprint not in (None, base):
        raise RequestError(
            f"{checkpoint.source} was trained from {checkpoint.base.source}, which has other weights or another config "
            "now; put back what was there, or train again"
        )
    trained = checkpoint.folder / TRAINED_TENSORS
    if not trained.is_file():
        raise RequestError(f"{checkpoint.source} lacks {TRAINED_TENSORS}, its trained tensors; restore the file")
    options = {"method": checkpoint.method, "options": checkpoint.options}
    return digest({"base": base, "trained": sha256_file(trained), **options})


def base_fingerprint(base: Checkpoint, *, from_scratch: bool) -> str:
    """The fingerprint by which a run identifies its base. from_scratch: only the base's config is used."""
    return sha256_file(base.chain[0].folder / "config.json") if from_scratch else fingerprint(base)


def companions_fingerprint(checkpoint: Checkpoint) -> str:
    """The fingerprint of the files beside the weights, the tokenizer's and the generation config, as hex."""
    folder = tokenizer_folder(checkpoint)
    files = {file.relative_to(folder).as_posix(): sha256_file(file) for file in companions(folder)}
    return digest(files)


def _new_layers(file: Path, upscale: Upscale, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The blocks that block expansion added, from upscale.json. Raises RequestError if they are not of this config."""
    layers = upscale.get("new_layers")
    count = config.get("num_hidden_layers", 0)
    if not layers or not all(0 <= layer < count for layer in layers):
        raise RequestError(f"{file} is damaged: new_layers is {layers}, and config.json has {count} layers; restore it")
    return tuple(layers)


def lineage(checkpoint: Checkpoint) -> tuple[Origin, list[dict[str, Any]]]:
    """The origin for a card, and the steps by which the checkpoint was made, oldest first."""
    root = checkpoint.chain[0]
    steps = [step for part in checkpoint.chain for step in history(part.folder)]
    return origin(root.folder, hub_id=None if root.revision is None else root.source), steps


def weights_folder(root: Checkpoint) -> Path:
    """The local folder of a Hugging Face checkpoint with its weights. For a hub id they are fetched.

    Raises RequestError for a hub id without safetensors.
    """
    if root.revision is None:
        return root.folder
    from scale_cli.checkpoints.storage import INDEX

    patterns = ["config.json", "*.py", "*.safetensors", INDEX, *COMPANIONS]
    folder = fetch(root.source, patterns, revision=root.revision)
    if not any(folder.glob("*.safetensors")):
        raise RequestError(no_weights(root.source, folder))
    return folder


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer. Its `embedding_rows` are the model's, which may be fewer than it has tokens.

    Raises RequestError if the tokenizer or the config does not load.
    """
    from scale_cli.checkpoints.companions import load_tokenizer

    config, folder = config_of(checkpoint), tokenizer_folder(checkpoint)
    if not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
        raise RequestError(f"{folder} has no tokenizer; copy the tokenizer's files of the model that it was made from")
    with loading(checkpoint.root, "has no tokenizer that loads"):
        tokenizer = load_tokenizer(folder, config)
    tokenizer.embedding_rows = config.get_text_config().vocab_size
    return tokenizer


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """The local folder with the files of the checkpoint's tokenizer. For a hub id they are fetched."""
    root = checkpoint.chain[0]
    if root.revision is None:
        return root.folder
    return fetch(root.source, ["config.json", *COMPANIONS], revision=root.revision)


def config_of(checkpoint: Checkpoint) -> Any:
    """The config at the root of a checkpoint. Raises RequestError if the library cannot load it."""
    from transformers import AutoConfig

    import scale_cli.model  # noqa: F401  (registers the class)

    with loading(checkpoint.source):
        return AutoConfig.from_pretrained(checkpoint.chain[0].folder, trust_remote_code=False)


def load_model(checkpoint: Checkpoint, *, dtype: Any = None) -> Any:
    """The model of any checkpoint, on the CPU, in eval mode.

    dtype: of the floating-point weights; None: the stored dtype, for a run that of its trained tensors.
    Raises RequestError if the checkpoint is damaged or not a causal language model.
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
    """A float32 model with the checkpoint's config and random weights from torch's global generator."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config_of(checkpoint), dtype=torch.float32, trust_remote_code=False)


def skeleton(checkpoint: Checkpoint) -> Any:
    """The model of any checkpoint on the meta device, with the parameters and the config of the loaded model.

    Raises RequestError if the library cannot build a causal language model from the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    root, *runs = checkpoint.chain
    config = config_of(root)
    with loading(root.source), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for run in runs:
        method, options = run.trained_by
        if method.merged is None:  # a merged model has the parameters of the previous checkpoint
            model = method.apply(model, options, run.new_layers)
    return model


def trained_dtype(checkpoint: Checkpoint) -> Any:
    """The dtype in which a run is loaded: that of its stored floating-point tensors."""
    from scale_cli.checkpoints.storage import DTYPES, stored_tensors

    stored = stored_tensors({checkpoint.folder / TRAINED_TENSORS: None}).values()
    return next(dtype for tensor in stored if (dtype := DTYPES[tensor.dtype]).is_floating_point)


def stored_dtype(checkpoint: Checkpoint) -> Any:
    """The dtype of the first tensor in the files of a Hugging Face folder or hub id."""
    from scale_cli.checkpoints.storage import DTYPES, stored_tensors, weight_files

    return DTYPES[next(iter(stored_tensors(weight_files(weights_folder(checkpoint))).values())).dtype]


def save_trained(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors to `folder`. tensors: by name, as `Method.stored` returns them."""
    from safetensors.torch import save_file

    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / TRAINED_TENSORS, metadata={"format": "pt"})
    as_a_new_file(folder / TRAINED_TENSORS)


def load_trained(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors, in place, with the values that `save_trained` wrote; sharded ones in every process.

    Raises RequestError if the file is damaged, or if names or shapes differ.
    """
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    from scale_cli.checkpoints.storage import stored_tensors

    file = folder / TRAINED_TENSORS
    stored = stored_tensors({file: None})
    if differing := sorted(stored.keys() ^ tensors.keys()):
        raise RequestError(f"{file} and the model that was trained differ in {', '.join(differing[:5])}")
    for name, tensor in tensors.items():
        if tensor.shape != stored[name].shape:
            raise RequestError(f"{file}: {name} has the shape {stored[name].shape}, not {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            value = stored[name].read()
            if isinstance(tensor, DTensor):  # every process takes its own part
                value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
            tensor.copy_(value)


def save_pointer(
    base: Checkpoint,
    folder: Path,
    method: str,
    options: Any,
    *,
    pin: str | None = None,
    from_scratch: bool = False,
    data: Sequence[str] = (),
) -> None:
    """Write the pointer from the trained tensors in `folder` to their base, with the method and its options.

    options: the method's own. pin: the fingerprint by which another base than this is refused later; None: that of the
    base as it is now. data: fingerprints of the training data, for a run that may be resumed.
    The pointer contains the commit of a hub id, so the same weights are loaded again.
    """
    is_folder = base.revision is None
    pointer = {
        # Relative, so both can be moved together. Real paths, because ".." after a symbolic link leads elsewhere.
        "base": os.path.relpath(os.path.realpath(base.source), os.path.realpath(folder)) if is_folder else base.source,
        "base_is_folder": is_folder,
        "revision": base.revision,
        "base_fingerprint": pin or base_fingerprint(base, from_scratch=from_scratch),
        "from_scratch": from_scratch,
        "method": method,
        "options": plain(options),
    } | ({"data": list(data)} if data else {})
    write_text(folder / TRAINED_POINTER, to_json(pointer) + "\n")


def _load_root(root: Checkpoint, dtype: Any) -> Any:
    model, info = from_folder(root.source, weights_folder(root), dtype=dtype or "auto", ignore_mismatched_sizes=True)
    check_complete(root.source, info)
    return model


def _base_of(source: str, pointer: Pointer) -> str:
    """The checkpoint that a run's pointer names."""
    if not pointer["base_is_folder"]:
        return str(pointer["base"])
    base = os.path.normpath(os.path.join(os.path.realpath(source), pointer["base"]))
    if not os.path.isdir(base):
        raise RequestError(
            f"{source} was trained from {base}, which does not exist; put it back, or move both together"
        )
    return base
