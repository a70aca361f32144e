"""The one training path: transformers' `Trainer`, told what only this project knows."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from scale_cli.errors import RequestError
from scale_cli.training.checkpoints import load_trained, save_trained

Measure = Callable[[Any, bool], dict[str, float]]
"""Measures a model while it trains: (model, whether it is the last time) -> values by name."""


class PartTrainer(Trainer):
    """A `Trainer` whose checkpoints hold only what trains, and which stops when the loss is no number any more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._diverged = torch.zeros((), dtype=torch.bool, device=self.args.device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._diverged |= ~torch.isfinite(loss.detach())  # read only at a log or a save: no wait for the device here
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the library's estimate knows neither frozen parts nor two streams (see `scale plan`)."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._stop_if_diverged()
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._stop_if_diverged()
        super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint))

    def _stop_if_diverged(self) -> None:
        if self._diverged.item():
            last = last_checkpoint(Path(self.args.output_dir))
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written (--save-steps)"
            raise RequestError(
                f"the loss is not a number any more at step {self.state.global_step}; {kept}; lower --lr "
                f"(given {self.args.learning_rate:g}) or raise --warmup"
            )


class MetricsWriter(TrainerCallback):
    """One line of JSON a logged step or measurement into `metrics.jsonl`, and the progress of the run."""

    def __init__(
        self, folder: Path, measure: Measure | None, eval_steps: int | None, progress: Callable[[int, int], None] | None
    ) -> None:
        self.file = folder / "metrics.jsonl"
        self.measure = measure
        self.eval_steps = eval_steps
        self.progress = progress
        self.last: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            drop_lines_after(self.file, state.global_step)
        if state.global_step == 0:
            self._measure(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.global_step == state.max_steps
        if last or (self.eval_steps is not None and state.global_step % self.eval_steps == 0):
            self._measure(state, kwargs["model"])
        if self.progress is not None and state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._write(state, {name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs})

    def _measure(self, state: TrainerState, model: Any) -> None:
        if self.measure is not None:
            self.last = self.measure(model, state.global_step == state.max_steps)
            self._write(state, self.last)

    def _write(self, state: TrainerState, values: dict[str, float]) -> None:
        if state.is_world_process_zero:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step} | values) + "\n")


class StopAtStep(TrainerCallback):
    """Ctrl-C finishes the step under way and writes a checkpoint for `--resume`; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopAtStep:
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.asked and state.global_step < state.max_steps:
            control.should_training_stop = control.should_save = True


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def drop_lines_after(file: Path, step: int) -> None:
    """Keep the lines of `metrics.jsonl` up to `step`: what a run that resumes there will write again goes."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    file.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")
