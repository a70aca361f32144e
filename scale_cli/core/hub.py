"""Fetching what a hub id names: the one place that knows what can go wrong on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scale_cli.core.errors import RequestError


def fetch(given: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """The local snapshot of a hub id, its folder named after the commit; only files of these patterns are fetched.

    given: a hub id, as it is no folder here. revision: branch, tag or commit.
    Raises RequestError for what is no hub id, cannot be reached, or is refused.
    """
    if given.count("/") > 1 or given.startswith((".", "/", "~")):
        raise RequestError(f"{given}: no such folder; give a checkpoint's folder or a hub id like org/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(given, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"])
    except HFValidationError as error:
        raise RequestError(f"{given}: no such folder, and no hub id, which looks like org/name") from error
    except LocalEntryNotFoundError as error:
        raise RequestError(
            f"{given}: no such folder, and as a hub id it is not in the cache and the hub cannot be reached; give a "
            "folder, or go online (HF_HUB_OFFLINE unset)"
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(f"{given}: no such folder, and the hub refuses it: {reason}") from error
    return Path(found)
