"""Commands for the first hour: is all there that is needed?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from backup.app.doctor import diagnose
from backup.app.setup import survey
from backup.app.setup import write as write_overlay
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.doctor import doctor_json, doctor_lines, doctor_page
from backup.cli.render.setup import setup_json, setup_notes
from backup.logging import logger
from backup.operations.doctor import EXIT, worst
from backup.operations.setup.overlay import overlay

_COMMAND: Final = Path(__file__).resolve().parents[2] / "entrypoint.py"


def doctor(
    notify: Annotated[bool, typer.Option("--notify", help="Send a test message to every target of alerts.")] = False,
    offsite: Annotated[
        bool, typer.Option("--offsite", help="Put a small object into the bucket, get it back, try to delete it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check all that backups and restores need, and say what to do about what is missing. Nothing is changed.

    Ends with 0 if all is well, 60 after a warning, 61 if something does not work.

    Examples: `doctor`, `doctor --notify`, `doctor --offsite`, `doctor --json`.
    """
    settings = base.prepare(as_json)
    lines, told = diagnose(settings, [sys.executable, str(_COMMAND)], notify=notify, put=offsite)
    if as_json:
        base.print_json(doctor_json(lines, told))
    elif base.out.is_terminal:
        base.out.print(doctor_page(lines, told), soft_wrap=False)
    else:
        base.print_lines(doctor_lines(lines, told))
    raise typer.Exit(EXIT[worst(lines)])


def setup(
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
    """Make an overlay for the project at hand, from what its running containers say. Needs the engine, nothing else.

    Examples: `setup`, `setup --project shop`, `setup --project shop --service postgres --write /project`.

    Before there is any overlay: `docker run --rm -v /var/run/docker.sock:/var/run/docker.sock -v "$PWD":/project
    obcms-backup setup --project shop --write /project`.
    """
    base.unset(as_json)
    plan = survey(project, service)
    text = overlay(plan)
    if as_json:
        base.print_json({**setup_json(plan), "overlay": text})
    elif write is None:
        base.print_lines(text.splitlines())
    for line in setup_notes(plan):
        base.err.print(Text(line))
    if write is not None:
        path, replaced = write_overlay(text, write, force=force)
        logger.success("{} {}", path, "is replaced" if replaced else "is written")
