"""A plain dump loaded over one session up to its last row; what is built on rows, over two.

The second session begins as soon as there is something to build: while rows still come in, if it is known what.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backup.errors import LoadFailed
from backup.formatting import printable
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.operations.parallel_load import LEAST, Foreseen, SecondSession
from backup.postgres.clients import Clients
from backup.postgres.dump.adaptation import LOADING, called
from backup.postgres.dump.dependency_queue import Entry, Queue
from backup.postgres.dump.load_attempt import ALLOWED, NOTES, LeftOut, LoadAttempt, left_out
from backup.postgres.dump.load_script import FIRST, Split, violation_query
from backup.postgres.dump.psql_session import Dialogue
from backup.postgres.dump.statements import name_parts
from backup.postgres.psql import CODES, confined, script
from backup.postgres.scratch_server import LOAD_OPTIONS, Place, WantedDatabase
from backup.postgres.session_settings import UNRESTRICTED

_ARGUMENTS: Final = ("--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", *CODES)
_GLANCE: Final = 0.2
# Schema, table and name of a constraint.
_PARTS: Final = 3
# insufficient_privilege
NO_RIGHT: Final = "42501"


class Load:
    """Under way. `split` is the Watcher that has to be given the dump; then `finish`, once.

    `rows_done` is when its last row was passed on, by the monotonic clock; `left` what it did without, at its end.
    """

    def __init__(self, first: Dialogue, second: SecondSession, attempt: LoadAttempt) -> None:
        self._first, self._second, self._attempt = first, second, attempt
        self.split = Split(self._write, self._note, second.loaded, attempt)
        self.rows_done = 0.0
        self.left: list[LeftOut] = []

    def finish(self) -> None:
        """Build what is left; LoadFailed unless all of the dump went well."""
        self.split.finish()
        if not self.rows_done:
            self._note()
        queue, doing, sessions = self._second.rest(self.split.entries), {}, [self._first]
        last_row = self._first.ask(self._after_rows())
        if first := queue.take():
            doing[0] = first
            self._first.ask(self._attempt.script(first))
        if self._second.doing:
            doing[1] = self._second.doing
            self._second.ask()
        if self._second.begun or (len(self.split.entries) > 1 and self.split.rows >= self._second.least):
            sessions.append(self._second.session())

        def take(number: int) -> Entry | None:
            # What was written to the first session may wait in its pipe yet.
            all_in = number == 0 or self._first.answered >= last_row
            return queue.take(None if all_in else self._second.tables())

        _build(queue, doing, sessions, take, self._attempt)
        self._listen(sessions)
        for session in sessions:
            session.load.finish(self.split.trailer + b"\n")

    def _after_rows(self) -> bytes:
        """What the first session does before anything is built on rows."""
        script = self._attempt.after_rows if self.split.with_rows else b""
        if script:
            # Nobody else is at work on what it locks, and nobody begins before it is done.
            self._first.ask(script)
            _settled(self._first)
        return b""

    def _listen(self, sessions: Sequence[Dialogue]) -> None:
        """What was left out, as each session noted it."""
        for session in sessions:
            session.question(NOTES)
        for session in sessions:
            _settled(session)
            self.left += left_out(session.told)

    def rows_breaking(self, schema: str, table: str, name: str) -> str:
        """A query that shows the rows which break a constraint; empty where none is known."""
        entries = [*self.split.entries, *self._second.entries]
        return violation_query(entries, self.split.checked, schema, table, name)

    def _write(self, data: bytes) -> None:
        self._first.load.write(data)
        self._second.step(self.split.rows)

    def _note(self) -> None:
        self.rows_done = time.monotonic()


@contextlib.contextmanager
def loading(
    clients: Clients, run: str, foreseen: Foreseen | None = None, *, attempt: LoadAttempt = FIRST, least: int = LEAST
) -> Iterator[Load]:
    """A load into the database of `clients`. Leaves no session behind; what is loaded by then stays.

    `foreseen`: what the dump builds behind its rows, once that is known. Without it, that is built after the last row.
    """

    @contextlib.contextmanager
    def start() -> Iterator[Dialogue]:
        with clients.talk(_ARGUMENTS, run, LOAD_OPTIONS, part="2.") as session:
            session.enter(lambda: second.closing)
            session.heard = first.heard
            session.load.write(UNRESTRICTED + confined(session.version) + load.split.settings)
            yield session

    if attempt.checks:
        # The constraints that are made after all rows come before what is built on rows.
        foreseen = None
    with (
        clients.talk(_ARGUMENTS, run, LOAD_OPTIONS) as first,
        SecondSession(first, start, foreseen, least, attempt.script) as second,
    ):
        # Either session may have to wait for the other, or for rows.
        first.enter()
        first.load.write(UNRESTRICTED + confined(first.version))
        load = Load(first, second, attempt)
        yield load


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
    foreseen: Foreseen | None = None,
) -> Loaded:
    """Load by `go`, which gives the dump to a Load; once more where that may help, into what `renew` has emptied.

    LoadFailed with what the first attempt ended with, unless the second came further.
    """
    load = None
    try:
        with loading(clients, run, foreseen, attempt=attempt) as load:
            go(load)
            return Loaded(load.left)
    except LoadFailed as error:
        other = attempt.after(error.sqlstate, calling=load.split.calling) if load and error.refused else None
        if other is None:
            raise _explained(error, load) from error
        first = error
    logger.warning("{}; making a second attempt, with {}", first.message, printable(other.told))
    renew()
    try:
        with loading(clients, run, attempt=other) as load:
            go(load)
            notes = [f"loaded at a second attempt, with {other.told}; the first failed: {first.message}"]
            return Loaded(load.left, notes, other.search_path if other.by_path else "")
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


def _build(
    queue: Queue,
    doing: dict[int, Entry],
    sessions: list[Dialogue],
    take: Callable[[int], Entry | None],
    attempt: LoadAttempt,
) -> None:
    """Give each session what `take` gives it until all is done; LoadFailed by the first that fails."""
    heard: threading.Event = sessions[0].heard
    while queue:
        heard.clear()
        for number, session in enumerate(sessions):
            if not session.idle:
                continue
            if number in doing:
                queue.done(doing.pop(number))
        for number, session in enumerate(sessions):
            if number not in doing and (entry := take(number)):
                doing[number] = entry
                session.ask(attempt.script(entry))
        if queue:
            heard.wait(_GLANCE)


def _settled(session: Dialogue) -> None:
    """Until it has done all that it was asked."""
    while not session.idle:
        session.heard.wait(_GLANCE)
        session.heard.clear()
