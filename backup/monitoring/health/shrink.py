"""Sets that hold much less than those before them: data may have been lost before the backup was made. Pure.

Each table is judged by itself, too: a large log hides what the others lose.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from backup.errors import BackupError
from backup.formatting import plural, printable, size
from backup.model.backup_set import StoredSet, by_time
from backup.model.finding import Finding, one_line_finding, warning
from backup.model.manifest import Manifest, Summary, VolumePart
from backup.monitoring.health.model import Limits, newest_database

# A loss must not look well again as soon as the next backup has been made of what is left.
_BACK: Final = timedelta(days=3)
# So far back it is looked whether a table always swings: each of so many sets, and then one of each day.
_HISTORY: Final = timedelta(days=90)
_EACH: Final = 60
# Less than this share of what was there is far less.
_SHARE: Final = 0.5
# Below these a half is nothing: a database or table of four rows, a volume of three files.
_ROWS: Final = 100
_FILES: Final = 10
_BYTES: Final = 10**6
# What a table must have had to be missed when it is empty or gone.
_ANY: Final = 20
# What happened so often is how the table is used.
_HABIT: Final = 2
_LISTED: Final = 5
_LOOK: Final = (
    "If that was not meant, `restore {before} --dry-run` shows the way back; `show ID --tables` lists the rows of each."
)


@dataclass(frozen=True)
class Loss:
    """A table that has `rows`, and had `before` in the set called `id`."""

    table: str
    rows: int
    before: int
    id: str

    @property
    def is_far(self) -> bool:
        """Whether it is to be told, by the numbers alone."""
        return self.before >= (_ROWS if self.rows else _ANY) and self.rows < _SHARE * self.before


def shrink_findings(sets: Sequence[StoredSet], limits: Limits) -> Iterator[Finding]:
    """A newest dump that is tiny, and what has shrunk by more than half since the sets of the days before."""
    # A safety set holds what a restore was about to replace: that it held less is why somebody restored.
    sets = [stored for stored in sets if stored.backup]
    good = newest_database(sets)
    if good is not None and (manifest := _manifest(good)):
        yield from _tiny(good, manifest, limits)
        yield from _database(good, manifest, _before(sets, good, lambda m: m.database is not None), sets)
    media = max((s for s in sets if s.good and s.summary.volumes), key=by_time, default=None)
    if media is not None and (manifest := _manifest(media)):
        yield from _media(media, manifest, _before(sets, media, lambda m: bool(m.volumes)))


def of_set(stored: StoredSet, sets: Sequence[StoredSet]) -> tuple[Finding, ...]:
    """In what a backup holds far less than those of `sets` before it: it may be one of the damage."""
    if not stored.good or stored.safety:
        return ()
    before = [each for each in sets if by_time(each) < by_time(stored)]
    # Of what the set does not hold, an earlier one is the newest.
    return tuple(
        each for each in map(one_line_finding, shrink_findings([*before, stored], Limits())) if stored.id in each.text
    )


def _before(
    sets: Sequence[StoredSet], last: StoredSet, holds: Callable[[Summary], bool]
) -> list[tuple[StoredSet, Manifest]]:
    """Good sets of the same kind before `last`: the one before it, and those of the days before that."""
    earlier = [
        stored
        for stored in sorted(sets, key=by_time, reverse=True)
        if stored.good and holds(stored.summary) and by_time(stored) < by_time(last)
    ]
    near = earlier[:1] + [each for each in earlier[1:] if last.time - each.time <= _BACK]
    return [(stored, manifest) for stored in near if (manifest := _manifest(stored))]


def _tiny(good: StoredSet, manifest: Manifest, limits: Limits) -> Iterator[Finding]:
    artifact = manifest.artifact("database")
    if artifact and artifact.stored_size < limits.min_size:
        yield warning(
            f"the dump in {good.id} has only {size(artifact.stored_size)};"
            f" the limit is {size(limits.min_size)} (BACKUP_MIN_SIZE_KB)",
            f"`show {good.id}` lists its tables and rows. If the database is that small, set BACKUP_MIN_SIZE_KB lower.",
        )


def _database(
    good: StoredSet, now: Manifest, before: list[tuple[StoredSet, Manifest]], sets: Sequence[StoredSet]
) -> Iterator[Finding]:
    if now.database is None:
        return
    # Of another server or database, nothing can be compared; that it is another one is told elsewhere.
    mine = [(s, m) for s, m in before if m.database and _identity(m) == _identity(now)]
    yield from _less(good, "rows", _rows(now), [(s, _rows(m)) for s, m in mine], _ROWS, "{:,}".format)
    yield from _less(good, "of SQL", _dumped(now), [(s, _dumped(m)) for s, m in mine], _BYTES, size)
    if lost := losses(_tables(now), [(s.id, _tables(m)) for s, m in mine]):
        history = [_tables(m) for m in _history(sets, good) if _identity(m) == _identity(now)]
        lost = [loss for loss in lost if not swings(loss, [rows.get(loss.table, 0) for rows in history])]
    yield from _fewer(good, [loss for loss in lost if loss.rows])
    yield from _emptied(good, [loss for loss in lost if not loss.rows])


def _history(sets: Sequence[StoredSet], last: StoredSet) -> list[Manifest]:
    """Manifests of good sets before `last`, oldest first: not of all, since each may have to be read."""
    near = (s for s in sets if s.good and s.summary.database and last.time - s.time <= _HISTORY)
    earlier = sorted((stored for stored in near if by_time(stored) < by_time(last)), key=by_time, reverse=True)
    chosen = [*earlier[:_EACH], *{stored.time.date(): stored for stored in earlier[_EACH:]}.values()]
    return [manifest for stored in reversed(chosen) if (manifest := _manifest(stored))]


def _manifest(stored: StoredSet) -> Manifest | None:
    """What an older set says; nothing when it cannot be read: a cleanup may have removed it since it was listed."""
    with contextlib.suppress(BackupError):
        return stored.manifest
    return None


def _fewer(good: StoredSet, lost: list[Loss]) -> Iterator[Finding]:
    if lost:
        last = max(lost, key=lambda loss: loss.before - loss.rows).id
        shown = [
            f"{plural(loss.rows, 'row')} of {printable(loss.table)} instead of {loss.before:,}{_where(loss, last)}"
            for loss in lost
        ]
        text = f"{good.id} holds far less than {last} in {plural(len(lost), 'table')}: {_listed(shown)}"
        yield warning(text, _LOOK.format(before=last))


def _emptied(good: StoredSet, lost: list[Loss]) -> Iterator[Finding]:
    if lost:
        last = max(lost, key=lambda loss: loss.before).id
        shown = [f"{printable(loss.table)} had {plural(loss.before, 'row')}{_where(loss, last)}" for loss in lost]
        text = f"{plural(len(lost), 'table')} in {good.id} {'is' if len(lost) == 1 else 'are'} empty or gone"
        yield warning(f"{text}: in {last} {_listed(shown)}", _LOOK.format(before=last))


def _where(loss: Loss, last: str) -> str:
    return "" if loss.id == last else f" in {loss.id}"


def _listed(shown: list[str]) -> str:
    return ", ".join(shown[:_LISTED]) + (f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else "")


def _media(last: StoredSet, now: Manifest, before: list[tuple[StoredSet, Manifest]]) -> Iterator[Finding]:
    names = dict.fromkeys(volume.name for _, manifest in before for volume in manifest.volumes)
    for name in names:
        present = _volume(now, name)
        then = [(stored, part) for stored, manifest in before if (part := _volume(manifest, name))]
        what = f"volume {printable(name)}"
        if present is None:  # that it has left is told as long as any set holds it
            continue
        yield from _less(
            last, f"files in {what}", present.files, [(s, v.files) for s, v in then], _FILES, "{:,}".format
        )
        yield from _less(last, f"in {what}", present.bytes, [(s, v.bytes) for s, v in then], _BYTES, size)


def _less(
    last: StoredSet,
    what: str,
    now: int,
    before: list[tuple[StoredSet, int]],
    least: int,
    shown: Callable[[int], str],
) -> Iterator[Finding]:
    stored, most = max(before, key=lambda each: each[1], default=(last, 0))
    if most >= least and now < most * _SHARE:
        text = f"{last.id} holds far less than {stored.id}: {shown(now)} {what} instead of {shown(most)}"
        yield warning(text, _LOOK.format(before=stored.id))


def _identity(manifest: Manifest) -> tuple[str, str] | None:
    return (manifest.database.system_identifier, manifest.database.name) if manifest.database else None


def _tables(manifest: Manifest) -> Mapping[str, int]:
    return manifest.database.rows if manifest.database else {}


def _rows(manifest: Manifest) -> int:
    return sum(_tables(manifest).values())


def _dumped(manifest: Manifest) -> int:
    artifact = manifest.artifact("database")
    return artifact.plain_size if artifact else 0


def _volume(manifest: Manifest, name: str) -> VolumePart | None:
    return next((volume for volume in manifest.volumes if volume.name == name), None)


def losses(now: Mapping[str, int], before: Sequence[tuple[str, Mapping[str, int]]]) -> list[Loss]:
    """Each table that lost more than half of its rows, by name. `before` are the sets to compare with, newest first."""
    most: dict[str, Loss] = {}
    for identifier, rows in before:
        for table, count in rows.items():
            if table not in most or count > most[table].before:
                most[table] = Loss(table, now.get(table, 0), count, identifier)
    return [loss for _, loss in sorted(most.items()) if loss.is_far]


def swings(loss: Loss, history: Sequence[int]) -> bool:
    """Whether it had about as few rows before, and came back from it by itself, twice: as sessions and queues do.

    Once says nothing: that may have been a loss that a restore made good. `history` are its rows, oldest first.
    """
    few, many = max(2 * loss.rows, _ANY), _SHARE * loss.before
    is_high, was_low, returns = False, False, 0
    for count in history:
        if count >= many:
            returns += was_low
            is_high, was_low = True, False
        elif is_high and count <= few:
            was_low = True
    return returns >= _HABIT
