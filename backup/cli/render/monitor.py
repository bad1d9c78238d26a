"""What `status` and `monitor` show: the same sections as a page on a terminal and as plain lines elsewhere.

The first lines of the plain report are the seed's own, word for word: scripts of its users may read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from backup.formatting import age, duration, plural, printable, shortened, size
from backup.model.backup_set import StoredSet
from backup.model.finding import Level
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.monitoring.forecast import HORIZON
from backup.monitoring.health import WORDS, Health
from backup.monitoring.overview import Clock, Overview, Storage, telling
from backup.monitoring.window import offsite_words, slot_words, window_words

REPORT_TITLE: Final = "OBCMS Backup Monitoring Report"
_WIDTH: Final = 62
_STYLES: Final[dict[Level, str]] = {"pass": "green", "warn": "yellow", "starting": "cyan", "fail": "bold red"}
_OUTCOMES: Final = {
    Outcome.SUCCESS: "green",
    Outcome.RUNNING: "cyan",
    Outcome.FAILED: "red",
    Outcome.CRASHED: "red",
}
_SCHEDULED: Final = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)
_UNASKED: Final = "unknown: no service answers in this container"
# In a report of the last fortnight, daily, weekly and drill together.
_RUNS: Final = 20


@dataclass(frozen=True)
class Row:
    """One line of a section: a label, what it says, and a style for terminals."""

    label: str
    text: str
    style: str = ""


@dataclass(frozen=True)
class ReportSection:
    """A heading and its rows."""

    heading: str
    rows: tuple[Row, ...]


def status_sections(overview: Overview) -> list[ReportSection]:
    """The short answer: clocks, last and next run, room."""
    creates = (run for run in overview.runs if run.operation == "create" and run.backup)
    last = next(creates, None)
    rows = [*_clocks(overview), Row("last backup", _run(last, overview) if last else "none yet", _style(last))]
    if overview.slots:
        # A snapshot nearly always is the next one.
        slot = next((each for each in overview.slots if each.job != Tier.SNAPSHOT), overview.slots[0])
        rows.append(Row("next run", f"{slot.job}, {_when(slot.times[0], overview)}"))
    rows += _window(overview)
    rows.append(Row("scheduler", overview.health.scheduler or _UNASKED))
    rows.append(Row("storage", _room(overview.storage)))
    return [ReportSection("", tuple(rows))]


def report_sections(overview: Overview) -> list[ReportSection]:
    """The seed's sections, then what is new."""
    tiers = {tier.tier: tier for tier in overview.tiers}
    shown = [tiers[tier] for tier in Tier if tier in tiers and (tier in _SCHEDULED or tiers[tier].good)]
    ages = [Row(_name(t.tier), f"{t.age / timedelta(hours=1):.0f}" if t.age is not None else "none") for t in shown]
    counts = [Row(_name(t.tier), _count(t.good, t.proven, t.bad, t.pinned, t.expected)) for t in shown]
    unread = (Row("", "The sets cannot be read."),)
    sections = [
        ReportSection("Backup Age (hours since last backup)", tuple(ages) or unread),
        ReportSection("Backup Counts", tuple(counts) or unread),
        ReportSection("Storage", tuple(_storage(overview))),
        ReportSection("Newest Sets", tuple(_clocks(overview))),
        ReportSection("Point-in-Time Recovery", tuple([*_window(overview), *_wal(overview)])),
        ReportSection("Offsite", tuple(_offsite(overview))),
        ReportSection("Last Runs", tuple(_last_runs(overview))),
        ReportSection("Next Runs", tuple(Row(s.job, _when(s.times[0], overview)) for s in overview.slots if s.times)),
    ]
    return [section for section in sections if section.rows]


def detail_sections(overview: Overview) -> list[ReportSection]:
    """What `--report` adds: every set and the runs of late, with what they said."""
    sections = []
    for tier in Tier:
        mine = [stored for stored in overview.sets if stored.tier is tier]
        if mine:
            rows = (Row(s.id, _set(s), "" if s.good else "red") for s in mine)
            sections.append(ReportSection(f"Sets: {tier} ({plural(len(mine), 'set')})", tuple(rows)))
    runs = [Row(_when(run.started, overview), _told(run), _style(run)) for run in telling(overview.runs)[:_RUNS]]
    return [*sections, ReportSection("Runs", tuple(runs))] if runs else sections


def draw_lines(overview: Overview, sections: Sequence[ReportSection], *, boxed: bool) -> list[str]:
    """Draw plain lines. `boxed` puts the seed's title above them."""
    drawn = [*_box(), "", f"Generated: {_stamp(overview.now, overview)}"] if boxed else []
    drawn += alert_lines(overview.health)
    for section in sections:
        drawn += ["", *([f"{section.heading}:"] if section.heading else [])]
        width = max((len(row.label) for row in section.rows), default=0) + 3
        for row in section.rows:
            label = f"{row.label}:" if row.label else ""
            drawn.append(f"  {label.ljust(width)}{row.text}")
    return drawn


def alert_lines(health: Health) -> list[str]:
    """Draw the verdict, and each reason with its hint below it."""
    drawn = [f"Health Status: {WORDS[health.status]}"]
    for reason in health.reasons:
        drawn += [f"  {WORDS[reason.level]}: {reason.text}", *([f"    {reason.hint}"] if reason.hint else [])]
    return drawn


def draw_page(overview: Overview, sections: Sequence[ReportSection], *, boxed: bool) -> RenderableType:
    """Draw the same for a terminal of any width."""
    blocks: list[RenderableType] = []
    if boxed:
        title = Panel(Text(REPORT_TITLE, justify="center"), box=box.DOUBLE, width=_WIDTH + 2)
        blocks += [title, Text(f"Generated: {_stamp(overview.now, overview)}")]
    blocks.append(alert_page(overview.health))
    for section in sections:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(overflow="fold", min_width=8)
        table.add_column(overflow="fold", ratio=1)
        for row in section.rows:
            table.add_row(Text(f"  {row.label}", style="bold"), Text(row.text, style=row.style))
        blocks += [Text(), *([Text(section.heading, style="bold underline")] if section.heading else []), table]
    return Group(*blocks)


def alert_page(health: Health) -> RenderableType:
    """Draw the verdict and its reasons for a terminal."""
    blocks: list[RenderableType] = [Text.assemble("Health Status: ", (WORDS[health.status], _STYLES[health.status]))]
    for reason in health.reasons:
        text = Text.assemble((f"{WORDS[reason.level]}: ", _STYLES[reason.level]), reason.text)
        blocks.append(Padding(text, (0, 0, 0, 2)))
        if reason.hint:
            blocks.append(Padding(Text(reason.hint, style="dim"), (0, 0, 0, 4)))
    return Group(*blocks)


def _box() -> list[str]:
    """As the seed draws it."""
    edge = "═" * _WIDTH
    return [f"╔{edge}╗", f"║{REPORT_TITLE.rjust(11 + len(REPORT_TITLE)).ljust(_WIDTH)}║", f"╚{edge}╝"]


def _clocks(overview: Overview) -> Iterator[Row]:
    for clock in overview.clocks:
        yield Row(f"newest {clock.name}", _clock(clock), _STYLES[clock.status] if clock.limit or clock.stored else "")


def _clock(clock: Clock) -> str:
    if clock.stored is None or clock.age is None:
        return clock.note or "none"
    old = f"{age(clock.age)}" if clock.age < timedelta() else f"{age(clock.age)} old"
    limit = f" (limit {age(clock.limit)})" if clock.limit is not None else ""
    return f"{clock.stored.id}, {old}{limit}" + (f"; {clock.note}" if clock.note else "")


def _count(good: int, proven: int, bad: int, pinned: int, expected: int | None) -> str:
    more = [
        f"{number} {word}" for number, word in ((proven, "proven"), (bad, "not good"), (pinned, "pinned")) if number
    ]
    if expected is not None and good < expected:
        more.append(f"{expected} when full")
    return plural(good, "backup") + (f" ({', '.join(more)})" if more else "")


def _storage(overview: Overview) -> Iterator[Row]:
    storage = overview.storage
    yield Row("Total Used", size(storage.used) if overview.tiers else "not known")
    free = size(storage.free) if storage.free is not None else "not known"
    yield Row("Free Space", free + (f" of {size(storage.total)}" if storage.total is not None else ""))
    if storage.next_set is not None:
        grows = f", growing by {size(storage.growth)} a day" if storage.growth and storage.growth > 0 else ""
        yield Row("Next Set", f"about {size(storage.next_set)}{grows}")
    if storage.days_left is not None:
        yield Row("Lasts", f"{_days(storage.days_left)} (assumes {storage.assumes})")
    if overview.restore_seconds is not None:
        yield Row("Restore Time", f"{duration(overview.restore_seconds)}, as {overview.restore_measured} took")
    if storage.undo is not None:
        until = f"until {_when(storage.undo_until, overview)}" if storage.undo_until else "for ever"
        yield Row("Kept for Undo", f"{size(storage.undo)} {until}; `undo` brings it back, `undo --discard` removes it")


def _offsite(overview: Overview) -> Iterator[Row]:
    for place in overview.offsite:
        parts = [f"{plural(place.sets, 'set')}, {size(place.size)}"]
        parts += [f"{place.waiting} waiting ({size(place.waiting_size)})"] if place.waiting else []
        parts += [f"{place.bad} not as sent"] if place.bad else []
        parts += [f"newest {place.newest}"] if place.newest else []
        parts += [f"checked {_when(place.looked, overview)}"] if place.looked else []
        yield Row(printable(place.name), ", ".join(parts), "yellow" if place.waiting or place.bad else "")


def _window(overview: Overview) -> Iterator[Row]:
    if window := overview.window:
        style = "green" if window.follows(overview.now) and not window.breaks(overview.now) else "yellow"
        yield Row("moments", window_words(window, overview.now, overview.zone), style)
        if (stream := window.stream) and stream.slot:
            good = stream.up and not stream.slot.problem
            yield Row("slot", printable(slot_words(stream.slot, up=stream.up)), "green" if good else "yellow")
        for each in window.offsite:
            style = "green" if each.follows(overview.now) and not each.breaks(overview.now) else "yellow"
            yield Row(f"moments {each.place}", printable(offsite_words(each, overview.now, overview.zone)), style)


def _wal(overview: Overview) -> Iterator[Row]:
    if window := overview.window:
        if base := window.base:
            old = age(overview.now - base.ended)
            kind = f", on {printable(base.parent)}" if base.parent else ""
            yield Row("newest base", f"{printable(base.id)}, {old} old, {size(base.artifact.stored_size)}{kind}")
        yield Row("WAL", f"{plural(window.segments, 'segment')}, {size(window.segment_bytes)}")
        if stream := window.stream:
            yield Row("stream", "; ".join(filter(None, [printable(stream.state), _short(stream.message)])))


def _room(storage: Storage) -> str:
    free = f"{size(storage.free)} free" if storage.free is not None else "free space not known"
    lasts = f", lasts {_days(storage.days_left)}" if storage.days_left is not None else ""
    return f"{size(storage.used)} used, {free}{lasts}"


def _days(days: float) -> str:
    return "10 years or more" if days >= HORIZON else plural(round(days), "day")


def _last_runs(overview: Overview) -> Iterator[Row]:
    newest: dict[str, Run] = {}
    for run in overview.runs:
        newest.setdefault(f"{run.operation} {run.tier}".strip(), run)
    for what, run in newest.items():
        yield Row(printable(what), _run(run, overview), _style(run))


def _run(run: Run, overview: Overview) -> str:
    took = f" in {duration(run.seconds['total'])}" if "total" in run.seconds else ""
    why = f": {_short(run.message)}" if run.message and run.outcome is not Outcome.SUCCESS else ""
    return f"{run.outcome}{took}, {_when(run.started, overview)}{why}"


def _told(run: Run) -> str:
    what = printable(" ".join(part for part in (run.operation, run.tier, run.set) if part))
    return f"{what}: {run.outcome}" + (f": {_short(run.message)}" if run.message else "")


def _set(stored: StoredSet) -> str:
    # All that is good was verified; of files of the old scripts that is not said otherwise.
    shown = stored.shown if stored.proven or not stored.good else ""
    words = ", ".join(filter(None, [size(stored.size), stored.state, shown]))
    return words + (f": {_short(stored.problem)}" if stored.problem else "")


def _short(text: str) -> str:
    return shortened(printable(" ".join(text.split())), 300)


def _style(run: Run | None) -> str:
    return _OUTCOMES.get(run.outcome, "yellow") if run else ""


def _name(tier: Tier) -> str:
    return str(tier).capitalize()


def _stamp(moment: datetime, overview: Overview) -> str:
    return f"{moment.astimezone(overview.zone):%Y-%m-%d %H:%M:%S}"


def _when(moment: datetime, overview: Overview) -> str:
    return f"{moment.astimezone(overview.zone):%a %Y-%m-%d %H:%M}"
