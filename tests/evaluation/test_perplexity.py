"""Perplexity against the library's loss, the harness's log-likelihood, sums by hand and naive loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scale_cli.core.errors import RequestError
from scale_cli.data.corpora import Corpus
from scale_cli.data.options import PACKINGS, Packing
from scale_cli.data.windows import WindowOptions, Windows, cut, lead_token, ratio, ratio_scores, rows_for
from scale_cli.evaluation.perplexity import PerplexityJob, document_sums
from scale_cli.evaluation.subject import Subject, Target
from scale_cli.reporting.statistics import mean_and_deviation, paired_error
from scale_cli.results.measurement import Measurement
from tests.helpers import refusal, tiny_base, widened

DOCUMENTS = ("Ice floats on water.", "물은 흐른다.", "a", "Steam rises. " * 4, "\n\n", "끝")
BEGIN, END = "<s>", "</s>"


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the bytes of UTF-8; begin-of-text has the id 256 and end-of-text 257."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, BEGIN, END])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def tiny(name: str = "llama", *, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    return tiny_base(name, dtype=dtype, vocab_size=258, **changes)


def subject_of(model: Any, tokenizer: Any = None, *, batch_size: int | None = None) -> Subject:
    """A model of the test in place of a loaded one."""
    dtype = str(model.dtype).removeprefix("torch.")
    checkpoint: Any = None
    target = Target("tiny", checkpoint, "0" * 64, dtype)
    return Subject(target, model, tokenizer or byte_tokenizer(eos_token=END), torch.device("cpu"), batch_size, 0)


def measured(
    subject: Subject, documents: Sequence[str] = DOCUMENTS, options: WindowOptions | None = None
) -> dict[str, Measurement]:
    job = PerplexityJob(Corpus("x", "x.txt", tuple(documents)), options or WindowOptions(length=16))
    measurements, items = job.measure(subject)
    assert [measurement.metric for measurement in measurements] == ["perplexity", "bits_per_byte", "bits_per_character"]
    for measurement in measurements:  # the documents' scores have that mean and that error
        if math.isfinite(measurement.value):
            mean, deviation = mean_and_deviation(items.scores[measurement.metric])
            assert mean == pytest.approx(measurement.value)
            if measurement.stderr is not None:
                assert deviation is not None
                assert deviation / math.sqrt(len(documents)) == pytest.approx(measurement.stderr)
    return {measurement.metric: measurement for measurement in measurements}


def windows_of(documents: Sequence[str] = DOCUMENTS, *, packing: Packing = "concat", **options: Any) -> Windows:
    sizes = {"length": 16, "stride": 16} | options
    return Windows(documents, byte_tokenizer(bos_token=BEGIN, eos_token=END), packing=packing, **sizes)


class Bigrams(torch.nn.Module):
    """A bigram model with given probabilities."""

    device = torch.device("cpu")
    dtype = torch.float64

    def __init__(self, follows: torch.Tensor) -> None:
        super().__init__()
        self.follows = follows
        text_config = SimpleNamespace(max_position_embeddings=64, vocab_size=len(follows))
        self.config = SimpleNamespace(get_text_config=lambda: text_config)

    def _supports_logits_to_keep(self) -> bool:
        return False

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.follows[input_ids].log())


def test_an_example_by_hand() -> None:
    """After end-of-text comes a (1/2), after a comes a (1/4) or b (1/8), after b comes a (1/16)."""
    tokenizer = byte_tokenizer(eos_token=END)
    a, b = tokenizer.encode("ab", add_special_tokens=False)
    follows = torch.zeros((258, 258), dtype=torch.float64)
    follows[257, a], follows[a, a], follows[a, b], follows[b, a] = 1 / 2, 1 / 4, 1 / 8, 1 / 16
    follows[:, 256] = 1 - follows.sum(1)  # the rest is for a token that does not occur
    subject = subject_of(Bigrams(follows), tokenizer)
    bits = [1 + 2 + 3, 1 + 3 + 4]  # of "aab" and "aba"
    for options in (WindowOptions(), WindowOptions(length=2), WindowOptions(length=3, stride=1, packing="documents")):
        metrics = measured(subject, ["aab", "aba"], options)
        assert metrics["bits_per_byte"].value == pytest.approx(sum(bits) / 6) == pytest.approx(14 / 6)
        assert metrics["bits_per_character"].value == pytest.approx(14 / 6)
        assert metrics["perplexity"].value == pytest.approx(2 ** (14 / 6))
        # y - R x is 6 - 7 and 8 - 7: sqrt(2 / 1 (1 + 1)) / 6
        assert metrics["bits_per_byte"].stderr == pytest.approx(2 / 6)
        assert metrics["perplexity"].stderr == pytest.approx(2 ** (14 / 6) * math.log(2) * 2 / 6)
        assert metrics["perplexity"].details["nll"] == pytest.approx(14 * math.log(2))


def test_bytes_characters_and_tokens() -> None:
    metrics = measured(subject_of(tiny()))
    details = metrics["perplexity"].details
    size_bytes, characters = len("".join(DOCUMENTS).encode()), len("".join(DOCUMENTS))
    assert (details["bytes"], details["characters"]) == (size_bytes, characters)
    assert details["tokens"] == size_bytes  # a token is a byte
    assert metrics["perplexity"].value == pytest.approx(2 ** metrics["bits_per_byte"].value)
    for bits in (metrics["bits_per_byte"].value * size_bytes, details["nll"] / math.log(2)):
        assert metrics["bits_per_character"].value == pytest.approx(bits / characters)
    for measurement in metrics.values():
        assert (measurement.task, measurement.samples, measurement.higher_is_better) == ("perplexity:x", 6, False)
        assert (measurement.dtype, measurement.filter, measurement.routed) == ("float64", "none", None)
        assert measurement.stderr is not None
        assert measurement.details is metrics["perplexity"].details
    expected_details = {"source": "x.txt", "length": 16, "stride": 16, "packing": "concat"}
    assert expected_details.items() <= details.items()
    assert (details["windows"], details["before_document"]) == (math.ceil((size_bytes + 5) / 16), END)


def test_a_model_that_knows_nothing() -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    metrics = measured(subject_of(model))
    assert metrics["perplexity"].value == pytest.approx(258)
    assert metrics["bits_per_byte"].value == pytest.approx(math.log2(258))
    assert metrics["perplexity"].stderr == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "stride", "packing"),
    [("llama", 16, "concat"), ("llama", 5, "documents"), ("neox", 16, "documents"), ("gemma3", 5, "concat")],
)
def test_the_losses_of_the_library_on_the_same_windows(name: str, stride: int, packing: Packing) -> None:
    model = tiny(name)
    options = WindowOptions(length=16, stride=stride, packing=packing)
    windows = windows_of(packing=packing, stride=stride)
    nll = 0.0
    for start, first, stop in windows.windows:
        row = torch.tensor(windows.tokens[start:stop])[None]
        labels = row.clone()
        labels[0, : first - start] = -100
        labels[0, windows.owners[start:stop] < 0] = -100
        with torch.no_grad():
            nll += model(row, labels=labels).loss.item() * (labels != -100).sum().item()
    tokenizer = byte_tokenizer(bos_token=BEGIN, eos_token=END)
    perplexity = measured(subject_of(model, tokenizer), options=options)["perplexity"]
    assert perplexity.details["nll"] == pytest.approx(nll, rel=1e-6)  # the library's loss is in float32 at most
    assert perplexity.value == pytest.approx(math.exp(nll / perplexity.details["tokens"]), rel=1e-6)


def test_the_harness_finds_the_same() -> None:
    """Its rolling log-likelihood, which its own perplexity tasks use, is packing `documents` without overlap."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = byte_tokenizer(bos_token=BEGIN, eos_token=END)
    model = tiny()
    harness = HFLM(pretrained=model, tokenizer=tokenizer, max_length=16, batch_size=1)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in DOCUMENTS]
    log_likelihoods = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    ours = document_sums(model, windows_of(packing="documents"), 4).losses
    assert ours == pytest.approx(-np.array(log_likelihoods), rel=1e-12)
    assert len(DOCUMENTS[3]) > 2 * 16  # several windows, the last one not whole


def one_by_one(model: Any, tokens: Sequence[int], length: int, first: int) -> float:
    """The negative log-likelihood of the tokens from `first` on, each from at most `length` before it."""
    total = 0.0
    for i in range(first, len(tokens)):
        context = torch.tensor([tokens[max(0, i - length) : i]])
        with torch.no_grad():
            total -= model(context).logits[0, -1].log_softmax(-1)[tokens[i]].item()
    return total


@pytest.mark.parametrize("length", [1, 7, 16, 64])
def test_a_stride_of_one_is_token_by_token(length: int) -> None:
    model = tiny(max_position_embeddings=64)
    tokenizer = byte_tokenizer(eos_token=END)
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in DOCUMENTS]
    perplexity = measured(subject_of(model), options=WindowOptions(length, 1, "documents"))["perplexity"]
    assert perplexity.details["nll"] == pytest.approx(sum(one_by_one(model, [257, *ids], length, 1) for ids in tokens))
    perplexity = measured(subject_of(model), ["x" * 9], WindowOptions(length, 1))["perplexity"]
    ids = [257, *tokenizer.encode("x" * 9, add_special_tokens=False)]
    assert perplexity.details["nll"] == pytest.approx(one_by_one(model, ids, length, 1))


def test_more_overlap_shows_more() -> None:
    """On a repetitive text, a model that attends far back improves with more context."""
    tokens = [measured(subject_of(tiny()), options=WindowOptions(16, s))["perplexity"].details for s in (16, 8, 1)]
    assert len({details["nll"] for details in tokens}) == 3
    assert len({details["tokens"] for details in tokens}) == 1
    assert [details["windows"] for details in tokens] == sorted(details["windows"] for details in tokens)


@pytest.mark.parametrize("packing", ["concat", "documents"])
@pytest.mark.parametrize("keeps", [True, False])
def test_neither_batches_nor_padding_change_anything(
    packing: Packing, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("mistral")
    windows = windows_of(packing=packing, stride=6)
    alone = document_sums(model, windows, 1).losses  # a single window a time has nothing to fill up
    monkeypatch.setattr(type(model), "_supports_logits_to_keep", lambda self: keeps)
    for rows in (2, 3, 100):
        assert document_sums(model, windows, rows).losses == pytest.approx(alone, rel=1e-12)
    assert sum(batch.inputs.shape[0] for batch in windows.batches(3)) == len(windows.windows)


def test_only_needed_logits_are_computed() -> None:
    model = tiny()
    shapes = []
    head = model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    document_sums(model, windows_of(["x" * 40], length=16, stride=4), 1)
    head.remove()
    assert sorted({tuple(shape) for shape in shapes}) == [(1, 4, 258), (1, 16, 258)]


def test_logits_in_bfloat16_are_summed_wide() -> None:
    model = tiny(dtype=torch.bfloat16)
    measured_nll = measured(subject_of(model))["perplexity"].details["nll"]
    nll = 0.0
    windows = windows_of()
    for start, first, stop in windows.windows:
        with torch.no_grad():
            logits = model(torch.tensor(windows.tokens[start : stop - 1])[None]).logits[0].double()
        for i in range(first, stop):
            if windows.owners[i] >= 0:
                nll -= logits[i - start - 1].log_softmax(-1)[windows.tokens[i]].item()
    assert measured_nll == pytest.approx(nll, rel=1e-6)


@given(size=st.integers(1, 90), length=st.integers(1, 20), data=st.data())
def test_every_token_is_a_target_once(size: int, length: int, data: st.DataObject) -> None:
    stride, begin = data.draw(st.integers(1, length)), data.draw(st.integers(0, 3))
    windows = list(cut(begin, begin + size, length=length, stride=stride))
    targets = [i for _, first, stop in windows for i in range(first, stop)]
    assert targets == list(range(begin + 1, begin + size))
    for number, (start, first, stop) in enumerate(windows):
        assert start == begin or stop - 1 - start == length  # all of the past that a window holds
        assert begin <= start < first < stop <= begin + size
        assert stop - first <= (length if number == 0 else stride)


def test_the_token_before_a_document() -> None:
    both = byte_tokenizer(bos_token=BEGIN, eos_token=END)
    assert (lead_token(both, "concat"), lead_token(both, "documents")) == (257, 256)
    for special in ({"bos_token": BEGIN}, {"eos_token": END}):
        token = {"bos_token": 256, "eos_token": 257}[next(iter(special))]
        assert lead_token(byte_tokenizer(**special), "concat") == token
        assert lead_token(byte_tokenizer(**special), "documents") == token
    assert [lead_token(both, packing, "bos") for packing in PACKINGS] == [256, 256]
    assert [lead_token(both, packing, "eos") for packing in PACKINGS] == [257, 257]
    with pytest.raises(RequestError, match="--perplexity-lead bos: the checkpoint's tokenizer has no bos_token"):
        lead_token(byte_tokenizer(eos_token=END), "concat", "bos")
    windows = windows_of(["ab", "c"])
    a, b, c = both.encode("abc", add_special_tokens=False)
    assert windows.tokens.tolist() == [257, a, b, 257, c]
    assert windows.owners.tolist() == [-1, 0, 0, -1, 1]
    assert windows.windows == [(0, 1, 5)]
    windows = windows_of(["ab", "c"], packing="documents")
    assert windows.tokens.tolist() == [256, a, b, 256, c]
    assert windows.windows == [(0, 1, 3), (3, 4, 5)]


def test_the_first_tokens_of_a_corpus() -> None:
    for most, lengths in ((1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (6, [2, 3, 1]), (9, [2, 3, 1])):
        windows = windows_of(["ab", "cde", "f"], max_tokens=most)
        assert windows.lengths.tolist() == lengths
        assert (windows.owners >= 0).sum() == sum(lengths)


def test_a_document_that_has_no_tokens_still_has_bytes() -> None:
    tokenizer = byte_tokenizer(eos_token=END)
    from tokenizers.normalizers import Strip

    tokenizer.backend_tokenizer.normalizer = Strip()
    metric = measured(subject_of(tiny(), tokenizer), ["ab", "  ", "c"])["bits_per_byte"]
    assert (metric.samples, metric.details["tokens"], metric.details["bytes"]) == (3, 3, 5)
    with pytest.raises(RequestError, match=r"^the checkpoint's tokenizer makes no token of the texts$"):
        measured(subject_of(tiny(), tokenizer), ["  "])


def test_the_share_of_tokens_that_a_router_preserved() -> None:
    model = widened(tiny(), layers=(1, 2), modules=("attention", "ffn"), threshold=0.25)
    windows = windows_of(stride=5)
    preserved = 0
    for start, first, stop in windows.windows:
        with torch.no_grad():
            took = model(torch.tensor(windows.tokens[start : stop - 1])[None]).preserved[0]
        preserved += sum(took[i - start - 1].item() for i in range(first, stop) if windows.owners[i] >= 0)
    metrics = measured(subject_of(model), options=WindowOptions(16, 5))
    total = metrics["perplexity"].details["tokens"]
    assert 0 < preserved < total
    assert {measurement.routed for measurement in metrics.values()} == {preserved / total}


def test_a_threshold_that_none_reaches_is_adapt() -> None:
    base = tiny()
    adapt, route = (widened(base, layers=(1, 2), modules=("attention",), threshold=tau) for tau in (None, 2.0))
    routed, adapted = (measured(subject_of(model)) for model in (route, adapt))
    for metric in routed:
        assert (routed[metric].value, routed[metric].stderr) == (adapted[metric].value, adapted[metric].stderr)
    assert (routed["perplexity"].routed, adapted["perplexity"].routed) == (0.0, None)


def test_progress_reaches_all_windows() -> None:
    seen: list[tuple[int, int]] = []
    task = PerplexityJob(Corpus("x", "x.txt", DOCUMENTS), WindowOptions(16))
    task.run(subject_of(tiny(), batch_size=2), lambda *, done, total: seen.append((done, total)))
    windows = math.ceil((len("".join(DOCUMENTS).encode()) + 5) / 16)
    assert seen == [(done, windows) for done in [*range(2, windows, 2), windows]]


def test_incomparable_measurements_have_different_versions() -> None:
    subject = subject_of(tiny(max_position_embeddings=32))
    versions = set()
    for documents, options in (
        (DOCUMENTS, WindowOptions()),
        (DOCUMENTS, WindowOptions(length=16)),
        (DOCUMENTS, WindowOptions(length=16, stride=8)),
        (DOCUMENTS, WindowOptions(length=16, packing="documents")),
        (DOCUMENTS[:3], WindowOptions(length=16)),
    ):
        perplexity = measured(subject, documents, options)["perplexity"]
        versions.add(perplexity.task_version)
        assert perplexity.way.task_version == perplexity.task_version
    assert len(versions) == 5
    assert measured(subject)["perplexity"].task_version == f"concat-16-16-{Corpus('y', 'z', DOCUMENTS).sha256[:12]}"


def test_sizes_that_are_found_by_themselves() -> None:
    assert WindowOptions().resolve(tiny(max_position_embeddings=100).config) == (100, 100)
    assert WindowOptions().resolve(tiny(max_position_embeddings=5000).config) == (2048, 2048)
    assert WindowOptions(length=3000).resolve(tiny(max_position_embeddings=5000).config) == (3000, 3000)
    assert WindowOptions(stride=7).resolve(widened(tiny(max_position_embeddings=50)).config) == (50, 7)
    assert rows_for(tiny(), 2048) == 8
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=2**17))
    assert rows_for(SimpleNamespace(config=config, dtype=torch.bfloat16), 2048) == 2
    assert rows_for(SimpleNamespace(config=config, dtype=torch.float32), 4096) == 1
    assert measured(subject_of(tiny(), batch_size=3))["perplexity"].batch_size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "--perplexity-length 0: at least 1"),
        ({"stride": 0}, "--perplexity-stride 0: at least 1"),
        ({"packing": "rows"}, "--perplexity-packing rows: choose concat or documents"),
        ({"length": 65}, "--perplexity-length 65: the model takes 64 tokens at most"),
        ({"stride": 65}, "--perplexity-stride 65: at most the length of a window, which is 64"),
        ({"length": 8, "stride": 9}, "--perplexity-stride 9: at most the length of a window, which is 8"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    subject = subject_of(tiny(max_position_embeddings=64))
    assert refusal(lambda: measured(subject, options=WindowOptions(**options))) == message


def test_a_tokenizer_with_nothing_to_begin_with() -> None:
    assert refusal(measured, subject_of(tiny(), byte_tokenizer())) == (
        "the checkpoint's tokenizer has neither an end-of-text nor a begin-of-text token (eos_token, bos_token), so "
        "nothing predicts the first token of a text; give it one"
    )


# -- the standard error ------------------------------------------------------------------------------------------------


def draw_documents(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Losses and lengths of documents that differ in length and difficulty; long ones are easier."""
    lengths = np.ceil(generator.lognormal(4, 0.8, shape))
    difficulty = 3 + 0.5 * generator.standard_normal(shape) - 0.3 * np.log(lengths)
    return difficulty * lengths, lengths


def test_the_standard_error_is_the_spread_of_repetitions() -> None:
    losses, lengths = draw_documents(np.random.default_rng(0), (3000, 150))
    ratios = [ratio(*pair) for pair in zip(losses, lengths, strict=True)]
    spread = np.std([value for value, _ in ratios])
    stderr = np.mean([error for _, error in ratios if error is not None])
    assert stderr == pytest.approx(spread, rel=0.05)
    naive = np.mean([np.std(y / x) / len(x) ** 0.5 for y, x in zip(losses, lengths, strict=True)])
    assert abs(naive / spread - 1) > 0.1  # the mean over documents, each counting the same, has another one


def test_the_standard_error_is_the_bootstraps() -> None:
    generator = np.random.default_rng(1)
    losses, lengths = draw_documents(generator, (400,))
    again = generator.integers(0, 400, (4000, 400))
    spread = np.std(losses[again].sum(1) / lengths[again].sum(1))
    value, stderr = ratio(losses, lengths)
    assert value == pytest.approx(losses.sum() / lengths.sum())
    assert stderr == pytest.approx(spread, rel=0.05)


def test_of_equal_documents_the_error_is_the_means() -> None:
    value, stderr = ratio([1.0, 2.0, 6.0], [2, 2, 2])
    assert value == pytest.approx(1.5)
    assert stderr == pytest.approx(np.std([0.5, 1, 3], ddof=1) / 3**0.5)


def test_a_single_document_has_no_error() -> None:
    metrics = measured(subject_of(tiny()), ["only one"])
    assert {measurement.stderr for measurement in metrics.values()} == {None}
    assert metrics["perplexity"].samples == 1


def test_nan_and_infinity_are_kept() -> None:
    for broken in (math.nan, math.inf):
        value, stderr = ratio([1.0, broken], [1, 1])
        assert (str(value), str(stderr)) == (str(broken), "nan")
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    assert all(math.isnan(measurement.value) for measurement in measured(subject_of(model)).values())
    with torch.no_grad():
        model.lm_head.weight.copy_(1e6 * torch.randn(258, 32, generator=torch.Generator().manual_seed(0)))
    assert measured(subject_of(model))["perplexity"].value == math.inf


def test_the_error_of_a_change_is_the_jackknife_of_the_change() -> None:
    """Paired by document: the jackknife over both models' documents gives the error of the difference of ratios."""
    draw = np.random.default_rng(0)
    size = draw.integers(200, 400, 60).astype(float)
    hard = draw.normal(3, 1, 60)  # what both find hard
    first, second = (size * (hard + draw.normal(0, 0.05, 60) + shift) for shift in (0.0, 0.1))
    error_of_difference = paired_error(list(ratio_scores(first, size)), list(ratio_scores(second, size)))

    def change(kept: np.ndarray) -> float:
        return float(second[kept].sum() / size[kept].sum() - first[kept].sum() / size[kept].sum())

    left_out = np.array([change(np.arange(60) != i) for i in range(60)])
    jackknife = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert error_of_difference is not None
    assert error_of_difference == pytest.approx(jackknife, rel=0.05)
    errors = [ratio(losses, size)[1] for losses in (first, second)]
    assert error_of_difference < 0.1 * math.hypot(*(error for error in errors if error is not None))
