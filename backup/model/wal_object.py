"""What objects of WAL and of base backups are called at a place. The name is the record of what is in one. Pure.

    wal/<archive>/segments/<segment>[.<part>].<level>.<SHA-256>.gz[.age]   one segment, or a history file
    wal/<archive>/bases/<id>.<token>.tar.gz[.age]                          a base backup
    wal/<archive>/bases/<id>.<SHA-256>.json                                its record, sent last: without it, no base

`<archive>` is `<system identifier>-<token>`, one for each life of a folder of WAL: what has the same names in another
one may be of another history. `<part>` is `broken` for what a gap left of a segment, else how many bytes (in hex) had
been received of one. `<SHA-256>` is that of the object's own bytes, so no object is ever put over another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from backup.model.manifest import Artifact
from backup.model.wal import Received, Segment, SegmentId, is_segment

WAL_FOLDER: Final = "wal"
BROKEN: Final = "broken"
_LEVEL: Final = "%Y%m%dT%H%M%S%fZ"
_OBJECT: Final = re.compile(
    rf"{WAL_FOLDER}/(?P<archive>[0-9]{{1,20}}-[0-9a-f]{{8,64}})/segments/(?P<name>[0-9A-F]{{24}}|[0-9A-F]{{8}}\.history)"
    rf"(?:\.(?P<part>{BROKEN}|[0-9a-f]{{8}}))?\.(?P<level>[0-9]{{8}}T[0-9]{{12}}Z)\.(?P<sha256>[0-9a-f]{{64}})\.gz(?P<age>\.age)?"
)
_BASE: Final = re.compile(
    rf"{WAL_FOLDER}/(?P<archive>[0-9]{{1,20}}-[0-9a-f]{{8,64}})/bases/(?P<id>[0-9TZ]+)\.(?P<sha256>[0-9a-f]{{64}})\.json"
)
_BASE_FILE: Final = re.compile(
    rf"{WAL_FOLDER}/[0-9]{{1,20}}-[0-9a-f]{{8,64}}/bases/(?P<id>[0-9TZ]+)\.[0-9a-f]{{16}}\.tar\.gz(?:\.age)?"
)


@dataclass(frozen=True)
class SegmentObject:
    """A segment, or a history file, at a place; `level` is what `received` is of a Segment, `part` as in its name."""

    archive: str
    name: str
    level: datetime
    sha256: str
    part: str = ""
    encrypted: bool = False

    @classmethod
    def of(cls, archive: str, segment: Segment, sha256: str, *, encrypted: bool) -> SegmentObject:
        """What a packed segment becomes."""
        return cls(archive, segment.name, segment.received, sha256, BROKEN if segment.partial else "", encrypted)

    @classmethod
    def parse(cls, key: str) -> SegmentObject | None:
        """What the object of this key is; None for anything else."""
        if not (match := _OBJECT.fullmatch(key)):
            return None
        try:
            level = datetime.strptime(match["level"], _LEVEL).replace(tzinfo=UTC)
        except ValueError:
            return None
        return cls(match["archive"], match["name"], level, match["sha256"], match["part"] or "", bool(match["age"]))

    @property
    def file(self) -> str:
        """Its name in its folder."""
        part = f".{self.part}" if self.part else ""
        level = self.level.astimezone(UTC).strftime(_LEVEL)
        return f"{self.name}{part}.{level}.{self.sha256}.gz{'.age' if self.encrypted else ''}"

    @property
    def key(self) -> str:
        """The key of the object."""
        return f"{WAL_FOLDER}/{self.archive}/segments/{self.file}"

    @property
    def received(self) -> bool:
        """Whether more of it may come: it is neither whole nor broken off."""
        return self.part not in ("", BROKEN)

    @property
    def worth(self) -> tuple[int, datetime, str]:
        """Of two objects of one segment, the one to be taken is worth more."""
        return (2 if not self.part else int(self.part == BROKEN), self.level, self.part)

    def segment(self, stored: int, plain: int) -> Segment:
        """Its record, for sizes in bytes: that of the object, and that of a segment."""
        artifact = Artifact(
            kind="segment",
            name=self.name,
            file=self.file,
            stored_size=stored,
            stored_sha256=self.sha256,
            plain_size=plain,
            plain_sha256="",
            encryption="age" if self.encrypted else "",
        )
        return Segment(name=self.name, artifact=artifact, received=self.level, partial=bool(self.part))


@dataclass(frozen=True)
class BaseRecord:
    """The record of a base backup at a place; `sha256` of its bytes."""

    archive: str
    id: str
    sha256: str

    @classmethod
    def parse(cls, key: str) -> BaseRecord | None:
        """What the object of this key is; None for anything else."""
        match = _BASE.fullmatch(key)
        return cls(match["archive"], match["id"], match["sha256"]) if match else None

    @property
    def key(self) -> str:
        """The key of the object."""
        return base_key(self.archive, f"{self.id}.{self.sha256}.json")


def base_key(archive: str, file: str) -> str:
    """The key of a file of a base backup."""
    return f"{WAL_FOLDER}/{archive}/bases/{file}"


def best(objects: Iterable[SegmentObject]) -> dict[str, SegmentObject]:
    """The object to be taken of each segment, by name: the whole one, else the one that holds most."""
    found: dict[str, SegmentObject] = {}
    for each in objects:
        if each.name not in found or each.worth > found[each.name].worth:
            found[each.name] = each
    return found


def received_there(objects: Iterable[SegmentObject], size: int) -> Received:
    """What is there of one archive's WAL; `size` of a segment in bytes."""
    chosen = [each for each in best(objects).values() if is_segment(each.name)]
    whole = {SegmentId.of(each.name, size): each.level for each in chosen if not each.part}
    return Received(whole, None, {SegmentId.of(each.name, size): each.level for each in chosen if each.part})


def place_there(objects: Iterable[SegmentObject], timeline: int, size: int) -> int:
    """The place in the WAL of a timeline up to which something is there; 0 for nothing. Gaps are not looked for."""
    reached = 0
    for each in objects:
        if is_segment(each.name) and each.part != BROKEN:
            number, filled = SegmentId.of(each.name, size), int(each.part, 16) if each.part else size
            if number.timeline == timeline:
                reached = max(reached, number.number * size + filled)
    return reached


def superseded(objects: Iterable[SegmentObject]) -> list[SegmentObject]:
    """Objects of segments that were being received, of which there is more by now."""
    listed = list(objects)
    chosen = best(listed)
    return [each for each in listed if each.received and chosen[each.name] != each]


def orphans(keys: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Files of base backups of one archive that no record there names: of removals and uploads that did not end.

    `known`: the key of the file that each record names, by the record's key. A record of which that is not known may
    name any file of its base.
    """
    listed = list(keys)
    records = [(record.id, record.key) for key in listed if (record := BaseRecord.parse(key))]
    unknown = {base for base, key in records if key not in known}
    named = {known[key] for _, key in records if key in known}
    files = [(match["id"], key) for key in listed if (match := _BASE_FILE.fullmatch(key))]
    return [key for base, key in files if base not in unknown and key not in named]
