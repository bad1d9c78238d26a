"""The command that shows which moments can be brought back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.set_tables import plain_table
from backup.config.loader import Settings
from backup.formatting import local_time, plural, printable, size
from backup.model.wal import Base
from backup.monitoring.window import OffsiteWindow, Window, offsite_words, slot_words, window_words
from backup.operations.pitr.window_reader import read_offsite, read_window
from backup.progress import Silent

_FORM = "%Y-%m-%d %H:%M:%S"
_OFF = (
    "Point-in-time recovery is off: only what is in a set can be restored. BACKUP_PITR=on in the environment of the"
    " backup service switches it on; `doctor` then says what the database server lacks."
)


def show_moments(
    lost: Annotated[
        int,
        typer.Option(min=0, metavar="ROWS", help="When a commit deleted so many rows of a table, or a whole table."),
    ] = 0,
    table: Annotated[str, typer.Option(metavar="TABLE", help="With --lost: of this table alone.")] = "",
    since: Annotated[str, typer.Option(metavar="MOMENT", help="With --lost: from then on; else the last day.")] = "",
    place: Annotated[
        str, typer.Option("--from", metavar="s3|copy", help="Those that this place alone brings back: it is listed.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show which moments of the past can be restored, what breaks them, and the base backups and WAL that they need.

    Examples: `moments`, `moments --json`, `moments --from s3`, `moments --lost 100 --table app_case`.
    """
    settings = base.prepare_command(as_json)
    if place not in ("", "s3", "copy"):
        raise typer.BadParameter("--from is s3 or copy")
    if lost and not place:
        from backup.cli.deletions import show_deletions  # noqa: PLC0415 - the window needs no engine

        return show_deletions(settings, lost, table, since, as_json)
    if lost or table or since:
        raise typer.BadParameter("--table and --since need --lost, which reads the WAL that is here")
    now, on = datetime.now(UTC), settings.pitr == "on" or bool(place)
    window = _there(settings, place) if place else _here(settings, now)
    if as_json:
        text, breaks = window_words(window, now, settings.zone), window.breaks(now)
        return base.print_json("moments", window, on=on, text=text, breaks=breaks)
    if not on:
        base.err.print(Text(_OFF, style="yellow"))
        if not window.bases and not window.segments:
            return None
    for each in window.problems:
        base.err.print(Text(base.with_hint(each.text, each.hint), style="yellow"))
    shown = (window, now, settings.zone)
    return base.show(lambda: moments_page(*shown), lambda: moments_lines(*shown))


def _here(settings: Settings, now: datetime) -> Window:
    BackupVolume(settings).require_volume()
    return read_offsite(settings, settings.root, read_window(settings, settings.root, now))


def _there(settings: Settings, place: str) -> Window:
    # What is here needs neither of them, and loads at once.
    from backup.app.composition import App  # noqa: PLC0415
    from backup.app.places import primary  # noqa: PLC0415
    from backup.operations.pitr.pull import remote_window  # noqa: PLC0415

    return remote_window(primary(App(settings), Silent(), place), timedelta(days=settings.pitr_days))


def moments_page(window: Window, now: datetime, zone: ZoneInfo) -> RenderableType:
    """The window in words, then its spans with what lies between them, then the base backups."""
    spans = plain_table("from", "to", "")
    for start, end, what in _rows(window, now):
        words = "" if what == "span" else what
        spans.add_row(local_time(start, zone, _FORM), local_time(end, zone, _FORM) if end else "now", words)
    bases = plain_table("base backup", "ended", "size", "kind", "PostgreSQL", "databases")
    for each in window.bases:
        names = printable(", ".join(each.databases))
        when, version = local_time(each.ended, zone, _FORM), printable(each.server_version)
        bases.add_row(printable(each.id), when, size(each.artifact.stored_size), _kind(each), version, names)
    wal = f"{plural(window.segments, 'segment')} of WAL, {size(window.segment_bytes)}; {_stream(window)}"
    lines = [Text(printable(f"offsite: {offsite_words(each, now, zone)}{_problem(each)}")) for each in window.offsite]
    return Group(Text(window_words(window, now, zone)), *lines, Text(), spans, Text(), bases, Text(), Text(wal))


def moments_lines(window: Window, now: datetime, zone: ZoneInfo) -> list[str]:
    """The same for other programs' eyes, separated by tabs."""
    lines = [f"window\t{window_words(window, now, zone)}"]
    lines += [
        f"{what}\t{start.isoformat(timespec='seconds')}\t{end.isoformat(timespec='seconds') if end else ''}".rstrip()
        for start, end, what in _rows(window, now)
    ]
    lines += [f"base\t{_base(each)}" for each in window.bases]
    lines += [
        f"offsite\t{each.place}\t{printable(offsite_words(each, now, zone))}{_problem(each)}" for each in window.offsite
    ]
    return [*lines, f"wal\t{window.segments}\t{window.segment_bytes}", f"stream\t{_stream(window)}"]


def _rows(window: Window, now: datetime) -> Iterator[tuple[datetime, datetime | None, str]]:
    """Spans and breaks by time: (start, end, `span` or `broken`)."""
    spans = [(each.start, each.end, "span") for each in window.spans]
    breaks = [(each.start, each.end, "broken") for each in window.breaks(now)]
    yield from sorted([*spans, *breaks], key=lambda row: (row[0], row[2] != "span"))


def _base(each: Base) -> str:
    when = each.ended.isoformat(timespec="seconds")
    return f"{printable(each.id)}\t{when}\t{each.artifact.stored_size}\t{_kind(each)}"


def _kind(each: Base) -> str:
    return f"on {printable(each.parent)}" if each.parent else "full"


def _problem(window: OffsiteWindow) -> str:
    """What was said last of the way there, if anything was."""
    told = filter(None, (each.message for each in (window.stream, window.bases_stream) if each))
    return "".join(f"; {printable(' '.join(each.split()))}" for each in told)


def _stream(window: Window) -> str:
    stream = window.stream
    if stream is None:
        return f"as {window.name} lists it" if isinstance(window, OffsiteWindow) else "no stream has been running"
    behind = f"{size(stream.behind)} behind" if stream.behind else ""
    wants = f"a base backup is wanted: {stream.wants_base}" if stream.wants_base else ""
    slot = slot_words(stream.slot, up=stream.up) if stream.slot else ""
    told = "; ".join(filter(None, [f"the stream is {stream.state}", behind, stream.message, wants, slot]))
    return printable(" ".join(told.split()))
