"""What the service does about alerts, every half minute: look, decide, put into the outbox, deliver.

Nothing here may hurt a backup: the desk runs in a thread that nobody waits for, and what talks to the world is a
process that is killed when its time is over (`alerts/delivery.py`). Only the desk takes messages out of the outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.finding import failure
from backup.model.run import Run
from backup.monitoring.alerts import outbox, report
from backup.monitoring.alerts.model import (
    HEARTBEAT,
    Attempt,
    Delivery,
    Letter,
    Memory,
    Message,
    Notice,
    Policy,
    Receipt,
)
from backup.monitoring.alerts.rules import due, ping
from backup.monitoring.health import Health
from backup.storage.errors import in_memory

# Given up after this time: who has not heard for a week has been told by other means, or never will be.
KEEP: Final = timedelta(days=7)
_PAUSES: Final = (timedelta(seconds=30), timedelta(hours=1))
# Letters for one target in one go, and for one that has just refused some.
_AT_ONCE: Final = 5
_CRITICAL: Final = ("failure", "recovery")


@dataclass(frozen=True)
class View:
    """What the desk sees: health without the alerts' own state, runs newest first, the sets."""

    health: Health
    runs: Sequence[Run]
    sets: Sequence[StoredSet]


@dataclass(frozen=True)
class Surroundings:
    """What the desk works with. `targets` are the names that messages go to; `post` may take a minute, `look` hang."""

    root: Path
    policy: Callable[[], Policy]
    targets: Sequence[str]
    heartbeat: bool
    max_age: timedelta
    look: Callable[[], View]
    post: Callable[[Sequence[Letter]], Sequence[Receipt]]
    stop: Callable[[], None]
    clock: Callable[[], datetime]


class Desk:
    """The alerts of one service. `round` is called by one thread at a time."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._outbox = outbox.Outbox(around.root)
        self._memory: Memory | None = None
        self._saved: Memory | None = None
        self._problem = self._unseen = ""

    def round(self) -> None:
        """Look, decide, deliver. Errors are logged, never raised: the next round comes anyway."""
        self._unseen = ""
        try:
            self._round()
            problem = self._unseen
        except Exception as error:  # noqa: BLE001 - a bug here must not end the thread without a word
            problem = _why(error)
        if problem and problem != self._problem:
            logger.error("alerts: {}; the next look is in half a minute", problem)
        self._problem = problem

    def stop(self) -> None:
        """End a delivery that is under way; any thread may ask."""
        self._around.stop()

    def _round(self) -> None:
        now = self._around.clock()
        memory = self._recall()
        if self._around.targets or self._around.heartbeat:
            memory = self._decide(memory, self._look(now), now)
        memory = self._tidy(memory, now)
        self._remember(memory)
        letters = self._letters(memory, now)
        if letters:
            receipts = self._around.post(letters)
            self._remember(self._settle(memory, receipts, self._around.clock()))

    def _look(self, now: datetime) -> View:
        """What is there. That it cannot be told is critical, as it is for whoever asks the service."""
        try:
            return self._around.look()
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody must hear of it
            self._unseen = f"how the backups are cannot be told: {_why(error)}"
        hint = "`docker compose logs backup` has the details."
        return View(Health("fail", (failure(self._unseen, hint),), now), [], [])

    def _recall(self) -> Memory:
        if self._memory is None:
            self._outbox.sweep()
            try:
                self._saved = outbox.recall(self._around.root)
            except BackupError as error:
                # A volume that cannot be read is what must be told.
                logger.warning("what was told before cannot be read and may be told again: {}", error.message)
            else:
                if self._saved is None:
                    logger.warning("state/alerts.json was damaged: what was told before may be told again")
            self._memory = self._saved or Memory()
        return self._memory

    def _remember(self, memory: Memory) -> None:
        self._memory = memory
        if memory != self._saved and outbox.remember(self._around.root, memory):
            self._saved = memory

    def _decide(self, memory: Memory, view: View, now: datetime) -> Memory:
        around, state = self._around, memory.state
        if around.targets:
            health = report.through_others(view.health, memory, self._outbox.messages(), around.targets)
            state, notices = due(state, health, view.runs, now, around.policy())
            for notice in notices:
                logger.info("alert: {}", notice.title)
                memory = self._put(memory, outbox.message(notice, now), now)
        # What lies in memory is no backup, however well the run ended.
        if around.heartbeat and not in_memory(around.root):
            state, run = ping(state, view.sets, view.runs, now, around.max_age)
            if run:
                beat = outbox.message(Notice("heartbeat", f"run {run} made a verified set", ""), now)
                self._outbox.put(beat.model_copy(update={"id": HEARTBEAT}))
        return memory.model_copy(update={"state": state})

    def _put(self, memory: Memory, message: Message, now: datetime) -> Memory:
        """Add a message. Of too many, the oldest stays, which says how it began; others go before what is critical."""
        waiting = [each for each in self._outbox.messages() if each.kind != "heartbeat"]
        least_first = sorted(waiting[1:], key=lambda each: each.kind in _CRITICAL)
        for each in least_first[: max(0, len(waiting) - outbox.MOST + 1)]:
            memory = self._give_up(memory, each, now, "too many wait")
        self._outbox.put(message)
        return memory

    def _tidy(self, memory: Memory, now: datetime) -> Memory:
        """Remove what has been delivered everywhere, and what is too old."""
        for each in self._outbox.messages():
            keep = self._around.max_age if each.kind == "heartbeat" else KEEP
            if all(name in each.delivered for name in self._wanted(each)):
                self._outbox.remove(each.id)
            elif now - each.created > keep:
                memory = self._give_up(memory, each, now, f"older than {keep.total_seconds() / 3600:.0f} h")
        return memory

    def _give_up(self, memory: Memory, message: Message, now: datetime, why: str) -> Memory:
        logger.error("an alert was not delivered and is given up ({}): {}", why, message.title)
        self._outbox.remove(message.id)
        if message.kind == "heartbeat":
            return memory
        return memory.model_copy(update={"lost": memory.lost + 1, "lost_at": now})

    def _wanted(self, message: Message) -> Iterable[str]:
        """The targets that a message is for."""
        if message.kind == "heartbeat":
            return [HEARTBEAT] if self._around.heartbeat else []
        return self._around.targets

    def _letters(self, memory: Memory, now: datetime) -> list[Letter]:
        """What to try now: at each target those tried least, then the oldest, so that none blocks the rest."""
        chosen: dict[str, list[Message]] = {}
        for each in self._outbox.messages():
            for target in self._wanted(each):
                if target not in each.delivered and _ripe(each.tries.get(target), now):
                    chosen.setdefault(target, []).append(each)
        letters = []
        for target, messages in chosen.items():
            failing = memory.deliveries.get(target, Delivery()).failures > 0
            messages.sort(key=lambda each: (each.tries[target].count if target in each.tries else 0, each.created))
            for each in messages[: 1 if failing else _AT_ONCE]:
                letters.append(Letter(target=target, id=each.id, kind=each.kind, title=each.title, body=each.body))
        return letters

    def _settle(self, memory: Memory, receipts: Iterable[Receipt], now: datetime) -> Memory:
        """Note what came of it."""
        messages = {each.id: each for each in self._outbox.messages()}
        deliveries = dict(memory.deliveries)
        for receipt in receipts:
            deliveries[receipt.target] = _delivery(deliveries.get(receipt.target, Delivery()), receipt, now)
            if each := messages.get(receipt.id):
                messages[each.id] = changed = _tried(each, receipt, now)
                self._outbox.put(changed)
        return self._tidy(memory.model_copy(update={"deliveries": deliveries}), now)


def _why(error: Exception) -> str:
    return error.message if isinstance(error, BackupError) else f"{type(error).__name__}: {error} (a bug)"


def _ripe(attempt: Attempt | None, now: datetime) -> bool:
    """Never tried, due, or put off by a clock that was ahead."""
    return attempt is None or now >= attempt.next or attempt.next - now > _PAUSES[1]


def _delivery(delivery: Delivery, receipt: Receipt, now: datetime) -> Delivery:
    if not receipt.error:
        if delivery.failures:
            logger.info("alerts reach {} again", receipt.target)
        return Delivery(delivered=now)
    if not delivery.failures:
        logger.warning("{} did not take an alert, which is kept and tried again: {}", receipt.target, receipt.error)
    return Delivery(
        failures=delivery.failures + 1,
        since=delivery.since or now,
        error=delivery.error or receipt.error,
        last_error=receipt.error,
        delivered=delivery.delivered,
    )


def _tried(message: Message, receipt: Receipt, now: datetime) -> Message:
    if not receipt.error:
        return message.model_copy(update={"delivered": (*message.delivered, receipt.target)})
    before = message.tries.get(receipt.target)
    count = before.count + 1 if before else 1
    pause = min(_PAUSES[0] * 2 ** min(count, 20), _PAUSES[1])
    attempt = Attempt(count=count, next=now + pause, error=before.error if before else receipt.error)
    return message.model_copy(update={"tries": {**message.tries, receipt.target: attempt}})
