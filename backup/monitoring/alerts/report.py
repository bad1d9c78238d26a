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
from backup.monitoring.alerts.model import HEARTBEAT, Delivery, Memory, Message
from backup.monitoring.alerts.targets import targets
from backup.monitoring.health import Health
from backup.monitoring.overview import Alerting

# The service tries a new message within a minute; one that waits longer untried has nobody who delivers it.
_UNTRIED: Final = timedelta(minutes=10)
_TOLD: Final = timedelta(days=7)
_HINT: Final = "`notify --test` tries every target now and says what each answers; `notify --pending` lists what waits."


def reasons(root: Path, now: datetime) -> list[Finding]:
    """What health must say about undelivered alerts; warnings only, since no backup is the worse for it."""
    try:
        memory, messages = outbox.recall(root), outbox.Outbox(root).messages()
    except BackupError as error:
        return [warning(f"the state of the alerts cannot be read: {error.message}", error.hint)]
    if memory is None:
        return [warning("state/alerts.json is damaged; the service writes it anew", "Is the disk failing?")]
    return [*_targets(memory, messages, now), *_untried(messages, now), *_lost(memory, now)]


def summary(root: Path, settings: Settings) -> Alerting:
    """The alerts in one value, for the page, metrics and programs."""
    try:
        memory, messages = outbox.recall(root) or Memory(), outbox.Outbox(root).messages()
    except BackupError as error:
        return Alerting(targets=tuple(t.name for t in targets(settings)), last_error=error.message)
    told = [each for name, each in memory.deliveries.items() if name != HEARTBEAT]
    failing = sorted((each.since, each.error) for each in told if each.failures and each.since)
    return Alerting(
        targets=tuple(target.name for target in targets(settings)),
        undelivered=sum(each.kind != "heartbeat" for each in messages),
        last_delivered=max((each.delivered for each in told if each.delivered), default=None),
        last_error=failing[0][1] if failing else "",
        heartbeat=settings.heartbeat_url is not None,
        last_heartbeat=memory.deliveries.get(HEARTBEAT, Delivery()).delivered,
    )


def through_others(health: Health, memory: Memory, messages: Sequence[Message], names: Sequence[str]) -> Health:
    """Health with what is wrong with some targets, or was, as long as there is another one to hear of it."""
    failing = {name for name, each in memory.deliveries.items() if each.failures}
    if failing >= set(names):
        return health
    refused = {name for each in messages for name in each.tries if name not in each.delivered}
    since = (
        warning(f"alerts do not reach {name} since {each.since:%Y-%m-%d %H:%M:%S %Z}: {each.error}", _HINT)
        for name, each in sorted(memory.deliveries.items())
        if each.since and name in refused
    )
    own = (*since, *_lost(memory, health.now))
    status = "warn" if own and health.status == "pass" else health.status
    return replace(health, reasons=(*health.reasons, *own), status=status)


def _targets(memory: Memory, messages: Sequence[Message], now: datetime) -> Iterator[Finding]:
    for name in sorted({name for each in messages for name in each.tries}):
        waiting = outbox.waiting(messages, name)
        if not waiting:
            continue
        delivery = memory.deliveries.get(name, Delivery())
        tries = [each.tries[name] for each in waiting]
        since = delivery.since or min(each.created for each in waiting)
        what = "the heartbeat" if name == HEARTBEAT else plural(len(waiting), "alert")
        where = "its receiver" if name == HEARTBEAT else name
        again = max(min(each.next for each in tries) - now, timedelta(0))
        text = (
            f"{what} could not be delivered to {where} since {since:%Y-%m-%d %H:%M:%S %Z}:"
            f" {delivery.error or tries[0].error}; next try in {age(again) if again else 'a moment'}"
        )
        yield warning(text, _HINT)


def _untried(messages: Iterable[Message], now: datetime) -> Iterator[Finding]:
    idle = [each for each in messages if not each.tries and not each.delivered and now - each.created > _UNTRIED]
    if idle:
        text = f"{plural(len(idle), 'alert')} waited for {age(now - idle[0].created)} and nobody has tried to deliver"
        yield warning(text, "`docker compose up -d backup` starts the service, which delivers them.")


def _lost(memory: Memory, now: datetime) -> Iterator[Finding]:
    if memory.lost_at and abs(now - memory.lost_at) < _TOLD:
        text = f"{plural(memory.lost, 'alert')} could never be delivered, the last one given up"
        yield warning(f"{text} at {memory.lost_at:%Y-%m-%d %H:%M:%S %Z}", _HINT)
