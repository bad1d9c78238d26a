"""What is said of the WAL that is received: only what is known, through catching up, rollbacks, clocks and ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backup.catalog.wal_archive import ArchivedServer, StreamFile, WalArchive, clusters
from backup.errors import EngineError, LockHeld, StoreError
from backup.model.wal import SegmentId, Stream, WalSlot, lsn_text
from backup.operations.pitr import receive
from backup.operations.pitr.receive import ReceiveContext, WalSource, _said, _Session
from backup.postgres.replication import ServerWal
from backup.storage import lock
from tests.support.facts import NOW
from tests.unit.catalog.test_wal_archive import SIZE, SYSTEM, segment


@dataclass
class Server:
    """A server and its receiver, by hand: `at` in seconds, `current` and `received` in segments."""

    root: Path
    at: float = 0.0
    current: float = 2.0
    received: float | None = None
    timeline: int = 1
    alive: bool = True
    said: str = ""
    started: int = 0
    inside: int = 0
    held: list[float] = field(default_factory=list)
    slot: WalSlot | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.at)

    def ask(self) -> ServerWal:
        place = None if self.received is None else lsn_text(int(self.received * SIZE))
        current = lsn_text(int(self.current * SIZE))
        return ServerWal(self.now(), SYSTEM, SIZE, self.timeline, current, place, "streaming" if place else "")

    def running(self) -> bool:
        return self.alive

    def errors(self) -> str:
        return self.said

    def entered(self) -> None:
        self.inside += 1

    @contextmanager
    def receive(self, archive: WalArchive) -> Iterator[Server]:
        self.started += 1
        self.alive = True
        yield self

    def hold(self, place: int) -> WalSlot | None:
        self.held.append(place / SIZE)
        return self.slot

    def session(self) -> _Session:
        source = WalSource(("id", "started"), self.ask, self.receive, self.hold, "db")
        context = ReceiveContext(
            root=self.root, database=lambda: source, wait=lambda _: True, clock=self.now, steady=lambda: self.at
        )
        return _Session(context, StreamFile(self.root), self.stack)

    def write(self, number: int, *, partial: bool = True) -> None:
        """What the receiver writes."""
        name = SegmentId(self.timeline, number).name(SIZE) + (".partial" if partial else "")
        (WalArchive(self.root, SYSTEM).stream.directory / name).write_bytes(segment(number))

    def look(self, session: _Session, at: float, current: float, received: float | None) -> Stream:
        self.at, self.current, self.received = at, current, received
        session.look()
        stream = StreamFile(self.root).read()
        assert stream
        return stream


@pytest.fixture
def server(tmp_path: Path) -> Server:
    (tmp_path / "state").mkdir()
    WalArchive(tmp_path, SYSTEM).prepare()
    return Server(tmp_path)


def level(stream: Stream) -> float | None:
    """Seconds of the newest moment."""
    return (stream.level - NOW).total_seconds() if stream.level else None


def test_the_newest_moment_is_that_of_a_look_that_the_receiver_has_passed(server: Server) -> None:
    session = server.session()
    assert server.look(session, 0, 2.0, None).state == "starting"
    server.write(2)
    assert level(server.look(session, 2, 2.5, 2.2)) == 0
    assert level(server.look(session, 4, 2.9, 2.6)) == 2
    last = server.look(session, 6, 2.9, 2.9)
    assert (level(last), last.state) == (6, "streaming")


def test_the_session_of_a_receiver_that_has_gone_is_not_taken_for_its_successors(server: Server) -> None:
    """It would lose its password before it has come in."""
    session = server.session()
    server.look(session, 0, 2.0, 2.0)
    assert (server.started, server.inside) == (1, 0)
    server.look(session, 2, 2.0, 2.0)
    assert (server.started, server.inside) == (1, 1)


def test_one_process_receives(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "_OTHER", 0.0)
    with lock.hold(server.root / "state" / "receive.lock", "receive", "-"):
        with pytest.raises(LockHeld, match="receive"):
            receive.receive_wal(server.session().context)
    receive.receive_wal(server.session().context)
    assert server.started == 0


def test_old_wal_that_comes_late_makes_no_moment(server: Server) -> None:
    session = server.session()
    server.write(2)
    assert level(server.look(session, 0, 2.5, 2.5)) == 0
    session.close()
    # Hours later it catches up, segment by segment.
    session = server.session()
    assert level(server.look(session, 9000, 7.5, 2.5)) == 0
    server.write(2, partial=False)
    server.write(3, partial=False)
    server.write(4)
    assert level(server.look(session, 9002, 7.5, 4.5)) == 0
    whole = WalArchive(server.root, SYSTEM).received(SIZE).whole
    assert [each - NOW for each in whole.values()] == [timedelta()] * 2
    assert level(server.look(session, 9004, 7.5, 7.5)) == 9004


def test_wal_that_came_before_the_first_look_is_of_no_later_moment_than_the_last_one(server: Server) -> None:
    """A place is sent it segment by segment: none of them may promise what only the last one holds."""
    session = server.session()
    server.write(2)
    assert level(server.look(session, 0, 2.5, 2.5)) == 0
    session.close()
    session = server.session()
    server.write(2, partial=False)
    for number in (3, 4):
        server.write(number, partial=False)
    server.write(5)
    # All of it has come before anybody looks.
    assert level(server.look(session, 9000, 5.5, 5.5)) == 9000
    packed = WalArchive(server.root, SYSTEM).list_segments()
    assert [(each.received - NOW).total_seconds() for each in packed] == [0, 0, 0]


def test_a_server_that_was_put_back_has_another_history(server: Server) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 0, 2.9, 2.9)
    session.close()
    with pytest.raises(StoreError, match="earlier place"):
        server.look(server.session(), 60, 2.4, None)
    assert clusters(server.root) == []
    assert server.look(server.session(), 62, 2.4, None).level is None


def test_a_clock_that_is_put_back_makes_no_moment_of_the_future(server: Server) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 3600, 2.5, 2.5)
    assert level(server.look(session, 10, 2.6, None)) is None
    session.say_down("gone", "")
    now = StreamFile(server.root).read()
    assert now
    assert (now.state, now.level) == ("down", None)


def test_a_receiver_that_ends_is_no_success(server: Server) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 0, 2.5, 2.5)
    server.alive, server.said = (
        False,
        "pg_receivewal: error: could not write: No space\npg_receivewal: error: disconnected\n",
    )
    with pytest.raises(EngineError, match="could not write: No space"):
        session.look()


def test_a_gap_is_begun_anew_at_once(server: Server) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 0, 2.5, 2.5)
    server.alive, server.said = False, "ERROR:  requested WAL segment 000000010000000000000002 has already been removed"
    server.look(session, 60, 9.5, None)
    assert server.started == 2
    received = WalArchive(server.root, SYSTEM).received(SIZE)
    assert {each: moment - NOW for each, moment in received.broken.items()} == {SegmentId(1, 2): timedelta()}


@pytest.mark.parametrize("said", ["is not in this server's history", "is not present in the server"])
def test_a_timeline_that_the_server_has_left_ends_where_it_was_received(server: Server, said: str) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 0, 2.5, 2.5)
    # The first look at the new one finds nothing received, and says so.
    server.timeline = 2
    server.look(session, 2, 2.6, None)
    server.alive, server.said = False, f"error: starting timeline 1 {said}"
    server.look(session, 4, 2.6, None)
    assert server.started == 2
    received = WalArchive(server.root, SYSTEM).received(SIZE)
    assert {each: moment - NOW for each, moment in received.broken.items()} == {SegmentId(1, 2): timedelta()}


def test_a_timeline_that_came_back_for_a_moment_keeps_what_reached_further(server: Server) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 10, 2.5, 2.5)
    for at, timeline in ((12, 2), (20, 1), (30, 2)):
        server.timeline = timeline
        server.look(session, at, 2.6, None)
        server.alive, server.said = False, "error: starting timeline is not present in the server"
        server.write(2)
        server.look(session, at + 2, 2.6, None)
    received = WalArchive(server.root, SYSTEM).received(SIZE)
    assert received.broken[SegmentId(1, 2)] - NOW == timedelta(seconds=10)


def test_the_server_keeps_what_is_not_whole_here(server: Server) -> None:
    session = server.session()
    server.write(2)
    server.look(session, 0, 2.5, None)
    server.look(session, 2, 2.5, 2.2)
    server.write(2, partial=False)
    server.write(3)
    server.look(session, 4, 3.5, 3.0)
    server.look(session, 6, 3.5, 3.4)
    assert server.held == [0, 2, 3, 3]


def test_which_server_has_a_slot_of_ours_is_noted_with_its_wal(server: Server) -> None:
    """A server that is not the database any more is asked for nothing."""
    archive = WalArchive(server.root, SYSTEM)
    session = server.session()
    server.write(2)
    server.look(session, 0, 2.5, 2.5)
    assert archive.server() == ArchivedServer(service="db")
    server.slot = WalSlot(name="s", held=5)
    server.look(session, 2, 2.5, 2.5)
    assert archive.server() == ArchivedServer(service="db", slot="s")
    # It may still be there.
    server.slot = WalSlot(name="s", problem="somebody uses it")
    server.look(session, 4, 2.5, 2.5)
    assert archive.server() == ArchivedServer(service="db", slot="s")
    server.slot = None
    server.look(session, 6, 2.5, 2.5)
    assert archive.server() == ArchivedServer(service="db")


def test_what_is_said_of_the_slot_stays_when_the_stream_ends(server: Server) -> None:
    server.slot = WalSlot(name="s", held=5, safe=7)
    session = server.session()
    server.write(2)
    assert server.look(session, 0, 2.5, 2.5).slot == server.slot
    session.say_down("gone", "")
    now = StreamFile(server.root).read()
    assert now and now.slot == server.slot


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x: error: a\nx: error: disconnected\n", "x: error: a"),
        ("x: error: disconnected\n", "x: error: disconnected"),
        ("", "without a word"),
    ],
)
def test_the_cause_is_told(text: str, told: str) -> None:
    assert _said(text) == told


def test_what_cannot_be_noted_of_the_server_keeps_no_wal_from_coming(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noted again at the next look."""
    session = server.session()
    server.write(2)

    def fails(archive: WalArchive, noted: ArchivedServer | None) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(WalArchive, "note_server", fails)
        server.look(session, 0, 2.5, 2.5)
        assert session.receiver is not None
    server.look(session, 2, 2.5, 2.5)
    assert WalArchive(server.root, SYSTEM).server() == ArchivedServer(service="db")
