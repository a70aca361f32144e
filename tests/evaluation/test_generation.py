"""Continuations are those of the library's own `generate`, and wrong requests are refused before weights are loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.evaluation import generation
from scale_cli.evaluation.generation import (
    Continuation,
    Prompt,
    Sampling,
    chat_ids,
    find_device,
    generate,
    new_text,
    prepare,
    subjects,
)
from scale_cli.evaluation.subject import Subject, Target, load, targets
from scale_cli.model.mixture import read
from tests.helpers import refusal
from tests.runs import Run, World, reload, save

CPU = torch.device("cpu")
PROMPTS = ["Where was Ann Lee born?", "Ann Lee studied\n  at"]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def written(
    sources: Sequence[object], prompts: Sequence[str] = PROMPTS, *, chat: bool = False, **options: Any
) -> list[Continuation]:
    sampling = Sampling(**{"max_new_tokens": 6} | {n: v for n, v in options.items() if n in Sampling.__annotations__})
    routers = options.get("routers", ())
    described = targets(list(map(str, sources)), routers=routers, base=options.get("base"), dtype="float32", device=CPU)
    return list(generate(described, prepare(described, prompts, sampling, chat=chat), sampling, device=CPU))


def own_ids(model: Any, tokenizer: Any, prompt: str, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of a prompt and of the library's own continuation."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    given = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0} | options
    with torch.no_grad():
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **given)[0]
    return whole[: ids.shape[1]], whole[ids.shape[1] :]


def own(model: Any, tokenizer: Any, prompt: str, **options: Any) -> str:
    """The library's own continuation."""
    return str(tokenizer.decode(own_ids(model, tokenizer, prompt, **options)[1], skip_special_tokens=True))


def test_several_models_and_routers_beside_each_other(world: World, finished: Callable[..., Run]) -> None:
    preserve, lora = finished("scale-preserve").folder, finished("lora").folder
    routers = ["none", "interpolate:0", "mixture:0:0.3"]
    results = written([f"p={preserve}", f"l={lora}"], routers=routers)
    labels = [f"{label}-{router.replace(':', '-')}" for label in "pl" for router in routers]
    assert [(result.label, result.prompt) for result in results] == [(la, text) for la in labels for text in PROMPTS]
    base, trained = reload(world.checkpoint("llama")), reload(lora)
    widened = reload(preserve)
    expected = {"p-none": widened, "p-interpolate-0": base, "l-none": trained, "l-interpolate-0": base}
    for result in results:
        if result.label in expected:
            assert result.text == own(expected[result.label], world.tokenizer, result.prompt)
            assert result.weights is None
    widened.set_router({"kind": "mixture", "share": 0.0, "prior": 0.3})
    for result in results[4:6]:
        assert result.text == own(widened, world.tokenizer, result.prompt)
        before, new = own_ids(widened, world.tokenizer, result.prompt)
        with torch.no_grad():
            preserved = widened(torch.cat([before, new])[None, :-1], use_cache=False).preserved[0]
        assert result.weights == pytest.approx(preserved[len(before) - 1 :].tolist(), abs=2e-4)


def test_a_pair_under_a_mixture_takes_the_most_probable_token_of_both(
    world: World, finished: Callable[..., Run]
) -> None:
    lora = finished("lora").folder
    (result,) = written([lora], PROMPTS[:1], routers=["mixture:1:0.4"])
    base, trained = reload(world.checkpoint("llama")), reload(lora)
    ids = world.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            mixed, _ = read(
                {"kind": "mixture", "share": 1.0, "prior": 0.4}, base(ids).logits, trained(ids).logits, ids, kept=1
            )
        ids = torch.cat([ids, mixed[:, -1].argmax(-1, keepdim=True)], 1)
    assert new_text(world.tokenizer, ids[0].tolist(), ids.shape[1] - 6) == result.text
    assert result.weights == (0.4,) * 6


def test_the_checkpoints_own_settings_are_not_used_but_its_stop_tokens_are(world: World, tmp_path: Path) -> None:
    model, tokenizer = reload(world.checkpoint("llama")), world.tokenizer
    new = own_ids(model, tokenizer, PROMPTS[0])[1].tolist()
    second = next(token for token in new[1:] if token != new[0])
    save(model, tmp_path / "model", tokenizer)
    settings = copy.deepcopy(model.generation_config)
    settings.update(do_sample=True, temperature=5.0, suppress_tokens=new[:1], eos_token_id=[second])
    settings.save_pretrained(tmp_path / "model")
    (result,) = written([tmp_path / "model"], PROMPTS[:1])
    assert (result.tokens, result.ended) == (new.index(second) + 1, True)
    assert result.text == tokenizer.decode(new[: result.tokens])
    (whole,) = written([world.checkpoint("llama")], PROMPTS[:1])
    assert (whole.text, whole.tokens, whole.ended) == (tokenizer.decode(new), 6, False)


def test_sampling_follows_the_seed_alone(world: World) -> None:
    source = world.checkpoint("llama")
    options: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "seed": 5}
    first, second = written([source], **options)
    (alone,) = written([source], PROMPTS[1:], **options)
    assert alone.text == second.text
    torch.manual_seed(5)
    library: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_p": 0.9, "top_k": 0}
    assert first.text == own(reload(source), world.tokenizer, PROMPTS[0], **library)
    assert first.text != written([source], PROMPTS[:1], **options | {"seed": 6})[0].text


def test_what_is_streamed_is_the_text(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a character has several tokens, and if decoding tokens alone loses the first space."""
    tokenizer = copy.deepcopy(world.tokenizer)
    ids = tokenizer("Ann")["input_ids"] + tokenizer(" 국회는 é\n  law")["input_ids"]
    parts: list[str] = []
    streamer = generation._Streamer(tokenizer, parts.append)
    length = len(tokenizer("Ann")["input_ids"])
    streamer.put(torch.tensor([ids[:length]]))
    for token in ids[length:]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(parts) == new_text(tokenizer, ids, length) == " 국회는 é\n  law"
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)
    assert len(list(filter(None, parts))) > 3
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: str(decode(ids, **options)).removeprefix(" "))
    assert new_text(tokenizer, ids, length) == " 국회는 é\n  law"


def test_a_message_goes_through_the_chat_template(world: World, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(world.tokenizer)
    tokenizer.chat_template = TEMPLATE
    model = reload(world.checkpoint("llama"))
    save(model, tmp_path / "chat", tokenizer)
    (result,) = written([tmp_path / "chat"], PROMPTS[:1], chat=True)
    assert result.prompt == PROMPTS[0]
    assert result.text == own(model, tokenizer, f"[user]{PROMPTS[0]}[assistant]")
    (target,) = targets([str(tmp_path / "chat")], dtype=None, device=CPU)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.decode(chat_ids(tokenizer, messages, target.checkpoint)) == "[user]a[assistant]b[assistant]"
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    assert "the chat template of" in refusal(chat_ids, tokenizer, messages, target.checkpoint)


def test_a_checkpoint_is_loaded_once(
    world: World, finished: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def watched(target: Target, **options: Any) -> Subject:
        loaded.append(target.label)
        return load(target, **options)

    monkeypatch.setattr(generation, "load", watched)
    routers = ["none", "mixture:0"]
    described = targets(
        [f"l={finished('lora').folder}", f"w={world.checkpoint('llama', 'width')}"],
        routers=routers,
        dtype=None,
        device=CPU,
    )
    assert [subject.target.label for subject in subjects(described, device=CPU)] == [
        "l-none",
        "l-mixture-0",
        "w-none",
        "w-mixture-0",
    ]
    assert loaded == ["l-mixture-0", "w-none"]


def test_requests_are_refused_before_weights_are_loaded(world: World) -> None:
    described = targets([str(world.checkpoint("llama"))], dtype=None, device=CPU)
    sampling = Sampling()
    assert "no prompt: give --prompt TEXT" in refusal(prepare, described, [], sampling)
    assert "--prompt '': it has no token" in refusal(prepare, described, [""], sampling)
    message = refusal(prepare, described, ["a"], sampling, chat=True)
    assert "has no chat template; continue text with scale generate without --chat" in message
    most = reload(world.checkpoint("llama")).config.max_position_embeddings
    (row,) = prepare(described, ["a"], Sampling(most - 1)).values()
    assert row == [Prompt("a", tuple(world.tokenizer("a")["input_ids"]))]
    message = refusal(prepare, described, ["a"], Sampling(most))
    assert f"--max-new-tokens {most} that is more than the {most:,} that" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens 0: at least 1"),
        ({"temperature": -1.0}, "--temperature -1.0: at least 0"),
        ({"temperature": float("nan")}, "--temperature nan: at least 0"),
        ({"top_p": 0.0}, "--top-p 0.0: above 0, at most 1"),
        ({"top_p": 0.5}, "--top-p 0.5: only sampling uses it; add --temperature 1"),
        ({"seed": -1}, "--seed -1: 0 to 2^32 - 1"),
    ],
)
def test_wrong_sampling(options: dict[str, Any], message: str) -> None:
    assert refusal(Sampling, **options).startswith(message)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert find_device(None) == find_device("cpu") == CPU
    assert refusal(find_device, "cuda").startswith("--device cuda: choose cpu, or leave it out")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert find_device(None) == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert "choose cpu, cuda, cuda:0, cuda:1" in refusal(find_device, "cuda:2")
