"""Sets that hold much less than those before them: data may have been lost before the backup was made. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from backup.health.model import Limits, Reason, newest_database, reason
from backup.manifest import Manifest, VolumePart
from backup.sets import StoredSet
from backup.text import plural, printable, size

_SHARE: Final = 0.5
# A loss must not look well again as soon as the next backup has been made of what is left.
_BACK: Final = timedelta(days=3)
# Below these a half is nothing: a table of four rows, a volume of three files.
_ROWS: Final = 100
_FILES: Final = 10
_BYTES: Final = 10**6
_TABLE: Final = 20
_LISTED: Final = 5
_LOOK: Final = (
    "If that was not meant, `restore {before} --dry-run` shows the way back; `show ID --tables` lists the rows of each."
)


def reasons(sets: Sequence[StoredSet], limits: Limits) -> Iterator[Reason]:
    """A newest dump that is tiny, and what has shrunk by more than half since the sets of the days before."""
    # A safety set holds what a restore was about to replace: that it held less is why somebody restored.
    sets = [stored for stored in sets if not stored.safety]
    good = newest_database(sets)
    if good is not None and good.manifest:
        yield from _tiny(good, good.manifest, limits)
        yield from _database(good, good.manifest, _before(sets, good, lambda m: m.database is not None))
    media = max((s for s in sets if s.good and s.manifest and s.manifest.volumes), key=_order, default=None)
    if media is not None and media.manifest:
        yield from _media(media, media.manifest, _before(sets, media, lambda m: bool(m.volumes)))


def _order(stored: StoredSet) -> tuple[object, str]:
    return stored.time, stored.id


def _before(
    sets: Sequence[StoredSet], last: StoredSet, holds: Callable[[Manifest], bool]
) -> list[tuple[StoredSet, Manifest]]:
    """Good sets of the same kind before `last`: the one before it, and those of the days before that."""
    earlier = [
        (stored, stored.manifest)
        for stored in sorted(sets, key=_order, reverse=True)
        if stored.good and stored.manifest and holds(stored.manifest) and _order(stored) < _order(last)
    ]
    return earlier[:1] + [each for each in earlier[1:] if last.time - each[0].time <= _BACK]


def _tiny(good: StoredSet, manifest: Manifest, limits: Limits) -> Iterator[Reason]:
    artifact = manifest.artifact("database")
    if artifact and artifact.stored_size < limits.min_size:
        yield reason(
            "warn",
            f"the dump in {good.id} has only {size(artifact.stored_size)};"
            f" the limit is {size(limits.min_size)} (BACKUP_MIN_SIZE_KB)",
            f"`show {good.id}` lists its tables and rows. If the database is that small, set BACKUP_MIN_SIZE_KB lower.",
        )


def _database(good: StoredSet, now: Manifest, before: list[tuple[StoredSet, Manifest]]) -> Iterator[Reason]:
    if now.database is None:
        return
    # Of another server or database, nothing can be compared; that it is another one is told elsewhere.
    mine = [(s, m) for s, m in before if m.database and _identity(m) == _identity(now)]
    yield from _less(good, "rows", _rows(now), [(s, _rows(m)) for s, m in mine], _ROWS, "{:,}".format)
    yield from _less(good, "of SQL", _dumped(now), [(s, _dumped(m)) for s, m in mine], _BYTES, size)
    emptied: dict[str, tuple[StoredSet, int]] = {}
    for stored, manifest in mine:
        for table, count in manifest.database.rows.items() if manifest.database else ():
            if count >= _TABLE and not now.database.rows.get(table):
                emptied.setdefault(table, (stored, count))
    if emptied:
        stored = next(iter(emptied.values()))[0]
        shown = [f"{printable(table)} had {plural(count, 'row')}" for table, (_, count) in sorted(emptied.items())]
        more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
        text = f"{plural(len(shown), 'table')} in {good.id} {'is' if len(shown) == 1 else 'are'} empty or gone"
        hint = _LOOK.format(before=stored.id)
        yield reason("warn", f"{text}: in {stored.id} {', '.join(shown[:_LISTED])}{more}", hint)


def _media(last: StoredSet, now: Manifest, before: list[tuple[StoredSet, Manifest]]) -> Iterator[Reason]:
    names = dict.fromkeys(volume.name for _, manifest in before for volume in manifest.volumes)
    for name in names:
        present = _volume(now, name)
        then = [(stored, part) for stored, manifest in before if (part := _volume(manifest, name))]
        what = f"volume {printable(name)}"
        if present is None:
            hint = "If it is still in use, mount it below /volumes in the backup service again."
            yield reason("warn", f"{last.id} does not hold {what}, {then[0][0].id} did", hint)
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
) -> Iterator[Reason]:
    stored, most = max(before, key=lambda each: each[1], default=(last, 0))
    if most >= least and now < most * _SHARE:
        text = f"{last.id} holds far less than {stored.id}: {shown(now)} {what} instead of {shown(most)}"
        yield reason("warn", text, _LOOK.format(before=stored.id))


def _identity(manifest: Manifest) -> tuple[str, str] | None:
    return (manifest.database.system_identifier, manifest.database.name) if manifest.database else None


def _rows(manifest: Manifest) -> int:
    return sum(manifest.database.rows.values()) if manifest.database else 0


def _dumped(manifest: Manifest) -> int:
    artifact = manifest.artifact("database")
    return artifact.plain_size if artifact else 0


def _volume(manifest: Manifest, name: str) -> VolumePart | None:
    return next((volume for volume in manifest.volumes if volume.name == name), None)
