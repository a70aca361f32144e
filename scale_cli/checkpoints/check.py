"""The check of a model folder's files, which every command makes before its work.

The library loads what it can: a missing tensor gets random values, an unknown one is left out, an adapter is laid over
the weights. Here each of these is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_cli.core.errors import RequestError

if TYPE_CHECKING:  # these load torch, which a description of a folder does without
    from scale_cli.checkpoints.storage import StoredTensor

ADAPTER = "adapter_config.json"
MOST_LAYERS = 10_000
"""The library would build the layers of any number one after the other, for ever."""
DROPOUTS = {"attention_dropout", "hidden_dropout", "resid_pdrop"}
"""The keys of a config with a share of activations that training drops."""
FLOATS = ("F16", "BF16", "F32", "F64")
"""The dtypes in which the weights of a model may be stored."""


def check_config(given: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Raise RequestError if a model folder is quantised, holds an adapter beside its config, or has impossible sizes.

    given: the name in messages. config: the contents of config.json.
    """
    if (folder / ADAPTER).is_file():
        raise RequestError(
            f"{given} holds an adapter ({ADAPTER}) beside a model, and the library would lay it over the weights; "
            "merge it into them (peft: merge_and_unload), or move it elsewhere"
        )
    if "quantization_config" in config:
        raise RequestError(f"{given} is quantised; give the checkpoint it was quantised from")
    base = config.get("base_config")
    for part in (config, base if isinstance(base, Mapping) else {}):
        layers = part.get("num_hidden_layers")
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise RequestError(f"{given}: config.json has num_hidden_layers {layers:.3g}, at most {MOST_LAYERS:,}")
        positions = part.get("max_position_embeddings")
        if isinstance(positions, int) and positions < 1:
            raise RequestError(f"{given}: config.json has max_position_embeddings {positions}, at least 1")
        for name in part.keys() & DROPOUTS:
            value = part[name]
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
                raise RequestError(f"{given}: config.json has {name} {value!r:.40}, which is a share from 0 to 1")
        for name in part.keys() & {"dtype", "torch_dtype"}:
            if not isinstance(part[name], str | None):
                raise RequestError(
                    f"{given}: config.json has {name} {part[name]!r:.40}, which is a name such as float32"
                )


def check_weights(given: str, folder: Path, config: Any) -> dict[str, StoredTensor]:
    """The tensors in a model folder's files, which are those of its config, no more and no fewer. Reads headers only.

    given: the name in messages. config: the library's config object.
    Raises RequestError for a folder without safetensors, a damaged file, a tensor that is missing, unknown, of another
    shape or quantised, and for a head that the config ties to a different embedding.
    """
    from scale_cli.checkpoints.storage import stored_tensors, weight_files

    files = weight_files(folder)
    if not files:
        raise RequestError(no_weights(given, folder))
    tensors = stored_tensors(files)
    model, info = from_folder(given, folder, config=config, device_map="meta", ignore_mismatched_sizes=True)
    check_complete(given, info)
    used = model.state_dict()
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS and name in used:
            raise RequestError(f"{given}: {name} is stored as {tensor.dtype}; give a checkpoint in {', '.join(FLOATS)}")
    for target, source in model.all_tied_weights_keys.items():
        if target in tensors and source in tensors and not _equal(tensors[target], tensors[source]):
            raise RequestError(
                f"{given}: its config.json ties {target} to {source}, and its files hold two different tensors; set "
                "tie_word_embeddings to false in config.json"
            )
    return tensors


def from_folder(given: str, folder: Path, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """The library's model from a folder's safetensors, and its report on the tensors. None of the folder's code runs.

    Raises RequestError if the library cannot load it.
    """
    from transformers import AutoModelForCausalLM

    import scale_cli.model  # noqa: F401  (registers the class)

    with loading(given):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **arguments
        )
        model, info = loaded
    return model, info


@contextmanager
def loading(given: str, subject: str = "does not load") -> Iterator[None]:
    """Raise a RequestError for any exception while the library reads files of a checkpoint.

    For a damaged file, and for values in a config that make no model, it raises errors of many kinds.
    given, subject: the beginning of the message.
    """
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = " ".join(lines[:2])[:300] if lines else type(error).__name__
        raise RequestError(f"{given} {subject}: {reason}") from error


def check_complete(given: str, info: Mapping[str, Any]) -> None:
    """Raise RequestError unless the library found exactly the tensors of the config. info: its report on loading."""
    mismatch = "its weights and its config.json do not match"
    for name in sorted(info["missing_keys"]):
        raise RequestError(f"{given} lacks the tensor {name}; {mismatch}")
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        raise RequestError(
            f"{given}: {name} has the shape {tuple(stored)}, and {tuple(wanted)} by config.json; they do not match"
        )
    for name in sorted(info["unexpected_keys"]):
        raise RequestError(f"{given} holds the tensor {name}, which a model of its config.json lacks; {mismatch}")


def no_weights(given: str, folder: Path) -> str:
    """The message on a model folder without safetensors."""
    if stray := sorted(file.name for file in folder.glob("*.safetensors")):
        return f"{given} holds {stray[0]}, and neither model.safetensors nor its index; rename it, or fetch the index"
    others = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    holds = f"holds {others[0]} and no" if others else "holds no weights in"
    return (
        f"{given} {holds} safetensors; convert it with AutoModelForCausalLM.from_pretrained({given!r})"
        ".save_pretrained(FOLDER), copy its tokenizer there, and give FOLDER"
    )


def _equal(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two stored tensors have the same values. NaN equals NaN."""
    import torch

    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return bool(torch.equal(first.read().view(torch.uint8), second.read().view(torch.uint8)))
