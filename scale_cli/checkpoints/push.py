"""A checkpoint sent to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scale_cli.checkpoints.card import CARD, POINTER, RECORD
from scale_cli.checkpoints.load import describe
from scale_cli.core.errors import RequestError


@dataclass(frozen=True)
class PushResult:
    """What was sent, or in a dry run would be.

    private: asked for; without it the hub's default for the owner counts.
    files: their sizes in bytes by their names on the hub.
    exported: a run was put together into a whole folder first.
    url: of the commit, None in a dry run.
    """

    repo_id: str
    private: bool
    revision: str
    message: str
    files: dict[str, int]
    exported: bool
    url: str | None


def push(
    source: str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> PushResult:
    """Send a checkpoint to the hub; a run is exported first, so what arrives loads anywhere.

    source: a folder of any kind.
    repo_id: `owner/name`; the repository is created if it is not there, and only then counts `private`.
    revision: a branch, created if it is not there; None: the main one.
    dry_run: only say what would be sent; no network is used, unless a run's base is a hub id that is not in the cache.
    Raises RequestError for a name that none can have, a source that is no folder, and whatever the hub refuses.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, and not marked so
        DEFAULT_IGNORE_PATTERNS,
        filter_repo_objects,
        validate_repo_id,
    )

    if repo_id.count("/") != 1:
        raise RequestError(f"{repo_id}: no name for a repository; give owner/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RequestError(f"{repo_id}: no name for a repository: {_first_line(error)}") from error
    if not Path(source).is_dir():
        raise RequestError(f"{source}: no such folder; push sends the folder of a model or of a run")
    describe(source)  # refuses what is no checkpoint
    exported = any((Path(source) / name).is_file() for name in (POINTER, RECORD))
    message = message or f"Upload {repo_id.rpartition('/')[2]} by scale"
    with _whole_folder(Path(source), repo_id) if exported else _as_it_is(Path(source)) as folder:
        found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        sent = filter_repo_objects(found, ignore_patterns=DEFAULT_IGNORE_PATTERNS)
        files = {name: found[name].stat().st_size for name in sent}
        if CARD not in files:
            raise RequestError(f"{source} holds no {CARD}; make it by: scale export {source} FOLDER, and push that")
        url = None if dry_run else _send(folder, repo_id, private=private, revision=revision, message=message)
    return PushResult(repo_id, private, revision or "main", message, files, exported, url)


@contextmanager
def _whole_folder(source: Path, repo_id: str) -> Iterator[Path]:
    from scale_cli.checkpoints.export import export

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "export"
        export(str(source), out, name=repo_id)
        yield out


@contextmanager
def _as_it_is(source: Path) -> Iterator[Path]:
    yield source


def _send(folder: Path, repo_id: str, *, private: bool, revision: str | None, message: str) -> str:
    """Create repository and branch where they are not there, and commit the folder. Returns the commit's address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]  # of the client it uses

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    except OfflineModeIsEnabled as error:
        raise RequestError(f"{repo_id}: HF_HUB_OFFLINE is set and nothing can be sent; unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise RequestError(
                f"{repo_id}: not logged in, or with a token that the hub does not know; set HF_TOKEN, or: hf auth login"
            ) from error
        reason = error.server_message or _first_line(error)
        raise RequestError(f"{repo_id}: the hub refuses it ({status}): {reason}") from error
    except ValueError as error:
        if not isinstance(error.__cause__, HfHubHTTPError):  # it says so of a card's front matter alone
            raise
        raise RequestError(f"{repo_id}: the hub refuses it: {' '.join(str(error).split())}") from error
    except ClientError as error:
        raise RequestError(f"{repo_id}: the hub cannot be reached: {_first_line(error)}; try again") from error
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
