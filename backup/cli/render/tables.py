"""What people see: tables, one-set pages. Builds; `cli` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from backup.formatting import age, duration, plural, printable, size
from backup.model.backup_set import Pin, Proof, StoredSet, Verdict, empty_volumes
from backup.model.manifest import Manifest

_STYLES: Final = {"complete": "green", "complete with changes": "yellow", "old script": "cyan"}
_ROWS_SHOWN: Final = 200
_LEFT_OUT: Final = 20


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
    """The state of a set, the highest that was shown of it (proven, verified, or neither), encrypted, empty, pinned."""
    key = "" if not stored.encrypted else "encrypted, never opened" if stored.unopened else "encrypted"
    empty = [f"{name}: empty" for name in empty_volumes(stored)]
    return ", ".join(filter(None, [stored.state, stored.shown, key, *empty, "pinned" if stored.pin else ""]))


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
    facts.append(("verified", _verdict(stored, zone)))
    facts.append(("loads", _loads(stored.verdict, zone)))
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
        needs = [
            ("extensions", ", ".join(f"{name} {version}" for name, version in database.versions.items())),
            ("preloaded", ", ".join(database.preload.libraries)),
            ("tablespaces", ", ".join(database.tablespaces)),
        ]
        facts += [(name, value) for name, value in needs if value]
        facts += [("not in the dump", item) for item in database.not_carried]
        facts += [("caution", item) for item in database.cautions]
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
                f"\nvolume {volume.name}: {plural(volume.files, 'file') if volume.files else 'empty'}, "
                f"{size(volume.bytes)}, "
                f"{volume.directories:,} directories, {volume.links:,} symbolic and {volume.hard_links:,} hard links"
            )
        )
        blocks += [Text(f"  changed: {printable(c.path)}: {c.what}", style="yellow") for c in volume.changed]
        blocks += [Text(f"  left out: {printable(c.path)}: {c.what}") for c in volume.skipped[:_LEFT_OUT]]
        if (more := volume.skipped_total - len(volume.skipped[:_LEFT_OUT])) > 0:
            blocks.append(Text(f"  left out: {more:,} more; `show ID --json` lists the first 1,000"))
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


def _verdict(stored: StoredSet, zone: ZoneInfo) -> str:
    verdict, bare = stored.verdict, stored.state == "old script"
    if verdict is None:
        return "never; `verify` does" if bare else "read back when it was written; not since"
    when = f"{verdict.checked.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    whole = "unpacks to its end" if bare else "every byte as written"
    open_ = f"; not checked: {'; '.join(verdict.unchecked)}" if verdict.unchecked else ""
    return f"{when}: {'; '.join(verdict.problems) or f'{whole}{open_}'}"


def _loads(verdict: Verdict | None, zone: ZoneInfo) -> str:
    """What the try of its definitions showed."""
    test = verdict.load_test if verdict else None
    if test is None:
        return "its definitions were not tried by themselves"
    when = f"{test.tried.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    if test.untried:
        return f"not tried: {test.untried}"
    if test.refusal:
        return f"{when}: does not load: {test.refusal} {test.remedy}"
    whose = f"those of {test.alike}, with the same definitions," if test.alike else "its definitions"
    return f"{when}: {whose} load (PostgreSQL {test.server_version})"


def _pin(pin: Pin, zone: ZoneInfo) -> str:
    since = f"since {pin.since.astimezone(zone):%Y-%m-%d %H:%M:%S}" if pin.since else ""
    return ": ".join(filter(None, [since, pin.reason]))


def _proof(proof: Proof | None, zone: ZoneInfo) -> str:
    if proof is None:
        return "never restored; `drill` does, into a throw-away server"
    when = f"{proof.tried.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    if proof.refusal:
        return f"{when}: does not load: {proof.refusal} {proof.remedy}"
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
        "loads": stored.loads,
        "proven": stored.shown == "proven",
        "encrypted": stored.encrypted,
        "unopened": stored.unopened,
        "size": stored.size,
        "files": list(stored.files),
        "problem": stored.problem,
        "pinned": stored.pin.model_dump(mode="json") if stored.pin else None,
        "verdict": stored.verdict.model_dump(mode="json") if stored.verdict else None,
        "manifest": stored.manifest.model_dump(mode="json") if stored.manifest else None,
    }
