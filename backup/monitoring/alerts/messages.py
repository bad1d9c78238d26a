"""The messages: the verdict first, then what, why, in what state things are, and the next command. Plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from backup.formatting import age, local_time, plural, printable, shortened
from backup.logging import redacted
from backup.model.finding import Finding
from backup.monitoring.alerts.model import BODY, TITLE, Kind, Known, Notice, Policy, State
from backup.monitoring.health import Health

_LINE: Final = 400
_HEADLINE: Final = 120
_LISTED: Final = 8
# To these the lines of a message are cut, where it would be too long.
_LENGTHS: Final = (_LINE, 200, 120, 80, 60, 40)
_SECONDS: Final = "%Y-%m-%d %H:%M:%S"
_BESIDES: Final = {"warning": "Worth a look", "recovery": "What remains to be looked at"}


def line(text: str, length: int = _LINE) -> str:
    """One harmless line without secrets."""
    return shortened(printable(" ".join(redacted(text).split())), length)


def compose(kind: Kind, state: State, health: Health, now: datetime, policy: Policy) -> Notice:
    """Say all that is wrong and all that is untold. `state` is as it was before this is told."""
    waiting = sorted(state.waiting, key=lambda each: (each.stands, each.since), reverse=True)
    passed = [each for each in waiting if not each.stands]
    wrong = [each for each in state.known.values() if each.level == "fail" and each.stands]
    wrong.sort(key=lambda each: each not in waiting)
    new = {each.text for each in waiting}
    warnings = sorted(
        (each for each in health.reasons if each.level == "warn"), key=lambda each: line(each.text) not in new
    )
    lasted = age(now - (state.unwell or now))
    body = [
        *([f"What was wrong is over; it was reported for {lasted}.", ""] if kind == "recovery" else ()),
        *_reasons("What is wrong now", wrong),
        *_passed(passed, policy),
        *_reasons(_BESIDES.get(kind, "Besides"), warnings),
        *_state(health),
    ]
    if kind == "recovery":
        verdict = f"BACKUP RECOVERED after {lasted}"
    else:
        first = [*(each for each in waiting if (each.level == "warn") == (kind == "warning")), *wrong][0]
        verdict = f"{_verdict(kind, first, lasted, health)}: {line(_text(first), _HEADLINE)}"
    return _notice(kind, f"[{policy.name}] {verdict}", _body(body, now, policy))


def trial(now: datetime, policy: Policy) -> Notice:
    """What `notify --test` sends."""
    body = ["This is a test. If you can read it, messages about the backups reach you.", ""]
    return _notice("test", f"[{policy.name}] BACKUP TEST MESSAGE", _body(body, now, policy))


def _notice(kind: Kind, title: str, body: str) -> Notice:
    """Build a notice within its bounds."""
    return Notice(kind=kind, title=line(title, TITLE), body=shortened(body, BODY))


def _verdict(kind: Kind, first: Known, lasted: str, health: Health) -> str:
    """Only a backup can be well by the next one: a set that a drill refuted stays refuted."""
    operation = first.text.split(" ")[0]
    if kind == "warning":
        return "BACKUP WARNING"
    if kind == "reminder":
        return f"BACKUP STILL FAILING for {lasted}"
    if health.status == "fail" or first.level == "fail" or operation == "create":
        return "BACKUP FAILED, but is well by now" if health.status == "pass" else "BACKUP FAILED"
    return f"{operation.upper()} FAILED"


def _text(each: Known) -> str:
    return each.text if each.stands or each.level == "run" else f"for a while: {each.text}"


def _reasons(heading: str, reasons: Sequence[Finding | Known]) -> Iterator[str]:
    if not reasons:
        return
    yield f"{heading}:"
    for reason in reasons[:_LISTED]:
        yield from _item(reason.text, reason.hint)
    if len(reasons) > _LISTED:
        yield f"- and {len(reasons) - _LISTED} more: `docker compose run --rm backup monitor --alert` lists them"
    yield ""


def _passed(passed: Sequence[Known], policy: Policy) -> Iterator[str]:
    """All of them, since what has passed is listed nowhere else."""
    if not passed:
        return
    yield "What has happened since the last message:"
    for number, each in enumerate(passed):
        often = f"{plural(each.count, 'time')}, last " if each.count > 1 else ""
        since = local_time(each.since, policy.zone, _SECONDS)
        yield from _item(f"{often}{since}: {_text(each)}", each.hint if number < _LISTED else "")
    yield ""


def _item(text: str, hint: str) -> Iterator[str]:
    yield f"- {line(text)}"
    if hint:
        yield f"  {line(hint)}"


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
