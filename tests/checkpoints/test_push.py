"""Uploaded files arrive byte for byte at the hub, for which a local server stands in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.checkpoints.load import describe
from scale_cli.checkpoints.push import push
from tests.checkpoints.hub import Hub
from tests.helpers import refusal
from tests.runs import World, reload, same_tensors, tree

RunCli = Callable[..., Any]


def test_a_folder_arrives(server: Hub, run_cli: RunCli, world: World) -> None:
    folder = world.checkpoint("neox", "width")
    words = ["push", folder, "org/wide", "--private", "--revision", "try/1", "--message", "first", "--json"]
    ended = run_cli(*words)
    assert (ended.code, ended.stderr) == (0, f"sending {folder} to org/wide\n")
    assert server.repositories["org/wide"]["visibility"] == "private"
    (commit,) = server.commits
    assert (commit["repo"], commit["branch"], commit["message"]) == ("org/wide", "try/1", "first")
    assert commit["files"] == tree(folder)
    result = json.loads(ended.stdout)
    assert result["url"] == f"{server.url}/org/wide/commit/{1:040d}"
    assert result["files"] == {name: len(content) for name, content in tree(folder).items()}
    assert not result["exported"]


def test_into_a_repository_that_is_there(server: Hub, run_cli: RunCli, world: World) -> None:
    for folder in (world.checkpoint("neox", "width"), world.checkpoint("neox", "depth")):
        assert run_cli("push", folder, "org/model").code == 0
    assert "visibility" not in server.repositories["org/model"]
    assert [commit["files"] for commit in server.commits] == [
        tree(world.checkpoint("neox", k)) for k in ("width", "depth")
    ]
    assert {(commit["branch"], commit["message"]) for commit in server.commits} == {("main", "Upload model by scale")}


@pytest.mark.parametrize("method", ["scale-route", "lora", "fft"])
def test_a_run_arrives_as_a_whole_folder(
    method: str, server: Hub, run_cli: RunCli, finished: Any, tmp_path: Path
) -> None:
    folder = finished(method, "llama").folder
    ended = run_cli("push", folder, "somebody/run", "--json")
    assert (ended.code, json.loads(ended.stdout)["exported"]) == (0, True)
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in server.commits[0]["files"].items():
        (arrived / name).write_bytes(content)
    assert {"config.json", "README.md", "tokenizer.json", "export.json"} <= {path.name for path in arrived.iterdir()}
    assert {"metrics.jsonl", "record.json", "recipe.yaml", "trained.json"} & {*server.commits[0]["files"]} == set()
    assert describe(str(arrived)).base is None
    assert same_tensors(reload(arrived).state_dict(), reload(folder).state_dict())
    card = (arrived / "README.md").read_text(encoding="utf-8")
    assert "\n# somebody/run\n" in card
    assert 'from_pretrained("somebody/run"' in card
    assert str(folder.parent) not in card


NOT_KNOWN = "not logged in, or the token is invalid; set HF_TOKEN, or run: hf auth login"
# The fault, and the message after the repository's name.
REFUSED: dict[str, tuple[Callable[[Hub, pytest.MonkeyPatch], object], str]] = {
    "no token": (lambda _, patch: patch.setenv("HF_TOKEN", ""), NOT_KNOWN),
    "a wrong token": (lambda _, patch: patch.setenv("HF_TOKEN", "hf_wrong"), NOT_KNOWN),
    "no rights": (
        lambda server, _: setattr(server, "forbidden", True),
        "the hub refuses it (403): You don't have the rights to create a model under this namespace",
    ),
    "offline": (
        lambda _, patch: patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True),
        "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it",
    ),
    "no connection": (
        lambda _, patch: patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"),
        "the hub cannot be reached: [Errno 111] Connection refused; try again",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_refuses_is_one_line(
    case: str, server: Hub, run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, words = REFUSED[case]
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    prepare(server, monkeypatch)
    folder = world.checkpoint("neox", "width")
    ended = run_cli("push", folder, "org/x")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == f"sending {folder} to org/x\nscale: org/x: {words}\n"
    assert server.commits == []


def test_a_card_that_the_hub_refuses(server: Hub, run_cli: RunCli, world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.checkpoint("neox", "width"), tmp_path / "wide")
    (folder / "README.md").write_text("---\nlicense: nonsense\n---\n", encoding="utf-8")
    ended = run_cli("push", folder, "org/x")
    assert ended.code == 2
    assert ended.stderr.splitlines()[1:] == [
        'scale: org/x: the hub refuses it: Invalid metadata in README.md. - "license" must be one of [...]'
    ]


def test_what_cannot_be_sent_is_said_before_anything(world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.checkpoint("neox", "width"), tmp_path / "wide")
    (folder / "README.md").unlink()
    for source, repo_id, message in (
        (folder, "a/b/c", "a/b/c: not a repository name; give owner/name"),
        (folder, "model", "model: not a repository name; give owner/name"),
        (folder, "org/a--b", "org/a--b: not a repository name: "),
        ("org/model", "org/x", "org/model: no such folder; push sends the folder of a model or of a run"),
        (tmp_path, "org/x", f"{tmp_path} is not a checkpoint: it has neither config.json nor trained.json"),
        (folder, "org/x", f"{folder} has no README.md; run scale export {folder} FOLDER, and push FOLDER"),
    ):
        assert refusal(push, str(source), repo_id, dry_run=True).startswith(message)


def test_what_git_and_the_client_keep_is_not_sent(world: World, tmp_path: Path) -> None:
    folder = shutil.copytree(world.checkpoint("neox", "width"), tmp_path / "wide")
    for name in (".git/config", ".cache/huggingface/x", "figures/a.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x", encoding="utf-8")
    files = push(str(folder), "org/x", dry_run=True).files
    assert set(files) == {*tree(world.checkpoint("neox", "width")), "figures/a.png"}
