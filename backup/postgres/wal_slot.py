"""The slot by which a server keeps WAL while nobody receives it: no more of it than its max_slot_wal_keep_size.

The receiver does not use it: a session with a slot tells the server what it has synced, and by that becomes a standby
which commits may have to wait for. The slot is moved on from here instead, as far as WAL is on our own disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import psycopg

from backup.logging import logger
from backup.model.wal import WalSlot, lsn_text
from backup.postgres.server import maintenance
from backup.postgres.session import Login, server_message

# Ours of any backup volume. Slots are named by lower-case letters, digits and underscores, 63 at most.
SLOT_PREFIX: Final = "obcms_backup_wal_"
_CAP: Final = "SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'"
_SLOTS: Final = """
    SELECT slot_name::text, coalesce(active_pid, 0), coalesce(wal_status, ''),
           greatest(coalesce(pg_wal_lsn_diff(
               CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
               restart_lsn), 0), 0)::bigint, greatest(safe_wal_size, 0)
      FROM pg_replication_slots WHERE starts_with(slot_name, %s) AND NOT temporary ORDER BY 1"""
_MAKE: Final = "SELECT pg_create_physical_replication_slot(%s, true)"
# Also where it is to stay: a server that ends idle slots (18) sees by it that somebody is there.
_MOVE: Final = """
    SELECT pg_replication_slot_advance(slot_name, greatest(restart_lsn, %s::pg_lsn))
      FROM pg_replication_slots WHERE slot_name = %s"""
_DROP: Final = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
SET_LIMIT: Final = (
    "As a superuser: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf(); with as much as the"
    " disk of the database can spare. The slot is made within seconds."
)
_NEEDED: Final = "The login needs REPLICATION, and the server a free slot: max_replication_slots."
_USED: Final = "`SELECT * FROM pg_stat_activity` shows that process. End it, or set BACKUP_PITR_SLOT=off."
_LOST: Final = "lost"
_GIVEN_UP: Final = (
    "the server has given up the slot {} (max_slot_wal_keep_size, or idle_replication_slot_timeout): it is made anew,"
    " and `moments` says whether WAL is missing"
)


@dataclass(frozen=True)
class SlotState:
    """A slot of ours: which process uses it (0: none), `status` as wal_status, bytes that are `held`, and `safe`."""

    name: str
    used_by: int
    status: str
    held: int
    safe: int | None


@dataclass(frozen=True)
class Slots:
    """`cap` is max_slot_wal_keep_size in MB, -1 without one; `ours` are those of all backup volumes."""

    cap: int
    ours: tuple[SlotState, ...]

    def named(self, name: str) -> SlotState | None:
        """The slot of this name."""
        return next((each for each in self.ours if each.name == name), None)


def slot_name(instance: str) -> str:
    """What the slot of this backup volume is called."""
    return f"{SLOT_PREFIX}{instance}"


def wal_slots(login: Login) -> Slots:
    """Ask for the slots of this product; DatabaseUnavailable."""
    with maintenance(login, "slot") as connection:
        return _ask(connection)


def refusal(cap: int) -> str:
    """Why there may be no slot with this `cap`; empty where there may."""
    if cap > 0:
        return ""
    why = "the server would keep nothing by it" if cap == 0 else "it could fill the disk of the database"
    return f"BACKUP_PITR_SLOT=on is refused, because max_slot_wal_keep_size is {cap}: {why}"


def hold_wal(login: Login, name: str, place: int) -> WalSlot:
    """Let the server keep its WAL from `place` on: all before is on our disk. 0: that is not known.

    Makes the slot where there is none or it was lost, and drops it where it has no limit. What keeps it from being
    used is told in the slot, never raised: WAL is received without it as well. DatabaseUnavailable.
    """
    with maintenance(login, "slot") as connection:
        try:
            return _held(connection, name, place)
        except psycopg.Error as error:
            return WalSlot(name=name, problem=f"there is no slot: {server_message(error)}", hint=_NEEDED)


def drop_slot(connection: psycopg.Connection[Any], name: str) -> int:
    """Drop the slot of this name where there is one; how many. One that cannot be dropped is told in the log."""
    try:
        return connection.execute(_DROP, (name,)).rowcount
    except psycopg.Error as error:
        logger.warning("the slot of WAL {} could not be dropped: {}", name, server_message(error))
        return 0


def _held(connection: psycopg.Connection[Any], name: str, place: int) -> WalSlot:
    slots = _ask(connection)
    found, problem = slots.named(name), refusal(slots.cap)
    if found and found.used_by:
        told = f"the slot {name} is used by somebody else, as process {found.used_by} of the server; it was not touched"
        return WalSlot(name=name, problem=told, hint=_USED)
    if found and (problem or found.status == _LOST):
        connection.execute(_DROP, (name,))
        if not problem:
            logger.warning(_GIVEN_UP, name)
        found = None
    if problem:
        return WalSlot(name=name, problem=problem, hint=SET_LIMIT)
    statement, values = (_MOVE, (lsn_text(place), name)) if found else (_MAKE, (name,))
    connection.execute(statement, values)
    made = _ask(connection).named(name)
    return WalSlot(name=name, held=made.held if made else 0, safe=made.safe if made else None)


def _ask(connection: psycopg.Connection[Any]) -> Slots:
    ((cap,),) = connection.execute(_CAP).fetchall()
    return Slots(cap, tuple(SlotState(*row) for row in connection.execute(_SLOTS, (SLOT_PREFIX,))))
