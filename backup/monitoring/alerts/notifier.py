"""What the service does about alerts, every half minute: look, decide, put into the outbox, deliver.

Nothing here may hurt a backup: it runs in a thread that nobody waits for, and what talks to the world is a process
that is killed when its time is over (`delivery.py`). Only the notifier takes messages out of the outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.finding import failure
from backup.model.run import Run
from backup.monitoring.alerts import outbox, undelivered
from backup.monitoring.alerts.model import HEARTBEAT, Attempts, Delivery, Memory, Message, Notice, Policy, Receipt
from backup.monitoring.alerts.rules import decide, heartbeat_run
from backup.monitoring.health import Health
from backup.storage.filesystem import in_memory

_FIRST_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1)
# About a week of the service's own time, whatever the clock does and however long nobody ran it.
TRIES: Final = 170
_CRITICAL: Final = ("failure", "recovery")


@dataclass(frozen=True)
class Snapshot:
    """How things are: health without the alerts' own state, runs newest first, the sets."""

    health: Health
    runs: Sequence[Run]
    sets: Sequence[StoredSet]


@dataclass
class Notifier:
    """The alerts of one service. `round` is called by one thread at a time.

    `targets` are the names that messages go to; `look` may hang, `deliver` take a minute, `stop` ends a delivery.
    """

    root: Path
    policy: Callable[[], Policy]
    targets: Sequence[str]
    heartbeat: bool
    max_age: timedelta
    look: Callable[[], Snapshot]
    deliver: Callable[[Sequence[Delivery]], Sequence[Receipt]]
    stop: Callable[[], None]
    clock: Callable[[], datetime]

    def __post_init__(self) -> None:
        self._memory: Memory | None = None
        self._saved: Memory | None = None
        self._taken: set[str] = set()
        self._problem = ""

    def round(self) -> None:
        """Look, decide, deliver. Errors are logged, never raised: the next round comes anyway."""
        try:
            problem = self._round()
        except Exception as error:  # noqa: BLE001 - a bug here must not end the thread without a word
            problem = _why(error)
        if problem and problem != self._problem:
            logger.error("alerts: {}; the next look is in half a minute", problem)
        self._problem = problem

    def _round(self) -> str:
        """Why nothing could be seen, if so."""
        now, problem = self.clock(), ""
        memory = outbox.collected(self.root, self._recall(), self._taken)
        self._taken |= {each.id for each in memory.messages}
        if self.targets or self.heartbeat:
            try:
                seen = self.look()
            except Exception as error:  # noqa: BLE001 - that it cannot be told is critical, as it is for who asks
                problem = f"how the backups are cannot be told: {_why(error)}"
                hint = "`docker compose logs backup` has the details."
                seen = Snapshot(Health("fail", (failure(problem, hint),), now), [], [])
            memory = self._decide(memory, seen, now)
        memory = self._tidy(memory, now)
        self._remember(memory)
        if deliveries := self._due(memory, now):
            self._remember(self._settle(memory, self.deliver(deliveries), self.clock()))
        return problem

    def _recall(self) -> Memory:
        if self._memory is None:
            try:
                self._memory = outbox.recall(self.root)
            except BackupError as error:
                # A volume that cannot be read is what must be told.
                logger.warning("{}: what was told before may be told again", error.message)
                self._memory = Memory()
        return self._memory

    def _remember(self, memory: Memory) -> None:
        """Keep it in memory if the disk does not take it: a full disk is what an alert is most needed for."""
        self._memory = memory
        try:
            if memory != self._saved:
                outbox.remember(self.root, memory)
                self._saved = memory
            outbox.clear(self.root, self._taken)
            self._taken.clear()
        except BackupError as error:
            logger.debug("the alerts are kept in memory only: {}", error.message)

    def _decide(self, memory: Memory, seen: Snapshot, now: datetime) -> Memory:
        state, new = memory.state, list[Message]()
        if self.targets:
            health = undelivered.through_others(seen.health, memory, self.targets)
            # Ten messages that nobody has say enough for now: the next one sums up.
            stuck = sum(not each.delivered for each in memory.messages) >= outbox.MOST // 2
            state, notice = decide(state, health, seen.runs, now, self.policy(), stuck=stuck)
            if notice:
                logger.info("alert: {}", notice.title)
                new.append(outbox.message(notice, now))
        # What lies in memory is no backup, however well the run ended.
        run = heartbeat_run(seen.sets, seen.runs, now, self.max_age)
        if self.heartbeat and run not in ("", state.ping) and not in_memory(self.root):
            state = state.model_copy(update={"ping": run})
            notice = Notice(kind="heartbeat", title=f"run {run} made a verified set", body="")
            new.append(outbox.message(notice, now, HEARTBEAT))
        kept = (each for each in memory.messages if each.id not in {other.id for other in new})
        return memory.model_copy(update={"state": state, "messages": (*kept, *new)})

    def _tidy(self, memory: Memory, now: datetime) -> Memory:
        """Leave out what every target has, what was tried for a week, and the least of what is too much."""
        waiting = [each for each in memory.messages if self._missing(each)]
        # A heartbeat that is late would be a lie.
        beats = [each for each in waiting if each.kind == HEARTBEAT and now - each.created <= self.max_age]
        alerts = [each for each in waiting if each.kind != HEARTBEAT]
        # The oldest stays, which says how it began; others go before what is critical.
        least = sorted(alerts[1:], key=lambda each: each.kind in _CRITICAL)[: max(0, len(alerts) - outbox.MOST)]
        kept = [each for each in alerts if each not in least and not self._is_tried(each)]
        for each in alerts:
            if each not in kept:
                logger.error("an alert was not delivered and is given up: {}", each.title)
        messages, lost = (*kept, *beats), len(alerts) - len(kept)
        update = {"lost": memory.lost + lost, "lost_at": now} if lost else {}
        return memory.model_copy(update={"messages": messages, **update})

    def _is_tried(self, message: Message) -> bool:
        """Whether all who miss it have refused it for a week."""
        return all(name in message.tries and message.tries[name].count >= TRIES for name in self._missing(message))

    def _missing(self, message: Message) -> list[str]:
        """The targets that a message is for and that do not have it."""
        names = self.targets if message.kind != HEARTBEAT else [HEARTBEAT] if self.heartbeat else []
        return [name for name in names if name not in message.delivered]

    def _due(self, memory: Memory, now: datetime) -> list[Delivery]:
        """One message for each target: the oldest that is due. One that is refused for good seldom is."""
        chosen: dict[str, Message] = {}
        for each in memory.messages:
            for name in self._missing(each):
                tries = each.tries.get(name)
                # A clock that was ahead must not put it off.
                if tries is None or not timedelta(0) < tries.next - now <= _LONGEST_PAUSE:
                    chosen.setdefault(name, each)
        return [
            Delivery(target=name, id=each.id, kind=each.kind, title=each.title, body=each.body)
            for name, each in chosen.items()
        ]

    def _settle(self, memory: Memory, receipts: Sequence[Receipt], now: datetime) -> Memory:
        """Note what came of it."""
        messages = {each.id: each for each in memory.messages}
        for receipt in receipts:
            messages[receipt.id] = _tried(messages[receipt.id], receipt, now)
        delivered = {**memory.delivered, **{each.target: now for each in receipts if not each.error}}
        return self._tidy(memory.model_copy(update={"messages": tuple(messages.values()), "delivered": delivered}), now)


def _why(error: Exception) -> str:
    return error.message if isinstance(error, BackupError) else f"{type(error).__name__}: {error} (a bug)"


def _tried(message: Message, receipt: Receipt, now: datetime) -> Message:
    before = message.tries.get(receipt.target)
    if not receipt.error:
        if before:
            logger.info("{} has taken the alert of {:%Y-%m-%d %H:%M:%S %Z}", receipt.target, message.created)
        return message.model_copy(update={"delivered": (*message.delivered, receipt.target)})
    if not before:
        logger.warning("{} did not take an alert, which is kept and tried again: {}", receipt.target, receipt.error)
    count = before.count if before else 0
    pause = min(_FIRST_PAUSE * 2 ** min(count, 20), _LONGEST_PAUSE)
    tried = Attempts(count=count + 1, next=now + pause, error=before.error if before else receipt.error)
    return message.model_copy(update={"tries": {**message.tries, receipt.target: tried}})
