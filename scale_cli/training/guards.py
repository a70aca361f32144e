"""Checks around a training run: a finite base, something to train, what makes it doubtful, frozen tensors that stay, a
disk with room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from scale_cli.core.errors import RequestError
from scale_cli.data.corpora import Corpus
from scale_cli.data.doubts import also_trained, repeated_often
from scale_cli.data.examples import Examples, PackedTexts, begin_of_text, end_of_text
from scale_cli.data.tokens import tokenise
from scale_cli.data.windows import context_of
from scale_cli.training.recipe import TrainRecipe
from scale_cli.training.sharding import whole_tensor

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers with as many bytes as a tensor's element."""
PROBED = 32
"""Tokens on which a model is tried before training; attention on a few may hide NaN on a CPU."""


def check_trains(model: Any, examples: Examples, *, given: str, bfloat16: bool) -> None:
    """Raise RequestError if a run would train nothing, or from a model that is not finite or computes nothing finite.

    given: the checkpoint in messages. bfloat16: whether training computes in it. Reads every parameter once.
    """
    for name, parameter in model.named_parameters():
        if parameter.numel() and not torch.stack(torch.aminmax(parameter.detach())).isfinite().all():
            raise RequestError(f"{given}: {name} holds NaN or infinite values; fetch the checkpoint again")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError(f"{given}: the method has nothing to train in it; choose another method or checkpoint")
    if not examples.predicts:
        raise RequestError("--data: no token of it is predicted, so nothing can be learnt; give longer texts")
    was_training, device = model.training, next(model.parameters()).device
    length = min(PROBED, context_of(model.config) or PROBED)
    tokens = torch.arange(length, device=device)[None] % model.config.vocab_size
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=tokens, use_cache=False).logits
    model.train(was_training)
    if not logits.isfinite().all():
        raise RequestError(f"{given}: its logits are NaN or infinite; compare its config.json with the original")


def doubts(recipe: TrainRecipe, examples: Examples, corpora: Sequence[Corpus], tokenizer: Any) -> Iterator[str]:
    """What makes a training or its measurements doubtful, a line each. recipe: resolved, with its steps."""
    if recipe.precision == "bfloat16" and not torch.accelerator.is_available() and not cpu_bfloat16():
        yield "--precision bfloat16: this processor has no bfloat16 instructions; float32 is faster"
    if not isinstance(examples, PackedTexts):
        return
    for source, epochs in examples.epochs.items():
        if line := repeated_often(f"--data {source}", epochs):
            yield line
    begin = [begin_of_text(tokenizer)] if recipe.bos else []
    for corpus in corpora:
        ids = tokenise(corpus.documents, tokenizer)
        shared = examples.shared([[*begin, *document, end_of_text(tokenizer)] for document in ids])
        if shared:
            counts = {"shared": shared, "documents": len(corpus.documents)}
            yield also_trained(f"--eval-text {corpus.name}", **counts, trained="--data")


def cpu_bfloat16(capabilities: Mapping[str, Any] | None = None) -> str | None:
    """The processor's instructions for products in bfloat16, None if it has none: bfloat16 is then the slower one.

    capabilities: by name; None for this processor's.
    """
    if capabilities is None:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # missing in torch 2.8
    return next((name for name in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(name)), None)


def frozen_sums(model: Any) -> dict[str, Tensor]:
    """For each frozen parameter the sum of its elements' bits as integers, on the parameter's device.

    Any change of a single element changes the sum. It is exact, so it depends on no order of summation.
    """
    frozen = ((name, p.detach()) for name, p in model.named_parameters() if not p.requires_grad)
    return {
        name: whole_tensor(p).contiguous().view(BITS[p.element_size()]).sum(dtype=torch.int64) for name, p in frozen
    }


def check_frozen(model: Any, sums: dict[str, Tensor]) -> None:
    """Raise RuntimeError if a frozen parameter has changed since `frozen_sums`; that is a fault of this package."""
    now = frozen_sums(model)
    if changed := [name for name, total in sums.items() if not torch.equal(now[name].cpu(), total.cpu())]:
        raise RuntimeError(f"training changed {len(changed)} frozen tensors, among them {changed[0]}; please report it")


@contextmanager
def full_disk_as_request_error(out: Path) -> Iterator[None]:
    """Turn the errors by which the system, torch and safetensors report a full disk into a RequestError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        signs = ("os error 28", "os error 122", "inline_container", "PytorchStreamWriter")
        if getattr(error, "errno", None) in (ENOSPC, EDQUOT) or any(sign in str(error) for sign in signs):
            raise RequestError(f"{out}: the disk is full; make room, and continue with --resume") from error
        raise
