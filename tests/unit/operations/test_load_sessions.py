"""Which session does what, and what becomes of the others when one fails. The sessions are fakes; psql is not asked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from backup.errors import IntegrityError, LoadFailed
from backup.operations.load_sessions import Sessions
from backup.postgres.dump.contents import Part
from backup.postgres.dump.dependency_queue import Entry

PART = Part("public.a", 2, 10, 5, 4, "0" * 64)


class Session:
    """A Dialogue and its load in one. It answers what it is asked at once, unless it is `busy`."""

    def __init__(self, name: str, busy: bool = False) -> None:
        self.name, self.busy, self.version = name, busy, 170006
        self.written: list[bytes] = []
        self.asked = self.answered = 0
        self.heard = threading.Event()
        self.killed = threading.Event()
        self.fails = ""
        self.ended = False

    @property
    def load(self) -> Session:
        return self

    def write(self, data: bytes) -> None:
        if (self.fails and data != b"prologue;") or self.killed.is_set():
            raise LoadFailed(f"{self.name}: {self.fails}", refused=True)
        self.written.append(data)

    def kill(self) -> None:
        self.killed.set()

    def ask(self, script: bytes) -> int:
        self.write(script)
        self.asked += 1
        if not self.busy:
            self.answered = self.asked
            self.heard.set()
        return self.asked

    @property
    def idle(self) -> bool:
        return self.answered == self.asked


def rows(table: str, *parts: Part, weight: int = 1) -> Entry:
    key = table.encode()
    return Entry(b"BEGIN;COPY %b;" % key, frozenset([b"rows " + key]), weight=weight, parts=parts or (PART,))


def index(table: str) -> Entry:
    return Entry(b"INDEX %b;" % table.encode(), reads=frozenset([b"rows " + table.encode()]))


def opened(
    first: Session,
    others: list[Session | LoadFailed],
    read: Callable[[Part], Iterator[bytes]] = lambda part: iter([b"1\n", b"2\n"]),
    *,
    early: bool = False,
    starting: Callable[[int], None] = lambda number: None,
) -> Sessions:
    @contextlib.contextmanager
    def start(number: int) -> Iterator[Session]:
        starting(number)
        other = first if number == 1 else others[number - 2]
        if isinstance(other, LoadFailed):
            raise other
        yield other
        other.ended = True

    return Sessions(
        start,  # type: ignore[arg-type]
        len(others) + 1,
        lambda entry: entry.script,
        lambda: b"prologue;",
        read,  # type: ignore[arg-type]
        early=early,
    )


def wait_for(sessions: Sessions, done: Callable[[], bool]) -> None:
    while not done():
        sessions.step()


def test_rows_come_in_over_another_session_while_the_first_is_given_the_dump() -> None:
    first, other = Session("first"), Session("other")
    with opened(first, [other]) as sessions:
        sessions.load_apart(rows("a"))
        wait_for(sessions, lambda: b"\\.\nCOMMIT;\n" in other.written)
        assert other.written == [b"prologue;", b"BEGIN;COPY a;", b"1\n", b"2\n", b"\\.\nCOMMIT;\n"]
        assert sessions.finish([index("a")]) == [first, other]
    assert b"INDEX a;" in first.written + other.written and sessions.rows_done > 0


def test_nothing_is_loaded_before_its_table_is_there() -> None:
    first, other = Session("first", busy=True), Session("other")
    with opened(first, [other]) as sessions:
        sessions.load_apart(rows("a"))
        for _ in range(100):
            sessions.step()
        assert other.written == []
        first.answered, first.busy = first.asked, False
        sessions.finish([])
    assert b"BEGIN;COPY a;" in first.written + other.written


def test_the_others_may_start_with_the_first_and_wait_for_its_tables() -> None:
    first, other, there = Session("first", busy=True), Session("other"), threading.Barrier(2)
    with opened(first, [other], early=True, starting=lambda number: there.wait(10) and None) as sessions:
        sessions.load_apart(rows("a"))
        for _ in range(100):
            sessions.step()
        assert other.written == []
        first.answered, first.busy = first.asked, False
        wait_for(sessions, lambda: b"\\.\nCOMMIT;\n" in other.written)
        sessions.finish([])
    assert first.ended and other.ended


def test_the_first_gets_the_connection_that_one_of_the_others_had() -> None:
    first, other, tried = Session("first"), Session("other"), list[int]()
    had = threading.Event()

    def starting(number: int) -> None:
        if number == 2:
            had.set()
        elif had.wait(10) and not tried:
            tried.append(number)
            raise LoadFailed("too many clients", lost=True)

    with opened(first, [other], early=True, starting=starting) as sessions:
        assert tried == [1] and other.ended and not first.ended
        sessions.load_apart(rows("a"))
        wait_for(sessions, lambda: b"\\.\nCOMMIT;\n" in first.written + other.written)
        sessions.finish([])
    assert first.ended


def test_a_first_that_cannot_be_had_leaves_none_behind() -> None:
    other, tried = Session("other"), list[int]()

    def starting(number: int) -> None:
        tried.append(number)
        if number == 1:
            raise LoadFailed("killed")

    with pytest.raises(LoadFailed, match="killed"), opened(other, [other], early=True, starting=starting):
        pass
    assert other.ended and sorted(tried) == [1, 2]


def test_a_session_that_cannot_be_had_is_done_without() -> None:
    first = Session("first")
    with opened(first, [LoadFailed("too many clients"), LoadFailed("too many clients")]) as sessions:
        sessions.load_apart(rows("a"))
        assert sessions.finish([index("a")]) == [first]
    assert first.written.index(b"\\.\nCOMMIT;\n") < first.written.index(b"INDEX a;")


def test_a_session_that_is_not_needed_is_given_nothing() -> None:
    first, other = Session("first"), Session("other")
    with opened(first, [other]) as sessions:
        sessions.widen()
        assert sessions.finish([]) == [first]
    assert other.written == []


def test_all_rows_are_in_before_the_dump_goes_on_in_order() -> None:
    first = Session("first")
    with opened(first, [LoadFailed("no")]) as sessions:
        sessions.load_apart(rows("a"))
        sessions.load_apart(rows("b"))
        sessions.drain()
        assert first.written.count(b"\\.\nCOMMIT;\n") == 2
        first.write(b"what comes")
        sessions.finish([])
    assert first.written.index(b"what comes") > first.written.index(b"BEGIN;COPY b;")


def test_rows_that_are_refused_are_told_apart_from_what_is_built_on_them() -> None:
    first, other = Session("first"), Session("other")
    with pytest.raises(LoadFailed, match="other: a row"), opened(first, [other]) as sessions:
        other.fails = "a row"
        sessions.load_apart(rows("a"))
        first.busy = True
        wait_for(sessions, lambda: False)
    assert sessions.refused_beside and first.killed.is_set()
    first = Session("first")
    with pytest.raises(LoadFailed), opened(first, []) as sessions:
        first.fails = "an index"
        sessions.finish([index("a")])
    assert not sessions.refused_beside


def test_what_the_first_session_refuses_may_have_needed_rows_that_come_in_beside_it() -> None:
    for given in (True, False):
        first, other = Session("first"), Session("other")
        with pytest.raises(LoadFailed), opened(first, [other]) as sessions:
            if given:
                sessions.load_apart(rows("a"))
            first.fails = "a row"
            sessions.write(b"a small table")
        assert sessions.refused_beside is given


def test_rows_that_cannot_be_read_end_the_load_without_a_commit() -> None:
    def read(part: Part) -> Iterator[bytes]:
        yield b"1\n"
        raise IntegrityError("not as it was packed")

    first, other = Session("first"), Session("other")
    with pytest.raises(IntegrityError), opened(first, [other], read) as sessions:
        sessions.load_apart(rows("a"))
        sessions.finish([])
    assert b"1\n" in first.written + other.written and b"\\.\nCOMMIT;\n" not in first.written + other.written


def test_whoever_feeds_a_session_ends_when_another_one_fails() -> None:
    going, ended = threading.Event(), threading.Event()

    def read(part: Part) -> Iterator[bytes]:
        try:
            while True:
                going.set()
                yield b"1\n"
        finally:
            ended.set()

    first, other = Session("first"), Session("other")
    with pytest.raises(LoadFailed), opened(first, [other], read) as sessions:
        sessions.load_apart(rows("a"))
        wait_for(sessions, going.is_set)
        raise LoadFailed("of the first")
    assert ended.is_set()
