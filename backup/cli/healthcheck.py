"""The command that asks the running service how it is."""

from __future__ import annotations

import os

import typer
from rich.text import Text

from backup.cli import base
from backup.cli.base import Json
from backup.service.probe import login, probe, target


def healthcheck(as_json: Json = False) -> None:
    """Ask the running service how it is; exit 0 when healthy.

    Example: `docker compose exec backup backup healthcheck`.
    """
    settings = base.prepare_command(as_json)
    host, _ = target(os.environ)
    code, text = probe(settings.http_port, "/healthz", 0, host, login(os.environ))
    if as_json:
        base.print_json("probe", exit_code=code, text=text)
    else:
        base.out.print(Text(text))
    raise typer.Exit(code)
