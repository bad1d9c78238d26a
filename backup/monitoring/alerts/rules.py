"""What is to be told now. Pure: health, runs and what was told before, in; the notices and what is told then, out.

Health is a state and is told as one: once when it turns bad, reminders, once when it is good again. A failed run is
an event and is told once, alike ones within the time of a reminder together. What may not be told now, because too
much has been, stays untold and goes into the next message: a storm gives few messages, and none of it is lost.
A cause that makes health critical, and the end of what was told, are not held back by other messages: a cause has a
limit of its own, which only a state that comes and goes reaches, and which holds it back for an hour at most.
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
from backup.monitoring.alerts.model import Event, Known, Notice, Policy, State, later
from backup.monitoring.health import Health

# A cause must stand for a look and a half: the scheduler that is just being started again is none.
SETTLE: Final = timedelta(seconds=20)
# (messages, within): no more of all that is not critical.
LIMITS: Final = ((4, timedelta(hours=1)), (12, timedelta(days=1)))
# (messages, within) that one critical cause may have beyond those; as many more tell that it is over.
CRITICAL: Final = ((2, timedelta(hours=1)), (6, timedelta(days=1)))
# A critical cause that has stood for so long does not come and go: no limit keeps it back.
STANDS: Final = timedelta(hours=1)
# A warning that comes and goes is told once within this time.
_AGAIN: Final = timedelta(days=7)
# Reminders come at the set pace for a week, then at up to seven times that.
_FULL_PACE: Final = 6
_SLOWEST: Final = 7
_CLASSES: Final = 50
_WARNED: Final = 500
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


def due(state: State, health: Health, runs: Sequence[Run], now: datetime, policy: Policy) -> tuple[State, list[Notice]]:
    """What the recipients must be told now, and what they know then. At most one notice in one look."""
    state = _observe(_sane(state, now), health, runs, now)
    passed = {name: known for name, known in state.held.items() if name not in _warnings(health)}
    notice, after = _notice(state.model_copy(update={"held": passed}), health, now, policy)
    if notice is None:
        return (state if _allowed(state, now) else _hold(state, health, now, policy)), []
    told = {name: (*state.critical.get(name, ()), now) for name in _untold(state, now)}
    update = {"sent": (*after.sent, now), "critical": {**state.critical, **told}, "held": {}}
    return after.model_copy(update=update), [notice]


def ping(
    state: State, sets: Sequence[StoredSet], runs: Sequence[Run], now: datetime, max_age: timedelta
) -> tuple[State, str]:
    """The run whose verified success the heartbeat's receiver must hear of, or nothing; and what is told then.

    Verified means that the set holds the database, has been read back whole and nothing was wrong with it.
    """
    verified = {s.id for s in sets if s.good and s.verdict and not s.verdict.problems}
    well = [
        run
        for run in runs
        if run.operation == "create"
        and not run.safety
        and run.outcome in (Outcome.SUCCESS, Outcome.CHANGED)
        and run.only in ("", "database")
        and run.set in verified
        and timedelta(0) <= now - (run.ended or run.started) <= max_age
    ]
    newest = max(well, key=lambda run: (run.started, run.id), default=None)
    if newest is None or newest.id == state.ping:
        return state, ""
    return state.model_copy(update={"ping": newest.id}), newest.id


def _sane(state: State, now: datetime) -> State:
    """The state of a clock that was ahead must not keep anything from being told."""
    return state.model_copy(
        update={
            "causes": {
                name: known.model_copy(
                    update={
                        "since": min(known.since, now),
                        "seen": min(known.seen, now),
                        "told": later(known.told, now),
                    }
                )
                for name, known in state.causes.items()
            },
            "events": {
                name: event.model_copy(update={"told": later(event.told, now)}) for name, event in state.events.items()
            },
            "warned": _newest({name: told for name, told in state.warned.items() if now - _AGAIN < told <= now}),
            "unwell": later(state.unwell, now),
            "told": later(state.told, now),
            "sent": _recent(state.sent, now),
            "critical": {name: times for name, sent in state.critical.items() if (times := _recent(sent, now))},
        }
    )


def _newest(warned: Mapping[str, datetime]) -> dict[str, datetime]:
    """So many that the memory of them stays small: words may change all the time."""
    return dict(sorted(warned.items(), key=lambda each: each[1])[-_WARNED:])


def _recent(sent: Iterable[datetime], now: datetime) -> tuple[datetime, ...]:
    return tuple(moment for moment in sent if now - LIMITS[-1][1] < moment <= now)


def _observe(state: State, health: Health, runs: Sequence[Run], now: datetime) -> State:
    """The state with what is there now, nothing of it told yet."""
    failing = {cause(reason.text): reason for reason in health.reasons if reason.level == "fail"}
    gone = {name: known for name, known in state.causes.items() if name not in failing}
    untold = [known for known in gone.values() if known.told is None]
    # Words that change from look to look are one cause: it stands since the first of them, and has one limit.
    since = min([now, *(known.since for known in untold)])
    spent = tuple(sorted({moment for name in gone for moment in state.critical.get(name, ())}))
    causes = {
        name: Known(
            text=reason.text,
            hint=reason.hint,
            since=state.causes[name].since if name in state.causes else since,
            seen=now,
            told=state.causes[name].told if name in state.causes else None,
        )
        for name, reason in list(failing.items())[:_CLASSES]
    }
    new = [name for name in causes if spent and name not in state.causes]
    followed = {name: tuple(sorted({*spent, *state.critical.get(name, ())})) for name in new}
    passed = [known for known in untold if known.seen - known.since >= SETTLE]
    failed = [run for run in runs if run.outcome in (Outcome.FAILED, Outcome.CRASHED)]
    return state.model_copy(
        update={
            "causes": causes,
            "critical": dict(list({**state.critical, **followed}.items())[-_CLASSES:]),
            "events": _events(state, _new(state, failed, now), passed, now),
            # No record at all means that they cannot be read just now.
            "seen": tuple(run.id for run in failed) if runs else state.seen,
        }
    )


def _new(state: State, failed: Iterable[Run], now: datetime) -> list[Run]:
    """Runs not counted yet, oldest first. Who knows nothing yet, is not told of what is older than a day."""
    seen, since = frozenset(state.seen or ()), now - timedelta(days=1)
    new = [
        run for run in failed if run.id not in seen and (state.seen is not None or (run.ended or run.started) > since)
    ]
    return sorted(new, key=lambda run: (run.started, run.id))


def _events(state: State, new: Iterable[Run], passed: Iterable[Known], now: datetime) -> dict[str, Event]:
    events = {
        name: event for name, event in state.events.items() if event.count or (event.told and now - event.told < _AGAIN)
    }
    for run in new:
        what = f"{run.operation} {run.tier}".strip()
        text = f"{what} {'crashed' if run.outcome is Outcome.CRASHED else 'failed'}: {run.message or 'no reason given'}"
        _count(events, text, run.hint, min(run.ended or run.started, now))
    for known in passed:
        _count(events, f"for a while: {known.text}", known.hint, known.since)
    return events


def _count(events: dict[str, Event], text: str, hint: str, moment: datetime) -> None:
    name = cause(text)
    if name not in events and len(events) >= _CLASSES:
        idle = [(each.told, other) for other, each in events.items() if each.told and not each.count and other != _REST]
        if idle:
            del events[min(idle)[1]]
        else:
            name = _REST
    old = events.get(name)
    # One line harmless to show; the memory is bounded, whatever a run says.
    events[name] = Event(
        text=messages.line(text),
        hint=messages.line(hint),
        last=moment,
        count=(old.count if old else 0) + 1,
        told=old.told if old else None,
    )


def _notice(state: State, health: Health, now: datetime, policy: Policy) -> tuple[Notice | None, State]:
    allowed = _allowed(state, now)
    if _urgent(state, now) or (allowed and _news(state, now, policy)):
        return messages.problem("failure", state, health, now, policy), _told(state, health, now, reminded=0)
    if state.unwell and not state.causes and health.status in ("pass", "warn"):
        after = _told(state, health, now, reminded=0).model_copy(update={"unwell": None, "told": None})
        return messages.recovery(state, health, now, policy), after
    if not allowed:
        return None, state
    if state.unwell and state.causes:
        pace = policy.remind * min(2 ** max(0, state.reminded - _FULL_PACE), _SLOWEST)
        if now - (state.told or state.unwell) >= pace:
            notice = messages.problem("reminder", state, health, now, policy)
            return notice, _told(state, health, now, reminded=state.reminded + 1)
    return _warning(state, health, now, policy)


def _allowed(state: State, now: datetime) -> bool:
    return _within(state.sent, now, LIMITS)


def _within(sent: Iterable[datetime], now: datetime, limits: Iterable[tuple[int, timedelta]]) -> bool:
    """Whether one more message is within the limits."""
    times = list(sent)
    return all(sum(now - moment < within for moment in times) < most for most, within in limits)


def _urgent(state: State, now: datetime) -> bool:
    """Whether a cause waits that goes whatever else was sent."""
    return any(
        now - state.causes[name].since >= STANDS or _within(state.critical.get(name, ()), now, CRITICAL)
        for name in _untold(state, now)
    )


def _untold(state: State, now: datetime) -> list[str]:
    """The classes of causes that stand and were not told."""
    return [name for name, known in state.causes.items() if known.told is None and now - known.since >= SETTLE]


def _hold(state: State, health: Health, now: datetime, policy: Policy) -> State:
    """Keep warnings that may not be told now for the next message: they may have passed by then."""
    if policy.level == "fail":
        return state
    new = {
        name: Known(text=messages.line(told.text), hint=messages.line(told.hint), since=now, seen=now)
        for name, told in _warnings(health).items()
        if name not in state.warned
    }
    return state.model_copy(update={"held": dict(list({**new, **state.held}.items())[:_CLASSES])})


def _news(state: State, now: datetime, policy: Policy) -> bool:
    """Whether a cause stands that was not told, or runs failed in a way that was not told of late.

    While something is wrong that was told, runs that fail as others did wait for its reminder.
    """
    reminds = state.unwell is not None and bool(state.causes)
    return bool(_untold(state, now)) or any(
        event.count and (event.told is None or (not reminds and now - event.told >= policy.remind))
        for event in state.events.values()
    )


def _told(state: State, health: Health, now: datetime, reminded: int) -> State:
    """All that is there has been told."""
    return state.model_copy(
        update={
            "causes": {name: known.model_copy(update={"told": now}) for name, known in state.causes.items()},
            "events": {
                name: event.model_copy(update={"told": now, "count": 0}) if event.count else event
                for name, event in state.events.items()
            },
            "warned": {**state.warned, **dict.fromkeys([*_warnings(health), *state.held], now)},
            # Of runs alone there is no recovery to tell: what is there now stands in the message.
            "unwell": state.unwell or (now if state.causes else None),
            "told": now,
            "reminded": reminded,
        }
    )


def _warnings(health: Health) -> dict[str, Finding]:
    found = {cause(reason.text): reason for reason in health.reasons if reason.level == "warn"}
    return dict(list(found.items())[:_CLASSES])


def _warning(state: State, health: Health, now: datetime, policy: Policy) -> tuple[Notice | None, State]:
    found = _warnings(health)
    new = [reason for name, reason in found.items() if name not in state.warned]
    if policy.level == "fail" or not (new or state.held):
        return None, state
    warned = {**state.warned, **dict.fromkeys([*found, *state.held], now)}
    return messages.warning(new, state, health, now, policy), state.model_copy(update={"warned": warned})
