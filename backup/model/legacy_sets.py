"""Which files without a manifest are one set: the old scripts gave a dump and its archives seconds of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.model.backup_set import StoredSet, parsed_files
from backup.model.manifest import FileId, Tier, set_id, stamp_time

WITHIN: Final = timedelta(minutes=5)


def bare(files: Mapping[str, FileId]) -> bool:
    """Whether files of one id are dumps and archives alone: what we left has checksums, roles or indexes besides."""
    return all(_is_dump(part) or part.content == "tar.gz" for part in files.values())


def pair(files: Mapping[str, FileId], taken: Collection[str], zone: ZoneInfo) -> dict[str, list[str]]:
    """The sets that dumps and archives of one folder are, by id; `taken` are the ids of others there.

    An archive belongs to the newest dump of its tier that is not younger, if that is five minutes older at most and has
    no archive of its volume yet; so runs that follow each other never mix. Else it belongs to those of its own second.
    A set is called as its dump, and as the next second that is free where another has that id.
    """
    times = {name: stamp_time(part.stamp, zone) for name, part in files.items()}
    ids = {*taken, *(part.set_id for part in files.values())}
    found: dict[str, dict[tuple[str, str], str]] = {}
    leading: dict[Tier, tuple[str, datetime]] = {}
    for name in sorted(files, key=lambda each: (times[each], not _is_dump(files[each]), files[each].older, each)):
        part, content, own = files[name], (files[name].content, files[name].what), files[name].set_id
        leader, since = leading.get(part.tier, ("", times[name]))
        if not _is_dump(part) and leader and times[name] - since <= WITHIN and content not in found[leader]:
            found[leader][content] = name
            continue
        if own in taken or content in found.get(own, ()):
            own = _free(part, ids, times[name], zone)
            ids.add(own)
        found.setdefault(own, {})[content] = name
        if _is_dump(part) and (not leader or since < times[name]):
            leading[part.tier] = own, times[name]
    return {identifier: sorted(names.values()) for identifier, names in found.items()}


def ids_of(stored: StoredSet) -> list[str]:
    """Its id, and those that archives of the old scripts bear in their own names."""
    parts = parsed_files(stored).values()
    return list(dict.fromkeys([stored.id, *(part.set_id for part in parts if part.content == "tar.gz")]))


def _free(part: FileId, ids: Collection[str], moment: datetime, zone: ZoneInfo) -> str:
    while (identifier := set_id(part.tier, moment, zone)) in ids:
        moment += timedelta(seconds=1)
    return identifier


def _is_dump(part: FileId) -> bool:
    return part.what == "backup" and part.content == "sql.gz"
