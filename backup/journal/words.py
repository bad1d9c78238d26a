"""A restore that stands half way, in words: what state things are in, and what ends it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from backup.errors import RestoreUnfinished
from backup.journal.model import Journal, Step, direction
from backup.text import age, printable

_LISTED: Final = 5


def state(journal: Journal) -> str:
    """What state things are in, as a part of a sentence; short, and safe to print."""
    text = f"{_changed(journal)}; {_containers(journal)}"
    return f"it was being rolled back when it stopped: {text}" if journal.back else text


def words(journal: Journal, now: datetime) -> str:
    """What stands half way, in what state things are, and the two commands."""
    since = f"begun {journal.started:%Y-%m-%d %H:%M:%S %Z}, {age(now - journal.started)} ago"
    return f"{_name(journal)} ({since}) stopped at `{journal.step}`: {state(journal)}. {commands(journal)}"


def commands(journal: Journal) -> str:
    """What ends it, and how things are then."""
    back = "puts everything back to what it was before and starts what was stopped"
    if direction(journal) == "back":
        return f"`restore --rollback` {back}; `restore --resume` does the same here, because nothing is exchanged" + (
            " for good." if journal.back else " yet."
        )
    return (
        f"`restore --resume` finishes it and starts what was stopped; `restore --rollback` {back}"
        f"{f' (safety set: {printable(journal.safety)})' if journal.safety else ''}."
    )


def unfinished(journal: Journal, now: datetime) -> RestoreUnfinished:
    """The refusal of a command that must not run while a restore stands half way."""
    return RestoreUnfinished(words(journal, now).removesuffix(f" {commands(journal)}"), commands(journal))


def journal_reason(journal: Journal, alive: bool) -> tuple[Literal["warn", "fail"], str, str]:
    """Severity, text and hint for the health of the service; `alive` when its process still runs."""
    since = f"since {journal.started:%Y-%m-%d %H:%M:%S %Z}"
    if alive:
        text = f"{_name(journal)} is running {since}, at `{journal.step}`: {state(journal)}"
        return "warn", text, "`docker compose logs -f backup` shows its progress."
    return "fail", f"{_name(journal)} is unfinished {since}, at `{journal.step}`: {state(journal)}", commands(journal)


def _name(journal: Journal) -> str:
    only = f", {journal.only} only," if journal.only else ""
    return f"the {journal.kind} of {printable(journal.set)}{only}"


def _changed(journal: Journal) -> str:
    """What is live."""
    new, old = ("restored", "old") if journal.kind == "restore" else ("kept", "current")
    step, database = journal.step.number, journal.database is not None
    if step < Step.SWAPPING_DATABASE.number:
        return "the live data are untouched"
    if step >= Step.SWAPPED.number:
        return f"the {new} data are live"
    media = _listed([volume.name for volume in journal.volumes])
    if journal.step is Step.SWAPPING_DATABASE:
        rest = f", the {old} files of {media} are live" if media else ""
        return f"either the {old} or the {new} database is live, whole{rest}"
    first = f"the {new} database is live, " if database else ""
    return f"{first}each of the volumes {media or '(none)'} has either its {old} or its {new} files, whole"


def _containers(journal: Journal) -> str:
    names = [entry.name for entry in journal.stopped]
    if not names:
        return "no container was stopped"
    may = "" if Step.STOPPING.number < journal.step.number < Step.STARTING.number and not journal.back else "may be "
    return f"{_listed(names)} {may or ('is ' if len(names) == 1 else 'are ')}stopped"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(printable(name) for name in names[:_LISTED]) + more
