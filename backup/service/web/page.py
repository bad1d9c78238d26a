"""The status page: an Overview as HTML, and where the marks of its drawings lie: in percent, from the top left.

Home of jinja2. Pure but for the templates, read once.
Every value is escaped twice over: control characters and bidirectional marks by `printable`, markup by jinja2.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from backup import __version__
from backup.formatting import duration, plural, printable, shortened, size
from backup.model.backup_set import StoredSet
from backup.model.finding import LEVELS, Finding, Level
from backup.model.manifest import Tier
from backup.model.run import CREATE, Outcome, Run
from backup.monitoring.overview import Overview, Storage, TierSummary, telling
from backup.monitoring.window import offsite_words, slot_words, window_words
from backup.service.web.ribbon import ribbon

_HERE: Final = Path(__file__).parent / "templates"
STYLE: Final = (_HERE / "style.css").read_bytes()
# The address of the style sheet changes with its content, so that a browser may keep it.
_STYLE_PATH: Final = f"/style.css?{hashlib.sha256(STYLE).hexdigest()[:12]}"
_RUNS: Final = 12
# Of each tier. With these a page of ten thousand sets stays below 240 kB.
_SETS: Final = 30
_MESSAGE: Final = 400
VERDICTS: Final[dict[Level, str]] = {
    "pass": "Healthy",
    "warn": "Warning",
    "starting": "Starting",
    "fail": "Critical",
}
_CLOCKS: Final = {"good": "Newest good set", "proven": "Newest proven set", "offsite": "Newest offsite copy"}
_OUTCOMES: Final[dict[Outcome, Level]] = {
    Outcome.RUNNING: "starting",
    Outcome.SUCCESS: "pass",
    Outcome.CHANGED: "warn",
    Outcome.INTERRUPTED: "warn",
    Outcome.FAILED: "fail",
    Outcome.CRASHED: "fail",
}
MarkKind = Literal["proven", "verified", "changed", "old", "damaged", "failed"]
# What a reader must find first is drawn last.
MARK_KINDS: Final[tuple[MarkKind, ...]] = ("old", "verified", "changed", "proven", "failed", "damaged")
_MARKS: Final = 50
_SPAN: Final = timedelta(days=7)
_POINTS: Final = 150
_HEADROOM: Final = 1.15
_BROKEN: Final = (Outcome.FAILED, Outcome.CRASHED, Outcome.INTERRUPTED)


@dataclass(frozen=True)
class Mark:
    """One set, or one run that made none, on a timeline."""

    x: float
    kind: MarkKind
    time: datetime
    stored: StoredSet | None = None
    run: Run | None = None


@dataclass(frozen=True)
class TimelineRow:
    """The timeline of one tier, from `since` to now. `older` marks are not drawn."""

    tier: str
    since: datetime
    marks: tuple[Mark, ...]
    older: int


@dataclass(frozen=True)
class Point:
    """One set in the drawing of sizes: bytes on disk of the whole, and of the database alone."""

    x: float
    y: float
    stored: StoredSet


@dataclass(frozen=True)
class Sizes:
    """Sizes over time. `total` and `database` are outlines for an SVG polygon, `top` the drawing's height in bytes."""

    points: tuple[Point, ...]
    total: str
    database: str
    top: float


@dataclass(frozen=True)
class Bar:
    """The disk of the backup volume, as shares of the whole in percent."""

    used: float
    undo: float
    other: float
    free: float
    other_bytes: int


def render(overview: Overview) -> bytes:
    """The page."""
    template = _ENVIRONMENT.get_template("page.html")
    worst_last = sorted(overview.health.reasons, key=lambda reason: -LEVELS.index(reason.level))
    text = template.render(
        _common(overview.health.status, worst_last),
        overview=overview,
        now=overview.now,
        zone=overview.zone,
        rows=timelines(overview),
        sizes=sizes(overview.sets),
        bar=bar(overview.storage),
        ribbon=ribbon(overview.window, overview.now),
        nightly=_nightly(overview),
        runs=telling(overview.runs)[:_RUNS],
        sets=_newest(overview.sets),
        folded=_folded(overview.sets),
    )
    return text.encode(errors="replace")


def problem_page(unknown: Finding, now: datetime) -> bytes:
    """The page when nothing could be told."""
    common = _common("fail", [unknown])
    return _ENVIRONMENT.get_template("problem.html").render(common, now=now, zone=UTC).encode(errors="replace")


def icon(status: Level) -> bytes:
    """The tab's icon: an SVG that tells by shape and colour."""
    return _ENVIRONMENT.get_template("icon.svg").render(status=status).encode()


def _common(status: Level, reasons: Sequence[Finding]) -> dict[str, object]:
    return {"status": status, "reasons": reasons, "style": _STYLE_PATH, "version": __version__}


def _summary(status: Level, reasons: Sequence[Finding]) -> str:
    """One sentence below the verdict."""
    worst = sum(reason.level == status for reason in reasons)
    match status:
        case "pass":
            return "All is well."
        case "warn":
            return f"Nothing has failed, but {_things(worst)} attention."
        case "starting":
            return "The first backup is running; there is nothing to restore yet."
        case "fail":
            return f"{_things(worst).capitalize()} action now."


def _newest(sets: Sequence[StoredSet]) -> list[StoredSet]:
    """The newest sets of each tier, in their order."""
    seen: Counter[Tier] = Counter()
    shown = []
    for stored in sets:
        seen[stored.tier] += 1
        if seen[stored.tier] <= _SETS:
            shown.append(stored)
    return shown


def _folded(sets: Sequence[StoredSet]) -> dict[Tier, int]:
    """How many sets of each tier are not among the newest."""
    return {tier: count - _SETS for tier, count in Counter(stored.tier for stored in sets).items() if count > _SETS}


def _things(count: int) -> str:
    return "one thing needs" if count == 1 else f"{count} things need"


def _when(moment: datetime, zone: ZoneInfo, now: datetime) -> str:
    """`Tue 25 Nov 02:00`, with the year where it is not this one."""
    local = moment.astimezone(zone)
    year = "" if local.year == now.astimezone(zone).year else " %Y"
    return local.strftime(f"%a %-d %b{year} %H:%M")


def _day(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).strftime("%-d %b %Y")


def _rough(span: timedelta) -> str:
    """An age to be read at a glance: `12 min`, `5 h 02 min`, `3 d 04 h`, `23 d`."""
    seconds = int(span.total_seconds())
    if seconds < 0:
        return f"{_rough(-span)} ahead"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if hours < 1:
        return f"{minutes} min" if minutes else f"{seconds} s"
    if days < 1:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24:02d} h" if days < 10 else f"{days} d"


def _limit(span: timedelta) -> str:
    """A limit as it was set: `48 h`, `15 d`."""
    hours = span.total_seconds() / 3600
    return f"{hours:g} h" if hours <= 72 else f"{hours / 24:.3g} d"


def _ago(moment: datetime, now: datetime) -> str:
    return f"in {_rough(moment - now)}" if moment > now else f"{_rough(now - moment)} ago"


def _days(count: float) -> str:
    if count < 60:
        return plural(int(count), "day")
    return plural(int(count / 30.44), "month") if count < 730 else f"{min(count / 365.25, 99):.0f} years"


def _line(text: str, most: int = _MESSAGE) -> str:
    """Text of any shape as one line of bounded length."""
    return shortened(" ".join(text.split()), most)


def _legend(rows: Sequence[TimelineRow]) -> list[MarkKind]:
    """The kinds of marks that are drawn, the best first."""
    drawn = {mark.kind for row in rows for mark in row.marks}
    return [kind for kind in ("proven", "verified", "changed", "failed", "damaged", "old") if kind in drawn]


def _taken(run: Run, now: datetime) -> str:
    if run.ended is None and run.outcome is not Outcome.RUNNING:
        return "not known"
    return duration(((run.ended or now) - run.started).total_seconds())


def _pieces(text: str) -> list[tuple[bool, str]]:
    """`text` cut at its back quotes: (is a command, piece)."""
    return [(bool(place % 2), piece) for place, piece in enumerate(_line(text).split("`")) if piece]


def _harmless(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def kind_of(stored: StoredSet) -> MarkKind:
    """What is known of a set, as one mark. Every set was read back and compared before it was published."""
    if stored.state == "old script":
        return "old"
    if not stored.good:
        return "damaged"
    if stored.proven:
        return "proven"
    return "changed" if stored.state == "complete with changes" else "verified"


def timelines(overview: Overview) -> list[TimelineRow]:
    """One row for each tier that has sets, failed runs or a schedule."""
    known = {tier.tier: tier for tier in overview.tiers}
    rows = [_row(overview, tier, known.get(tier)) for tier in Tier]
    return [row for row in rows if row.marks or (row.tier in known and known[Tier(row.tier)].next)]


def _row(overview: Overview, tier: Tier, summary: TierSummary | None) -> TimelineRow:
    found = [Mark(0, kind_of(each), each.time, stored=each) for each in overview.sets if each.tier is tier]
    found += [Mark(0, "failed", run.started, run=run) for run in overview.runs if _made_nothing(run, tier)]
    found.sort(key=lambda mark: mark.time, reverse=True)
    shown, older = found[:_MARKS], max(0, len(found) - _MARKS)
    keep = summary.keep if summary and summary.keep else _SPAN
    since = min([overview.now - keep, *(mark.time for mark in shown)])
    placed = [
        Mark(_share(mark.time, since, overview.now), mark.kind, mark.time, mark.stored, mark.run) for mark in shown
    ]
    return TimelineRow(tier, since, tuple(sorted(placed, key=lambda mark: MARK_KINDS.index(mark.kind))), older)


def _nightly(overview: Overview) -> list[Mark]:
    """The backups of the days that the window keeps, on its ribbon: what can be restored without it."""
    if overview.window is None:
        return []
    since = overview.now - overview.window.keep
    shown = [each for each in overview.sets if since <= each.time <= overview.now and each.backup]
    return [Mark(_share(each.time, since, overview.now), kind_of(each), each.time, stored=each) for each in shown]


def _made_nothing(run: Run, tier: Tier) -> bool:
    return run.operation == CREATE and run.tier == tier and run.outcome in _BROKEN


def _share(moment: datetime, since: datetime, until: datetime) -> float:
    """Where a moment lies between two others; a set from the future lies at the right end."""
    return round(100 * min(1.0, (moment - since) / (until - since)), 2)


def sizes(sets: Sequence[StoredSet]) -> Sizes | None:
    """The sizes of whole, good sets; None if there are not two to compare."""
    whole = sorted((each for each in sets if _whole(each)), key=lambda each: each.time)[-_POINTS:]
    if len(whole) < 2 or whole[0].time == whole[-1].time:
        return None
    high = max(each.size for each in whole)
    top = max(1.0, high * _HEADROOM)
    since, until = whole[0].time, whole[-1].time
    points = tuple(Point(_share(each.time, since, until), _height(each.size, top), each) for each in whole)
    below = [(point.x, _height(_database(point.stored), top)) for point in points]
    return Sizes(points, _area([(point.x, point.y) for point in points]), _area(below), top)


def _whole(stored: StoredSet) -> bool:
    """A set of media or of the database alone would look like a collapse."""
    return stored.good and stored.summary.database is not None and bool(stored.summary.volumes)


def _database(stored: StoredSet) -> int:
    return sum(each.stored_size for each in stored.summary.artifacts if each.kind in ("database", "contents", "roles"))


def _height(count: float, top: float) -> float:
    return round(100 - 100 * count / top, 2)


def _area(line: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in [(line[0][0], 100), *line, (line[-1][0], 100)])


def bar(storage: Storage) -> Bar | None:
    """Shares of the disk; None if its size is not known."""
    if not storage.total or storage.free is None:
        return None
    undo = storage.undo or 0
    other = max(0, storage.total - storage.free - storage.used - undo)
    used, kept, rest, free = (
        round(100 * min(1.0, count / storage.total), 2) for count in (storage.used, undo, other, storage.free)
    )
    return Bar(used, kept, rest, free, other)


_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(_HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_harmless,
    auto_reload=False,
)
_ENVIRONMENT.filters |= {
    "size": size,
    "rough": _rough,
    "limit": _limit,
    "pieces": _pieces,
    "oneline": _line,
    "days": _days,
    "kind": kind_of,
    "iso": lambda moment: moment.astimezone(UTC).isoformat(timespec="seconds"),
    "duration": duration,
}
_ENVIRONMENT.globals |= {
    "when": _when,
    "day": _day,
    "ago": _ago,
    "taken": _taken,
    "summary": _summary,
    "plural": plural,
    "verdicts": VERDICTS,
    "clock_names": _CLOCKS,
    "outcomes": _OUTCOMES,
    "legend": _legend,
    "offsite_words": offsite_words,
    "slot_words": slot_words,
    "window_words": window_words,
}
