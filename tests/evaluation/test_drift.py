"""Drift from the base, for every kind of checkpoint, against naive loops over single tokens and by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config

from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe, load_model
from scale_cli.checkpoints.restore import export_base
from scale_cli.core.errors import RequestError
from scale_cli.data.biographies import read_biographies
from scale_cli.data.corpora import Corpus
from scale_cli.data.windows import WindowOptions, Windows
from scale_cli.evaluation.base import plan_base
from scale_cli.evaluation.drift import DriftJob, cosine, divergence_and_agreement, layer_partners
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.subject import Subject, information, load, targets
from scale_cli.methods import METHODS
from scale_cli.model.families import without_layers
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import Result
from scale_cli.surgery import upscale
from scale_cli.training.train import train
from tests.helpers import base_folder, probe, refusal, tiny_base
from tests.runs import Run, World, progress_that, run, save

LENGTH = 48
CPU = torch.device("cpu")
ADAPTING = ("scale-adapt", "scale-route")


def subject_of(source: object) -> Subject:
    """The checkpoint as `scale eval` loads it."""
    (target,) = targets([str(source)], dtype="float32", device=CPU)
    return load(target, device=CPU, batch_size=3, seed=0)


def corpus_of(world: World, documents: int = 5) -> Corpus:
    return Corpus("bios", "bios.jsonl", tuple(read_biographies(world.data)[:documents]))


def measured(
    source: object, corpora: Sequence[Corpus], *, base: object = None, tokens: int = 600, **options: Any
) -> dict[str, Measurement]:
    task = DriftJob(corpora, WindowOptions(LENGTH, **options), None if base is None else str(base), tokens)
    subject = subject_of(source)
    task.prepare([subject.target])
    measurements = task.run(subject, lambda **steps: None).measurements
    return {m.metric if m.task == "drift" else f"{m.task} {m.metric}": m for m in measurements}


@torch.no_grad()
def slowly(base: Any, model: Any, new_layers: Sequence[int], corpus: Corpus, tokenizer: Any) -> dict[str, Any]:
    """Cosines, divergence and agreement, from one forward pass per window and then token by token."""
    windows = Windows(corpus.documents, tokenizer, length=LENGTH, stride=LENGTH, packing="concat", max_tokens=600)
    old = [i for i in range(model.config.num_hidden_layers) if i not in new_layers]
    layers: list[list[float]] = [[] for _ in range(len(old) + 1)]
    divergence, agreement, preserved, owners = [], [], [], []
    for start, first, stop in windows.windows:
        row = torch.tensor(windows.tokens[start : stop - 1])[None]
        base_output, output = (m(row, output_hidden_states=True, use_cache=False) for m in (base, model))
        for i in range(first, stop):
            if windows.owners[i] < 0:
                continue
            at = i - start - 1
            owners.append(int(windows.owners[i]))
            for k, values in enumerate(layers):
                state = output.hidden_states[-1 if k == len(old) else (old[k - 1] + 1 if k else 0)]
                values.append(
                    functional.cosine_similarity(base_output.hidden_states[k][0, at], state[0, at], dim=0).item()
                )
            p, q = (out.logits[0, at].double().softmax(-1) for out in (base_output, output))
            divergence.append((p * (p / q).log()).sum().item())
            agreement.append(float(p.argmax() == q.argmax()))
            if getattr(output, "preserved", None) is not None:
                preserved.append(float(output.preserved[0, at]))
    return {
        "by_layer": [sum(values) / len(values) for values in layers],
        "kl": divergence,
        "agreement": agreement,
        "cosine": layers[-1],
        "preserved": preserved,
        "owners": owners,
    }


def stderr_of(values: Sequence[float], owners: Sequence[int]) -> float:
    """The standard error of a mean over tokens in documents, written out."""
    mean = sum(values) / len(values)
    residuals = [
        sum(value - mean for value, owner in zip(values, owners, strict=True) if owner == document)
        for document in set(owners)
    ]
    n = len(residuals)
    return math.sqrt(n / (n - 1) * sum(r * r for r in residuals)) / len(values)


@pytest.mark.parametrize(
    ("method", "family"), [*((method, "llama") for method in METHODS), ("llama-pro", "neox"), ("scale-route", "neox")]
)
def test_every_kind_of_run(method: str, family: str, world: World, finished: Callable[..., Run]) -> None:
    folder = finished(method, family).folder
    plain = world.checkpoint(family)
    corpus = corpus_of(world)
    given = measured(folder, [corpus], base=plain)
    own = given if METHODS[method].trains_all else measured(folder, [corpus])
    model, base = load_model(describe(str(folder))), load_model(describe(str(plain)))
    wanted = slowly(base, model, describe(str(folder)).new_layers, corpus, world.tokenizer)
    for metric in ("cosine", "kl", "agreement"):
        own_drift = own[f"drift:bios {metric}"]
        assert own_drift.value == pytest.approx(sum(wanted[metric]) / len(wanted[metric]), abs=1e-5)
        assert own_drift.stderr == pytest.approx(stderr_of(wanted[metric], wanted["owners"]), abs=1e-5)
        assert own_drift.samples == len(set(wanted["owners"]))
        assert own_drift.details["tokens"] == len(wanted["owners"])
        assert own_drift.higher_is_better == (metric != "kl")
        same = given[f"drift:bios {metric}"]  # the base that is in the checkpoint is the one it was made from
        assert (own_drift.value, own_drift.stderr) == (same.value, same.stderr)
        assert own_drift.details["hidden_states_equal"] == (method == "scale-preserve")
        if method == "scale-route":
            assert own_drift.routed == pytest.approx(sum(wanted["preserved"]) / len(wanted["preserved"]))
        else:
            assert own_drift.routed is None
    by_layer = own["drift:bios cosine"].details["by_layer"]
    assert by_layer == pytest.approx(wanted["by_layer"], abs=1e-5)
    assert by_layer[-1] == own["drift:bios cosine"].value
    if method == "scale-preserve":
        assert by_layer == [1.0] * 3
        assert own["drift:bios cosine"].stderr == 0
    else:
        assert own["drift:bios cosine"].value < 1
    assert own["drift:bios kl"].value > 0


@pytest.mark.parametrize(("family", "kind"), [("llama", "width"), ("neox", "depth")])
def test_what_is_only_upscaled_has_not_moved(family: str, kind: str, world: World) -> None:
    corpus = corpus_of(world)
    for base in (None, world.checkpoint(family)):
        drift = measured(world.checkpoint(family, kind), [corpus], base=base)
        values = {metric: (m.value, m.stderr) for metric, m in drift.items() if m.task != "drift"}
        assert values == {
            "drift:bios cosine": (1.0, 0.0),
            "drift:bios kl": (0.0, 0.0),
            "drift:bios agreement": (1.0, 0.0),
        }
        assert drift["drift:bios kl"].details["hidden_states_equal"] is True
        assert drift["drift:bios cosine"].details["by_layer"] == [1.0] * 3


def test_a_base_that_is_not_bitwise_the_same_is_seen(
    world: World, finished: Callable[..., Run], tmp_path: Path
) -> None:
    preserve = finished("scale-preserve").folder
    base = load_model(describe(str(world.checkpoint("llama"))))
    with torch.no_grad():
        base.model.layers[1].mlp.down_proj.weight[0, 0] += 1e-3
    save(base, tmp_path / "other", world.tokenizer)
    drift = measured(preserve, [corpus_of(world)], base=tmp_path / "other")["drift:bios cosine"]
    assert drift.details["hidden_states_equal"] is False
    assert 0.99 < drift.value < 1
    assert drift.details["by_layer"][:2] == [1.0, 1.0]


# -- where the base is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-grouped", "qwen2", "gemma3", "neox"])
def test_a_deepened_model_without_its_new_layers_is_the_base(name: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", name)
    upscale(str(folder), tmp_path / "deep", by="depth", layers=5, verify=False)
    deep = describe(str(tmp_path / "deep"))
    assert len(deep.new_layers) == 2
    base, taken = load_model(describe(str(folder))), without_layers(load_model(deep), deep.new_layers)
    tokens = probe()
    with torch.no_grad():
        base_output, output = (model(tokens, output_hidden_states=True, use_cache=False) for model in (base, taken))
    assert torch.equal(base_output.logits, output.logits)
    assert len(base_output.hidden_states) == len(output.hidden_states) == 4
    assert all(map(torch.equal, base_output.hidden_states, output.hidden_states))


def test_layers_and_their_partners() -> None:
    model = tiny_base("llama", num_hidden_layers=6)
    assert layer_partners(model, ()) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]
    assert layer_partners(model, (2, 5)) == [(0, 0), (1, 1), (2, 2), (3, 4), (4, 6)]


@pytest.mark.parametrize("method", ["llama-pro", "scale-route"])
def test_an_export_has_its_base_in_it(method: str, finished: Callable[..., Run], world: World, tmp_path: Path) -> None:
    """It is also the base that `scale export --base` writes."""
    export(str(finished(method).folder), tmp_path / "whole")
    export_base(str(tmp_path / "whole"), tmp_path / "base")
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    moved = measured(tmp_path / "moved", [corpus_of(world, 2)])
    given = measured(tmp_path / "moved", [corpus_of(world, 2)], base=tmp_path / "base")
    run = measured(finished(method).folder, [corpus_of(world, 2)])
    assert {metric: m.value for metric, m in moved.items()} == {metric: m.value for metric, m in given.items()}
    assert {metric: m.value for metric, m in moved.items()} == {metric: m.value for metric, m in run.items()}
    assert moved["drift:bios kl"].task_version != given["drift:bios kl"].task_version


def test_whole_models_do_not_know_their_base(world: World, finished: Callable[..., Run], tmp_path: Path) -> None:
    export(str(finished("lora").folder), tmp_path / "lora")
    deep = tmp_path / "deep"
    train(str(world.checkpoint("llama", "depth")), deep, world.recipe("fft", steps=1))
    for source in (world.checkpoint("llama"), finished("fft").folder, tmp_path / "lora", deep):
        assert refusal(plan_base, describe(str(source)), None) == (
            f"--drift: {source} is a whole model without its base in it; name the base: --base BASE"
        )
        drift = measured(source, [corpus_of(world, 2)], base=world.checkpoint("llama"))["drift:bios cosine"]
        assert (drift.value == 1) == (source == world.checkpoint("llama"))
    run(str(tmp_path / "lora"), tmp_path / "freeze", world.recipe("freeze"))  # and a run on one of them has it
    assert plan_base(describe(str(tmp_path / "freeze")), None).source == str(tmp_path / "lora")


def test_the_only_untrained_model_given_is_the_base(world: World, finished: Callable[..., Run], tmp_path: Path) -> None:
    plain, trained = str(world.checkpoint("llama")), str(finished("fft").folder)
    job = DriftJob([corpus_of(world, 2)], WindowOptions(LENGTH), tokens=600)
    sources = [f"base={plain}", f"fft={trained}", f"wide={finished('scale-preserve').folder}"]
    values = [
        {m.name: m.value for m in each.measurements} for each in evaluate(sources, [job], dtype="float32", batch_size=3)
    ]
    kl = [each["drift:bios/kl"] for each in values]
    assert kl[0] == 0 < min(kl[1:])
    given = measured(trained, [corpus_of(world, 2)], base=plain)
    assert kl[1] == given["drift:bios kl"].value
    assert values[2]["drift:bios/cosine"] == 1
    for alone in ([plain], [plain, f"other={world.checkpoint('llama')}"]):
        assert "name the base: --base BASE" in refusal(evaluate, alone, [job])


def test_a_run_from_random_weights_has_no_base(world: World, tmp_path: Path) -> None:
    """Its unfinished checkpoint points to a folder of which only the config was used."""
    recipe = world.recipe("fft", from_scratch=True, save_steps=1)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(str(world.checkpoint("llama")), tmp_path / "run", recipe, progress=progress_that(stop, at=2))
    (unfinished,) = (tmp_path / "run").glob("checkpoint-1")
    with pytest.raises(RequestError, match="is a whole model without its base in it"):
        plan_base(describe(str(unfinished)), None)


def test_bases_of_other_sizes(world: World, tmp_path: Path) -> None:
    size = len(world.tokenizer)
    shallow = tiny_base("llama-grouped", vocab_size=size - 1, num_hidden_layers=1)
    save(shallow, tmp_path / "shallow", world.tokenizer)
    wide = world.checkpoint("llama", "width")
    ours = f"model_type llama, num_hidden_layers 2, hidden_size 32, vocab_size {size}"
    for base, base_sizes in (
        (tmp_path / "shallow", f"model_type llama, num_hidden_layers 1, hidden_size 32, vocab_size {size - 1}"),
        (world.checkpoint("neox"), ours.replace("llama", "gpt_neox")),
    ):
        assert refusal(plan_base, describe(str(wide)), str(base)) == (
            f"--base {base} has {base_sizes}, and {wide}, without added parts, has {ours}; give the checkpoint it was "
            "made from"
        )


def test_a_family_whose_layers_are_unknown(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16, n_positions=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert refusal(plan_base, describe(str(tmp_path)), str(tmp_path)).startswith(
        f"--drift: {tmp_path}: model type 'gpt2' is not supported; supported are gemma3"
    )


def test_a_number_of_tokens(world: World) -> None:
    with pytest.raises(RequestError, match=r"^--drift-tokens 0: at least 1$"):
        DriftJob([], WindowOptions(), tokens=0)
    corpus = corpus_of(world)
    drift = measured(world.checkpoint("llama", "width"), [corpus], tokens=100)["drift:bios kl"]
    assert drift.details["tokens"] == 100
    lengths = [len(ids) for ids in world.tokenizer(list(corpus.documents), add_special_tokens=False)["input_ids"]]
    assert drift.samples == next(n for n in range(1, 6) if sum(lengths[:n]) >= 100)
    assert drift.task_version == f"base-own-concat-{LENGTH}-100-{corpus.sha256[:12]}"


def test_several_corpora_and_none(world: World, finished: Callable[..., Run]) -> None:
    english, korean = corpus_of(world), Corpus("korean", "x", ("물은 흐른다.", "끝"))
    source = finished("scale-adapt").folder
    drift = measured(source, [english, korean])
    assert drift["drift:bios kl"].value != drift["drift:korean kl"].value
    assert drift["drift:korean kl"].samples == 2
    assert {m.task for m in measured(source, []).values()} == {"drift"}


def test_what_is_done_and_what_is_not(world: World) -> None:
    subject = subject_of(world.checkpoint("llama", "width"))
    corpora = [corpus_of(world, 1), Corpus("other", "x", ("One.", "Two."))]
    task = DriftJob(corpora, WindowOptions(LENGTH), tokens=50)
    measurements = list(task.run(subject, lambda **steps: None).measurements)

    def done(job: DriftJob, measurements: Sequence[Measurement] = measurements, **changes: Any) -> bool:
        target = dataclasses.replace(subject.target, **changes)
        return job.done(Result("", information(target, subject.model), tuple(measurements)), target, 0)

    assert done(task)
    assert done(DriftJob(corpora[:1], WindowOptions(LENGTH), tokens=50))
    for name in ("drift", "drift:bios", "drift:other"):
        assert not done(task, [m for m in measurements if m.task != name])
    plain = str(world.checkpoint("llama"))
    for changes in ({"tokens": 51}, {"base": plain}, {"options": WindowOptions(LENGTH - 1)}):
        assert not done(dataclasses.replace(task, **changes))
    assert not done(dataclasses.replace(task, corpora=[dataclasses.replace(corpora[0], limit=1)]))
    assert not done(task, dtype="bfloat16")


# -- weights -----------------------------------------------------------------------------------------------------------


def norm(*tensors: torch.Tensor) -> float:
    return math.sqrt(sum((tensor.double() ** 2).sum().item() for tensor in tensors))


@pytest.mark.parametrize(
    ("method", "family"), [("scale-preserve", "llama"), ("scale-adapt", "llama"), ("scale-route", "neox")]
)
def test_norms_of_an_expansion(method: str, family: str, world: World, finished: Callable[..., Run]) -> None:
    """Against the tensors by name in the state dict; the paper's Fig. 7 shows the means."""
    folder = finished(method, family).folder
    norms_by_metric = measured(folder, [])
    tensors = load_model(describe(str(folder))).state_dict()
    groups = {"attention": ("q", "k", "v", "o"), "ffn": ("up", "down") if family == "neox" else ("gate", "up", "down")}
    assert len(norms_by_metric) == 8
    for module, roles in groups.items():
        maps = [f"expansion.layers.{layer}.{role}" for layer in range(2) for role in roles]
        for part in ("w12", "w21", "w22"):
            norms = [norm(tensors[f"{name}.{part}"]) if f"{name}.{part}" in tensors else 0.0 for name in maps]
            measurement = norms_by_metric[f"{part}_norm/{module}"]
            assert measurement.value == pytest.approx(sum(norms) / len(maps))
            assert (measurement.samples, measurement.stderr, measurement.higher_is_better) == (len(maps), None, False)
            assert measurement.details["layers"] == [0, 1]
            assert measurement.details["by_layer"][0] == pytest.approx(sum(norms[: len(roles)]) / len(roles))
            assert measurement.details["by_map"][roles[-1]] == pytest.approx(
                sum(norms[len(roles) - 1 :: len(roles)]) / 2
            )
            trained = part != "w12" or (method in ADAPTING and module == "attention")
            assert (measurement.value > 0) == trained
        whole = [norm(*(tensor for key, tensor in tensors.items() if key.startswith(f"{name}.w"))) for name in maps]
        assert norms_by_metric[f"expansion_norm/{module}"].value == pytest.approx(sum(whole) / len(maps))
    if method in ADAPTING:
        assert norms_by_metric["w12_norm/attention"].details["by_layer"][0] == 0  # preserved
        assert norms_by_metric["w12_norm/attention"].details["by_layer"][1] > 0


@pytest.mark.parametrize(("method", "family"), [("lora", "llama"), ("freeze", "llama"), ("fft", "neox")])
def test_changes_of_a_plain_model(method: str, family: str, world: World, finished: Callable[..., Run]) -> None:
    folder, plain = finished(method, family).folder, world.checkpoint(family)
    changes = measured(folder, [], base=plain)
    assert set(changes) == {"weight_change/attention", "weight_change/ffn"}
    after, before = (load_model(describe(str(source))).state_dict() for source in (folder, plain))
    parts_by_module = {"attention": ("self_attn", "attention."), "ffn": ("mlp",)}
    for module, parts in parts_by_module.items():
        names = [
            name
            for name in after
            if any(part in name for part in parts) and name.endswith("weight") and "layernorm" not in name
        ]
        change = {name: norm(after[name].double() - before[name].double()) for name in names}
        measurement = changes[f"weight_change/{module}"]
        assert measurement.value == pytest.approx(sum(change.values()) / len(change))
        assert measurement.samples == len(names) > 0
        assert (measurement.details["by_layer"][0] == 0) == (method == "freeze")
        assert measurement.details["by_layer"][1] > 0
    if family == "neox":
        assert list(changes["weight_change/attention"].details["by_map"]) == ["qkv", "o"]


def test_norms_of_new_layers(world: World, finished: Callable[..., Run]) -> None:
    folder = finished("llama-pro").folder
    (new,) = describe(str(folder)).new_layers
    norms_by_metric = measured(folder, [])
    tensors = load_model(describe(str(folder))).state_dict()
    for module, names in {
        "attention": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
        "ffn": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    }.items():
        norms = [norm(tensors[f"model.layers.{new}.{name}.weight"]) for name in names]
        assert norms_by_metric[f"expansion_norm/{module}"].value == pytest.approx(sum(norms) / len(norms))
        assert norms_by_metric[f"expansion_norm/{module}"].details["layers"] == [new]
        assert norms_by_metric[f"weight_change/{module}"].value == 0
        assert norms_by_metric[f"weight_change/{module}"].samples == 2 * len(norms)
    untrained = measured(world.checkpoint("llama", "depth"), [])
    assert (
        untrained["expansion_norm/ffn"].details["by_map"]["down"]
        == 0
        < norms_by_metric["expansion_norm/ffn"].details["by_map"]["down"]
    )


# -- the arithmetic ----------------------------------------------------------------------------------------------------


def test_the_cosine_of_equal_vectors_is_one() -> None:
    x = torch.randn(2000, 37, generator=torch.Generator().manual_seed(0))
    for vectors in (x, x * 1e-12, x.bfloat16(), x.double() * 1e30):
        assert torch.equal(cosine(vectors, vectors.clone()), torch.ones(2000, dtype=torch.float64))
    assert torch.equal(cosine(x[:, :1], -x[:, :1]), -torch.ones(2000, dtype=torch.float64))
    torch.testing.assert_close(cosine(x, x.flip(0)), functional.cosine_similarity(x.double(), x.double().flip(0)))
    zero = torch.zeros(1, 37)  # the hidden state of a token whose embedding is zero, as of a padding token
    assert [cosine(zero, zero).item(), cosine(zero, x[:1]).item()] == [1.0, 0.0]
    assert cosine(torch.full((1, 2), math.nan), torch.zeros(1, 2)).isnan().all()


def test_the_divergence_by_hand() -> None:
    base = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).log()
    model = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]).log() + 3
    divergence, same = divergence_and_agreement(base, model)
    assert divergence.tolist() == pytest.approx([0.25 * math.log(2), 0], abs=1e-6)
    assert same.tolist() == [False, True]
    assert divergence_and_agreement(base, copy.deepcopy(base))[0].tolist() == [0, 0]
