"""One checkpoint measured and exported under other routers than its own, and a trained model beside its base."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.checkpoints.router import FRONTIER, is_average
from scale_cli.core.errors import RequestError
from scale_cli.data.corpora import Corpus
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.bios import BiographyJob
from scale_cli.evaluation.evaluate import Job, evaluate
from scale_cli.evaluation.harness import find_tasks
from scale_cli.evaluation.pair import Pair
from scale_cli.evaluation.perplexity import PerplexityJob, TextPerplexity, document_sums
from scale_cli.evaluation.readings import most_lost_bound, sums_by_router
from scale_cli.evaluation.subject import load, targets
from scale_cli.model.mixture import read
from scale_cli.results.result import Result
from tests.helpers import probe, tiny_base, widened
from tests.runs import Run, World, save
from tests.tasks import Tasks

Finished = Callable[..., Run]
TEXTS = Corpus("texts", "texts.txt", ("Anna was born in Rome.", "She studied law there, and music.", "He sings."))
CPU = torch.device("cpu")
ROUTERS: list[dict[str, Any] | None] = [
    None,
    {"kind": "mixture", "share": 0.0, "prior": 0.5},
    {"kind": "mixture", "share": 0.03, "prior": 0.3},
    {"kind": "mixture", "share": 1.0, "prior": 0.4},
    {"kind": "interpolate", "weight": 0.4},
]


def values(result: Result) -> dict[tuple[str, str], float]:
    return {(m.task, m.metric): m.value for m in result.measurements}


@pytest.mark.parametrize("method", ["scale-preserve", "scale-route", "lora"])
def test_routers_are_measured_side_by_side(method: str, world: World, finished: Finished, tmp_path: Path) -> None:
    """In one call, in one call each, and (a widened model) in a checkpoint that stores the router."""
    folder = finished(method).folder
    routers = ["none", "mixture:0", "mixture:1:0.25", "interpolate:0.5"]
    routers += ["cosine:0.9"] * (method == "scale-route")
    jobs: list[Job] = [PerplexityJob(TEXTS, WindowOptions(64, packing="documents")), BiographyJob(world.data, "0:2")]
    results = evaluate([f"run={folder}"], jobs, routers=routers, out=tmp_path)
    assert [result.checkpoint.label for result in results] == [f"run-{r.replace(':', '-')}" for r in routers]
    assert [result.checkpoint.router for result in results] == routers
    assert len({result.checkpoint.fingerprint for result in results}) == len(routers)
    (alone,) = evaluate([f"run={folder}"], jobs, routers=routers[2:3])
    assert values(alone) == pytest.approx(values(results[2]), rel=1e-5)
    for text, result in zip(routers, results, strict=True):
        (bits,) = result.find("perplexity:texts", "bits_per_byte")
        assert (bits.routed is None) == (text in ("none", "interpolate:0.5"))
        if text == "mixture:1:0.25":
            assert bits.routed == pytest.approx(0.25)
    if method != "lora":
        export(str(folder), tmp_path / "exported", router=routers[2])
        (stored,) = evaluate([str(tmp_path / "exported")], jobs)
        assert values(stored) == pytest.approx(values(results[2]), rel=1e-5)
    assert values(results[0])["perplexity:texts", "perplexity"] != values(results[1])["perplexity:texts", "perplexity"]
    assert evaluate([f"run={folder}"], jobs, routers=routers, out=tmp_path) == results
    if method == "lora":  # two models under a router, one without
        counts = [result.checkpoint.parameters["total"] for result in results]
        assert counts == [counts[0], *[2 * (counts[0] or 0)] * 3]


@pytest.mark.parametrize("shape", ["preserve", "adapt", "pair"])
@torch.no_grad()
def test_one_forward_pass_gives_what_each_router_gives(shape: str, world: World) -> None:
    """Windows of several lengths, also overlapping; the model's own forward is the oracle."""
    size = len(world.tokenizer)
    base = tiny_base("llama-grouped", vocab_size=size)
    if shape == "pair":
        model: Any = Pair(widened(tiny_base("llama-grouped", vocab_size=size)), base)
        model.trained.set_router(None)
    else:
        collaborating: dict[str, Any] = {"layers": (1,), "modules": ("attention",)} if shape == "adapt" else {}
        model = widened(base, **collaborating)
    for options in (WindowOptions(9, packing="documents"), WindowOptions(8, 3), WindowOptions(64)):
        job = PerplexityJob(TEXTS, options)
        windows = windows_of(job, world)
        together = sums_by_router(model, windows, 2, ROUTERS)
        for router, sums in zip(ROUTERS, together, strict=True):
            model.set_router(router)
            alone = document_sums(model, windows, 2)
            assert sums.losses == pytest.approx(alone.losses, rel=1e-5)
            assert sums.preserved == pytest.approx(alone.preserved, rel=1e-5)
        model.set_router(None)
    assert together[0].most_lost is not None
    assert together[1].most_lost is not None
    assert together[1].most_lost <= math.log(2) + 1e-9 < together[0].most_lost


def windows_of(job: PerplexityJob, world: World) -> Any:
    length = job.options.length or 64
    stride = job.options.stride or length
    text = TextPerplexity(job.corpus, world.tokenizer, length=length, stride=stride, packing=job.options.packing)
    return text.windows


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@torch.no_grad()
def test_the_bound_holds_for_every_share_and_is_reached(share: float) -> None:
    """A base that is right and an adapted model that is wrong about every token lose exactly the bound."""
    router = {"share": share, "prior": 0.3}
    base = torch.tensor([[[0.0, -50.0], [0.0, -50.0], [0.0, -50.0]]], dtype=torch.float64)
    tokens = torch.zeros(1, 3, dtype=torch.long)
    logits, _ = read({"kind": "mixture", **router}, base, base.flip(-1), tokens)
    lost = -logits[0, :, 0].sum() + base.log_softmax(-1)[0, :, 0].sum()
    assert lost == pytest.approx(most_lost_bound(router, 3), rel=1e-9)


def test_most_lost_is_reported_with_its_bound(finished: Finished) -> None:
    job = PerplexityJob(TEXTS, WindowOptions(64, packing="documents"))
    results = evaluate([f"run={finished('scale-preserve').folder}"], [job], routers=["none", "mixture:0", "mixture:1"])
    lost = [result.find("perplexity:texts", "most_lost_nats")[0] for result in results]
    assert "most_lost_bound" not in lost[0].details
    assert lost[1].details["most_lost_bound"] == pytest.approx(math.log(2))
    assert lost[1].value <= math.log(2) + 1e-9
    tokens = max(lost[2].details["tokens"], 1)
    assert math.log(2) < lost[2].details["most_lost_bound"] <= tokens * math.log(2)


def test_a_base_is_named_for_a_whole_model(world: World, finished: Finished, tmp_path: Path) -> None:
    folder, base = finished("fft").folder, world.checkpoint("llama")
    with pytest.raises(RequestError, match=r"--router mixture:0: .* is a whole model without its base .*: --base BASE"):
        targets([str(folder)], routers=["mixture:0"], dtype=None, device=CPU)
    job = PerplexityJob(TEXTS, WindowOptions(64))
    results = evaluate([f"run={folder}"], [job], routers=["none", "interpolate:0", "interpolate:1"], base=str(base))
    (of_base,) = evaluate([str(base)], [job])
    nats = [result.find("perplexity:texts")[0].details["nll"] for result in (*results, of_base)]
    assert nats[0] == pytest.approx(nats[2], rel=1e-6)
    assert nats[1] == pytest.approx(nats[3], rel=1e-6)
    assert abs(nats[2] - nats[3]) > 1e-4


@pytest.mark.parametrize(("method", "family"), [("fft", "llama"), ("fft", "neox"), ("lora", "llama")])
def test_averaged_weights_are_measured_as_the_model_that_has_them(
    method: str, family: str, world: World, finished: Finished, tmp_path: Path
) -> None:
    """Beside other routers in one call; the oracle is a folder with the averaged weights. Its ends are both models."""
    folder, base = finished(method, family).folder, world.checkpoint(family)
    model, of_base = load_model(describe(str(folder))), load_model(describe(str(base)))
    with torch.no_grad():
        for own, theirs in zip(model.parameters(), of_base.parameters(), strict=True):
            own.copy_(theirs + 0.3 * (own - theirs))
    save(model, tmp_path / "averaged", world.tokenizer)
    jobs: list[Job] = [PerplexityJob(TEXTS, WindowOptions(64)), BiographyJob(world.data, "0:2")]
    routers = ["none", "weights:1", "weights:0", "interpolate:0", "mixture:1", "weights:0.3"]
    results = evaluate([f"run={folder}"], jobs, routers=routers, base=str(base))
    (averaged,) = evaluate([str(tmp_path / "averaged")], jobs)
    by_router = {result.checkpoint.router: values(result) for result in results}
    assert by_router["weights:0.3"] == pytest.approx(values(averaged), rel=1e-4)
    for weights, reading in (("weights:1", "none"), ("weights:0", "interpolate:0")):
        shared = by_router[weights].keys() & by_router[reading].keys()
        assert len(shared) > 20
        assert {k: by_router[weights][k] for k in shared} == pytest.approx(
            {k: by_router[reading][k] for k in shared}, rel=1e-5
        )
    nats = [by_router[router]["perplexity:texts", "perplexity"] for router in ("weights:0", "weights:0.3", "weights:1")]
    assert len(set(nats)) == 3
    counts = {result.checkpoint.router: result.checkpoint.parameters["total"] for result in results}
    assert counts["weights:0.3"] == counts["none"] == (counts["mixture:1"] or 0) / 2  # one model predicts
    assert all(m.routed is None for m in results[-1].measurements)


def test_a_base_with_other_parameters_is_refused(world: World, finished: Finished, tmp_path: Path) -> None:
    """The same sizes, but a head of its own."""
    other = tiny_base("llama-grouped", vocab_size=len(world.tokenizer), num_hidden_layers=2, tie_word_embeddings=False)
    base = save(other, tmp_path / "base", world.tokenizer)
    (target,) = targets([str(finished("fft").folder)], routers=["weights:0.5"], base=str(base), dtype=None, device=CPU)
    with pytest.raises(RequestError, match=r"^--router weights:0\.5: .*: the base has other parameters, so "):
        load(target, device=CPU, batch_size=2, seed=0)


def test_the_frontier_is_what_a_checkpoint_can_have(finished: Finished) -> None:
    """Also of several checkpoints in one call; averaged weights are for those with the base's parameters alone."""
    folders = {method: str(finished(method).folder) for method in ("lora", "llama-pro", "scale-preserve")}
    sources = [f"{method}={folder}" for method, folder in folders.items()]
    described = targets(sources, frontier=True, dtype="float32", device=CPU)
    found = {method: {t.router for t in described if t.checkpoint.source == folders[method]} for method in folders}
    assert found["lora"] == set(FRONTIER)
    assert found["llama-pro"] == found["scale-preserve"] == {text for text in FRONTIER if not is_average(text)}
    assert len(found["lora"]) == len(found["llama-pro"]) + 5


def test_new_blocks_are_skipped_in_the_base(world: World, finished: Finished) -> None:
    folder = finished("llama-pro").folder
    (target,) = targets([str(folder)], routers=["interpolate:0"], dtype="float32", device=CPU)
    subject = load(target, device=CPU, batch_size=2, seed=0)
    base = load_model(describe(str(world.checkpoint("llama"))), dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(subject.model(probe()).logits, base(probe()).logits)


@pytest.mark.parametrize("router", ["mixture:0.1", "interpolate:0.5"])
def test_the_harness_measures_a_pair_as_the_widened_model(
    router: str, world: World, tasks: Tasks, finished: Finished
) -> None:
    """A widened model beside its own base makes the predictions of the widened model alone."""
    (target,) = targets([str(finished("scale-preserve").folder)], routers=[router], dtype="float32", device=CPU)
    subject = load(target, device=CPU, batch_size=3, seed=0)
    wide = copy.deepcopy(subject.model)
    wide.set_router(None)
    pair = Pair(wide, wide.base)
    pair.set_router(subject.model.config.router)
    jobs = find_tasks(dict.fromkeys(["tiny_choice", "tiny_words", "tiny_text"]), include_path=tasks.include_path)
    for job in jobs:
        job.prepare([target])
        outcomes = [job.run(each, lambda **steps: None) for each in (subject, dataclasses.replace(subject, model=pair))]
        numbers = [{m.metric: (m.value, m.routed) for m in outcome.measurements} for outcome in outcomes]
        for metric, (value, routed) in numbers[0].items():
            assert numbers[1][metric][0] == pytest.approx(value, rel=1e-5)
            assert (numbers[1][metric][1] or 0) == pytest.approx(routed or 0, rel=1e-5)
            assert (routed is not None) == router.startswith("mixture")


@pytest.mark.parametrize("router", ROUTERS[1:])
@torch.no_grad()
def test_a_pair_generates_what_it_predicts(router: dict[str, Any]) -> None:
    """Left-padded prompts, sampled greedily: each token is the most probable one of the forward pass."""
    base, trained = (tiny_base("llama-grouped", dtype=torch.float64) for _ in range(2))
    for parameter in trained.parameters():
        parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, dtype=parameter.dtype))
    pair = Pair(trained, base)
    pair.set_router(router)
    prompt = probe(2, 7)
    mask = torch.ones_like(prompt)
    mask[1, :3] = 0
    new = pair.generate(prompt, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0)[:, 7:]
    alone = prompt[1:, 3:]
    for step in range(5):
        assert int(pair(alone).logits[0, -1].argmax()) == int(new[1, step])
        alone = torch.cat((alone, new[1:, step : step + 1]), 1)


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("cosine:0.5", "lora", "--router cosine:0.5: .* is not width-upscaled, so it has one path"),
        ("cosine:0.5", "scale-preserve", "a cosine router chooses between two paths"),
        ("mixture:2", "scale-preserve", r"the share is in \[0, 1\]"),
        ("mixture:0:1", "scale-adapt", "the prior above 0 and below 1"),
        ("interpolate:1.5", "scale-adapt", r"a weight in \[0, 1\]"),
        ("mixture", "scale-adapt", "--router mixture: choose none, cosine:TAU, mixture:SHARE"),
        ("mixture:x", "scale-adapt", "--router mixture:x: choose none"),
        ("weights:0.5", "scale-adapt", "--router weights:0.5: .* has weights that its base lacks, so .* interpolate:W"),
        ("weights:0.5", "llama-pro", "--router weights:0.5: .* has weights that its base lacks"),
        ("weights:1.5", "lora", r"--router weights:1.5: the share of the trained weights is in \[0, 1\]"),
    ],
)
def test_a_router_that_does_not_fit_is_refused(
    text: str, method: str, message: str, finished: Finished, tmp_path: Path
) -> None:
    source = str(finished(method).folder)
    with pytest.raises(RequestError, match=message):
        targets([source], routers=[text], dtype=None, device=torch.device("cpu"))
    with pytest.raises(RequestError, match=message if method.startswith("scale") else "is not width-upscaled"):
        export(source, tmp_path / "out", router=text)
    assert not (tmp_path / "out").exists()
