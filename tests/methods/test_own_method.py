"""A method of another package: this file contains its whole definition, and every command accepts it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from scale_cli.checkpoints.export import export
from scale_cli.checkpoints.load import describe
from scale_cli.checkpoints.restore import export_base
from scale_cli.core.errors import RequestError
from scale_cli.core.recipe import changed, load_recipe, option
from scale_cli.core.records import read_record, sha256_file
from scale_cli.data.corpora import read_corpora
from scale_cli.data.examples import load_examples
from scale_cli.data.options import DataOptions
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.drift import DriftJob
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.evaluation.perplexity import PerplexityJob
from scale_cli.methods import METHODS, Cost, ExtraData, Method, Request, Step, find_method, register
from scale_cli.planning.plan import plan
from scale_cli.training import TrainRecipe
from scale_cli.training.train import train
from tests.helpers import load
from tests.runs import World, lines, progress_that, reload, same_tensors, tree

ROOT = Path(__file__).parent.parent.parent
LENGTH = 16
Trained = Callable[..., Path]

# -- the method ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RememberOptions:
    """The old texts and the weight of their loss."""

    old_texts: Path | None = option(None, help="Texts on which predictions should stay close to the base's.")
    old_rows: int = option(2, help="Old sequences per batch.")
    kl_weight: float = option(1.0, help="Weight of the KL to the base.")

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(f"--kl-weight {self.kl_weight}: at least 0")


def apply(model: Any, options: RememberOptions, new_layers: Any) -> Any:
    return METHODS["scale-preserve"].apply(model, METHODS["scale-preserve"].options(), new_layers)


def texts(request: Request) -> ExtraData:
    options, recipe = request.options, request.recipe
    data = DataOptions(
        data=(str(options.old_texts),),
        steps=recipe.steps,
        batch_size=options.old_rows,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        seq_length=LENGTH,
        seed=recipe.seed,
    )
    return ExtraData(load_examples(data, request.tokenizer, processes=request.processes), options.old_rows)


def loss(step: Step) -> Tensor:
    """The model's own loss plus the KL divergence of its predictions from the frozen base's on the texts."""
    assert step.extra is not None
    own, _ = step.forward()
    tokens = step.extra["input_ids"]
    with torch.no_grad():
        base = step.unwrapped.base(input_ids=tokens, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
    ours = step.model(input_ids=tokens, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
    kl = functional.kl_div(ours, base, log_target=True, reduction="batchmean")
    return own + step.options.kl_weight * step.share * kl


def cost(model: Any) -> Cost:
    """The extra tokens are half as many as the training tokens."""
    alone = METHODS["scale-preserve"].cost(model)
    return dataclasses.replace(alone, training=1.5 * alone.training)


REMEMBER = Method(
    name="remember",
    title="SCALE-Preserve, remembering",
    group="SCALE",
    needs=("width",),
    lr=3e-3,
    apply=apply,
    options=RememberOptions,
    loss=loss,
    extra_data=texts,
    cost=cost,
    keeps_base=True,
)

# -- in use ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def registration() -> Iterator[None]:
    """Registers the method; every method that is registered in the block is gone at its end."""
    before = set(METHODS)
    register(REMEMBER)
    yield
    for name in METHODS.keys() - before:
        del METHODS[name]


@pytest.fixture
def registered() -> Iterator[None]:
    """Registers the method for the duration of a test."""
    with registration():
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [f"Ann Lee {number} was born in Lima and studied music in Boston." for number in range(20)]
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return file


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


SHARED: dict[str, Any] = {"steps": 6, "eval_people": ("a=0:1",)}
IN_TWO: dict[str, Any] = {"batch_size": 2, "gradient_accumulation_steps": 2, "old_rows": 1}
"""Two batches with one extra row each instead of one batch with two."""


def recipe_of(world: World, text: Path, **changes: Any) -> TrainRecipe:
    return world.recipe("remember", **{"old_texts": text} | SHARED | changes)


@pytest.fixture(scope="module")
def trained(world: World, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained(kl_weight=0.0)`: a run of the method with these options, made once; read it only."""
    runs: dict[str, Path] = {}

    def run(**changes: Any) -> Path:
        if str(changes) not in runs:
            runs[str(changes)] = tmp_path_factory.mktemp("trained") / "run"
            train(world.source("scale-preserve"), runs[str(changes)], recipe_of(world, text, **changes))
        return runs[str(changes)]

    return run


@pytest.mark.usefixtures("registered")
def test_it_trains_saves_loads_and_exports(world: World, text: Path, trained: Trained, tmp_path: Path) -> None:
    run = trained()
    assert {path.name for path in run.iterdir()} >= {"trained.safetensors", "trained.json", "README.md"}
    record = read_record(run / "record.json")
    assert record["extra_tokens"] == 6 * 2 * LENGTH
    own = {"method": "remember", "old_texts": str(text), "old_rows": 2, "kl_weight": 1.0}
    assert own.items() <= record["recipe"].items()
    assert "lora_r" not in record["recipe"]
    assert record["data"][str(text)] == sha256_file(text)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "## Trained with remember" in card
    assert "| kl weight | 1.0 |" in card
    export(str(run), tmp_path / "out")
    assert same_tensors(load(tmp_path / "out").state_dict(), reload(run).state_dict())
    export_base(str(run), tmp_path / "base")
    assert same_tensors(load(tmp_path / "base").state_dict(), load(world.checkpoint("llama")).state_dict())


@pytest.mark.usefixtures("registered")
def test_without_weight_it_is_scale_preserve_and_with_it_predictions_stay(
    world: World, text: Path, trained: Trained, tmp_path: Path
) -> None:
    def nats_from_base(run: Path, name: str) -> float:
        (corpus,) = read_corpora([f"old={text}"])
        windows = WindowOptions(LENGTH, packing="documents")
        (measured,) = evaluate([str(run)], [DriftJob([corpus], windows)], out=tmp_path / name)
        return next(m.value for m in measured.measurements if m.task == "drift:old" and m.metric.startswith("kl"))

    train(world.source("scale-preserve"), tmp_path / "plain", world.recipe("scale-preserve", **SHARED))
    plain, without, heavy = tmp_path / "plain", trained(kl_weight=0.0), trained(kl_weight=30.0)
    weights = [(run / "trained.safetensors").read_bytes() for run in (plain, without, heavy)]
    assert weights[0] == weights[1] != weights[2]
    assert lines(plain) == lines(without) != lines(heavy)
    assert nats_from_base(heavy, "heavy") < 0.5 * nats_from_base(without, "without")


@pytest.mark.usefixtures("registered")
def test_another_text_would_be_seen_and_batches_add_up(trained: Trained, tmp_path: Path) -> None:
    """Up to the order of additions."""
    other = tmp_path / "other.txt"
    other.write_text("a b c d e f g " * 40, encoding="utf-8")
    runs = [trained(kl_weight=30.0, **changes) for changes in ({}, IN_TWO, {"old_texts": other})]
    one, two, another = ([line["loss"] for line in lines(run) if "loss" in line] for run in runs)
    assert two == pytest.approx(one, rel=1e-3)
    assert another != pytest.approx(one, rel=1e-3)


@pytest.mark.usefixtures("registered")
def test_killed_and_resumed_is_never_killed(world: World, text: Path, trained: Trained, tmp_path: Path) -> None:
    source, recipe = world.source("scale-preserve"), recipe_of(world, text, kl_weight=30.0, **IN_TWO)
    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "run", recipe, progress=progress_that(ctrl_c, at=4))
    with pytest.raises(RequestError, match=r"was started with kl_weight 30\.0, not 2\.0; give"):
        train(source, tmp_path / "run", changed(recipe, kl_weight=2.0), resume=True)
    train(source, tmp_path / "run", recipe, resume=True)
    whole, resumed = tree(trained(kl_weight=30.0, **IN_TWO)), tree(tmp_path / "run")
    for name in ("trained.safetensors", "metrics.jsonl", "recipe.yaml", "trained.json"):
        assert whole[name] == resumed[name]


@pytest.mark.usefixtures("registered")
def test_it_is_measured_and_planned(world: World, text: Path, trained: Trained, tmp_path: Path) -> None:
    (corpus,) = read_corpora([f"old={text}"])
    (result,) = evaluate([str(trained())], [PerplexityJob(corpus, WindowOptions(LENGTH))], out=tmp_path / "results")
    assert result.checkpoint.method == "remember"
    assert result.checkpoint.recipe is not None
    assert result.checkpoint.recipe["kl_weight"] == 1.0
    names = ["scale-preserve", "remember"]
    planned = plan(world.source("fft"), hidden=8, methods=names, batch_size=1, seq_length=8, old_rows=3)
    rows = {row.method: row for row in planned.methods}
    assert rows["remember"].options["old_rows"] == 3
    assert rows["remember"].trained_parameters == rows["scale-preserve"].trained_parameters
    assert rows["remember"].multiply_adds == 1.5 * rows["scale-preserve"].multiply_adds


@pytest.mark.usefixtures("registered")
def test_its_options_are_checked(world: World, text: Path, tmp_path: Path) -> None:
    assert TrainRecipe(data=("x",), method="remember").learning_rate == 3e-3
    for values, message in (
        ({"kl_weight": -1.0}, "^--kl-weight -1.0: at least 0$"),
        ({"old_rows": "many"}, "^old_rows: 'many' is not a whole number$"),
        ({"old_text": 1}, "^unknown key 'old_text'; did you mean 'old_texts'"),
    ):
        with pytest.raises(RequestError, match=message):
            load_recipe(TrainRecipe, None, {"data": "x", "method": "remember"} | values)
    with pytest.raises(RequestError, match=r"nowhere: no such file or folder$"):
        train(world.source("scale-preserve"), tmp_path / "run", recipe_of(world, tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_method_that_is_gone_names_it(trained: Trained, registered: None) -> None:
    run = trained()
    del METHODS["remember"]
    with pytest.raises(RequestError, match=r"run: method 'remember' is not installed; installed: fft, .*; install the"):
        reload(run)
    with pytest.raises(RequestError, match=r"^method 'remember' is not installed; installed: fft, "):
        find_method("remember")


def test_a_name_and_a_yardstick_are_taken_once(registered: None) -> None:
    register(REMEMBER)  # registering the same object twice is allowed
    with pytest.raises(ValueError, match="another method is named 'remember'"):
        register(dataclasses.replace(REMEMBER, lr=1.0))
    with pytest.raises(ValueError, match="other: scale-adapt is already the yardstick for width"):
        register(dataclasses.replace(REMEMBER, name="other", yardstick=True))

    @dataclass(frozen=True)
    class Clashing:
        lora_r: int = option(1, help="Another rank.")

    register(dataclasses.replace(REMEMBER, name="other", options=Clashing))
    with pytest.raises(ValueError, match="another variant defines the option 'lora_r' too"):
        load_recipe(TrainRecipe, None, {"data": "x"})


# -- stored tensors --------------------------------------------------------------------------------------------------


def test_a_method_stores_and_merges_what_it_adds(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single trained factor on the final norm's output, and a step count that is a buffer, not a parameter."""

    class Scaled(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm
            self.factor = nn.Parameter(torch.ones(()))
            self.steps: Tensor
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += self.training
            return self.norm(x) * self.factor

    def add(model: Any, options: Any, new_layers: Any) -> Any:
        model.requires_grad_(False)
        model.gpt_neox.final_layer_norm = Scaled(model.gpt_neox.final_layer_norm)
        return model

    def merged(model: Any) -> Any:
        scaled = model.gpt_neox.final_layer_norm
        with torch.no_grad():
            for parameter in scaled.norm.parameters():
                parameter *= scaled.factor
        model.gpt_neox.final_layer_norm = scaled.norm
        return model

    def stored(model: Any) -> dict[str, Tensor]:
        scaled = model.gpt_neox.final_layer_norm
        return {"factor": scaled.factor, "steps": scaled.steps}

    method = Method("scaled", "Scaled", "baseline", ("plain",), 1e-2, add, merged=merged, stored=stored)
    monkeypatch.setitem(METHODS, "scaled", method)
    base = world.checkpoint("neox")
    with pytest.raises(KeyboardInterrupt):
        train(str(base), tmp_path / "run", world.recipe("scaled"), progress=progress_that(ctrl_c, at=2))
    train(str(base), tmp_path / "run", world.recipe("scaled"), resume=True)
    values = load_file(tmp_path / "run" / "trained.safetensors")
    assert values.keys() == {"factor", "steps"}
    assert values["steps"] == 4
    assert values["factor"] != 1
    expected = load(base).state_dict()
    for name in ("weight", "bias"):
        expected[f"gpt_neox.final_layer_norm.{name}"] *= values["factor"]
    assert same_tensors(reload(tmp_path / "run").state_dict(), expected)
    export(str(tmp_path / "run"), tmp_path / "out")
    assert same_tensors(load(tmp_path / "out").state_dict(), expected)
    assert describe(str(tmp_path / "out")).kind == "plain"


# -- another package -------------------------------------------------------------------------------------------------

PACKAGE = """
from dataclasses import dataclass

from scale_cli.core.recipe import option
from scale_cli.methods import METHODS, Method
from scale_cli.training import TrainRecipe  # any module of the tool can be imported


@dataclass(frozen=True)
class Options:
    loss_factor: float = option(1.0, help="The loss is multiplied with this.")


METHOD = Method(
    name="scaled-loss",
    title="Scaled loss",
    group="baseline",
    needs=("plain",),
    lr=1e-3,
    apply=lambda model, options, new_layers: METHODS["fft"].apply(model, options, new_layers),
    options=Options,
    loss=lambda step: step.options.loss_factor * step.forward()[0],
    trains_all=True,
)
"""


def test_an_entry_point_brings_it_to_the_command_line(tmp_path: Path) -> None:
    info = tmp_path / "site" / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    points = "[scale_cli.methods]\nscaled-loss = other:METHOD\nbroken = other:NOT_THERE\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    (info.parent / "other.py").write_text(PACKAGE, encoding="utf-8")
    program = "import sys; from scale_cli.cli import main; sys.exit(main(['train', '--help']))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(info.parent)])}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert "the method broken of other:NOT_THERE does not load: AttributeError" in ended.stderr
    assert "|scaled-loss>" in ended.stdout
    assert re.search(r"--loss-factor <float>\s+The loss is multiplied with this\.", ended.stdout)
