"""`scale generate` and `scale chat` print what models write, on a terminal as it is written."""

from __future__ import annotations

import copy
import io
import json
import os
import pty
import re
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.cli import main
from scale_cli.cli.output import Stream
from tests.runs import Run, World, reload, save

RunCli = Callable[..., Any]
PROMPT = "Where was Ann Lee born?"


def own(model: Any, tokenizer: Any, text: str, count: int = 5) -> str:
    """The library's own greedy continuation."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        tokens = model.generate(ids, max_new_tokens=count, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.fixture(scope="module")
def talker(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template."""
    folder = tmp_path_factory.mktemp("talker") / "talker"
    tokenizer = copy.deepcopy(world.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    return save(reload(world.checkpoint("llama")), folder, tokenizer)


def test_one_model_and_prompt_is_the_text_alone(run_cli: RunCli, world: World) -> None:
    ended = run_cli("generate", world.checkpoint("llama"), "--prompt", PROMPT, "--max-new-tokens", 5)
    text = own(reload(world.checkpoint("llama")), world.tokenizer, PROMPT)
    assert (ended.code, ended.stdout) == (0, f"{text}\n")


def test_models_and_routers_in_lines_and_as_json(run_cli: RunCli, finished: Callable[..., Run], tmp_path: Path) -> None:
    folder, out = finished("scale-preserve").folder, tmp_path / "out.json"
    (tmp_path / "more.jsonl").write_text('{"text": "a\\nb"}', encoding="utf-8")
    words = [f"p={folder}", "--prompt", PROMPT, "--prompts", tmp_path / "more.jsonl", "--max-new-tokens", 5]
    words += ["--router", "none", "--router", "mixture:0", "--router", "none"]
    ended = run_cli("generate", *words, "--json", "--out", out)
    assert ended.code == 0
    results = json.loads(ended.stdout)
    assert json.loads(out.read_text(encoding="utf-8")) == results
    assert [(row["label"], row["router"], row["prompt"]) for row in results] == [
        (f"p-{router.replace(':', '-')}", router, prompt)
        for router in ("none", "mixture:0")
        for prompt in (PROMPT, "a\nb")
    ]
    lines = run_cli("generate", *words).stdout.splitlines()
    texts = [row["text"].replace("\n", "\\n") for row in results]
    assert lines == [
        *[f"prompt: {PROMPT}", f"p-none: {texts[0]}", f"p-mixture-0: {texts[2]}"],
        *["prompt: a\\nb", f"p-none: {texts[1]}", f"p-mixture-0: {texts[3]}"],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["BASE"], "no prompt: give --prompt TEXT, or --prompts FILE"),
        (["BASE", "--prompt", "a", "--chat"], "BASE has no chat template; continue text with scale generate"),
        (["BASE", "--prompt", "a", "--base", "BASE"], "--base BASE: only --router needs a base; add --router mix"),
        (["BASE", "--prompt", "a", "--device", "cuda:9"], "--device cuda:9: choose cpu"),
        (["BASE", "--prompt", "a", "--router", "cosine:1"], "--router cosine:1: BASE is not width-upscaled"),
        (["BASE", "--prompt", "a", "--out", "BASE"], "--out BASE: not a file in an existing folder; choose another"),
        (["nowhere", "--prompt", "a"], "nowhere"),
        (["BASE", "--prompt", "a", "--temperature", "-1"], "--temperature -1.0: at least 0"),
    ],
)
def test_a_mistake_ends_with_one_line(run_cli: RunCli, world: World, words: list[str], message: str) -> None:
    base = str(world.checkpoint("llama"))
    ended = run_cli("generate", *(base if word == "BASE" else word for word in words))
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"scale: {message.replace('BASE', base)}")


def test_a_conversation_from_a_pipe(
    run_cli: RunCli, world: World, talker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = reload(talker)
    first = own(model, world.tokenizer, "<user> Hello ")
    second = own(model, world.tokenizer, f"<user> Hello <assistant> {first.strip()} <user> And now? ")
    for end in ("", "/exit\nnever read\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nAnd now?\n/reset\nHello\n" + end))
        ended = run_cli("chat", talker, "--max-new-tokens", 5)
        assert (ended.code, ended.stdout) == (0, f"{first}\n{second}\n{first}\n")
        assert ended.stderr.splitlines()[1:] == ["forgotten"]


def test_a_conversation_that_is_too_long_goes_on_after_a_reset(
    run_cli: RunCli, talker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = reload(talker).config.max_position_embeddings
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nHello\n"))
    ended = run_cli("chat", talker, "--max-new-tokens", most)
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.stderr.count("the message is left out: /reset begins a new conversation") == 2


def test_ctrl_c_ends_a_conversation(run_cli: RunCli, talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(prompt: str = "") -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert run_cli("chat", talker).code == 0


def test_a_model_without_a_template_is_named_the_other_command(run_cli: RunCli, world: World) -> None:
    ended = run_cli("chat", world.checkpoint("llama"))
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "has no chat template; continue text with scale generate without --chat" in ended.stderr


def test_a_terminal(talker: Path, world: World, finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of several models, the text of one as it is written, and a conversation."""
    folder = finished("scale-preserve").folder
    length = ["--max-new-tokens", 5]
    several = ["generate", f"p={folder}", "--router", "none", "--router", "mixture:0", "--prompt", PROMPT]
    screen = on_terminal(monkeypatch, *several, *length)
    text = own(reload(folder), world.tokenizer, PROMPT).split()
    assert max(len(line) for line in screen.splitlines()) == 80
    assert re.search(r"base 0\.\d{3} to 0\.\d{3}", screen)
    assert text[0] in screen[screen.index("p-none") : screen.index("p-mixture-0")]
    screen = on_terminal(monkeypatch, *several[:4], "--prompt", "Ann", "--prompt", PROMPT, *length)
    assert "".join(screen.split()).endswith("".join([*PROMPT.split(), *text]))
    screen = on_terminal(monkeypatch, "chat", talker, *length, typed=b"Hello\n/exit\n")
    answer = own(reload(talker), world.tokenizer, "<user> Hello ").split()
    assert [word for word in screen.split() if word not in (">", "Hello", "/exit")] == answer


def on_terminal(monkeypatch: pytest.MonkeyPatch, *words: object, typed: bytes = b"") -> str:
    """What a command prints on a terminal of 80 columns, without control sequences; its stderr is none."""
    master, slave = pty.openpty()
    os.write(master, typed)
    opened: dict[str, Any] = {"encoding": "utf-8", "closefd": False}
    with (
        monkeypatch.context() as patch,
        open(slave, "w", **opened) as screen,
        open(slave, **opened) as keyboard,
    ):
        patch.setenv("COLUMNS", "80")
        patch.delenv("NO_COLOR")
        patch.setattr("sys.stdout", screen)
        patch.setattr("sys.stdin", keyboard)
        assert main([str(word) for word in words]) == 0
        screen.flush()
        printed = b""
        while select.select([master], [], [], 0.2)[0]:
            printed += os.read(master, 2**16)
    os.close(master)
    os.close(slave)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.decode()).replace("\r\n", "\n")


def test_streamed_lines_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    stream = Stream()
    for part in ("one t", "wo thr", "ee fo", "ur\nfive 국회는 ", "법률안을 abcdefghijklmn op"):
        stream(part)
    stream.end()
    assert screen.getvalue().splitlines() == [
        "one two ",
        "three four",
        "five ",
        "국회는 ",
        "법률안을 ",
        "abcdefghijklmn op",
    ]
