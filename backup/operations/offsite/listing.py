"""Every set here and there, as one listing and what is known tell it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backup.model.backup_set import StoredSet
from backup.operations.offsite.context import OffsiteContext, listed
from backup.operations.offsite.rules import unchanged
from backup.operations.offsite.verify_copies import Look


@dataclass(frozen=True)
class Row:
    """One set, here or there. `state` is that of the copy, or `only local`; `note` says more."""

    id: str
    tier: str
    time: datetime
    size: int
    state: str
    local: bool
    note: str = ""


def rows(context: OffsiteContext) -> list[Row]:
    """Every set here and there, newest first, from one listing, what is known, and the manifests of what is not."""
    local = {stored.id: stored for stored in context.catalog.sets()}
    book, remote = context.book.read(), listed(context.remote)
    found = []
    for identifier, there in remote.items():
        known, changed = book.copies.get(identifier), ""
        copy = known
        if copy is None or not copy.held or not unchanged(copy, there.entries):
            copy = Look(context, known).judge(there, ask=False)
            if copy.held and known and known.held and known.items:
                changed = "changed since it was confirmed; `offsite verify` asks for its checksums"
        note = copy.problem or changed or ("" if identifier in local else "only remote")
        found.append(Row(identifier, copy.tier, copy.time, there.size, copy.state, identifier in local, note))
    for identifier, copy in book.copies.items():
        if identifier not in remote:
            what = "it was there, and is not any more"
            found.append(Row(identifier, copy.tier, copy.time, 0, "gone", identifier in local, what))
    there_too = {row.id for row in found}
    found += [_here(stored) for stored in local.values() if stored.id not in there_too]
    return sorted(found, key=lambda row: (row.time, row.id), reverse=True)


def _here(stored: StoredSet) -> Row:
    note = "" if stored.verified else "never sent: it is not verified and good"
    return Row(stored.id, stored.tier, stored.time, stored.size, "only local", local=True, note=note)
