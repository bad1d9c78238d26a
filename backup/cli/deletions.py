"""What `moments --lost` shows: when rows went, and the moment before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from backup.app.composition import App
from backup.app.recovery import search_context
from backup.cli import base
from backup.cli.render.set_tables import number, plain_table
from backup.config.loader import Settings
from backup.formatting import plural, printable
from backup.model.moment import parse_moment
from backup.model.run import new_run_id
from backup.operations.pitr.deletions import LostRows, Search, search

_FORM = "%Y-%m-%d %H:%M:%S.%f"
_DAY = timedelta(days=1)


def show_deletions(settings: Settings, least: int, table: str, since: str, as_json: bool) -> None:
    """Read the WAL for them and show them; see `moments`."""
    now, zone = datetime.now(UTC), settings.zone
    try:
        begin = parse_moment(since, now, zone) if since else now - _DAY
    except ValueError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--since") from None
    main = App(settings)
    main.require_volume()
    with base.progress(as_json) as progress:
        found = search(search_context(main, progress), begin, least, table, new_run_id(now))
    if as_json:
        return base.print_json("deletions", found)
    return base.show(lambda: _page(found, zone), lambda: _lines(found, zone))


def _page(found: Search, zone: ZoneInfo) -> RenderableType:
    table = plain_table("committed", "rows", "of", "the moment before, for restore --at")
    for each in found.losses:
        deletion = each.deletion
        rows = number(f"{deletion.rows:,}" if deletion.rows else "all")
        table.add_row(_time(deletion.time, zone), rows, Text(_what(each)), _time(deletion.before, zone))
    return Group(table, Text(), Text(_looked_at(found, zone))) if found.losses else Text(_looked_at(found, zone))


def _lines(found: Search, zone: ZoneInfo) -> list[str]:
    lines = [
        f"lost\t{_time(each.deletion.time, zone)}\t{each.deletion.rows or 'all'}\t{_what(each)}"
        f"\t{_time(each.deletion.before, zone)}"
        for each in found.losses
    ]
    return [*lines, f"searched\t{_looked_at(found, zone)}"]


def _what(loss: LostRows) -> str:
    files = plural(len(loss.deletion.files), "file")
    return printable(loss.table) or f"{files} of tables and indexes: DROP, TRUNCATE, or written anew"


def _looked_at(found: Search, zone: ZoneInfo) -> str:
    many = plural(len(found.losses), "commit") if found.losses else "no commit"
    return f"{many} like that from {_time(found.since, zone)[:19]} to {_time(found.until, zone)[:19]}"


def _time(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):{_FORM}}"
