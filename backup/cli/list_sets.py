"""The command that lists the sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render import set_tables
from backup.model.manifest import Tier


def list_sets(
    tier: Annotated[Tier | None, typer.Argument(help="Only this tier.")] = None, as_json: Json = False
) -> None:
    """List the sets, newest first. Examples: `list`, `list weekly --json`."""
    base.switch_off_gc()
    settings = base.prepare_command(as_json)
    sets = BackupVolume(settings).catalog.sets(tier)
    if as_json:
        return base.print_json("sets", items=sets)
    if not sets:
        # Not on stdout, where a script counts lines.
        return base.err.print(
            f"No {tier.value + ' ' if tier else ''}set is in {settings.root}."
            " `create` makes one, `import` takes some in, `offsite pull` fetches one.",
            markup=False,
            emoji=False,
        )
    return base.show(lambda: set_tables.sets_table(sets, datetime.now(UTC)), lambda: set_tables.sets_lines(sets))
