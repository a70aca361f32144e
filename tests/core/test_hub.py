"""A hub id is described from its small files alone, and keeps its name."""

import huggingface_hub
import pytest

from scale_cli.checkpoints.card import LICENCES
from scale_cli.checkpoints.load import describe
from tests.runs import World


@pytest.mark.parametrize("kind", ["plain", "width", "depth"])
def test_the_kind_of_a_hub_id_is_seen(kind: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def snapshot_download(name: str, *, revision: str | None, **patterns: list[str]) -> str:
        asked.append((name, revision, patterns["allow_patterns"]))
        return str(world.checkpoint("llama", kind))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = describe("org/model")
    assert asked == [("org/model", None, ["*.json", "README.md", *LICENCES])]
    assert (found.kind, found.source, found.root) == (kind, "org/model", "org/model")
    assert bool(found.new_layers) == (kind == "depth")
