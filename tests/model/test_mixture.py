"""The mixture router: its rule, its guarantee, and its state through caches, padding and packed texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import StaticCache

from scale_cli.model import ScaleConfig
from scale_cli.model.compatibility import CACHE
from scale_cli.model.mixture import follow
from tests.helpers import probe, tiny_base, widened

Tolerance = Callable[[torch.dtype], dict[str, Any]]
SHAPES: dict[str, dict[str, Any]] = {"preserve": {}, "adapt": {"layers": (1, 2), "modules": ("attention", "ffn")}}
SHARES = (0.0, 0.03, 0.5, 1.0)


def mixture(share: float, prior: float = 0.5) -> dict[str, Any]:
    return {"kind": "mixture", "share": share, "prior": prior}


def model_of(shape: str, share: float, prior: float = 0.5, *, base: str = "llama-grouped", **changes: Any) -> Any:
    """A widened model in float64 with random expansion, under the mixture."""
    model = widened(tiny_base(base, dtype=torch.float64, **changes), **SHAPES[shape])
    model.set_router(mixture(share, prior))
    return model


@torch.no_grad()
def log_probabilities(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the base by its own class, and of the widened model as trained, (B, T, vocabulary)."""
    router = model.config.router
    model.set_router(None)
    adapted = model(tokens).logits.log_softmax(-1)
    model.set_router(router)
    return model.base(tokens).logits.log_softmax(-1), adapted


def by_hand(base: Tensor, adapted: Tensor, tokens: Tensor, share: float, prior: float) -> tuple[Tensor, Tensor]:
    """The rule of the module, token by token with probabilities: its log-probabilities and weights, of one row."""
    weight, mixed, weights = prior, [], []
    for position in range(len(tokens)):
        p = weight * base[position].exp() + (1 - weight) * adapted[position].exp()
        mixed.append(p.log())
        weights.append(weight)
        if position + 1 < len(tokens):
            token = tokens[position + 1]
            posterior = float(weight * base[position, token].exp() / p[token])
            weight = (1 - share) * posterior + share * prior
    return torch.stack(mixed), torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", SHARES)
@torch.no_grad()
def test_it_is_the_rule(shape: str, share: float, tolerance: Tolerance) -> None:
    model, tokens = model_of(shape, share, 0.3), probe(2, 17)
    output = model(tokens)
    for row, base, adapted in zip(range(2), *log_probabilities(model, tokens), strict=True):
        mixed, weights = by_hand(base, adapted, tokens[row], share, 0.3)
        torch.testing.assert_close(output.logits[row], mixed, **tolerance(torch.float64))
        torch.testing.assert_close(output.preserved[row], weights, **tolerance(torch.float64))
    if share in (0.0, 0.03):
        assert output.preserved.std() > 0.05  # or the rule would not be seen
    some = torch.tensor([0, 7, 12])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scale_cli.model.mixture.CHUNK_POSITIONS", 6)
        for kept, positions in ((0, slice(None)), (4, slice(-4, None)), (some, some)):
            logits = model(tokens, logits_to_keep=kept).logits
            torch.testing.assert_close(logits, output.logits[:, positions], **tolerance(torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_no_document_loses_more_than_the_guarantee(shape: str) -> None:
    prior = 0.25
    model, tokens = model_of(shape, 0.0, prior), probe(8, 40, seed=5)
    base, adapted = log_probabilities(model, tokens)
    targets = tokens[:, 1:, None]
    nats = [-each[:, :-1].gather(-1, targets).sum((1, 2)) for each in (base, adapted, model(tokens).logits)]
    assert (nats[2] - nats[0]).max() <= -math.log(prior) + 1e-9
    assert (nats[2] - nats[1]).max() <= -math.log(1 - prior) + 1e-9
    assert (nats[1] - nats[0]).abs().min() > 1  # so that the bounds say something
    if shape == "preserve":  # whose predictions are far enough apart to break the bound with another share
        model.set_router(mixture(1.0, prior))
        average = -model(tokens).logits[:, :-1].gather(-1, targets).sum((1, 2))
        assert (average - torch.minimum(nats[0], nats[1])).max() > -math.log(prior)


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 1e-6, 0.01, 0.3, 1.0]), prior=st.floats(0.01, 0.99))
def test_the_scan_is_the_recursion(seed: int, share: float, prior: float) -> None:
    """Gains of up to hundreds of nats per token, with padding and restarts, in one scan and in two."""
    generator = torch.Generator().manual_seed(seed)
    length = int(torch.randint(1, 40, (), generator=generator))
    gains = 30 * torch.randn(2, length, generator=generator, dtype=torch.float64) ** 3
    updates = torch.rand(2, length, generator=generator) < 0.8
    restarts = torch.rand(2, length, generator=generator) < 0.1
    start = torch.full((2, 1), math.log(prior / (1 - prior)), dtype=torch.float64)
    odds, expected = start[:, 0], []
    for i in range(length):
        posterior = odds + gains[:, i]
        log_a = torch.logaddexp(_log(1 - share) + functional.logsigmoid(posterior), torch.tensor(_log(share * prior)))
        log_b = torch.logaddexp(
            _log(1 - share) + functional.logsigmoid(-posterior), torch.tensor(_log(share * (1 - prior)))
        )
        odds = torch.where(restarts[:, i], start[:, 0], torch.where(updates[:, i], log_a - log_b, odds))
        expected.append(odds)
    rules: dict[str, Any] = {"share": share, "prior": prior}
    whole = follow(start, gains, updates=updates, restarts=restarts, **rules)
    torch.testing.assert_close(whole.sigmoid(), torch.stack(expected, 1).sigmoid(), rtol=1e-6, atol=1e-8)
    cut = length // 2
    if cut:
        first = follow(start, gains[:, :cut], updates=updates[:, :cut], restarts=restarts[:, :cut], **rules)
        rest = follow(first[:, -1:], gains[:, cut:], updates=updates[:, cut:], restarts=restarts[:, cut:], **rules)
        torch.testing.assert_close(torch.cat((first, rest), 1).sigmoid(), whole.sigmoid(), rtol=1e-6, atol=1e-8)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.03, 1.0])
@torch.no_grad()
def test_state_passes_through_the_cache(shape: str, share: float, tolerance: Tolerance) -> None:
    model, tokens = model_of(shape, share), probe(3, 12)
    whole = model(tokens)
    cache: Any = None
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12)):
        output = model(tokens[:, start:stop], **{CACHE: cache}, use_cache=True, logits_to_keep=2)
        cache = output[CACHE]
        kept = min(2, stop - start)
        torch.testing.assert_close(output.logits, whole.logits[:, stop - kept : stop], **tolerance(torch.float64))
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)
    more = probe(3, 4, seed=9)
    expected = model(torch.cat((tokens[order], more), 1)).logits[:, -4:]
    torch.testing.assert_close(model(more, **{CACHE: cache}).logits, expected, **tolerance(torch.float64))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", [True, False])
@torch.no_grad()
def test_padding_changes_nothing(side: str, positions: bool, tolerance: Tolerance) -> None:
    model, tokens = model_of("adapt", 0.03), probe(2, 9)
    padding, lengths = 4, (9, 6)
    mask = torch.zeros(2, 9 + padding, dtype=torch.long)
    padded = torch.full_like(mask, 7)
    places = []
    for row, length in enumerate(lengths):
        start = 9 + padding - length if side == "left" else 0
        places.append(slice(start, start + length))
        padded[row, places[row]] = tokens[row, :length]
        mask[row, places[row]] = 1
    given: dict[str, Any] = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if positions else {}
    output = model(padded, attention_mask=mask, **given)
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, :length])
        if positions or side == "right":  # else the rotary positions are others
            torch.testing.assert_close(output.logits[row, places[row]], alone.logits[0], **tolerance(torch.float64))
        torch.testing.assert_close(
            output.preserved[row, places[row]][:1], alone.preserved[0, :1], **tolerance(torch.float64)
        )


@torch.no_grad()
def test_packed_documents_start_from_the_prior(tolerance: Tolerance) -> None:
    model, tokens = model_of("preserve", 0.0), probe(1, 14)
    positions = torch.tensor([[*range(6), *range(8)]])
    packed = model(tokens, position_ids=positions, use_cache=False)
    for part in (slice(0, 6), slice(6, 14)):
        alone = model(tokens[:, part], use_cache=False)
        torch.testing.assert_close(packed.logits[:, part], alone.logits, **tolerance(torch.float64))
        torch.testing.assert_close(packed.preserved[:, part], alone.preserved, **tolerance(torch.float64))


@pytest.mark.parametrize("base", ["llama-grouped", "mistral", "gemma3", "neox"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_way_to_generate_gives_the_same(base: str, shape: str) -> None:
    """Left-padded prompts: without a cache, with one, of fixed size, with beams, assisted."""
    model = model_of(shape, 0.03, base=base)
    prompt = probe(2, 7)
    mask = torch.ones_like(prompt)
    mask[1, :3] = 0
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}

    def generate(rows: slice = slice(None), **more: Any) -> Tensor:
        return model.generate(prompt[rows], attention_mask=mask[rows], **options, **more)

    expected = generate(use_cache=False)
    assert torch.equal(generate(), expected)
    assert torch.equal(generate(num_beams=3), generate(num_beams=3, use_cache=False))
    static: Any = StaticCache(config=model.config, max_cache_len=20)
    assert torch.equal(generate(slice(None), **{CACHE: static}), expected)
    state: Any = static.layers[-1]
    assert state.keys.shape[-2] == 1  # the state's size is fixed too
    assistant = model_of("preserve", 0.0, base=base)
    try:
        model.base.generate(prompt[:1], assistant_model=assistant.base, **options)
    except RuntimeError:  # transformers 5.17 cannot assist models with a sliding window, the base's own class neither
        with pytest.raises(RuntimeError):
            generate(slice(0, 1), assistant_model=assistant)
    else:
        assert torch.equal(generate(slice(0, 1), assistant_model=assistant), expected[:1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("router", [mixture(0.03), mixture(1.0), {"kind": "interpolate", "weight": 0.3}])
@torch.no_grad()
def test_it_compiles_as_one_graph(shape: str, router: dict[str, Any], tolerance: Tolerance) -> None:
    model, tokens = model_of(shape, 0.0), probe(2, 9)
    model.set_router(router)
    expected = model(tokens, use_cache=False).logits
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, use_cache=False).logits, expected, **tolerance(torch.float64))


@torch.no_grad()
def test_a_sequence_can_be_scored_with_labels(tolerance: Tolerance) -> None:
    model, tokens = model_of("adapt", 0.0), probe(2, 9)
    output = model(tokens, labels=tokens)
    expected = -output.logits[:, :-1].gather(-1, tokens[:, 1:, None]).mean()
    torch.testing.assert_close(output.loss, expected.float(), **tolerance(torch.float32))  # the library's loss
    torch.testing.assert_close(output.logits.exp().sum(-1), torch.ones(2, 9, dtype=torch.float64))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = model_of("preserve", 0.25, 0.75)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.config.router == {"kind": "mixture", "share": 0.25, "prior": 0.75}
    assert torch.equal(loaded(probe()).logits, model(probe()).logits)


@pytest.mark.parametrize(
    ("router", "message"),
    [
        ({"kind": "mixture", "share": 1.5}, r"the share is in \[0, 1\]"),
        ({"kind": "mixture", "prior": 0.0}, "the prior above 0 and below 1"),
        ({"kind": "mixture", "threshold": 0.5}, "its kinds are cosine with threshold, mixture with share and prior"),
        ({"kind": "other"}, "its kinds are cosine with threshold, mixture with share and prior"),
        ({"kind": "interpolate"}, "needs a weight"),
        ({"kind": "cosine"}, "needs its threshold"),
        ({"threshold": 0.5}, "without collaborative layers there is only one"),
    ],
)
def test_a_wrong_router_is_refused(router: dict[str, Any], message: str) -> None:
    model = widened(tiny_base("llama"))
    with pytest.raises(ValueError, match=message):
        model.set_router(router)
    assert model.config.router is None
    config = model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        ScaleConfig.from_dict(config | {"router": router})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("router", [None, mixture(0.03), {"kind": "interpolate", "weight": 0.3}])
@torch.no_grad()
def test_the_bases_logits_beside_the_own(shape: str, router: dict[str, Any] | None, tolerance: Tolerance) -> None:
    """They are the base's, change nothing, and interpolated logits lie between both."""
    model, tokens = model_of(shape, 0.0), probe(2, 9)
    base = model.base(tokens).logits
    model.set_router(None)
    adapted = model(tokens).logits
    model.set_router(router)
    output, alone = model(tokens, output_base_logits=True, logits_to_keep=4), model(tokens)
    torch.testing.assert_close(output.base_logits, base[:, -4:], **tolerance(torch.float64))
    assert alone.base_logits is None
    torch.testing.assert_close(output.logits, alone.logits[:, -4:], **tolerance(torch.float64))
    if router is not None and router["kind"] == "interpolate":
        torch.testing.assert_close(alone.logits, 0.7 * base + 0.3 * adapted, **tolerance(torch.float64))
        generated = model.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(generated, model.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=False))
        if shape == "preserve":  # it is Z + a Z_up, which a smaller head gives, too
            model.expansion.head.weight.mul_(0.3)
            model.set_router(None)
            torch.testing.assert_close(model(tokens).logits, alone.logits, **tolerance(torch.float64))


def test_defaults_are_filled_in() -> None:
    model = widened(tiny_base("llama"))
    model.set_router({"kind": "mixture"})
    assert model.config.router == {"kind": "mixture", "share": 0.0, "prior": 0.5}
    assert model.config.router_kind == "mixture"
    adapt = widened(tiny_base("llama"), layers=(1,), modules=("ffn",), threshold=0.5)
    assert adapt.config.router_kind == "cosine"
