"""What is said of the backup volume, the clock, the schedule, restores and alerts. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.docker.container import Container
from backup.formatting import age, duration, plural, printable, size
from backup.model.backup_set import SKEW, StoredSet
from backup.model.finding import Finding, failure, ok, warning
from backup.model.schedule import Slot
from backup.monitoring.alerts.model import HEARTBEAT, Receipt
from backup.monitoring.alerts.targets import WHAT_TO_SET
from backup.monitoring.health.model import Limits, newest
from backup.monitoring.health.volume import room
from backup.storage.errors import ON_A_DISK

# What a dump and its file names may differ by without confusing anybody.
_CLOCKS: Final = timedelta(seconds=30)


def space(free: int, total: int, needed: int | None, min_free: float) -> Iterator[Finding]:
    """Free space against the next set and the limit, in bytes; `needed` is None where it cannot be predicted."""
    limits = Limits(min_free=min_free, next_set=needed)
    found = list(room(free, limits))
    expects = f"the next set will take about {size(needed)}" if needed else "what the next set takes cannot be told"
    yield from found or [ok(f"{size(free)} of {size(total)} are free; {expects}")]


def cautions(sets: Iterable[StoredSet], live: Collection[str]) -> Iterator[Finding]:
    """What was said when the newest set was made, good or not, unless the live database says it, too."""
    last = newest(s for s in sets if s.summary and s.summary.database and not s.safety)
    part = last.manifest.database if last and last.manifest else None
    if last is None or part is None:
        return
    yield from (warning(f"{last.id}: {each}") for each in part.cautions if each not in live)


def clock(zone: ZoneInfo, now: datetime, ahead: timedelta | None, newest: datetime | None) -> Iterator[Finding]:
    """Zone and clock. `ahead` is the server's clock against ours, `newest` the latest moment that is recorded."""
    yield ok(f"it is {now.astimezone(zone):%Y-%m-%d %H:%M:%S} in {zone.key} (TZ)")
    if newest is not None and newest > now + SKEW:
        yield failure(
            f"the clock jumped: a run or a set is recorded at {newest:%Y-%m-%d %H:%M:%S %Z}, {age(now - newest)}",
            "Correct the clock of this machine: `date` shows it.",
        )
    if ahead is None:
        yield warning("not compared with the database server's clock: the database does not answer")
    elif abs(ahead) > _CLOCKS:
        way = "ahead of" if ahead > timedelta() else "behind"
        yield warning(
            f"the database server's clock is {duration(abs(ahead).total_seconds())} {way} this one",
            "Correct the clock of the machine that is wrong.",
        )
    else:
        yield ok("the database server's clock agrees")


def schedule(slots: Sequence[Slot], zone: ZoneInfo, reasons: Sequence[Finding]) -> Iterator[Finding]:
    """The next run of each job, and what is owed."""
    coming = [(slot.times[0], slot.job) for slot in slots if slot.times]
    shown = ", ".join(f"{job} {moment.astimezone(zone):%a %Y-%m-%d %H:%M}" for moment, job in sorted(coming))
    if not any(job in ("daily", "weekly", "monthly") for _, job in coming):
        yield failure("no backup is scheduled", "Set BACKUP_DAILY, such as `0 2 * * *`.")
    else:
        yield ok(f"the scheduler takes it; next: {shown}")
    yield from reasons


def running(container: Container | None, here: Sequence[Container]) -> Iterator[Finding]:
    """Whether the service is up: `here` are the project's containers of our image, `container` is our own."""
    if container is None:
        return
    up = [each for each in here if each.running]
    if up:
        yield ok(f"{printable(up[0].name)} is running")
    else:
        yield warning("the backup service is not running: nothing is scheduled", "docker compose up -d backup")


def restore(
    stopped: Sequence[Container], commands: Sequence[tuple[str, str]], up: Collection[str]
) -> Iterator[Finding]:
    """Who would be stopped by a restore, and whether its last commands have a place; `up` are running services."""
    names = ", ".join(sorted({printable(each.service or each.name) for each in stopped}))
    yield ok(f"a restore would stop {names} while it swaps" if names else "a restore would stop nobody: none runs")
    for service, command in commands:
        where = f"`{printable(command)}` after a restore"
        if service in up:
            yield ok(f"{where} runs in {printable(service)}")
        else:
            yield failure(
                f"{where} has no place: no container of {printable(service)} is running",
                "Correct BACKUP_POST_RESTORE, or start the service.",
            )


def no_stop(*, on_purpose: bool) -> Finding:
    """There is no engine to stop containers with."""
    text = "a restore cannot stop the application here: there is no engine, or no Compose project"
    hint = "Stop whatever writes to the media by hand before a restore, and start it afterwards."
    return ok(f"{text}. {hint}") if on_purpose else warning(text, hint)


def alerts(names: Sequence[str], waiting: Sequence[Finding], heartbeat: bool) -> Iterator[Finding]:
    """Who is told when a backup fails, and whether that works of late."""
    if not names:
        yield warning("nobody is told when a backup fails", WHAT_TO_SET)
    else:
        yield ok(f"{plural(len(names), 'target')}: {', '.join(map(printable, names))}; --notify tries them")
    if heartbeat:
        yield ok(f"a {HEARTBEAT} is sent after each verified backup")
    yield from waiting


def tried(receipts: Sequence[Receipt]) -> Iterator[Finding]:
    """What came of the test messages."""
    for each in receipts:
        if each.error:
            text = f"{each.target} did not take the test message: {each.error}"
            yield failure(text, "Correct the setting, or the service that it names; `notify --test` tries again.")
        else:
            yield ok(f"{each.target} took the test message in {each.seconds:.1f} s")


def volume(sets: int, good: int, marker: str, memory: str, root: str) -> Iterator[Finding]:
    """The backup volume, which can be written; `memory` says that nothing lasts there, and is empty on a disk."""
    yield ok(f"{root} is mounted and can be written; it is {marker} and holds {plural(sets, 'set')}, {good} good")
    if memory:
        yield failure(memory, ON_A_DISK)
