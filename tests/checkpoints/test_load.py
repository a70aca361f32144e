"""Loading never runs code of the checkpoint."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from scale_cli.checkpoints.load import config_of, describe, load_model, load_tokenizer, random_model
from scale_cli.core.errors import RequestError
from tests.runs import World


@pytest.mark.parametrize("model_type", ["llama", "unheard"])
def test_code_beside_the_weights_never_runs(
    model_type: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if someone answers the library's question with yes."""
    folder = tmp_path / "model"
    shutil.copytree(world.checkpoint("llama"), folder)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    for name, classes in (
        ("config.json", {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["code.Config", "code.Config"]}),
    ):
        entries = json.loads((folder / name).read_text(encoding="utf-8"))
        entries |= {"auto_map": classes} | ({"model_type": model_type} if name == "config.json" else {})
        (folder / name).write_text(json.dumps(entries), encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    checkpoint = describe(str(folder))
    if model_type == "llama":
        load_model(checkpoint)
        load_tokenizer(checkpoint)
    else:
        for read in (load_model, load_tokenizer, random_model, config_of):
            with pytest.raises(RequestError):
                read(checkpoint)
    assert not (tmp_path / "ran").exists()
