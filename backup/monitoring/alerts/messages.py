"""The messages: the verdict first, then what, why, in what state things are, and the next command. Plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal

from backup.formatting import age, local_time, plural, printable, shortened
from backup.logging import redacted
from backup.model.finding import Finding, failure
from backup.monitoring.alerts.model import BODY, TITLE, Event, Notice, Policy, State
from backup.monitoring.health import Health

_LINE: Final = 400
_HEADLINE: Final = 120
_LISTED: Final = 8
# To these the lines of a message are cut, where it would be too long.
_LENGTHS: Final = (_LINE, 200, 120, 80, 60, 40)
_SECONDS: Final = "%Y-%m-%d %H:%M:%S"


def line(text: str, length: int = _LINE) -> str:
    """One harmless line without secrets."""
    return shortened(printable(" ".join(redacted(text).split())), length)


def notice(kind: Literal["failure", "reminder", "recovery", "warning", "test"], title: str, body: str) -> Notice:
    """A notice within its bounds."""
    return Notice(kind, line(title, TITLE), shortened(body, BODY))


def problem(
    kind: Literal["failure", "reminder"], state: State, health: Health, now: datetime, policy: Policy
) -> Notice:
    """Something failed, or still fails. `state` is as it was before this is told."""
    untold = [event for event in state.events.values() if event.count]
    new_first = sorted(state.causes.values(), key=lambda known: known.told is not None)
    causes = [failure(known.text, known.hint) for known in new_first]
    new = [known.text for known in new_first if known.told is None]
    first = line((new or [e.text for e in untold] or [r.text for r in causes] or ["see below"])[0], _HEADLINE)
    if kind == "failure":
        verdict = f"{_what_failed(first, causes, health)}: {first}"
    else:
        verdict = f"BACKUP STILL FAILING for {age(now - (state.unwell or now))}: {first}"
    body = [
        *_reasons("What is wrong now", causes),
        *_runs(untold, policy),
        *_held(state),
        *_reasons("Besides", [reason for reason in health.reasons if reason.level == "warn"]),
        *_state(health),
    ]
    return notice(kind, f"[{policy.name}] {verdict}", _body(body, now, policy))


def _what_failed(first: str, causes: Sequence[Finding], health: Health) -> str:
    """Only a backup can be well by the next one: a set that a drill refuted stays refuted."""
    operation = first.split(" ")[0]
    if causes or operation == "create":
        return "BACKUP FAILED" if causes or health.status != "pass" else "BACKUP FAILED, but is well by now"
    return f"{operation.upper()} FAILED"


def recovery(state: State, health: Health, now: datetime, policy: Policy) -> Notice:
    """All is well again."""
    lasted = age(now - state.unwell) if state.unwell else "a while"
    body = [
        f"What was wrong is over; it was reported for {lasted}.",
        "",
        *_runs([event for event in state.events.values() if event.count], policy),
        *_held(state),
        *_reasons("What remains to be looked at", health.reasons),
        *_state(health),
    ]
    return notice("recovery", f"[{policy.name}] BACKUP RECOVERED after {lasted}", _body(body, now, policy))


def warning(new: Sequence[Finding], state: State, health: Health, now: datetime, policy: Policy) -> Notice:
    """Backups are made, but something should be looked at."""
    body = [*_reasons("Worth a look", new), *_held(state), *_state(health)]
    first = line([*(told.text for told in new), *(known.text for known in state.held.values())][0], _HEADLINE)
    return notice("warning", f"[{policy.name}] BACKUP WARNING: {first}", _body(body, now, policy))


def trial(now: datetime, policy: Policy) -> Notice:
    """What `notify --test` sends."""
    body = ["This is a test. If you can read it, messages about the backups reach you.", ""]
    return notice("test", f"[{policy.name}] BACKUP TEST MESSAGE", _body(body, now, policy))


def _held(state: State) -> Iterator[str]:
    """All of them, since what has passed is listed nowhere else."""
    if state.held:
        yield "Held back until now, because many messages had been sent:"
        yield from (f"- {line(known.text)}" for known in state.held.values())
        yield ""


def _reasons(heading: str, reasons: Sequence[Finding]) -> Iterator[str]:
    if not reasons:
        return
    yield f"{heading}:"
    for reason in reasons[:_LISTED]:
        yield f"- {line(reason.text)}"
        if reason.hint:
            yield f"  {line(reason.hint)}"
    if len(reasons) > _LISTED:
        yield f"- and {len(reasons) - _LISTED} more: `docker compose run --rm backup monitor --alert` lists them"
    yield ""


def _runs(events: Iterable[Event], policy: Policy) -> Iterator[str]:
    listed = sorted(events, key=lambda event: event.last, reverse=True)
    if not listed:
        return
    yield "What has happened since the last message:"
    for event in listed[:_LISTED]:
        often = f"{plural(event.count, 'time')}, last " if event.count > 1 else ""
        yield f"- {often}{local_time(event.last, policy.zone, _SECONDS)}: {line(event.text)}"
        if event.hint:
            yield f"  {line(event.hint)}"
    if len(listed) > _LISTED:
        rest = sum(event.count for event in listed[_LISTED:])
        yield f"- and {rest} more; `docker compose logs backup` has them"
    yield ""


def _state(health: Health) -> Iterator[str]:
    good = health.newest_good
    if good is None or health.age is None:
        yield "There is no good set of the database to restore."
    else:
        proven = ", proven by a restore" if good.proven else ""
        yield f"The newest good set is {line(good.id)}, {age(health.age)} old{proven}."
    yield f"State now: {health.status}."


def _body(lines: Iterable[str], now: datetime, policy: Policy) -> str:
    tail = [
        "",
        "Look: docker compose exec backup backup list",
        "      docker compose logs --tail 100 backup",
        "",
        f"-- {line(policy.name)}, {local_time(now, policy.zone, _SECONDS)}",
    ]
    whole, body = list(lines), ""
    for most in _LENGTHS:
        body = "\n".join([*(shortened(each, most) for each in whole), *tail]) + "\n"
        if len(body) <= BODY:
            break
    return body
