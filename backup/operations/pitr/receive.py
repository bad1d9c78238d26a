"""The WAL is received for as long as this runs: a receiver beside the database, started again whenever it ends.

Without a slot, as by default, a receiver that is down costs a gap, which is seen and said, and never fills the disk of
the database. A slot has a limit, or it is refused.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

from backup.catalog.wal_archive import ArchivedServer, StreamFile, WalArchive
from backup.errors import BackupError, EngineError, StoreError
from backup.formatting import essence, printable
from backup.logging import logger
from backup.model.wal import DOWN, STARTING, STREAMING, UNKNOWN, SegmentId, Stream, WalSlot, is_segment, lsn, spans
from backup.operations.pitr.segments import Packer
from backup.pipeline.age import Recipient
from backup.postgres.receiver import Receiver
from backup.postgres.replication import ServerWal
from backup.storage import lock

# Seconds between two looks, and between two attempts of what does not succeed.
LOOK: Final = 2.0
_LONGEST: Final = 60.0
# How long a look may be held up by segments that wait to be packed.
_PACKING: Final = 5.0
# A receiver that has no session by then has none.
_GRACE: Final = 30.0
# How long one that is ending is waited for.
_OTHER: Final = 10.0
# What is said of WAL that the server has recycled, of a place that is not in the history of its timeline, and of a
# timeline that it has not, because an older one was put back.
_GONE: Final = ("has already been removed", "is not in this server's history", "is not present in the server")
# What it says when it was put back to an earlier state, by other means than ours.
_AHEAD: Final = "is ahead of the WAL flush position"
# An hour or two of looks.
_LOOKS: Final = 3600
_NO_BASE: Final = "there is no base backup that the WAL can be replayed on"


@dataclass(frozen=True)
class WalSource:
    """The database at one moment. `identity` tells the runs of its container apart.

    `hold` lets the server keep its WAL from a place on, if that is wanted. `service`: its own, or its
    container.
    """

    identity: tuple[str, str]
    ask: Callable[[], ServerWal]
    receive: Callable[[WalArchive], AbstractContextManager[Receiver]]
    hold: Callable[[int], WalSlot | None] = lambda _: None
    service: str = ""


@dataclass(frozen=True, kw_only=True)
class ReceiveContext:
    """What receiving works with. `database` looks for it anew each time; `recipients`: whom to encrypt to.

    `wait` waits for so many seconds, or until it is to end: whether it is.
    """

    root: Path
    database: Callable[[], WalSource]
    wait: Callable[[float], bool]
    recipients: Sequence[Recipient] = ()
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    steady: Callable[[], float] = time.monotonic


def receive_wal(context: ReceiveContext) -> None:
    """Receive until `wait` says that it is to end. Whatever fails is said in state/wal.json and tried again.

    LockHeld while another process does.
    """
    file, failures = StreamFile(context.root), 0
    with ExitStack() as stack:
        # Two of them would write into one folder.
        stack.enter_context(lock.hold(context.root / "state" / "receive.lock", "receive", "-", wait=_OTHER))
        session = _Session(context, file, stack)
        stack.callback(session.say_down, "the backup service has stopped", "`docker compose up -d backup` starts it.")
        pause = 0.0
        while not context.wait(pause):
            try:
                # One that is started again and again has not succeeded.
                failures = 0 if session.look() else failures
            except BackupError as error:
                failures += 1
                session.close()
                if failures == 1:
                    logger.warning("the WAL is not received: {} {}", error.message, error.hint)
                session.say_down(error.message, error.hint)
            pause = min(LOOK * 2 ** max(0, failures - 1), _LONGEST)


@dataclass
class _Session:
    """One receiver, and what is known of its WAL."""

    context: ReceiveContext
    file: StreamFile
    stack: ExitStack
    database: WalSource | None = None
    receiver: Receiver | None = None
    packer: Packer | None = None
    begun: float = 0.0
    # The newest moment of the timeline before.
    closed: datetime | None = None
    slot: WalSlot | None = None
    noted: ArchivedServer | None = None
    looks: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    _open: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.stack.callback(self.close)

    def close(self) -> None:
        """End the receiver."""
        self.receiver = None
        self._open.close()

    def look(self) -> bool:
        """Start what does not run, pack what is whole, say where things stand; whether WAL is received. BackupError."""
        database = self.context.database()
        if self.database is None or database.identity != self.database.identity:
            self.close()
        self.database = database
        wal, before = database.ask(), self.file.read_quietly()
        packer = self._packer(wal)
        self._hold(database, wal, packer.archive)
        if self.receiver and not self.receiver.running():
            self._ended(self.receiver.errors(), before)
        if self.receiver is None:
            self._require_history(wal, packer, before)
            packer.mend()
            self.receiver = self._open.enter_context(database.receive(packer.archive))
            self.begun = self.context.steady()
        elif wal.state:  # at its start it may be the session of one that has ended
            self.receiver.entered()
        elif self.context.steady() - self.begun > _GRACE:
            raise EngineError(
                f"the receiver has no session on the server that answers now: {_said(self.receiver.errors())}",
                "`doctor` says what the server lacks for it.",
            )
        level = self._level(wal, before)
        packer.pack(_PACKING, lambda end: self._moment(end) or level or UNKNOWN)
        if packer.archive.timeline() == wal.timeline:
            packer.close_timelines(wal.timeline, self.closed or UNKNOWN)
        return self._say(wal, packer, level, before)

    def _hold(self, database: WalSource, wal: ServerWal, archive: WalArchive) -> None:
        """Let the server keep what is not on our disk, where that is wanted."""
        # Segments before the one that is being received were synced when they were whole.
        slot = database.hold(lsn(wal.received) // wal.size * wal.size if wal.received else 0)
        if slot and slot.problem and (self.slot is None or self.slot.problem != slot.problem):
            logger.warning("the WAL is received without a slot: {}. {}", slot.problem, slot.hint)
        # Once the server is not the database any more, nobody looks for a slot there.
        server = ArchivedServer(service=database.service, slot=slot.name if slot else "")
        if (slot is None or not slot.problem) and server != self.noted:
            with contextlib.suppress(StoreError):  # the next look notes it
                archive.note_server(server)
                self.noted = server
        self.slot = slot

    def _packer(self, wal: ServerWal) -> Packer:
        """Of the cluster that answers now: another one has a folder of its own."""
        if self.packer is None or self.packer.archive.system_identifier != wal.system_identifier:
            self.close()
            archive = WalArchive(self.context.root, wal.system_identifier)
            archive.prepare()
            self.looks.clear()
            self.noted = None
            self.packer = Packer(archive, wal.size, recipients=self.context.recipients)
        return self.packer

    def _ended(self, said: str, before: Stream | None) -> None:
        """The receiver has ended: by a gap it begins anew at once, otherwise it is an error."""
        self.close()
        if _AHEAD in said and self.packer:
            self._set_aside(self.packer)
        if self.packer is None or not any(words in said for words in _GONE):
            raise EngineError(
                f"pg_receivewal ended: {_said(said)}. It is started again",
                "`doctor` says what the server lacks for it. The database is not touched by this.",
            )
        logger.warning("the window is broken here: {}", _said(said))
        self.packer.break_off((before.level if before else None) or self.closed or UNKNOWN)

    def _require_history(self, wal: ServerWal, packer: Packer, before: Stream | None) -> None:
        """StoreError where the server is not as far as what is here of its timeline: that is of another history then.

        A receiver begins at the start of a segment, so the server itself would often see nothing wrong.
        """
        current = lsn(wal.current)
        packed = [SegmentId.of(name, wal.size) for name in packer.packed if is_segment(name)]
        ahead = any(each.timeline == wal.timeline and each.number * wal.size >= current for each in packed)
        if ahead or (before and _alike(before, wal) and lsn(before.received) > current):
            self._set_aside(packer)

    def _set_aside(self, packer: Packer) -> NoReturn:
        # Its next segments will be called as some of those that are here, and hold something else.
        aside = packer.archive.set_aside(self.context.clock())
        self.packer = None
        self.file.write(Stream(looked=self.context.clock(), state=DOWN))
        raise StoreError(
            "the database server is at an earlier place than the WAL that was received: somebody has put back an"
            f" older state of it. What was received before lies in {aside} and is not used",
            "A new window begins now.",
        )

    def _moment(self, place: int) -> datetime | None:
        """The newest moment that is known of which all that was committed lies before this place in the WAL."""
        return max((moment for moment, current in self.looks if current <= place), default=None)

    def _level(self, wal: ServerWal, before: Stream | None) -> datetime | None:
        """The newest moment of which all that was committed is here; None while nothing is known."""
        if before and before.timeline != wal.timeline and before.system_identifier == wal.system_identifier:
            self.closed = before.level
            self.looks.clear()
        # One from after now is of a clock that was put back.
        known = before.level if before and _alike(before, wal) and before.level and before.level <= wal.now else None
        if before and known and not self.looks:
            # What came while nobody looked is of no later moment than this, until all of it is here.
            self.looks.append((known, lsn(before.received)))
        self.looks.append((wal.now, lsn(wal.current)))
        level = self._moment(lsn(wal.received)) if wal.received else None
        return max(filter(None, (level, known)), default=None)

    def _say(self, wal: ServerWal, packer: Packer, level: datetime | None, before: Stream | None) -> bool:
        """Write down where things stand, and why a base backup is wanted, if one is; whether WAL is received."""
        stream = Stream(
            looked=self.context.clock(),
            # Until it has something of the server's timeline it may lack what that begins with.
            state=STREAMING if level and wal.received and packer.archive.timeline() == wal.timeline else STARTING,
            system_identifier=wal.system_identifier,
            timeline=wal.timeline,
            size=wal.size,
            received=wal.received or (before.received if before and _alike(before, wal) else "0/0"),
            current=wal.current,
            level=level,
            slot=self.slot,
        )
        if stream.up:
            found = spans(packer.archive.list_bases(), packer.archive.received(wal.size, stream))
            if not any(each.live for each in found):
                stream = stream.model_copy(update={"wants_base": _NO_BASE})
        self.file.write(stream)
        return stream.up

    def say_down(self, message: str, hint: str) -> None:
        """Write down that nothing is received, and why. What was known of the WAL stays."""
        now = self.context.clock()
        before = self.file.read_quietly() or Stream(looked=now, state=DOWN)
        told = {"looked": now, "state": DOWN, "message": message, "hint": hint, "wants_base": ""}
        told |= {"level": min(before.level, now) if before.level else None}
        with contextlib.suppress(BackupError):  # the next look says it, or health by the age of what is there
            self.file.write(before.model_copy(update=told))


def _alike(stream: Stream, wal: ServerWal) -> bool:
    """Whether both are of one timeline of one cluster."""
    return (stream.system_identifier, stream.timeline) == (wal.system_identifier, wal.timeline)


def _said(text: str) -> str:
    """Why it ended: its last error but the one that says that it has hung up."""
    errors = [line for line in text.splitlines() if "error:" in line and not line.endswith(": disconnected")]
    return printable(errors[-1] if errors else essence(text.strip().splitlines()) or "without a word")
