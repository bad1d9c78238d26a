"""The room that a restore needs beside what is there: the new state is made while the old one is live."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backup.operations.restore.plan.facts import Facts, restored_volumes, source, wants_database

# A loaded database is rarely larger than it was; its indexes are sorted in temporary files, and its log is kept.
_DATABASE: Final = 1.2
_BLOCK: Final = 4096
_SLACK: Final = 1 << 20


@dataclass(frozen=True)
class Need:
    """Bytes needed in one place, and free there (None: not known). Places on the same `disk` share what is free."""

    place: str
    bytes: int
    free: int | None
    disk: str = ""


@dataclass(frozen=True)
class Short:
    """A disk that is too small for all that is to be put on it."""

    needs: tuple[Need, ...]
    bytes: int
    free: int


def needs(facts: Facts) -> tuple[Need, ...]:
    """What is needed in each place."""
    return tuple(_needs(facts))


def short(needed: Sequence[Need]) -> list[Short]:
    """Disks without room. A place without a known disk stands for itself."""
    disks: dict[str, list[Need]] = defaultdict(list)
    for number, need in enumerate(needed):
        disks[f"disk {need.disk}" if need.disk else f"place {number}"].append(need)
    found = []
    for group in disks.values():
        free = min((need.free for need in group if need.free is not None), default=None)
        total = sum(need.bytes for need in group)
        if free is not None and total > free:
            found.append(Short(tuple(group), total, free))
    return found


def _needs(facts: Facts) -> Iterator[Need]:
    if wants_database(facts) and facts.server:
        size = source(facts).size or facts.database_bytes or (facts.live.size if facts.live else 0)
        yield Need("the database server", round(size * _DATABASE) + _SLACK, facts.server.free, facts.server.disk)
    for volume in restored_volumes(facts):
        # Of old archives only the live tree gives an idea.
        bytes_ = volume.live_bytes if volume.archive_bytes is None else volume.archive_bytes
        files = volume.live_files if volume.archive_files is None else volume.archive_files
        total = (bytes_ or 0) + _BLOCK * (files or 0) + _SLACK
        yield Need(f"the volume {volume.name}", total, volume.free, volume.disk)
    if facts.safety:
        yield Need("the backup volume", facts.safety_bytes + _SLACK, facts.backup_free, facts.backup_disk)
