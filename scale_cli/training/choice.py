"""The choice of a run's result among its measured steps, and its early end: --keep-best, --limit and --stop-when.

Importing this does not import torch.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scale_cli.core.condition import Condition
from scale_cli.core.errors import RequestError
from scale_cli.training.resume import metric_lines

TEXT_METRICS = ("bits_per_byte", "bits_per_character", "perplexity")
"""Metrics of a text, of which lower values are better. The first is the default."""
PEOPLE_METRICS = ("hard", "soft")
"""Metrics of people, of which higher values are better. The first is the default. Others are not measured each time."""
BEST = "best-"
"""The beginning of the name of a folder with the best step's tensors; the step follows."""


@dataclass(frozen=True)
class Rules:
    """The rules of a choice. Names are NAME/METRIC, as in metrics.jsonl.

    best: the name that decides, None to keep the last step. higher_is_better: direction of `best`.
    limits: conditions on the kept step. stops: conditions that end the run if all hold; none for no early end.
    """

    best: str | None = None
    higher_is_better: bool = False
    limits: tuple[Condition, ...] = ()
    stops: tuple[Condition, ...] = ()

    @classmethod
    def parse(
        cls,
        keep_best: str | None,
        limits: Sequence[str],
        stops: Sequence[str],
        *,
        texts: Collection[str],
        people: Collection[str],
        measured_between: bool,
    ) -> Rules:
        """The rules in the values of the options.

        texts, people: names of --eval-text and --eval-people. measured_between: whether there are measurements between
        step 0 and the last one.
        Raises ValueError for a name or a metric that is not measured, and for options that lack another one.
        """
        if limits and keep_best is None:
            raise ValueError(f"--limit {limits[0]}: it limits --keep-best; give both")
        option = "--stop-when" if keep_best is None else "--keep-best"
        if (keep_best is not None or stops) and not measured_between:
            raise ValueError(
                f"{option}: it chooses among measured steps; give --eval-steps, the steps between them, or "
                "--eval-per-doubling"
            )

        def whole(option: str, name: str) -> str:
            return _whole_name(option, name, texts=texts, people=people)

        def conditions(option: str, given: Sequence[str]) -> tuple[Condition, ...]:
            parsed = []
            for text in given:
                try:
                    condition = Condition.parse(text, relative=True)
                except ValueError as error:
                    raise ValueError(f"{option} {text}: {error}; base is the value at step 0") from error
                parsed.append(dataclasses.replace(condition, name=whole(f"{option} {text}", condition.name)))
            return tuple(parsed)

        best = None if keep_best is None else whole(f"--keep-best {keep_best}", keep_best)
        return cls(
            best,
            best is not None and best.partition("/")[0] in people,
            conditions("--limit", limits),
            conditions("--stop-when", stops),
        )

    @property
    def names(self) -> set[str]:
        """The names of all values that the rules need."""
        return {rule.name for rule in (*self.limits, *self.stops)} | ({self.best} if self.best else set())

    def excess(self, values: Mapping[str, float], base: Mapping[str, float]) -> float:
        """The sum of the distances from the limits, each relative to its bound; 0 within all limits.

        values, base: of the step and of step 0.
        """
        distances = ((rule, rule.excess(values[rule.name], base[rule.name])) for rule in self.limits)
        return sum(distance / (abs(rule.bound(base[rule.name])) or 1.0) for rule, distance in distances)

    def rank(self, values: Mapping[str, float], base: Mapping[str, float]) -> tuple[float, float]:
        """The order of steps, the best has the lowest: those within all limits by the deciding value, then the others
        by their distance from the limits."""
        assert self.best is not None
        value = -values[self.best] if self.higher_is_better else values[self.best]
        return self.excess(values, base), math.inf if math.isnan(value) else value

    def stop(self, values: Mapping[str, float], base: Mapping[str, float]) -> bool:
        """Whether all conditions for the early end hold."""
        held = [rule.excess(values[rule.name], base[rule.name]) == 0 for rule in self.stops]
        return bool(held) and all(held)


def _whole_name(option: str, name: str, *, texts: Collection[str], people: Collection[str]) -> str:
    """NAME/METRIC for NAME or NAME/METRIC. option: the beginning of messages."""
    if not (texts or people):
        raise ValueError(f"{option}: nothing is measured during training; give --eval-text or --eval-people")
    measured, _, metric = name.partition("/")
    if measured not in (*texts, *people):
        names = ", ".join((*texts, *people))
        raise ValueError(f"{option}: no --eval-text or --eval-people is named {measured}; choose from {names}")
    metrics = TEXT_METRICS if measured in texts else PEOPLE_METRICS
    if metric and metric not in metrics:
        choices = ", ".join(f"{measured}/{each}" for each in metrics)
        raise ValueError(f"{option}: {measured} has no metric {metric} at every measured step; choose from {choices}")
    return f"{measured}/{metric or metrics[0]}"


class Choice:
    """The choice in a run. The tensors of the best step so far are kept in `folder`/best-STEP, which is a checkpoint.

    Step 0 gives the base's values and is neither kept nor an end. Of equal steps the earliest is kept. The measurements
    in metrics.jsonl determine the state, so a resumed run chooses as an uninterrupted one. The best step at the last
    checkpoint stays until the next checkpoint, as a resumed run begins there.

    ended_by: the --stop-when conditions by which the run has ended early, as given; None if it has not.
    """

    def __init__(self, rules: Rules, folder: Path, *, save: Callable[[Path], None]) -> None:
        """folder: the run folder. save: writes the model in training as a checkpoint into a new folder; all processes
        call it."""
        self.rules = rules
        self.folder = folder
        self.ended_by: str | None = None
        self._save = save
        self._measured: dict[int, Mapping[str, float]] = {}
        self._at_checkpoint: int | None = None

    def resume(self, step: int, file: Path, *, writes: bool) -> None:
        """Restore the state at a step from metrics.jsonl.

        writes: this process removes the folders of later steps. Raises RequestError if the best step's folder is lost.
        """
        entries = metric_lines(file) if file.exists() else ()
        self._measured = {
            int(entry["step"]): entry for entry in entries if entry["step"] <= step and self.rules.names <= entry.keys()
        }
        best = self._at_checkpoint = self._best()
        if best is not None and not self._folder(best).is_dir():
            raise RequestError(f"--resume: {self._folder(best)}, the best step so far, is missing; put it back")
        if writes:
            self._remove(all_but={best})

    def add(self, step: int, values: Mapping[str, float], *, last: bool, writes: bool) -> bool:
        """Add the measurements of a step. Returns whether the run ends early at it.

        last: it is the last step of the schedule. writes: this process removes the folders of worse steps.
        """
        self._measured[step] = values
        if step and self._best() == step:
            self._save(self._folder(step))
            if writes:
                self._remove(all_but={step, self._at_checkpoint})
        if step and not last and self.rules.stop(values, self._measured[0]):
            self.ended_by = ", ".join(rule.text for rule in self.rules.stops)
        return self.ended_by is not None

    def checkpointed(self) -> None:
        """A checkpoint of the current step is complete."""
        self._at_checkpoint = self._best()

    def kept(self, last: int) -> tuple[int, Path | None]:
        """The step whose tensors are the result, and their folder; None if they are those of the last step, `last`.

        Raises RequestError if no measured step is within all limits. It names the nearest, whose folder remains.
        """
        if self.rules.best is None:
            return last, None
        best = self._best()
        if best is None:
            raise RequestError(
                f"--keep-best {self.rules.best}: no measured step has finite values; train anew with a lower --lr"
            )
        values, base = self._measured[best], self._measured[0]
        missed = [rule for rule in self.rules.limits if rule.excess(values[rule.name], base[rule.name])]
        if missed:
            shown = ", ".join(
                f"{rule.name} {values[rule.name]:.6g} ({'at most' if rule.at_most else 'at least'} "
                f"{rule.bound(base[rule.name]):.6g})"
                for rule in missed
            )
            limits = ", ".join(rule.text for rule in self.rules.limits)
            raise RequestError(
                f"--limit {limits}: no step is within the limits; the nearest is step {best} with {shown}; its "
                f"checkpoint is {self._folder(best)}; "
                "train anew with wider limits, a lower --lr or smaller --eval-steps"
            )
        return best, None if best == last else self._folder(best)

    def _best(self) -> int | None:
        """The best step after 0 so far; None without one whose values are finite."""
        if self.rules.best is None:
            return None
        ranks = {step: self.rules.rank(values, self._measured[0]) for step, values in self._measured.items() if step}
        finite = [step for step, rank in ranks.items() if all(map(math.isfinite, rank))]
        return min(finite, key=lambda step: ranks[step], default=None)

    def _folder(self, step: int) -> Path:
        return self.folder / f"{BEST}{step}"

    def _remove(self, *, all_but: Collection[int | None]) -> None:
        """Remove folders of best steps."""
        kept = {self._folder(step) for step in all_but if step is not None}
        for folder in best_folders(self.folder):
            if folder not in kept:
                shutil.rmtree(folder)


def best_folders(run: Path) -> list[Path]:
    """The folders of best steps in a run folder, and what a killed process has left of one."""
    return [*run.glob(f"{BEST}*"), *run.glob(f".{BEST}*.partial")]
