"""Training on streams and mixtures: bitwise resumption, and tokens that are made once for all runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record, sha256_file
from scale_cli.data import sources, tokens
from scale_cli.data.biographies import read_biographies
from scale_cli.data.examples import load_examples
from scale_cli.data.sources import FileSource, HubSource, HubTexts
from scale_cli.data.tokens import tokenise
from scale_cli.training import TrainRecipe
from scale_cli.training.train import train
from tests.data.chunks import packed_plainly
from tests.data.hub_data import stand_in
from tests.helpers import refusal
from tests.runs import World, progress_that, tree

LENGTH = 32


@pytest.fixture
def texts(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the dataset `org/name`, whose chunks have about 256 and 512 tokens."""
    texts = read_biographies(world.data)
    stand_in(monkeypatch, tmp_path / "hub", train=[texts[:10], texts[10:30], texts[30:]])
    monkeypatch.setattr(sources, "BATCH_CHARACTERS", 200)
    monkeypatch.setattr(tokens, "FIRST_TOKENS", 256)
    monkeypatch.setattr(tokens, "MOST_TOKENS", 512)
    return texts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "more.jsonl"
    rows = [json.dumps({"text": f"another text, number {number} of them" * (number % 7 > 0)}) for number in range(50)]
    file.write_text("\n".join(rows), encoding="utf-8")
    return file


def recipe_of(world: World, *data: str, method: str = "scale-preserve", **changes: Any) -> TrainRecipe:
    options = {"objective": "lm", "people": None, "seq_length": LENGTH, "steps": 9, "batch_size": 6}
    return world.recipe(method, data=data, **(options | changes))


def opened() -> HubTexts:
    return HubSource("org/name", "", "", "").open("--data", "train")


def chunks_below(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*/chunk.json"))]


def test_a_stream_is_read_as_training_reaches_it(world: World, texts: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    made: list[int] = []
    recipe = recipe_of(world, "org/name", tokens_cache=folder, steps=100)
    examples = load_examples(recipe, world.tokenizer, progress=made.append)
    assert len(chunks_below(folder)) == 1  # so much is known before training: there is text, and enough
    everything = sum(len(ids) + 1 for ids in tokenise(texts, world.tokenizer))
    assert 256 <= sum(made) < 256 + 300 < everything / 3
    examples.__getitems__(range(50))
    before = len(chunks_below(folder))
    assert 2 < before < 6
    found = examples.__getitems__(range(600))["input_ids"].tolist()
    assert sum(made) == everything

    documents = [[*ids, world.tokenizer.eos_token_id] for ids in tokenise(texts, world.tokenizer)]
    wanted: list[list[int]] = []
    for epoch in range(9):
        begin = 0
        for number, chunk in enumerate(chunks_below(folder)):
            part = documents[begin : (begin := begin + chunk["documents"])]
            wanted += packed_plainly(part, LENGTH, [0, epoch, 0, number])
    assert len(wanted) > 600 > len(wanted) // 9 * 2
    assert found == wanted[:600]


def test_killed_and_resumed_is_never_killed(
    world: World, texts: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a stream and of a mixture, with the cached tokens and without."""
    data = ("org/name:0.8", f"{file}:0.2")
    source = world.source("scale-preserve")

    def interrupt() -> None:
        raise KeyboardInterrupt

    outcomes = {}
    for name in ("whole", "kept", "gone"):
        recipe = recipe_of(world, *data, tokens_cache=tmp_path / f"tokens-{name}", save_steps=1)
        out = tmp_path / name
        if name != "whole":
            with pytest.raises(KeyboardInterrupt):
                train(source, out, recipe, progress=progress_that(interrupt, at=4))
            if name == "gone":
                (tmp_path / "tokens-gone").rename(tmp_path / "moved")
            elif name == "kept":
                kept = tree(tmp_path / "tokens-kept")
        train(source, out, recipe, resume=name != "whole")
        files = tree(out)
        record = read_record(out / "record.json")
        outcomes[name] = [files["trained.safetensors"], files["metrics.jsonl"], record["predicted_tokens"]]
        assert record["data"] == {data[0]: opened().revision, data[1]: sha256_file(file)}
        assert record["empty_texts"] == 8
    assert outcomes["whole"] == outcomes["kept"] == outcomes["gone"]
    assert kept.items() <= tree(tmp_path / "tokens-kept").items()
    assert tree(tmp_path / "tokens-whole") == tree(tmp_path / "tokens-kept") == tree(tmp_path / "tokens-gone")


def test_other_weights_are_no_resuming(world: World, file: Path, tmp_path: Path) -> None:
    source, out = world.source("scale-preserve"), tmp_path / "run"

    def interrupt() -> None:
        raise KeyboardInterrupt

    given = recipe_of(world, f"{file}:1", f"{world.data}:2", save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(source, out, given, progress=progress_that(interrupt, at=3))
    for data in ((f"{file}:2", f"{world.data}:2"), (f"{file}:1",), (str(file), str(world.data))):
        assert refusal(train, source, out, recipe_of(world, *data, save_steps=1), resume=True) == (
            f"--resume: {out} was started with data {file}:1,{world.data}:2, not {','.join(data)}; give the same "
            "number of sources with the same weights (their paths may change)"
        )
    moved = file.rename(tmp_path / "moved.jsonl")
    train(source, out, recipe_of(world, f"{moved}:1.0", f"{world.data}:2", save_steps=1), resume=True)


def test_methods_share_the_tokens(
    world: World, texts: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokens_cache": tmp_path / "tokens"}
    data = ("org/name:0.8", f"{file}:0.2")
    read: list[int] = []
    train(world.source("fft"), tmp_path / "a", recipe_of(world, *data, method="fft", **options), reading=read.append)
    assert sum(read) > 0
    before = tree(tmp_path / "tokens")

    def never(*_: Any) -> Any:
        raise AssertionError("it is read again")

    for kind in (FileSource, HubTexts):
        monkeypatch.setattr(kind, "batches", never)
    out = tmp_path / "b"
    train(world.source("scale-preserve"), out, recipe_of(world, *data, **options), reading=never)
    assert tree(tmp_path / "tokens") == before


def test_a_stream_that_breaks_off_ends_the_run_where_it_can_be_resumed(
    world: World, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = world.source("scale-preserve"), tmp_path / "run"
    recipe = recipe_of(world, "org/name", tokens_cache=tmp_path / "tokens", save_steps=1)
    real = HubTexts._texts

    def breaking(self: HubTexts, stream: Any, rows: int) -> Any:
        for number, text in enumerate(real(self, stream, rows)):
            if rows + number == 9:
                raise RequestError("--data org/name: the hub cannot be reached")
            yield text

    with monkeypatch.context() as patch:
        patch.setattr(HubTexts, "_texts", breaking)
        with pytest.raises(RequestError, match=r"^--data org/name: the hub cannot be reached$"):
            train(source, out, recipe)
    assert not (out / "record.json").exists()
    train(source, out, recipe, resume=True)
    train(source, tmp_path / "whole", recipe_of(world, "org/name", tokens_cache=tmp_path / "other", save_steps=1))
    for name in ("trained.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_data_that_is_no_good_is_refused_before_anything_is_written(
    world: World, texts: list[str], file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"txt": "b"}', encoding="utf-8")
    as_in = "; name the field in the source, as in SOURCE"
    for data, message in (
        (("org/name::dev",), "--data org/name::dev: Bad split: dev. Available splits: ['train']"),
        (("org/name:::body",), f"--data org/name:::body, document 1 has no field `body`; it has text{as_in}:text"),
        (("org/other",), "--data org/other: no such file, and as a dataset of the hub it is not in the cache and the "
         "hub cannot be reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"),
        ((str(broken),), f"{broken}, line 2 has no field `text`; it has txt{as_in}:txt"),
        ((f"{file}:x",), f"{file}, line 1 has no field `x`; it has text{as_in}:text"),
        ((f"{file}:1", "org/name:-2"), "--data org/name:-2: a weight is a share of the tokens, a number of at "
         "least 0"),
    ):  # fmt: skip
        assert refusal(train, world.source("fft"), tmp_path / "out", recipe_of(world, *data, method="fft")) == message
        assert not (tmp_path / "out").exists()
