"""The WAL is received for as long as this runs: a receiver beside the database, started again whenever it ends.

No slot: a receiver that is down costs a gap, which is seen and said, and never fills the disk of the database.
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
from typing import Final, Protocol

from backup.catalog.wal_archive import StreamFile, WalArchive
from backup.errors import BackupError, EngineError, StoreError
from backup.formatting import essence, printable
from backup.logging import logger
from backup.model.wal import STREAMING, Stream, lsn, spans
from backup.operations.pitr.segments import Packer
from backup.pipeline.age import Recipient
from backup.postgres.replication import ServerWal

DOWN: Final = "down"
STARTING: Final = "starting"
# Seconds between two looks, and between two attempts of what does not succeed.
LOOK: Final = 2.0
_LONGEST: Final = 60.0
# How long a look may be held up by segments that wait to be packed.
_PACKING: Final = 5.0
# A receiver that has no session by then has none.
_GRACE: Final = 30.0
# What the server says of WAL that it has recycled, and of a place that is not in the history of its timeline.
_GONE: Final = ("has already been removed", "is not in this server's history")
# What it says when it was put back to an earlier state, by other means than ours.
_AHEAD: Final = "is ahead of the WAL flush position"
# A few minutes of looks.
_LOOKS: Final = 100
_NO_BASE: Final = "there is no base backup that the WAL can be replayed on"


class RunningReceiver(Protocol):
    """pg_receivewal at work (postgres/clients.py)."""

    def running(self) -> bool:
        """Whether it has not ended."""

    def errors(self) -> str:
        """Its last words."""

    def entered(self) -> None:
        """It has a session on the server."""


@dataclass(frozen=True)
class WalSource:
    """The database at one moment. `identity` tells the runs of its container apart."""

    identity: tuple[str, str]
    ask: Callable[[], ServerWal]
    receive: Callable[[WalArchive], AbstractContextManager[RunningReceiver]]


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
    """Receive until `wait` says that it is to end. Whatever fails is said in state/wal.json and tried again."""
    file, failures = StreamFile(context.root), 0
    with ExitStack() as stack:
        session = _Session(context, file, stack)
        stack.callback(session.say_down, "the backup service has stopped", "`docker compose up -d backup` starts it.")
        pause = 0.0
        while not context.wait(pause):
            try:
                session.look()
                failures = 0
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
    receiver: RunningReceiver | None = None
    packer: Packer | None = None
    begun: float = 0.0
    looks: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    _open: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.stack.callback(self.close)

    def close(self) -> None:
        """End the receiver."""
        self.receiver = None
        self._open.close()

    def look(self) -> None:
        """Start what does not run, pack what is whole, say where things stand. BackupError: nothing is received."""
        database = self.context.database()
        if self.database is None or database.identity != self.database.identity:
            self.close()
        self.database = database
        wal = database.ask()
        packer = self._packer(wal)
        if self.receiver and not self.receiver.running():
            self._ended(self.receiver.errors())
        if self.receiver is None:
            self.receiver = self._open.enter_context(database.receive(packer.archive))
            self.begun = self.context.steady()
            self.looks.clear()
        if wal.state:
            self.receiver.entered()
        elif self.context.steady() - self.begun > _GRACE:
            raise EngineError(
                f"the receiver has had no session on the server for {_GRACE:.0f} s: {_said(self.receiver.errors())}",
                "`doctor` says what the server lacks for it.",
            )
        packer.pack(_PACKING)
        self._say(wal, packer)

    def _packer(self, wal: ServerWal) -> Packer:
        """Of the cluster that answers now: another one has a folder of its own."""
        if self.packer is None or self.packer.archive.system_identifier != wal.system_identifier:
            self.close()
            archive = WalArchive(self.context.root, wal.system_identifier)
            archive.prepare()
            self.packer = Packer(archive, wal.size, recipients=self.context.recipients)
        return self.packer

    def _ended(self, said: str) -> None:
        """The receiver has ended: by a gap it begins anew at once, otherwise it is an error."""
        self.close()
        if _AHEAD in said and self.packer:
            # Its next segments will be called as some of those that are here, and hold something else.
            aside = self.packer.archive.set_aside(self.context.clock())
            self.packer = None
            raise StoreError(
                "the database server is at an earlier place than the WAL that was received: somebody has put back an"
                f" older state of it. What was received before lies in {aside} and is not used",
                "A new window begins now.",
            )
        if self.packer is None or not any(words in said for words in _GONE):
            raise EngineError(
                f"pg_receivewal ended: {_said(said)}. It is started again",
                "`doctor` says what the server lacks for it. The database is not touched by this.",
            )
        logger.warning("the window is broken here: {}", _said(said))
        self.packer.break_off()

    def _say(self, wal: ServerWal, packer: Packer) -> None:
        """Write down where things stand, and why a base backup is wanted, if one is."""
        before = self._before()
        self.looks.append((wal.now, lsn(wal.current)))
        received = lsn(wal.received) if wal.received else 0
        level = max((moment for moment, place in self.looks if received and place <= received), default=None)
        alike = before and (before.system_identifier, before.timeline) == (wal.system_identifier, wal.timeline)
        stream = Stream(
            looked=self.context.clock(),
            # Until it has something of the server's timeline it may lack what that begins with.
            state=STREAMING if level and packer.archive.timeline() == wal.timeline else STARTING,
            system_identifier=wal.system_identifier,
            timeline=wal.timeline,
            size=wal.size,
            received=wal.received or (before.received if before and alike else "0/0"),
            current=wal.current,
            level=level or (before.level if before and alike else None),
        )
        if stream.state == STREAMING:
            found = spans(packer.archive.list_bases(), packer.archive.received(wal.size, stream))
            if not any(each.live for each in found):
                stream = stream.model_copy(update={"wants_base": _NO_BASE})
        self.file.write(stream)

    def say_down(self, message: str, hint: str) -> None:
        """Write down that nothing is received, and why. What was known of the WAL stays."""
        before = self._before() or Stream(looked=self.context.clock(), state=DOWN)
        told = {"looked": self.context.clock(), "state": DOWN, "message": message, "hint": hint, "wants_base": ""}
        with contextlib.suppress(BackupError):  # the next look says it, or health by the age of what is there
            self.file.write(before.model_copy(update=told))

    def _before(self) -> Stream | None:
        try:
            return self.file.read()
        except StoreError:
            return None


def _said(text: str) -> str:
    return printable(essence(text.strip().splitlines()) or "without a word")
