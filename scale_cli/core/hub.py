"""Downloading checkpoint files by hub id, with every failure as a RequestError."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scale_cli.core.errors import RequestError


def fetch(given: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """The local snapshot folder of a hub id, named after the commit. Only files that match `patterns` are downloaded.

    given: a hub id; the caller has checked that it is not a local folder. revision: branch, tag or commit.
    Raises RequestError if `given` is not a hub id, or if the hub cannot be reached or refuses the request.
    """
    if given.count("/") > 1 or given.startswith((".", "/", "~")):
        raise RequestError(f"{given}: no such folder; give a checkpoint's folder or a hub id like org/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # A pattern's * also matches a /, so files in folders are excluded, and those that are wanted are fetched apart.
    nested = [pattern for pattern in patterns if "/" in pattern]
    flat = [pattern for pattern in patterns if "/" not in pattern]
    try:
        snapshot = snapshot_download(given, revision=revision, allow_patterns=flat, ignore_patterns=["*/*"])
        if nested:
            snapshot_download(given, revision=Path(snapshot).name, allow_patterns=nested)
    except HFValidationError as error:
        raise RequestError(f"{given}: no such folder, and not a hub id either; a hub id looks like org/name") from error
    except LocalEntryNotFoundError as error:
        raise RequestError(
            f"{given}: no such folder, and as a hub id it is not in the cache and the hub cannot be reached; give a "
            "folder, or go online (HF_HUB_OFFLINE unset)"
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(f"{given}: no such folder, and the hub refuses it: {reason}") from error
    return Path(snapshot)
