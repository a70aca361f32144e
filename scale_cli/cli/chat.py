"""`scale chat`: a conversation with a checkpoint."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.generate import Base, Device, Dtype, MaxNewTokens, Revision, Seed, Temperature, TopP, summary
from scale_cli.cli.output import Stream, say
from scale_cli.core.errors import RequestError

EXIT, RESET = "/exit", "/reset"


def chat(
    model: Annotated[str, typer.Argument(help="Model folder, run folder or hub id.")],
    router: Annotated[
        str | None, typer.Option(help="Predict with this router, as in scale eval.  [the checkpoint's own]")
    ] = None,
    base: Base = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
) -> None:
    """Talk to a model that has a chat template.

    /reset forgets the conversation. /exit, Ctrl-D and Ctrl-C end it. Messages may also come from a pipe, one per line.
    """
    from scale_cli.checkpoints.load import load_tokenizer
    from scale_cli.evaluation.generation import (
        Message,
        Prompt,
        Sampling,
        chat_ids,
        continuation,
        find_device,
        subjects,
        too_long,
    )
    from scale_cli.evaluation.subject import targets

    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    if base is not None and router is None:
        raise RequestError(f"--base {base}: only --router needs a base; add --router mixture:1")
    quiet_libraries()
    where = find_device(None if device == "auto" else device)
    chosen: dict[str, Any] = {"routers": [] if router is None else [router], "base": base, "revision": revision}
    (target,) = targets([model], dtype=None if dtype == "auto" else dtype, device=where, **chosen)
    checkpoint = target.checkpoint
    chat_ids(load_tokenizer(checkpoint), [{"role": "user", "content": "Hello."}], checkpoint)  # before it is loaded
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        (subject,) = subjects([target], device=where)
        say(f"{target.label}: {RESET} forgets the conversation, {EXIT} or Ctrl-D ends it")
        conversation: list[Message] = []
        stream = Stream()
        while (text := _ask().strip()) != EXIT:
            if text == RESET:
                conversation = []
                say("forgotten")
            elif text:
                asked: list[Message] = [*conversation, {"role": "user", "content": text}]
                ids = chat_ids(subject.tokenizer, asked, checkpoint)
                if problem := too_long(ids, sampling, checkpoint):
                    say(f"{problem}; the message is left out: {RESET} begins a new conversation")
                    continue
                answer = continuation(subject, Prompt(text, tuple(ids)), sampling, write=stream)
                stream.end()
                if sys.stdout.isatty():
                    say(f"{summary(answer)}\n")
                conversation = [*asked, {"role": "assistant", "content": answer.text.strip()}]
        return
    if sys.stdin.isatty():
        print()


def _ask() -> str:
    """The next message. Raises EOFError at the end of the input."""
    if not sys.stdin.isatty():
        return input()
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (lets `input` edit the line and recall earlier ones)
    return input("> ")
