"""`scale push`: sends a checkpoint to the Hugging Face Hub."""

from typing import Annotated

import typer

from scale_cli.checkpoints.libraries import quiet_libraries
from scale_cli.cli.output import AsJson, say, show


def push(
    checkpoint: Annotated[str, typer.Argument(help="Model folder or run folder; a run is exported first.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; created if it does not exist.  [main]")] = None,
    message: Annotated[str | None, typer.Option(help="Commit message.  [Upload NAME by scale]")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the base in a run's model card.  [as in its own]", metavar="ORG/NAME")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence in a run's model card.  [as in its own]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the files that would be sent; use no network.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a checkpoint with its model card to the Hugging Face Hub."""
    from rich.table import Table

    from scale_cli.checkpoints.push import push as send

    if not dry_run:
        say(f"sending {checkpoint} to {repo_id}")
    quiet_libraries()
    stated = {"base_model": base_model, "licence": licence}
    result = send(checkpoint, repo_id, private=private, revision=revision, message=message, dry_run=dry_run, **stated)
    table = Table("would be sent to" if dry_run else "sent to", result.repo_id)
    table.add_row("branch", result.revision)
    table.add_row("private", "yes" if result.private else "the hub's default")
    table.add_row("message", result.message)
    for name, size in result.files.items():
        table.add_row(name, f"{size:,} bytes")
    table.add_row("total", f"{len(result.files)} files, {sum(result.files.values()):,} bytes")
    if result.url is not None:
        table.add_row("commit", result.url)
    show(result, table, as_json=as_json)
