"""transformers' `Trainer` with the loss and the checkpoints of a method. All methods are trained by it."""

from __future__ import annotations

import functools
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from scale_cli.checkpoints.load import load_trained, save_trained
from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json, write_text
from scale_cli.data.beside import EXTRA
from scale_cli.methods import Method, Step
from scale_cli.methods.step import labelled_positions, step_arguments
from scale_cli.training.choice import Choice
from scale_cli.training.rehearsal import Rehearsal
from scale_cli.training.resume import (
    METRICS,
    checkpoints,
    drop_lines_after,
    last_checkpoint,
    metric_lines,
    seal,
    step_of,
)
from scale_cli.training.sharding import optimizer_state, set_optimizer_state, whole, whole_tensor

Measure = Callable[[Any, bool], dict[str, float]]
"""A measurement during training: (model, whether it is the last one) -> values by name."""
Report = Callable[[dict[str, float]], None]
"""Called with each line of `metrics.jsonl`. That of a loss has `tokens_per_second` too, without measurements."""

LOGGED = ("loss", "rehearsal_loss", "learning_rate", "grad_norm")
"""The values in a log line of `metrics.jsonl`."""
NEVER = 2**62
"""The number of a step that no run reaches."""
ONE_SIGNAL_SECONDS = 3.0
"""Time after a signal in which further ones count as the same."""
CARRIED = "carried.json"
"""The file of a checkpoint with state that a resumed run needs and the library does not save."""


class PartTrainer(Trainer):
    """A `Trainer` whose checkpoints contain only the method's stored tensors.

    Training stops if the loss is NaN or infinite. Logits that the loss does not need are not computed. Checkpoints also
    contain the loss since the last log line and the seconds, so a resumed run logs the same as an uninterrupted one.
    """

    def __init__(
        self,
        *args: Any,
        describe: Callable[[Path], None],
        method: Method,
        options: Any,
        rehearsal: Rehearsal | None = None,
        sharded: bool = False,
        **kwargs: Any,
    ) -> None:
        """describe: writes a pointer to the base into a checkpoint's folder.

        method, options: the method, which determines loss and stored tensors, and its options.
        rehearsal: whose examples are the extra data of the dataset, or None.
        sharded: the model is spread over the processes and not copied to each.
        Other arguments are `Trainer`'s. The dataset returns whole batches, so the collator receives a batch, not a
        list.
        """
        super().__init__(*args, **kwargs | {"data_collator": _without_unused_logits})
        self.describe = describe
        self.method = method
        self.options = options
        self.rehearsal = rehearsal
        self.sharded = sharded
        if sharded:  # so that accelerate does not copy the model to every process; on CPUs it has no sharding at all
            prepare = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
            self.accelerator.prepare_model = lambda model, **placement: prepare(model, device_placement=False)
        self._step_arguments = step_arguments(self.model)
        # Both stay on the device and are read only at a log or a save, so no step waits for the device.
        self._bad_step = torch.tensor(NEVER, device=self.args.device)
        self._loss = torch.zeros((), device=self.args.device)
        self._rehearsal_loss = torch.zeros((), device=self.args.device)
        self._logged_step = 0
        self._seconds_before = 0.0
        self._start = time.monotonic()

    @property
    def batches_per_step(self) -> int:
        """Forward passes per optimiser step, in all processes together."""
        return self.args.gradient_accumulation_steps * self.args.world_size

    @property
    def seconds(self) -> float:
        """Wall time of this run and of the interrupted runs before it, up to their last checkpoint."""
        return self._seconds_before + time.monotonic() - self._start

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The method's loss on a batch. Outputs are never requested, as the library's evaluation is not used."""
        assert not return_outputs
        extra = inputs.pop(EXTRA, None)

        def forward(logits: bool = False) -> tuple[torch.Tensor, Any]:
            arguments = {} if logits else self._step_arguments
            computed: Any = super(PartTrainer, self).compute_loss(model, inputs | arguments, True, num_items_in_batch)
            return computed

        # The library divides the loss by the number of batches, unless the model normalises it over the whole step.
        over_step = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        share = 1 / self.current_gradient_accumulation_steps if over_step else 1.0
        if self.rehearsal is None:
            return self.method.loss(Step(model, self.model, inputs, extra, self.options, forward, share))
        loss = self.method.loss(Step(model, self.model, inputs, None, self.options, forward, share))
        rehearsed = self.rehearsal.loss(model, extra)
        self._rehearsal_loss += rehearsed.detach() / self.current_gradient_accumulation_steps
        return loss + self.rehearsal.weight * share * rehearsed

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        step = self.state.global_step  # the step of the current weights and of their checkpoint
        self._bad_step = torch.where(torch.isfinite(loss.detach()), self._bad_step, self._bad_step.clamp(max=step))
        self._loss += loss.detach()
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Zero: the library's estimate ignores frozen weights and the second stream. `scale plan` counts both."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._check_loss()
        if "loss" in logs:
            steps = self.state.global_step - self._logged_step
            logs["loss"] = self._mean(self._loss) / steps
            self._loss.zero_()
            if self.rehearsal is not None:
                logs["rehearsal_loss"] = self._mean(self._rehearsal_loss) / steps
                self._rehearsal_loss.zero_()
            self._logged_step = self.state.global_step
        super().log(logs, start_time)

    def _mean(self, loss: torch.Tensor) -> float:
        """The mean over the processes."""
        mean: float = self.accelerator.gather(loss).mean().item()
        return mean

    def check_finite(self) -> None:
        """Raise RequestError if a loss or a stored weight is NaN or infinite. It names the last good checkpoint."""
        self._check_loss()
        if not all(torch.isfinite(whole_tensor(t)).all() for t in self.method.stored(self.model).values()):
            self._stop(f"a weight is NaN or infinite at step {self.state.global_step}")

    def _check_loss(self) -> None:
        if (bad_step := int(self._bad_step.item())) != NEVER:
            for checkpoint in checkpoints(Path(str(self.args.output_dir))):
                if step_of(checkpoint) >= bad_step:  # contains the weights that gave this loss, or later ones
                    shutil.rmtree(checkpoint)
            rows = self.args.train_batch_size * self.batches_per_step
            sequences = f"sequences {bad_step * rows} to {(bad_step + 1) * rows - 1} of the run"
            self._stop(f"the loss is NaN or infinite at step {bad_step + 1} ({sequences})")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_finite()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # every process writes a file
        if self.args.should_save:
            seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the method's stored tensors, the pointer to the base and `CARRIED`; every process calls it."""
        assert output_dir is not None
        tensors = whole(self.method.stored(self.model), keep=self.args.should_save)
        carried = {"loss": self._mean(self._loss), "rehearsal_loss": self._mean(self._rehearsal_loss)}
        if not self.args.should_save:
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(tensors, folder)
        self.describe(folder)
        carried |= {"logged_step": self._logged_step, "seconds": self.seconds, "batches": self.batches_per_step}
        write_text(folder / CARRIED, json.dumps(carried) + "\n")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.lr_scheduler is not None
        state = optimizer_state(self.model, self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        assert self.lr_scheduler is not None
        set_optimizer_state(self.model, self.optimizer, state)
        self.lr_scheduler.load_state_dict(schedule)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_trained(self.method.stored(self.model if model is None else model), folder)
        carried = read_json(folder / CARRIED)
        self._loss.fill_(carried["loss"])
        self._rehearsal_loss.fill_(carried.get("rehearsal_loss", 0.0))
        self._logged_step, self._seconds_before = carried["logged_step"], carried["seconds"]

    def _stop(self, reason: str) -> NoReturn:
        last = last_checkpoint(Path(str(self.args.output_dir)))
        advice = f"the last good checkpoint is {last}; train from it or anew"
        if last is None:
            advice = "no good checkpoint was written; train anew"
        rate = f"a lower --lr (given {self.args.learning_rate:g})"
        raise RequestError(f"{reason}; {advice} with {rate} or a longer --warmup")


class MetricsWriter(TrainerCallback):
    """Writes one line of JSON per logged step or measurement to `metrics.jsonl`, and reports progress.

    The measurements go to `choice`, which may end the run.

    last: the values of the last measurement, by name.
    """

    def __init__(
        self,
        folder: Path,
        measure: Measure | None,
        choice: Choice,
        measured_at: Callable[[int], bool],
        progress: Callable[[int, int], None] | None,
        report: Report | None = None,
        step_tokens: int = 0,
    ) -> None:
        """report: called with the lines of the run; a resumed one begins with those before. step_tokens: per step."""
        self.file = folder / METRICS
        self.measure = measure
        self.choice = choice
        self.measured_at = measured_at
        self.progress = progress
        self.report = report
        self.step_tokens = step_tokens
        self.last: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:  # lines of a run without a checkpoint are written anew, that of step 0 too
            drop_lines_after(self.file, state.global_step or -1)
        self.choice.resume(state.global_step, self.file, writes=state.is_world_process_zero)
        if self.report is not None and state.is_world_process_zero and self.file.exists():
            for line in metric_lines(self.file):
                self.report(line)
        if state.global_step == 0:
            self._measure(state, control, kwargs["model"])
        elif state.global_step == state.max_steps and self.measure is not None:
            self.last = self.measure(kwargs["model"], True)  # only the record is missing; the line is written already
        self._logged_step, self._logged_at, self._measuring = state.global_step, time.monotonic(), 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = state.global_step == state.max_steps
        control.should_log = control.should_log or last
        if last or self.measured_at(state.global_step):
            start = time.monotonic()
            self._measure(state, control, kwargs["model"])
            self._measuring += time.monotonic() - start
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
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        tokens = (state.global_step - self._logged_step) * self.step_tokens
        seconds = max(now - self._logged_at - self._measuring, 1e-9)
        self._logged_step, self._logged_at, self._measuring = state.global_step, now, 0.0
        values = {name: logs[name] for name in LOGGED if name in logs}
        self._write(state, values, tokens_per_second=tokens / seconds)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.choice.checkpointed()

    def _measure(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        if self.measure is None:
            return
        last = state.global_step == state.max_steps
        self.last = self.measure(model, last)
        if self.choice.add(state.global_step, self.last, last=last, writes=state.is_world_process_zero):
            self.last = self.measure(model, True)
            control.should_training_stop = control.should_log = True
            control.should_save = False  # a resumed run could not end without another step
        self._write(state, self.last)

    def _write(self, state: TrainerState, values: dict[str, float], **only_reported: float) -> None:
        if state.is_world_process_zero:
            line = {"step": state.global_step} | values
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self.report is not None:
                self.report(line | only_reported)


def _without_unused_logits(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch and its extra batch, limited to logits at labelled positions."""
    if EXTRA in batch:
        batch = batch | {EXTRA: labelled_positions(batch[EXTRA])}
    return labelled_positions(batch)


class StopAtStep(TrainerCallback):
    """On Ctrl-C or SIGTERM, finishes the current step and writes a checkpoint. A second signal stops at once.

    Several processes stop at the same step, also if not all receive the signal. Signals within `ONE_SIGNAL_SECONDS` of
    the first count as one: Ctrl-C reaches a process from the terminal and from the launcher.
    asked: whether a signal has arrived.
    """

    def __init__(self, save_minutes: float | None = None) -> None:
        """save_minutes: also write a checkpoint at the first step after so many minutes without one; None: never."""
        self.asked = False
        self._asked_at = 0.0
        self._save_seconds = math.inf if save_minutes is None else 60 * save_minutes
        self._saved_at = time.monotonic()

    def __enter__(self) -> StopAtStep:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self._asked_at > ONE_SIGNAL_SECONDS:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        due = time.monotonic() - self._saved_at >= self._save_seconds
        if args.world_size > 1:
            flags = torch.tensor([self.asked, due], dtype=torch.int32, device=args.device)
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
            self.asked, due = map(bool, flags.tolist())
        if not control.should_training_stop:  # after the last step the run ends anyway
            control.should_training_stop = self.asked
            control.should_save = control.should_save or self.asked or due

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._saved_at = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_at = time.monotonic()
