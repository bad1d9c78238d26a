"""Which files of a set hold its database and its volumes, with a manifest or without."""

from __future__ import annotations

from backup.model.backup_set import StoredSet, parts_of
from backup.pipeline.file_type import Kind


def volumes_of(stored: StoredSet) -> tuple[str, ...]:
    """The volumes that a set has archives of."""
    if stored.manifest:
        return tuple(volume.name for volume in stored.manifest.volumes)
    if stored.loose:
        return tuple(each.volume for each in stored.loose if each.volume)
    return tuple(part.what for part in parts_of(stored).values() if part.content == "tar.gz")


def dump_of(stored: StoredSet) -> str:
    """The file that holds the database; empty for a set without one."""
    if stored.manifest:
        artifact = stored.manifest.artifact("database")
        return artifact.file if artifact else ""
    if stored.loose:
        return next((each.name for each in stored.loose if each.kind != Kind.TAR), "")
    return _named(stored, "backup", "sql.gz")


def archive_of(stored: StoredSet, volume: str) -> tuple[str, str, str]:
    """The archive of a volume, its index (empty for none), and the folder that it is of."""
    for each in stored.loose:
        if each.kind == Kind.TAR and each.volume == volume:
            return each.name, "", each.root
    archive, index = (_named(stored, volume, suffix) for suffix in ("tar.gz", "files.gz"))
    return archive, index if stored.manifest else "", volume


def _named(stored: StoredSet, what: str, content: str) -> str:
    """The file of a set that holds this, encrypted or not; empty when there is none."""
    found = [name for name, part in parts_of(stored).items() if (part.what, part.content) == (what, content)]
    return min(found, default="")
