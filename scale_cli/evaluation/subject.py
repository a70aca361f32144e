"""The subject of a measurement: a checkpoint, its identity, and the model and tokenizer loaded from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scale_cli.checkpoints.load import (
    Checkpoint,
    check,
    companions_fingerprint,
    describe,
    fingerprint,
    lineage,
    load_model,
    load_tokenizer,
    skeleton,
    stored_dtype,
    trained_dtype,
)
from scale_cli.checkpoints.router import (
    WEIGHTS,
    check_reading,
    frontier_of,
    is_average,
    label_under,
    parse_router,
    router_of,
    set_router,
)
from scale_cli.checkpoints.schemas import read_run
from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json, shortest_ends
from scale_cli.core.records import digest
from scale_cli.evaluation.base import BasePlan, plan_base
from scale_cli.evaluation.pair import Pair
from scale_cli.model import ScaleForCausalLM
from scale_cli.results.result import CheckpointInfo, of_training

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Target:
    """A checkpoint to measure, described without loading it.

    label: name in tables and of the result folder. fingerprint: hash of its content, hex.
    router: the router to measure it with, as on the command line; None for its own.
    base: the base that a checkpoint that is not widened predicts together with under `router`; None without both.
    listed_base: the source of the only plain checkpoint without training among several; None without one.
    companions: hash of its tokenizer's files and generation config, hex; None if unknown.
    dtype: dtype of the weights while it is measured, a name of `DTYPES`.
    """

    label: str
    checkpoint: Checkpoint
    fingerprint: str
    dtype: str
    companions: str | None = None
    router: str | None = None
    base: BasePlan | None = None
    listed_base: str | None = None


@dataclass
class Subject:
    """A loaded checkpoint, in eval mode, on its device.

    batch_size: sequences per forward pass, None for "as many as fit". seed: seed of all random choices.
    """

    target: Target
    model: Any
    tokenizer: Any
    device: torch.device
    batch_size: int | None
    seed: int

    @property
    def router(self) -> Mapping[str, Any] | None:
        """The model's router, None without one."""
        return router_of(self.model)

    @property
    def has_both(self) -> bool:
        """Whether the model has two predictions, its own and the base's."""
        return isinstance(self.model, ScaleForCausalLM | Pair)

    @property
    def has_routed(self) -> bool:
        """Whether the model's output has `preserved`, the tokens that took the preserve branch."""
        return self.router is not None and self.router.get("kind", "cosine") not in ("interpolate", WEIGHTS)

    def under(self, target: Target) -> Subject:
        """The same model as the subject of another target of its checkpoint, under that target's router."""
        if target.router is not None and self.has_both:
            set_router(self.model, target.router, target.checkpoint.source)
        return replace(self, target=target)


def targets(
    sources: Sequence[str],
    *,
    routers: Sequence[str] = (),
    frontier: bool = False,
    base: str | None = None,
    revision: str | None = None,
    dtype: str | None,
    device: torch.device,
) -> list[Target]:
    """The targets in the order of `sources`, with unique labels. Hashes all weights but loads none.

    sources: checkpoints of any kind, or LABEL=CHECKPOINT. revision: of the hub ids among them.
    routers: to measure every checkpoint with, each a target of its own; empty for the checkpoint's own router.
    frontier: besides, the routers that show the trade-off of a training.
    base: the base for routers of checkpoints that are not widened; None for the one that each was trained from.
    dtype: a name of `DTYPES`; None takes bfloat16 on a GPU and the stored dtype on a CPU.
    Raises RequestError for a source that is not a whole checkpoint or has no tokenizer, for a repeated label, and for a
    revision without a hub id.
    """
    pairs = [_split(source) for source in sources]
    are_folders = [Path(source).expanduser().exists() for _, source in pairs]
    if revision is not None and all(are_folders):
        raise RequestError(f"--revision {revision}: a revision belongs to a hub id, and only folders are given")
    checkpoints = [
        describe(source, revision=None if is_folder else revision)
        for (_, source), is_folder in zip(pairs, are_folders, strict=True)
    ]
    for checkpoint in checkpoints:
        check(checkpoint, base=False)
        load_tokenizer(checkpoint)
    labels = _labels(pairs)
    plain_ones = [each.source for each in checkpoints if each.kind == "plain" and not _trainings(each)]
    listed_base = plain_ones[0] if len(plain_ones) == 1 and len(checkpoints) > 1 else None
    described: list[Target] = []
    for label, checkpoint in zip(labels, checkpoints, strict=True):
        stored = "bfloat16" if device.type == "cuda" else _stored_dtype(checkpoint)
        companions = companions_fingerprint(checkpoint)
        plain = Target(label, checkpoint, fingerprint(checkpoint), dtype or stored, companions, listed_base=listed_base)
        own = dict.fromkeys([*routers, *(frontier_of(checkpoint) if frontier else ())])
        described += _under_routers(plain, tuple(own), base) if own else [plain]
    return described


def _under_routers(target: Target, routers: Sequence[str], base: str | None) -> Iterator[Target]:
    """The target under each router, with labels and fingerprints of their own.

    base: as in `targets`. Raises RequestError if the checkpoint cannot have a router or its base is unknown.
    """
    checkpoint = target.checkpoint
    model = skeleton(checkpoint) if checkpoint.kind == "width" else None
    planned: BasePlan | None = None
    for text in routers:
        identity: dict[str, Any] = {"checkpoint": target.fingerprint, "router": parse_router(text)}
        plan = None
        if model is not None:
            set_router(model, text, checkpoint.source)
        elif text != "none":
            check_reading(text, checkpoint.source, kind=checkpoint.kind)
            plan = planned = planned or plan_base(checkpoint, base, f"--router {text}")
            identity["base"] = plan.version
        label = label_under(target.label, text)
        yield replace(target, label=label, fingerprint=digest(identity), router=text, base=plan)


def load(target: Target, *, device: torch.device, batch_size: int | None, seed: int) -> Subject:
    """The target's model and tokenizer on a device. With a base, both models as one."""
    dtype = DTYPES[target.dtype]
    model = load_model(target.checkpoint, dtype=dtype).to(device)
    if target.base is not None:
        model = Pair(model, target.base.load(model, dtype=dtype, device=device))
    subject = Subject(target, model, load_tokenizer(target.checkpoint), device, batch_size, seed)
    return subject.under(target)


def information(target: Target, model: Any) -> CheckpointInfo:
    """The description of a checkpoint in results. model: the loaded model, whose parameters are counted."""
    checkpoint = target.checkpoint
    if isinstance(model, Pair) and (target.base is None or is_average(target.router or "")):
        model = model.trained  # one model predicts
    trainings = _trainings(checkpoint)
    latest = trainings[-1] if trainings else {}
    info = CheckpointInfo(
        label=target.label,
        source=checkpoint.source,
        fingerprint=target.fingerprint,
        kind=checkpoint.kind,
        method=latest.get("recipe", {}).get("method"),
        parameters={
            "total": sum(parameter.numel() for parameter in model.parameters()),
            "trained": latest.get("trained_parameters"),
        },
        recipe=latest.get("recipe"),
        companions=target.companions,
        router=target.router,
        training={name: latest[name] for name in ("tokens", "seconds") if name in latest} or None,
    )
    record = read_run(checkpoint.folder)
    return info if record is None else replace(info, **of_training(record))


def _trainings(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The trainings by which a checkpoint was made, oldest first."""
    return [step for step in lineage(checkpoint)[1] if step["step"] == "train"]


def _split(source: str) -> tuple[str | None, str]:
    """The label, None if not given, and the checkpoint in LABEL=CHECKPOINT. An existing path may contain =."""
    label, equals, rest = source.partition("=")
    if not equals or Path(source).exists():
        return None, source
    if not label or not rest or "/" in label or label.startswith("."):
        raise RequestError(f"{source}: write LABEL=CHECKPOINT; a label has no / and does not begin with .")
    return label, rest


def _labels(pairs: Sequence[tuple[str | None, str]]) -> list[str]:
    """The given labels, and for the others the shortest ends of their paths that make all labels unique."""
    paths = [
        tuple(part.replace("/", "") for part in Path(source).absolute().parts) if label is None else (label,)
        for label, source in pairs
    ]
    if (labels := shortest_ends(paths, "-")) is not None:
        return labels
    labels = ["-".join(parts) for parts in paths]
    repeated = next(label for label in labels if labels.count(label) > 1)
    raise RequestError(f"{repeated} occurs twice among the checkpoints; give each once, or name them: LABEL=CHECKPOINT")


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """The name of the dtype in which a checkpoint loads by default, or float32 if that is not in `DTYPES`."""
    if checkpoint.base is not None:
        dtype = trained_dtype(checkpoint)
    else:
        config = read_json(checkpoint.folder / "config.json")
        named = config.get("dtype") or config.get("torch_dtype")
        dtype = DTYPES.get(named) if named else stored_dtype(checkpoint)
    return next((name for name, known in DTYPES.items() if known == dtype), "float32")
