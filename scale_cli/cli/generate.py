"""`scale generate`: what checkpoints write after prompts, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import AsJson, Stream, progress, say
from scale_cli.core.errors import RequestError, printable
from scale_cli.core.files import to_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from scale_cli.evaluation.generation import Continuation

Base = Annotated[
    str | None,
    typer.Option(help="--router: the base of a checkpoint that is not widened.  [the one it was trained from]"),
]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens of each continuation; end-of-text ends it earlier.")]
Temperature = Annotated[
    float, typer.Option(help="Sample the tokens with this temperature; 0: greedy, always the most probable token.")
]
TopP = Annotated[float, typer.Option(help="Sample among the most probable tokens that have this probability together.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampling of each continuation.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1 and the like; auto: the GPU if there is one.", metavar="<device>")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Dtype of the weights; auto: bfloat16 on a GPU, the stored dtype on a CPU."),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub ids.")]


def generate(
    models: Annotated[
        list[str],
        typer.Argument(help="Model folders, run folders or hub ids; LABEL=MODEL sets a label.", show_default=False),
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; may be repeated.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="More prompts: each line of a .txt file, the text of each row of a .jsonl, .csv or .parquet file "
            "(FILE:FIELD for another field); -: each line of standard input.",
            metavar="FILE|-",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Each prompt is a message, written by the tokenizer's chat template."),
    ] = False,
    router: Annotated[
        list[str] | None,
        typer.Option(
            help="Predict with this router, as in scale eval: none, cosine:TAU, mixture:SHARE[:PRIOR], "
            "interpolate:WEIGHT, weights:SHARE; may be repeated.  [the checkpoint's own]"
        ),
    ] = None,
    base: Base = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the result as JSON; an existing file is replaced.  [only printed]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with models and routers side by side.

    On a terminal, one model under one router writes as it generates. The generation settings that a checkpoint brings
    along are not used, so models are compared by the same ones.
    """
    from scale_cli.data.prompts import read_prompts
    from scale_cli.evaluation.generation import Sampling, find_device, prepare
    from scale_cli.evaluation.generation import generate as run
    from scale_cli.evaluation.subject import targets

    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    routers = list(dict.fromkeys(router or ()))
    if base is not None and not routers:
        raise RequestError(f"--base {base}: only --router needs a base; add --router mixture:1")
    given = [*(prompt or ()), *(read_prompts(prompts) if prompts is not None else ())]
    quiet_libraries()
    where = find_device(None if device == "auto" else device)
    described = targets(
        models,
        routers=routers,
        base=base,
        revision=revision,
        dtype=None if dtype == "auto" else dtype,
        device=where,
    )
    prepared = prepare(described, given, sampling, chat=chat)
    if out is not None and not (out.absolute().parent.is_dir() and not out.is_dir()):
        raise RequestError(f"--out {out}: not a file in an existing folder; choose another")

    if len(described) == 1 and not as_json and (sys.stdout.isatty() or len(given) == 1):
        stream = Stream()

        def begin(text: str) -> None:
            if sys.stdout.isatty():
                stream(text, style="bold")
                (stream.end if chat else stream.flush)(style="bold")

        results = []
        for result in run(described, prepared, sampling, device=where, begin=begin, write=stream):
            results.append(result)
            stream.end()
            if sys.stdout.isatty():
                say(f"\n{summary(result)}" + "\n" * (len(results) < len(given)))
    else:
        label = "continuations" if len(described) > 1 else described[0].label
        with progress(label, len(described) * len(given)) as advance:
            results = []
            for result in run(described, prepared, sampling, device=where):
                results.append(result)
                advance()
        _print(given, results, as_json=as_json)
    if out is not None:
        try:
            write_text(out, to_json(results) + "\n")
        except OSError as error:
            raise RequestError(f"--out {out} cannot be written: {error.strerror}; choose another file") from error
        say(f"{len(results)} continuations written to {out}")


def _print(prompts: Sequence[str], results: Sequence[Continuation], *, as_json: bool) -> None:
    """The continuations of each prompt by all models: a table on a terminal, else one line per continuation."""
    if as_json:
        print(to_json(results))
        return
    for number, prompt in enumerate(prompts):
        same = results[number :: len(prompts)]
        if sys.stdout.isatty():
            from rich.console import Console

            Console(markup=False, emoji=False, highlight=False).print(table(prompt, same))
        else:
            print(f"prompt: {_one_line(prompt)}")
            for result in same:
                print(f"{result.label}: {_one_line(result.text)}")


def table(prompt: str, results: Sequence[Continuation]) -> Table:
    """A table of one prompt's continuations, the prompt as its title."""
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(printable(prompt), "bold"), title_justify="left", show_header=False, show_lines=True, expand=True
    )
    made.add_column(max_width=32, overflow="fold")
    made.add_column(ratio=1, overflow="fold")
    for result in results:
        name = Text.assemble((result.label, "bold"), "\n", ("\n".join(facts(result)), "dim"))
        text = result.text.strip()
        if not result.ended:  # in the middle of a character, perhaps
            text = text.rstrip("\N{REPLACEMENT CHARACTER} ") + " ..."
        made.add_row(name, Text(printable(text)))
    return made


def facts(result: Continuation) -> list[str]:
    """Length and speed of a continuation, and the base's weight at its first and last token under a mixture."""
    lines = [f"{result.tokens} tokens, {result.tokens / max(result.seconds, 1e-9):,.1f}/s"]
    if result.weights:
        lines.append(f"base {result.weights[0]:.3f} to {result.weights[-1]:.3f}")
    return lines


def summary(result: Continuation) -> str:
    """The facts in one line, and what ended the continuation."""
    end = "ended by the model" if result.ended else "cut off by --max-new-tokens"
    return f"({'; '.join([*facts(result), end])})"


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
