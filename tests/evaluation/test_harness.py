"""`scale eval` gives the harness's own numbers for every kind of checkpoint, once, and reports missing data."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.evaluator
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from scale_cli.checkpoints.load import describe, load_model, load_tokenizer, save_pointer
from scale_cli.core.errors import RequestError
from scale_cli.evaluation import harness
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.harness import HarnessTask, find_tasks, suite_tasks, without_repetitions
from scale_cli.evaluation.quiet import quiet
from scale_cli.evaluation.request import request
from scale_cli.evaluation.suites import Suite, load_suite
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result, read_items, read_result
from tests.helpers import refusal
from tests.processes import start, together
from tests.runs import Run, World, tree
from tests.tasks import ITEMS, SUITE, Tasks

KINDS = ("tiny_choice", "tiny_letters", "tiny_words", "tiny_text", "tiny_micro", "tiny_group")
Finished = Callable[..., Run]


def tasks_of(tasks: Tasks, *names: str, shots: int | None = None, **options: Any) -> list[HarnessTask]:
    return find_tasks(dict.fromkeys(names, shots), include_path=tasks.include_path, **options)


def measure(source: str, jobs: Sequence[HarnessTask], **options: Any) -> Result:
    (result,) = evaluate([source], jobs, **({"batch_size": 3} | options))
    return result


def own(source: str, tasks: Tasks, name: str, **options: Any) -> dict[str, Any]:
    """The harness's own results for a checkpoint's folder that it loads itself."""
    arguments = {"pretrained": source, "trust_remote_code": True}
    return by_harness("hf", tasks, name, model_args=arguments, device="cpu", **({"batch_size": 3} | options))


def by_harness(model: Any, tasks: Tasks, name: str, **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=tasks.include_path, include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # it takes seconds
        results = lm_eval.simple_evaluate(model=model, tasks=[name], task_manager=manager, **options)
    assert results is not None
    return dict(results)


def around(model: Any, tokenizer: Any) -> Any:
    return lm_eval.models.huggingface.HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=3)


def numbers(measurements: Sequence[Measurement]) -> dict[str, tuple[float, float | str]]:
    """Value and standard error by the harness's names."""
    return {f"{m.metric},{m.filter}": (m.value, "N/A" if m.stderr is None else m.stderr) for m in measurements}


def own_numbers(values: Mapping[str, Any]) -> dict[str, tuple[float, float | str]]:
    return {
        key: (value, values[key.replace(",", "_stderr,")])
        for key, value in values.items()
        if "," in key and "_stderr," not in key
    }


# -- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "width"])
def test_the_numbers_are_the_harness_own(kind: str, world: World, tasks: Tasks) -> None:
    """Equal to the last digit with the same batches: a base, and an upscaled model with its code beside it."""
    source = str(world.checkpoint("llama", kind))
    result = measure(source, tasks_of(tasks, *KINDS))
    assert {m.task for m in result.measurements} == set(KINDS)
    for name in KINDS:
        wanted = own(source, tasks, name)
        got = result.find(name)
        assert numbers(got) == own_numbers(wanted["results"][name])
        for m in got:
            version = wanted["versions"][name]
            assert m.task_version == (None if version in (None, "N/A") else str(version))
            shots = {wanted["n-shot"][leaf] for leaf in wanted["samples"]}
            assert shots == {m.num_fewshot}
            leaves = wanted["samples"]
            effective = sum(
                wanted["n-samples"][leaf]["effective"]
                for leaf in leaves
                if f"{m.metric},{m.filter}" in wanted["results"][leaf]
            )
            assert m.samples == effective
            assert (m.dtype, m.batch_size, m.seed, m.limit, m.routed) == ("float32", 3, 1234, None, None)
            assert m.higher_is_better == (name != "tiny_text")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "width"])
def test_the_numbers_are_those_of_the_harness_command(kind: str, world: World, tasks: Tasks, tmp_path: Path) -> None:
    source = str(world.checkpoint("llama", kind))
    names = ("tiny_choice", "tiny_words")
    arguments = f"pretrained={source},trust_remote_code=True"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments]
    command += ["--tasks", *names, "--include_path", str(tasks.include_path), "--device", "cpu"]
    command += ["--batch_size", "3", "--output_path", str(tmp_path / "own")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    (file,) = (tmp_path / "own").rglob("results_*.json")
    wanted = json.loads(file.read_text())["results"]
    result = measure(source, tasks_of(tasks, *names))
    for name in names:
        assert numbers(result.find(name)) == own_numbers(wanted[name])


def test_shots_and_seed_are_the_harness_too(world: World, tasks: Tasks) -> None:
    source = str(world.checkpoint("llama"))
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    values = set()
    for seed in (1234, 7):
        result = measure(source, tasks_of(tasks, "tiny_choice", "tiny_letters", shots=2), seed=seed)
        options = {} if seed == 1234 else dict.fromkeys(seeds, seed)
        wanted = own(source, tasks, "tiny_choice", num_fewshot=2, **options)
        assert numbers(result.find("tiny_choice")) == own_numbers(wanted["results"]["tiny_choice"])
        assert {(m.num_fewshot, m.seed) for m in result.find("tiny_choice")} == {(2, seed)}
        assert {m.num_fewshot for m in result.find("tiny_letters")} == {0}  # its own file says 0
        first = read_scores(wanted, "tiny_choice")
        values.add(str(first))
    assert len(values) == 2


def read_scores(results: Mapping[str, Any], name: str) -> list[Any]:
    return [sample["resps"] for sample in results["samples"][name]]


def test_every_kind_of_checkpoint_is_measured(world: World, tasks: Tasks, finished: Finished) -> None:
    methods = ("lora", "llama-pro", "scale-route")  # merged, of its base's own class, and with a router
    sources = [str(finished(method).folder) for method in methods]
    labels = [f"{method}={source}" for method, source in zip(methods, sources, strict=True)]
    results = evaluate(labels, tasks_of(tasks, "tiny_choice", "tiny_words"), batch_size=3)
    for method, source, result in zip(methods, sources, results, strict=True):
        info = result.checkpoint
        assert (info.label, info.source, info.method) == (method, source, method)
        record = json.loads((Path(source) / "record.json").read_text())
        assert info.parameters["trained"] == record["trained_parameters"]
        assert info.recipe is not None
        assert info.recipe["seed"] == 0
        model = load_model(describe(source))
        assert info.parameters["total"] == sum(p.numel() for p in model.parameters())
        wanted = by_harness(around(model, load_tokenizer(describe(source))), tasks, "tiny_choice")
        assert numbers(result.find("tiny_choice")) == own_numbers(wanted["results"]["tiny_choice"])
        assert all((m.routed is not None) == (method == "scale-route") for m in result.measurements)
    assert len({result.checkpoint.fingerprint for result in results}) == len(methods)


def test_checkpoints_of_one_call_do_not_touch_each_other(world: World, tasks: Tasks) -> None:
    """Few-shot examples are drawn again for each checkpoint, and requests of the first do not reappear."""
    sources = [str(world.checkpoint("llama", "depth")), str(world.checkpoint("neox"))]
    together = evaluate(sources, tasks_of(tasks, "tiny_choice", "tiny_words", shots=3), batch_size=3)
    for source, result in zip(sources, together, strict=True):
        alone = measure(source, tasks_of(tasks, "tiny_choice", "tiny_words", shots=3))
        assert numbers(result.measurements) == numbers(alone.measurements)


def test_a_limit(world: World, tasks: Tasks) -> None:
    source = str(world.checkpoint("llama"))
    result = measure(source, tasks_of(tasks, "tiny_choice", "tiny_micro", limit=4))
    assert {(m.task, m.metric): (m.samples, m.limit) for m in result.measurements} == {
        ("tiny_choice", "acc"): (4, 4),
        ("tiny_choice", "acc_norm"): (4, 4),
        ("tiny_micro", "acc"): (8, 4),
        ("tiny_micro", "acc_norm"): (8, 4),
    }
    assert numbers(result.find("tiny_choice")) == own_numbers(
        own(source, tasks, "tiny_choice", limit=4)["results"]["tiny_choice"]
    )


# -- what is recorded ------------------------------------------------------------------------------------------------


def test_items_and_subtasks_give_the_numbers_again(world: World, tasks: Tasks, tmp_path: Path) -> None:
    result = measure(str(world.checkpoint("llama")), tasks_of(tasks, *KINDS), out=tmp_path)
    for m in result.measurements:
        items = read_items(result, m)
        if m.task == "tiny_text":
            assert items is None  # its numbers are no means over items
            continue
        assert items is not None
        assert len(items) == m.samples
        if m.task != "tiny_group":
            assert sum(items.values()) / len(items) == pytest.approx(m.value, rel=1e-12)
    sizes = {"tiny_choice": ITEMS["tiny_choice"], "tiny_letters": ITEMS["tiny_letters"]}
    for group, way in (("tiny_group", "macro"), ("tiny_micro", "micro")):
        (m,) = result.find(group, "acc")
        subtasks = m.details["subtasks"]
        assert {name: of["samples"] for name, of in subtasks.items()} == sizes
        weights = sizes if way == "micro" else dict.fromkeys(sizes, 1)
        mean = sum(weights[name] * of["value"] for name, of in subtasks.items()) / sum(weights.values())
        assert m.value == pytest.approx(mean, rel=1e-12)
        assert m.details["aggregation"] == way
        items = read_items(result, m)
        assert items is not None
        assert set(items) == {f"{name}/{i}" for name, size in sizes.items() for i in range(size)}
    words = read_items(result, result.find("tiny_words", filter="word")[0])
    assert words is not None
    assert list(words) == [0, 1, 2, 3]


def test_nothing_is_printed_and_progress_reaches_the_end(
    world: World, tasks: Tasks, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where git would complain that this is no repository

    seen: dict[str, list[tuple[int, int | None]]] = {}

    @contextlib.contextmanager
    def progress(label: str, total: int | None) -> Any:
        seen[label] = []
        yield lambda *, done, total: seen[label].append((done, total))

    capfd.readouterr()
    measure(str(world.checkpoint("llama")), tasks_of(tasks, *KINDS[:4]), batch_size=4, progress=progress)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert [line for line in printed.err.splitlines() if line and "Loading weights" not in line] == []
    assert list(seen) == [f"llama-plain: {name} ({i} of 4)" for i, name in enumerate(KINDS[:4], start=1)]
    choice, letters, words, text = seen.values()
    assert choice == [*((done, 33) for done in range(4, 33, 4)), (33, 33)]  # whole batches
    assert letters[-1] == (20, 20)
    assert words == [(4, 4)]
    assert [total for _, total in text] == [None] * len(text)
    assert text[-1][0] >= 3


def test_a_batch_size_is_found_and_recorded(world: World, tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU by the limits of a forward pass, not by the harness's trial."""
    source = str(world.checkpoint("llama"))
    monkeypatch.setattr(harness, "rows_for", lambda model, length: 5 if length < 100 else 2)
    result = measure(source, tasks_of(tasks, "tiny_choice", "tiny_text"), batch_size=None)
    assert {m.batch_size for m in result.find("tiny_choice")} == {5}
    assert {m.batch_size for m in result.find("tiny_text")} == {2}  # at the model's full length
    assert measure(source, tasks_of(tasks, "tiny_choice")).find("tiny_choice")[0].batch_size == 3


def test_warnings_of_the_harness_are_recorded(world: World, tasks: Tasks) -> None:
    result = measure(str(world.checkpoint("llama")), tasks_of(tasks, "tiny_words", shots=2))
    for m in result.measurements:
        assert m.details["harness"].startswith("lm_eval 0.")
        assert m.details["harness_says"] == {
            "[Task: tiny_words] num_fewshot > N but fewshot_split is None. using preconfigured rule.": 1
        }
    assert (
        "harness_says"
        not in measure(str(world.checkpoint("llama")), tasks_of(tasks, "tiny_choice")).measurements[0].details
    )


def test_a_dtype(world: World, tasks: Tasks) -> None:
    source = str(world.checkpoint("llama"))
    result = measure(source, tasks_of(tasks, "tiny_choice"), dtype="bfloat16")
    assert {m.dtype for m in result.measurements} == {"bfloat16"}
    wanted = by_harness(
        around(load_model(describe(source), dtype=torch.bfloat16), world.tokenizer), tasks, "tiny_choice"
    )
    assert numbers(result.measurements) == own_numbers(wanted["results"]["tiny_choice"])


# -- the router ------------------------------------------------------------------------------------------------------


def routed_twin(adapt: Path, folder: Path, threshold: float) -> str:
    """The run of scale-adapt in `adapt` as one of scale-route with this threshold: the same tensors."""
    shutil.copytree(adapt, folder)
    (folder / "record.json").unlink()
    checkpoint = describe(str(adapt))
    assert checkpoint.base is not None
    assert checkpoint.options is not None
    save_pointer(checkpoint.base, folder, "scale-route", {**checkpoint.options, "threshold": threshold})
    return str(folder)


def test_a_router_that_never_preserves_is_scale_adapt(
    world: World, tasks: Tasks, finished: Finished, tmp_path: Path
) -> None:
    """tau = 2: no cosine is above it. tau = -2: all are, and the numbers differ."""
    adapt = finished("scale-adapt").folder
    jobs = tasks_of(tasks, *KINDS[:4])
    plain = measure(str(adapt), jobs)
    never = measure(routed_twin(adapt, tmp_path / "never", 2.0), jobs)
    always = measure(routed_twin(adapt, tmp_path / "always", -2.0), jobs)
    assert numbers(never.measurements) == numbers(plain.measurements)
    assert {m.routed for m in never.measurements} == {0.0}
    assert {m.routed for m in always.measurements} == {1.0}
    assert {m.routed for m in plain.measurements} == {None}
    assert numbers(always.find("tiny_text")) != numbers(plain.find("tiny_text"))


@torch.no_grad()
def threshold_between(adapt: Path, tasks: Tasks, folder: Path) -> float:
    """A threshold that some answers of tiny_letters exceed, with a margin on both sides."""
    source = describe(routed_twin(adapt, folder / "any", 0.5))
    model, tokenizer = load_model(source), load_tokenizer(source)
    prompts = [tokenizer.encode(f"Q: {item['question']}\nA:") for item in tasks.items("letters")]

    def edge(most: int) -> float:
        """The smallest threshold that at most so many exceed."""
        low, high = -1.0, 1.0
        for _ in range(30):
            model.config.router["threshold"] = middle = (low + high) / 2
            passed = sum(bool(model(torch.tensor([prompt]), use_cache=False).preserved[0, -1]) for prompt in prompts)
            low, high = (middle, high) if passed > most else (low, middle)
        return high

    return (edge(2) + edge(3)) / 2


def test_the_routed_share_counts_the_scored_tokens(
    world: World, tasks: Tasks, finished: Finished, tmp_path: Path
) -> None:
    """Against single requests: without padding, without the context, each position once."""
    adapt = finished("scale-adapt").folder
    source = routed_twin(adapt, tmp_path / "routed", threshold_between(adapt, tasks, tmp_path))
    model, tokenizer = load_model(describe(source)), load_tokenizer(describe(source))

    @torch.no_grad()
    def output_of(tokens: list[int]) -> Any:
        return model(torch.tensor([tokens]), use_cache=False)

    def preserved(tokens: list[int]) -> list[bool]:
        return output_of(tokens).preserved[0].tolist()

    def encoded(context: str, continuation: str) -> tuple[list[int], list[int]]:
        whole, start = tokenizer.encode(context + continuation), len(tokenizer.encode(context))
        return whole[:start], whole[start:]

    wanted: dict[str, list[bool]] = {name: [] for name in KINDS[:4]}
    for item in tasks.items("choice"):
        for option in item["options"]:
            context, continuation = encoded(f"Q: {item['question']}\nA:", f" {option}")
            wanted["tiny_choice"] += preserved((context + continuation)[:-1])[-len(continuation) :]
    for item in tasks.items("letters"):
        pairs = [encoded(f"Q: {item['question']}\nA:", f" {letter}") for letter in "ABCD"]
        once = {tuple(prompt + answer[:-1]): len(answer) for prompt, answer in pairs}
        for known, count in once.items():
            wanted["tiny_letters"] += preserved(list(known))[-count:]
    for item in tasks.items("text"):
        tokens = [tokenizer.eos_token_id, *tokenizer.encode(item["text"])]
        wanted["tiny_text"] += preserved(tokens[:-1])
    for item in tasks.items("words"):
        tokens = tokenizer.encode(item["question"])
        for _ in range(5):
            output = output_of(tokens)
            wanted["tiny_words"].append(bool(output.preserved[0, -1]))
            tokens.append(int(output.logits[0, -1].argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
    result = measure(source, tasks_of(tasks, *KINDS[:4], shots=0))
    for name, flags in wanted.items():
        assert 0 < sum(flags) < len(flags)
        assert {m.routed for m in result.find(name)} == {sum(flags) / len(flags)}, name


# -- only what is missing --------------------------------------------------------------------------------------------


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which each task is added when it runs."""
    ran: list[str] = []
    run = HarnessTask.run

    def watch(self: HarnessTask, *args: Any) -> Any:
        ran.append(self.name)
        return run(self, *args)

    monkeypatch.setattr(HarnessTask, "run", watch)
    return ran


def test_a_second_call_runs_nothing(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [str(world.checkpoint("llama", kind)) for kind in ("plain", "width")]
    first = evaluate(sources, tasks_of(tasks, *KINDS), out=tmp_path, batch_size=3)
    before = tree(tmp_path)
    messages: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("scale_cli.evaluation.evaluate.load", None)
        patch.setattr(HarnessTask, "prepare", None)
        second = evaluate(sources, tasks_of(tasks, *KINDS), out=tmp_path, batch_size=7, say=messages.append)
    assert second == first
    assert tree(tmp_path) == before
    assert messages == [f"llama-{kind}: 6 of 6 are in {tmp_path} already" for kind in ("plain", "width")]
    assert set(before) == {
        f"llama-{kind}/{file}"
        for kind in ("plain", "width")
        for file in ("result.json", *(f"items/{name}.json" for name in KINDS if name != "tiny_text"))
    }


def test_other_requests_are_measured_in_addition(world: World, tasks: Tasks, tmp_path: Path) -> None:
    source = str(world.checkpoint("llama"))
    measure(source, tasks_of(tasks, "tiny_choice"), out=tmp_path)
    requests: list[tuple[dict[str, int], dict[str, Any]]] = [({"shots": 1}, {}), ({"limit": 5}, {})]
    requests += [({}, {"seed": 5}), ({}, {"dtype": "bfloat16"})]
    for before, (changes, options) in enumerate(requests, start=1):
        result = measure(source, tasks_of(tasks, "tiny_choice", **changes), out=tmp_path, **options)
        assert len({m.key for m in result.find("tiny_choice")}) == len(result.measurements) == 2 * before + 2
        has_items = [read_items(result, m) is not None for m in result.measurements]
        assert has_items == [False] * 2 * before + [True] * 2


def test_a_new_task_alone_is_measured(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(world.checkpoint("llama"))
    first = measure(source, tasks_of(tasks, "tiny_choice"), out=tmp_path, command="first")
    ran = watched(monkeypatch)
    result = measure(source, tasks_of(tasks, "tiny_choice", "tiny_words"), out=tmp_path, command="second")
    assert ran == ["tiny_words"]
    assert result.measurements[:2] == first.measurements
    assert [m.task for m in result.measurements] == ["tiny_choice"] * 2 + ["tiny_words"] * 2
    assert result.command == "second"
    assert [call["command"] for call in result.record["earlier"]] == ["first"]
    assert result == read_result(tmp_path / "llama-plain")


def killed_in_the_second_task(source: str, tasks: Tasks, names: Sequence[str], out: Path) -> None:
    @contextlib.contextmanager
    def progress(label: str, total: int | None) -> Iterator[Callable[..., None]]:
        def advance(*, done: int, total: int | None) -> None:
            if "(2 of 3)" in label:
                os.kill(os.getpid(), signal.SIGKILL)

        yield advance

    measure(source, tasks_of(tasks, *names), out=out, progress=progress)


def test_killed_in_the_middle_it_loses_the_running_task_only(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = str(world.checkpoint("llama")), tmp_path / "out"
    names = ("tiny_choice", "tiny_words", "tiny_letters")
    words = (source, tasks, names, out)
    code, _, messages = start(
        killed_in_the_second_task, *words, folder=tmp_path / "process", patches=tasks.patches
    ).wait()
    assert code == -signal.SIGKILL, messages
    left = read_result(out / "llama-plain")
    assert left is not None
    assert {m.task for m in left.measurements} == {"tiny_choice"}
    ran = watched(monkeypatch)
    resumed = measure(source, tasks_of(tasks, *names), out=out)
    assert ran == ["tiny_words", "tiny_letters"]
    never_killed = measure(source, tasks_of(tasks, *names))
    assert numbers(resumed.measurements) == numbers(never_killed.measurements)
    assert set(tree(out)) == {
        f"llama-plain/{file}" for file in ("result.json", *(f"items/{name}.json" for name in names))
    }


def test_an_edited_task_of_the_user_is_measured_again(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(tasks.folder, tmp_path / "own")
    for file in (own / "tasks").glob("*.yaml"):
        file.write_text(file.read_text().replace(str(tasks.folder), str(own)), encoding="utf-8")
    source, copied, ran = str(world.checkpoint("llama")), Tasks(own), watched(monkeypatch)

    def value() -> float:
        """The accuracy from a second call, for which nothing runs."""
        first = measure(source, tasks_of(copied, "tiny_choice"), out=tmp_path / "out")
        assert ran == ["tiny_choice"]
        assert measure(source, tasks_of(copied, "tiny_choice"), out=tmp_path / "out") == first
        ran.remove("tiny_choice")
        (m,) = first.find("tiny_choice", "acc")
        return m.value

    value()
    data = own / "data" / "choice.jsonl"
    items = [json.loads(line) for line in data.read_text().splitlines()]
    for item in items:
        item["options"] = [item["options"][0]] * 3
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    value()
    text = (own / "tasks" / "tiny_choice.yaml").read_text()
    (own / "tasks" / "tiny_choice.yaml").write_text(f"{text}\ndescription: 'Choose.'\n", encoding="utf-8")
    value()


def test_prompts_go_through_the_chat_template(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, chat = str(world.checkpoint("llama")), tmp_path / "chat"
    shutil.copytree(plain, chat)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (chat / "chat_template.jinja").write_text(template, encoding="utf-8")
    prompts: list[str] = []
    encode = HFLM.tok_encode

    def watch(self: HFLM, string: str, *args: Any, **kwargs: Any) -> Any:
        prompts.append(string)
        return encode(self, string, *args, **kwargs)

    monkeypatch.setattr(HFLM, "tok_encode", watch)
    options: dict[str, Any] = {"chat": True, "system": "Be brief."}
    with pytest.raises(RequestError, match=r"--apply-chat-template: the tokenizer of .*llama-plain has none"):
        measure(plain, tasks_of(tasks, "tiny_choice", **options))
    bare = measure(str(chat), tasks_of(tasks, "tiny_choice"), out=tmp_path / "out")
    assert not any("<user>" in prompt for prompt in prompts)
    prompts.clear()
    both = measure(str(chat), tasks_of(tasks, "tiny_choice", **options), out=tmp_path / "out")
    question = tasks.items("choice")[0]["question"]
    assert any(prompt.startswith("<system>Be brief.<user>") and question in prompt for prompt in prompts)
    versions = {m.task_version for m in both.measurements} - {m.task_version for m in bare.measurements}
    assert len(both.measurements) == 2 * len(bare.measurements)
    assert all("chat template, system prompt" in str(version) for version in versions)


def test_other_files_of_the_tokenizer_are_not_mixed_in(world: World, tasks: Tasks, tmp_path: Path) -> None:
    source = shutil.copytree(world.checkpoint("llama"), tmp_path / "mine")
    measure(str(source), tasks_of(tasks, "tiny_choice"), out=tmp_path / "out")
    (source / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(RequestError, match="holds results with other files of the tokenizer or of generation"):
        measure(str(source), tasks_of(tasks, "tiny_choice"), out=tmp_path / "out")


def test_results_of_another_checkpoint_are_not_mixed_in(world: World, tasks: Tasks, tmp_path: Path) -> None:
    measure(f"mine={world.checkpoint('llama')}", tasks_of(tasks, "tiny_choice"), out=tmp_path)
    before = tree(tmp_path)
    neox = world.checkpoint("neox")
    assert refusal(measure, f"mine={neox}", tasks_of(tasks, "tiny_choice"), out=tmp_path) == (
        f"{tmp_path / 'mine'} holds results of another checkpoint (once {world.checkpoint('llama')}); choose another "
        f"--out, or another name: LABEL={neox}"
    )
    assert tree(tmp_path) == before


def test_two_processes_share_the_requests(world: World, tasks: Tasks, finished: Finished, tmp_path: Path) -> None:
    """Equal to one process: numbers and items, and the routed share up to a repeated request or two."""
    adapt = finished("scale-adapt").folder
    source = routed_twin(adapt, tmp_path / "routed", threshold_between(adapt, tasks, tmp_path))
    words = ["eval", source, "--suite", tasks.suite, "--batch-size", "3", "--out", tmp_path / "two"]
    assert together(2, tmp_path, words, patches=tasks.patches).count("stability: Tiny") == 1
    two = read_result(tmp_path / "two" / "routed")
    assert two is not None
    alone = measure(source, suite_tasks(load_suite(tasks.suite)), out=tmp_path / "one")
    for single, shared in zip(alone.measurements, two.measurements, strict=True):
        assert single.key == shared.key
        assert shared.value == pytest.approx(single.value, rel=1e-6)
        assert shared.samples == single.samples
        assert shared.routed == pytest.approx(single.routed, abs=0.1)
        items, shared_items = read_items(alone, single), read_items(two, shared)
        assert items is not None
        assert shared_items == items


# -- what there is, and what there is not ----------------------------------------------------------------------------


def test_definitions_are_those_that_the_harness_builds(tasks: Tasks) -> None:
    """Version, shots and metrics are known before a dataset is loaded, and equal those of the loaded tasks."""
    for task in tasks_of(tasks, *KINDS):
        with quiet():
            loaded = task.manager.load([task.name])
        assert len(task.defined.leaves) == len(loaded["tasks"])
        for leaf in task.defined.leaves:
            built = loaded["tasks"][leaf.task]
            assert leaf.version == str(built.VERSION)
            assert leaf.num_fewshot == built.config.num_fewshot
            assert leaf.metrics == tuple(built.aggregation())
            assert leaf.filters == tuple(ensemble.name for ensemble in built._filters)
    group = tasks_of(tasks, "tiny_micro")[0]
    assert (group.defined.version, group.defined.metrics, group.defined.weights) == (
        None, ("acc", "acc_norm"), {"acc": "micro", "acc_norm": "micro"}
    )  # fmt: skip


def test_tags_and_loose_groups_are_taken_apart(tasks: Tasks) -> None:
    assert [task.name for task in tasks_of(tasks, "tiny_tag")] == ["tiny_choice", "tiny_letters"]
    assert [task.name for task in tasks_of(tasks, "tiny_loose")] == ["tiny_words", "tiny_micro"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["tiny_chioce"], {}, "tiny_chioce: the harness has no such task; did you mean tiny_choice"),
        (["zzz_no_such"], {}, "zzz_no_such: the harness has no such task; list all with: lm_eval ls tasks"),
        (["tiny_choice"], {"limit": 0}, "--limit 0: at least 1"),
        (["tiny_choice"], {"shots": -2}, "--num-fewshot -2: at least 0"),
        (
            ["tiny_unsafe"],
            {},
            "tiny_unsafe runs code that the model writes, which scale eval does not do; choose another",
        ),
    ],
)
def test_a_wrong_name_or_number(names: list[str], options: dict[str, Any], message: str, tasks: Tasks) -> None:
    assert message in refusal(tasks_of, tasks, *names, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tiny_elsewhere",
            "tiny_elsewhere: its dataset org/elsewhere (part) does not load (Couldn't reach 'org/elsewhere' on the "
            'Hub (OfflineModeIsEnabled)); fetch it into the cache once, with access to the hub: python -c "from '
            "lm_eval.tasks import TaskManager; TaskManager(include_path={path!r}).load(['tiny_elsewhere'])\"",
        ),
        (
            "tiny_broken",
            "tiny_broken: the harness does not accept its file {broken}: TaskConfig.__init__() got an "
            "unexpected keyword argument 'tset_split'",
        ),
        ("tiny_gone", "tiny_gone: its data cannot be read: Unable to find '{gone}'"),
    ],
)
def test_missing_data_is_reported_before_a_model_loads(
    name: str, message: str, world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_cli.evaluation.evaluate.load", None)
    source = str(world.checkpoint("llama"))
    gone = tasks.folder / "data" / "gone.jsonl"
    broken = tasks.include_path / "tiny_broken.yaml"
    assert refusal(measure, source, tasks_of(tasks, "tiny_choice", name), out=tmp_path / "out") == message.format(
        path=str(tasks.include_path), gone=gone, broken=broken
    )
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_tokenizer_is_refused_before_it_loads(
    world: World, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_cli.evaluation.evaluate.load", None)
    bare = tmp_path / "bare"
    shutil.copytree(world.checkpoint("llama"), bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(RequestError, match=f"^{bare} has no tokenizer; copy "):
        measure(str(bare), tasks_of(tasks, "tiny_choice"))


def changed(**changes: Any) -> Suite:
    """The suite of the tiny tasks with one task changed."""
    first = {name: value for name, value in (SUITE["tasks"][0] | changes).items() if value is not None}
    return Suite(name="mine", language="en", role="stability", title="Mine", tasks=(first,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "f1"}, "suite mine: tiny_choice has no metric f1; it has acc, acc_norm"),
        ({"filter": "strict"}, "suite mine: tiny_choice has no filter strict; it has none"),
        ({"task": "tiny_tag"}, "suite mine: tiny_tag is a tag, which stands for several tasks; name the tasks"),
        (
            {"task": "tiny_group", "metric": "acc", "aggregation": "micro"},
            "suite mine: tiny_group with aggregation: micro; the harness has macro",
        ),
        (
            {"aggregation": "macro"},
            "suite mine: tiny_choice with aggregation: macro; the harness has none, it is not a group",
        ),
    ],
)
def test_a_suite_with_unknown_entries_is_refused(changes: dict[str, Any], message: str, tasks: Tasks) -> None:
    suite = dataclasses.replace(changed(**changes), include_path=tasks.include_path)
    assert refusal(suite_tasks, suite) == message


def test_code_of_task_files_runs_only_when_confirmed(world: World, tasks: Tasks, tmp_path: Path) -> None:
    folder, ran = tmp_path / "own", tmp_path / "ran"
    shutil.copytree(tasks.folder, folder)
    file = folder / "tasks" / "tiny_choice.yaml"
    text = file.read_text(encoding="utf-8").replace("doc_to_target: label", "doc_to_target: !function own.label")
    code = f"from pathlib import Path\n\ndef label(doc):\n    Path({str(ran)!r}).touch()\n    return doc['label']\n"
    (folder / "tasks" / "own.py").write_text(code, encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    message = refusal(request, suites=[str(folder)])
    assert message == (
        f"{file} names Python functions (!function), which would run; read them, then give --confirm-run-unsafe-code"
    )
    for hidden in ("%TAG !e! !func\n---\ndoc_to_target: !e!tion own.label\n", "process_docs: !<!function> own.label\n"):
        (tmp_path / "_outside_yaml").write_text(hidden, encoding="utf-8")
        file.write_text("include: [../../_outside_yaml]\n", encoding="utf-8")
        assert f"{tmp_path}/_outside_yaml names" in refusal(request, suites=[str(folder)]).replace(
            "own/tasks/../../", ""
        )
    file.write_text(text, encoding="utf-8")
    assert not ran.exists()
    confirmed = request(suites=[str(folder)], confirm_run_unsafe_code=True)
    plain = str(world.checkpoint("llama"))
    jobs: tuple[Any, ...] = confirmed.jobs
    with_code, without = (measure(plain, each) for each in (jobs[:1], tasks_of(tasks, "tiny_choice", shots=0)))
    assert ran.exists()
    assert with_code.find("tiny_choice")[0].value == without.find("tiny_choice")[0].value


def test_templates_of_task_files_run_no_code(world: World, tasks: Tasks, tmp_path: Path) -> None:
    folder, ran = tmp_path / "own", tmp_path / "ran"
    shutil.copytree(tasks.folder, folder)
    file = folder / "tasks" / "tiny_choice.yaml"
    attack = "{{ cycler.__init__.__globals__.os.mkdir('RAN') }}".replace("RAN", str(ran))
    definition = yaml.safe_load(file.read_text(encoding="utf-8")) | {"doc_to_text": attack}
    file.write_text(yaml.safe_dump(definition), encoding="utf-8")
    jobs = find_tasks({"tiny_choice": None}, include_path=folder / "tasks")
    message = refusal(measure, str(world.checkpoint("llama")), jobs)
    assert message == "tiny_choice: its data cannot be read: access to attribute '__init__' of 'type' object is unsafe."
    assert not ran.exists()


def test_a_task_that_is_asked_for_twice_is_run_once(tasks: Tasks, tmp_path: Path) -> None:
    twice = tasks_of(tasks, "tiny_choice", "tiny_words") + tasks_of(tasks, "tiny_choice")
    assert [task.name for task in without_repetitions(twice)] == ["tiny_choice", "tiny_words"]
    copy = tmp_path / "tasks"
    shutil.copytree(tasks.include_path, copy)
    with pytest.raises(RequestError, match=r"^tiny_choice is the name of two different tasks here;"):
        without_repetitions([*twice, *find_tasks({"tiny_choice": None}, include_path=copy)])
