"""Uploading a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scale_cli.checkpoints.card import CARD
from scale_cli.checkpoints.load import check, describe
from scale_cli.checkpoints.schemas import POINTER, RECORD
from scale_cli.core.errors import RequestError
from scale_cli.core.files import check_inside


@dataclass(frozen=True)
class PushResult:
    """The result of an upload or of a dry run.

    private: whether a new repository is made private; False means the hub's default for its owner.
    files: size in bytes by name on the hub.
    exported: whether a run was exported to a complete folder first.
    url: address of the commit, None in a dry run.
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
    base_model: str | None = None,
    licence: str | None = None,
    dry_run: bool = False,
) -> PushResult:
    """Upload a checkpoint to the hub. A run is exported first, so the uploaded folder loads anywhere.

    source: a folder of any kind.
    repo_id: `owner/name`; created if it does not exist. `private` applies only to a new repository.
    revision: a branch, created if it does not exist; None: the main branch.
    base_model, licence: as for `export`; only of a run, as other folders are sent as they are.
    dry_run: upload nothing. No network is used, unless a run's base is a hub id that is not in the cache.
    Raises RequestError for an invalid name, a source that is not a folder, and every refusal of the hub.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, and not marked so
        DEFAULT_IGNORE_PATTERNS,
        filter_repo_objects,
        validate_repo_id,
    )

    if repo_id.count("/") != 1:
        raise RequestError(f"{repo_id}: not a repository name; give owner/name")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RequestError(f"{repo_id}: not a repository name: {_first_line(error)}") from error
    if not Path(source).is_dir():
        raise RequestError(f"{source}: no such folder; push sends the folder of a model or of a run")
    check(describe(source))  # raises RequestError unless it is a whole checkpoint
    exported = any((Path(source) / name).is_file() for name in (POINTER, RECORD))
    stated = {"--base-model": base_model, "--licence": licence}
    if not exported and any(stated.values()):
        option, value = next((option, value) for option, value in stated.items() if value)
        again = f"scale export {source} FOLDER {option} {value}"
        raise RequestError(f"{option} {value}: {source} is sent as it is; write its card with {again}, and push FOLDER")
    message = message or f"Upload {repo_id.rpartition('/')[2]} by scale"
    with _whole_folder(Path(source), repo_id, base_model, licence) if exported else _as_it_is(Path(source)) as folder:
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        sent = list(filter_repo_objects(paths, ignore_patterns=DEFAULT_IGNORE_PATTERNS))
        for name in sent:
            check_inside(paths[name], folder)
        files = {name: paths[name].stat().st_size for name in sent}
        if CARD not in files:
            raise RequestError(f"{source} has no {CARD}; run scale export {source} FOLDER, and push FOLDER")
        url = None if dry_run else _send(folder, repo_id, private=private, revision=revision, message=message)
    return PushResult(repo_id, private, revision or "main", message, files, exported, url)


@contextmanager
def _whole_folder(source: Path, repo_id: str, base_model: str | None, licence: str | None) -> Iterator[Path]:
    from scale_cli.checkpoints.export import export

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "export"
        export(str(source), out, name=repo_id, base_model=base_model, licence=licence)
        yield out


@contextmanager
def _as_it_is(source: Path) -> Iterator[Path]:
    yield source


def _send(folder: Path, repo_id: str, *, private: bool, revision: str | None, message: str) -> str:
    """Create repository and branch if they do not exist, and commit the folder. Returns the commit's address."""
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
        raise RequestError(f"{repo_id}: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise RequestError(
                f"{repo_id}: not logged in, or the token is invalid; set HF_TOKEN, or run: hf auth login"
            ) from error
        reason = error.server_message or _first_line(error)
        raise RequestError(f"{repo_id}: the hub refuses it ({status}): {reason}") from error
    except ValueError as error:
        if not isinstance(error.__cause__, HfHubHTTPError):  # the hub's refusal of a card's front matter has this cause
            raise
        raise RequestError(f"{repo_id}: the hub refuses it: {' '.join(str(error).split())}") from error
    except ClientError as error:
        raise RequestError(f"{repo_id}: the hub cannot be reached: {_first_line(error)}; try again") from error
    return str(commit.commit_url)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
