"""What of a set is not on the server in the same way, in words: for the plan, and for what is said at the end. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from backup.formatting import printable
from backup.model.finding import Finding, failure, warning
from backup.operations.restore.plan.facts import Contrast, Lacking, LiveDatabase

_PRELOAD: Final = (
    "Set shared_preload_libraries in the server's configuration, or with `command: postgres -c"
    " shared_preload_libraries={}` of its service, and restart it."
)
_LISTED: Final = 10


def named(names: Sequence[str]) -> str:
    """Names, safe to print, cut at ten."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(printable(name) for name in names[:_LISTED]) + more


def lacking_findings(lacks: Lacking) -> Iterator[Finding]:
    """Why the set cannot be loaded here."""
    if lacks.needed:
        names = named(lacks.needed)
        text = f"the server does not preload {names}, without which the set does not load"
        yield failure(text, _PRELOAD.format(",".join(map(printable, lacks.needed))))


def otherwise(lacks: Lacking) -> Iterator[Finding]:
    """What is not as it was where the set was taken."""
    others = [name for name in lacks.libraries if name not in lacks.needed]
    if others:
        text = f"the server does not preload {named(others)}, as the set's own server did"
        yield warning(text, _PRELOAD.format(",".join(map(printable, others))))
    if lacks.tablespaces:
        text = f"the server has no tablespace {named(lacks.tablespaces)}: what was in it goes into the default one"
        yield warning(text, "CREATE TABLESPACE makes one; ALTER TABLE … SET TABLESPACE moves tables, also afterwards.")
    if lacks.versions:
        pairs = [f"{name} {was} becomes {made}" for name, was, made in lacks.versions]
        text = f"extensions differ in version from the set's: {named(pairs)}"
        yield warning(text, "The image of the set has the same ones: `show` names it. Test the application afterwards.")
    for name, database in lacks.elsewhere:
        text = f"{name} works in one database only, on this server in {printable(database)}: its jobs are not restored"
        yield warning(text, "Name this database in the server's settings and restart it, or create the jobs by hand.")


def left_behind(live: LiveDatabase) -> Iterator[Finding]:
    """What stays with the database that is replaced."""
    if live.slots:
        slots = named(live.slots)
        text = f"the logical slots {slots} stay with what is replaced, and hold WAL back until they are dropped"
        hint = "End what reads them, SELECT pg_drop_replication_slot('…') for each, and create them after the restore."
        yield warning(text, hint)
    if live.subscriptions:
        names = named(live.subscriptions)
        text = f"the subscriptions {names} stay with what is replaced, and receive nothing there"
        hint = (
            "Those of the set come disabled: ALTER SUBSCRIPTION … ENABLE, then REFRESH PUBLICATION, once their rows and"
            " the publisher's are known to fit. There `pg_replication_slots` shows what they hold back."
        )
        yield warning(text, hint)


def own(found: Contrast, *, live: bool) -> Iterator[tuple[str, str]]:
    """Whose settings the database gets, and its roles: label and text."""
    if found.settings and live:
        names = named(found.settings)
        empty = f"those of the set, because nothing is in the database yet: {names}"
        yield "settings", empty if found.empty else f"those of the live database stay; the set has others: {names}"
    for name, keys in found.roles.items():
        as_was = f"becomes as it was, but for its password: {named(keys)}"
        yield (
            f"role {printable(name)}",
            as_was if found.new else f"stays as it is here; the set differs in: {named(keys)}",
        )
