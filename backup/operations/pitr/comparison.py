"""A set beside the window: recovered to what its dump saw, the database must equal that dump, object by object.

Values of sequences and rows of unlogged tables are left out: no snapshot holds the ones, no WAL the others. So are rows
of tables that were written anew before the dump came to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backup.errors import IntegrityError, NotFound
from backup.model.backup_set import StoredSet
from backup.model.snapshot import DumpSnapshot
from backup.operations.create.context import Reached
from backup.operations.pitr.recover import RecoveredOrigin
from backup.operations.verify.run import check_set
from backup.postgres.dump.dump_digest import Outline, differences
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.money import with_setting
from backup.postgres.dump_source import DUMP_SESSION, dump_options
from backup.postgres.recovered_tables import unlogged_tables
from backup.postgres.replication import saw_otherwise
from backup.progress import Progress


@dataclass(frozen=True)
class Night:
    """A set that was dumped within the window, what its dump saw, and what recovers that."""

    stored: StoredSet
    snapshot: DumpSnapshot
    origin: RecoveredOrigin


class DamagedSet(IntegrityError):
    """A set is not as it was written: `problems`."""

    def __init__(self, stored: StoredSet, problems: Sequence[str]) -> None:
        super().__init__(f"{stored.id} is damaged: {problems[0]}", f"`verify {stored.query}` judges it.")
        self.problems = tuple(problems)


class _Objects(Outline):
    """All of a dump but the values of sequences, which go on while it is written."""

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._kind != "SEQUENCE SET":
            super().data(data)


def compare_set(night: Night, run: str, progress: Progress) -> list[str]:
    """Recover what the dump saw, and dump it again: the differences.

    NotFound where the two cannot be compared, DamagedSet where that is the set's fault.
    """
    stored = night.stored
    with night.origin.reach(run, progress) as reached:
        if saw_otherwise(reached.source.login, night.snapshot):
            raise NotFound(f"at no place in the WAL was exactly that committed which the dump of {stored.id} saw")
        expected, found = _Objects(), _Objects()
        if problems := check_set(stored, progress, outline=expected).problems:
            raise DamagedSet(stored, problems)
        dump_again(reached, found, run, progress, statistics=expected.statistics)
        for table in (*unlogged_tables(reached.source.login), *night.snapshot.rewritten):
            for each in (expected, found):
                each.sections.pop(f"TABLE DATA {table}", None)
    return differences(expected, found)


def dump_again(reached: Reached, reader: DumpReader, run: str, progress: Progress, *, statistics: bool = False) -> None:
    """Dump what was recovered to nowhere, through `reader`. DumpFailed unless it is whole."""
    progress.phase("reading what was recovered", reached.facts.size)
    options = dump_options(reached.facts.locale.encoding, statistics=statistics)
    with reached.source.clients.run("pg_dump", options, run, DUMP_SESSION) as output:
        for chunk in with_setting(output.chunks(lambda: progress.advance(0))):
            reader.feed(chunk)
            progress.advance(len(chunk))
    reader.finish()
    reader.check_whole()
