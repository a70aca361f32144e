"""A tiny world for training: biographies of 24 people, a tokenizer, checkpoints of every kind, and short recipes of
trainings and benchmarks."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

import data_gen
from scale_cli.bench.stages import BenchResult
from scale_cli.bench.tokenizer import END_OF_TEXT, train_tokenizer
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.core.recipe import load_recipe
from scale_cli.data.biographies import read_biographies, read_questions
from scale_cli.methods import METHODS
from scale_cli.surgery import upscale
from scale_cli.training import TrainRecipe
from scale_cli.training.train import train
from tests.helpers import tiny_base

PEOPLE = 24
BASES = {"llama": "llama-grouped", "neox": "neox"}
"""The base of each family in `tests.helpers`; the head of llama is tied."""
PARTIAL = [name for name, method in METHODS.items() if not method.trains_all]
"""The methods that do not train every tensor. Their runs store trained tensors and a pointer to the base."""


@dataclass(frozen=True)
class World:
    """folder: contains everything. data: a gen-bios folder. tokenizer: trained on it, saved with every checkpoint."""

    folder: Path
    data: Path
    tokenizer: PreTrainedTokenizerFast

    def checkpoint(self, family: str, kind: str = "plain") -> Path:
        """The checkpoint of a family ("llama", "neox") and a kind: float32, two layers of the base."""
        return self.folder / f"{family}-{kind}"

    def source(self, method: str, family: str = "llama") -> str:
        """The checkpoint that a method trains."""
        return str(self.checkpoint(family, METHODS[method].needs[0]))

    def recipe(self, method: str, **changes: Any) -> TrainRecipe:
        """Four steps on the questions of four people, with rates large enough for visible effects."""
        options: dict[str, Any] = {
            "method": method,
            "data": (str(self.data),),
            "objective": "qa",
            "people": "0:4",
            "steps": 4,
            "batch_size": 4,
            "lr": 1e-2,
            "weight_decay": 0.1,
            "logging_steps": 1,
            "lora_r": 4,
            "freeze_layers": 1,
            "preserve_layers": 1,
        }
        return load_recipe(TrainRecipe, None, options | changes)

    def command(self, method: str, out: Path, **options: Any) -> list[str]:
        """The words of `scale train` with these options, by key, and small sizes of the methods' own."""
        given = {"method": method, "data": self.data, "lora_r": 4, "freeze_layers": 1, "preserve_layers": 1, **options}
        flags = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        return ["train", self.source(method), str(out), *flags]


def make_world(folder: Path) -> World:
    """Make the world in an empty folder."""
    data = folder / "data"
    data_gen.generate(data, people=PEOPLE, bios=2, seed=0, workers=1)
    texts = read_biographies(data) + [question.prompt + question.answer for question in read_questions(data)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, "bpe", 512), eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    world = World(folder, data, tokenizer)
    for family, name in BASES.items():
        plain = world.checkpoint(family)
        save(tiny_base(name, vocab_size=len(tokenizer), num_hidden_layers=2), plain, tokenizer)
        upscale(str(plain), world.checkpoint(family, "width"), by="width", hidden=8, ffn=8, verify=False)
        upscale(str(plain), world.checkpoint(family, "depth"), by="depth", layers=3, verify=False)
    return world


def save(model: Any, folder: Path, tokenizer: Any) -> Path:
    """Save a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reload(folder: Path) -> Any:
    """The model of a checkpoint, as `scale eval` and `scale train` load it."""
    return load_model(describe(str(folder)))


def lines(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts have the same names and bitwise the same values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def progress_that(act: Callable[[], None], *, at: int) -> Callable[[int, int], None]:
    """A progress callback that calls `act` after step `at`."""

    def progress(step: int, steps: int) -> None:
        if step == at:
            act()

    return progress


@dataclass(frozen=True)
class Run:
    """A finished run and the trained model object, in eval mode (for lora still wrapped by peft).

    untrained: the model's tensors before the first step, by name.
    """

    folder: Path
    model: Any
    untrained: dict[str, torch.Tensor]


def run(
    source: str, folder: Path, recipe: TrainRecipe, *, apply: Callable[..., Any] | None = None, **options: Any
) -> Run:
    """Train as `scale train` does, and keep the model. apply: used instead of the method's own."""
    seen: list[tuple[Any, dict[str, torch.Tensor]]] = []
    method = METHODS[recipe.method]

    def watched(*args: Any) -> Any:
        model = (apply or method.apply)(*args)
        seen.append((model, copy.deepcopy(model.state_dict())))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, method.name, dataclasses.replace(method, apply=watched))
        train(source, folder, recipe, **options)
    model, untrained = seen[-1]  # the earlier ones belong to previous runs of the source
    return Run(folder, model.eval(), untrained)


def as_loaded(model: Any) -> Any:
    """The model that loading a run returns: this trained model itself, or LoRA merged into its base."""
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


@torch.no_grad()
def logits(model: Any, *, seed: int = 0) -> torch.Tensor:
    """Logits on random tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (2, 9), generator=generator)
    return model(tokens, use_cache=False).logits


# Benchmarks

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def silent(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
    """Progress of a stage without output."""
    yield lambda **steps: None


def interrupting(stage: str, step: int | None) -> Any:
    """Progress that sends SIGINT at a step of a stage (None: the first reported one), with a list `begun` of the
    labels, lengths and starts of the stages."""
    begun: list[tuple[str, int | None, int]] = []

    @contextlib.contextmanager
    def progress(label: str, total: int | None, *, done: int) -> Iterator[Callable[..., None]]:
        begun.append((label, total, done))

        def advance(done: int, total: int | None = None, note: str = "") -> None:
            if label.startswith(stage) and step in (None, done):
                os.kill(os.getpid(), signal.SIGINT)

        yield advance

    progress.begun = begun  # type: ignore[attr-defined]
    return progress


def values(result: BenchResult) -> dict[str, dict[str, float]]:
    """A benchmark's measured values, by the checkpoint's label and the measurement's name."""
    return {each.checkpoint.label: {m.name: m.value for m in each.measurements} for each in result.results}


TINY_BENCH: dict[str, Any] = {
    "people": 16,
    "bios": 2,
    "data_seed": 7,
    "pretrain_people": 8,
    "task1_people": 4,
    "tokenizer": "word",
    "model": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    },
    "width": {"hidden": 8, "heads": 1, "ffn": 8},
    "depth": {"layers": 3},
    "stages": {
        "pretrain": {"steps": 6, "batch_size": 4, "seq_length": 32, "lr": 1e-3},
        "task0": {"steps": 40, "batch_size": 24, "lr": 1e-2},
        "task1": {"steps": 60, "batch_size": 24, "eval_steps": 30, "preserve_layers": 1, "lr": 1e-2},
    },
    "methods": {"fft": {"lr": 2e-2}, "scale-route": {}},
    "task0_needed": 0.0,
}
"""A biography benchmark of seconds, in which Task 1 is learnt and Task 0 never is."""


def bench_file(folder: Path, **changes: Any) -> str:
    """The tiny benchmark as a recipe file, with changes; a change of None leaves the key out."""
    values = {name: value for name, value in (TINY_BENCH | changes).items() if value is not None}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(file)


KOREAN = (
    "가나다라 마바사아 자차카타 파하가나 다라마바",
    "국회는 법률안을 심의하고 의결한다. 이 법은 공포한 날부터 시행한다.",
    "대통령은 국민 앞에 엄숙히 선서하고 나라의 앞날을 말하였다.",
)
ENGLISH = ("Ann Lee was born in Lima and works for a bank.", "She studied music at a university in Boston.")


def korean_texts(folder: Path) -> dict[str, Path]:
    """Files of text: some Korean to train on, and held-out documents of both languages."""
    texts = {
        "train": [f"{text} {number}" for number in range(12) for text in KOREAN],
        "english": [f"{text} {number}" for number in range(3) for text in ENGLISH],
        "korean": [f"{number} {text}" for number in range(2) for text in KOREAN],
    }
    files = {name: folder / f"{name}.jsonl" for name in texts}
    for name, rows in texts.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows)
        files[name].write_text("".join(lines), encoding="utf-8")
    return files


def continual_bench(folder: Path, checkpoint: Path, /, **changes: Any) -> str:
    """A benchmark of continual pre-training of seconds as a recipe file in `folder`, with changes; one of None leaves
    the key out."""
    files = korean_texts(folder)
    recipe: dict[str, Any] = {
        "base": str(checkpoint),
        "train_data": [str(files["train"])],
        "texts": {
            "english": held_out(files["english"], "stability", documents=5),
            "korean": held_out(files["korean"], "plasticity", documents=6),
        },
        "width": {"hidden": 8, "ffn": 8},
        "depth": {"layers": 3},
        "training": {
            "steps": 4,
            "batch_size": 2,
            "seq_length": 32,
            "lr": 1e-2,
            "eval_steps": 2,
            "preserve_layers": 1,
            "freeze_layers": 1,
            "logging_steps": 1,
        },
        "methods": {"fft": {"lr": 2e-2}, "lora": {}, "scale-preserve": {}, "scale-route": {}},
    }
    file = folder / "korean.yaml"
    entries = {name: value for name, value in (recipe | changes).items() if value is not None}
    file.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    return str(file)


def held_out(source: object, role: str, *, documents: int) -> dict[str, Any]:
    """A held-out text of a recipe; two of its documents are measured during training."""
    return {"source": str(source), "role": role, "documents": documents, "documents_while_training": 2}
