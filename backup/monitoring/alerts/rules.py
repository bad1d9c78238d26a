"""What is to be told now. Pure: health, runs and what was told before, in; the notice and what is told then, out.

A message says all that is wrong and all that was not told yet. It is sent when a cause of `fail` comes, when all is
well again, when a run failed, when a warning comes, and once a day while something is wrong. One rule keeps it from a
flood: the first four of a day go at once. After that a cause goes when it has stood for an hour, and the rest when
the last message is three hours old. For a cause its own messages count, so that nothing else holds it back; for the
rest all do. What waits stays untold and is in the next message. So is all that comes while nobody takes any message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding
from backup.model.run import Outcome, Run
from backup.monitoring.alerts import messages
from backup.monitoring.alerts.model import Kind, Known, Notice, Policy, State
from backup.monitoring.health import Health

# A cause must stand for a look and a half: the scheduler that is just being started again is none.
SETTLE: Final = timedelta(seconds=20)
# So many messages in a day go at once, of one cause and of all the rest.
AT_ONCE: Final = 4
DAY: Final = timedelta(days=1)
# A cause that has stood for so long does not come and go.
STANDS: Final = timedelta(hours=1)
# Between messages about the rest, after the first of a day.
PAUSE: Final = timedelta(hours=3)
# A warning is told once within this time.
_AGAIN: Final = timedelta(days=7)
_CLASSES: Final = 50
_PASSED: Final = 100
_REMEMBERED: Final = 300
_REST: Final = "…"
_CLASS: Final = 120
_READ: Final = 1000
_DIGIT: Final = re.compile(r"\d")
_UNITS: Final = frozenset("s min h d B kB MB GB TB ahead".split())


def cause(text: str) -> str:
    """The class of a text: what is left of it without numbers, times, sizes and names of sets."""
    kept: list[str] = []
    for word in printable(text[:_READ]).split():
        number = _DIGIT.search(word) is not None
        if not number and not (kept[-1:] == ["#"] and word.strip(".,;:)") in _UNITS):
            kept.append(word)
        elif kept[-1:] != ["#"]:
            kept.append("#")
    return " ".join(kept)[:_CLASS]


def decide(
    state: State, health: Health, runs: Sequence[Run], now: datetime, policy: Policy, *, stuck: bool = False
) -> tuple[State, Notice | None]:
    """What the recipients know then, and what they must be told now. `stuck`: nobody takes what was told before."""
    state = _observe(_past(state, now), health, runs, now, policy)
    kind = _kind(state, health, now, policy)
    if stuck or kind is None:
        return state, None
    return _told(state, kind, now), messages.compose(kind, state, health, now, policy)


def heartbeat_run(sets: Iterable[StoredSet], runs: Iterable[Run], now: datetime, max_age: timedelta) -> str:
    """The newest run that made a verified backup within `max_age`, or nothing.

    Verified means that the set holds the database, has been read back whole and nothing was wrong with it.
    """
    verified = {s.id for s in sets if s.good and s.verdict and not s.verdict.problems}
    well = (
        (run.started, run.id)
        for run in runs
        if run.operation == "create"
        and run.backup
        and run.outcome in (Outcome.SUCCESS, Outcome.CHANGED)
        and run.only in ("", "database")
        and run.set in verified
        and timedelta(0) <= now - (run.ended or run.started) <= max_age
    )
    return max(well, default=(now, ""))[1]


def _past(state: State, now: datetime) -> State:
    """The state without what lies ahead: a clock that was set back must not silence anything."""

    def past(times: Iterable[datetime]) -> tuple[datetime, ...]:
        return tuple(moment for moment in times if moment <= now)

    known = {name: _with(each, since=min(each.since, now), told=past(each.told)) for name, each in state.known.items()}
    unwell = state.unwell and min(state.unwell, now)
    return state.model_copy(update={"known": known, "unwell": unwell, "sent": past(state.sent)})


def _observe(state: State, health: Health, runs: Sequence[Run], now: datetime, policy: Policy) -> State:
    """The state with what is there now, nothing of it told yet."""
    reasons = [reason for reason in health.reasons if reason.level in ("fail", policy.level)]
    known = _stand(state.known, reasons, now, policy)
    # Of snapshots, health tells when one after the other does: they are many, and the next one makes up for it.
    failed = [run for run in runs if run.outcome in (Outcome.FAILED, Outcome.CRASHED) and not run.snapshot]
    for run in _new(state, failed, now):
        what = f"{run.operation} {run.tier}".strip()
        text = f"{what} {'crashed' if run.outcome is Outcome.CRASHED else 'failed'}: {run.message or 'no reason given'}"
        since = min(run.ended or run.started, now)
        old = known.get(f"run {cause(text)}", Known(level="run", since=since))
        known[f"run {cause(text)}"] = _with_text(old, text, run.hint, since=since, count=old.count + 1)
    # No record at all means that they cannot be read just now.
    seen = tuple(run.id for run in failed) if runs else state.seen
    return state.model_copy(update={"known": _bounded(known, now, policy), "seen": seen})


def _stand(before: Mapping[str, Known], reasons: Sequence[Finding], now: datetime, policy: Policy) -> dict[str, Known]:
    """What is known, with the reasons of health that stand now."""
    standing = dict(list({f"{each.level} {cause(each.text)}": each for each in reasons}.items())[:_CLASSES])
    known = {
        name: each if name in standing else _with(each, stands=False, settled=False) for name, each in before.items()
    }
    gone = [each for name, each in before.items() if each.level == "fail" and each.stands and name not in standing]
    # Words that change from look to look are one cause: it stands since the first of them, and has one limit.
    since = min([now, *(each.since for each in gone if each.count or not each.settled)])
    spent = {moment for each in gone for moment in each.told}
    for name, reason in standing.items():
        fail = reason.level == "fail"
        old = known.get(name) or Known(level="fail" if fail else "warn", since=now)
        if not old.stands:
            told = tuple(sorted({*old.told, *spent}))[-AT_ONCE:] if fail else old.told
            old = _with(old, since=since if fail else now, stands=True, told=told)
        settles = not old.settled and (not fail or now - old.since >= SETTLE)
        new = settles if fail else not (old.count or _is_recent(old, now, policy))
        known[name] = _with_text(old, reason.text, reason.hint, count=old.count + new, settled=old.settled or settles)
    return known


def _with_text(each: Known, text: str, hint: str, **update: object) -> Known:
    """One line harmless to show: the memory is bounded, whatever a run says."""
    return _with(each, **update, text=messages.line(text), hint=messages.line(hint))


def _with(each: Known, **update: object) -> Known:
    """A copy that differs so, or the same: from look to look little changes."""
    return each if all(getattr(each, name) == new for name, new in update.items()) else each.model_copy(update=update)


def _bounded(known: Mapping[str, Known], now: datetime, policy: Policy) -> dict[str, Known]:
    """What stands, is untold or was told of late; of very many things that passed untold some have one entry."""
    kept = {name: each for name, each in known.items() if each.stands}
    passed = {name: each for name, each in known.items() if each.count and not each.stands}
    names = sorted(passed, key=lambda name: (name != _REST, passed[name].since))
    while len(names) > _PASSED:
        last, rest = passed.pop(names.pop()), passed.get(_REST)
        passed[_REST] = last.model_copy(update={"count": last.count + (rest.count if rest else 0), "told": ()})
    told = {name: each for name, each in known.items() if _is_recent(each, now, policy)}
    newest = sorted(told.items(), key=lambda each: each[1].told[-1], reverse=True)
    return {**dict(newest[:_REMEMBERED]), **passed, **kept}


def _new(state: State, failed: Iterable[Run], now: datetime) -> list[Run]:
    """Runs not counted yet, oldest first. Who knows nothing yet, is not told of what is older than a day."""
    seen, since = frozenset(state.seen or ()), now - DAY
    new = [
        run for run in failed if run.id not in seen and (state.seen is not None or (run.ended or run.started) > since)
    ]
    return sorted(new, key=lambda run: (run.started, run.id))


def _kind(state: State, health: Health, now: datetime, policy: Policy) -> Kind | None:
    """What kind of message is due."""
    wrong = [each for each in state.known.values() if each.level == "fail" and each.stands]
    untold = [each for each in wrong if each.count]
    if any(_is_free(each.told, now) or now - each.since >= STANDS for each in untold):
        return "failure"
    if state.unwell and health.status in ("pass", "warn"):
        return "recovery"
    if not (_is_free(state.sent, now) or now - state.sent[-1] >= PAUSE):
        return None
    if state.unwell and wrong and now - (state.sent or (state.unwell,))[-1] >= policy.remind:
        return "reminder"
    # A run that fails as another one did today is counted, and waits for another message or for tomorrow.
    waiting = [each for each in state.waiting if not (each.level == "run" and _is_recent(each, now, policy))]
    if any(each.level != "warn" for each in waiting if each not in wrong):
        return "failure"
    # A message tells all, and a cause that has only just come may be gone at the next look.
    return "warning" if waiting and all(each.level == "warn" for each in waiting) else None


def _is_free(times: Sequence[datetime], now: datetime) -> bool:
    """Whether fewer messages than go at once were sent in a day."""
    return len(times) < AT_ONCE or now - times[-AT_ONCE] >= DAY


def _is_recent(each: Known, now: datetime, policy: Policy) -> bool:
    """Whether it was told so short a time ago that the recipients know of it."""
    again = {"fail": DAY, "warn": _AGAIN, "run": policy.remind}[each.level]
    return bool(each.told) and now - each.told[-1] < again


def _told(state: State, kind: Kind, now: datetime) -> State:
    """All that is there has been told."""
    waiting, update = state.waiting, {"text": "", "hint": "", "count": 0}
    known = {
        name: each.model_copy(update={**update, "settled": each.stands, "told": (*each.told, now)[-AT_ONCE:]})
        if each in waiting
        else each
        for name, each in state.known.items()
        if name != _REST
    }
    wrong = any(each.level == "fail" and each.stands for each in known.values())
    # Of runs alone there is no recovery to tell: what is there now stands in the message.
    unwell = None if kind == "recovery" else state.unwell or (now if wrong else None)
    return state.model_copy(update={"known": known, "unwell": unwell, "sent": (*state.sent, now)[-AT_ONCE:]})
