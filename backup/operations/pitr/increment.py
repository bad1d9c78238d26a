"""Whether a base backup may hold only what has changed since another one, and whether what came can be built on. Pure.

PostgreSQL 17 and newer sends such ones from summaries of its WAL; see docs/decisions/0030-incremental-bases.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backup.formatting import printable
from backup.model.wal import LONGEST_CHAIN, Base, WindowProof, chain, lsn
from backup.postgres.base_backup import SEGMENT_BLOCKS, BaseContent
from backup.postgres.replication import ClusterFacts

# Half a day less than a week: a full one is taken each seventh night, though that night begins a minute early.
FULL_EVERY: Final = timedelta(days=6, hours=12)
# The major version that can.
INCREMENTAL_SINCE: Final = 17


@dataclass(frozen=True)
class Choice:
    """The base that the next one builds on, with its manifest; without one it is to be full, and `why` says so."""

    why: str = ""
    parent: Base | None = None
    manifest: bytes = b""


def parent_of(
    bases: Sequence[Base], facts: ClusterFacts, timeline: int, proof: WindowProof | None, now: datetime
) -> Base | str:
    """The base that the next one may build on: the newest, if nothing speaks against it; else why it is to be full.

    `bases` are those of the cluster, oldest first; `timeline` is the server's, `proof` the newest drill of the window.
    """
    major = _major(facts.server_version)
    if major < INCREMENTAL_SINCE:
        return f"PostgreSQL {major} has no incremental ones"
    if not facts.summarizing:
        return "summarize_wal is off"
    if not bases:
        return "it is the first one"
    newest = bases[-1]
    links = chain(newest, bases)
    if not links:
        return f"a base backup that {newest.id} builds on is not here"
    if newest.timeline != timeline:
        return f"the server is on another timeline than {newest.id}"
    if _major(newest.server_version) != major:
        return f"{newest.id} is of PostgreSQL {_major(newest.server_version)}"
    if newest.checksums != facts.checksums:
        return f"checksums of pages were switched since {newest.id}"
    if not newest.summarized:
        return f"there were no summaries of WAL when {newest.id} was taken"
    if proof and proof.problem and proof.tried > links[0].ended:
        return "the last drill of the window failed"
    if not timedelta() < now - newest.ended:
        return f"{newest.id} is of the future"
    if now - links[0].ended >= FULL_EVERY:
        return f"the newest full one is a week old, {links[0].id}"
    if len(links) >= LONGEST_CHAIN:
        return f"{len(links)} build on each other, and a recovery has to combine them all"
    return newest


def flaw(parent: Base, content: BaseContent, cut: Mapping[tuple[int, int], int]) -> str:
    """Why an incremental base must not be kept; empty if it may. `cut`: see `cut_files`.

    Where VACUUM cut a file, nothing behind the cut may be taken from what is older: what the server has added since
    without writing WAL is left out, and the old rows would be back. What the parent was cut to counts as well:
    pg_combinebackup looks for a block in all that it builds on, also behind the parent's end.
    """
    if content.timeline != parent.timeline or lsn(content.parent or "0/0") != lsn(parent.start):
        return f"the server sent one that builds on {content.parent or 'nothing'}, not on {parent.start}"
    before = {(database, file, segment): blocks for database, file, segment, blocks in parent.shortened}
    for key, block in content.taken.items():
        database, file, segment = key
        if block >= SEGMENT_BLOCKS:
            return f"the server says that file {file} of database {database} has blocks beyond its end"
        ends = [before[key]] if key in before else []
        ends += [cut[database, file] - segment * SEGMENT_BLOCKS] if (database, file) in cut else []
        if any(block >= end for end in ends):
            return f"file {file} of database {database} was cut by VACUUM and has grown again"
    return ""


def known_lengths(
    parent: Base, content: BaseContent, cut: Mapping[tuple[int, int], int]
) -> tuple[tuple[int, int, int, int], ...]:
    """What is to be kept of an incremental base as `shortened`; see Base."""
    before = {each[:3] for each in parent.shortened}
    return tuple((*key, blocks) for key, blocks in sorted(content.lengths.items()) if key in before or key[:2] in cut)


def words(base: Base, why: str) -> str:
    """What is said of the kind of a base."""
    return f"incremental, on {printable(base.parent)}" if base.parent else f"full: {printable(why)}"


def _major(version: str) -> int:
    return int(version.partition(".")[0])
