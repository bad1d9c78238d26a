"""What is said of the backup volume, the clock, the schedule, restores and alerts. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.docker.container import Container
from backup.formatting import age, duration, plural, printable, size
from backup.model.backup_set import SKEW, StoredSet
from backup.model.schedule import Slot
from backup.monitoring.alerts.model import HEARTBEAT, Receipt
from backup.monitoring.alerts.targets import WHAT_TO_SET
from backup.monitoring.health.model import Limits, Reason, newest
from backup.monitoring.health.volume import room
from backup.operations.doctor.model import Found, Line
from backup.storage.errors import ON_A_DISK

# What a dump and its file names may differ by without confusing anybody.
_CLOCKS: Final = timedelta(seconds=30)


def space(free: int, total: int, needed: int | None, min_free: float) -> Iterator[Line]:
    """Free space against the next set and the limit, in bytes; `needed` is None where it cannot be predicted."""
    say = Found("space")
    limits = Limits(min_free=min_free, next_set=needed)
    found = [say.reason(reason) for reason in room(free, limits)]
    expects = f"the next set will take about {size(needed)}" if needed else "what the next set takes cannot be told"
    yield from found or [say.ok(f"{size(free)} of {size(total)} are free; {expects}")]


def cautions(sets: Iterable[StoredSet], live: Collection[str]) -> Iterator[Line]:
    """What was said when the newest set was made, good or not, unless the live database says it, too."""
    last = newest(s for s in sets if s.summary and s.summary.database and not s.safety)
    part = last.manifest.database if last and last.manifest else None
    if last is None or part is None:
        return
    yield from (Found("backups").warning(f"{last.id}: {each}") for each in part.cautions if each not in live)


def clock(zone: ZoneInfo, now: datetime, ahead: timedelta | None, newest: datetime | None) -> Iterator[Line]:
    """Zone and clock. `ahead` is the server's clock against ours, `newest` the latest moment that is recorded."""
    say = Found("clock")
    yield say.ok(f"it is {now.astimezone(zone):%Y-%m-%d %H:%M:%S} in {zone.key} (TZ)")
    if newest is not None and newest > now + SKEW:
        yield say.failed(
            f"the clock jumped: a run or a set is recorded at {newest:%Y-%m-%d %H:%M:%S %Z}, {age(now - newest)}",
            "Correct the clock of this machine: `date` shows it.",
        )
    if ahead is None:
        yield say.warning("not compared with the database server's clock: the database does not answer")
    elif abs(ahead) > _CLOCKS:
        way = "ahead of" if ahead > timedelta() else "behind"
        yield say.warning(
            f"the database server's clock is {duration(abs(ahead).total_seconds())} {way} this one",
            "Correct the clock of the machine that is wrong.",
        )
    else:
        yield say.ok("the database server's clock agrees")


def schedule(slots: Sequence[Slot], zone: ZoneInfo, reasons: Sequence[Reason]) -> Iterator[Line]:
    """The next run of each job, and what is owed."""
    say = Found("schedule")
    coming = [(slot.times[0], slot.job) for slot in slots if slot.times]
    shown = ", ".join(f"{job} {moment.astimezone(zone):%a %Y-%m-%d %H:%M}" for moment, job in sorted(coming))
    if not any(job in ("daily", "weekly", "monthly") for _, job in coming):
        yield say.failed("no backup is scheduled", "Set BACKUP_DAILY, such as `0 2 * * *`.")
    else:
        yield say.ok(f"the scheduler takes it; next: {shown}")
    yield from (say.reason(reason) for reason in reasons)


def running(container: Container | None, here: Sequence[Container]) -> Iterator[Line]:
    """Whether the service is up: `here` are the project's containers of our image, `container` is our own."""
    say = Found("service")
    if container is None:
        return
    up = [each for each in here if each.running]
    if up:
        yield say.ok(f"{printable(up[0].name)} is running")
    else:
        yield say.warning("the backup service is not running: nothing is scheduled", "docker compose up -d backup")


def restore(stopped: Sequence[Container], commands: Sequence[tuple[str, str]], up: Collection[str]) -> Iterator[Line]:
    """Who would be stopped by a restore, and whether its last commands have a place; `up` are running services."""
    say = Found("restore")
    names = ", ".join(sorted({printable(each.service or each.name) for each in stopped}))
    yield say.ok(f"a restore would stop {names} while it swaps" if names else "a restore would stop nobody: none runs")
    for service, command in commands:
        where = f"`{printable(command)}` after a restore"
        if service in up:
            yield say.ok(f"{where} runs in {printable(service)}")
        else:
            yield say.failed(
                f"{where} has no place: no container of {printable(service)} is running",
                "Correct BACKUP_POST_RESTORE, or start the service.",
            )


def no_stop(*, on_purpose: bool) -> Line:
    """There is no engine to stop containers with."""
    say = Found("restore")
    text = "a restore cannot stop the application here: there is no engine, or no Compose project"
    hint = "Stop whatever writes to the media by hand before a restore, and start it afterwards."
    return say.ok(f"{text}. {hint}") if on_purpose else say.warning(text, hint)


def alerts(names: Sequence[str], waiting: Sequence[Reason], heartbeat: bool) -> Iterator[Line]:
    """Who is told when a backup fails, and whether that works of late."""
    say = Found("alerts")
    if not names:
        yield say.warning("nobody is told when a backup fails", WHAT_TO_SET)
    else:
        yield say.ok(f"{plural(len(names), 'target')}: {', '.join(map(printable, names))}; --notify tries them")
    if heartbeat:
        yield say.ok(f"a {HEARTBEAT} is sent after each verified backup")
    yield from (say.reason(reason) for reason in waiting)


def tried(receipts: Sequence[Receipt]) -> Iterator[Line]:
    """What came of the test messages."""
    say = Found("alerts")
    for each in receipts:
        if each.error:
            text = f"{each.target} did not take the test message: {each.error}"
            yield say.failed(text, "Correct the setting, or the service that it names; `notify --test` tries again.")
        else:
            yield say.ok(f"{each.target} took the test message in {each.seconds:.1f} s")


def volume(sets: int, good: int, marker: str, memory: str, root: str) -> Iterator[Line]:
    """The backup volume, which can be written; `memory` says that nothing lasts there, and is empty on a disk."""
    say = Found("backups")
    yield say.ok(f"{root} is mounted and can be written; it is {marker} and holds {plural(sets, 'set')}, {good} good")
    if memory:
        yield say.failed(memory, ON_A_DISK)
