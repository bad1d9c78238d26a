"""A plain dump loaded into an empty database, beside one another what its order allows.

The first session is given the dump in its order. Rows of large tables go to others, each of which reads them where the
contents of the dump say that they are; a dump without contents comes in over the first alone. What is built on rows is
done by all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from backup.errors import LoadFailed
from backup.formatting import printable
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.operations.load_sessions import MOST, Read, Sessions
from backup.operations.set_artifacts import contents_of, read_part
from backup.postgres.clients import Clients
from backup.postgres.dump.adaptation import LOADING, called
from backup.postgres.dump.contents import Contents, Part
from backup.postgres.dump.load_attempt import ALLOWED, NOTES, LeftOut, LoadAttempt, left_out
from backup.postgres.dump.load_script import FIRST, Split
from backup.postgres.dump.psql_session import Dialogue
from backup.postgres.dump.statements import name_parts
from backup.postgres.dump.violations import violation_query
from backup.postgres.psql import CODES, confined, script
from backup.postgres.scratch_server import LOAD_OPTIONS, Place, WantedDatabase
from backup.postgres.session_settings import UNRESTRICTED
from backup.progress import Progress

_ARGUMENTS: Final = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", *CODES)
# Bytes of rows from which on another session saves more than its start takes: a container's, on the same cores.
LEAST: Final = 8 << 20
# A table with more than this many times its share of the rows is loaded by several sessions, and not frozen.
_SHARE: Final = 1.3
# Schema, table and name of a constraint.
_PARTS: Final = 3
# insufficient_privilege
NO_RIGHT: Final = "42501"


@dataclass(frozen=True)
class Apart:
    """The contents of the dump that is loaded, and what reads the rows that they name.

    `shared`: several sessions may load one table, whose rows then lie in another order. `extended`: the dump makes
    extensions, which may change what later sessions are like.
    """

    contents: Contents
    read: Read
    shared: bool = True
    extended: bool = True

    @property
    def rows(self) -> int:
        """Bytes of the rows that can be loaded by several sessions."""
        return sum(part.size for part in self.contents.parts if part.table)


_NOTHING: Final = Apart(Contents(()), lambda part: iter(()))


class Load:
    """Under way. `split` is the Watcher that has to be given the dump; then `finish`, once. What is looked at then, the
    end of the sessions is waited for behind it.

    `rows_done` is when its last row was passed on, by the monotonic clock; `left` what it did without, at its end.
    """

    def __init__(self, sessions: Sessions, dump: Apart, attempt: LoadAttempt, least: int) -> None:
        self._first, self._sessions, self._attempt, self._least = sessions.first.dialogue, sessions, attempt, least
        self._dump = dump
        self.split = Split(sessions.write, self._note, sessions.load_apart, sessions.drain, attempt)
        self._rows_done = 0.0
        self.left: list[LeftOut] = []
        self._used: Sequence[Dialogue] = ()

    @property
    def path(self) -> str:
        """Where names had to be looked for, if they had to."""
        return self._attempt.search_path if self._attempt.by_path else ""

    @property
    def rows_done(self) -> float:
        """When the last row was passed on, by the monotonic clock."""
        return max(self._rows_done, self._sessions.rows_done)

    @property
    def refused_beside(self) -> bool:
        """Whether rows were refused while others came in beside them."""
        return self._sessions.refused_beside

    def pieces(self) -> Iterator[bytes]:
        """What `split` is to be given of a dump with contents: all but the rows that other sessions load."""
        dump = self._dump
        sizes = {table: sum(part.size for part in parts) for table, parts in _by_table(dump.contents)}
        rows, most = dump.rows, self._sessions.most
        wide = most > 1 and rows >= self._least
        for table, parts in _by_table(dump.contents):
            shared = dump.shared and len(parts) > 1 and sizes[table] * most > _SHARE * rows
            if table and wide and self.split.defer(table, parts, shared=shared):
                continue
            for part in parts:
                yield from dump.read(part)

    def finish(self) -> None:
        """Build what is left; LoadFailed unless all of the dump went well, as the server has answered."""
        self.split.finish()
        if not self._rows_done:
            self._note()
        if self.split.with_rows and (script := self._attempt.after_rows):
            # Nobody else is at work on what it locks, and nobody begins before it is done.
            self._first.ask(script)
            self._first.settle()
        if len(self.split.entries) > 1 and self.split.rows >= self._least:
            self._sessions.widen()
        self._used = self._sessions.finish(self.split.entries)
        self._listen(self._used)
        for session in self._used:
            session.load.end(self.split.trailer + b"\n")

    def judge(self) -> None:
        """Wait for the end of the sessions; LoadFailed unless that went well, too."""
        for session in self._used:
            session.load.judge()

    def _listen(self, sessions: Sequence[Dialogue]) -> None:
        """What was left out, as each session noted it."""
        for session in sessions:
            session.question(NOTES)
        for session in sessions:
            session.settle()
            self.left += left_out(session.told)

    def rows_breaking(self, schema: str, table: str, name: str) -> str:
        """A query that shows the rows which break a constraint; empty where none is known."""
        return violation_query(self.split.entries, self.split.checked, schema, table, name)

    def _note(self) -> None:
        self._rows_done = time.monotonic()


def _by_table(contents: Contents) -> Iterator[tuple[str, list[Part]]]:
    for table, parts in groupby(contents.parts, key=lambda part: part.table):
        yield table, list(parts)


@contextlib.contextmanager
def loading(
    clients: Clients,
    run: str,
    *,
    jobs: int = 1,
    apart: Apart | None = None,
    attempt: LoadAttempt = FIRST,
    least: int = LEAST,
) -> Iterator[Load]:
    """A load into the database of `clients` by up to `jobs` sessions. Leaves none behind; what is loaded by then stays.

    `apart`: what sessions beside the first read; without it, all rows come in over that one.
    """

    @contextlib.contextmanager
    def start(number: int) -> Iterator[Dialogue]:
        with clients.talk(_ARGUMENTS, run, LOAD_OPTIONS, part=f"{number}.") as session:
            # Any session may have to wait for another, or for rows.
            session.enter(sessions.closing.is_set)
            session.load.write(UNRESTRICTED + confined(session.version))
            yield session

    most, dump = 1 if attempt.alone else min(jobs, MOST), apart or _NOTHING
    early = sessions_at_once(dump, most, least) > 1
    sessions = Sessions(start, most, attempt.script, lambda: load.split.settings, dump.read, early=early)
    with sessions:
        load = Load(sessions, dump, attempt, least)
        yield load
        load.judge()


def sessions_at_once(apart: Apart | None, jobs: int, least: int = LEAST) -> int:
    """How many sessions a load begins with, of up to `jobs`; others come when the first has made the tables."""
    wide = apart and apart.rows >= max(least, 1) and not apart.extended
    return min(jobs, MOST) if wide else 1


@dataclass(frozen=True)
class Loaded:
    """What a load did without, and what is to be said of how it went. `path`: where names had to be looked for."""

    left: Sequence[LeftOut]
    notes: Sequence[str] = ()
    path: str = ""


def load_dump(
    clients: Clients,
    run: str,
    attempt: LoadAttempt,
    go: Callable[[Load], None],
    renew: Callable[[], None],
    *,
    jobs: int = 1,
    apart: Apart | None = None,
) -> Loaded:
    """Load by `go`, which gives the dump to a Load; once more where that may help, into what `renew` has emptied.

    LoadFailed with what the first attempt ended with, unless the second came further.
    """
    load = None
    try:
        with loading(clients, run, jobs=jobs, apart=apart, attempt=attempt) as load:
            go(load)
            return Loaded(load.left)
    except LoadFailed as error:
        other = None
        if load and error.refused:
            other = attempt.after(error.sqlstate, calling=load.split.calling, apart=load.refused_beside)
        if other is None:
            raise _explained(error, load) from error
        first = error
    logger.warning("{}; making a second attempt, with {}", first.message, printable(other.told))
    renew()
    try:
        with loading(clients, run, jobs=jobs, apart=apart, attempt=other) as load:
            go(load)
            notes = [f"loaded at a second attempt, with {other.told}; the first failed: {first.message}"]
            return Loaded(load.left, notes, load.path)
    except LoadFailed as error:
        error.message += f" (at a second attempt, with {printable(other.told)})"
        raise _explained(error, load) from error


def _explained(error: LoadFailed, load: Load | None) -> LoadFailed:
    """Which rows break a constraint, and what can be done about it."""
    shows = load.rows_breaking(*error.constraint) if load and len(error.constraint) == _PARTS else ""
    if shows:
        left = " A set that has them is restored with `restore --allow-invalid`." if error.sqlstate in ALLOWED else ""
        error.hint = f"{error.hint} This shows the rows: {printable(shows)}{left}"
    return error


def rows_apart(stored: StoredSet, progress: Progress, *, shared: bool = True) -> Apart | None:
    """What several sessions can load of a set's dump; None where it can be read from its beginning only."""
    contents, part = contents_of(stored), stored.manifest.database
    if contents is None:
        return None
    extended = part is None or bool(part.extensions)
    return Apart(contents, lambda part: read_part(stored, part, progress), shared, extended)


def attempt_for(stored: StoredSet, *, allow_invalid: bool = False) -> LoadAttempt:
    """How a set is loaded. Where names are found is noted in it, or else wherever it has tables."""
    part = stored.manifest.database
    with_tables = [name_parts(table.encode(errors="surrogateescape"))[0] for table in part.rows] if part else []
    path = dict.fromkeys([*(part.search_path if part else ()), "public", *with_tables])
    return LoadAttempt(tuple(path), allow_invalid=allow_invalid)


def complete(clients: Clients, extensions: Iterable[str], run: str) -> None:
    """Tell extensions that want to know it that all is loaded."""
    if statements := [called(name, LOADING[name][1]) for name in extensions if name in LOADING]:
        script(clients, statements, run)


def wanted(stored: StoredSet, roles: str, *, rows: bool = True) -> WantedDatabase:
    """What a set needs of the place that it is loaded into; `rows`: all of it. `roles` as its roles file has them."""
    part = stored.manifest.database
    if part is None:
        return WantedDatabase("restored", None, 10 * stored.size, "", "")
    versions = {**dict.fromkeys(part.extensions, ""), **part.versions}
    size = part.size if rows else 0
    return WantedDatabase(part.name, part.locale, size, part.bootstrap, roles, part.preload, part.tablespaces, versions)


def against_set(error: LoadFailed, place: Place) -> bool:
    """Whether a load failed for what the set holds: not for want of something, nor of rights on somebody's server."""
    return error.refused and (place.ours or error.sqlstate != NO_RIGHT)
