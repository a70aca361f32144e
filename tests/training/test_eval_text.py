"""Perplexity during training: at each measured step equal to that of `scale eval`, with standard errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.core.errors import RequestError
from scale_cli.core.records import forget_peak_memory, peak_memory_bytes, read_record
from scale_cli.data.corpora import read_corpora
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.perplexity import PerplexityJob
from scale_cli.training.train import train
from tests.runs import World, korean_texts, lines, reload

NUMBERS = {"perplexity", "bits_per_byte", "bits_per_character"}


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    return korean_texts(tmp_path)


def options(texts: dict[str, Path], **changes: Any) -> dict[str, Any]:
    own = {
        "data": (str(texts["train"]),),
        "objective": "lm",
        "people": None,
        "seq_length": 24,
        "eval_text": (f"english={texts['english']}", f"korean={texts['korean']}"),
        "eval_documents": 4,
        "eval_steps": 2,
    }
    return own | changes


def by_scale_eval(checkpoint: str, texts: dict[str, Path]) -> dict[str, float]:
    """The result of `scale eval --perplexity` for the same documents in windows of the same length."""
    corpora = read_corpora([f"{name}={texts[name]}" for name in ("english", "korean")], limit=4)
    (result,) = evaluate([f"x={checkpoint}"], [PerplexityJob(corpus, WindowOptions(24)) for corpus in corpora])
    return {f"{m.task.partition(':')[2]}/{m.metric}": m.value for m in result.measurements}


def test_beside_questions_windows_are_as_long_as_the_context(
    world: World, texts: dict[str, Path], tmp_path: Path
) -> None:
    source, out = str(shutil.copytree(world.checkpoint("llama"), tmp_path / "base")), tmp_path / "run"
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8")) | {
        "max_position_embeddings": 48
    }
    (tmp_path / "base" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    train(source, out, world.recipe("fft", steps=1, eval_text=(f"korean={texts['korean']}",)))
    (corpus,) = read_corpora([f"korean={texts['korean']}"])
    (result,) = evaluate([f"x={source}"], [PerplexityJob(corpus, WindowOptions())])
    for m in result.measurements:
        assert lines(out)[0][f"korean/{m.metric}"] == pytest.approx(m.value, rel=1e-5)


@pytest.mark.parametrize("method", ["fft", "lora", "scale-route"])
def test_the_numbers_are_those_of_scale_eval(method: str, world: World, texts: dict[str, Path], tmp_path: Path) -> None:
    source, out = world.source(method), tmp_path / "run"
    train(source, out, world.recipe(method, **options(texts)))
    measured = [line for line in lines(out) if "english/bits_per_byte" in line]
    assert [line["step"] for line in measured] == [0, 2, 4]
    for line, checkpoint in ((measured[0], source), (measured[-1], str(out))):
        wanted = by_scale_eval(checkpoint, texts)
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert measured[0]["korean/bits_per_byte"] > measured[-1]["korean/bits_per_byte"]
    record = read_record(out / "record.json")
    metrics = {metric["name"]: metric for metric in record["metrics"]}
    names = NUMBERS | ({"routed"} if method == "scale-route" else set())
    assert set(metrics) == {f"{language}/{name}" for language in ("english", "korean") for name in names}
    for name, metric in metrics.items():
        assert (metric["value"], metric["samples"]) == (measured[-1][name], 4)
        assert metric["higher_is_better"] == name.endswith("routed")
        assert metric["stderr"] >= 0
    if method == "scale-route":
        assert 0 <= metrics["korean/routed"]["value"] <= 1
    corpora = read_corpora([f"korean={texts['korean']}"], limit=4)
    assert record["eval_text"]["korean"] == {
        "source": str(texts["korean"]),
        "documents": 4,
        "sha256": corpora[0].sha256,
    }


def test_measuring_changes_nothing_that_is_trained(world: World, texts: dict[str, Path], tmp_path: Path) -> None:
    weights = []
    for name, changes in (("with", {}), ("without", {"eval_text": (), "eval_documents": None, "eval_steps": None})):
        train(world.source("scale-adapt"), tmp_path / name, world.recipe("scale-adapt", **options(texts, **changes)))
        weights.append(reload(tmp_path / name).state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_what_does_not_fit_is_refused_before_anything_is_written(
    world: World, texts: dict[str, Path], tmp_path: Path
) -> None:
    for changes, message in (
        ({"eval_text": ("a=x",), "eval_people": ("a=0:2",)}, "--eval-text: a is also a name in --eval-people"),
        ({"eval_documents": 0}, "--eval-documents 0: at least 1"),
    ):
        with pytest.raises(ValueError, match=r"^--eval") as caught:
            train(world.source("fft"), tmp_path / "out", world.recipe("fft", **options(texts, **changes)))
        assert str(caught.value).startswith(message)
        assert not (tmp_path / "out").exists()


def test_the_command(world: World, texts: dict[str, Path], tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    words = ["--data", texts["train"], "--steps", "1", "--seq-length", "24", "--batch-size", "2"]
    text = f"korean={texts['korean']}"
    ended = run_cli("train", world.source("fft"), tmp_path / "run", *words, "--eval-text", text, "--eval-documents", 3)
    assert ended.code == 0
    assert "korean/bits_per_byte" in ended.stdout


def test_a_run_resumed_elsewhere_may_find_its_texts_elsewhere(
    world: World, texts: dict[str, Path], tmp_path: Path
) -> None:
    recipe = world.recipe("fft", **options(texts, save_steps=2))

    def stop(step: int, steps: int) -> None:
        if step == 3:
            raise RequestError("stop")

    with pytest.raises(RequestError, match=r"^stop$"):
        train(world.source("fft"), tmp_path / "run", recipe, progress=stop)
    moved = {name: file.rename(file.with_suffix(".moved.jsonl")) for name, file in texts.items()}
    again = world.recipe("fft", **options(moved, save_steps=2))
    train(world.source("fft"), tmp_path / "run", again, resume=True)
    assert [line["step"] for line in lines(tmp_path / "run") if "korean/perplexity" in line] == [0, 2, 4]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets it")
def test_peak_memory_is_that_since_it_was_forgotten() -> None:
    forget_peak_memory()
    before = peak_memory_bytes()
    held = torch.ones(32 * 2**20)
    peak = peak_memory_bytes()
    assert peak - before > 0.9 * held.nbytes
    del held
    assert peak_memory_bytes() == pytest.approx(peak, rel=0.01)
    forget_peak_memory()
    assert peak_memory_bytes() < peak - 2**26
