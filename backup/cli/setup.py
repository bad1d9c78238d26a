"""The command that makes an overlay: asks the engine, and writes the file. Needs no settings and no backup volume."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from backup.app.volume import is_mounted
from backup.cli import base
from backup.cli.base import Json
from backup.docker.engine import Engine
from backup.errors import ConfigError, StoreError
from backup.formatting import printable
from backup.logging import logger
from backup.operations.setup import ComposeNames, Plan, overlay, plan, project_of

_FILE: Final = "docker-compose.backup.yml"


def setup_command(
    project: Annotated[
        str, typer.Option(metavar="NAME", help="Compose project to back up; default: the only one with a database.")
    ] = "",
    service: Annotated[str, typer.Option(metavar="NAME", help="The database's service; default: found.")] = "",
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there (a file, or a folder) instead of printing it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write an overlay for a project, from its running containers. Needs only the engine.

    Examples: `setup`, `setup --project shop`, `setup --project shop --service postgres --write /project`.

    Before there is any overlay: `docker run --rm -v /var/run/docker.sock:/var/run/docker.sock -v "$PWD":/project
    obcms-backup setup --project shop --write /project`.
    """
    base.prepare_without_settings(as_json)
    found = _survey(project, service)
    text = overlay(found)
    if as_json:
        base.print_json("setup", found, overlay=text)
    elif write is None:
        base.print_lines(text.splitlines())
    for line in _notes(found):
        base.err.print(Text(line))
    if write is not None:
        path, replaced = write_file(text, write, force=force)
        logger.success("{} {}", path, "is replaced" if replaced else "is written")


def _survey(project: str, service: str) -> Plan:
    """Ask the engine, and plan for `project`, whose database is `service` (empty: found).

    Without a name it is our own project; outside of one, the only one with a database.
    """
    engine = Engine()
    own = engine.own()
    image_id, image = (own.image_id, own.image) if own else ("", "")
    project = project or (own.project if own else "")
    project = project_of([c for c in engine.containers("") if c.image_id != image_id], project)
    # By the project's own list: containers of `run` are not part of the stack.
    stack = engine.containers(project)
    # Never by equality: an engine tells the mounts of a container in another order each time.
    ours = [c for c in stack if c.image_id == image_id]
    part = [c for c in stack if c.image_id != image_id]
    return plan(project, part, ComposeNames(*engine.compose_names(project)), ours, service, image)


def _notes(found: Plan) -> Iterator[str]:
    """Say what was found, line by line."""
    yield f"project {printable(found.project)}, database {found.database.shown}, network {printable(found.network)}"
    for each in found.media:
        who = printable(", ".join(each.writers))
        why = f"left out: {printable(each.left_out)}" if each.left_out else f"as /volumes/{each.name}"
        yield f"{'folder' if each.bind else 'volume'} {printable(each.source)}, written by {who}: {why}"
    if not any(not each.left_out for each in found.media):
        yield "no volume of the application was found: only the database will be backed up"


def write_file(text: str, wanted: Path, *, force: bool) -> tuple[Path, bool]:
    """Write the overlay to a file or into a folder; where, and whether it has replaced one. Never by accident."""
    path = wanted / _FILE if wanted.is_dir() else wanted
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"{printable(str(folder))} is not a folder; nothing was written", "Make it first.")
    if os.environ.get("container") and not is_mounted(folder):
        raise StoreError(
            f"no folder of the host is mounted at {printable(str(folder))}: the file would be lost with this container",
            'Mount it: docker run --rm -v "$PWD":/project … setup --write /project',
        )
    there = os.path.lexists(path)
    if there and not force:
        raise ConfigError(
            f"{printable(str(path))} exists already; nothing was written",
            "Name another file, or replace it with --force.",
        )
    _replace(path, text)
    return path, there


def _replace(path: Path, text: str) -> None:
    """Write beside it first, then rename, so that there is never half a file."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_text(text)
        draft.chmod(0o644)  # it holds no secret, and belongs to whom the folder belongs
        owner = path.parent.stat()
        with contextlib.suppress(OSError):
            os.chown(draft, owner.st_uid, owner.st_gid)
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"{printable(str(path))} cannot be written: {error.strerror}", "Mount a writable folder."
        ) from error
