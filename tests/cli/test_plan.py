"""`scale plan` prints a plan for people and for programs, and its command lines do what it says."""

import functools
import itertools
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.methods import METHODS
from scale_cli.planning import plan as planning
from scale_cli.planning.memory import StepMemory
from tests.helpers import base_folder, tiny_base
from tests.plans import LLAMA_1B, config_folder, needs_osf

RunCli = Callable[..., Any]
SMALL = ("--batch-size", 2, "--seq-length", 8, "--preserve-layers", 1)


def rows(text: str) -> dict[str, list[list[str]]]:
    """The cells of every table row by its first cell, in order."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("│"):
            first, *cells = (cell.strip() for cell in line.split("│")[1:-1])
            found.setdefault(first, []).append(cells)
    return found


@needs_osf
def test_the_tables_say_what_the_json_says(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(10**5, 10**5)
    plan = functools.cache(planning.plan)
    monkeypatch.setattr(planning, "plan", lambda base, progress, **options: plan(base, **options))
    monkeypatch.setattr(planning, "step_memory", lambda model, **options: StepMemory(next(numbers), next(numbers)))
    base = config_folder(tmp_path / "tiny", tiny_base("llama-grouped", num_hidden_layers=4).config.to_dict())
    ended = run_cli("plan", base, "--hidden", 8, *SMALL)
    result = json.loads(run_cli("plan", base, "--hidden", 8, *SMALL, "--json").stdout)
    assert ended.code == 0
    lines = ended.stdout.splitlines()
    assert lines[0].rstrip() == f"tiny: llama, 4 layers, hidden 32, {result['base_parameters']:,} parameters"
    tables = rows(ended.stdout)
    width, depth, lora = (result["choices"][name] for name in ("width", "depth", "lora"))
    assert tables["width"] == [
        [
            "hidden +8, heads +2 (key/value +1), ffn +12",
            f"{width['trained_parameters']:,}",
            f"{100 * width['trained_parameters'] / result['base_parameters']:.1f}",
            "1.000",
        ]
    ]
    assert tables["depth"][0][0] == f"4 -> {depth['sizes']['num_hidden_layers']} layers"
    assert tables["lora"][0][0] == f"--lora-r {lora['sizes']['lora_r']}"
    assert [method["method"] for method in result["methods"]] == list(METHODS)
    for method in result["methods"]:
        parameters, costs, memory = tables[method["method"]][-3:]
        assert parameters == [
            f"{method['added_parameters']:,}",
            f"{method['trained_parameters']:,}",
            f"{100 * method['trained_share']:.1f}",
        ]
        assert costs == [
            f"{method['cost_ratio']:.3f}",
            f"{method['rehearsal_ratio']:.3f}",
            f"{method['generation_ratio']:.3f}",
            f"{method['mixture_ratio']:.3f}",
            f"{method['cache_bytes']:,}",
            f"{method['cache_ratio']:.3f}",
        ]
        parts = ("weights", "gradients", "optimizer", "activations", "peak")
        assert memory == [*(f"{method[f'{part}_bytes'] / 1e6:,.2f}" for part in parts), "16"]
    assert "Memory of training, 2 x 8 tokens, bfloat16" in ended.stdout
    assert lines[-2:] == [width["command"], depth["command"]]
    assert f"target: {result['target_parameters']:,} trained parameters, from --hidden 8;" in ended.stdout
    assert result["collaborating_layers"] == [1, 2, 3]


def test_every_option_reaches_the_plan(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = config_folder(tmp_path / "tiny", tiny_base("llama").config.to_dict())
    given: dict[str, Any] = {}

    def plan(base: str, **options: Any) -> planning.Plan:
        given.update(options)
        return made(base, hidden=8, layers=4, batch_size=1, seq_length=2)

    made = planning.plan
    monkeypatch.setattr(planning, "plan", plan)
    monkeypatch.setattr(planning, "step_memory", lambda model, **options: StepMemory(0, 0))
    options = {
        "hidden": 1,
        "heads": 2,
        "ffn": 3,
        "layers": 4,
        "match": "depth:5",
        "match_params": 0.6,
        "init": "random",
        "preserve_layers": 7,
        "adapt_modules": "ffn",
        "freeze_layers": 8,
        "lora_r": 9,
        "lora_alpha": 12,
        "threshold": 0.7,
        "batch_size": 10,
        "seq_length": 11,
        "precision": "float32",
        "revision": "main",
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    ended = run_cli("plan", base, *words, "--gradient-checkpointing", "--gpus", 8, "--shard")
    assert ended.code == 0
    assert given.pop("progress")
    assert given == options | {"gradient_checkpointing": True, "gpus": 8, "shard": True}
    assert "freeze is left out: --freeze-layers 3: the model has 3 layers and at least one must train" in ended.stderr


def test_its_command_lines_make_what_it_says(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "step_memory", lambda model, **options: StepMemory(0, 0))
    base_folder(tmp_path / "my base", "llama-grouped")
    result = json.loads(run_cli("plan", "my base", "--match", "depth:4", "--lora-r", 2, *SMALL, "--json").stdout)
    trained = {method["method"]: method["trained_parameters"] for method in result["methods"]}
    for way, method in (("width", "scale-preserve"), ("depth", "llama-pro")):
        command = shlex.split(result["choices"][way]["command"])
        assert command[:2] == ["scale", "upscale"]
        made = json.loads(run_cli(*command[1:], "--no-verify", "--json").stdout)
        assert made["added_parameters"] == trained[method]
        assert made["sizes"] == result["choices"][way]["sizes"]
        assert made["base_parameters"] == result["base_parameters"]
    assert result["choices"]["lora"] == {
        "added_parameters": trained["lora"],
        "command": None,
        "ratio": trained["lora"] / result["target_parameters"],
        "sizes": {"lora_r": 2},
        "trained_parameters": trained["lora"],
    }


def test_a_large_model_fits_80_columns(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.cli.output.PIPED_WIDTH", 80)
    monkeypatch.setattr(planning, "step_memory", lambda model, **options: StepMemory(10**11, 10**11))
    sizes = {"hidden_size": 8192, "intermediate_size": 286720, "num_attention_heads": 64, "num_hidden_layers": 8}
    base = config_folder(tmp_path / "Llama-60B", LLAMA_1B | sizes | {"head_dim": 128, "tie_word_embeddings": False})
    text = run_cli("plan", base, "--hidden", 1024, "--ffn", 3584, "--layers", 9).stdout
    tables, _, commands = text.partition("\nscale upscale")
    tables = tables.splitlines()
    assert max(len(line.rstrip()) for line in tables) <= 80
    assert "…" not in text
    assert commands.splitlines()[0].endswith(" --by width --hidden 1024 --heads 8 --ffn 3584")  # whole, to be copied
    assert rows(text)["fft"][0][1] == "59,680,890,880"
    assert rows(text)["fft"][2][-2:] == [f"{12 * 59.68089088 + 100:,.2f}", "none"]
