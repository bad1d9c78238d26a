"""How the alerts themselves are, for health and for every surface. An alert that nobody gets must show elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup.config.loader import Settings
from backup.errors import BackupError
from backup.formatting import age, plural
from backup.model.finding import Finding, warning
from backup.monitoring.alerts import outbox
from backup.monitoring.alerts.destinations import targets
from backup.monitoring.alerts.model import HEARTBEAT, Attempts, Memory, Message
from backup.monitoring.health import Health
from backup.monitoring.overview import Alerting

# The service tries a new message within a minute; one that waits longer untried has nobody who delivers it.
_UNTRIED: Final = timedelta(minutes=10)
_TOLD: Final = timedelta(days=7)
_HINT: Final = "`notify --test` tries every target now and says what each answers; `notify --pending` lists what waits."


def reasons(root: Path, now: datetime) -> list[Finding]:
    """What health must say about undelivered alerts; warnings only, since no backup is the worse for it."""
    try:
        memory = outbox.recall(root)
    except BackupError as error:
        return [warning(error.message, error.hint)]
    return [*_refused(memory.messages), *_untried(memory.messages, now), *_lost(memory, now)]


def summary(root: Path, settings: Settings) -> Alerting:
    """The alerts in one value, for the page, metrics and programs."""
    names, memory, problem = tuple(target.name for target in targets(settings)), Memory(), ""
    try:
        memory = outbox.recall(root)
    except BackupError as error:
        problem = error.message
    alerts = [each for each in memory.messages if each.kind != HEARTBEAT]
    return Alerting(
        targets=names,
        undelivered=len(alerts),
        last_delivered=max((at for name, at in memory.delivered.items() if name != HEARTBEAT), default=None),
        last_error=next((tries.error for each in alerts for tries in refused(each).values()), problem),
        heartbeat=settings.heartbeat_url is not None,
        last_heartbeat=memory.delivered.get(HEARTBEAT),
    )


def refused(message: Message) -> dict[str, Attempts]:
    """The targets that have not taken it so far, and how they were tried."""
    return {name: tries for name, tries in message.tries.items() if name not in message.delivered}


def through_others(health: Health, memory: Memory, names: Sequence[str]) -> Health:
    """Health with what is wrong with some targets, or was, as long as there is another one to hear of it."""
    if {name for each in memory.messages for name in refused(each)} >= set(names):
        return health
    own = (*_refused(memory.messages), *_lost(memory, health.now))
    status = "warn" if own and health.status == "pass" else health.status
    return replace(health, reasons=(*health.reasons, *own), status=status)


def _refused(messages: Sequence[Message]) -> Iterator[Finding]:
    """A sentence for each target. Its class stays the same whatever waits, so that it is told once."""
    for name in sorted({name for each in messages for name in refused(each)}):
        waiting = [each for each in messages if name in refused(each)]
        what = "the heartbeat does not reach its receiver" if name == HEARTBEAT else f"alerts do not reach {name}"
        text = f"{what} since {waiting[0].created:%Y-%m-%d %H:%M:%S %Z}, {len(waiting)} undelivered"
        yield warning(f"{text}: {waiting[0].tries[name].error}", _HINT)


def _untried(messages: Iterable[Message], now: datetime) -> Iterator[Finding]:
    idle = [each for each in messages if not each.tries and not each.delivered and now - each.created > _UNTRIED]
    if idle:
        text = f"{plural(len(idle), 'alert')} waited for {age(now - idle[0].created)} and nobody has tried to deliver"
        yield warning(text, "`docker compose up -d backup` starts the service, which delivers them.")


def _lost(memory: Memory, now: datetime) -> Iterator[Finding]:
    if memory.lost_at and abs(now - memory.lost_at) < _TOLD:
        text = f"{plural(memory.lost, 'alert')} could never be delivered, the last one given up"
        yield warning(f"{text} at {memory.lost_at:%Y-%m-%d %H:%M:%S %Z}", _HINT)
