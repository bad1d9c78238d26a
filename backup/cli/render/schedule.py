"""The schedule as people and programs see it: next runs, the last one, what is owed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import RenderableType
from rich.table import Table

from backup.formatting import local_time, plural, printable
from backup.model.schedule import Account, Owed, Slot


def schedule_table(
    slots: Sequence[Slot], accounts: Mapping[str, Account], due: Sequence[Owed], zone: ZoneInfo
) -> RenderableType:
    """One line a job, soonest first."""
    table = Table("job", "cron line", "next runs", "last run", "owed", box=None, pad_edge=False, header_style="bold")
    late = {each.job: each for each in due}
    for slot in slots:
        table.add_row(
            slot.job,
            slot.cron,
            "\n".join(local_time(moment, zone, "%a %Y-%m-%d %H:%M") for moment in slot.times),
            last_run(accounts.get(slot.job), zone),
            _owed(late.get(slot.job), zone),
        )
    return table


def schedule_lines(
    slots: Sequence[Slot], accounts: Mapping[str, Account], due: Sequence[Owed], zone: ZoneInfo
) -> list[str]:
    """The table for other programs' eyes, separated by tabs: next runs first, then last runs, then what is owed."""
    lines = [f"{slot.job}\t{slot.cron}\t{moment.isoformat()}" for slot in slots for moment in slot.times]
    lines += [f"{slot.job}\tlast\t{last_run(accounts.get(slot.job), zone)}" for slot in slots]
    return lines + [f"{each.job}\towed\t{_owed(each, zone)}" for each in due]


def schedule_json(slots: Sequence[Slot], accounts: Mapping[str, Account], due: Sequence[Owed]) -> list[dict[str, Any]]:
    """The schedule as `--json` prints it."""
    late = {each.job: {"slot": each.slot.isoformat(), "missed": each.missed} for each in due}
    shown = {"slot", "slots", "trigger", "begun", "ended", "exit_code", "reason", "crashed"}
    return [
        {
            "job": slot.job,
            "cron": slot.cron,
            "next": [moment.isoformat() for moment in slot.times],
            "last": account.model_dump(mode="json", include=shown)
            if (account := accounts.get(slot.job)) and account.begun
            else None,
            "owed": late.get(slot.job),
        }
        for slot in slots
    ]


def last_run(account: Account | None, zone: ZoneInfo) -> str:
    """The last run in words, with why it was late or how it died."""
    if account is None or account.begun is None:
        return "none yet"
    how = _ending(account) if account.crashed or not account.open else "running"
    what = f"caught up, once for {account.slots}" if account.trigger == "catch-up" else ""
    why = printable(account.reason)
    told = [f"{local_time(account.begun, zone)} {how}", *(text for text in (what, why) if text)]
    return "; ".join(told)


def _ending(account: Account) -> str:
    if account.crashed:
        return "crashed"
    words = {
        0: "done",
        3: "done, but files changed or its place is memory",
        4: "done, but more waits for `prune --force`",
    }
    return words.get(account.exit_code or 0) or f"ended with code {account.exit_code}"


def _owed(slot: Owed | None, zone: ZoneInfo) -> str:
    if slot is None:
        return ""
    more = f" and {plural(slot.missed - 1, 'time')} before" if slot.missed > 1 else ""
    return f"{local_time(slot.slot, zone)}{more}"
