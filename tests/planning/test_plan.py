"""A plan's numbers are right: compared with counts by hand, with upscaled checkpoints and with real steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from scale_cli.core.errors import RequestError
from scale_cli.methods import METHODS, method_options
from scale_cli.model.compatibility import CACHE
from scale_cli.planning import plan as planning
from scale_cli.planning.memory import StepMemory
from scale_cli.planning.plan import Plan, plan
from scale_cli.planning.sizes import matching_layers
from scale_cli.surgery import upscale
from tests.helpers import base_folder, refusal, tiny_base
from tests.plans import LLAMA_1B, PYTHIA_160M, config_folder, needs_osf, prepared


def tiny_config(folder: Path, name: str, **changes: Any) -> str:
    """A folder with nothing but the config of a tiny base of `tests.helpers`."""
    config = tiny_base(name, **changes).config
    return config_folder(folder, config.to_dict() | {"architectures": None})


@pytest.fixture
def counts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out training steps, which take seconds at a real model's size."""
    monkeypatch.setattr(planning, "step_memory", lambda model, **options: StepMemory(0, 0))


def trained(result: Plan) -> dict[str, int]:
    return {method.method: method.trained_parameters for method in result.methods}


# -- counts by hand --------------------------------------------------------------------------------------------------


@needs_osf
@pytest.mark.usefixtures("counts_only")
def test_llama_3_2_1b_by_hand(tmp_path: Path) -> None:
    base = config_folder(tmp_path / "Llama-3.2-1B", LLAMA_1B)
    result = plan(base, hidden=256, heads=4, ffn=1024, layers=20)
    # q and o 2048 x 2048, k and v 512 x 2048, gate, up and down 8192 x 2048, two norms
    block = 2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 8192 * 2048 + 2 * 2048
    head = 128256 * 2048
    assert result.base_parameters == head + 16 * block + 2048 == 1_235_814_400
    # Added rows read 2048 + 256 features: q 256 rows, k and v 64, gate and up 1024; o adds 256 rows that read the
    # contexts of 32 + 4 heads, down 256 that read 8192 + 1024. Embedding and head add 256 columns each.
    expansion_block = (256 + 2 * 64 + 2 * 1024) * 2304 + 256 * 36 * 64 + 256 * 9216 + 2 * 256
    expansion = 2 * 128256 * 256 + 16 * expansion_block + 256
    w12 = (2048 + 2 * 512) * 256 + 2048 * 4 * 64  # q, k, v read the added features, o the added heads
    rank = 2 * 4096 + 2 * (512 + 2048) + 3 * (8192 + 2048)  # in + out of each map
    preserved = result.choices["osf"].sizes["effective_rank"]
    directions = {features: features - int(features * preserved) for features in (512, 2048)}  # those that train
    osf_weights = 16 * (directions[2048] * (2 * 4096 + 3 * 10240) + directions[512] * 2 * 2560)
    osf = osf_weights + 16 * (5 * directions[2048] + 2 * directions[512])  # and the singular values
    assert result.choices["width"].sizes == {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 1024,
    }
    assert result.choices["lora"].sizes == {"lora_r": 312}
    assert trained(result) == {
        "fft": result.base_parameters,
        "lora": 312 * 16 * rank,
        "freeze": 13 * block + 2048,  # the head is tied to the frozen embedding
        "llama-pro": 4 * block,
        "scale-preserve": expansion,
        "scale-adapt": expansion + 13 * w12,
        "scale-route": expansion + 13 * w12,
        "existing-layers": 4 * block,
        "osf": osf,
        "ewc": result.base_parameters,
    }
    assert osf == pytest.approx(result.target_parameters, rel=0.01)
    assert trained(result)["scale-preserve"] == 202_514_688
    assert trained(result)["llama-pro"] == 243_286_016
    assert result.target_parameters == trained(result)["scale-route"] == 219_554_048
    assert result.choices["depth"].ratio == pytest.approx(1.108, abs=5e-4)
    assert result.collaborating_layers == list(range(3, 16))

    rows = {row.method: row for row in result.methods}
    assert rows["lora"].added_parameters == 312 * 16 * rank
    assert (rows["fft"].added_parameters, rows["freeze"].added_parameters) == (0, 0)
    n = head + 16 * (block - 2 * 2048)
    e = 128256 * 256 + 16 * (expansion_block - 2 * 256)
    assert rows["fft"].multiply_adds == rows["ewc"].multiply_adds == 6 * n
    assert rows["lora"].multiply_adds == 4 * n + 6 * 312 * 16 * rank
    assert rows["freeze"].multiply_adds == 2 * n + 4 * (n - 3 * (block - 2 * 2048)) - 2 * head
    assert rows["osf"].multiply_adds == 4 * n + 12 * osf_weights
    # Layers 3, 7, 11 and 15 train: the gradient passes 13 layers and the head.
    layer = block - 2 * 2048
    assert rows["existing-layers"].multiply_adds == 2 * n + 2 * (13 * layer + head) + 2 * 4 * layer
    w21 = (2 * 256 + 2 * 64 + 2 * 1024) * 2048 + 256 * 8192  # of a layer: q, o; k, v; gate, up; down
    assert rows["scale-preserve"].multiply_adds == 2 * n + 6 * e - 2 * 16 * w21
    assert rows["scale-adapt"].multiply_adds == 2 * n + 2 * n * 13 / 16 + 6 * (e + 13 * w12) - 2 * 3 * w21
    # Four new blocks, the first at 4: above it 15 others, and the head.
    assert rows["llama-pro"].multiply_adds == (
        2 * (n + 4 * (block - 4096)) + 2 * (15 * (block - 4096) + head) + 2 * 4 * (block - 4096)
    )
    assert {name: row.cache_bytes for name, row in rows.items()} == {
        **dict.fromkeys(("fft", "lora", "freeze", "existing-layers", "osf", "ewc"), 2 * 2 * 16 * 8 * 64),
        "llama-pro": 2 * 2 * 20 * 8 * 64,
        **dict.fromkeys(("scale-preserve", "scale-adapt"), 2 * 2 * 16 * 9 * 64),
        "scale-route": 2 * 2 * (16 + 13) * 9 * 64,
    }
    assert [rows[name].generation_ratio for name in ("fft", "lora", "freeze")] == [1, 1, 1]
    assert rows["llama-pro"].generation_ratio == (n + 4 * (block - 4096)) / n
    assert rows["scale-preserve"].generation_ratio == (n + e) / n
    above = head + 13 * (block - 4096) + 13 * (expansion_block - 512)  # the added head once: for the chosen path
    assert rows["scale-route"].generation_ratio == (n + e + 13 * w12 + above) / n
    # Both predictions: a second model, or the layers above the fork once more, or nothing more.
    assert [rows[name].mixture_ratio for name in ("fft", "lora", "freeze")] == [2, 2, 2]
    assert rows["llama-pro"].mixture_ratio == pytest.approx(rows["llama-pro"].generation_ratio + 1)
    assert rows["scale-preserve"].mixture_ratio == rows["scale-preserve"].generation_ratio
    assert (
        rows["scale-adapt"].mixture_ratio == rows["scale-route"].mixture_ratio == rows["scale-route"].generation_ratio
    )
    assert rows["scale-preserve"].rehearsal_ratio == rows["scale-preserve"].cost_ratio
    assert rows["scale-route"].rehearsal_ratio == rows["scale-route"].cost_ratio
    assert rows["scale-adapt"].rehearsal_ratio == pytest.approx(rows["scale-adapt"].cost_ratio + 2 * above / (6 * n))
    assert rows["lora"].rehearsal_ratio == pytest.approx(rows["lora"].cost_ratio + 2 / 6)
    copies = {name: row.rehearsal_copy_bytes for name, row in rows.items() if row.rehearsal_copy_bytes}
    assert copies == dict.fromkeys(("fft", "freeze", "existing-layers", "ewc"), 2 * result.base_parameters)


@needs_osf
@pytest.mark.usefixtures("counts_only")
def test_pythia_160m_by_hand(tmp_path: Path) -> None:
    base = config_folder(tmp_path / "pythia-160m", PYTHIA_160M)
    options: dict[str, Any] = {"preserve_layers": 11, "lora_r": 64, "train_layers": 3, "effective_rank": 0.75}
    result = plan(base, hidden=128, ffn=128, layers=16, **options)
    # Every map and both norms have a bias.
    block = (768 + 1) * 3 * 768 + (768 + 1) * 768 + (768 + 1) * 3072 + (3072 + 1) * 768 + 4 * 768
    assert result.base_parameters == 2 * 50304 * 768 + 12 * block + 2 * 768 == 162_322_944
    expansion_block = 5 * 128 * (896 + 1) + 128 * (3200 + 1) + 4 * 128  # q, k, v, o, up; down; norms
    expansion = 2 * 50304 * 128 + 12 * expansion_block + 2 * 128
    assert trained(result) == {
        "fft": result.base_parameters,
        "lora": 64 * 12 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072)),
        "freeze": 9 * block + 2 * 768 + 50304 * 768,
        "llama-pro": 4 * block,
        "scale-preserve": expansion,
        "scale-adapt": expansion + 4 * 768 * 128,
        "scale-route": expansion + 4 * 768 * 128,
        "existing-layers": 3 * block,
        "ewc": result.base_parameters,
        "osf": 192 * 12 * ((768 + 2304 + 1) + (768 + 768 + 1) + 2 * (768 + 3072 + 1)),
    }
    assert (trained(result)["scale-route"], trained(result)["llama-pro"]) == (25_083_136, 28_351_488)
    assert result.choices["width"].sizes["num_attention_heads"] == 2
    assert result.choices["depth"].ratio == pytest.approx(1.130, abs=5e-4)
    rows = {row.method: row for row in result.methods}
    assert rows["freeze"].multiply_adds == 2 * (rows["fft"].multiply_adds / 6) + 4 * (
        50304 * 768 + 9 * (3 * 768 * 768 + 768 * 768 + 2 * 768 * 3072)
    )


@pytest.mark.usefixtures("counts_only")
@pytest.mark.parametrize(
    ("config", "width", "layers", "options"),
    [
        (LLAMA_1B, {"hidden": 256, "heads": 4, "ffn": 1024}, 20, {}),
        (PYTHIA_160M, {"hidden": 128, "heads": 2, "ffn": 128}, 16, {"preserve_layers": 11}),
    ],
    ids=["llama-3.2-1b", "pythia-160m"],
)
def test_the_pairs_of_the_paper_match(
    config: dict[str, Any], width: dict[str, Any], layers: int, options: dict[str, Any], tmp_path: Path
) -> None:
    base = config_folder(tmp_path / "base", config)
    words = f"width:{width['hidden']},heads={width['heads']},ffn={width['ffn']}"
    by_word, by_flags = (plan(base, methods=["fft"], **sizes, **options) for sizes in ({"match": words}, width))
    assert by_word.choices == by_flags.choices
    assert by_word.choices["depth"].sizes == {"num_hidden_layers": layers}
    assert by_word.target == f"--match {words}"


@pytest.mark.usefixtures("counts_only")
def test_without_sizes_it_is_the_papers_eighth(tmp_path: Path) -> None:
    result = plan(config_folder(tmp_path / "base", LLAMA_1B), methods=["fft"])
    assert result.choices["width"].sizes["hidden_size"] == 256
    assert result.choices["width"].sizes["intermediate_size"] == 1024
    assert result.choices["depth"].sizes == {"num_hidden_layers": 20}
    assert result.target == "--hidden 256"


# -- counts of real checkpoints --------------------------------------------------------------------------------------


@needs_osf
@pytest.mark.usefixtures("counts_only")
@pytest.mark.parametrize("name", ["llama-grouped", "llama-biased", "gemma3", "neox"])
def test_counts_are_those_of_the_checkpoints(name: str, tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", name)
    chosen: dict[str, Any] = {"freeze_layers": 1, "lora_r": 3, "train_layers": 2, "effective_rank": 0.25}
    result = plan(str(base), hidden=8, ffn=12, layers=5, **chosen)
    rows = {row.method: row for row in result.methods}
    assert list(rows) == list(METHODS)
    width = upscale(str(base), tmp_path / "width", by="width", hidden=8, ffn=12, verify=False)
    depth = upscale(str(base), tmp_path / "depth", by="depth", layers=5, verify=False)
    assert rows["scale-preserve"].added_parameters == width.added_parameters
    assert rows["llama-pro"].added_parameters == depth.added_parameters
    assert result.base_parameters == width.base_parameters
    assert result.choices["width"].sizes == width.sizes
    assert result.choices["depth"].sizes == depth.sizes
    blocks = json.loads((tmp_path / "depth" / "upscale.json").read_text(encoding="utf-8"))["new_layers"]
    options = method_options(chosen)
    for method, row in rows.items():
        folder = {"plain": base, "width": tmp_path / "width", "depth": tmp_path / "depth"}[row.needs]
        model = METHODS[method].apply(AutoModelForCausalLM.from_pretrained(folder), options[method], blocks)
        assert row.trained_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
        beside = sum(buffer.numel() * 4 for buffer in model.buffers() if buffer.ndim == 2)  # of osf and ewc
        assert row.weights_bytes == beside + sum(p.numel() * (4 if p.requires_grad else 2) for p in model.parameters())
        assert row.gradients_bytes * 2 == row.optimizer_bytes == 8 * row.trained_parameters


# -- cost, against counted operations --------------------------------------------------------------------------------


def products(model: PreTrainedModel, *, seq_length: int, backward: bool) -> float:
    """Operations per token in products with weights, two per multiply-add."""
    tokens = torch.zeros(1, seq_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        output = model(input_ids=tokens, labels=tokens, use_cache=False)
        if backward:
            output.loss.backward()
    counted = counter.get_flop_counts()["Global"]
    return sum(counted.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm)) / seq_length


@pytest.mark.parametrize("name", ["llama-grouped", "neox", "gemma3"])
@pytest.mark.parametrize("method", METHODS)
def test_costs_are_the_operations_of_a_real_step(method: str, name: str) -> None:
    model, chosen = prepared(method, name), METHODS[method]
    cost = chosen.cost(model)
    expected = cost.training
    if method == "scale-route":  # the cost model counts the added head for both paths
        expected -= 6 * 2 / 4 * model.expansion.head.weight.numel()
    exact = method in ("fft", "freeze", "scale-preserve")  # the others' lowest layer with a gradient needs less
    # Per token, from two lengths: osf's projection of gradients is per step.
    short, long = (length * products(model, seq_length=length, backward=True) for length in (16, 32))
    assert expected == pytest.approx((long - short) / 16, rel=0 if exact else 0.1)
    generator = chosen.merged(model) if chosen.merged else model
    assert 2 * cost.generation == products(generator.eval(), seq_length=1, backward=False)


@pytest.mark.parametrize(("method", "name"), [*((method, "llama-grouped") for method in METHODS), ("lora", "gemma3")])
def test_the_cache_is_that_of_a_real_generation(method: str, name: str) -> None:
    model = prepared(method, name).eval()
    with torch.no_grad():
        cache = model(input_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=True)[CACHE]
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert 3 * planning.cached_numbers(model) == numbers


# -- matching --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("counts_only")
def test_the_width_nearest_to_a_depth(tmp_path: Path) -> None:
    base = config_folder(tmp_path / "base", PYTHIA_160M)
    one: dict[str, Any] = {"methods": ["llama-pro"]}
    found = plan(base, match="depth:14", **one)
    assert found.target_parameters == trained(found)["llama-pro"]
    assert found.choices == plan(base, layers=14, **one).choices
    hidden = found.choices["width"].sizes["hidden_size"]
    assert hidden % 8 == 0
    distances = [
        abs(plan(base, hidden=size, layers=14, **one).choices["width"].trained_parameters - found.target_parameters)
        for size in (hidden - 8, hidden, hidden + 8)
    ]
    assert min(distances) == distances[1]
    width = found.choices["width"]
    assert width.ratio == width.trained_parameters / found.target_parameters
    assert found.choices["lora"].ratio == pytest.approx(1.0, abs=0.01)


@pytest.mark.usefixtures("counts_only")
def test_a_share_of_the_base_for_all_three(tmp_path: Path) -> None:
    base = config_folder(tmp_path / "base", PYTHIA_160M)
    found = plan(base, match_params=0.15, methods=["fft"])
    assert found.target_parameters == round(0.15 * 162_322_944)
    assert found.target == "--match-params 0.15"
    assert found.choices["width"].ratio == pytest.approx(1.0, abs=0.05)
    assert found.choices["depth"].sizes == {"num_hidden_layers": 15}  # 3 blocks of 4.37%
    assert found.choices["depth"].ratio == pytest.approx(1.0, abs=0.15)
    odd = plan(config_folder(tmp_path / "odd", PYTHIA_160M | {"intermediate_size": 2731}), match_params=0.1)
    assert odd.choices["width"].sizes["intermediate_size"] % 8 == 0
    assert odd.choices["width"].ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.usefixtures("counts_only")
def test_a_width_given_with_a_depth_matches_only_the_rank(tmp_path: Path) -> None:
    base = config_folder(tmp_path / "base", PYTHIA_160M)
    found = plan(base, hidden=64, layers=24, methods=["fft"])
    assert found.choices["width"].sizes["hidden_size"] == 64
    assert found.choices["depth"].sizes == {"num_hidden_layers": 24}
    assert found.choices["lora"].ratio == pytest.approx(1.0, abs=0.02)
    assert found.target_parameters == found.choices["width"].trained_parameters


def test_the_nearest_numbers_of_layers_and_ranks() -> None:
    config = AutoConfig.for_model(**PYTHIA_160M)
    block = 7_087_872
    assert matching_layers(config, round(3.4 * block)) == 15
    assert matching_layers(config, round(3.6 * block)) == 16
    assert matching_layers(config, 1) == 13
    assert matching_layers(config, 100 * block) == 24
    per_rank = 12 * (3072 + 1536 + 2 * 3840)
    size = METHODS["lora"].size
    assert size is not None
    assert size.option == "lora_r"
    assert size.nearest(config, round(7.4 * per_rank)) == 7
    assert size.nearest(config, 1) == 1


# -- requests --------------------------------------------------------------------------------------------------------


@needs_osf
@pytest.mark.usefixtures("counts_only")
def test_of_a_hub_id_only_the_config_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    folder = Path(tiny_config(tmp_path / "0123abc", "llama"))

    def snapshot_download(name: str, *, revision: str | None, **patterns: list[str]) -> str:
        asked.append((name, revision, patterns["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    result = plan("org/model", hidden=8, layers=4, revision="main", batch_size=1, seq_length=4)
    assert asked == [("org/model", "main", ["config.json"])]
    assert (result.base, result.name, result.revision) == ("org/model", "model", "0123abc")
    assert [choice.command for choice in result.choices.values()] == [
        "scale upscale org/model model-width-8 --by width --hidden 8 --heads 1 --ffn 12 --revision 0123abc",
        "scale upscale org/model model-depth-4 --by depth --layers 4 --revision 0123abc",
        *[None] * 3,
    ]


@pytest.mark.usefixtures("counts_only")
def test_without_osf_the_rest_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.methods.osf.has_peft", lambda: False)
    base = tiny_config(tmp_path / "base", "llama", num_hidden_layers=4)
    result = plan(base)
    assert list(result.left_out) == ["osf"]
    assert list(trained(result)) == [name for name in METHODS if name != "osf"]
    assert list(result.choices) == ["width", "depth", "lora", "existing-layers"]
    assert list(plan(base, methods=["fft"]).choices) == ["width", "depth", "lora", "existing-layers"]
    with pytest.raises(RequestError, match=r"^--method osf: needs peft"):
        plan(base, effective_rank=0.5)


@needs_osf
@pytest.mark.usefixtures("counts_only")
def test_freeze_is_left_out_where_its_default_trains_no_layer(tmp_path: Path) -> None:
    base = tiny_config(tmp_path / "base", "llama")
    result = plan(base)
    reason = "--freeze-layers 3: the model has 3 layers and at least one must train; choose 0 to 2"
    assert result.left_out == {"freeze": reason}
    assert list(trained(result)) == [name for name in METHODS if name != "freeze"]
    assert list(trained(plan(base, freeze_layers=2))) == list(METHODS)
    with pytest.raises(RequestError, match=r"^--freeze-layers 3: the model has 3 layers"):
        plan(base, freeze_layers=3)


@pytest.mark.usefixtures("counts_only")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "depth:4", "hidden": 8}, "--match depth:4 and --hidden 8 each set the sizes; give one of them"),
        (
            {"match": "depth:4", "match_params": 0.1},
            "--match-params 0.1 and --match depth:4 each set the sizes; give one of them",
        ),
        ({"match_params": 0.1, "layers": 4}, "--match-params 0.1 and --layers 4 each set the sizes; give one of them"),
        (
            {"match": "height:4"},
            "--match height:4: write depth:LAYERS or width:HIDDEN[,heads=N][,ffn=N], as in depth:20 or "
            "width:256,ffn=1024",
        ),
        ({"match_params": 0}, "--match-params 0: a share of the base's parameters above 0, as in 0.15"),
        ({"match_params": float("nan")}, "--match-params nan: a share of the base's parameters above 0, as in 0.15"),
        (
            {"match_params": 9},
            "--match-params 9: base widened by 24 features, the most, trains 1.48 of its parameters; choose up to "
            "1.48, or --init random",
        ),
        ({"heads": 4}, "--heads 4 needs --hidden, the number of features to add, as in --hidden 256"),
        ({"layers": 4, "ffn": 4}, "--ffn 4 needs --hidden, the number of features to add, as in --hidden 256"),
        (
            {"hidden": 40},
            "--hidden 40: svd takes at most 32 from the maps of base; choose --hidden up to 32, or --init random",
        ),
        ({"lora_r": 0}, "--lora-r 0: a rank, from 1 to 65536"),
        ({"batch_size": 0}, "--batch-size 0: at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = tiny_config(tmp_path / "base", "llama")
    assert refusal(plan, base, **options) == message.format(base=base)


@pytest.mark.usefixtures("counts_only")
def test_sizes_beyond_svd_can_be_random(tmp_path: Path) -> None:
    result = plan(tiny_config(tmp_path / "base", "llama"), hidden=40, init="random,zero")
    command = result.choices["width"].command
    assert command is not None
    assert command.endswith("--by width --hidden 40 --heads 5 --ffn 60 --init random,zero")


def test_a_base_that_cannot_be_upscaled_is_refused(tmp_path: Path) -> None:
    unknown = config_folder(tmp_path / "gpt2", {"model_type": "gpt2"})
    with pytest.raises(RequestError, match="model type 'gpt2' is not supported"):
        plan(unknown)
    with pytest.raises(RequestError, match=r"no such folder"):
        plan(str(tmp_path / "none"))
    with pytest.raises(RequestError, match=r"holds no config.json"):
        plan(str(tmp_path))


@pytest.mark.usefixtures("counts_only")
def test_a_sharded_model_by_hand(tmp_path: Path) -> None:
    base = config_folder(tmp_path / "Llama-3.2-1B", LLAMA_1B)
    sizes: dict[str, Any] = {"hidden": 256, "heads": 4, "ffn": 1024, "layers": 20}
    copied, sharded = (plan(base, gpus=4, shard=shard, **sizes) for shard in (False, True))
    by_name = [{method.method: method for method in result.methods} for result in (copied, sharded)]
    for name, whole in by_name[0].items():
        part = by_name[1][name]
        for kind in ("weights", "gradients", "optimizer"):
            assert getattr(part, f"{kind}_bytes") == pytest.approx(getattr(whole, f"{kind}_bytes") / 4, abs=4)
        held = part.weights_bytes + part.gradients_bytes + part.optimizer_bytes
        assert (whole.gathered_bytes, part.peak_bytes) == (0, held + part.gathered_bytes)
    block = 2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 8192 * 2048 + 2 * 2048
    outside = 128256 * 2048 + 2048  # the tied embedding and the final norm
    assert by_name[1]["fft"].gathered_bytes == 2 * (outside + 2 * block) + 4 * (outside + block)
    expansion_block = (256 + 2 * 64 + 2 * 1024) * 2304 + 256 * 36 * 64 + 256 * 9216 + 2 * 256
    added_outside = 2 * 128256 * 256 + 256
    gathered = 2 * (outside + added_outside + 2 * (block + expansion_block)) + 4 * (added_outside + expansion_block)
    assert by_name[1]["scale-preserve"].gathered_bytes == gathered
    assert (
        refusal(plan, base, shard=True)
        == "--shard: spreads the model over several GPUs; give their number, as in --gpus 8"
    )
