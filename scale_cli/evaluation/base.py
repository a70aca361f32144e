"""The base of a checkpoint, which it is compared with (drift) or predicts together with (routers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scale_cli.checkpoints.card import history
from scale_cli.checkpoints.load import Checkpoint, check, config_of, describe, fingerprint, load_model
from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS
from scale_cli.model import ScaleConfig, family_of
from scale_cli.model.families import without_layers


@dataclass(frozen=True)
class BasePlan:
    """The base that a checkpoint is compared with, determined before anything is loaded.

    source: the checkpoint that contains the base.
    checkpoint: the same, described; None if the base is the frozen half of the widened model itself.
    version: identifies the base.
    """

    source: str
    checkpoint: Checkpoint | None
    version: str

    def load(self, model: Any, *, dtype: torch.dtype, device: torch.device) -> Any:
        """The base's model, without layers that deepening added. model: the checkpoint's."""
        if self.checkpoint is None:
            return model.base
        base = load_model(self.checkpoint, dtype=dtype)
        return without_layers(base, self.checkpoint.new_layers).to(device)


def plan_base(checkpoint: Checkpoint, given: str | None, option: str = "--drift") -> BasePlan:
    """The base of a checkpoint: `given`, or None for the checkpoint's own. option: the one that needs it, for errors.

    The own base is the frozen half of a widened model, the old layers of a deepened one, or the checkpoint from which a
    run that trained a part of a plain model started.
    Raises RequestError if there is no own base, or if the given one has other sizes.
    """
    sizes = _sizes(checkpoint, option)
    if given is not None:
        base = describe(given)
        check(base)
        if (given_sizes := _sizes(base, option)) != sizes:
            raise RequestError(
                f"--base {given} has {_listed(given_sizes)}, and {checkpoint.source}, without added parts, has "
                f"{_listed(sizes)}; give the checkpoint it was made from"
            )
        return BasePlan(given, base, f"base-{fingerprint(base)[:12]}")
    if checkpoint.kind == "width":
        return BasePlan(checkpoint.source, None, "base-own")
    root, *runs = checkpoint.chain
    trainings = [step["recipe"]["method"] for step in history(root.folder) if step["step"] == "train"]
    whole = any(name in METHODS and METHODS[name].trains_all for name in trainings)
    is_left = bool(runs) if checkpoint.kind == "plain" else not whole
    if not is_left or any(run.from_scratch for run in runs):
        raise RequestError(
            f"{option}: {checkpoint.source} is a whole model without its base in it; name the base: --base BASE"
        )
    return BasePlan(root.source, root, "base-own")


def _sizes(checkpoint: Checkpoint, option: str) -> dict[str, Any]:
    """The sizes that a checkpoint and its base share. RequestError for a model of an unknown family."""
    config = config_of(checkpoint)
    own = config.build_base_config() if isinstance(config, ScaleConfig) else config
    try:
        family_of(own.model_type)
    except ValueError as error:
        raise RequestError(f"{option}: {checkpoint.source}: {error}") from error
    return {
        "model_type": own.model_type,
        "num_hidden_layers": own.num_hidden_layers - len(checkpoint.new_layers),
        "hidden_size": own.hidden_size,
        "vocab_size": own.vocab_size,
    }


def _listed(sizes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())
