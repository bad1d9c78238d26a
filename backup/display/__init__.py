"""What people see: tables, one-set pages, progress bars. Builds; `cli` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from backup.manifest import Manifest
from backup.sets import Pin, Proof, StoredSet, Verdict
from backup.text import age, duration, plural, printable, size

_STYLES: Final = {"complete": "green", "complete with changes": "yellow", "old script": "cyan"}
_ROWS_SHOWN: Final = 200


class Drawn:
    """Progress bars on a terminal; satisfies `progress.Progress`."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._bars.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """See Progress."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(printable(name), total=total)

    def advance(self, count: int) -> None:
        """See Progress."""
        if self._task is not None:
            self._bars.advance(self._task, count)


def sets_table(sets: Sequence[StoredSet], now: datetime) -> RenderableType:
    """One line a set, newest first."""
    # The id says when, and must never be cut: it is what people copy.
    name = Column("set", no_wrap=True, min_width=max((len(stored.id) for stored in sets), default=0))
    table = Table(name, "age", "size", "files", "state", box=None, pad_edge=False, header_style="bold")
    for stored in sets:
        table.add_row(
            stored.id,
            age(now - stored.time),
            Text(size(stored.size), justify="right"),
            Text(str(len(stored.files)), justify="right"),
            Text(state(stored), style=_STYLES.get(stored.state, "red")),
        )
    good = sum(stored.good for stored in sets)
    total = size(sum(stored.size for stored in sets))
    return Group(table, Text(f"{plural(len(sets), 'set')}, {good} good, {total} in all"))


def sets_lines(sets: Sequence[StoredSet]) -> list[str]:
    """The table for other programs' eyes: id, time (UTC), bytes, state, separated by tabs."""
    return [f"{s.id}\t{s.time:%Y-%m-%dT%H:%M:%SZ}\t{s.size}\t{state(s)}" for s in sets]


def state(stored: StoredSet) -> str:
    """The state of a set, the highest that was shown of it (proven, verified, or neither), encrypted, pinned."""
    shown = "proven" if stored.proven else "verified" if stored.verified else ""
    key = "" if not stored.encrypted else "encrypted, never opened" if stored.unopened else "encrypted"
    return ", ".join(filter(None, [stored.state, shown, key, "pinned" if stored.pin else ""]))


def set_page(stored: StoredSet, zone: ZoneInfo) -> RenderableType:
    """All about one set."""
    facts: list[tuple[str, str]] = [("set", stored.id), ("state", stored.state), ("tier", stored.tier)]
    if stored.problem:
        facts.append(("problem", printable(stored.problem)))
    if stored.pin:
        facts.append(("pinned", _pin(stored.pin, zone)))
    if stored.encrypted:
        opened = (
            "nobody has shown yet that it can be opened: `drill` with its key" if stored.unopened else "opened since"
        )
        facts.append(("encrypted", f"to age recipients; {opened}"))
    facts.append(("verified", _verdict(stored.verdict, zone)))
    facts.append(("proven", _proof(stored.verdict.proof if stored.verdict else None, zone)))
    blocks: list[RenderableType] = [_facts(facts)]
    if stored.manifest:
        blocks += _manifest_blocks(stored.manifest)
    else:
        blocks.append(Text("\nfiles\n" + "\n".join(f"  {name}" for name in stored.files)))
    return Group(*blocks)


def _manifest_blocks(manifest: Manifest) -> list[RenderableType]:
    facts = [
        ("taken", f"{manifest.started_local} to {manifest.ended_local} ({manifest.zone})"),
        ("run", f"{manifest.run}, product {manifest.product_version}"),
    ]
    if database := manifest.database:
        facts += [
            ("database", f"{database.name} (oid {database.oid}, system identifier {database.system_identifier})"),
            ("server", f"PostgreSQL {database.server_version} {database.image}"),
            ("client", f"{' '.join(database.command)}, version {database.client_version}"),
            ("large objects", f"{database.large_objects:,}"),
        ]
        facts += [("not in the dump", item) for item in database.not_carried]
    file = Column("file", no_wrap=True, min_width=max(len(a.file) for a in manifest.artifacts))
    files = Table(file, "stored", "unpacked", box=None, pad_edge=False, header_style="bold")
    for a in manifest.artifacts:
        files.add_row(a.file, size(a.stored_size), size(a.plain_size))
    blocks: list[RenderableType] = [_facts(facts), Text(), files]
    if manifest.database:
        blocks += [Text(), _rows(manifest.database.rows)]
    for volume in manifest.volumes:
        blocks.append(
            Text(
                f"\nvolume {volume.name}: {plural(volume.files, 'file')}, {size(volume.bytes)}, "
                f"{volume.directories:,} directories, {volume.links:,} symbolic and {volume.hard_links:,} hard links"
            )
        )
        blocks += [Text(f"  changed: {printable(c.path)}: {c.what}", style="yellow") for c in volume.changed]
        blocks += [Text(f"  left out: {printable(c.path)}: {c.what}") for c in volume.skipped]
    return blocks


def _facts(facts: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts:
        table.add_row(Text(name, style="bold"), Text(printable(value)))
    return table


def _rows(rows: dict[str, int]) -> Table:
    table = Table("table", "rows", box=None, pad_edge=False, header_style="bold")
    for name, count in sorted(rows.items(), key=lambda item: -item[1])[:_ROWS_SHOWN]:
        table.add_row(Text(printable(name)), Text(f"{count:,}", justify="right"))
    if len(rows) > _ROWS_SHOWN:
        table.add_row(Text(f"and {len(rows) - _ROWS_SHOWN} more; --json has all"), Text())
    table.add_row(Text(f"{plural(len(rows), 'table')} in all", style="bold"), Text(f"{sum(rows.values()):,}"))
    return table


def _verdict(verdict: Verdict | None, zone: ZoneInfo) -> str:
    if verdict is None:
        return "read back when it was written; not since"
    when = f"{verdict.checked.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    open_ = f"; not checked: {'; '.join(verdict.unchecked)}" if verdict.unchecked else ""
    return f"{when}: {'; '.join(verdict.problems) or f'every byte as written{open_}'}"


def _pin(pin: Pin, zone: ZoneInfo) -> str:
    since = f"since {pin.since.astimezone(zone):%Y-%m-%d %H:%M:%S}" if pin.since else ""
    return ": ".join(filter(None, [since, pin.reason]))


def _proof(proof: Proof | None, zone: ZoneInfo) -> str:
    if proof is None:
        return "never restored; `drill` does, into a throw-away server"
    when = f"{proof.tried.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    if proof.differences:
        return f"{when}: NOT what was dumped: {'; '.join(proof.differences)}"
    notes = "".join(f"; {note}" for note in proof.notes)
    took = duration(proof.seconds.get("total", 0))
    return f"{when}: restored and dumped again in {took} (PostgreSQL {proof.server_version}): equal{notes}"


def set_json(stored: StoredSet) -> dict[str, Any]:
    """A set as `--json` prints it."""
    return {
        "id": stored.id,
        "tier": stored.tier,
        "time": stored.time.isoformat(),
        "state": stored.state,
        "good": stored.good,
        "proven": stored.proven,
        "encrypted": stored.encrypted,
        "unopened": stored.unopened,
        "size": stored.size,
        "files": list(stored.files),
        "problem": stored.problem,
        "pinned": stored.pin.model_dump(mode="json") if stored.pin else None,
        "verdict": stored.verdict.model_dump(mode="json") if stored.verdict else None,
        "manifest": stored.manifest.model_dump(mode="json") if stored.manifest else None,
    }
