"""What BACKUP_MEDIA=incremental would save here: told by the file indexes of the two newest full sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from backup.errors import BackupError
from backup.formatting import size
from backup.model.backup_set import StoredSet, newest_first
from backup.model.finding import Finding
from backup.operations.inspect.file_index import index_entries

# Of less, and of media that change from set to set, nothing is said.
_WORTH: Final = 100_000_000
_LESS: Final = 0.5
_ON: Final = "BACKUP_MEDIA=incremental packs only what is new; docs/operations.md says what that means."


def savings(sets: Iterable[StoredSet]) -> Iterator[Finding]:
    """What the newest full set would have taken, had it named what the one before holds. Nothing where it is little."""
    full = [each for each in newest_first(sets) if each.good and each.backup and each.summary.volumes][:2]
    if len(full) < 2 or any(each.summary.packs or each.encrypted for each in full):
        return
    stored = _media(full[0])
    try:
        new = round(stored * _new(full[0], full[1]))
    except BackupError:  # which verify tells
        return
    if stored - new >= _WORTH and new <= _LESS * stored:
        text = f"{full[0].id} repeats {size(stored - new)} of {size(stored)} of archives that {full[1].id} holds, too"
        yield Finding("pass", text, _ON)


def _media(stored: StoredSet) -> int:
    return sum(each.stored_size for each in stored.summary.artifacts if each.kind == "volume")


def _new(newest: StoredSet, before: StoredSet) -> float:
    """The share of bytes of which the set before has no file."""
    known = {
        bytes.fromhex(entry.sha256) for name in before.summary.volume_names for entry in index_entries(before, name)
    }
    new = total = 0
    for name in newest.summary.volume_names:
        for entry in index_entries(newest, name):
            total += entry.size
            new += 0 if bytes.fromhex(entry.sha256) in known else entry.size
    return new / total if total else 1.0
