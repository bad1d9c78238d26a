"""The journal of a restore or an undo, in state/restore.json, and the record of what it replaced, in state/undo.json.

The journal is written before each step, so that whatever dies at any line leaves its name behind: what state things
are in, and which way they go. It is there from before the first change until after the last one.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import AwareDatetime, Field, ValidationError

from backup.errors import NoSpace, RestoreUnfinished, StoreError
from backup.formatting import age, listed, printable
from backup.operations.restore.cluster_record import ClusterSwap, KeptCluster, Record
from backup.storage import atomic_file
from backup.storage.directory import LocalStore
from backup.storage.staged_file import staged_name

JOURNAL: Final = "restore.json"
KEPT: Final = "undo.json"
_RESERVE: Final = "restore.reserve"
# More than a journal will ever need, so that each step can be noted on a disk that has filled up since the first.
_RESERVED: Final = 256 << 10
Direction = Literal["back", "forward"]
Lost = Literal["", "half removed", "gone"]


class RestoreStep(StrEnum):
    """What is being done, in this order. `SWAPPED` is the time of the post-restore commands."""

    LOADING = "loading"
    EXTRACTING = "extracting"
    READY = "ready"
    STOPPING = "stopping"
    SWAPPING_DATABASE = "swapping database"
    SWAPPING_MEDIA = "swapping media"
    SWAPPED = "swapped"
    STARTING = "starting"
    DONE = "done"

    @property
    def number(self) -> int:
        """Its place in the order, from 0."""
        return list(RestoreStep).index(self)


class DatabaseSwap(Record):
    """The database part. `live` gets the name `kept`, `new` gets the name `live`; an oid says which one is which.

    `live_oid` is None when there was no database, `new_oid` until there is one. `marker` is the comment that shows
    the new one to be ours. `settings` are statements that the new one is given when it becomes live.
    """

    live: str
    live_oid: int | None = None
    new: str
    new_oid: int | None = None
    kept: str
    marker: str = ""
    settings: tuple[str, ...] = ()


class VolumeSwap(Record):
    """A volume whose trees are exchanged. `stamp` names the restore that unpacked one of them beside the other.

    `onward`: that one is to be live; an undo may want it either way.
    """

    name: str
    stamp: str
    onward: bool = True


class StoppedContainer(Record):
    """A container that was running and is to run again."""

    id: str
    name: str
    service: str = ""


class Journal(Record):
    """One restore or undo under way. `set` is a set's id or a file, `safety` the set taken just before.

    `back`: a person has asked to roll it back, however far it had come. `source` describes what is restored.
    `failed`: what belongs after the exchange and has failed or has not been done so far, in words. `since` is when the
    first of `stopped` was told to stop. `nearest`: what the files' new place did not take as it was, in words.
    """

    format: Literal[1] = 1
    id: str
    run: str
    kind: Literal["restore", "undo"] = "restore"
    set: str
    source: str = ""
    only: Literal["", "database", "media"] = ""
    started: AwareDatetime
    step: RestoreStep = RestoreStep.LOADING
    back: bool = False
    database: DatabaseSwap | None = None
    cluster: ClusterSwap | None = None
    volumes: tuple[VolumeSwap, ...] = ()
    stopped: tuple[StoppedContainer, ...] = ()
    since: AwareDatetime | None = None
    roles: tuple[str, ...] = ()
    safety: str = ""
    failed: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()


class KeptDatabase(Record):
    """The database that was live before, now called `kept`; `size` in bytes.

    `lost`: why it cannot come back, as it was seen last; empty while it can.
    """

    live: str
    current_oid: int
    kept: str
    kept_oid: int
    size: int = Field(default=0, ge=0)
    lost: Lost = ""


class KeptVolume(Record):
    """The tree that was live before, kept in the volume under `stamp`; `bytes` of its files."""

    name: str
    stamp: str
    bytes: int = Field(default=0, ge=0)


class Kept(Record):
    """What the last restore (or undo) replaced. `days` is how long it is kept; None for ever."""

    format: Literal[1] = 1
    id: str
    set: str
    replaced: AwareDatetime
    safety: str = ""
    database: KeptDatabase | None = None
    cluster: KeptCluster | None = None
    volumes: tuple[KeptVolume, ...] = ()
    days: float | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, in the database server and in the volumes."""
        parts = (self.database.size if self.database else 0, self.cluster.bytes if self.cluster else 0)
        return sum(parts) + sum(volume.bytes for volume in self.volumes)

    def with_lost(self, lost: Lost) -> Kept:
        """The same, with why its database cannot come back, if it has one."""
        return self.model_copy(update={"database": self.database and self.database.model_copy(update={"lost": lost})})

    def expired(self, now: datetime) -> bool:
        """Whether it has been kept long enough."""
        return self.days is not None and now - self.replaced > timedelta(days=self.days)


def direction(journal: Journal) -> Direction:
    """Where it ends: as before, or as restored. From the first exchange on it goes forward, unless told otherwise."""
    forward = journal.step.number >= RestoreStep.SWAPPING_DATABASE.number and not journal.back
    return "forward" if forward else "back"


def describe_state(journal: Journal) -> str:
    """What state things are in, as a part of a sentence; short, and safe to print."""
    text = _state(journal)
    return f"it was being rolled back when it stopped: {text}" if journal.back else text


def _state(journal: Journal) -> str:
    return f"{_changed(journal)}; {_containers(journal)}"


def words(journal: Journal, now: datetime) -> str:
    """What stands half way, in what state things are, and the two commands."""
    return f"{_stopped(journal, now)} {commands(journal)}"


def _stopped(journal: Journal, now: datetime) -> str:
    since = f"started {_begun(journal)}, {age(now - journal.started)} ago"
    return f"{_name(journal)} ({since}) stopped at `{journal.step}`: {describe_state(journal)}."


def commands(journal: Journal) -> str:
    """What ends it, and how things are then."""
    back = "puts everything back as it was and starts what was stopped"
    if direction(journal) == "back":
        return f"`restore --rollback` {back}; `restore --resume` does the same here, because nothing is swapped" + (
            " for good." if journal.back else " yet."
        )
    return (
        f"`restore --resume` finishes it and starts what was stopped; `restore --rollback` {back}"
        f"{f' (safety set: {printable(journal.safety)})' if journal.safety else ''}."
    )


def unfinished_refusal(journal: Journal, now: datetime) -> RestoreUnfinished:
    """The refusal of a command that must not run while a restore stands half way."""
    return RestoreUnfinished(_stopped(journal, now), commands(journal))


def running(journal: Journal, who: str) -> str:
    """What is under way, since when, and in what state things are; `who` holds the lock for it."""
    back = "is being rolled back" if journal.back else "is running"
    text = f"{_name(journal)} {back}, started {_begun(journal)}, at `{journal.step}`: {_state(journal)}"
    return f"{text}. Working on it: {printable(who)}"


def journal_reason(journal: Journal, who: str) -> tuple[Literal["warn", "fail"], str, str]:
    """Severity, text and hint for the health of the service; `who` is at work on it, nobody where that is empty."""
    if who:
        return "warn", running(journal, who), "`docker compose logs -f backup` shows its progress."
    text = (
        f"{_name(journal)} has been unfinished since {_begun(journal)}, at `{journal.step}`: {describe_state(journal)}"
    )
    return "fail", text, commands(journal)


def _begun(journal: Journal) -> str:
    return f"{journal.started:%Y-%m-%d %H:%M:%S %Z}"


def lost_words(lost: Lost, kept: Kept) -> tuple[str, str]:
    """What cannot be undone any more and why, and what ends that."""
    safety = f" `restore {printable(kept.safety)}` puts back the safety set of then." if kept.safety else ""
    why = f"what the last restore replaced is {lost} and cannot come back"
    return why, f"`undo --discard` removes the rest.{safety}"


def _name(journal: Journal) -> str:
    only = f", {journal.only} only," if journal.only else ""
    return f"the {journal.kind} of {printable(journal.set)}{only}"


def _changed(journal: Journal) -> str:
    """What is live."""
    new, old = ("restored", "old") if journal.kind == "restore" else ("kept", "current")
    step, database = journal.step.number, journal.database is not None
    if step < RestoreStep.SWAPPING_DATABASE.number:
        return "the live data are untouched"
    if step >= RestoreStep.SWAPPED.number:
        return f"the {new} data are live"
    if journal.cluster:
        return f"either the {old} or the {new} cluster is to be live, whole, and its container may be stopped"
    media = listed([volume.name for volume in journal.volumes])
    if journal.step is RestoreStep.SWAPPING_DATABASE:
        rest = f", the {old} files of {media} are live" if media else ""
        return f"either the {old} or the {new} database is live, whole{rest}"
    first = f"the {new} database is live, " if database else ""
    return f"{first}each of the volumes {media or '(none)'} has either its {old} or its {new} files, whole"


def _containers(journal: Journal) -> str:
    names = [entry.name for entry in journal.stopped]
    if not names:
        return "no other container was stopped" if journal.cluster else "no container was stopped"
    may = (
        ""
        if RestoreStep.STOPPING.number < journal.step.number < RestoreStep.STARTING.number and not journal.back
        else "may be "
    )
    return f"{listed(names)} {may or ('is ' if len(names) == 1 else 'are ')}stopped"


_Read = TypeVar("_Read", Journal, Kept)


class JournalFile:
    """The journal of one backup volume. Only the holder of the lock writes."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state")
        self.path = self._store.directory / JOURNAL
        # What is on the disk for sure, because this has put it there last: it need not be put there again.
        self._written: Journal | None = None

    def read(self) -> Journal | None:
        """The journal of a restore that has not ended; RestoreUnfinished when there is one that cannot be read."""
        try:
            return _read(self._store, JOURNAL, Journal)
        except ValidationError as error:
            raise RestoreUnfinished(
                f"the journal of a restore, {self.path}, cannot be read ({_first(error)}): a restore did not end,"
                " and how far it came is unknown; nothing was touched now",
                "If a newer release wrote it, use that release. Otherwise check `docker compose ps -a` for stopped"
                " services, `psql -l` for databases named …__restore_… or …__before_…, the volumes for"
                " .obcms-restore-…, the database's data folder for pgsql_tmp_obcms_…; `list pre-restore` shows the"
                " safety sets. If all is in order, move the file away.",
            ) from None

    def begin(self, journal: Journal) -> Journal:
        """Note that a restore begins; RestoreUnfinished when an earlier one has not ended."""
        if earlier := self.read():
            raise unfinished_refusal(earlier, journal.started)
        self.sweep()
        atomic_file.replace(self._store, _RESERVE, os.urandom(_RESERVED), locked=True)
        return self._write(journal)

    def advance(self, journal: Journal, step: RestoreStep, **changes: Any) -> Journal:
        """Note the next step, before it is taken, with what is known by then.

        ValueError for a step back behind the swap: the journal would say that nothing has been changed yet.
        """
        if direction(journal) == "forward" and step.number < RestoreStep.SWAPPING_DATABASE.number:
            raise ValueError(f"{journal.step} cannot become {step}")
        # Validated again, which model_copy does not do.
        noted = Journal.model_validate({**dict(journal), **changes, "step": step})
        return noted if noted == self._written else self._write(noted)

    def turn_back(self, journal: Journal) -> Journal:
        """Note that it is being rolled back, however far it had come."""
        return self._write(journal.model_copy(update={"back": True}))

    def finish(self) -> None:
        """It has ended. Needs no room on the disk."""
        self._written = None
        self._store.remove(JOURNAL)
        self.sweep()

    def sweep(self) -> None:
        """Remove what writers that were killed had staged, and the reserve where nothing is under way."""
        # KEPT has writers without the lock, and releases before staged all three so.
        known, names = (JOURNAL, KEPT, _RESERVE), self._store.names()
        left = [name for name in names if atomic_file.forgotten(self._store, name) in known]
        self._store.remove_all([staged_name(JOURNAL), staged_name(_RESERVE), *left])
        if JOURNAL not in names:
            self._store.remove(_RESERVE)

    def _write(self, journal: Journal) -> Journal:
        data, self._written = _bytes(journal), None
        try:
            atomic_file.replace(self._store, JOURNAL, data, locked=True)
        except NoSpace:
            self._store.remove(_RESERVE)
            atomic_file.replace(self._store, JOURNAL, data, locked=True)
        self._written = journal
        return journal


class KeptFile:
    """The record of what the last restore replaced."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state")
        self.path = self._store.directory / KEPT

    def read(self) -> Kept | None:
        """What is kept; None when nothing is. StoreError when the record cannot be read."""
        try:
            return _read(self._store, KEPT, Kept)
        except ValidationError as error:
            raise StoreError(
                f"the record of what the last restore replaced, {self.path}, cannot be read ({_first(error)});"
                " nothing was touched",
                "Databases named …__before_…, .obcms-restore-… in the volumes and pgsql_tmp_obcms_… in the database's"
                " data folder hold what is kept; if there are none, move the file away.",
            ) from None

    def write(self, kept: Kept) -> None:
        """Record what is kept, in place of what was."""
        atomic_file.replace(self._store, KEPT, _bytes(kept))

    def remove(self) -> None:
        """Nothing is kept any more."""
        self._store.remove(KEPT)


def _read(store: LocalStore, name: str, model: type[_Read]) -> _Read | None:
    try:
        data = store.read(name)
    except StoreError:
        if os.path.lexists(store.directory / name):
            raise
        return None
    return model.model_validate_json(data)


def _bytes(record: Journal | Kept) -> bytes:
    # A release before that knows no such part reads what has none.
    left_out = None if record.cluster else {"cluster"}
    return record.model_dump_json(indent=1, exclude=left_out).encode() + b"\n"


def _first(error: ValidationError) -> str:
    """The first thing wrong, without the input: it may be anything."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return printable(f"{where}: {first['msg']}" if where else str(first["msg"]))
