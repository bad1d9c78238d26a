"""What a plan of a restore is made from. Plain data; sizes in bytes, None for what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from backup.model.backup_set import StoredSet, holds_database
from backup.model.derived_manifest import DerivedManifest
from backup.model.recovered import MediaThen

# What of a set is restored; empty for all of it.
Only = Literal["", "database", "media"]


@dataclass(frozen=True)
class Server:
    """The database server that is restored to. `free` is the room on the disk of its data."""

    version: str
    system_identifier: str
    missing_roles: tuple[str, ...] = ()
    missing_extensions: tuple[str, ...] = ()
    free: int | None = None
    disk: str = ""


@dataclass(frozen=True)
class Lacking:
    """What the server has not, or otherwise. `needed` are libraries to be preloaded that the set cannot do without.

    `libraries` are all that its server preloaded and this one does not, `versions` extensions with the version of the
    set and the one that is made here, `elsewhere` those that can be in one database only, with that database.
    """

    needed: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()
    versions: tuple[tuple[str, str, str], ...] = ()
    elsewhere: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Contrast:
    """How database and roles of the server differ from the set's, in names alone; `roles` by role.

    `empty`: nobody has put anything into the database, so it gets the set's. `new`: nothing lives on the whole server,
    so roles get theirs, too.
    """

    empty: bool = False
    new: bool = False
    settings: tuple[str, ...] = ()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveDatabase:
    """The database that is replaced. `sessions` are those of others; `slots` are logical ones of replication."""

    name: str
    size: int
    sessions: int
    owner: str
    slots: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolumeFacts:
    """A volume, as it is and as the archive has it. Files and bytes of a side that has none are None.

    `left_files` and `left_bytes` are those of the live tree that the set leaves out, by the patterns `left_out`.
    `mounted`: it can be reached. `archived`: the set has it. Places with the same `disk` share their free bytes.
    `one_name`: two paths of the archive that are the same one on the volume's file system.
    """

    name: str
    mounted: bool = True
    archived: bool = True
    live_files: int | None = None
    live_bytes: int | None = None
    archive_files: int | None = None
    archive_bytes: int | None = None
    free: int | None = None
    disk: str = ""
    left_files: int = 0
    left_bytes: int = 0
    left_out: tuple[str, ...] = ()
    one_name: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoreFacts:
    """All that decides about a restore.

    `database_bytes` is what the restored database will take when no manifest tells; `safety_bytes` what the safety
    set will. `kept_bytes` is what the last restore replaced and still takes, None when nothing is kept. `stops` are
        containers that will be stopped, `stop_seconds` what the slowest of them may take for that, `writers` those that
    write but cannot be stopped. `unfinished` names a restore that stands half way, and `unfinished_hint` what ends it;
    or one that is under way, when somebody is `busy` with it.
    `less` says in what the set is much smaller than those before it, `media` which one has the media that go with
    it, for one that was recovered.
    """

    now: datetime
    zone: ZoneInfo
    source: StoredSet
    only: Only = ""
    safety: bool = True
    server: Server | None = None
    live: LiveDatabase | None = None
    target: str = ""
    lacking: Lacking = Lacking()
    contrast: Contrast = Contrast()
    database_bytes: int | None = None
    volumes: tuple[VolumeFacts, ...] = ()
    safety_bytes: int = 0
    backup_free: int | None = None
    backup_disk: str = ""
    stops: tuple[str, ...] = ()
    stop_seconds: int = 0
    writers: tuple[str, ...] = ()
    kept_bytes: int | None = None
    unfinished: str = ""
    unfinished_hint: str = ""
    busy: bool = False
    commands: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    media: MediaThen | None = None


@dataclass(frozen=True)
class Source:
    """A set, reduced to what a plan asks of it; `time` is None where nothing tells it."""

    name: str
    database: bool
    volumes: bool
    time: datetime | None
    server_version: str
    database_name: str
    system_identifier: str
    size: int | None


def restore_source(facts: RestoreFacts) -> Source:
    """What is restored."""
    given = facts.source
    part = given.manifest.database
    kinds = ("volume",) if facts.only == "media" else ("database", "volume")
    return Source(
        name=given.id,
        database=holds_database(given),
        volumes=bool(given.summary.volume_names),
        time=next((time for kind in kinds if (time := taken(given, kind))), None),
        server_version=part.server_version if part else "".join(each.server_version for each in given.loose),
        database_name=part.name if part else "",
        system_identifier=part.system_identifier if part else "",
        size=part.size or None if part else None,
    )


def taken(given: StoredSet, kind: str) -> datetime | None:
    """When its database or its volumes were: the old scripts' halves, and files elsewhere, have times of their own."""
    return given.manifest.dated(kind) if isinstance(given.manifest, DerivedManifest) else given.time


def wants_database(facts: RestoreFacts) -> bool:
    """Whether the database is restored."""
    return facts.only != "media" and restore_source(facts).database


def wants_media(facts: RestoreFacts) -> bool:
    """Whether volumes are restored."""
    return facts.only != "database" and restore_source(facts).volumes


def restored_volumes(facts: RestoreFacts) -> tuple[VolumeFacts, ...]:
    """The volumes that are exchanged."""
    return tuple(v for v in facts.volumes if v.archived) if wants_media(facts) else ()


def major(version: str) -> int | None:
    """17 from `17.2 (Debian …)`; None when it does not say."""
    digits = version.strip().split(".")[0].split(" ")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 5 else None
