"""Tables of sets, here and at other places, and all about one set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from backup.formatting import age, duration, plural, printable, size
from backup.model.backup_set import Pin, Proof, StoredSet, Verdict, empty_volumes
from backup.model.manifest import Artifact, Manifest
from backup.model.pack import Pack
from backup.model.recovered import Recovered

if TYPE_CHECKING:  # `list` needs neither
    from backup.catalog.retention import Decision
    from backup.operations.offsite.verify_copies import CopyRow

_STATES: Final = {"complete": "green", "complete with changes": "yellow", "old script": "cyan"}
_COPIES: Final = {"offsite": "green", "archived": "cyan", "only local": "yellow"}
_ACTIONS: Final = {"keep": "green", "remove": "red", "wait": "yellow", "later": "yellow"}
_ROWS_SHOWN: Final = 200
_LEFT_OUT: Final = 20


def plain_table(*columns: Column | str, header: bool = True) -> Table:
    """Make a table without lines, for rows to come."""
    return Table(*columns, box=None, pad_edge=False, show_header=header, header_style="bold")


def name_column(title: str, names: Iterable[str]) -> Column:
    """Make a column that is never cut: names are what people copy, and the id of a set says when."""
    return Column(title, no_wrap=True, min_width=max(map(len, names), default=0))


def number(text: str) -> Text:
    """Set a cell to the right."""
    return Text(text, justify="right")


def sets_table(sets: Sequence[StoredSet], now: datetime) -> RenderableType:
    """One line a set, newest first."""
    table = plain_table(name_column("set", (stored.id for stored in sets)), "age", "size", "files", "state")
    for stored in sets:
        table.add_row(
            stored.id,
            age(now - stored.time),
            number(size(stored.size)),
            number(str(len(stored.files))),
            Text(shown_state(stored), style=_STATES.get(stored.state, "red")),
        )
    good = sum(stored.good for stored in sets)
    total = size(sum(stored.size for stored in sets))
    return Group(table, Text(f"{plural(len(sets), 'set')}, {good} good, {total} in all"))


def sets_lines(sets: Sequence[StoredSet]) -> list[str]:
    """The table for other programs' eyes: id, time (UTC), bytes, state, separated by tabs."""
    return [f"{s.id}\t{s.time:%Y-%m-%dT%H:%M:%SZ}\t{s.size}\t{shown_state(s)}" for s in sets]


def shown_state(stored: StoredSet) -> str:
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
        opened = "never opened with its key; `drill` shows whether it can be" if stored.unopened else "opened since"
        facts.append(("encrypted", f"to age recipients; {opened}"))
    facts.append(("verified", _verdict(stored, zone)))
    facts.append(("loads", _loads(stored.verdict, zone)))
    facts.append(("proven", _proof(stored.verdict.proof if stored.verdict else None, zone)))
    blocks: list[RenderableType] = [_facts(facts)]
    if stored.derived:
        blocks.append(Text("\nfiles\n" + "\n".join(f"  {name}" for name in stored.files)))
    else:
        blocks += _manifest_blocks(stored.manifest, zone)
    return Group(*blocks)


def _manifest_blocks(manifest: Manifest, zone: ZoneInfo) -> list[RenderableType]:
    since = "" if manifest.database and manifest.database.recovered else f"{manifest.started_local} to "
    facts = [
        ("taken", f"{since}{manifest.ended_local} ({manifest.zone})"),
        ("run", f"{manifest.run}, product {manifest.product_version}"),
    ]
    if database := manifest.database:
        facts += [
            ("database", f"{database.name} (oid {database.oid}, system identifier {database.system_identifier})"),
            *(_recovered(database.recovered, manifest.started, zone) if database.recovered else []),
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
    files = plain_table(name_column("file", _files(manifest)), "stored", "unpacked")
    held: list[Artifact | Pack] = [*manifest.artifacts, *manifest.packs]
    for name, each in zip(_files(manifest), held, strict=True):
        files.add_row(name, size(each.stored_size), size(each.plain_size))
    blocks: list[RenderableType] = [_facts(facts), Text(), files]
    if manifest.database:
        blocks += [Text(), _rows(manifest.database.rows)]
    for volume in manifest.volumes:
        blocks.append(
            Text(
                f"\nvolume {volume.name}: {plural(volume.files, 'file') if volume.files else 'empty'}, "
                f"{size(volume.bytes)}, "
                f"{plural(volume.directories, 'directory', 'directories')}, "
                f"{volume.links:,} symbolic and {volume.hard_links:,} hard links"
            )
        )
        blocks += [Text(f"  changed: {printable(c.path)}: {c.what}", style="yellow") for c in volume.changed]
        blocks += [Text(f"  left out: {printable(c.path)}: {c.what}") for c in volume.skipped[:_LEFT_OUT]]
        if (more := volume.skipped_total - len(volume.skipped[:_LEFT_OUT])) > 0:
            blocks.append(Text(f"  left out: {more:,} more; `show ID --json` lists the first 1,000"))
    return blocks


def _recovered(recovered: Recovered, moment: datetime, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    yield "recovered", recovered.words(zone)
    if recovered.media:
        yield "media of then", recovered.media.words(moment)


def _files(manifest: Manifest) -> list[str]:
    return [*(a.file for a in manifest.artifacts), *(f"../packs/{pack.file}" for pack in manifest.packs)]


def _facts(facts: Sequence[tuple[str, str]]) -> Table:
    table = plain_table(header=False)
    for name, value in facts:
        table.add_row(Text(name, style="bold"), Text(printable(value)))
    return table


def _rows(rows: dict[str, int]) -> Table:
    table = plain_table("table", "rows")
    for name, count in sorted(rows.items(), key=lambda item: -item[1])[:_ROWS_SHOWN]:
        table.add_row(Text(printable(name)), Text(f"{count:,}", justify="right"))
    if len(rows) > _ROWS_SHOWN:
        table.add_row(Text(f"and {len(rows) - _ROWS_SHOWN} more; --json has all"), Text())
    table.add_row(Text(f"{plural(len(rows), 'table')} in all", style="bold"), Text(f"{sum(rows.values()):,}"))
    return table


def _verdict(stored: StoredSet, zone: ZoneInfo) -> str:
    verdict, bare = stored.verdict, stored.state == "old script"
    if verdict is None:
        return "never; run `verify`" if bare else "read back when it was written, not verified since"
    when = f"{verdict.checked.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    whole = "unpacks to its end" if bare else "every byte as written"
    open_ = f"; not checked: {'; '.join(verdict.unchecked)}" if verdict.unchecked else ""
    return f"{when}: {'; '.join(verdict.problems) or f'{whole}{open_}'}"


def _loads(verdict: Verdict | None, zone: ZoneInfo) -> str:
    """What the try of its definitions showed."""
    test = verdict.load_test if verdict else None
    if test is None:
        return "no load test"
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
        return "never restored; `drill` restores it into a throw-away server"
    when = f"{proof.tried.astimezone(zone):%Y-%m-%d %H:%M:%S}"
    if proof.refusal:
        return f"{when}: does not load: {proof.refusal} {proof.remedy}"
    if proof.differences:
        return f"{when}: differs from the dump: {'; '.join(proof.differences)}"
    notes = "".join(f"; {note}" for note in proof.notes)
    took = duration(proof.seconds.get("total", 0))
    return f"{when}: restored and dumped again in {took} (PostgreSQL {proof.server_version}): equal{notes}"


def copies_table(place: str, rows: Sequence[CopyRow], now: datetime) -> RenderableType:
    """One line a set, newest first."""
    table = plain_table(name_column("set", (row.id for row in rows)), "age", "size", "state", "here", "note")
    for row in rows:
        table.add_row(
            row.id,
            age(now - row.time),
            number(size(row.size)),
            Text(row.state, style=_COPIES.get(row.state, "red")),
            "yes" if row.local else "no",
            Text(printable(row.note)),
        )
    held = [row for row in rows if row.state in ("offsite", "archived")]
    total = f"{plural(len(held), 'set')} at {place}, {size(sum(row.size for row in held))}"
    return Group(table, Text(printable(total)))


def copies_lines(rows: Sequence[CopyRow]) -> list[str]:
    """The table for other programs' eyes: id, time (UTC), bytes, state, `here` or `there`, note, separated by tabs."""
    return [
        f"{row.id}\t{row.time:%Y-%m-%dT%H:%M:%SZ}\t{row.size}\t{row.state}\t{'here' if row.local else 'there'}"
        f"\t{printable(row.note)}"
        for row in rows
    ]


def prune_table(decisions: Sequence[Decision], now: datetime, hold: str) -> RenderableType:
    """One line a set, newest first; `hold` says why nothing goes at all."""
    table = plain_table(name_column("set", (d.stored.id for d in decisions)), "age", "size", "what", "why")
    for decision in decisions:
        stored, what = decision.stored, decision.action
        table.add_row(
            stored.id,
            age(now - stored.time),
            number(size(stored.size)),
            Text(what, style=_ACTIONS[what]),
            Text(printable(decision.reason)),
        )
    going = [decision.stored.size for decision in decisions if not decision.keep]
    total = f"{plural(len(going), 'set')} of {len(decisions)} would be removed, {size(sum(going))}"
    return Group(table, Text("; ".join(filter(None, [total, printable(hold)]))))


def prune_lines(decisions: Sequence[Decision]) -> list[str]:
    """The table for other programs' eyes: id, keep, remove, wait or later, the reason, separated by tabs."""
    return [f"{d.stored.id}\t{d.action}\t{printable(d.reason)}" for d in decisions]
