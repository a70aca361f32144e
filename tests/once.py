"""What stays the same all through a process is found once; for every record and command it takes minutes in total."""

import contextlib
import functools
from collections.abc import Iterator

import pytest
import typer

from scale_cli.core.records import git_state
from scale_cli.core.versions import package_version


@contextlib.contextmanager
def looked_up_once() -> Iterator[None]:
    """Versions, git's state and the parser of the command line."""
    version, state, get_command = functools.cache(package_version), functools.cache(git_state), typer.main.get_command
    parser = functools.cache(lambda app, *commands: get_command(app))
    with pytest.MonkeyPatch.context() as patch:
        for target, function in (
            ("scale_cli.core.versions.package_version", version),
            ("scale_cli.core.records.package_version", version),
            ("scale_cli.core.records.git_state", state),
            ("scale_cli.results.result.git_state", state),
            ("typer.main.get_command", lambda app: parser(app, *app.registered_commands)),
        ):
            patch.setattr(target, function)
        yield
