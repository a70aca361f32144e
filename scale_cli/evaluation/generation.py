"""Continuations of prompts by several models and routers: a checkpoint's answers, to be read and not measured.

The generation config beside a checkpoint is not used, except its stop tokens: models that stand beside each other are
sampled by the same rules.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from scale_cli.checkpoints.load import Checkpoint, config_of, load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.data.tokens import check_ids
from scale_cli.data.windows import context_of
from scale_cli.evaluation.subject import Subject, Target, load

Message = Mapping[str, str]
"""One message of a conversation: its `role`, "user" or "assistant", and its `content`."""


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a continuation are chosen.

    max_new_tokens: greatest number of tokens; end-of-text ends it earlier.
    temperature: 0 takes the most probable token. top_p: sample among the most probable tokens of this total
        probability. seed: of each continuation, so that none depends on those before it.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"--max-new-tokens {self.max_new_tokens}: at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise RequestError(f"--temperature {self.temperature}: at least 0; 0 takes the most probable token")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"--top-p {self.top_p}: above 0, at most 1")
        if self.top_p < 1 and self.temperature == 0:
            raise RequestError(f"--top-p {self.top_p}: only sampling uses it; add --temperature 1")
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"--seed {self.seed}: 0 to 2^32 - 1")

    def config(self, stops: Sequence[int]) -> GenerationConfig:
        """The library's config. stops: tokens that end a continuation."""
        chosen: dict[str, Any] = {"do_sample": False}
        if self.temperature > 0:
            chosen = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        ends = {"eos_token_id": list(stops), "pad_token_id": stops[0]} if stops else {}
        return GenerationConfig(max_new_tokens=self.max_new_tokens, **chosen, **ends)


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was given, and its tokens for one checkpoint."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Continuation:
    """What a model writes after a prompt.

    label, router, fingerprint: of the target. text: the new text alone. tokens: number of new tokens, end-of-text
        included. ended: whether a stop token ended it.
    weights: before each new token the base's weight under a mixture router, or under a cosine router 1 if the token
        took the preserve branch and 0 if not; None under other routers.
    """

    prompt: str
    label: str
    router: str | None
    fingerprint: str
    text: str
    tokens: int
    ended: bool
    seconds: float
    weights: tuple[float, ...] | None


def find_device(name: str | None) -> torch.device:
    """The device of this name, as in "cuda:1"; None for the accelerator, or the CPU without one.

    Raises RequestError for a device that this machine does not have.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu"]
    if accelerator is not None:
        numbers = range(torch.accelerator.device_count())
        devices += [accelerator.type, *(f"{accelerator.type}:{number}" for number in numbers)]
    if name is None:
        return torch.device("cpu") if accelerator is None else accelerator
    if name not in devices:
        raise RequestError(f"--device {name}: choose {', '.join(devices)}, or leave it out (scale doctor lists GPUs)")
    return torch.device(name)


def prepare(
    described: Sequence[Target], prompts: Sequence[str], sampling: Sampling, *, chat: bool = False
) -> dict[str, list[Prompt]]:
    """The prompts, tokenised, by the source of each target's checkpoint. No weights are loaded.

    chat: each prompt is the first message to an assistant, written by the tokenizer's chat template.
    Raises RequestError for a prompt without tokens, for one that with its continuation is longer than a model's
    context, and under `chat` for a tokenizer without a template.
    """
    if not prompts:
        raise RequestError("no prompt: give --prompt TEXT, or --prompts FILE")
    prepared: dict[str, list[Prompt]] = {}
    for checkpoint in (target.checkpoint for target in described):
        if checkpoint.source in prepared:
            continue
        tokenizer = load_tokenizer(checkpoint)
        row = prepared[checkpoint.source] = []
        for text in prompts:
            if chat:
                ids = chat_ids(tokenizer, [{"role": "user", "content": text}], checkpoint)
            else:
                ids = tokenizer(text)["input_ids"]
            if not ids:
                raise RequestError(f"--prompt {text!r}: it has no token; give at least one word")
            check_ids(max(ids), tokenizer)
            if problem := too_long(ids, sampling, checkpoint):
                raise RequestError(f"{problem}; give a shorter prompt, or fewer --max-new-tokens")
            row.append(Prompt(text, tuple(ids)))
    return prepared


def too_long(ids: Sequence[int], sampling: Sampling, checkpoint: Checkpoint) -> str | None:
    """Why tokens and their continuation do not fit into a model's context; None if they do."""
    most = context_of(config_of(checkpoint))
    if most is None or len(ids) + sampling.max_new_tokens <= most:
        return None
    return (
        f"the prompt has {len(ids):,} tokens, and with --max-new-tokens {sampling.max_new_tokens} that is more than "
        f"the {most:,} that {checkpoint.source} takes"
    )


def chat_ids(tokenizer: Any, messages: Sequence[Message], checkpoint: Checkpoint) -> list[int]:
    """The tokens of a conversation up to the beginning of the assistant's next message.

    The library runs templates in a sandbox. Raises RequestError if there is no template, or if it refuses the messages.
    """
    source = checkpoint.source
    if not tokenizer.chat_template:
        raise RequestError(
            f"{source} has no chat template; continue text with scale generate without --chat, or give a model that "
            "was tuned for conversation"
        )
    from jinja2 import TemplateError

    try:
        written = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        raise RequestError(f"the chat template of {source} fails: {' '.join(str(error).split())}") from error
    ids: list[int] = tokenizer(written, add_special_tokens=False)["input_ids"]
    return ids


def generate(
    described: Sequence[Target],
    prepared: Mapping[str, Sequence[Prompt]],
    sampling: Sampling,
    *,
    device: torch.device,
    begin: Callable[[str], None] = lambda prompt: None,
    write: Callable[[str], None] | None = None,
) -> Iterator[Continuation]:
    """The continuations, all prompts of one target after the other. One checkpoint is loaded at a time.

    prepared: of `prepare` for the same targets. begin: called with each prompt before its continuation.
    write: called with each part of the text as it is written.
    """
    for subject in subjects(described, device=device):
        for prompt in prepared[subject.target.checkpoint.source]:
            begin(prompt.text)
            yield continuation(subject, prompt, sampling, write=write)


def subjects(described: Sequence[Target], *, device: torch.device) -> Iterator[Subject]:
    """The targets' subjects. A checkpoint under several routers is loaded once, and freed before the next is loaded."""
    for _, group in itertools.groupby(described, key=lambda target: target.checkpoint.source):
        same = list(group)
        # With its base if any of the routers needs it.
        wanted = next((target for target in same if target.base is not None), same[0])
        subject = load(wanted, device=device, batch_size=1, seed=0)
        for target in same:
            yield subject.under(target)
        del subject


@torch.no_grad()
def continuation(
    subject: Subject, prompt: Prompt, sampling: Sampling, *, write: Callable[[str], None] | None = None
) -> Continuation:
    """The continuation of one prompt. write: called with each part of the text as it is written."""
    model, tokenizer, target = subject.model, subject.tokenizer, subject.target
    inputs = torch.tensor([prompt.ids], device=subject.device)
    own = model.generation_config
    stops = _stops(own, tokenizer)
    preserved: list[Tensor] = []
    hooks = []
    if subject.has_routed:
        keep = lambda module, arguments, output: preserved.append(output.preserved[0, -1].float())  # noqa: E731
        hooks.append(model.register_forward_hook(keep))
    streamer = None if write is None else _Streamer(tokenizer, write)
    torch.manual_seed(sampling.seed)
    started = time.monotonic()
    model.generation_config = sampling.config(stops)
    try:
        written = model.generate(inputs, attention_mask=torch.ones_like(inputs), streamer=streamer)[0].tolist()
    finally:
        model.generation_config = own
        for hook in hooks:
            hook.remove()
    new = written[len(prompt.ids) :]
    return Continuation(
        prompt.text,
        target.label,
        target.router,
        target.fingerprint,
        new_text(tokenizer, written, len(prompt.ids)),
        len(new),
        new[-1] in stops,
        time.monotonic() - started,
        tuple(round(float(weight), 4) for weight in preserved) if subject.has_routed else None,
    )


def new_text(tokenizer: Any, ids: Sequence[int], length: int) -> str:
    """The text of all tokens but the first `length`, whose space before the first word decoding them alone may lose."""
    whole, before = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, ids[:length]))
    if length and whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.decode(ids[length:], skip_special_tokens=True))


def _stops(config: GenerationConfig, tokenizer: Any) -> list[int]:
    """The tokens that end a text: those of the checkpoint's generation config, and the tokenizer's end-of-text."""
    given = config.eos_token_id
    listed = given if isinstance(given, list) else [given]
    return [int(token) for token in dict.fromkeys([*listed, tokenizer.eos_token_id]) if token is not None]


class _Streamer(BaseStreamer):
    """Writes the new text as it grows, as `new_text` returns it; the library's own streamer loses spaces after a
    newline with tokenizers that strip the first one."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        self._tokenizer, self._write = tokenizer, write
        self._ids: list[int] = []
        self._length = self._written = 0

    def put(self, value: Tensor) -> None:
        """The prompt's tokens at the first call, then each new token."""
        self._ids += value.flatten().tolist()
        if not self._length:
            self._length = len(self._ids)
        elif not (text := self._text()).endswith("\N{REPLACEMENT CHARACTER}"):  # the first bytes of a character
            self._add(text)

    def end(self) -> None:
        self._add(self._text())

    def _text(self) -> str:
        return new_text(self._tokenizer, self._ids, self._length)

    def _add(self, text: str) -> None:
        self._write(text[self._written :])
        self._written = max(self._written, len(text))
