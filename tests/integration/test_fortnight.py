"""A fortnight of the service in a minute: real sets of a real database, by a clock that is passed in.

A night without a database, two days switched off, the night on which the clock changes, a table that is emptied,
retention of five days, a pinned set. `FORTNIGHT=docs/fortnight.md` writes the record that the test looks at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.errors import BackupError
from backup.model.manifest import Tier
from backup.model.schedule import moments
from backup.monitoring.alerts.model import Policy, State
from backup.monitoring.alerts.rules import decide
from backup.monitoring.health import WORDS
from backup.operations import prune as pruning
from backup.operations.create.run import Request, create_set
from backup.operations.drill.run import drill_set, newest_of_each_tier
from backup.operations.jobs import jobs
from backup.operations.missed_runs import find_missed
from backup.operations.scheduled_run import claim_slot
from backup.operations.status import overview
from backup.progress import Silent
from tests.support.database import Server, start_server
from tests.support.sidecar import Sidecar

ZONE = ZoneInfo("Europe/Berlin")
FIRST, LAST = date(2025, 10, 16), date(2025, 10, 31)
DOWN, EMPTIED, CHANGED = date(2025, 10, 18), date(2025, 10, 24), date(2025, 10, 26)
OFF = (date(2025, 10, 20), date(2025, 10, 21))


@dataclass
class Day:
    """What happened on one day, and how things stood at noon."""

    ran: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    removed: int = 0
    health: str = ""
    reasons: str = ""
    sets: str = ""


@dataclass
class Fortnight:
    """The service's jobs, run when they are due."""

    sidecar: Sidecar
    now: datetime = datetime.combine(FIRST, datetime.min.time(), ZONE)
    state: State = field(default_factory=State)
    days: dict[date, Day] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.app = self.sidecar.app()
        self.jobs = {job: cron for job, cron in jobs(self.app.settings).items() if cron}
        self.file = ScheduleFile(self.sidecar.root)
        (self.sidecar.root / "state").mkdir(exist_ok=True)
        self.file.write(ScheduleState().counted(self.jobs, self.now, ZONE))

    def clock(self) -> datetime:
        """Every look takes a moment."""
        self.now += timedelta(milliseconds=200)
        return self.now.astimezone(UTC)

    @property
    def day(self) -> Day:
        return self.days.setdefault(self.now.astimezone(ZONE).date(), Day())

    def until(self, moment: datetime) -> None:
        """Run what comes due until then, in its order."""
        while True:
            slots = [(next(moments(cron, self.now, ZONE)), job) for job, cron in self.jobs.items()]
            slot, job = min(slots)
            if slot > moment:
                break
            self.now = slot
            self.run(job)
        self.now = moment

    def run(self, job: str) -> None:
        """One job, as the scheduler or the service starts it."""
        day = self.day
        with claim_slot(self.file, self.app.records, job, self.jobs[job], ZONE, self.clock) as claim:
            if not claim.wanted:
                day.ran.append(f"{job}: not due")
                return
            word = f" (caught up for {claim.slots})" if claim.trigger == "catch-up" else ""
            try:
                self.work(job, {"trigger": claim.trigger, "slot": claim.slot, "slots": claim.slots})
            except BackupError as error:
                word += f" failed: {type(error).__name__}"
        day.ran.append(job + word)
        self.now += timedelta(minutes=2)
        self.tell()

    def work(self, job: str, why: dict[str, object]) -> None:
        """What the job does."""
        if job == "drill":
            context = replace(self.app.drill_context(Silent()), clock=self.clock)
            for stored in newest_of_each_tier(self.app.catalog.sets(), self.clock()):
                drill_set(stored, context, **why)  # type: ignore[arg-type]
        elif job == "cleanup":
            context = pruning.PruneContext(
                catalog=self.app.catalog,
                records=self.app.records,
                lock=self.app.lock,
                policy=pruning.retention_policy(self.app.settings),
                clock=self.clock,
            )
            self.day.removed += len(pruning.prune_sets(pruning.Request(**why), context).removed)  # type: ignore[arg-type]
        else:
            create_context = replace(self.app.create_context(Silent()), clock=self.clock)
            create_set(Request(Tier(job), **why), create_context)  # type: ignore[arg-type]

    def tell(self) -> None:
        """What the alerts say; a cause of health has to stand for a while."""
        policy = Policy("obcms", "warn", timedelta(hours=24), ZONE)
        for _ in range(2):
            seen = self.seen().health
            self.state, notice = decide(self.state, seen, self.app.records.all(), self.clock(), policy)
            self.day.told += [notice.kind] if notice else []
            self.now += timedelta(seconds=30)

    def seen(self):  # type: ignore[no-untyped-def]
        return overview(
            self.app.settings, self.app.catalog, self.app.records, self.clock(), scheduler="alive", alerting=False
        )

    def noon(self) -> None:
        """Note how things stand."""
        self.tell()
        seen = self.seen()
        self.day.health = WORDS[seen.health.status]
        self.day.reasons = "; ".join(reason.text for reason in seen.health.reasons)
        counts = Counter(str(each.tier) for each in seen.sets)
        proven = sum(each.proven for each in seen.sets)
        self.day.sets = ", ".join(f"{n} {tier}" for tier, n in sorted(counts.items())) + f"; {proven} proven"

    def record(self) -> str:
        """The table."""
        lines = ["| day | ran | removed | sets at noon | health at noon | told |", "|---|---|---|---|---|---|"]
        for when, day in sorted(self.days.items()):
            said = f"{day.health}{': ' if day.reasons else ''}{day.reasons}"
            cells = [f"{when:%a %d %b}", ", ".join(day.ran), day.removed or "", day.sets, said, ", ".join(day.told)]
            lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
        return "\n".join(lines) + "\n"


def lived(fortnight: Fortnight, mishaps: dict[date, Callable[[], None]]) -> None:
    """Live through it; a mishap happens on the evening before its day, another one undoes it at noon."""
    today = FIRST
    while today <= LAST:
        noon = datetime.combine(today, datetime.min.time(), ZONE).replace(hour=12)
        if today in OFF:
            fortnight.now = noon
            fortnight.day.health = "(switched off)"
        else:
            if today - timedelta(days=1) in OFF:
                fortnight.now = noon - timedelta(hours=4)
                state, runs = fortnight.file.read(fortnight.now), fortnight.app.records.all()
                for due in find_missed(fortnight.file, state, runs, fortnight.jobs, fortnight.now, ZONE):
                    fortnight.run(due.job)
            fortnight.until(noon)
            fortnight.noon()
        evening = mishaps.get(today)
        if evening:
            evening()
        today += timedelta(days=1)


@pytest.fixture
def server() -> Iterator[Server]:
    """One of its own, whose data outlive a stop: the servers of the session have theirs in memory."""
    made = start_server(17, "fortnight")
    yield made
    made.remove()


def test_a_fortnight(sidecar: Sidecar, server: Server, tmp_path: Path) -> None:
    name = sidecar.environment["DB_NAME"]
    server.execute(name, "CREATE TABLE app_case AS SELECT i, md5(i::text) FROM generate_series(1, 2000) i")
    sidecar.environment |= {
        "TZ": ZONE.key,
        "BACKUP_MONITOR": "off",
        "BACKUP_REPORT": "off",
        "BACKUP_RETENTION_DAILY": "5",
        "BACKUP_MIN_SIZE_KB": "0",
        "BACKUP_MIN_FREE_GB": "0",
    }
    fortnight = Fortnight(sidecar)

    def pin() -> None:
        catalog = sidecar.catalog
        catalog.pin(catalog.sets(Tier.DAILY)[-1], "the first one", fortnight.clock())

    def empty() -> None:
        server.execute(name, "DELETE FROM app_case WHERE i > 10")

    def stop() -> None:
        server.container.stop(timeout=5)

    def start() -> None:
        server.container.start()
        server.wait()

    day = timedelta(days=1)
    try:
        lived(fortnight, {FIRST: pin, DOWN - day: stop, DOWN: start, EMPTIED - day: empty})
    finally:
        start()
    record = fortnight.record()
    print(record)
    if target := os.environ.get("FORTNIGHT"):
        Path(target).write_text("# A fortnight, lived in a minute\n\n" + (__doc__ or "") + "\n" + record)
    days = fortnight.days
    assert all(word.startswith("daily failed") for word in days[DOWN].ran if word.startswith("daily"))
    assert days[DOWN].health == "CRITICAL" and days[DOWN].removed == 0 and "failure" in days[DOWN].told
    assert days[DOWN + day].health in ("HEALTHY", "WARNING") and days[DOWN + day].told.count("recovery") == 1
    back = days[OFF[-1] + day]
    assert "daily (caught up for 3)" in back.ran and back.health != "CRITICAL"
    assert "2,000" in days[EMPTIED].reasons and days[EMPTIED].health == "WARNING"
    assert (
        days[CHANGED].ran.count("daily") == days[CHANGED].ran.count("weekly") == days[CHANGED].ran.count("drill") == 1
    )
    assert all(
        len([word for word in each.ran if word.startswith("daily")]) == 1 for d, each in days.items() if d not in OFF
    )
    dailies = sidecar.catalog.sets(Tier.DAILY)
    assert sum(each.removed for each in days.values()) > 5 and len(dailies) <= 8
    assert dailies[-1].pin and dailies[-1].time.astimezone(ZONE).date() == FIRST
    assert (
        any(each.proven for each in dailies) and sum(word == "recovery" for d in days.values() for word in d.told) <= 2
    )
