"""Overviews by hand, as an operator's volume would give them: healthy, warning, critical, starting, empty, hostile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backup.errors import NoSpace
from backup.model.backup_set import Proof, SetState, StoredSet, Verdict
from backup.model.finding import Finding, failure
from backup.model.manifest import Artifact, DatabasePart, Manifest, Tier, VolumePart, set_id
from backup.model.run import Outcome, Run
from backup.model.schedule import upcoming
from backup.model.wal import WalSlot, WindowProof
from backup.monitoring.health import Health
from backup.monitoring.overview import Alerting, Clock, Offsite, Overview, Storage, TierSummary
from tests.support.windows import a_base, a_stream, a_window, broken_window, offsite_window

ZONE = ZoneInfo("Asia/Manila")
NOW = datetime(2025, 11, 24, 19, 12, tzinfo=UTC)
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monthly": "0 4 1 * *", "drill": "0 6 * * 0"}
MB = 1_000_000
SHA = "0" * 64


def stored(
    tier: Tier,
    time: datetime,
    *,
    state: SetState = "complete",
    drilled: datetime | None = None,
    problem: str = "",
    database: str = "obcms_prod",
    volume: str = "media",
) -> StoredSet:
    """One set, larger the later it was made."""
    identifier = set_id(tier, time, ZONE)
    days = (time - datetime(2024, 11, 24, tzinfo=UTC)).days
    base, files = (120 + days // 4) * MB, (2_300 + days * 5 + time.day % 5 * 9) * MB
    artifacts = tuple(
        Artifact(
            kind=kind,
            name=name,
            file=f"obcms_{kind}.gz",
            stored_size=size,
            stored_sha256=SHA,
            plain_size=size,
            plain_sha256=SHA,
        )
        for kind, name, size in (("database", "", base), ("roles", "", 900), ("volume", volume, files))
    )
    manifest = Manifest(
        id=identifier,
        tier=tier,
        run="r",
        started=time,
        ended=time + timedelta(minutes=3),
        started_local="",
        ended_local="",
        zone=ZONE.key,
        product_version="1",
        artifacts=artifacts,
        database=DatabasePart(
            name=database,
            oid=1,
            system_identifier="7",
            server_version="17.2",
            client_version="17.2",
            command=(),
            rows={"public.a": 1_240_000, "public.b": 12},
            size=base * 6,
        ),
        volumes=(
            VolumePart(
                name=volume, files=48_000 + days * 9, directories=300, links=0, hard_links=0, bytes=files, excludes=()
            ),
        ),
    )
    proof = Proof(tried=drilled, server_version="17.2", seconds={"restore": 512.0}) if drilled else None
    verdict = Verdict(checked=time + timedelta(minutes=4), proof=proof)
    return StoredSet(
        Path("/backups") / tier, identifier, tier, time, state, (), base + files, manifest, verdict, problem
    )


def _local(year: int, month: int, day: int, hour: int) -> datetime:
    return datetime(year, month, day, hour, tzinfo=ZONE).astimezone(UTC)


def _sets(skip: tuple[int, ...] = ()) -> list[StoredSet]:
    """Sixty-odd sets: 30 days, 13 weeks, 12 months, two by hand, three before restores. Sundays' are proven."""
    made = []
    for back in range(30):
        day = (NOW.astimezone(ZONE) - timedelta(days=back)).date()
        if back not in skip:
            at = _local(day.year, day.month, day.day, 2)
            drilled = at + timedelta(hours=4) if day.weekday() == 6 else None
            made.append(
                stored(Tier.DAILY, at, drilled=drilled, state="complete with changes" if back == 17 else "complete")
            )
    for week in range(13):
        day = (datetime(2025, 11, 23, tzinfo=ZONE) - timedelta(weeks=week)).date()
        at = _local(day.year, day.month, day.day, 3)
        made.append(stored(Tier.WEEKLY, at, drilled=at + timedelta(hours=3)))
    for month in range(12):
        year, number = divmod(2025 * 12 + 10 - month, 12)
        at = _local(year, number + 1, 1, 4)
        made.append(stored(Tier.MONTHLY, at, drilled=at + timedelta(days=1) if month < 9 else None))
    made += [stored(Tier.MANUAL, NOW - timedelta(days=days, hours=5)) for days in (4, 21)]
    made += [stored(Tier.PRE_RESTORE, NOW - timedelta(days=2, hours=hours)) for hours in (1, 3, 20)]
    return sorted(made, key=lambda each: (each.time, each.id), reverse=True)


def _runs(sets: list[StoredSet]) -> list[Run]:
    runs = [
        Run(
            id=f"r{each.id}",
            operation="create",
            tier=each.tier,
            trigger="schedule",
            started=each.time,
            ended=each.time + timedelta(seconds=190 + each.time.day),
            outcome=Outcome.SUCCESS,
            set=each.id,
            message=f"set {each.id} is complete: 4 files, written and read back",
            seconds={"database": 21.5, "media": 140},
        )
        for each in sets[:9]
    ]
    at = datetime(2025, 11, 22, 22, tzinfo=UTC)
    runs.append(
        Run(
            id="d",
            operation="drill",
            trigger="schedule",
            started=at,
            ended=at + timedelta(seconds=512),
            outcome=Outcome.SUCCESS,
            message="3 sets are proven: restored and dumped again to the same content",
        )
    )
    return sorted(runs, key=lambda run: run.started, reverse=True)


def _clock(name: str, found: StoredSet | None, limit: timedelta | None, status: str = "pass", note: str = "") -> Clock:
    return Clock(name, found, NOW - found.time if found else None, limit, status, note)  # type: ignore[arg-type]


def _tiers(sets: list[StoredSet]) -> tuple[TierSummary, ...]:
    due = {slot.job: slot.times[0] for slot in upcoming(JOBS, NOW, ZONE)}
    rules = {Tier.DAILY: (30, 30), Tier.WEEKLY: (90, 13), Tier.MONTHLY: (365, 12)}
    found = []
    for tier in Tier:
        mine = [each for each in sets if each.tier is tier]
        newest = next((each for each in mine if each.good), None)
        keep, expected = rules.get(tier, (None, None))
        found.append(
            TierSummary(
                tier,
                sum(each.good for each in mine),
                sum(each.proven for each in mine),
                sum(not each.good for each in mine),
                int(tier is Tier.MANUAL and bool(mine)),
                sum(each.size for each in mine),
                newest,
                NOW - newest.time if newest else None,
                due.get(tier),
                timedelta(days=keep) if keep else None,
                expected,
            )
        )
    return tuple(found)


def _overview(
    health: Health, sets: list[StoredSet], runs: list[Run], clocks: tuple[Clock, ...], **more: object
) -> Overview:
    used = sum(each.size for each in sets)
    storage = Storage(used, 268_000 * MB, 536_000 * MB, 41.5 * MB, 268_000 / 41.5, 5_100 * MB, NOW + timedelta(days=5))
    alerting = Alerting(
        ("mail to ops@example.org", "a webhook of chat.example.org"),
        0,
        NOW - timedelta(days=1, hours=9),
        heartbeat=True,
        last_heartbeat=NOW - timedelta(minutes=66),
    )
    made = Overview(
        health,
        NOW,
        ZONE,
        clocks,
        _tiers(sets),
        tuple(sets),
        tuple(runs),
        storage,
        tuple(upcoming(JOBS, NOW, ZONE)),
        alerting,
        512.0,
        "the drill of daily_2025-10-19_02-00-00",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def healthy() -> Overview:
    """Nothing to say."""
    sets = _sets()
    proven = next(each for each in sets if each.proven)
    clocks = (
        _clock("good", sets[0], timedelta(hours=48)),
        _clock("proven", proven, timedelta(days=15)),
        _clock("offsite", None, None, note="no bucket is set"),
    )
    return _overview(Health("pass", (), NOW, sets[0], "alive"), sets, _runs(sets), clocks)


def recoverable() -> Overview:
    """The same with point-in-time recovery: a week of nightly bases, and a gap of two minutes; all but 40 s offsite."""
    reason = Finding(
        "warn", "moments that cannot be brought back, because their WAL is missing: 2025-11-24 11:12 to 11:14"
    )
    seen = healthy()
    health = replace(seen.health, status="warn", reasons=(reason,))
    proof = WindowProof(tried=NOW - timedelta(days=1), base="b", moment=NOW - timedelta(days=1))
    window = replace(broken_window(NOW), proof=proof)
    return replace(seen, health=health, window=replace(window, offsite=(offsite_window(NOW, window),)))


def with_slot(slot: WalSlot) -> Overview:
    """The same where the server keeps WAL for us."""
    seen = recoverable()
    assert seen.window and seen.window.stream
    stream = seen.window.stream.model_copy(update={"slot": slot})
    return replace(seen, window=replace(seen.window, stream=stream))


def warning() -> Overview:
    """It works, but somebody should look: changed files, an alert that waits, an old proof, little room."""
    sets = _sets(skip=(9,))
    bad = replace(sets[20], state="damaged", problem="obcms_media.tar.gz has 1,204 bytes instead of 2,301,118,004")
    sets[20] = bad
    proven = next(each for each in sets if each.proven and each.tier is Tier.MONTHLY)
    reasons = (
        Finding(
            "warn",
            f"{bad.id} is damaged: {bad.problem}",
            f"`verify {bad.id}` looks again; `create daily` takes a new set.",
        ),
        Finding(
            "warn", "the newest proven set is 23 d old; the limit is 15 d", "`drill latest` proves the newest set now."
        ),
        Finding(
            "warn",
            "2 alerts could not be delivered for 3 h: mail.example.org refuses the connection",
            "Correct BACKUP_NOTIFY_URLS, then run `notify --test`.",
        ),
    )
    clocks = (
        _clock("good", sets[0], timedelta(hours=48)),
        _clock("proven", proven, timedelta(days=15), "warn"),
        _clock("offsite", sets[3], timedelta(days=3), "warn", "1 set waits for upload"),
    )
    runs = _runs(sets)
    runs[0] = runs[0].model_copy(
        update={"outcome": Outcome.CHANGED, "message": "files changed while they were read: 3 of 51,002"}
    )
    storage = Storage(sum(each.size for each in sets), 22_000 * MB, 536_000 * MB, 410 * MB, 22_000 / 410)
    alerting = Alerting(
        ("mail to ops@example.org",),
        2,
        NOW - timedelta(days=1),
        "mail.example.org refuses the connection",
        True,
        NOW - timedelta(minutes=66),
    )
    return _overview(
        Health("warn", reasons, NOW, sets[0], "alive"), sets, runs, clocks, storage=storage, alerting=alerting,
        offsite=(Offsite("s3", "s3://obcms", 61, 140_000 * MB, 1, 4_600 * MB, 0, sets[3].id, sets[3].time, NOW),),
    )  # fmt: skip


def critical() -> Overview:
    """Three nights without a backup."""
    sets = _sets(skip=(0, 1, 2))
    why = "the backup volume has 1.2 GB free, the next set needs about 4.6 GB; nothing was started"
    hint = NoSpace.remedy
    failed = [
        Run(
            id=f"f{back}",
            operation="create",
            tier="daily",
            trigger="schedule",
            started=at,
            ended=at + timedelta(seconds=2),
            outcome=Outcome.FAILED if back else Outcome.CRASHED,
            message=why if back else "create ended without a record: killed, or the machine went down",
            hint=hint,
            exit_code=30,
        )
        for back in range(3)
        for at in [_local(2025, 11, 25 - back, 2)]
    ]
    newest = next(each for each in sets if each.tier is Tier.DAILY)
    reasons = (
        failure(
            f"the newest good set, {newest.id}, is 3 d 01 h old; the limit is 48 h 00 min",
            "`create daily` takes one now; `schedule` shows when the next one is due.",
        ),
        failure(f"the last daily backup failed: {why}", hint),
        Finding(
            "warn",
            "AWS_S3_BACKUP_BUCKET is set, but no set has been copied there for 4 d",
            "`logs --tail 50` shows why.",
        ),
    )
    clocks = (
        _clock("good", newest, timedelta(hours=48), "fail"),
        _clock("proven", next(each for each in sets if each.proven), timedelta(days=15)),
        _clock("offsite", sets[5], timedelta(days=3), "fail", "4 sets wait for upload"),
    )
    storage = Storage(sum(each.size for each in sets), 1_200 * MB, 536_000 * MB, 900 * MB, 1.3)
    runs = sorted([*_runs(sets), *failed], key=lambda run: run.started, reverse=True)
    logged = {run.id: (f"[{run.started:%Y-%m-%d %H:%M:%S}] [ERROR] {run.message}",) for run in failed}
    health = Health("fail", reasons, NOW, newest, "alive")
    return _overview(health, sets, runs, clocks, storage=storage, logged=logged)


def starting() -> Overview:
    """The first backup runs."""
    run = Run(id="r", operation="create", tier="daily", trigger="first", started=NOW - timedelta(minutes=4))
    text = "the first backup has been running since 2025-11-25 03:08:00 PST"
    reasons = (Finding("starting", text, "`docker compose logs -f backup` shows its progress."),)
    return _bare(Health("starting", reasons, NOW, None, "alive"), [run])


def empty() -> Overview:
    """There is nothing, and nothing runs."""
    hint = "`create daily` takes one now; `list` shows what is there."
    return _bare(Health("fail", (failure("there is no good set of the database yet", hint),), NOW), [])


def _bare(health: Health, runs: list[Run]) -> Overview:
    clocks = (
        _clock("good", None, timedelta(hours=48), health.status),
        _clock("proven", None, timedelta(days=15), "warn"),
        _clock("offsite", None, None, note="no bucket is set"),
    )
    storage = Storage(0, 268_000 * MB, 536_000 * MB)
    return _overview(health, [], runs, clocks, storage=storage, alerting=Alerting(), restore_seconds=None)


HOSTILE = (
    "<script>fetch('//evil.example')</script>\"'><img src=x onerror=alert(1)>\u202egpj.exe\u2066 עברית العربية"
    "\r\n\t\x1b[31m${7*7}{{7*7}}{% raw %} `rm -rf` &amp;</style></title>"
)


def hostile() -> Overview:
    """Every text that comes from elsewhere is full of markup, quotes, marks of direction and control characters."""
    text = HOSTILE + "x" * 300
    base = critical()
    slot = {"name": text, "problem": text, "hint": text}
    stream = a_stream(3, None, NOW, state=text, message=text, hint=text, wants_base=text, slot=slot)
    window = a_window(
        NOW, [a_base(2, NOW - timedelta(hours=2), name=text)], {2: NOW - timedelta(hours=1)}, stream=stream
    )
    first = stored(Tier.DAILY, NOW - timedelta(hours=1), database=text, volume=text, state="damaged", problem=text)
    sets = (replace(first, id=text), stored(Tier.MANUAL, NOW - timedelta(hours=2), database=text), *base.sets)
    run = Run(
        id=text,
        operation=text,
        tier=text,
        only=text,
        started=NOW,
        outcome=Outcome.FAILED,
        set=text,
        message=text,
        hint=text,
        trigger=text,
        seconds={text: 1.0},
    )
    return replace(
        base,
        health=replace(base.health, reasons=(failure(text, text), Finding("warn", "``" + text, "`"))),
        sets=sets,
        clocks=(_clock("good", sets[0], timedelta(hours=48), "fail", text), *base.clocks[1:]),
        runs=(run, run.model_copy(update={"operation": "create", "tier": "daily"}), *base.runs),
        alerting=Alerting((text,), 1, None, text),
        logged={run.id: (text, "</pre>" + text)},
        window=window,
        slots=(replace(base.slots[0], job=text, cron=text), *base.slots),
    )
