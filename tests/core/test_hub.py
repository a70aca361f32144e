"""A hub id is described from its small files alone, under its own name."""

import huggingface_hub
import pytest

from scale_cli.checkpoints.card import LICENCES
from scale_cli.checkpoints.load import describe
from tests.runs import World


@pytest.mark.parametrize("kind", ["plain", "width", "depth"])
def test_a_hub_id_is_described_from_its_small_files(kind: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[object] = []

    def snapshot_download(name: str, *, revision: str | None, **patterns: list[str]) -> str:
        requests.append((name, revision, patterns["allow_patterns"]))
        return str(world.checkpoint("llama", kind))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    checkpoint = describe("org/model")
    assert requests == [("org/model", None, ["*.json", "README.md", *LICENCES])]
    assert (checkpoint.kind, checkpoint.source, checkpoint.root) == (kind, "org/model", "org/model")
    assert bool(checkpoint.new_layers) == (kind == "depth")
