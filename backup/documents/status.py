"""What is told of the backups: the status and the health, and their parts: a set, a run, a job, a finding, a place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from backup import __version__
from backup.documents.base_model import (
    Instant,
    Measure,
    Seconds,
    Spans,
    Text,
    at,
    derived,
    document,
    form,
    many,
    maybe,
    utc_text,
)
from backup.formatting import printable
from backup.model.backup_set import SetState
from backup.model.finding import Finding, Level
from backup.model.manifest import Tier
from backup.model.run import Outcome
from backup.model.wal import Base
from backup.monitoring.health import Health

_SIZE, _BYTES = at(int, "size"), at(int, "bytes")


def _ids(bases: Iterable[Base]) -> list[str]:
    return [base.id for base in bases]


_OURS: Any = {"service": (Literal["obcms-backup"], "obcms-backup")}

FINDING = form("Finding", level=Level, topic=Text, text=Text, hint=Text)
JOB = form("Job", job=Text, cron=Text, next=at(many(Instant), "times"))

# `changed` files changed while they were read; `rows` are those of all tables.
_VOLUME = form("Volume", name=Text, files=int, size_bytes=_BYTES, changed=at(int, "changed_total"))
_DATABASE = form(
    "Database", name=Text, system_identifier=Text, server_version=Text, size_bytes=_SIZE, tables=int, rows=int
)
_PIN = form("Pin", since=maybe(Instant, "since"), reason=Text)
SET = form(
    "Set",
    about="`proven`: a drill restored it to what was dumped. `unopened`: encrypted, and nobody has opened it yet.",
    id=Text,
    tier=Tier,
    time=Instant,
    state=SetState,
    good=bool,
    loads=bool,
    proven=at(derived(bool, lambda shown: shown == "proven"), "shown"),
    encrypted=bool,
    unopened=bool,
    size_bytes=_SIZE,
    problem=Text,
    pin=maybe(_PIN, "pin"),
    verified=maybe(Instant, "verdict", "checked"),
    drilled=maybe(Instant, "verdict", "proof", "tried"),
    differences=maybe(derived(int, len), "verdict", "proof", "differences"),
    database=maybe(_DATABASE, "summary", "database"),
    volumes=(at(many(_VOLUME), "summary", "volumes"), []),
)
RUN = form(
    "Run",
    about="`slots` that it stands for, `place` of the copies that it works with.",
    id=Text,
    operation=Text,
    tier=Text,
    trigger=Text,
    only=Text,
    place=Text,
    slot=maybe(Instant, "slot"),
    slots=int,
    started=Instant,
    ended=maybe(Instant, "ended"),
    outcome=Outcome,
    exit_code=int,
    set=Text,
    message=Text,
    hint=Text,
    duration_seconds=maybe(Seconds, "duration"),
    phase_seconds=at(Spans, "seconds"),
)

_HEALTH = form(
    "Health", status=Level, scheduler=maybe(Literal["alive", "stopped", "dead"], "scheduler"), reasons=many(FINDING)
)
_CLOCK = form(
    "Clock",
    about="How old the newest set of a kind is: good, proven or offsite.",
    name=Text,
    status=Level,
    set=maybe(Text, "stored", "id"),
    time=maybe(Instant, "stored", "time"),
    age_seconds=maybe(Seconds, "age"),
    limit_seconds=maybe(Seconds, "limit"),
    note=Text,
)
_TIER = form(
    "TierCount",
    about="`expected`: how many sets it has when it is full.",
    tier=Tier,
    good=int,
    proven=int,
    bad=int,
    pinned=int,
    size_bytes=_SIZE,
    newest=maybe(Text, "newest", "id"),
    newest_time=maybe(Instant, "newest", "time"),
    age_seconds=maybe(Seconds, "age"),
    next=maybe(Instant, "next"),
    keep_seconds=maybe(Seconds, "keep"),
    expected=maybe(int, "expected"),
)
_STORAGE = form(
    "Storage",
    about="`days_left` is 3650 for that many or more; `assumes` says what it rests on.",
    used_bytes=at(int, "used"),
    free_bytes=maybe(int, "free"),
    total_bytes=maybe(int, "total"),
    next_set_bytes=maybe(int, "next_set"),
    growth_bytes_per_day=at(Measure, "growth"),
    days_left=Measure,
    assumes=Text,
    undo_bytes=maybe(int, "undo"),
    undo_until=maybe(Instant, "undo_until"),
)
_ALERTS = form(
    "Alerts",
    targets=many(Text),
    undelivered=int,
    last_delivered=maybe(Instant, "last_delivered"),
    last_error=Text,
    heartbeat=bool,
    last_heartbeat=maybe(Instant, "last_heartbeat"),
)
_PLACE = form(
    "Place",
    about="`waiting` sets belong there and are not there yet, `bad` ones are not as they should be.",
    place=Text,
    name=Text,
    sets=int,
    size_bytes=_SIZE,
    waiting=int,
    waiting_bytes=at(int, "waiting_size"),
    bad=int,
    newest=Text,
    newest_time=maybe(Instant, "newest_time"),
    looked=maybe(Instant, "looked"),
)
_SPAN = form("Span", start=Instant, end=Instant, live=bool, bases=derived(many(Text), _ids))
BREAK = form("Break", about="It goes on where `end` is null.", start=Instant, end=maybe(Instant, "end"))
_BASE = form(
    "Base",
    about="A base backup: consistent from `ended` on, with the WAL from `start_lsn`. `parent` is the one that an"
    " incremental one builds on, empty for a full one; `cluster_bytes` are those of its own files.",
    id=Text,
    started=Instant,
    ended=Instant,
    system_identifier=Text,
    timeline=int,
    start_lsn=at(Text, "start"),
    end_lsn=at(Text, "end"),
    server_version=Text,
    databases=many(Text),
    size_bytes=at(int, "artifact", "stored_size"),
    cluster_bytes=at(int, "bytes"),
    parent=Text,
)
_SLOT = form(
    "WalSlot",
    about="The slot by which the server keeps WAL. `safe_bytes`: so many until it gives it up. `problem`: why there"
    " is none.",
    name=Text,
    held_bytes=at(int, "held"),
    safe_bytes=maybe(int, "safe"),
    problem=Text,
    hint=Text,
)
_STREAM = form(
    "Stream",
    about="`level` is the newest moment of which all that was committed is safe here. `slot`: null where none is"
    " wanted.",
    looked=Instant,
    state=Text,
    message=Text,
    hint=Text,
    system_identifier=Text,
    timeline=int,
    received_lsn=at(Text, "received"),
    current_lsn=at(Text, "current"),
    lag_bytes=at(int, "behind"),
    level=maybe(Instant, "level"),
    wants_base=Text,
    slot=maybe(_SLOT, "slot"),
)
_WINDOW_PROOF = form(
    "WindowProof",
    about="The newest drill of the window: it was recovered up to `moment` and read. `problem` says why it could not."
    " `equals` is the set that it was equal to, recovered to what the set's dump saw; `uncompared` says why none was.",
    tried=Instant,
    base=Text,
    moment=Instant,
    rows=int,
    recovery_seconds=at(Measure, "seconds"),
    problem=Text,
    equals=Text,
    uncompared=Text,
)
_OFFSITE_WINDOW = form(
    "OffsiteWindow",
    about="The moments that a place of copies alone can bring back. `stream.looked` is when all was last there.",
    place=Text,
    name=Text,
    start=maybe(Instant, "start"),
    end=maybe(Instant, "end"),
    live=bool,
    max_lag_seconds=at(Seconds, "max_lag"),
    spans=many(_SPAN),
    bases=many(_BASE),
    stream=maybe(_STREAM, "stream"),
    segments=int,
    segment_bytes=int,
)
MOMENTS = form(
    "Window",
    about="The moments that can be brought back, oldest first.",
    start=maybe(Instant, "start"),
    end=maybe(Instant, "end"),
    live=bool,
    keep_seconds=at(Seconds, "keep"),
    max_lag_seconds=at(Seconds, "max_lag"),
    spans=many(_SPAN),
    bases=many(_BASE),
    stream=maybe(_STREAM, "stream"),
    segments=int,
    segment_bytes=int,
    proof=maybe(_WINDOW_PROOF, "proof"),
    offsite=many(_OFFSITE_WINDOW),
)

STATUS = document(
    "status",
    "How the backups are: `status`, `monitor`, /api/status. Sets and runs are newest first.",
    **_OURS,
    version=(str, __version__),
    time=at(Instant, "now"),
    zone=at(Text, "zone", "key"),
    health=_HEALTH,
    clocks=many(_CLOCK),
    tiers=many(_TIER),
    sets=many(SET),
    runs=many(RUN),
    storage=_STORAGE,
    schedule=at(many(JOB), "slots"),
    alerts=at(_ALERTS, "alerting"),
    restore_seconds=Measure,
    restore_measured=Text,
    offsite=many(_PLACE),
    window=maybe(MOMENTS, "window"),
)
HEALTH = document(
    "health",
    "Whether all is well: /healthz, /livez, /readyz, and what cannot be answered. A stranger is told the status alone.",
    **_OURS,
    status=Level,
    version=maybe(str, "version"),
    time=maybe(Instant, "time"),
    reasons=many(FINDING),
    checks=(dict[str, list[dict[str, str | int]]], {}),
)


def health_answer(health: Health) -> Any:
    """All that is known of the health."""
    checks: dict[str, list[dict[str, str | int]]] = {}
    if health.scheduler:
        checks["scheduler:state"] = [{"observedValue": health.scheduler}]
    if health.newest_good and health.age is not None:
        newest, seconds = health.newest_good, round(health.age.total_seconds())
        whose = {"componentId": printable(newest.id), "time": utc_text(newest.time)}
        checks["newest-good-set:age"] = [{**whose, "observedValue": seconds, "observedUnit": "s"}]
    return HEALTH.of(health, version=__version__, time=health.now, checks=checks)


def brief_answer(*reasons: Finding) -> Any:
    """Fail for these reasons; all is well without any."""
    return HEALTH.of(status="fail" if reasons else "pass", version=__version__, reasons=reasons)


def bare_answer(status: Level) -> Any:
    """What anybody may be told."""
    return HEALTH.of(status=status, reasons=[])
