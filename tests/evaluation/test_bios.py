"""Biography accuracy against a hand-worked example and against a loop over single questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from scale_cli.core.errors import RequestError
from scale_cli.data.biographies import Question, read_questions
from scale_cli.evaluation.bios import BiographyAccuracy, BiographyJob
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.results.measurement import Measurement
from tests.helpers import tiny_base, widened
from tests.runs import Run, World, as_loaded, reload, run

ROUTER_THRESHOLD = 0.55
WORDS = ["<end>", "where", "when", "ann", "bob", "x", "y", "z"]
QUESTIONS = [
    Question(0, "city", "where ann", " x y"),
    Question(0, "day", "when ann", " z"),
    Question(1, "city", "where bob", " y"),
]
PREDICTIONS = {  # the first token's probabilities of x, y and z, and what is then generated
    "where ann": ((0.5, 0.3, 0.2), ["x", "y", "<end>"]),
    "when ann": ((0.1, 0.15, 0.75), ["z", "x"]),
    "where bob": ((0.7, 0.2, 0.1), ["x", "<end>"]),
}


def hand_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, in the order of `WORDS`."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


class Scripted(torch.nn.Module):
    """A model with the outputs of `PREDICTIONS`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, bool, bool]] = []

    def predictions(self, input_ids: torch.Tensor) -> list[tuple[Sequence[float], list[int]]]:
        self.seen.append((len(input_ids), self.training, torch.is_grad_enabled()))
        predictions: list[tuple[Sequence[float], list[int]]] = []
        for row in input_ids.tolist():
            probabilities, answer = PREDICTIONS[" ".join(WORDS[token] for token in row)]
            predictions.append((probabilities, [WORDS.index(word) for word in answer]))
        return predictions

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        logits = torch.full((len(input_ids), 1, len(WORDS)), -math.inf)
        for row, (probabilities, _) in enumerate(self.predictions(input_ids)):
            logits[row, 0, WORDS.index("x") :] = torch.tensor(probabilities).log() + 3.0
        return SimpleNamespace(logits=logits)

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int, **options: Any) -> torch.Tensor:
        generated = [(tokens + [0] * max_new_tokens)[:max_new_tokens] for _, tokens in self.predictions(input_ids)]
        return torch.cat([input_ids, torch.tensor(generated)], dim=1)


def test_an_example_worked_by_hand() -> None:
    accuracy, model = BiographyAccuracy(QUESTIONS, hand_tokenizer()), Scripted()
    sixth = math.sqrt(((1 - 2 / 3) ** 2 * 2 + (2 / 3) ** 2) / 2 / 3)
    assert summary(accuracy.first_token(model)) == [
        ("hard", pytest.approx(2 / 3), pytest.approx(sixth), 3),
        ("hard/city", 0.5, pytest.approx(0.5), 2),
        ("hard/day", 1.0, None, 1),
        ("soft", pytest.approx(1.45 / 3), pytest.approx(np.std([0.5, 0.75, 0.2], ddof=1) / 3**0.5), 3),
        ("soft/city", pytest.approx(0.35), pytest.approx(0.15), 2),
        ("soft/day", pytest.approx(0.75), None, 1),
    ]
    # "z x" is not "z" and end-of-text, though it begins like it.
    assert summary(accuracy.exact_match(model)) == [
        ("exact", pytest.approx(1 / 3), pytest.approx(sixth), 3),
        ("exact/city", 0.5, pytest.approx(0.5), 2),
        ("exact/day", 0.0, None, 1),
    ]


def summary(metrics: Sequence[Measurement]) -> list[tuple[str, float, float | None, int]]:
    assert all(metric.higher_is_better for metric in metrics)
    return [(metric.metric, metric.value, metric.stderr, metric.samples) for metric in metrics]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode(training: bool) -> None:
    accuracy, model = BiographyAccuracy(QUESTIONS, hand_tokenizer()), Scripted().train(training)
    accuracy.first_token(model)
    accuracy.exact_match(model)
    assert model.training == training
    assert model.seen == [(3, False, False)] * 2  # called in eval mode and without gradients
    broken = BiographyAccuracy([Question(0, "city", "where where", " x")], hand_tokenizer())
    for ask in (broken.first_token, broken.exact_match):
        with pytest.raises(KeyError):
            ask(model)
        assert model.training == training
        assert torch.is_grad_enabled()


@torch.no_grad()
def slowly(model: Any, questions: Sequence[Question], tokenizer: Any) -> dict[str, dict[str, list[float]]]:
    """The scores of each question by kind and attribute: one at a time, whole logits, no cache."""
    scores: dict[str, dict[str, list[float]]] = {}
    for question in questions:
        prompt = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(question.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        output = model(torch.tensor([prompt]), use_cache=False)
        probabilities = output.logits[0, -1].double().softmax(-1)
        generated = list(prompt)
        while len(generated) < len(prompt) + len(answer) and generated[-1] != tokenizer.eos_token_id:
            generated.append(int(model(torch.tensor([generated]), use_cache=False).logits[0, -1].argmax()))
        values = {
            "hard": float(probabilities.argmax() == answer[0]),
            "soft": float(probabilities[answer[0]]),
            "exact": float(generated[len(prompt) :] == answer),
        }
        if getattr(output, "preserved", None) is not None:
            values["routed"] = float(output.preserved[0, -1])
        for kind, value in values.items():
            by_attribute = scores.setdefault(kind, {})
            by_attribute.setdefault("", []).append(value)
            if kind != "routed":
                by_attribute.setdefault(f"/{question.attribute}", []).append(value)
    return scores


@pytest.fixture(scope="module")
def memoriser(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model trained on the answers about the first two people."""
    recipe = world.recipe("fft", people="0:2", batch_size=12, steps=60, lr=1e-2, weight_decay=0.0)
    return run(world.source("fft", "neox"), tmp_path_factory.mktemp("memoriser") / "run", recipe)


@pytest.fixture(scope="module", params=["memoriser", "router"])
def scored_questions(
    request: pytest.FixtureRequest, memoriser: Run, world: World
) -> tuple[Any, list[Question], dict[str, dict[str, list[float]]]]:
    """A model, questions of which it gets some right or takes some for the preserve branch, and their slow scores."""
    questions = read_questions(world.data, (1, 3))
    model = memoriser.model
    if request.param == "router":
        base = tiny_base("neox", vocab_size=len(world.tokenizer))
        model = widened(base, layers=(1, 2), modules=("attention", "ffn"), threshold=ROUTER_THRESHOLD)
    scores = slowly(model, questions, world.tokenizer)
    for kind in ("routed",) if request.param == "router" else ("hard", "exact"):
        assert 0 < scores[kind][""].count(1.0) < len(questions)
    return model, questions, scores


def test_what_was_learnt_by_heart_is_exact(memoriser: Run, world: World) -> None:
    known = BiographyAccuracy(read_questions(world.data, (0, 2)), world.tokenizer)
    values = {
        metric.metric: metric.value
        for metric in known.first_token(memoriser.model) + known.exact_match(memoriser.model)
    }
    assert {name for name, value in values.items() if value != 1.0} == {n for n in values if n.startswith("soft")}
    assert all(value > 0.8 for value in values.values())
    unknown = BiographyAccuracy(read_questions(world.data, (20, 24)), world.tokenizer)
    assert unknown.exact_match(memoriser.model)[0].value < 0.5


@pytest.mark.parametrize("batch_size", [5, 512])
def test_the_slow_loop_finds_the_same(batch_size: int, scored_questions: Any, world: World) -> None:
    model, questions, scores = scored_questions
    accuracy = BiographyAccuracy(questions, world.tokenizer, batch_size=batch_size)
    measurements = accuracy.first_token(model) + accuracy.exact_match(model)
    kinds = ("hard", "soft", *scores.keys() & {"routed"}, "exact")
    assert [metric.metric for metric in measurements] == [
        f"{kind}{attribute}" for kind in kinds for attribute in scores[kind]
    ]
    for metric in measurements:
        kind, slash, attribute = metric.metric.partition("/")
        values = scores[kind][slash + attribute]
        assert (metric.samples, metric.higher_is_better) == (len(values), True)
        assert metric.value == pytest.approx(np.mean(values), abs=1e-6)
        assert metric.stderr == pytest.approx(np.std(values, ddof=1) / len(values) ** 0.5, abs=1e-6)


def test_exact_is_greedy_whatever_the_generation_config_says(memoriser: Run, world: World) -> None:
    questions = read_questions(world.data, (0, 2))
    accuracy = BiographyAccuracy(questions, world.tokenizer)
    model = memoriser.model
    greedy, before = values(accuracy.exact_match(model)), model.generation_config
    others = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3, "temperature": 0.1}
    model.generation_config = GenerationConfig(**others)
    try:
        assert values(accuracy.exact_match(model)) == greedy
        assert model.generation_config.num_beams == 3
    finally:
        model.generation_config = before


def values(metrics: Sequence[Measurement]) -> dict[str, float]:
    """Values by metric. Memory alignment may change the last bits of soft accuracy for equal weights."""
    return {metric.metric: metric.value for metric in metrics}


def measured(sources: Sequence[str], job: BiographyJob) -> dict[str, list[Measurement]]:
    """The measurements of `scale eval --bios`, by source."""
    named = [f"{number}={source}" for number, source in enumerate(sources)]
    return {result.checkpoint.source: result.find(job.label) for result in evaluate(named, [job])}


def test_measurements_are_the_metrics_and_are_kept(world: World, finished: Callable[..., Run], tmp_path: Path) -> None:
    source = str(finished("scale-route").folder)
    (result,) = evaluate([f"route={source}"], [BiographyJob(world.data, "3:4")], out=tmp_path, batch_size=2)
    accuracy = BiographyAccuracy(read_questions(world.data, (3, 4)), world.tokenizer, batch_size=2)
    model = reload(Path(source))
    for m, metric in zip(result.measurements, accuracy.first_token(model) + accuracy.exact_match(model), strict=True):
        assert (m.task, m.metric, m.value) == ("bios:3:4", metric.metric, metric.value)
        assert (m.stderr, m.samples) == (metric.stderr, metric.samples)
        assert (m.batch_size, m.dtype, m.higher_is_better, m.limit) == (2, "float32", True, None)
    shares = {m.routed for m in result.measurements if m.metric != "routed"}
    assert shares == {m.value for m in result.find("bios:3:4", "routed")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scale_cli.evaluation.evaluate.load", None)
        assert evaluate([f"route={source}"], [BiographyJob(world.data, "3:4")], out=tmp_path) == [result]
    (more,) = evaluate([f"route={source}"], [BiographyJob(world.data, "3:5")], out=tmp_path)
    assert [m.task for m in more.measurements] == ["bios:3:4"] * len(result.measurements) + ["bios:3:5"] * (
        len(more.measurements) - len(result.measurements)
    )


def test_every_kind_of_checkpoint_is_measured(world: World, finished: Callable[..., Run]) -> None:
    runs = {method: finished(method) for method in ("lora", "scale-route")}
    sources = [str(world.checkpoint("llama", kind)) for kind in ("plain", "width", "depth")]
    sources += [str(done.folder) for done in runs.values()]
    results = measured(sources, BiographyJob(world.data, "3:4"))
    assert list(results) == sources
    plain = pytest.approx(values(results[sources[0]]), rel=1e-5)
    for source in sources[1:3]:  # upscaled: the same function
        assert values(results[source]) == plain
    accuracy = BiographyAccuracy(read_questions(world.data, (3, 4)), world.tokenizer)
    for method, done in runs.items():
        model = as_loaded(done.model)
        measured_values = values(results[str(done.folder)])
        wanted = values(accuracy.first_token(model) + accuracy.exact_match(model))
        assert measured_values == pytest.approx(wanted, rel=1e-5)
        assert ("routed" in measured_values) == (method == "scale-route")
        assert measured_values != plain
    assert measured(sources[:1], BiographyJob(world.data))[sources[0]][0].samples == 24 * 6


def test_bad_requests_are_refused_before_a_model_is_loaded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale_cli.evaluation.evaluate.load", None)
    for bios, people, batch_size, message in (
        (tmp_path, None, None, "is not a gen-bios folder"),
        (world.data, "0:25", None, "^people 0:25: .* has the people 0:24$"),
        (world.data, "all", None, "^--people 'all': write A:B"),
        (world.data, None, 0, "^--batch-size 0: at least 1, or auto$"),
    ):
        with pytest.raises(RequestError, match=message):
            evaluate([world.source("fft")], [BiographyJob(bios, people)], batch_size=batch_size)
