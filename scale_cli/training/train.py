"""One training run: from a checkpoint and a recipe to a run folder."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PrinterCallback, TrainingArguments, set_seed

from scale_cli.checkpoints.card import history, write_card
from scale_cli.checkpoints.companion_files import copy_companions, copy_config
from scale_cli.checkpoints.load import (
    Checkpoint,
    base_fingerprint,
    config_of,
    lineage,
    load_model,
    load_tokenizer,
    load_trained,
    random_model,
    save_pointer,
    save_trained,
    tokenizer_folder,
)
from scale_cli.checkpoints.schemas import RECORD, UPSCALE
from scale_cli.core.errors import RequestError
from scale_cli.core.files import as_a_new_file, new_folder, only_writer, read_json
from scale_cli.core.recipe import save_recipe
from scale_cli.core.records import (
    fingerprint_folder,
    forget_peak_memory,
    peak_memory_bytes,
    read_record,
    sha256_file,
    write_record,
)
from scale_cli.data.beside import Beside
from scale_cli.data.biographies import manifest_digest
from scale_cli.data.corpora import Corpus
from scale_cli.data.examples import Examples, load_examples
from scale_cli.methods import METHODS, ExtraData, Request
from scale_cli.methods.step import halve_frozen, recompute_argument
from scale_cli.results.measurement import Measurement
from scale_cli.training.choice import Choice
from scale_cli.training.guards import check_frozen, check_trains, doubts, frozen_sums, full_disk_as_request_error
from scale_cli.training.measures import corpora_of, measures_of
from scale_cli.training.recipe import TrainRecipe
from scale_cli.training.rehearsal import begin, check_old_texts, load_old_texts, load_rehearsal
from scale_cli.training.request import (
    check_length,
    check_out,
    check_request,
    check_same_inputs,
    default_length,
    eval_folder,
    passing_folders,
)
from scale_cli.training.result import TrainResult, course
from scale_cli.training.resume import RECIPE, damaged_checkpoints, last_checkpoint
from scale_cli.training.sharding import shard, whole
from scale_cli.training.trainer import CARRIED, MetricsWriter, PartTrainer, Report, StopAtStep


def train(
    source: str,
    out: Path,
    recipe: TrainRecipe,
    *,
    resume: bool = False,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    report: Report | None = None,
    reading: Callable[[int], None] | None = None,
    sampling: Callable[..., None] = lambda **tokens: None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train a checkpoint by the recipe and write the run folder `out`.

    source: a model folder, a run folder or a hub id; with `recipe.from_scratch` only its config is used.
    resume: continue from the last whole checkpoint in `out`, written by an interrupted run with the same source and
        recipe. A run that was interrupted before its first checkpoint begins anew.
    revision: branch, tag or commit of a hub id. A resumed run uses the commit that it started with.
    progress: called with (step, steps) after each step.
    report: called with each line of metrics.jsonl, those before a resumed run's beginning included.
    reading: called with the number of tokens of each batch of texts that is tokenised.
    sampling: called with the number of tokens `done` and their `total` while the base samples text for rehearsal.
    say: called with lines about the files of a folder of texts that are not read, the number of steps if it follows
        from the data, and what makes the training doubtful.
    After the run `out` contains recipe.yaml (resolved), metrics.jsonl, record.json, a model card, the tokenizer, and
    either a whole Hugging Face folder (if the method trains every tensor) or the trained tensors with a pointer to the
    base. It can be evaluated and trained again.
    With `recipe.keep_best` the trained tensors are those of the best measured step. With `recipe.stop_when` the run may
    end early; the schedule is that of all steps of the recipe.
    Raises RequestError for contradictory arguments, before anything is written, if the loss becomes NaN or infinite,
    and if no measured step is within `recipe.limit`: then there is no result, checkpoints remain, and the nearest step
    is the checkpoint `out`/best-STEP. Raises KeyboardInterrupt after Ctrl-C, once a checkpoint or, after the last step,
    the result is written.
    """
    checkpoint, recipe = check_request(source, out, recipe, resume=resume, revision=revision)
    arguments = training_arguments(recipe, out)  # joins the group of processes, if there are several
    PartialState().wait_for_everyone()  # no process writes before all have checked the request
    with only_writer(out) if arguments.process_index == 0 else nullcontext(), full_disk_as_request_error(out):
        check_out(out, recipe, checkpoint, resume=resume)  # again: another process may have written in between
        if resume and (out / RECORD).is_file():  # killed between record and end
            return _finished(checkpoint, recipe, out)
        shown: dict[str, Any] = {"progress": progress, "report": report, "reading": reading}
        shown |= {"sampling": sampling, "say": say}
        return _train(checkpoint, out, recipe, arguments, resume=resume, **shown)


def _train(
    checkpoint: Checkpoint,
    out: Path,
    recipe: TrainRecipe,
    arguments: TrainingArguments,
    *,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    report: Report | None,
    reading: Callable[[int], None] | None,
    sampling: Callable[..., None],
    say: Callable[[str], None],
) -> TrainResult:
    """The run of a request that has been checked, in a folder that this process holds."""
    method = METHODS[recipe.method]
    resume_from = _resume_from(out, arguments, say) if resume else None
    processes = _started_in(resume_from, recipe, arguments)
    corpora = corpora_of(recipe, say)
    forget_peak_memory()
    set_seed(recipe.seed)
    tokenizer = load_tokenizer(checkpoint)
    examples = load_examples(recipe, tokenizer, processes=processes, progress=reading, say=say)
    check_length(examples.length, checkpoint)  # by default that of the longest question
    rows = recipe.batch_size * recipe.gradient_accumulation_steps * processes
    recipe, asked = _counted(recipe, len(examples) // rows, rows * examples.length, say), recipe.amount
    arguments.max_steps, arguments.warmup_steps = recipe.steps, recipe.warmup or 0
    if resume and asked:
        check_out(out, recipe, checkpoint, resume=True)  # again: now the steps are known
    check_old_texts(recipe, checkpoint, tokenizer)
    base = base_fingerprint(checkpoint, from_scratch=recipe.from_scratch)
    if resume_from is not None:
        check_same_inputs(resume_from, out, checkpoint, base, examples)
    measures = measures_of(recipe, tokenizer, corpora, recipe.seq_length or default_length(checkpoint))
    model = random_model(checkpoint) if recipe.from_scratch else load_model(checkpoint, dtype=torch.float32)
    model = method.apply(model, recipe.options, checkpoint.new_layers)
    extra = method.extra_data(Request(recipe, recipe.options, tokenizer, model, processes, reading))
    if arguments.bf16:
        halve_frozen(model)
    rehearsal, old_texts, old = None, None, method.old_texts(recipe.options)
    shown: dict[str, Any] = {"identity": base, "reading": reading, "sampling": sampling}
    if recipe.rehearse is not None:
        if extra is not None:
            raise RequestError(f"--rehearse: --method {recipe.method} has extra data of its own; leave one out")
        rehearsal = load_rehearsal(recipe, checkpoint, tokenizer, model, arguments, processes=processes, **shown)
        extra = ExtraData(rehearsal.examples, rehearsal.rows)
    if old is not None:
        shown["sampled"] = old.count
        old_texts = load_old_texts(old, recipe, checkpoint, tokenizer, model, arguments, **shown)

    check_trains(model, examples, given=checkpoint.source, bfloat16=arguments.bf16)
    for line in doubts(recipe, examples, corpora, tokenizer) if arguments.process_index == 0 else ():
        say(f"warning: {line}")
    frozen = frozen_sums(model)
    if recipe.shard:
        shard(model, arguments.device, arguments.world_size, bfloat16=arguments.bf16)
    if arguments.process_index == 0:
        out.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, out / RECIPE)
    metrics: list[Measurement] = []

    def measure(model: Any, last: bool) -> dict[str, float]:
        metrics[:] = [metric for measured in measures for metric in measured(model, last)]
        return {metric.name: metric.value for metric in metrics}

    def point_to_base(folder: Path) -> None:
        save_pointer(
            checkpoint,
            folder,
            recipe.method,
            recipe.options,
            pin=base,
            from_scratch=recipe.from_scratch,
            data=list(examples.fingerprints.values()),
        )

    def save_best(folder: Path) -> None:
        tensors = whole(method.stored(model), keep=arguments.process_index == 0)
        if arguments.process_index == 0:
            with new_folder(folder) as new:
                save_trained(tensors, new)
                point_to_base(new)

    choice = Choice(recipe.rules(), out, save=save_best)
    lines: dict[str, Any] = {"report": report, "step_tokens": rows * examples.length}
    writer = MetricsWriter(out, measure if measures else None, choice, recipe.measured_at, progress, **lines)
    with StopAtStep(recipe.save_minutes) as stop:
        trainer = PartTrainer(
            model=model,
            args=arguments,
            train_dataset=_beside(examples, extra, recipe),
            callbacks=[writer, stop],
            describe=point_to_base,
            method=method,
            options=recipe.options,
            rehearsal=rehearsal,
            sharded=recipe.shard,
        )
        trainer.remove_callback(PrinterCallback)
        if old_texts is not None and resume_from is None:
            begin(method, model, old_texts, arguments)
        trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
        steps = trainer.state.global_step
        if steps < recipe.steps and choice.ended_by is None:
            raise KeyboardInterrupt
        kept_step, kept_folder = choice.kept(steps)
        if kept_folder is not None:
            load_trained(method.stored(model), kept_folder)
            writer.last = measure(model, True)
            trainer.accelerator.wait_for_everyone()  # before the first process removes the folder
        trainer.check_finite()
        check_frozen(model, frozen)
        examples = examples.first(len(examples) * steps // recipe.steps)
        result = TrainResult(
            out=out,
            steps=steps,
            kept_step=kept_step,
            ended_by=choice.ended_by,
            tokens=len(examples) * examples.length,
            predicted_tokens=examples.predicted_tokens,
            extra_tokens=0 if extra is None else _batches(examples, recipe) * extra.rows * extra.examples.length,
            seconds=trainer.seconds,
            trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            total_parameters=sum(p.numel() for p in model.parameters()),
            metrics=writer.last,
            epochs=examples.epochs,
            **course(out, recipe, model.config),
        )
        stored = model.state_dict(keep_vars=True) if method.trains_all else method.stored(model)
        tensors = whole(stored, keep=trainer.is_world_process_zero())
        if trainer.is_world_process_zero():
            _save_result(model, tensors, checkpoint, recipe, out, base)
            beside = (None if extra is None else extra.examples, old_texts)
            read = [examples, *(each for each in beside if each is not None)]
            _write_record(checkpoint, recipe, result, metrics, read, corpora)  # with it a run is complete
            _finish(checkpoint, recipe, out)
        if stop.asked:
            raise KeyboardInterrupt
    return result


def _resume_from(out: Path, arguments: TrainingArguments, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint, None to begin anew. Damaged ones after it are named and removed: the run writes them
    again."""
    last, damaged = last_checkpoint(out), damaged_checkpoints(out)
    PartialState().wait_for_everyone()  # before the first process changes the folder
    for checkpoint, file in damaged.items() if arguments.process_index == 0 else ():
        say(f"{checkpoint} is damaged in {file}; resuming from {last or 'the beginning'}")
        shutil.rmtree(checkpoint)
    return last


def _started_in(resume_from: Path | None, recipe: TrainRecipe, arguments: TrainingArguments) -> int:
    """The number of processes in which the run began, which determines the sequences of a step.

    Another number of processes now takes as many sequences per step, in more or fewer forward passes. Raises
    RequestError if they cannot be shared out.
    """
    batches = recipe.gradient_accumulation_steps * arguments.world_size
    if resume_from is not None:
        carried = read_json(resume_from / CARRIED)
        # Checkpoints of earlier versions hold the number of processes, or neither.
        earlier = recipe.gradient_accumulation_steps * carried.get("processes", arguments.world_size)
        batches = carried.get("batches", earlier)
    passes, left = divmod(batches, arguments.world_size)
    if left:
        raise RequestError(
            f"--resume: a step of this run has {batches} batches of {recipe.batch_size}, which {arguments.world_size} "
            f"processes cannot share evenly; start a number of processes that divides {batches}"
        )
    arguments.gradient_accumulation_steps = passes
    return batches // recipe.gradient_accumulation_steps


def _counted(recipe: TrainRecipe, steps: int, step_tokens: int, say: Callable[[str], None]) -> TrainRecipe:
    """The recipe with the number of steps that follows from the data."""
    if recipe.amount:
        say(f"{recipe.amount}: {steps:,} steps of {step_tokens:,} tokens, {steps * step_tokens:,} tokens")
    return recipe.with_steps(steps)


def _batches(examples: Examples, recipe: TrainRecipe) -> int:
    """The number of batches of the whole run, in all processes together."""
    return len(examples) // recipe.batch_size


def _beside(examples: Examples, extra: ExtraData | None, recipe: TrainRecipe) -> Examples | Beside:
    """The trainer's dataset: the examples, with a batch of the method's extra data in each batch if it has any."""
    if extra is None:
        return examples
    return Beside(examples, extra.examples, batch_size=recipe.batch_size, rows=extra.rows)


def training_arguments(recipe: TrainRecipe, out: Path) -> TrainingArguments:
    """The recipe as the library's `TrainingArguments`."""
    schedules: dict[str, tuple[str, dict[str, float]]] = {
        "cosine": ("cosine_with_min_lr", {"min_lr_rate": recipe.min_lr_rate}),
        "linear": ("linear", {}),
        "constant": ("constant_with_warmup", {}),
    }
    schedule, schedule_options = schedules[recipe.schedule]
    return TrainingArguments(
        output_dir=str(out),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=schedule_options,
        warmup_steps=recipe.warmup or 0,
        weight_decay=recipe.weight_decay,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bfloat16",
        use_cpu=not torch.accelerator.is_available(),  # needed for bfloat16 and for several processes on a CPU
        **recompute_argument(recipe.gradient_checkpointing),
        seed=recipe.seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no" if recipe.save_steps is None else "steps",
        save_steps=recipe.save_steps or recipe.steps,
        save_total_limit=recipe.keep,
        disable_tqdm=True,
        log_level="error",
        report_to=list(recipe.report_to) or "none",
    )


def _eval_bios(recipe: TrainRecipe) -> list[str]:
    """The folder of the questions that are measured during training; an empty list if there are none."""
    return [str(eval_folder(recipe))] if recipe.eval_people else []


def _save_result(
    model: Any, tensors: dict[str, Tensor], checkpoint: Checkpoint, recipe: TrainRecipe, out: Path, base: str
) -> None:
    """Write the trained weights, `tensors`, and the files beside them. base: the fingerprint of the base."""
    if METHODS[recipe.method].trains_all:
        root = checkpoint.chain[0].folder
        model.save_pretrained(out, state_dict=tensors)
        for file in out.glob("*.safetensors"):
            as_a_new_file(file)
        # The library has written a config with changes of its own: in training the cache is off, for example.
        copy_config(root / "config.json", out, dtype=str(model.dtype).removeprefix("torch."))
        if checkpoint.kind == "depth":
            shutil.copy(root / UPSCALE, out)
    else:
        save_trained(tensors, out)
        save_pointer(checkpoint, out, recipe.method, recipe.options, pin=base)
    copy_companions(tokenizer_folder(checkpoint), out)


def _write_record(
    checkpoint: Checkpoint,
    recipe: TrainRecipe,
    result: TrainResult,
    metrics: list[Measurement],
    read: Sequence[Examples],
    corpora: Sequence[Corpus],
) -> None:
    """Write record.json. read: the examples of the training data, of the extra data and of old texts."""
    folder = Path(checkpoint.source)
    has_weights = folder.is_dir() and any(folder.glob("*.safetensors"))
    write_record(
        result.out / RECORD,
        command="train",
        recipe=recipe,
        base={
            "source": checkpoint.source,
            "revision": checkpoint.revision,
            "fingerprint": fingerprint_folder(folder) if has_weights else None,
        },
        data={source: _data_fingerprint(Path(source)) for source in _eval_bios(recipe)}
        | {source: digest for examples in read for source, digest in examples.fingerprints.items()},
        data_bytes={source: size for examples in read for source, size in examples.sizes.items()},
        empty_texts=sum(examples.empty_texts for examples in read),
        eval_text={
            corpus.name: {"source": corpus.source, "documents": len(corpus.documents), "sha256": corpus.sha256}
            for corpus in corpora
        },
        steps=result.steps,
        kept_step=result.kept_step,
        ended_by=result.ended_by,
        tokens=result.tokens,
        predicted_tokens=result.predicted_tokens,
        extra_tokens=result.extra_tokens,
        seconds=result.seconds,
        epochs=result.epochs,
        peak_memory_bytes=peak_memory_bytes(),
        trained_parameters=result.trained_parameters,
        total_parameters=result.total_parameters,
        before=result.before,
        metrics=[metric.as_metric() for metric in metrics],
    )


def _write_card(checkpoint: Checkpoint, recipe: TrainRecipe, out: Path) -> None:
    source, steps = lineage(checkpoint)
    write_card(
        out,
        name=out.resolve().name,
        form=checkpoint.kind,
        source=source,
        steps=[*steps, history(out)[-1]],  # only the training: `steps` already has the earlier steps of `out`
        whole=METHODS[recipe.method].trains_all,
    )


def _finish(checkpoint: Checkpoint, recipe: TrainRecipe, out: Path) -> None:
    """Write the card of a run that has its record, and remove the folders that only a resumed run needs."""
    _write_card(checkpoint, recipe, out)
    for folder in passing_folders(out):
        shutil.rmtree(folder)


def _finished(checkpoint: Checkpoint, recipe: TrainRecipe, out: Path) -> TrainResult:
    """Finish a run that was killed after its record, and return the result in the record."""
    if PartialState().is_main_process:
        _finish(checkpoint, recipe, out)
    record = {"epochs": {}} | read_record(out / RECORD)  # records of earlier versions do not hold them
    metrics = {metric.name: metric.value for metric in map(Measurement.read, record["metrics"])}
    followed = course(out, recipe, config_of(checkpoint))
    names = {field.name for field in dataclasses.fields(TrainResult)} - {"out", "metrics", *followed}
    return TrainResult(out=out, metrics=metrics, **followed, **{name: record[name] for name in names})


def _data_fingerprint(source: Path) -> str:
    """The sha256 of a file, or of a gen-bios folder's manifest, which contains the sha256 of its files."""
    return manifest_digest(source) if source.is_dir() else sha256_file(source)
