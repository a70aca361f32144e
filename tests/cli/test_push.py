"""`scale push` prints the files that it sent or would send."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.checkpoints.hub import Hub
from tests.runs import World

RunCli = Callable[..., Any]


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_dry_run_prints_the_files_and_sends_nothing(
    kind: str, server: Hub, run_cli: RunCli, finished: Any, world: World
) -> None:
    folder = finished("scale-adapt").folder if kind == "run" else world.checkpoint("llama", "depth")
    ended = run_cli("push", folder, "org/x", "--dry-run", "--private")
    assert (ended.code, ended.stderr) == (0, "")
    assert server.requests == []
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    table = {row[0]: row[1] for row in rows}
    assert (table["branch"], table["private"], table["message"]) == ("main", "yes", "Upload x by scale")
    ended = run_cli("push", folder, "org/x")
    sent = {name: len(content) for name, content in server.commits[0]["files"].items()}
    assert table["total"] == f"{len(sent)} files, {sum(sent.values()):,} bytes"
    assert {name: f"{size:,} bytes" for name, size in sent.items()}.items() <= table.items()


def test_the_sent_files_are_printed(server: Hub, run_cli: RunCli, world: World) -> None:
    ended = run_cli("push", world.checkpoint("neox", "depth"), "org/deep", "--message", "two words")
    assert ended.code == 0
    assert "┃ sent to " in ended.stdout
    for row in (("private", "the hub's default"), ("message", "two words"), ("branch", "main")):
        assert [cell.strip() for cell in row] in [
            [cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines()
        ]
    assert f"{server.url}/org/deep/commit/" in ended.stdout


def test_a_mistake_ends_with_one_line(run_cli: RunCli, world: World) -> None:
    ended = run_cli("push", world.checkpoint("neox", "depth"), "deep", "--dry-run")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "scale: deep: not a repository name; give owner/name\n"
