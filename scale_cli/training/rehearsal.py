"""Rehearsal: beside every batch of training data some old text, on which the model is kept close to its base.

The old text is data of the user's, or sampled from the base itself (arXiv 2505.13811, 2605.26097). The loss on it is
KL(base || model), or the cross-entropy of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig, TrainingArguments

from scale_cli.checkpoints.load import config_of
from scale_cli.core.errors import RequestError
from scale_cli.core.files import default_cache
from scale_cli.core.records import digest
from scale_cli.data.examples import IGNORED, Examples, RowExamples, load_examples
from scale_cli.data.options import DataOptions
from scale_cli.data.sources import FileSource, find_source, split_weight
from scale_cli.data.windows import CHUNK_POSITIONS, context_of
from scale_cli.evaluation.bios import own_generation
from scale_cli.methods import METHODS, Method, OldTexts
from scale_cli.methods.step import halve_frozen
from scale_cli.methods.teacher import Teacher
from scale_cli.training.recipe import SELF, TrainRecipe

SHARE = 0.25
"""The default number of rehearsed sequences per sequence of training data."""
SHORT_LENGTH = 128
"""Tokens per rehearsed text beside questions, which are shorter than texts."""
SAMPLED_ROWS = 64
"""Sequences that are sampled at once."""


@dataclass(frozen=True)
class Rehearsal:
    """The old text of a training run and its loss.

    examples: in their order. rows: number per batch of training data. teacher: None for the cross-entropy.
    weight: of the loss beside that of the training data.
    """

    examples: Examples
    rows: int
    weight: float
    teacher: Teacher | None

    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a batch per predicted token, (), without the weight.

        model: perhaps wrapped for several processes. batch: `input_ids` and `labels`, (B, T), and other inputs; as
        `labelled_positions` returns it.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "shift_labels")}
        targets = batch.get("shift_labels")
        if targets is None:
            targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        kept = targets != IGNORED
        if self.teacher is None:
            logits = model(**inputs, use_cache=False).logits[kept]
            return functional.cross_entropy(logits.float(), targets[kept])
        logits, base = self.teacher.both(model, inputs)
        return mean_divergence(base[kept], logits[kept])


def mean_divergence(base: Tensor, logits: Tensor) -> Tensor:
    """The mean of KL(base || model) in nats, (), from logits (n, vocabulary). The gradient is that of `logits`."""

    def total(base: Tensor, logits: Tensor) -> Tensor:
        p, q = (t.float().log_softmax(-1) for t in (base, logits))
        return functional.kl_div(q, p, reduction="sum", log_target=True)

    chunks = zip(base.split(CHUNK_POSITIONS), logits.split(CHUNK_POSITIONS), strict=True)
    parts = [checkpoint(total, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.stack(parts).sum() / len(base)


def check_old_texts(recipe: TrainRecipe, source: Any, tokenizer: Any) -> None:
    """Raise RequestError if old text does not exist, or if the base cannot begin a text of its own.

    The old text is that of rehearsal, and that of the method. source: the described checkpoint.
    """
    for old in (_rehearsed(recipe, 1), METHODS[recipe.method].old_texts(recipe.options)):
        if old is None:
            continue
        if old.source != SELF:
            _options(old, recipe, source)
        elif lead_of(tokenizer) is None:
            raise RequestError(
                f"{old.option} {SELF}: the checkpoint's tokenizer has neither a begin-of-text nor an end-of-text token "
                "to begin a text with; give a SOURCE of old texts"
            )


def lead_of(tokenizer: Any) -> int | None:
    """The token from which the base samples: begin-of-text, or else end-of-text."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    lead: int | None = end if begin is None else begin
    return lead


def rehearsed_rows(recipe: TrainRecipe) -> int:
    """The number of rehearsed sequences per batch of training data."""
    _, share = split_weight(recipe.rehearse or "")
    return max(1, round(recipe.batch_size * (SHARE if share is None else share)))


def load_rehearsal(
    recipe: TrainRecipe,
    source: Any,
    tokenizer: Any,
    model: Any,
    arguments: TrainingArguments,
    *,
    processes: int,
    **shown: Any,
) -> Rehearsal:
    """The rehearsal of a recipe with `rehearse`.

    source: the described checkpoint. model: as `Method.apply` returned it, before the first step.
    processes: in which the run began. shown: as in `load_old_texts`.
    """
    old = _rehearsed(recipe, processes)
    assert old is not None
    teacher = METHODS[recipe.method].teacher(model, source.new_layers)
    if teacher.is_copy:
        teacher.model.to(arguments.device)
        if arguments.bf16:
            halve_frozen(teacher.model)
    sampled = max(1, round(recipe.rehearse_tokens / _length(recipe, source)))
    examples = load_old_texts(old, recipe, source, tokenizer, teacher.model, arguments, sampled=sampled, **shown)
    kept = teacher if recipe.rehearse_loss == "kl" else None
    return Rehearsal(examples, rehearsed_rows(recipe), recipe.rehearsal_weight, kept)


def load_old_texts(
    old: OldTexts,
    recipe: TrainRecipe,
    source: Any,
    tokenizer: Any,
    base: Any,
    arguments: TrainingArguments,
    *,
    sampled: int,
    identity: str,
    reading: Callable[[int], None] | None,
    sampling: Callable[..., None],
) -> Examples:
    """Old texts as examples, `old.count` of them.

    source: the described checkpoint. base: a causal LM with the base's predictions.
    sampled: number of texts that the base samples; they are repeated to make `old.count`.
    identity: fingerprint of the base, which determines the texts that it samples.
    reading: called with the number of tokens of each batch of texts that is tokenised. sampling: called with the number
        of tokens `done` and their `total` while the base samples.
    """
    if old.source != SELF:
        return load_examples(_options(old, recipe, source), tokenizer, progress=reading)
    length = _length(recipe, source)
    lead = lead_of(tokenizer)
    assert lead is not None
    folder = recipe.tokens_cache or default_cache() / "tokens"
    key = digest({"base": identity, "lead": lead, "length": length, "count": sampled, "seed": recipe.seed})
    with PartialState().main_process_first():
        texts = _sampled(
            base,
            folder / f"self-{key[:32]}.npy",
            lead=lead,
            size=(sampled, length),
            seed=recipe.seed,
            device=arguments.device,
            bfloat16=arguments.bf16,
            sampling=sampling,
        )
    examples = RowExamples(texts, old.count, recipe.seed)
    examples.fingerprints = {SELF: key}
    return examples


def _rehearsed(recipe: TrainRecipe, processes: int) -> OldTexts | None:
    """The old texts that the recipe rehearses, over all processes; None without rehearsal."""
    if recipe.rehearse is None:
        return None
    name, _ = split_weight(recipe.rehearse)
    batches = recipe.steps * recipe.gradient_accumulation_steps * processes
    return OldTexts("--rehearse", name, recipe.rehearse_people, batches * rehearsed_rows(recipe))


def _length(recipe: TrainRecipe, source: Any) -> int:
    """Tokens per old text: those of the training data, or beside questions a short text."""
    context = context_of(config_of(source)) or SHORT_LENGTH
    return recipe.seq_length if recipe.objective == "lm" and recipe.seq_length else min(SHORT_LENGTH, context)


def _options(old: OldTexts, recipe: TrainRecipe, source: Any) -> DataOptions:
    """The options of the old texts: questions on people beside questions, else texts. RequestError as for `--data`."""
    found = find_source(f"{old.option} {old.source}", old.source)
    asks = recipe.objective == "qa" and isinstance(found, FileSource) and found.is_bios
    try:
        return DataOptions(
            data=(old.source,),
            objective="qa" if asks else "lm",
            people=old.people,
            packing=recipe.packing,
            bos=recipe.bos and not asks,
            tokens_cache=recipe.tokens_cache,
            steps=old.count,
            batch_size=1,
            seq_length=None if asks else _length(recipe, source),
            seed=recipe.seed,
        )
    except ValueError as error:
        raise RequestError(f"{old.option} {old.source}: {error}") from error


def begin(method: Method, model: Any, texts: Examples, arguments: TrainingArguments) -> None:
    """Let the method read its old texts before the first step. model: on its device, not wrapped."""
    device = arguments.device
    batches = (
        {name: tensor.to(device) for name, tensor in texts.__getitems__([index]).items()} for index in range(len(texts))
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
        method.begin(model, batches)


def _sampled(model: Any, file: Path, **options: Any) -> np.ndarray:
    """The texts of `sampled_texts`, kept in a file of the cache."""
    if file.is_file():
        return np.asarray(np.load(file))
    texts = sampled_texts(model, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{PartialState().process_index}.partial")
    with partial.open("wb") as stream:
        np.save(stream, texts)
    partial.replace(file)
    return texts


def sampled_texts(
    model: Any,
    *,
    lead: int,
    size: tuple[int, int],
    seed: int,
    device: torch.device,
    bfloat16: bool,
    sampling: Callable[..., None],
) -> np.ndarray:
    """Texts that the model samples after the token `lead`, int32 of this size (rows, length).

    sampling: called with the number of tokens `done` and their `total`.
    """
    rows, length = size
    model.to(device)
    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=length - 1, pad_token_id=lead)
    batches: list[np.ndarray] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), own_generation(model, config):
        torch.manual_seed(seed)
        was_training = model.training
        model.eval()
        for start in range(0, rows, SAMPLED_ROWS):
            begun = torch.full((min(SAMPLED_ROWS, rows - start), 1), lead, device=device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                texts = model.generate(input_ids=begun, attention_mask=torch.ones_like(begun))
            batches.append(texts.cpu().numpy().astype(np.int32))
            sampling(done=(start + len(begun)) * length, total=rows * length)
        model.train(was_training)
    return np.concatenate(batches)
