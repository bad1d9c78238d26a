"""The manifest of files that came without one, or whose own cannot be read: what they themselves show, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from backup.model.manifest import Artifact, ArtifactKind, Manifest, Tier, parse_file_name, stamp_time

# What the name of a set's dump says that it is.
DUMP: Final = "backup"
_KINDS: Final[dict[str, ArtifactKind]] = {
    "sql.gz": "database",
    "contents.gz": "contents",
    "tar.gz": "volume",
    "files.gz": "index",
    "tree.gz": "tree",
}


class BareFile(Artifact):
    """A file of which nobody noted anything: its digests are empty, and `plain_size` is 0.

    `modified` is its mtime in ns, `time` the moment in its name. `content` is sql, custom or tar where its first bytes
    were looked at: only they tell of a file that is no set's by its name. They tell `packed`, `server_version` and
    `root`, the archive's one folder.
    """

    stored_size: int = 0
    stored_sha256: str = ""
    plain_size: int = 0
    plain_sha256: Literal[""] = ""
    modified: int = 0
    time: datetime | None = None
    content: str = ""
    packed: bool = True
    root: str = ""
    server_version: str = ""

    @property
    def folder(self) -> str:
        """The folder that an archive is of."""
        return self.root or self.name


# A copy is made in a third of the time.
_NOTHING: Final = BareFile.model_construct()


class DerivedManifest(Manifest):
    """Never written and never read: no rule may take it for one that was verified when it was written.

    Of the database and the volumes nothing is known but that their files are there.
    """

    derived: ClassVar[bool] = True

    run: str = ""
    started_local: str = ""
    ended_local: str = ""
    zone: str = ""
    product_version: str = ""
    artifacts: tuple[BareFile, ...] = ()

    @property
    def holds_database(self) -> bool:
        """Whether there is a dump."""
        return self.artifact("database") is not None

    @property
    def volume_names(self) -> tuple[str, ...]:
        """The volumes of which there is an archive; an empty name for one that is not known."""
        return tuple(dict.fromkeys(each.name for each in self.artifacts if each.kind == "volume"))

    @property
    def seen(self) -> dict[str, tuple[int, int]]:
        """By name, size and mtime (ns) of the files, by which a verdict knows them again."""
        return {each.file: (each.stored_size, each.modified) for each in self.artifacts}

    def dated(self, kind: str) -> datetime | None:
        """The time in the name of its file of that kind."""
        return next((each.time for each in self.artifacts if each.kind == kind), None)


def derive(identifier: str, tier: Tier, time: datetime, files: Iterable[BareFile]) -> DerivedManifest:
    """The manifest of these files, the dump that is restored before all others."""
    ordered = tuple(sorted(files, key=lambda each: each.name != DUMP))
    # Not validated: names of files elsewhere may be any.
    return DerivedManifest.model_construct(
        id=identifier, tier=tier, started=time, ended=time, artifacts=ordered, database=None, volumes=()
    )


def bare_file(name: str, tier: Tier, zone: ZoneInfo, size: int = 0, modified: int = 0) -> BareFile | None:
    """A file as its name alone tells what it is; None for one that holds no part of a set."""
    parsed = parse_file_name(name, tier)
    if parsed is None or parsed.content not in _KINDS:
        return None
    roles = parsed.what == "roles" and parsed.content == "sql.gz"
    noted = {
        "kind": "roles" if roles else _KINDS[parsed.content],
        "name": parsed.what,
        "file": name,
        "stored_size": size,
        "modified": modified,
        "encryption": "age" if parsed.suffix.endswith(".age") else "",
        "time": stamp_time(parsed.stamp, zone),
    }
    return _NOTHING.model_copy(update=noted)
