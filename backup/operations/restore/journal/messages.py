"""A restore that stands half way, in words: what state things are in, and what ends it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from backup.errors import RestoreUnfinished
from backup.formatting import age, listed, printable
from backup.operations.restore.journal.model import Journal, Kept, Lost, Step, direction


def state(journal: Journal) -> str:
    """What state things are in, as a part of a sentence; short, and safe to print."""
    text = _state(journal)
    return f"it was being rolled back when it stopped: {text}" if journal.back else text


def _state(journal: Journal) -> str:
    return f"{_changed(journal)}; {_containers(journal)}"


def words(journal: Journal, now: datetime) -> str:
    """What stands half way, in what state things are, and the two commands."""
    since = f"begun {_begun(journal)}, {age(now - journal.started)} ago"
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


def running(journal: Journal, who: str) -> str:
    """What is under way, since when, and in what state things are; `who` holds the lock for it."""
    back = "is being rolled back" if journal.back else "is running"
    text = f"{_name(journal)} {back}, begun {_begun(journal)}, at `{journal.step}`: {_state(journal)}"
    return f"{text}. At work on it: {printable(who)}"


def journal_reason(journal: Journal, who: str) -> tuple[Literal["warn", "fail"], str, str]:
    """Severity, text and hint for the health of the service; `who` is at work on it, nobody where that is empty."""
    if who:
        return "warn", running(journal, who), "`docker compose logs -f backup` shows its progress."
    text = f"{_name(journal)} is unfinished since {_begun(journal)}, at `{journal.step}`: {state(journal)}"
    return "fail", text, commands(journal)


def _begun(journal: Journal) -> str:
    return f"{journal.started:%Y-%m-%d %H:%M:%S %Z}"


def lost_words(lost: Lost, kept: Kept) -> tuple[str, str]:
    """What cannot be undone any more and why, and what ends that."""
    safety = f" `restore {printable(kept.safety)}` puts back the safety set of then." if kept.safety else ""
    why = f"what the last restore replaced is {lost} and cannot come back"
    return why, f"`undo --discard` ends that.{safety}"


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
    media = listed([volume.name for volume in journal.volumes])
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
    return f"{listed(names)} {may or ('is ' if len(names) == 1 else 'are ')}stopped"
