"""One forward pass read under several routers: combinations of the base's and the adapted model's predictions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scale_cli.checkpoints.router import router_of
from scale_cli.data.windows import CHUNK_POSITIONS, Windows, sum_over_processes
from scale_cli.evaluation.evaluate import Advance
from scale_cli.model.mixture import follow

Router = Mapping[str, Any] | None


class Sums(NamedTuple):
    """Sums over the tokens of each document, (documents,) in float64.

    losses: negative log-likelihoods, in nats. preserved: tokens that a router sent to the preserve branch.
    most_lost: the greatest excess of a window's loss over the base's, in nats, over the windows that are predicted from
        their beginning; None if the base's loss is unknown.
    """

    losses: np.ndarray
    preserved: np.ndarray
    most_lost: float | None = None


def is_reading(router: Router) -> bool:
    """Whether a router only combines the two predictions, so that one forward pass serves it and others."""
    return router is None or router.get("kind") in ("mixture", "interpolate")


@contextlib.contextmanager
def both_predictions(model: Any) -> Iterator[None]:
    """Take away the router of a model inside the block, so that its logits are those of the adapted model."""
    before = router_of(model)
    model.set_router(None)
    try:
        yield
    finally:
        model.set_router(before)


@torch.no_grad()
def sums_by_router(
    model: Any, windows: Windows, rows: int, routers: Sequence[Router], advance: Advance = lambda **steps: None
) -> list[Sums]:
    """Score all windows under each router, `rows` windows per forward pass, which serves all routers.

    model: a widened model or a `Pair`. routers: those of `is_reading`.
    log-softmax is in float32 or better, sums are in float64.
    """
    losses = torch.zeros(len(routers), len(windows.lengths), dtype=torch.float64)
    preserved = torch.zeros_like(losses)
    by_window = torch.zeros(len(routers) + 1, len(windows.windows), dtype=torch.float64)  # the base's come last
    with both_predictions(model):
        for batch in windows.batches(rows, model.device, advance):
            output = model(input_ids=batch.inputs, use_cache=False, output_base_logits=True)
            width = batch.inputs.shape[1]
            places = batch.positions // (width - batch.kept) * width + batch.positions % (width - batch.kept)
            places += batch.kept  # in the flat form of all positions
            following = batch.inputs.roll(-1, 1).flatten()
            following[places] = batch.targets
            logs = token_logs(output.base_logits, output.logits, following.view_as(batch.inputs), routers)
            owners = batch.owners.cpu()
            # Up to a window's last target: also the borders of documents, which are no targets but move the weight.
            last = torch.zeros(len(batch.inputs), dtype=torch.long, device=places.device)
            last.scatter_reduce_(0, places // width, places % width, "amax")
            until_last = torch.arange(width, device=places.device) <= last.unsqueeze(1)
            readings = [combined(router, logs) for router in routers]
            for i, (log_p, weights) in enumerate([*readings, (logs["base"], None)]):
                by_window[i, batch.numbers.cpu()] = -(log_p.double() * until_last).sum(1).cpu()
                if i < len(routers):
                    losses[i].index_add_(0, owners, -log_p.flatten()[places].double().cpu())
                    if weights is not None:
                        preserved[i].index_add_(0, owners, weights.flatten()[places].double().cpu())
    summed = [sum_over_processes(t, model.device) for t in (losses, preserved, by_window)]
    whole = [i for i, window in enumerate(windows.windows) if window.first == window.start + 1]
    most_lost = (summed[2][:-1, whole] - summed[2][-1, whole]).max(1).tolist()
    return [Sums(*each) for each in zip(summed[0], summed[1], most_lost, strict=True)]


def token_logs(z: Tensor, z_adapted: Tensor, following: Tensor, routers: Sequence[Router]) -> dict[Any, Tensor]:
    """The log-probability of the token after each position, (B, T) each, computed in float32 or better, as float64.

    z, z_adapted: the logits of the base and of the adapted model, (B, T, vocabulary). following: those tokens, (B, T).
    Returns the base's under "base", the adapted model's under None, and that of interpolated logits under each weight.
    """
    weights = {r["weight"] for r in routers if r is not None and r["kind"] == "interpolate"}
    wide = torch.promote_types(z.dtype, torch.float32)
    parts: dict[Any, list[Tensor]] = {}
    flat = zip(*(t.flatten(0, 1).split(CHUNK_POSITIONS) for t in (z, z_adapted)), strict=True)
    for (base, adapted), tokens in zip(flat, following.flatten().split(CHUNK_POSITIONS), strict=True):
        base, adapted = base.to(wide), adapted.to(wide)
        for name in ("base", None, *weights):
            logits = {"base": base, None: adapted}.get(name)
            logits = torch.lerp(base, adapted, name) if logits is None else logits
            own = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            parts.setdefault(name, []).append(own - logits.logsumexp(-1))
    return {name: torch.cat(part).view_as(following).double() for name, part in parts.items()}


def combined(router: Router, logs: Mapping[Any, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The log-probability of the next token under a router and the base's weights, (B, T) each; None without weights.

    logs: as `token_logs` returns them.
    """
    if router is None:
        return logs[None], None
    if router["kind"] == "interpolate":
        return logs[router["weight"]], None
    base, adapted = logs["base"], logs[None]
    share, prior = router["share"], router["prior"]
    gains = torch.zeros_like(base)
    gains[:, 1:] = (base - adapted)[:, :-1]
    start = base.new_full((len(base), 1), math.log(prior) - math.log1p(-prior))
    never = torch.zeros_like(base, dtype=torch.bool)
    odds = follow(start, gains, share=share, prior=prior, updates=None, restarts=never)
    log_weights = functional.logsigmoid(odds), functional.logsigmoid(-odds)
    return torch.logaddexp(base + log_weights[0], adapted + log_weights[1]), odds.sigmoid()


def most_lost_bound(router: Mapping[str, Any], tokens: int) -> float:
    """The nats by which a mixture's loss on `tokens` tokens can exceed the base's at most.

    ln(1 / prior) for the first token, ln(1 / (1 - s (1 - prior))) for each later one: the weight that share s leaves
    or gives back to the base.
    """
    share, prior = router["share"], router["prior"]
    return -math.log(prior) - (tokens - 1) * math.log(1 - share * (1 - prior))
