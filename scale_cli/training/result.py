"""The result of a training run, and its course in words: losses, measurements and their changes, divergence.

Importing this does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.results.measurement import is_share
from scale_cli.training.choice import PEOPLE_METRICS, TEXT_METRICS
from scale_cli.training.recipe import TrainRecipe
from scale_cli.training.resume import METRICS, metric_lines


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    steps: number of steps done. kept_step: the step of the tensors in `out`, `steps` without `keep_best`.
    ended_by: the conditions of `stop_when` by which the run ended early; None if it did all steps of the recipe.
    tokens: number of training tokens, padding included.
    predicted_tokens: number of tokens with a loss. Padding, prompts and the first token of a sequence have none; under
        packing "documents" the first token of every text.
    extra_tokens: number of tokens of the method's extra data, padding included.
    seconds: wall time of the run and of the interrupted runs before it, with measurements, without loading.
    trained_parameters, total_parameters: number of parameters. metrics: values measured at `kept_step`, by name.
    epochs: how often each source was read, by the values of --data; None for a stream that was not read to its end.
    first_loss, last_loss: as logged, without the loss on rehearsed text; None if nothing was logged.
    before: values measured at step 0, by name. warning: a loss that tells that the training failed, as a line; or None.
    """

    out: Path
    steps: int
    kept_step: int
    ended_by: str | None
    tokens: int
    predicted_tokens: int
    extra_tokens: int
    seconds: float
    trained_parameters: int
    total_parameters: int
    metrics: dict[str, float]
    epochs: dict[str, float | None]
    first_loss: float | None
    last_loss: float | None
    before: dict[str, float]
    warning: str | None


def course(out: Path, recipe: TrainRecipe, config: Any) -> dict[str, Any]:
    """The fields of a run's `TrainResult` that follow from its metrics.jsonl. config: the model's."""
    lines = metric_lines(out / METRICS) if (out / METRICS).is_file() else []
    weight = recipe.rehearsal_weight
    losses = [line["loss"] - weight * line.get("rehearsal_loss", 0.0) for line in lines if "loss" in line]
    first, last = (losses[0], losses[-1]) if losses else (None, None)
    before: dict[str, float] = next((line for line in lines if line["step"] == 0), {})
    return {
        "first_loss": first,
        "last_loss": last,
        "before": {name: value for name, value in before.items() if name != "step"},
        "warning": _warning(losses, config.get_text_config().vocab_size, recipe.learning_rate),
    }


def _warning(losses: list[float], vocabulary: int, rate: float) -> str | None:
    """A line on a training that has diverged, or whose loss is above that of a uniform guess; None if neither."""
    if not losses:
        return None
    first, last, guess = losses[0], losses[-1], math.log(vocabulary)
    guessing = f"{guess:,.3f}, that of a uniform guess among {vocabulary:,} tokens"
    lower = f"with a lower --lr (given {rate:g})"
    if last > first:
        above = f"the first, {first:,.3f}" + (f", and above {guessing}" if last > guess else "")
        advice = f"the training has probably diverged; train anew {lower} or a longer --warmup"
    elif last > guess:
        above, advice = guessing, f"train with more --steps, or {lower}"
    else:
        return None
    return f"the last loss, {last:,.3f}, is above {above}: {advice}"


def change(name: str, value: float, before: float) -> str:
    """The change of a measured value since step 0: a difference of shares, else relative."""
    if is_share(name.partition("/")[2]):
        return f"{value - before:+.3f}"
    return f"{value / before - 1:+,.1%}" if before else ""


class Watch:
    """A training in words, from its reports: `note` is its state, and each measurement is passed to `say` as a line.

    It is the `report` of `train`. A resumed run's earlier measurements are not repeated.
    """

    def __init__(self, label: str, say: Callable[[str], None], *, resumed_at: int = 0) -> None:
        """label: the beginning of lines. resumed_at: the step at which a run is resumed, 0 for a new one."""
        self.note = ""
        self._label, self._say, self._resumed_at = label, say, resumed_at
        self._before: Mapping[str, float] | None = None

    def __call__(self, line: dict[str, float]) -> None:
        if "loss" in line:
            self.note = _state(line)
            return
        if self._before is None:
            self._before = line
        if line["step"] > self._resumed_at or not self._resumed_at:
            self._say(f"{self._label}, step {line['step']:,}: {_measured(line, self._before)}")


def _state(line: Mapping[str, float]) -> str:
    """A log line in words."""
    parts = [f"loss {line['loss']:,.3f}"]
    if "rehearsal_loss" in line:
        parts.append(f"rehearsal {line['rehearsal_loss']:,.3f}")
    parts.append(f"lr {line['learning_rate']:.3g}")
    if "tokens_per_second" in line:
        parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)


def _measured(line: Mapping[str, float], before: Mapping[str, float]) -> str:
    """The deciding value of each text and population, with its change."""
    shown = []
    for name, value in line.items():
        if name.partition("/")[2] in (TEXT_METRICS[0], PEOPLE_METRICS[0]):
            changed = "" if line is before or name not in before else change(name, value, before[name])
            shown.append(f"{name} {value:,.3f}" + (f" ({changed})" if changed else ""))
    return ", ".join(shown)
