"""The effects of a run: trained and frozen tensors, the run folder, chains of runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from scale_cli.checkpoints.load import describe, load_tokenizer
from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain
from scale_cli.core.recipe import load_recipe
from scale_cli.core.records import fingerprint_folder, read_record, sha256_file
from scale_cli.data.examples import load_examples
from scale_cli.methods import METHODS
from scale_cli.training import TrainRecipe
from scale_cli.training.request import resolve
from scale_cli.training.train import train
from tests.helpers import refusal
from tests.runs import BASES, PARTIAL, Run, World, as_loaded, lines, logits, reload, run, same_tensors

RunOf = Callable[..., Run]


def changed_and_frozen(model: Any, source: str) -> tuple[set[str], set[str]]:
    """The names of the tensors that differ from the checkpoint `source` or are new, and of the frozen ones."""
    original = reload(Path(source)).state_dict()
    frozen = {name for name, _ in model.named_parameters()}
    frozen -= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    changed = set()
    for name, tensor in model.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")  # peft's names
        if plain not in original or not torch.equal(tensor, original[plain]):
            changed.add(name)
    return changed, frozen


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_frozen_stays_bitwise_and_what_trains_moves(
    method: str, family: str, world: World, finished: RunOf
) -> None:
    """With AdamW's weight decay and momentum, which change even a weight with a zero gradient."""
    done = finished(method, family)
    changed, frozen = changed_and_frozen(done.model, world.source(method, family))
    assert (frozen == set()) == METHODS[method].trains_all
    assert changed & frozen == set()
    trained = {name for name, parameter in done.model.named_parameters() if parameter.requires_grad}
    after = done.model.state_dict()
    assert {name for name in trained if torch.equal(after[name], done.untrained[name])} == set()


@pytest.mark.parametrize("how", ["trained", "its gradient zeroed"])
def test_a_frozen_tensor_that_is_not_would_be_seen(how: str, world: World, tmp_path: Path) -> None:
    apply = METHODS["llama-pro"].apply

    def leaky(*args: Any) -> Any:
        model = apply(*args)
        weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
        if how != "trained":
            weight.register_hook(torch.zeros_like)
        return model

    source = world.source("llama-pro")
    model = run(source, tmp_path / "run", world.recipe("llama-pro", steps=1), apply=leaky).model
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    changed, frozen = changed_and_frozen(model, source)
    assert changed & frozen == {"model.layers.0.mlp.up_proj.weight"}


def same_model(a: Any, b: Any) -> bool:
    """The weights are bitwise equal; the logits up to differences from the weights' alignment in memory."""
    return same_tensors(a.state_dict(), b.state_dict()) and torch.allclose(logits(a), logits(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_folder_is_the_trained_model(method: str, family: str, world: World, finished: RunOf) -> None:
    done = finished(method, family)
    assert same_model(reload(done.folder), as_loaded(done.model))
    checkpoint = describe(str(done.folder))
    assert checkpoint.kind == METHODS[method].needs[0]
    assert load_tokenizer(checkpoint).get_vocab() == world.tokenizer.get_vocab()


@pytest.mark.parametrize("method", METHODS)
def test_only_what_was_trained_is_written(method: str, finished: RunOf) -> None:
    done = finished(method, "neox")
    common = {"README.md", "metrics.jsonl", "recipe.yaml", "record.json", "tokenizer.json", "tokenizer_config.json"}
    own = {"model.safetensors", "config.json", "generation_config.json"}
    if method in PARTIAL:
        own = {"trained.safetensors", "trained.json", "generation_config.json"}
        stored = METHODS[method].stored(done.model)
        assert same_tensors(load_file(done.folder / "trained.safetensors"), stored)
        trained = {name for name, p in done.model.named_parameters() if p.requires_grad}
        assert trained == stored.keys() or (method == "osf" and trained < stored.keys())
    assert {path.name for path in done.folder.iterdir()} == common | own


def test_tensorboard_has_the_losses_of_the_metrics(world: World, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(world.source("fft"), tmp_path, world.recipe("fft", steps=3, logging_steps=1, report_to=("tensorboard",)))
    (events,) = tmp_path.glob("runs/*/events.*")
    accumulator = EventAccumulator(str(events)).Reload()
    written = [(event.step, event.value) for event in accumulator.Scalars("train/loss")]
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [(line["step"], pytest.approx(line["loss"])) for line in lines if "loss" in line]
    assert len(losses) == 3
    assert written == losses


def test_lora_unmerged_is_lora_merged(finished: RunOf, tolerance: Callable[[torch.dtype], dict[str, Any]]) -> None:
    done = finished("lora", "llama")
    torch.testing.assert_close(logits(done.model), logits(reload(done.folder)), **tolerance(torch.float32))


@pytest.mark.parametrize("method", ["fft", "lora"])
def test_files_of_a_run_have_the_usual_permissions(method: str, finished: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    assert {file.name for file in finished(method).folder.iterdir() if file.stat().st_mode != usual} == set()


@pytest.mark.parametrize(
    ("method", "resolved"),
    [
        ("fft", {"lr": 1e-4}),
        ("lora", {"lr": 1e-3, "lora_r": 4, "lora_alpha": 4}),
        ("scale-route", {"lr": 1e-3, "preserve_layers": 0, "adapt_modules": ["attention"], "threshold": 0.5}),
    ],
)
def test_the_recipe_beside_a_run_is_resolved(
    method: str, resolved: dict[str, Any], world: World, tmp_path: Path
) -> None:
    """Every used default, and no option of another method; null means "all", "never" and the default cache."""
    given = {
        "method": method,
        "data": str(world.data),
        "lora_r": 4,
        "steps": 1,
        "batch_size": 1,
        "eval_people": "a=0:1",
    }
    train(world.source(method), tmp_path / "run", load_recipe(TrainRecipe, None, given))
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    resolved = resolved | {"seq_length": 512, "precision": "float32", "eval_bios": str(world.data)}
    assert resolved.items() <= saved.items()
    empty = {name for name, value in saved.items() if value is None}
    unused = {"tokens", "epochs", "rehearse", "rehearse_people", "rehearse_weight", "keep_best"}
    never = {"eval_steps", "eval_per_doubling", "save_steps", "save_minutes"}
    assert empty == {"people", "tokens_cache", "eval_documents"} | never | unused
    options = {"lora_r", "lora_alpha", "preserve_layers", "adapt_modules", "threshold", "freeze_layers"}
    assert options & saved.keys() == options & resolved.keys()
    assert read_record(tmp_path / "run" / "record.json")["recipe"] == saved
    assert f"| peak learning rate | {resolved['lr']} |" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    pointer = tmp_path / "run" / "trained.json"
    if pointer.is_file():
        stored = json.loads(pointer.read_text(encoding="utf-8"))["options"]
        assert stored == {name: resolved[name] for name in options & resolved.keys()}


@pytest.mark.parametrize("method", ["fft", "lora", "scale-adapt"])
def test_a_base_in_bfloat16_trains_in_float32_and_stays_so(method: str, world: World, tmp_path: Path) -> None:
    """A run's model is loaded in the dtype of its trained tensors, whatever the dtype of its base."""
    base = tmp_path / "base"
    shutil.copytree(world.source(method, "neox"), base)
    reload(base).to(torch.bfloat16).save_pretrained(base)
    assert reload(base).dtype == torch.bfloat16
    done = run(str(base), tmp_path / "run", world.recipe(method, steps=2))
    assert same_model(reload(done.folder), as_loaded(done.model))


def test_the_pointer_is_relative(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(world.source("freeze"), home / "base")
    done = run(str(home / "base"), home / "runs" / "first", world.recipe("freeze", steps=1))
    again = run(str(done.folder), home / "second", world.recipe("freeze", steps=1))
    (tmp_path / "elsewhere" / "deeper").mkdir(parents=True)
    home.rename(tmp_path / "elsewhere" / "deeper" / "home")
    moved = tmp_path / "elsewhere" / "deeper" / "home"
    assert same_model(reload(moved / "second"), again.model)
    (tmp_path / "link").symlink_to(moved / "runs")
    assert same_model(reload(tmp_path / "link" / "first"), done.model)
    third = run(str(moved / "base"), tmp_path / "link" / "third", world.recipe("freeze", steps=1))
    assert same_model(reload(moved / "runs" / "third"), third.model)
    shutil.rmtree(moved / "base")
    message = f"^{moved}/runs/first was trained from {moved}/base, which does not exist; put it back"
    with pytest.raises(RequestError, match=message):
        describe(str(moved / "second"))


def test_from_scratch_depends_on_the_seed_and_not_on_the_weights(world: World, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(world.checkpoint("neox") / name, bare)
    recipe = world.recipe("fft", from_scratch=True, objective="lm", seq_length=32, steps=2)
    runs = [
        run(str(source), tmp_path / f"{source.name}-{seed}", dataclasses.replace(recipe, seed=seed))
        for source, seed in ((bare, 0), (world.checkpoint("neox"), 0), (bare, 1))
    ]
    weights = [load_file(done.folder / "model.safetensors") for done in runs]
    assert same_tensors(weights[0], weights[1])
    assert not same_tensors(weights[0], weights[2])
    assert read_record(runs[0].folder / "record.json")["base"] == {
        "source": str(bare),
        "revision": None,
        "fingerprint": None,
    }
    with pytest.raises(RequestError, match=r"holds no weights in safetensors.*--from-scratch"):
        train(str(bare), tmp_path / "out", world.recipe("fft"))


def test_the_objective_is_what_it_says(world: World, tmp_path: Path) -> None:
    """The first loss of each objective is the library's own on the first batch, a mean over tokens."""
    for objective, seq_length in (("qa", None), ("lm", 24)):
        recipe = world.recipe("fft", objective=objective, seq_length=seq_length, steps=1)
        batch = load_examples(recipe, world.tokenizer).__getitems__(range(4))
        model = reload(world.checkpoint("neox"))
        with torch.no_grad():
            scores = model(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(scores, batch["labels"][:, 1:].flatten(), ignore_index=-100)
        done = run(str(world.checkpoint("neox")), tmp_path / objective, recipe)
        assert lines(done.folder)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_optimiser_is_adamw_without_decay_of_norms_and_biases(
    weight_decay: float, world: World, tmp_path: Path, tolerance: Callable[[torch.dtype], dict[str, Any]]
) -> None:
    """A plain torch loop gives the same weights: the same batches, clipped gradients, a constant rate."""
    options = {"schedule": "constant", "weight_decay": weight_decay, "adam_epsilon": 1e-3, "max_grad_norm": 0.5}
    recipe = world.recipe("fft", steps=3, **options)
    done = run(world.source("fft", "neox"), tmp_path / "run", recipe)
    assert max(line["grad_norm"] for line in lines(done.folder)) > 0.5

    model = reload(world.checkpoint("neox"))
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith(".weight") and "norm" not in name].append(parameter)
    decays = [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(decays, lr=1e-2, eps=1e-3)
    examples = load_examples(recipe, world.tokenizer)
    for step in range(3):
        model(**examples.__getitems__(range(4 * step, 4 * step + 4))).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
        optimiser.zero_grad()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(done.model.get_parameter(name), parameter, **tolerance(torch.float32))


def test_accumulated_gradients_are_those_of_one_batch(
    world: World, tmp_path: Path, tolerance: Callable[[torch.dtype], dict[str, Any]]
) -> None:
    """Also for questions with answers of different lengths: every token has the same weight."""
    whole = run(world.source("fft"), tmp_path / "whole", world.recipe("fft", batch_size=4, steps=2))
    halves = world.recipe("fft", batch_size=2, gradient_accumulation_steps=2, steps=2)
    parts = run(world.source("fft"), tmp_path / "parts", halves)
    for a, b in zip(lines(whole.folder), lines(parts.folder), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(("method", "family"), [("fft", "neox"), ("lora", "llama"), ("scale-route", "llama")])
def test_gradient_checkpointing_changes_only_memory(method: str, family: str, world: World, tmp_path: Path) -> None:
    recipe = world.recipe(method, steps=2, gradient_checkpointing=True)
    done = run(world.source(method, family), tmp_path / "run", recipe)
    plain = run(world.source(method, family), tmp_path / "plain", world.recipe(method, steps=2))
    for a, b in zip(lines(done.folder), lines(plain.folder), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_bfloat16_is_arithmetic_only(world: World, tmp_path: Path) -> None:
    done = run(world.source("scale-route"), tmp_path / "run", world.recipe("scale-route", precision="bfloat16"))
    assert {tensor.dtype for tensor in load_file(done.folder / "trained.safetensors").values()} == {torch.float32}
    exact = run(world.source("scale-route"), tmp_path / "exact", world.recipe("scale-route", precision="float32"))
    losses = [[line["loss"] for line in lines(folder)] for folder in (done.folder, exact.folder)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_record(world: World, tmp_path: Path) -> None:
    recipe = world.recipe("scale-route", eval_people=("a=0:2", "b=2:3"), eval_steps=3)
    source = world.source("scale-route")
    result = train(source, tmp_path / "run", recipe)
    record = read_record(tmp_path / "run" / "record.json")
    model = reload(tmp_path / "run")
    assert record["total_parameters"] == result.total_parameters == sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.expansion.parameters())
    assert record["trained_parameters"] == result.trained_parameters == trained
    length = max(len(world.tokenizer(text)["input_ids"]) for text in texts_of(world)) + 1
    assert record["tokens"] == result.tokens == 4 * 4 * length
    assert record["base"] == {"source": source, "revision": None, "fingerprint": fingerprint_folder(Path(source))}
    assert record["data"] == {str(world.data): sha256_file(world.data / "manifest.json")}
    assert record["recipe"]["eval_people"] == ["a=0:2", "b=2:3"]
    assert 0 < record["seconds"] == result.seconds
    saved = load_recipe(TrainRecipe, tmp_path / "run" / "recipe.yaml", {})
    assert saved == resolve(recipe, describe(source))
    assert (saved.precision, saved.eval_bios) == ("float32", world.data)
    assert plain(saved) == record["recipe"]

    metrics = {metric["name"]: metric for metric in record["metrics"]}
    assert {name: metric["value"] for name, metric in metrics.items()} == result.metrics
    assert {name for name in metrics if name.count("/") == 1} == {
        f"{people}/{kind}" for people in "ab" for kind in ("hard", "soft", "exact", "routed")
    }
    assert (metrics["a/hard"]["samples"], metrics["b/exact"]["samples"]) == (12, 6)
    again = lines(tmp_path / "run")[-2]
    assert {name: again[name] for name in metrics} == result.metrics


def texts_of(world: World) -> list[str]:
    from scale_cli.data.biographies import read_questions

    return [question.prompt + question.answer for question in read_questions(world.data, (0, 4))]


KINDS = {"plain": "not upscaled", "width": "width-upscaled", "depth": "depth-upscaled"}


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_the_wrong_kind_is_refused(method: str, world: World, tmp_path: Path) -> None:
    wanted = {
        "plain": "a checkpoint that is not upscaled",
        "width": "a width-upscaled checkpoint; make one with: scale upscale BASE OUT --by width --hidden N",
        "depth": "a depth-upscaled checkpoint; make one with: scale upscale BASE OUT --by depth --layers N",
    }[METHODS[method].needs[0]]
    for kind in KINDS.keys() - set(METHODS[method].needs):
        source = str(world.checkpoint("llama", kind))
        message = f"--method {method}: {source} is {KINDS[kind]}; the method needs {wanted}"
        refused, _, others = refusal(train, source, tmp_path / "out", world.recipe(method)).partition("; methods for ")
        assert refused == message
        assert others == f"this one: {', '.join(name for name in METHODS if kind in METHODS[name].needs)}"
    assert list(tmp_path.iterdir()) == []


def test_requests_that_do_not_fit_are_refused_before_anything_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_cli.training.request.get_available_reporting_integrations", list)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    for changes, out, message in (
        ({"eval_people": ("a=0:99",)}, "out", r"^people 0:99: .* has the people 0:24$"),
        ({"eval_people": ("a=0:9",), "eval_bios": full}, "out", "full is not a gen-bios folder"),
        ({"report_to": ("no-such-tracker",)}, "out", "^--report-to no-such-tracker: not installed; installed: none$"),
        (
            {"report_to": ("tensorboard",)},
            "out",
            r"^--report-to tensorboard: not installed; pip install 'scale-cli\[tensorboard\]'$",
        ),
        ({}, "full", r"full already holds files; choose a new or an empty folder, or --resume$"),
    ):
        with pytest.raises(RequestError, match=message):
            train(world.source("fft"), tmp_path / out, world.recipe("fft", **changes))
    with pytest.raises(RequestError, match=r"^--preserve-layers"):
        train(world.source("scale-adapt"), tmp_path / "out", world.recipe("scale-adapt", preserve_layers=2))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
